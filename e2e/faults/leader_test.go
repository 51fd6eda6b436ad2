package faults

import (
	"context"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"sync"
	"testing"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"sealock.dev/sealock/e2e/harness"
)

// TestLeadershipLostMidApply takes the lease away from a controller while its writes are under way and late. Another replica
// takes over and brings the next commit in; then the late writes of the first one arrive, one of them the create of an object
// that the next commit does not have. It ends, what it overwrote is mended, what it made goes away, and the inventory is that
// of the last commit.
func TestLeadershipLostMidApply(t *testing.T) {
	tm := newTeam(t, "leader")
	tm.ok(tm.Terminate(main))
	old, err := harness.NewProxy(tm.Config)
	tm.ok(err)
	t.Cleanup(old.Close)
	hasty := []string{"--leader-election-lease-duration=8s", "--leader-election-renew-deadline=6s", "--leader-election-retry-period=1s"}
	ports, err := tm.NewPorts()
	tm.ok(err)
	tm.ok(tm.StartReplica(tm.ctx, harness.Replica{Name: "old", Ports: ports, Via: old, Cache: filepath.Join(tm.Dir, "cache-old"), Log: filepath.Join(tm.Dir, "old.log"), Args: hasty}))
	was := tm.leader("")
	tm.ok(tm.StartReplica(tm.ctx, harness.Replica{Name: "new", Ports: tm.Ports, Via: proxy, Waiting: true, Args: hasty})) // it has the webhook
	t.Cleanup(func() {
		if err := world.Terminate("new"); err != nil {
			t.Error(err)
		}
		if err := startMain(context.WithoutCancel(tm.ctx)); err != nil {
			t.Error(err)
		}
	})
	first := set{"ConfigMap/a": "1", "ConfigMap/b": "1", "ConfigMap/gone": "1"}
	commit := tm.push(first.files("app"))
	tm.apply(tm.source() + tm.sync("app"))
	tm.ready("app", commit)
	tm.sound("app", first)

	late, held, made := make(chan struct{}), make(chan struct{}), make(chan int, 4)
	var once sync.Once
	old.Add(func(w http.ResponseWriter, r *http.Request, next http.Handler) {
		switch a := harness.Ask(r); {
		case a.Resource == "leases.coordination.k8s.io":
			harness.Refuse(w, http.StatusServiceUnavailable, "ServiceUnavailable")
			return
		case a.Namespace == tm.name && a.Resource == "configmaps" && a.Writes():
			once.Do(func() { close(held) })
			<-late // even if the one who asked is gone by then
			answer := httptest.NewRecorder()
			next.ServeHTTP(answer, r.WithContext(context.WithoutCancel(r.Context())))
			if a.Name == "late" {
				made <- answer.Code
			}
			panic(http.ErrAbortHandler)
		}
		next.ServeHTTP(w, r)
	})
	release := sync.OnceFunc(func() { close(late) })
	t.Cleanup(release)
	second := set{"ConfigMap/a": "2", "ConfigMap/b": "2", "ConfigMap/gone": "1", "ConfigMap/late": "2"}
	tm.push(second.change("app", first))
	tm.fetch()
	select {
	case <-held:
	case <-tm.ctx.Done():
		t.Fatal("nothing was written")
	}
	tm.ok(tm.Typed.CoordinationV1().Leases(harness.SystemNamespace).Delete(tm.ctx, leaseName, metav1.DeleteOptions{}))
	if now := tm.leader(was); now == "" {
		t.Fatal("nobody took over")
	}
	third := set{"ConfigMap/a": "3", "ConfigMap/b": "3", "ConfigMap/new": "3"}
	commit = tm.push(third.change("app", second))
	tm.fetch()
	tm.ready("app", commit)
	tm.sound("app", third)
	release()
	select {
	case code := <-made:
		if code != http.StatusCreated {
			t.Fatalf("the late create was answered with %d", code)
		}
	case <-time.After(patience):
		t.Fatal("the late create did not arrive")
	}
	tm.ok(tm.Ended(tm.ctx, "old", time.Minute))
	tm.eventually("what came late to be mended", func() (bool, error) { return tm.unsound("app", third) == "", nil })
	tm.deliver(third, set{"ConfigMap/a": "4"})
}

const leaseName = "sealock-controller"

// leader waits for a leader other than the one named, and returns its name.
func (tm *team) leader(other string) (name string) {
	tm.Helper()
	tm.eventually("another leader", func() (bool, error) {
		lease, err := tm.Typed.CoordinationV1().Leases(harness.SystemNamespace).Get(tm.ctx, leaseName, metav1.GetOptions{})
		if apierrors.IsNotFound(err) {
			return false, nil
		}
		if err != nil || lease.Spec.HolderIdentity == nil {
			return false, err
		}
		name = *lease.Spec.HolderIdentity
		return name != "" && name != other, nil
	})
	return name
}
