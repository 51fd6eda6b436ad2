package gitrepository

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	sourcev1 "github.com/fluxcd/source-controller/api/v1"

	"sealock.dev/sealock/source"
)

// TestWhatAnotherLeaderRemovedGoes: a replica that leads again has files of objects that were deleted, and artifacts that were
// withdrawn, under another one.
func TestWhatAnotherLeaderRemovedGoes(t *testing.T) {
	b := newBench(t)
	b.secret("git-credentials", b.dc.Env["GIT_PASSWORD"])
	first := b.push("a.yaml", "one", "one")
	for _, name := range []string{"kept", "deleted"} {
		b.create(name, nil)
		if _, _, _, _, err := b.reconcile(name); err != nil {
			t.Fatal(err)
		}
	}
	mine := b.dir
	b.lose() // the other leader
	b.change("deleted", func(r *sourcev1.GitRepository) { r.Finalizers = nil })
	if err := b.client.Delete(t.Context(), b.get("deleted")); err != nil {
		t.Fatal(err)
	}
	second := b.push("a.yaml", "two", "two")
	repo, _, _, _, err := b.reconcile("kept")
	if err != nil {
		t.Fatal(err)
	}
	named := func(commit string) bool {
		owner := source.Owner{Namespace: b.namespace, Name: "kept"}
		return Named(t.Context(), b.client, owner, source.ArtifactPath(owner, commit))
	}
	if named(first) || !named(second) || repo.Status.Artifact.Path == "" {
		t.Errorf("the status names %+v", repo.Status.Artifact)
	}
	b.dir = mine
	b.start(b.r.Client)
	if _, _, _, _, err := b.reconcile("kept"); err != nil {
		t.Fatal(err)
	}
	for _, pattern := range []string{"git/*/deleted", "artifacts/gitrepository/*/deleted", "artifacts/gitrepository/*/kept/" + first + "*"} {
		if left, _ := filepath.Glob(filepath.Join(b.dir, pattern)); len(left) != 0 {
			t.Errorf("left: %v", left)
		}
	}
	entries, err := os.ReadDir(filepath.Join(b.dir, "artifacts/gitrepository", b.namespace, "kept"))
	if err != nil || !strings.HasPrefix(entries[0].Name(), second) {
		t.Errorf("%v %v", entries, err)
	}
}
