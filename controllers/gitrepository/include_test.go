package gitrepository

import (
	"path/filepath"
	"testing"
	"time"

	sourcev1 "github.com/fluxcd/source-controller/api/v1"
)

// lose empties the cache and the storage, as a new pod has them.
func (b *bench) lose() {
	b.dir = b.t.TempDir()
	b.start(b.r.Client)
}

// TestIncludeWithAColdCache: after a failover the one that includes waits for the other one, and no condition flaps.
// contract: GitRepository condition IncludeUnavailable
func TestIncludeWithAColdCache(t *testing.T) {
	b := newBench(t)
	b.secret("git-credentials", b.dc.Env["GIT_PASSWORD"])
	b.push("lib/a.yaml", "one", "one")
	b.create("lib", nil)
	b.create("app", func(r *sourcev1.GitRepository) {
		r.Spec.Include = []sourcev1.GitRepositoryInclude{{GitRepositoryRef: secretRef{Name: "lib"}, FromPath: "lib", ToPath: "vendor"}}
	})
	for _, name := range []string{"lib", "app"} {
		if _, _, _, _, err := b.reconcile(name); err != nil {
			t.Fatal(err)
		}
	}
	b.lose()
	before := b.get("app")
	_, writes, events, res, err := b.reconcile("app")
	if err != nil || writes != 0 || len(events) != 0 || res.RequeueAfter <= 0 || res.RequeueAfter > time.Second {
		t.Errorf("%v, %d writes, %q, again in %s", err, writes, events, res.RequeueAfter)
	}
	if got := <-b.r.missed; got.Name != "lib" {
		t.Errorf("%s is fetched", got)
	}
	if _, writes, _, _, err := b.reconcile("lib"); err != nil || writes != 0 {
		t.Fatalf("%v, %d writes", err, writes)
	}
	after, writes, events, _, err := b.reconcile("app")
	if err != nil || writes != 0 || len(events) != 0 || after.ResourceVersion != before.ResourceVersion {
		t.Errorf("%v, %d writes, %q", err, writes, events)
	}
	if left, _ := filepath.Glob(filepath.Join(b.dir, "artifacts", "gitrepository", b.namespace, "*")); len(left) != 2 {
		t.Errorf("%v", left)
	}
}
