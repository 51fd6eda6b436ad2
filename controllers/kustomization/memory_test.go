package kustomization

import (
	"testing"

	kustomizev1 "github.com/fluxcd/kustomize-controller/api/v1"
	"k8s.io/apimachinery/pkg/types"
)

// What changes in the cluster is remembered of a Kustomization that there is, and of none that is gone.
func TestDisturbedRemembersNobodyWhoIsGone(t *testing.T) {
	r := &Reconciler{}
	here, gone := types.NamespacedName{Name: "here"}, types.NamespacedName{Name: "gone"}
	m := r.remember(here)
	r.remember(gone)
	r.forget(gone)
	r.Disturbed(here, true)
	r.Disturbed(gone, true)
	if !m.dirty || len(r.memory) != 1 {
		t.Errorf("dirty %v, %d remembered", m.dirty, len(r.memory))
	}
}

// A request is one that was not handled yet. Whoever removes the annotation asks for nothing.
func TestRequested(t *testing.T) {
	for name, c := range map[string]struct {
		annotation, handled string
		want                bool
	}{
		"never":   {"", "", false},
		"new":     {"b", "a", true},
		"handled": {"a", "a", false},
		"removed": {"", "a", false},
	} {
		ks := &kustomizev1.Kustomization{}
		if c.annotation != "" {
			ks.Annotations = map[string]string{requestedAt: c.annotation}
		}
		ks.Status.LastHandledReconcileAt = c.handled
		if got := requested(ks); got != c.want {
			t.Errorf("%s: %v", name, got)
		}
	}
}
