package main

import (
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"k8s.io/apimachinery/pkg/types"
)

// TestDurations: gotk_reconcile_duration_seconds has a series for each object, with Flux's labels, until the object is gone.
func TestDurations(t *testing.T) {
	registry := prometheus.NewRegistry()
	first, err := newDurations(registry)
	if err != nil {
		t.Fatal(err)
	}
	again, err := newDurations(registry) // a second controller in one process
	if err != nil {
		t.Fatal(err)
	}
	key := types.NamespacedName{Namespace: "apps", Name: "app"}
	first.of("Kustomization")(key, time.Second, false)
	again.of("Kustomization")(key, 2*time.Second, false)
	first.of("GitRepository")(key, time.Second, false)
	first.of("GitRepository")(key, 0, true)
	families, err := registry.Gather()
	if err != nil || len(families) != 1 || families[0].GetName() != "gotk_reconcile_duration_seconds" || len(families[0].GetMetric()) != 1 {
		t.Fatalf("%v %v", families, err)
	}
	m := families[0].GetMetric()[0]
	labels := map[string]string{}
	for _, l := range m.GetLabel() {
		labels[l.GetName()] = l.GetValue()
	}
	if labels["kind"] != "Kustomization" || labels["name"] != "app" || labels["namespace"] != "apps" || m.GetHistogram().GetSampleCount() != 2 || m.GetHistogram().GetSampleSum() != 3 {
		t.Errorf("%v %v", labels, m.GetHistogram())
	}
}
