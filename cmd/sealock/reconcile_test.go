package main

import (
	"testing"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"sealock.dev/sealock/fault"
)

// TestSettled: only what the status says of the present spec ends a wait.
func TestSettled(t *testing.T) {
	for _, tc := range []struct {
		name     string
		observed int64 // status.observedGeneration, of generation 3
		ready    [3]any
		stalled  int64 // observedGeneration of Stalled=True, 0 without
		done     bool
		fails    bool
		kind     fault.Kind
	}{
		{name: "ready", observed: 3, ready: [3]any{"True", "Succeeded", int64(3)}, done: true},
		{name: "ready, says the condition alone", observed: 2, ready: [3]any{"True", "Succeeded", int64(3)}},
		{name: "ready of before", observed: 2, ready: [3]any{"True", "Succeeded", int64(2)}},
		{name: "a failure", observed: 2, ready: [3]any{"False", "BuildFailed", int64(3)}, fails: true, kind: fault.Invalid},
		{name: "a failure of before", observed: 2, ready: [3]any{"False", "BuildFailed", int64(2)}},
		{name: "a controller that does not say", observed: 3, ready: [3]any{"False", "HealthCheckFailed", int64(0)}, fails: true, kind: fault.Unhealthy},
		{name: "in progress", observed: 3, ready: [3]any{"Unknown", "Progressing", int64(3)}},
		{name: "waiting for another", observed: 3, ready: [3]any{"False", "DependencyNotReady", int64(3)}},
		{name: "stalled", observed: 3, ready: [3]any{"False", "AccessDenied", int64(3)}, stalled: 3, fails: true, kind: fault.Denied},
		{name: "stalled before", observed: 2, ready: [3]any{"Unknown", "Progressing", int64(3)}, stalled: 2},
	} {
		t.Run(tc.name, func(t *testing.T) {
			conditions := []any{map[string]any{"type": "Ready", "status": tc.ready[0], "reason": tc.ready[1], "observedGeneration": tc.ready[2]}}
			if tc.stalled > 0 {
				conditions = append(conditions, map[string]any{"type": "Stalled", "status": "True", "reason": tc.ready[1], "observedGeneration": tc.stalled})
			}
			obj := &unstructured.Unstructured{Object: map[string]any{
				"metadata": map[string]any{"name": "x", "generation": int64(3)},
				"status":   map[string]any{"observedGeneration": tc.observed, "conditions": conditions},
			}}
			done, _, err := settled(kustomizationKind, obj)
			if done != tc.done || (err != nil) != tc.fails || err != nil && fault.KindOf(err) != tc.kind {
				t.Errorf("done %v, error %v", done, err)
			}
		})
	}
}
