package kustomization

import (
	"context"
	"fmt"
	"reflect"
	"strings"
	"time"

	kustomizev1 "github.com/fluxcd/kustomize-controller/api/v1"
	fluxmeta "github.com/fluxcd/pkg/apis/meta"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	ctrl "sigs.k8s.io/controller-runtime"

	"sealock.dev/sealock/manifest"
	"sealock.dev/sealock/pipeline"
)

// brief is how long objects may take to become healthy before the status says that they are waited for.
const brief = time.Second

// healthTargets returns the objects to wait for: all of them with wait, else those that healthChecks names.
func healthTargets(ks *kustomizev1.Kustomization, applied []manifest.ID) []manifest.ID {
	self := refOf(ks)
	var out []manifest.ID
	if ks.Spec.Wait {
		for _, id := range applied {
			if id.Ref() != self {
				out = append(out, id)
			}
		}
		return out
	}
	for _, h := range ks.Spec.HealthChecks {
		apiVersion := h.APIVersion
		if apiVersion == "" {
			apiVersion = "apps/v1"
		}
		gvk := gvkOf(apiVersion, h.Kind)
		id := manifest.ID{Group: gvk.Group, Version: gvk.Version, Kind: gvk.Kind, Namespace: h.Namespace, Name: h.Name}
		if id.Ref() != self {
			out = append(out, id)
		}
	}
	return out
}

// look is what a reconcile without news does: it asks the live view about the objects that are waited for. It is not
// done when only a run can tell.
func (r *Reconciler) look(ctx context.Context, ks *kustomizev1.Kustomization, m *memory, in inputs) (done bool, result ctrl.Result, err error) {
	res := pipeline.Result{Untouched: true, Revision: in.revision, Digest: m.digest}
	if len(m.waitFor) > 0 {
		if res.Unready, res.Err = in.cluster.Unready(ctx, in.grant, owner(ks, in.revision), m.waitFor); res.Err != nil {
			result, err = r.failed(ctx, ks, m, in, res)
			return true, result, err
		}
	}
	if m.assumed && len(res.Unready) > 0 {
		return false, ctrl.Result{}, nil
	}
	result, err = r.judgeHealth(ctx, ks, m, in, res)
	return true, result, err
}

// judgeHealth decides between done, waiting and failed, and says so in the status.
func (r *Reconciler) judgeHealth(ctx context.Context, ks *kustomizev1.Kustomization, m *memory, in inputs, res pipeline.Result) (ctrl.Result, error) {
	if len(res.Unready) == 0 {
		m.settled = true
		return r.succeeded(ctx, ks, m, in, res)
	}
	was := m.settled && meta.IsStatusConditionTrue(ks.Status.Conditions, fluxmeta.ReadyCondition) && ks.Status.LastAppliedRevision == in.revision
	if m.settled { // it was healthy: what happens now has a timeout of its own
		m.settled, m.waitSince = false, time.Now()
	}
	waited := time.Since(m.waitSince)
	timeout := ks.GetTimeout()
	failing, progressing := split(res.Unready)
	switch {
	case len(failing) > 0 && len(progressing) == 0:
		return r.unhealthy(ctx, ks, m, in, res, fmt.Sprintf("health check failed after %s: failed early due to stalled resources: [%s]", waited.Round(time.Second), join(failing)))
	case waited > timeout:
		return r.unhealthy(ctx, ks, m, in, res, fmt.Sprintf("health check failed after %s: timeout waiting for: [%s]", waited.Round(time.Second), join(res.Unready)))
	}
	next := timeout - waited + time.Second
	if was || m.rolling {
		m.rolling = true // a workload that rolls is not unready before the timeout
		return ctrl.Result{RequeueAfter: next}, r.patchStatus(ctx, ks, func(*kustomizev1.KustomizationStatus) {})
	}
	if waited < brief && ks.Status.LastAttemptedRevision == in.revision && announced(ks, res) {
		return ctrl.Result{RequeueAfter: brief - waited}, nil // most become healthy at once, and a status for each step is read by nobody
	}
	err := r.patchStatus(ctx, ks, func(s *kustomizev1.KustomizationStatus) {
		r.keepInventory(s, res)
		s.LastAttemptedRevision = in.revision
		message := fmt.Sprintf("Running health checks for revision %s with a timeout of %s", in.revision, timeout)
		set(s, ks.Generation, fluxmeta.ReconcilingCondition, metav1.ConditionTrue, fluxmeta.ProgressingReason, message)
		set(s, ks.Generation, fluxmeta.HealthyCondition, metav1.ConditionUnknown, fluxmeta.ProgressingReason, message)
		set(s, ks.Generation, fluxmeta.ReadyCondition, metav1.ConditionUnknown, fluxmeta.ProgressingReason, "Reconciliation in progress")
		meta.RemoveStatusCondition(&s.Conditions, fluxmeta.StalledCondition)
	})
	return ctrl.Result{RequeueAfter: next}, err
}

