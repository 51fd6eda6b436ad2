package kustomization

import (
	"testing"
	"time"

	kustomizev1 "github.com/fluxcd/kustomize-controller/api/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// A transition is a change of status, reason or message; saying the same again is none.
func TestTransitionTime(t *testing.T) {
	long := metav1.NewTime(time.Now().Add(-time.Hour).Truncate(time.Second))
	for name, c := range map[string]struct {
		status          metav1.ConditionStatus
		reason, message string
		moves           bool
	}{
		"the same":        {metav1.ConditionTrue, "Why", "words", false},
		"another status":  {metav1.ConditionFalse, "Why", "words", true},
		"another reason":  {metav1.ConditionTrue, "Because", "words", true},
		"another message": {metav1.ConditionTrue, "Why", "other words", true},
	} {
		s := &kustomizev1.KustomizationStatus{Conditions: []metav1.Condition{{Type: "Ready", Status: metav1.ConditionTrue, Reason: "Why", Message: "words", ObservedGeneration: 1, LastTransitionTime: long}}}
		set(s, 2, "Ready", c.status, c.reason, c.message)
		got := s.Conditions[0]
		if moved := !got.LastTransitionTime.Equal(&long); moved != c.moves || len(s.Conditions) != 1 || got.ObservedGeneration != 2 || got.Message != c.message {
			t.Errorf("%s: %+v", name, got)
		}
	}
}
