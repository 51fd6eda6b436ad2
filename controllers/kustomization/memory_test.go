package kustomization

import (
	"testing"

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
