package faults

import (
	"context"
	"math/rand/v2"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"sealock.dev/sealock/e2e/harness"
)

// TestAPIServerRestarted kills the API server and etcd in the middle of an apply. The controller stays up, finishes the
// commit, and its watches see what happens afterwards.
func TestAPIServerRestarted(t *testing.T) {
	first := set{"ConfigMap/a": "1", "ConfigMap/b": "1", "ServiceAccount/c": "1"}
	tm := begin(t, "restarted", first)
	second := set{"ConfigMap/a": "2", "ConfigMap/b": "2", "ConfigMap/d": "2"}
	writing, once := make(chan struct{}), sync.Once{}
	remove := proxy.Add(func(w http.ResponseWriter, r *http.Request, next http.Handler) {
		if a := harness.Ask(r); a.Namespace == tm.name && a.Resource == "configmaps" && a.Writes() {
			once.Do(func() { close(writing) })
		}
		next.ServeHTTP(w, r)
	})
	pid := tm.Pid(main)
	commit := tm.push(second.change("app", first))
	tm.fetch()
	select {
	case <-writing:
	case <-tm.ctx.Done():
		t.Fatal("nothing was written")
	}
	remove()
	tm.ok(tm.RestartDevcluster(tm.ctx, syscall.SIGKILL))
	tm.ready("app", commit)
	tm.sound("app", second)
	tm.ok(tm.Typed.CoreV1().ConfigMaps(tm.name).Delete(tm.ctx, "a", metav1.DeleteOptions{}))
	tm.eventually("a deletion after the restart to be noticed", func() (bool, error) { return tm.unsound("app", second) == "", nil })
	if tm.Pid(main) != pid {
		t.Error("the controller was started anew")
	}
}

// TestAPIServerSlowAndFailing delays every request and fails one in twelve: busy, broken, timed out, or cut off with or
// without having been done. Nothing that is to live is pruned, and the work converges when the trouble is over.
func TestAPIServerSlowAndFailing(t *testing.T) {
	first := set{"ConfigMap/a": "1", "ConfigMap/b": "1", "ServiceAccount/c": "1"}
	tm := begin(t, "failing", first)
	first["Secret/s"] = tm.sops("s", "x")
	tm.deliver(nil, first)
	uid := tm.live("app")[first.id(tm.name, "Secret/s")].GetUID()

	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	var mu sync.Mutex
	random, harmed := rand.New(rand.NewPCG(seed, 0)), 0
	remove := proxy.Add(func(w http.ResponseWriter, r *http.Request, next http.Handler) {
		mu.Lock()
		what, delay := random.IntN(72), time.Duration(random.IntN(50))*time.Millisecond
		if what < 6 {
			harmed++
		}
		mu.Unlock()
		wait := time.NewTimer(delay) // the API server is slow
		defer wait.Stop()
		select {
		case <-wait.C:
		case <-r.Context().Done():
		}
		switch what {
		case 0:
			w.Header().Set("Retry-After", "1")
			harness.Refuse(w, http.StatusTooManyRequests, "TooManyRequests")
		case 1:
			harness.Refuse(w, http.StatusInternalServerError, "InternalError")
		case 2:
			harness.Refuse(w, http.StatusGatewayTimeout, "Timeout")
		case 3:
			harness.Refuse(w, http.StatusServiceUnavailable, "ServiceUnavailable")
		case 4:
			panic(http.ErrAbortHandler)
		case 5:
			if harness.Ask(r).Verb != "watch" { // it is done, and nobody hears of it
				next.ServeHTTP(discard{http.Header{}}, r.WithContext(context.WithoutCancel(r.Context())))
			}
			panic(http.ErrAbortHandler)
		default:
			next.ServeHTTP(w, r)
		}
	})
	defer remove()
	now, commit := first, ""
	for i := 0; ; i++ {
		mu.Lock()
		enough := harmed >= 20
		mu.Unlock()
		if enough {
			break
		}
		v := strconv.Itoa(i)
		next := set{"ConfigMap/a": v, "ConfigMap/only-" + v: v, "ServiceAccount/c": strconv.Itoa(i / 2), "Secret/s": first["Secret/s"]}
		commit = tm.push(next.change("app", now))
		now = next
		tm.fetch()
		tm.ready("app", commit) // also meanwhile
		tm.sound("app", now)
	}
	remove()
	if again := tm.live("app")[now.id(tm.name, "Secret/s")].GetUID(); again != uid {
		t.Error("a Secret that stood in every commit was made anew")
	}
}

// discard is an answer that gets lost.
type discard struct{ header http.Header }

func (d discard) Header() http.Header         { return d.header }
func (d discard) Write(p []byte) (int, error) { return len(p), nil }
func (d discard) WriteHeader(int)             {}

// TestWatchExpired silences the watch of a kind, changes and deletes what it would have told, and ends it as expired. The
// first attempt to watch again is answered as expired, too. All is noticed, without waiting for the interval.
func TestWatchExpired(t *testing.T) {
	all := set{"ConfigMap/a": "1", "ConfigMap/b": "1", "ConfigMap/c": "1"}
	tm := begin(t, "expired", all)
	view := func(a harness.Asked) bool {
		return a.Resource == "configmaps" && strings.HasPrefix(a.Selector, "kustomize.toolkit.fluxcd.io/")
	}
	tm.eventually("the view to watch", func() (bool, error) { return proxy.Watches(view) > 0, nil })
	proxy.Silence(view)
	tm.ok(tm.Typed.CoreV1().ConfigMaps(tm.name).Delete(tm.ctx, "a", metav1.DeleteOptions{}))
	tm.patch("v1", "ConfigMap", "b", `{"data":{"value":"by hand"}}`)
	if tm.unsound("app", all) == "" {
		t.Fatal("the watch was not silent")
	}
	var once sync.Once
	defer proxy.Add(func(w http.ResponseWriter, r *http.Request, next http.Handler) {
		refused := false
		if a := harness.Ask(r); a.Verb == "watch" && view(a) {
			once.Do(func() { refused = true })
		}
		if refused {
			harness.Refuse(w, http.StatusGone, "Expired")
			return
		}
		next.ServeHTTP(w, r)
	})()
	if proxy.Expire(view) == 0 {
		t.Fatal("no watch to end")
	}
	tm.eventually("what happened unseen to be repaired", func() (bool, error) { return tm.unsound("app", all) == "", nil })
	tm.ok(tm.Typed.CoreV1().ConfigMaps(tm.name).Delete(tm.ctx, "c", metav1.DeleteOptions{}))
	tm.eventually("the new watch to tell", func() (bool, error) { return tm.unsound("app", all) == "", nil })
}
