package source

import (
	"strings"
	"testing"

	"github.com/go-git/go-git/v5/plumbing"
	"github.com/go-git/go-git/v5/plumbing/protocol/packp"

	"sealock.dev/sealock/fault"
)

// TestVersions: what counts as a version, and which of equal ones is taken.
// contract: GitRepository spec.ref.semver
func TestVersions(t *testing.T) {
	for _, tc := range []struct{ tags, limit, want string }{
		{"v1.2.3 v1.9.0 20240101 v3 v2.5", "*", "v1.9.0"},
		{"v1 20240101 3", "*", ""},
		{"1.0.0 2.0.0", ">=1.0.0", "2.0.0"},
		{"v01.0.0 v1.0.00 V1.0.0 vv1.0.0 v1.0.0.0", "*", ""},
		{"v1.0.0 1.0.0", "*", "v1.0.0"},
		{"v1.0.0+build.9 v1.0.0+build.10", "1.x", "v1.0.0+build.10"},
		{"v1.0.0+build.10 v1.0.0 v1.0.0+build.9", "1.x", "v1.0.0+build.10"},
		{"v1.0.0+b9 v1.0.0+b10", "1.x", "v1.0.0+b10"},
		{"v1.0.0+20240109 v1.0.0+20240110", "1.x", "v1.0.0+20240110"},
		{"v1.0.0+007 v1.0.0+8", "1.x", "v1.0.0+8"},
		{"v1.0.0+build v1.0.0+build.1", "1.x", "v1.0.0+build.1"},
		{"v1.0.0+99 v1.0.1", "1.x", "v1.0.1"},
		{"v1.0.0-rc.1 v0.9.0", "*", "v0.9.0"},
		{"v1.0.0-rc.1 v0.9.0", ">=0-0", "v1.0.0-rc.1"},
	} {
		refs := packp.NewAdvRefs()
		for _, tag := range strings.Fields(tc.tags) {
			refs.References[tagsPrefix+tag] = plumbing.NewHash(strings.Repeat("ab", 20))
		}
		got, err := Ref{SemVer: tc.limit}.choose(refs)
		if got.label != tc.want || (err == nil) != (tc.want != "") || err != nil && fault.KindOf(err) != fault.NotFound {
			t.Errorf("%s of %s: %q %v, want %q", tc.limit, tc.tags, got.label, err, tc.want)
		}
	}
}

// TestCommitInUpperCase: it is the same commit, and the revision has one spelling.
// contract: GitRepository spec.ref.commit
func TestCommitInUpperCase(t *testing.T) {
	root := t.TempDir()
	g := newGitRepo(t, root, "app.git")
	g.write("a.yaml", "one")
	commit := g.push("one")
	got := fetch(t, openCache(t, t.TempDir(), DefaultLimits()), startHTTP(t, root, false).remote("app.git"), Ref{Commit: strings.ToUpper(commit)})
	if want := "sha1:" + commit; got.Tree.Revision() != want {
		t.Errorf("%s, want %s", got.Tree.Revision(), want)
	}
}
