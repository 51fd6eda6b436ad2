package source

import "testing"

// TestRenamedTag: a signed tag under a new name is refused also when its objects, and that it was good, are known.
// contract: GitRepository spec.verify.mode
func TestRenamedTag(t *testing.T) {
	root := t.TempDir()
	author := mustSigner(t)
	g := newGitRepo(t, root, "app.git")
	g.write("a.yaml", "one")
	g.push("one")
	g.sign(author)
	g.signTag("v1.0.0", author)
	remote := startHTTP(t, root, false).remote("app.git")
	for _, mode := range []Mode{ModeTag, ModeTagAndHEAD} {
		r := openCache(t, t.TempDir(), DefaultLimits())
		q := Request{Remote: remote, Ref: Ref{SemVer: ">=1"}, Verify: &Verify{Mode: mode, Keys: keyringOf(author).keys}}
		if _, err := r.Fetch(t.Context(), alice, q); err != nil {
			t.Fatal(err)
		}
		g.git("update-ref", "refs/tags/v9.0.0", g.git("rev-parse", "refs/tags/v1.0.0"))
		g.git("push", "-q", "-f", "--tags", "origin")
		if got, err := r.Fetch(t.Context(), alice, q); ReasonOf(err) != ReasonTagSignature || got != nil {
			t.Errorf("%s: %v", mode, err)
		}
		g.git("update-ref", "-d", "refs/tags/v9.0.0")
		g.git("push", "-q", "origin", ":refs/tags/v9.0.0")
	}
}
