package gitrepository

import (
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/types"
	ctrl "sigs.k8s.io/controller-runtime"
)

// TestMeasure: a GitRepository that is gone is told, so that its series ends.
func TestMeasure(t *testing.T) {
	b := newBench(t)
	var gone []string
	b.r.Measure = func(key types.NamespacedName, _ time.Duration, without bool) {
		if without {
			gone = append(gone, key.Name)
		}
	}
	if _, err := b.r.Reconcile(t.Context(), ctrl.Request{NamespacedName: types.NamespacedName{Namespace: b.namespace, Name: "none"}}); err != nil {
		t.Fatal(err)
	}
	if len(gone) != 1 || gone[0] != "none" {
		t.Errorf("gone: %v", gone)
	}
}

// TestJitter: the next fetch comes around the interval, as far as is allowed.
func TestJitter(t *testing.T) {
	if got := (&Reconciler{}).jitter(time.Hour); got != time.Hour {
		t.Errorf("without jitter: %s", got)
	}
	r := &Reconciler{Options: Options{Jitter: 0.1}}
	for range 1000 {
		if got := r.jitter(100 * time.Minute); got < 90*time.Minute || got > 110*time.Minute {
			t.Fatalf("%s", got)
		}
	}
}
