package faults

import (
	"bytes"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"

	"sealock.dev/sealock/e2e/harness"
)

// TestRestartFailsNothing: a process that starts, whether after an orderly end or a kill, tells nobody that a commit fails
// because it has not read its policies, tenants or keys yet.
func TestRestartFailsNothing(t *testing.T) {
	now := set{"ConfigMap/a": "1"}
	tm := begin(t, "restarts", now)
	now["SealedSecret/s"] = tm.sealed("s", "x")
	now["Secret/p"] = tm.sops("p", "x")
	tm.deliver(nil, now)
	var mu sync.Mutex
	var said []string
	defer proxy.Add(func(w http.ResponseWriter, r *http.Request, next http.Handler) {
		if a := harness.Ask(r); a.Writes() && a.Sub == "status" {
			body, err := io.ReadAll(r.Body)
			if err == nil && bytes.Contains(body, []byte(`"status":"False"`)) {
				mu.Lock()
				said = append(said, a.Resource+" "+a.Namespace+"/"+a.Name+": "+string(body))
				mu.Unlock()
			}
			r.Body = io.NopCloser(bytes.NewReader(body))
		}
		next.ServeHTTP(w, r)
	})()
	for _, end := range []func(string) error{tm.Kill, tm.Terminate} {
		tm.ok(end(main))
		tm.ok(startMain(tm.ctx))
		token, err := tm.Reconcile(tm.ctx, ksAPI, "Kustomization", tm.name, "app")
		tm.ok(err)
		tm.eventually("the request to be handled", func() (bool, error) {
			o, err := tm.Get(tm.ctx, ksAPI, "Kustomization", tm.name, "app")
			return err == nil && str(o.Object, "status", "lastHandledReconcileAt") == token, err
		})
		tm.sound("app", now)
	}
	mu.Lock()
	defer mu.Unlock()
	if len(said) > 0 {
		t.Errorf("a start says that something fails:\n%s", strings.Join(said, "\n"))
	}
}
