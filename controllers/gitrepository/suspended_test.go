package gitrepository

import (
	"io/fs"
	"strings"
	"testing"
	"time"

	sourcev1 "github.com/fluxcd/source-controller/api/v1"
	"github.com/google/go-cmp/cmp"
)

// TestSuspendedIsCachedAgain: what the status of a suspended repository names is there again after a failover, and nothing moves.
// contract: GitRepository spec.suspend
func TestSuspendedIsCachedAgain(t *testing.T) {
	b := newBench(t)
	b.secret("git-credentials", b.dc.Env["GIT_PASSWORD"])
	b.push("a.yaml", "one", "one")
	b.push("lib/b.yaml", "lib one", "lib")
	b.git(b.work, "tag", "-a", "-m", "x", "pkg@v1.0.0")
	b.git(b.work, "push", "-q", "--tags", "origin")
	b.create("lib", nil)
	b.create("branch", nil)
	b.create("tag", func(r *sourcev1.GitRepository) { r.Spec.Reference = &sourcev1.GitRepositoryRef{Tag: "pkg@v1.0.0"} })
	b.create("name", func(r *sourcev1.GitRepository) {
		r.Spec.Reference = &sourcev1.GitRepositoryRef{Name: "refs/heads/main"}
	})
	b.create("composed", func(r *sourcev1.GitRepository) {
		r.Spec.Include = []sourcev1.GitRepositoryInclude{{GitRepositoryRef: secretRef{Name: "lib"}, FromPath: "lib", ToPath: "vendor"}}
	})
	names := []string{"lib", "branch", "tag", "name", "composed"}
	before := map[string]*sourcev1.GitRepository{}
	for _, name := range names {
		if _, _, _, _, err := b.reconcile(name); err != nil {
			t.Fatal(err)
		}
		b.change(name, func(r *sourcev1.GitRepository) { r.Spec.Suspend = true })
		before[name], _, _, _, _ = b.reconcile(name)
	}
	b.push("a.yaml", "two", "two")
	b.git(b.work, "tag", "-f", "-a", "-m", "moved", "pkg@v1.0.0")
	b.git(b.work, "push", "-q", "-f", "--tags", "origin")
	everything := "/*"
	b.change("branch", func(r *sourcev1.GitRepository) { r.Spec.Ignore = &everything })
	b.lose()
	for _, name := range names {
		repo, writes, events, res, err := b.reconcile(name)
		if err != nil || writes != 0 || len(events) != 0 || res.RequeueAfter != 0 {
			t.Errorf("%s: %v, %d writes, %q, again in %s", name, err, writes, events, res.RequeueAfter)
		}
		if diff := cmp.Diff(before[name].Status, repo.Status); diff != "" {
			t.Errorf("%s: %s", name, diff)
		}
		tree, err := b.r.Repositories.Open(t.Context(), b.namespace, name, repo.Status.Artifact.Revision)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if body, err := fs.ReadFile(tree, "a.yaml"); string(body) != "one" || !b.r.Storage.Has(stored(repo.Status.Artifact)) {
			t.Errorf("%s: %q %v", name, body, err)
		}
	}
	counts := b.r.Repositories.Counts()
	if _, _, _, _, err := b.reconcile("branch"); err != nil || b.r.Repositories.Counts() != counts {
		t.Errorf("the server is asked for what is here: %v", err)
	}
	// It cannot be had: it is tried again, and the status stays.
	b.secret("git-credentials", "wrong")
	b.lose()
	repo, writes, _, res, err := b.reconcile("branch")
	if err != nil || writes != 0 || res.RequeueAfter <= 0 || res.RequeueAfter > time.Second || !strings.HasPrefix(condition(repo, "Ready"), "True") {
		t.Errorf("%v, %d writes, again in %s", err, writes, res.RequeueAfter)
	}
}
