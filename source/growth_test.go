package source

import (
	"fmt"
	"path/filepath"
	"testing"
)

// TestManyRefusedCommitsStayBounded: commits that do not pass verification do not fill the disk, are counted as what they take,
// and take nothing from the one that did.
func TestManyRefusedCommitsStayBounded(t *testing.T) {
	root, dir := t.TempDir(), t.TempDir()
	author := mustSigner(t)
	g := newGitRepo(t, root, "app.git")
	g.write("big.bin", noise(1<<20))
	g.push("one")
	g.sign(author)
	remote := startHTTP(t, root, false).remote("app.git")
	r := openCache(t, dir, DefaultLimits())
	q := Request{Remote: remote, Ref: Ref{Branch: "main"}, Verify: &Verify{Mode: ModeHEAD, Keys: keyringOf(author).keys}}
	good, err := r.Fetch(t.Context(), alice, q)
	if err != nil {
		t.Fatal(err)
	}
	check := func(what string, generations int) {
		t.Helper()
		there, _ := filepath.Glob(filepath.Join(dir, "team-a/app/g*"))
		_, counted := r.entries[alice].weight()
		var onDisk int64
		for _, repo := range r.entries[alice].repos {
			onDisk += repo.size()
		}
		if len(there) > generations || len(r.entries[alice].repos) != len(there) || counted != onDisk {
			t.Errorf("%s: %v, %d bytes counted of %d", what, there, counted, onDisk)
		}
		tree, err := r.Open(t.Context(), "team-a", "app", good.Tree.Revision())
		if err != nil || len(read(t, tree, "big.bin")) != 1<<20 {
			t.Errorf("%s: the good one is gone: %v", what, err)
		}
	}
	refused := func(n int) {
		t.Helper()
		for i := range n {
			g.write("a.yaml", fmt.Sprint(i))
			g.push("unsigned")
			if _, err := r.Fetch(t.Context(), alice, q); ReasonOf(err) != ReasonCommitSignature {
				t.Fatal(err)
			}
		}
	}
	refused(3)
	check("a few", 1)
	r.entries[alice].repos[0].grown = maxGrowth
	refused(2)
	r.entries[alice].repos[0].grown = maxGrowth
	refused(2)
	check("many", 2)
	r = openCache(t, dir, DefaultLimits())
	refused(1)
	check("after a restart", 2)
	g.sign(author)
	if good, err = r.Fetch(t.Context(), alice, q); err != nil {
		t.Fatal(err)
	}
	check("a good one", 2)
}
