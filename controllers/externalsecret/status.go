package externalsecret

import (
	"context"
	"fmt"
	"slices"
	"unicode/utf8"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"

	v1 "sealock.dev/sealock/api/externalsecrets/v1"
	"sealock.dev/sealock/externalsecrets"
	"sealock.dev/sealock/fault"
	"sealock.dev/sealock/manifest"
)

const (
	maxLines = 10
	maxNote  = 1000 // the API server takes 1024 bytes in an event
)

// The reasons of events; those of the peer.
const (
	eventCreated = "Created"
	eventUpdated = "Updated"
	eventFailed  = "UpdateFailed"
)

// report writes the status if it says something new, and tells what happened. The condition is the peer's, but for the
// message of a failure, which says what is wrong. A failure leaves time and version of the last success.
func (r *Reconciler) report(ctx context.Context, live *unstructured.Unstructured, did outcome) error {
	was := statusOf(live)
	next := was
	next.Conditions = slices.Clone(was.Conditions)
	now := metav1.NewTime(r.now().Truncate(1e9)) // what is stored has seconds
	want := v1.Condition{Type: v1.ConditionReady, Status: corev1.ConditionTrue, Reason: v1.ReasonSecretSynced, Message: "secret synced", LastTransitionTime: now}
	switch {
	case did.err != nil:
		want.Status, want.Reason, want.Message = corev1.ConditionFalse, v1.ReasonSecretSyncedError, fault.Lines(did.err, maxLines)
	case did.action == manifest.Skipped:
		want.Reason, want.Message = v1.ReasonSecretMissing, "secret will not be created due to CreationPolicy=Merge"
	}
	if did.err == nil {
		next.RefreshTime = now
		next.SyncedResourceVersion = externalsecrets.SyncedResourceVersion(live.GetGeneration(), live.GetAnnotations(), live.GetLabels())
	}
	news := setReady(&next.Conditions, want)
	if news || did.err == nil {
		if err := r.writeStatus(ctx, live, &next); err != nil {
			return err
		}
	}
	switch {
	case did.err != nil && news: // a retry that fails in the same way is none
		r.events.Event(live, corev1.EventTypeWarning, eventFailed, note(did.err))
	case did.err == nil && did.action == manifest.Created:
		r.events.Event(live, corev1.EventTypeNormal, eventCreated, "secret created")
	case did.err == nil && did.action == manifest.Configured:
		r.events.Event(live, corev1.EventTypeNormal, eventUpdated, "secret updated")
	}
	return nil
}

// note is the text of an event.
func note(failure error) string {
	text := fault.Lines(failure, maxLines)
	if len(text) <= maxNote {
		return text
	}
	cut := maxNote
	for !utf8.RuneStart(text[cut]) {
		cut--
	}
	return text[:cut] + "..."
}

func ready(conditions []v1.Condition) *v1.Condition {
	for i := range conditions {
		if conditions[i].Type == v1.ConditionReady {
			return &conditions[i]
		}
	}
	return nil
}

// setReady sets the condition, and reports whether it says something new. The time of the transition changes with the
// status only.
func setReady(conditions *[]v1.Condition, want v1.Condition) bool {
	c := ready(*conditions)
	if c == nil {
		*conditions = append(*conditions, want)
		return true
	}
	if c.Status == want.Status {
		if c.Reason == want.Reason && c.Message == want.Message {
			return false
		}
		want.LastTransitionTime = c.LastTransitionTime
	}
	*c = want
	return true
}

// statusOf reads what is there; a status that cannot be read is as good as none.
func statusOf(live *unstructured.Unstructured) v1.ExternalSecretStatus {
	var s v1.ExternalSecretStatus
	raw, _ := live.Object["status"].(map[string]any)
	if runtime.DefaultUnstructuredConverter.FromUnstructured(raw, &s) != nil {
		return v1.ExternalSecretStatus{}
	}
	return s
}

func (r *Reconciler) writeStatus(ctx context.Context, live *unstructured.Unstructured, next any) error {
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
