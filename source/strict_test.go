package source

import (
	"strings"
	"testing"
)

// TestServersThatWantMultiAck: they are asked as they want it, and for everything each time; others are told what is here.
func TestServersThatWantMultiAck(t *testing.T) {
	root := t.TempDir()
	g := newGitRepo(t, root, "app.git")
	g.write("a.yaml", "one")
	g.push("first")
	var asked []string
	remote := startStrict(t, root, func(body string) { asked = append(asked, body) }).remote("app.git")
	r := openCache(t, t.TempDir(), DefaultLimits())
	for _, text := range []string{"one", "two", "three"} {
		g.write("a.yaml", text)
		g.push(text)
		if got := read(t, fetch(t, r, remote, Ref{Branch: "main"}).Tree, "a.yaml"); got != text {
			t.Errorf("%q, want %q", got, text)
		}
	}
	if len(asked) != 3 || r.Counts().Listings != 3 {
		t.Errorf("%d requests for objects, %+v", len(asked), r.Counts())
	}
	shell := startSSH(t, root)
	r = openCache(t, t.TempDir(), DefaultLimits())
	fetch(t, r, shell.remote("app.git"), Ref{Branch: "main"})
	if first, _, _ := strings.Cut(shell.heard.String(), "\n"); !strings.Contains(first, " multi_ack_detailed ") {
		t.Errorf("over ssh: %q", first)
	}
	g.write("a.yaml", "four")
	g.push("four")
	fetch(t, r, shell.remote("app.git"), Ref{Branch: "main"})
	if !strings.Contains(shell.heard.String(), "have ") {
		t.Error("a server with an agent is not told what is here")
	}
}
