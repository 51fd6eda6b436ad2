package source

import (
	"strings"
	"testing"

	"sealock.dev/sealock/fault"
)

// TestCommitOfAnotherBranch: a commit beside a branch has to be in its history, on servers that hand out any commit too, and
// when the commit is in the cache.
// contract: GitRepository spec.ref.commit
func TestCommitOfAnotherBranch(t *testing.T) {
	root := t.TempDir()
	g := newGitRepo(t, root, "app.git")
	g.write("a.yaml", "one")
	first := g.push("one")
	g.git("push", "-q", "origin", "HEAD:refs/heads/release")
	g.write("a.yaml", "two")
	second := g.push("two")
	g.write("a.yaml", "three")
	g.push("three")
	remote := startHTTP(t, root, false).remote("app.git")
	for _, any := range []bool{false, true} {
		if any {
			allowAnyCommit(g)
		}
		dir := t.TempDir()
		r := openCache(t, dir, DefaultLimits())
		refused := func(r *Repositories, what string) {
			t.Helper()
			_, err := r.Fetch(t.Context(), alice, Request{Remote: remote, Ref: Ref{Commit: second, Branch: "release"}})
			if fault.KindOf(err) != fault.NotFound || !strings.Contains(err.Error(), "spec.ref.commit") {
				t.Errorf("any commit %v, %s: %v", any, what, err)
			}
		}
		refused(r, "cold")
		fetch(t, r, remote, Ref{Commit: second, Branch: "main"})
		fetch(t, r, remote, Ref{Commit: second})
		refused(r, "cached")
		for _, branch := range []string{"main", "release"} {
			if got := fetch(t, r, remote, Ref{Commit: first, Branch: branch}).Tree.Revision(); got != branch+"@sha1:"+first {
				t.Error(got)
			}
		}
		before := r.Counts().Transfers
		fetch(t, r, remote, Ref{Commit: first, Branch: "release"})
		r = openCache(t, dir, DefaultLimits())
		fetch(t, r, remote, Ref{Commit: first, Branch: "release"})
		refused(r, "after a restart")
		if got := r.Counts().Transfers; got != 1 {
			t.Errorf("any commit %v: %d transfers after a restart, %d before", any, got, before)
		}
	}
}
