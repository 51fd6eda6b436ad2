package sealedsecret

import (
	"context"
	"fmt"
	"unicode/utf8"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"sealock.dev/sealock/api/sealing/v1alpha1"
	"sealock.dev/sealock/fault"
	"sealock.dev/sealock/manifest"
)

const (
	maxLines = 20
	maxNote  = 1000 // the API server takes 1024 bytes in an event
)

// report writes the condition if it says something new, and tells what happened. The condition is the peer's: message ""
// while it is True, the error while it is False, no reason; the generation is that of what was judged.
func (r *Reconciler) report(ctx context.Context, live *unstructured.Unstructured, did outcome, failure error) error {
	old := statusOf(live)
	next := r.status(old, live.GetGeneration(), failure)
	news := next != nil
	if news {
		if err := r.writeStatus(ctx, live, next); err != nil {
			return err
		}
	}
	switch {
	case failure != nil && news: // a retry that fails in the same way is none
		r.events.Event(live, corev1.EventTypeWarning, did.reason, note(did.reason, failure))
	case failure == nil && did.action != manifest.Unchanged:
		r.events.Event(live, corev1.EventTypeNormal, did.reason, "SealedSecret unsealed successfully")
	}
	return nil
}

// note is the text of an event.
func note(reason string, failure error) string {
	text := fault.Lines(failure, maxLines)
	if reason == reasonOpen {
		text = "Failed to unseal: " + text
	}
	if len(text) <= maxNote {
		return text
	}
	cut := maxNote
	for !utf8.RuneStart(text[cut]) {
		cut--
	}
	return text[:cut] + "..."
}

// status returns the status to write, nil when the old one says it already.
func (r *Reconciler) status(old v1alpha1.SealedSecretStatus, generation int64, failure error) *v1alpha1.SealedSecretStatus {
	now := metav1.NewTime(r.now().Truncate(1e9)) // what is stored has seconds
	want := v1alpha1.SealedSecretCondition{Type: v1alpha1.ConditionSynced, Status: corev1.ConditionTrue, LastUpdateTime: now, LastTransitionTime: now}
	if failure != nil {
		want.Status, want.Message = corev1.ConditionFalse, fault.Lines(failure, maxLines)
	}
	// Synced comes first: kubectl prints conditions[0].
	next := &v1alpha1.SealedSecretStatus{ObservedGeneration: generation, Conditions: []v1alpha1.SealedSecretCondition{want}}
	for _, c := range old.Conditions {
		if c.Type != v1alpha1.ConditionSynced {
			next.Conditions = append(next.Conditions, c)
			continue
		}
		if c.Status != want.Status {
			continue
		}
		if c.Message == want.Message && c.Reason == "" && old.ObservedGeneration == generation {
			return nil
		}
		next.Conditions[0].LastTransitionTime = c.LastTransitionTime
	}
	return next
}

// statusOf reads what is there; a status that cannot be read is as good as none.
func statusOf(live *unstructured.Unstructured) v1alpha1.SealedSecretStatus {
	var s v1alpha1.SealedSecretStatus
	raw, _ := live.Object["status"].(map[string]any)
	if runtime.DefaultUnstructuredConverter.FromUnstructured(raw, &s) != nil {
		return v1alpha1.SealedSecretStatus{}
	}
	return s
}

// observed reports whether the status speaks of the present generation, and well.
func observed(live *unstructured.Unstructured) bool {
	s := statusOf(live)
	if s.ObservedGeneration != live.GetGeneration() || len(s.Conditions) == 0 {
		return false
	}
	c := s.Conditions[0]
	return c.Type == v1alpha1.ConditionSynced && c.Status == corev1.ConditionTrue && c.Message == ""
}

func (r *Reconciler) writeStatus(ctx context.Context, live *unstructured.Unstructured, next *v1alpha1.SealedSecretStatus) error {
	raw, err := runtime.DefaultUnstructuredConverter.ToUnstructured(next)
	if err != nil {
		return fmt.Errorf("encoding the status of %s/%s: %w", live.GetNamespace(), live.GetName(), err)
	}
	changed := live.DeepCopy() // the informer's object stays as the API server has it, so that a failed write is seen
	changed.Object["status"] = raw
	err = r.client.Status().Patch(ctx, changed, client.MergeFrom(live))
	if apierrors.IsNotFound(err) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("writing the status of %s/%s: %w", live.GetNamespace(), live.GetName(), err)
	}
	return nil
}
