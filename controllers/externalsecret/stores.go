package externalsecret

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	ctrl "sigs.k8s.io/controller-runtime"

	v1 "sealock.dev/sealock/api/externalsecrets/v1"
	"sealock.dev/sealock/externalsecrets"
	"sealock.dev/sealock/fault"
)

const (
	kindStore        = "SecretStore"
	kindClusterStore = "ClusterSecretStore"

	reasonUnknown = "ValidationUnknown"

	// verifyEvery is when a login is tried again that succeeded. External secrets do not wait for it: each of them finds
	// out by itself.
	verifyEvery = time.Hour
)

// storeReconciler tells in the status of one kind of store whether a login succeeds.
type storeReconciler struct {
	*Reconciler
	kind string
}

// Reconcile is called for a change of a store or of a Secret that it refers to.
func (s *storeReconciler) Reconcile(ctx context.Context, req ctrl.Request) (ctrl.Result, error) {
	live := newObject(s.kind)
	if err := s.reader.Get(ctx, req.NamespacedName, live); err != nil {
		if apierrors.IsNotFound(err) {
			s.noteLogin(req.Namespace, req.Name, "", false)
			return ctrl.Result{}, nil
		}
		return ctrl.Result{}, fmt.Errorf("reading the %s %s: %w", s.kind, req.NamespacedName, err)
	}
	if live.GetDeletionTimestamp() != nil {
		return ctrl.Result{}, nil
	}
	obj, err := objectOf(live)
	if err != nil {
		return ctrl.Result{}, s.reportStore(ctx, live, false, err)
	}
	with := s.loginWith(ctx, live, obj)
	if left := s.sparesLogin(ctx, live, with); left > 0 {
		return ctrl.Result{RequeueAfter: left}, nil
	}
	checked, failure := s.opener.Verify(ctx, s.grants(live.GetNamespace()), obj)
	if errors.Is(failure, externalsecrets.ErrForeignClass) {
		return ctrl.Result{}, nil
	}
	if err := s.reportStore(ctx, live, checked, failure); err != nil {
		return ctrl.Result{}, err
	}
	s.noteLogin(live.GetNamespace(), live.GetName(), with, checked && failure == nil)
	if failure != nil && fault.KindOf(failure) == fault.Invalid {
		return ctrl.Result{}, nil // until it changes
	}
	return ctrl.Result{RequeueAfter: interval(live)}, failure
}

// interval is spec.refreshInterval of a store: a number of seconds, or a duration.
func interval(live *unstructured.Unstructured) time.Duration {
	v, _, _ := unstructured.NestedFieldNoCopy(live.Object, "spec", "refreshInterval")
	switch d := v.(type) {
	case int64:
		if d > 0 {
			return max(time.Duration(d)*time.Second, time.Minute)
		}
	case string:
		if parsed, err := time.ParseDuration(d); err == nil && parsed > 0 {
			return max(parsed, time.Minute)
		}
	}
	return verifyEvery
}

// reportStore writes the status if it says something new.
func (s *storeReconciler) reportStore(ctx context.Context, live *unstructured.Unstructured, checked bool, failure error) error {
	var next v1.StoreStatus
	if raw, ok := live.Object["status"].(map[string]any); ok {
		if runtime.DefaultUnstructuredConverter.FromUnstructured(raw, &next) != nil {
			next = v1.StoreStatus{}
		}
	}
	before := next.Capabilities
	next.Conditions = slices.Clone(next.Conditions)
	want := v1.Condition{
		Type: v1.ConditionReady, Status: corev1.ConditionTrue, Reason: v1.ReasonStoreValid, Message: "store validated",
		LastTransitionTime: metav1.NewTime(s.now().Truncate(1e9)),
	}
	next.Capabilities = "ReadOnly"
	switch {
	case failure != nil:
		want.Status, want.Reason, want.Message = corev1.ConditionFalse, v1.ReasonInvalidProviderConfig, fault.Lines(failure, maxLines)
		next.Capabilities = before
	case !checked:
		want.Reason, want.Message = reasonUnknown, "the credential is that of the namespace that uses the store"
	}
	if !setReady(&next.Conditions, want) && before == next.Capabilities {
		return nil
	}
	if err := s.writeStatus(ctx, live, &next); err != nil {
		return err
	}
	kind, text := corev1.EventTypeNormal, want.Message
	if failure != nil {
		kind, text = corev1.EventTypeWarning, note(failure)
	}
	s.events.Event(live, kind, want.Reason, text)
	return nil
}
