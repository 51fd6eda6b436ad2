package main

import (
	"strings"
	"testing"
)

// TestTableOnANarrowTerminal: a long name leaves room for the message; a pipe gets both whole.
func TestTableOnANarrowTerminal(t *testing.T) {
	rows := [][]string{{"a-team-with-a-long-name", "a-kustomization-with-a-long-name", "False", "the image comes from a registry that is not allowed"}}
	for limit, want := range map[int]string{
		0:  "a-team-with-a-long-name   a-kustomization-with-a-long-name   False   the image comes from a registry that is not allowed\n",
		60: "a-team-wit...   a-kustomiz...   False   the image comes f...\n",
	} {
		var out strings.Builder
		table := newTable(&out, []string{"NAMESPACE", "NAME", "READY", "MESSAGE"}, rows)
		table.limit = limit
		table.fit()
		if err := table.row(rows[0]); err != nil || out.String() != want {
			t.Errorf("%d columns: %v %q", limit, err, out.String())
		}
	}
}