// announced reports whether the status says already that the run is under way, and what it left.
func announced(ks *kustomizev1.Kustomization, res pipeline.Result) bool {
	return meta.IsStatusConditionTrue(ks.Status.Conditions, fluxmeta.ReconcilingCondition) && !requested(ks) &&
		meta.IsStatusConditionPresentAndEqual(ks.Status.Conditions, fluxmeta.ReadyCondition, metav1.ConditionUnknown) &&
		(res.Untouched || reflect.DeepEqual(entries(res.Inventory), ks.Status.Inventory))
}

func split(list []manifest.Unready) (failing, progressing []manifest.Unready) {
	for _, u := range list {
		if u.Status == "Failed" {
			failing = append(failing, u)
		} else {
			progressing = append(progressing, u)
		}
	}
	return failing, progressing
}

func join(list []manifest.Unready) string {
	var out []string
	for i, u := range list {
		if i == 10 {
			out = append(out, fmt.Sprintf("and %d more", len(list)-i))
			break
		}
		out = append(out, u.String())
	}
	return strings.Join(out, ", ")
}

func (r *Reconciler) unhealthy(ctx context.Context, ks *kustomizev1.Kustomization, m *memory, in inputs, res pipeline.Result, message string) (ctrl.Result, error) {
	m.rolling = false
	c := meta.FindStatusCondition(ks.Status.Conditions, fluxmeta.HealthyCondition)
	first := c == nil || c.Status != metav1.ConditionFalse || ks.Status.LastAttemptedRevision != in.revision || c.ObservedGeneration != ks.Generation
	err := r.patchStatus(ctx, ks, func(s *kustomizev1.KustomizationStatus) {
		r.keepInventory(s, res)
		s.LastAttemptedRevision = in.revision
		if first { // the message holds a duration; it is kept so that a look without news writes nothing
			set(s, ks.Generation, fluxmeta.ReadyCondition, metav1.ConditionFalse, fluxmeta.HealthCheckFailedReason, message)
			set(s, ks.Generation, fluxmeta.HealthyCondition, metav1.ConditionFalse, fluxmeta.HealthCheckFailedReason, message)
			m.history(s, res.Digest, fluxmeta.HealthCheckFailedReason, in.about())
		}
		meta.RemoveStatusCondition(&s.Conditions, fluxmeta.StalledCondition)
		set(s, ks.Generation, fluxmeta.ReconcilingCondition, metav1.ConditionTrue, fluxmeta.ProgressingWithRetryReason, progress(in.revision))
	})
	if first {
		r.event(ks, m, corev1.EventTypeWarning, fluxmeta.HealthCheckFailedReason, message, in.about())
	}
	return ctrl.Result{RequeueAfter: ks.GetRetryInterval()}, err
}

func (r *Reconciler) succeeded(ctx context.Context, ks *kustomizev1.Kustomization, m *memory, in inputs, res pipeline.Result) (ctrl.Result, error) {
	m.rolling = false
	waited := time.Since(m.waitSince)
	ready := meta.IsStatusConditionTrue(ks.Status.Conditions, fluxmeta.ReadyCondition)
	news := ks.Status.LastAppliedRevision != in.revision || !ready
	counts := news || requested(ks) // the echo is written anyway
	idle := ready && res.Untouched  // a commit that touches nothing, or a look
	passed := len(m.waitFor) > 0 && !meta.IsStatusConditionTrue(ks.Status.Conditions, fluxmeta.HealthyCondition)
	err := r.patchStatus(ctx, ks, func(s *kustomizev1.KustomizationStatus) {
		r.keepInventory(s, res)
		s.LastAttemptedRevision, s.LastAppliedRevision, s.LastAppliedOriginRevision, s.ObservedGeneration = in.revision, in.revision, in.origin, ks.Generation
		meta.RemoveStatusCondition(&s.Conditions, fluxmeta.ReconcilingCondition)
		meta.RemoveStatusCondition(&s.Conditions, fluxmeta.StalledCondition)
		set(s, ks.Generation, fluxmeta.ReadyCondition, metav1.ConditionTrue, fluxmeta.ReconciliationSucceededReason, "Applied revision: "+in.revision)
		r.contested(ks, s)
		r.unwatched(ks, s)
		if len(m.waitFor) == 0 {
			meta.RemoveStatusCondition(&s.Conditions, fluxmeta.HealthyCondition)
		} else if passed {
			set(s, ks.Generation, fluxmeta.HealthyCondition, metav1.ConditionTrue, fluxmeta.SucceededReason, "Health check passed in "+waited.Round(time.Millisecond).String())
		}
		if counts {
			m.history(s, res.Digest, fluxmeta.ReconciliationSucceededReason, in.about())
		}
	})
	if err != nil {
		return ctrl.Result{}, err // told when it is written
	}
	next := r.jitter(ks.GetRequeueAfter())
	if passed { // in Flux, Ready is still Progressing when this is told
		r.event(ks, m, corev1.EventTypeNormal, fluxmeta.ProgressingReason, "Health check passed in "+waited.Round(time.Millisecond).String(), in.about())
	}
	if news {
		r.finished(ks, m, idle, in.about())
	}
	if news && !idle {
		ctrl.LoggerFrom(ctx).Info("ready", "revision", in.revision, "took", time.Since(m.started).Round(time.Millisecond).String(), "next", next.Round(time.Second).String())
	}
	return ctrl.Result{RequeueAfter: next}, nil
}
