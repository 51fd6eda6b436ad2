package kustomization

import (
	"testing"

	kustomizev1 "github.com/fluxcd/kustomize-controller/api/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// A failure that repeats itself is told once for each revision, and what was done each time.
func TestWhatIsToldAgain(t *testing.T) {
	one, two := revisions{revision: "main@sha1:1"}, revisions{revision: "main@sha1:2"}
	for name, c := range map[string]struct {
		typ, reason string
		abouts      []revisions
		want        int
	}{
		"a failure again":                     {"Warning", "BuildFailed", []revisions{one, one, one}, 1},
		"the failure of another commit":       {"Warning", "BuildFailed", []revisions{one, one, two, two}, 2},
		"a dependency that is still waited":   {"Normal", "DependencyNotReady", []revisions{one, one}, 1},
		"a dependency, for another commit":    {"Normal", "DependencyNotReady", []revisions{one, two}, 2},
		"the same repair of the same drift":   {"Normal", "Progressing", []revisions{one, one}, 2},
		"the same objects deleted once again": {"Normal", "ReconciliationSucceeded", []revisions{one, one}, 2},
	} {
		e := &events{}
		r, m := &Reconciler{Events: e}, &memory{}
		ks := &kustomizev1.Kustomization{ObjectMeta: metav1.ObjectMeta{Name: "app"}}
		for _, about := range c.abouts {
			r.event(ks, m, c.typ, c.reason, "ConfigMap/n/a configured", about)
		}
		if got := len(e.of("app", c.reason)); got != c.want {
			t.Errorf("%s: %d events, want %d", name, got, c.want)
		}
	}
}

// TestEveryRepairIsTold: the second repair of the same drift, too.
// contract: Kustomization event change log
func TestEveryRepairIsTold(t *testing.T) {
	w := newWorld(t, options{})
	w.source("app", "main@sha1:1", map[string]string{"a.yaml": w.configMapYAML("a", "1")})
	w.sync("app")
	w.ready("app", "main@sha1:1")
	for n := range 2 {
		w.update("a", map[string]string{"value": "by hand"})
		w.until("it is repaired and told", func() bool {
			repairs := 0
			for _, e := range w.events.of("app", "Progressing") {
				if e.message == "ConfigMap/"+w.ns+"/a configured" {
					repairs++
				}
			}
			return w.configMap("a").Data["value"] == "1" && repairs == n+1
		})
	}
}
