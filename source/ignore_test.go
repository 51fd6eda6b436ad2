package source

import (
	"testing"

	"github.com/google/go-cmp/cmp"
)

// TestIgnoreFileBelowAHiddenFolder: what is shown in it obeys it.
// contract: GitRepository .sourceignore
func TestIgnoreFileBelowAHiddenFolder(t *testing.T) {
	tree := mustTree(t, nil, func(g *gitRepo) {
		writeAll("deploy/app/a.yaml", "deploy/app/secret.yaml", "deploy/b.yaml", "x.yaml")(g)
		g.write(".sourceignore", "/*\n!/deploy/app\n")
		g.write("deploy/app/.sourceignore", "secret.yaml\n")
	})
	if diff := cmp.Diff([]string{"deploy/app/.sourceignore", "deploy/app/a.yaml"}, files(t, tree)); diff != "" {
		t.Error(diff)
	}
}
