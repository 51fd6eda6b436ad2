package kustomization

import (
	"strings"
	"sync/atomic"
	"testing"

	"sealock.dev/sealock/cluster"
)

// asks asks for a run and returns when it is echoed.
func (w *world) asks(name, token string) {
	w.Helper()
	w.request(name, token)
	w.until("the request of "+name+" is handled", func() bool { return w.get(name).Status.LastHandledReconcileAt == token })
}

// DESIGN.md, promise 4: a reconcile in which nothing changed asks the API server nothing, and a restart neither.
func TestNothingChangedCostsNothing(t *testing.T) {
	w := newWorld(t, options{records: true})
	w.source("app", "main@sha1:1", map[string]string{"a.yaml": w.configMapYAML("a", "1"), "b.yaml": w.configMapYAML("b", "1")})
	w.sync("app", "wait: true")
	w.ready("app", "main@sha1:1")
	w.until("all is told", func() bool { return len(w.events.of("app", "ReconciliationSucceeded")) == 1 })
	w.asked.take()
	builds, told := w.judge.builds(), len(w.events.of("app", ""))

	w.asks("app", "once")
	if asked := w.asked.take(); len(asked) > 0 || w.judge.builds() != builds {
		t.Errorf("a request: %d builds, asked %v", w.judge.builds()-builds, asked)
	}
	if e := w.events.of("app", ""); len(e) != told {
		t.Errorf("events for a request that found everything in place: %v", e[told:])
	}

	w.stop()
	w.start(options{records: true})
	w.asks("app", "after the restart")
	if asked := w.asked.take(); len(asked) > 0 || w.judge.builds() != builds {
		t.Errorf("a restart: %d builds, asked %v", w.judge.builds()-builds, asked)
	}

	// What changed while nobody ran is repaired.
	w.stop()
	if err := w.kube.Delete(t.Context(), w.configMap("b")); err != nil {
		t.Fatal(err)
	}
	w.update("a", map[string]string{"value": "by hand"})
	w.start(options{records: true})
	w.until("both are repaired", func() bool {
		a, b := w.configMap("a"), w.configMap("b")
		return b != nil && a.Data["value"] == "1"
	})
}

// What a later run left is not taken for what an older one did: the inventory is part of what is remembered.
func TestT33_ARecordOfAnOlderRunIsNotTrusted(t *testing.T) {
	w := newWorld(t, options{records: true})
	w.source("app", "main@sha1:1", map[string]string{"a.yaml": w.configMapYAML("a", "1")})
	w.sync("app")
	w.ready("app", "main@sha1:1")
	records := w.r.Memory.(*cluster.Records)
	fingerprint, err := records.Recall(t.Context(), w.ns, "app")
	if err != nil || fingerprint == "" {
		t.Fatalf("%q %v", fingerprint, err)
	}
	w.source("app", "main@sha1:2", map[string]string{"a.yaml": w.configMapYAML("a", "1"), "b.yaml": w.configMapYAML("b", "1")})
	w.ready("app", "main@sha1:2")
	w.stop()
	// The process was killed before the second run was persisted, and Git went back meanwhile.
	records.Remember(w.ns, "app", fingerprint, cluster.Judged{})
	records.Flush(t.Context())
	w.source("app", "main@sha1:1", map[string]string{"a.yaml": w.configMapYAML("a", "1")})
	w.start(options{records: true})
	w.until("what only the second run had is pruned", func() bool { return w.configMap("b") == nil })
}

// A kind that cannot be watched is said to be noticed at the interval only, and no more once it can be.
func TestUnwatchedKindsAreTold(t *testing.T) {
	var kinds atomic.Value
	kinds.Store([]string{"configmaps"})
	w := newWorld(t, options{change: func(r *Reconciler) {
		r.Unwatched = func(string, string) []string { return kinds.Load().([]string) }
	}})
	w.source("app", "main@sha1:1", map[string]string{"a.yaml": w.configMapYAML("a", "1")})
	w.sync("app")
	c := condition(w.ready("app", "main@sha1:1"), "Unwatched")
	if c.Status != "True" || !strings.Contains(c.Message, "configmaps") {
		t.Errorf("condition %+v", c)
	}
	kinds.Store([]string(nil))
	w.asks("app", "again")
	if c := condition(w.get("app"), "Unwatched"); c.Type != "" {
		t.Errorf("still there: %+v", c)
	}
}

// A commit beside the build is known after a restart in good order, without a write for it at the time.
func TestARestartAfterACommitBesideIsNotBuilt(t *testing.T) {
	w := newWorld(t, options{records: true})
	r := newRepository(w)
	w.sync("app")
	w.ready("app", r.commit(map[string]string{"kustomization.yaml": "resources: [a.yaml]\n", "a.yaml": w.configMapYAML("a", "1")}))
	w.ready("app", r.commit(map[string]string{"README.md": "news"}))
	builds := w.judge.builds()
	w.stop()
	w.start(options{records: true})
	w.asks("app", "look")
	if got := w.judge.builds() - builds; got != 0 {
		t.Errorf("%d builds", got)
	}
}
