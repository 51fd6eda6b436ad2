package kustomization

import (
	"sync/atomic"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/types"
)

// TestMeasure: each reconcile of an object is measured, and that it is gone is told.
func TestMeasure(t *testing.T) {
	var measured, gone atomic.Int64
	w := newWorld(t, options{change: func(r *Reconciler) {
		r.Measure = func(key types.NamespacedName, took time.Duration, without bool) {
			switch {
			case key.Name != "app":
			case without:
				gone.Add(1)
			case took > 0:
				measured.Add(1)
			}
		}
	}})
	w.source("app", "main@sha1:1", map[string]string{"a.yaml": w.configMapYAML("a", "1")})
	w.sync("app")
	w.ready("app", "main@sha1:1")
	w.until("it is measured", func() bool { return measured.Load() > 0 && gone.Load() == 0 })
	w.delete("app")
	w.until("it is gone", func() bool { return gone.Load() > 0 })
}
