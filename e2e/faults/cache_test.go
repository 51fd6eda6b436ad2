package faults

import (
	"crypto/sha256"
	"encoding/hex"
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// TestHalfWrittenArtifact cuts every file of a source in the controller's cache in half, while it is down and while it runs:
// Git objects, state and artifact. It is noticed, fetched again, and never applied or served as it is.
func TestHalfWrittenArtifact(t *testing.T) {
	now := set{"ConfigMap/a": "1", "ConfigMap/b": "1"}
	tm := begin(t, "halves", now)

	tm.ok(tm.Terminate(main))
	tm.halve()
	tm.ok(startMain(tm.ctx))
	tm.whole()
	tm.sound("app", now)
	next := set{"ConfigMap/a": "2", "ConfigMap/c": "2"}
	tm.deliver(now, next)

	// A commit that is cut while nobody runs, too: the next process sees its first fetch fail half-way.
	tm.ok(tm.Kill(main))
	tm.halve()
	tm.ok(startMain(tm.ctx))
	third := set{"ConfigMap/a": "3", "ConfigMap/d": "3"}
	tm.deliver(next, third)
	tm.whole()

	tm.halve()
	tm.ok(tm.Typed.CoreV1().ConfigMaps(tm.name).Delete(tm.ctx, "a", metav1.DeleteOptions{}))
	_, err := tm.Reconcile(tm.ctx, ksAPI, "Kustomization", tm.name, "app")
	tm.ok(err)
	tm.eventually("a repair from what is fetched again", func() (bool, error) { return tm.unsound("app", third) == "", nil })
	tm.fetch()
	tm.whole()
	tm.deliver(third, set{"ConfigMap/a": "4", "ConfigMap/e": "4"})
	tm.whole()
}

// halve cuts what the cache has of the team's source.
func (tm *team) halve() {
	tm.Helper()
	cut := 0
	for _, dir := range []string{filepath.Join("git", tm.name, "app"), filepath.Join("artifacts", "gitrepository", tm.name, "app")} {
		tm.ok(filepath.WalkDir(filepath.Join(tm.CacheDir(), dir), func(path string, d fs.DirEntry, err error) error {
			if err != nil || d.IsDir() {
				return err
			}
			info, err := d.Info()
			if err != nil || info.Size() == 0 {
				return err
			}
			cut++
			_ = os.Chmod(path, 0o600) // packs are read-only
			return os.Truncate(path, info.Size()/2)
		}))
	}
	if cut < 3 {
		tm.Fatalf("only %d files were cut", cut)
	}
}

// whole waits until the artifact on disk is the one that the status describes.
func (tm *team) whole() {
	tm.Helper()
	tm.eventually("the artifact to be whole", func() (bool, error) {
		o, err := tm.Get(tm.ctx, srcAPI, "GitRepository", tm.name, "app")
		if err != nil || o == nil {
			return false, err
		}
		data, err := os.ReadFile(filepath.Join(tm.CacheDir(), "artifacts", filepath.FromSlash(str(o.Object, "status", "artifact", "path"))))
		sum := sha256.Sum256(data)
		return err == nil && "sha256:"+hex.EncodeToString(sum[:]) == str(o.Object, "status", "artifact", "digest"), nil
	})
}
