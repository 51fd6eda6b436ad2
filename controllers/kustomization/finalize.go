package kustomization

import (
	"context"
	"strings"
	"time"

	kustomizev1 "github.com/fluxcd/kustomize-controller/api/v1"
	fluxmeta "github.com/fluxcd/pkg/apis/meta"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller/controllerutil"

	"sealock.dev/sealock/fault"
	"sealock.dev/sealock/manifest"
)

// terminationLook is how often it is looked whether the last object has gone, while a deletion waits for that.
const terminationLook = 2 * time.Second

// finalize deletes what the Kustomization owns, as its deletion policy says, and lets it go.
func (r *Reconciler) finalize(ctx context.Context, ks *kustomizev1.Kustomization) (ctrl.Result, error) {
	if !controllerutil.ContainsFinalizer(ks, finalizer) {
		return ctrl.Result{}, nil
	}
	m := r.remember(client.ObjectKeyFromObject(ks))
	if older(ks.ResourceVersion, m.written) { // the cache is behind our own last write
		if err := r.APIReader.Get(ctx, client.ObjectKeyFromObject(ks), ks); err != nil {
			return ctrl.Result{}, client.IgnoreNotFound(err)
		}
	}
	about := revisions{ks.Status.LastAppliedRevision, ks.Status.LastAppliedOriginRevision}
	if deletes(ks) {
		wait, err := r.deleteOwned(ctx, ks, m, about)
		if err != nil {
			left, hopeless := r.forsaken(ctx, ks, err)
			if !hopeless {
				return r.undeleted(ctx, ks, m, err, about)
			}
			if len(left) > 0 {
				r.event(ks, m, corev1.EventTypeWarning, fluxmeta.PruneFailedReason, pruneFailed+fault.Lines(err, 5), about)
				r.event(ks, m, corev1.EventTypeWarning, fluxmeta.PruneFailedReason, "unable to prune objects:\n"+strings.Join(left, "\n"), about)
			}
		}
		if wait {
			return ctrl.Result{RequeueAfter: terminationLook}, nil
		}
	}
	patch := client.MergeFromWithOptions(ks.DeepCopy(), client.MergeFromWithOptimisticLock{})
	controllerutil.RemoveFinalizer(ks, finalizer)
	if err := r.Client.Patch(ctx, ks, patch, client.FieldOwner(statusOwner)); err != nil {
		return ctrl.Result{}, client.IgnoreNotFound(err)
	}
	r.forget(client.ObjectKeyFromObject(ks))
	return ctrl.Result{}, nil
}

// pruneFailed begins what is told of a deletion that failed.
const pruneFailed = "pruning for deleted resource failed: "

// undeleted says why the Kustomization is still there, and has it tried again.
func (r *Reconciler) undeleted(ctx context.Context, ks *kustomizev1.Kustomization, m *memory, cause error, about revisions) (ctrl.Result, error) {
	r.event(ks, m, corev1.EventTypeWarning, fluxmeta.PruneFailedReason, pruneFailed+fault.Lines(cause, 5), about)
	ctrl.LoggerFrom(ctx).Info("failed", "reason", fluxmeta.PruneFailedReason, "error", fault.Lines(cause, messageLines))
	err := r.patchStatus(ctx, ks, func(s *kustomizev1.KustomizationStatus) {
		set(s, ks.Generation, fluxmeta.ReadyCondition, metav1.ConditionFalse, fluxmeta.PruneFailedReason, pruneFailed+fault.Lines(cause, messageLines))
		set(s, ks.Generation, fluxmeta.ReconcilingCondition, metav1.ConditionTrue, fluxmeta.ProgressingWithRetryReason, progress(""))
		meta.RemoveStatusCondition(&s.Conditions, fluxmeta.StalledCondition)
	})
	return ctrl.Result{RequeueAfter: r.retryAfter(ks, m, cause)}, err
}

func deletes(ks *kustomizev1.Kustomization) bool {
	if ks.Spec.Suspend || ks.Status.Inventory == nil || len(ks.Status.Inventory.Entries) == 0 {
		return false
	}
	switch ks.GetDeletionPolicy() {
	case kustomizev1.DeletionPolicyOrphan:
		return false
	case kustomizev1.DeletionPolicyDelete, kustomizev1.DeletionPolicyWaitForTermination:
		return true
	}
	return ks.Spec.Prune
}

// deleteOwned deletes the inventory and reports whether to come back because something is still terminating.
func (r *Reconciler) deleteOwned(ctx context.Context, ks *kustomizev1.Kustomization, m *memory, about revisions) (bool, error) {
	current := &kustomizev1.Kustomization{}
	if err := r.APIReader.Get(ctx, client.ObjectKeyFromObject(ks), current); err != nil {
		return false, client.IgnoreNotFound(err)
	}
	grant, err := r.identity(ks)
	if err != nil {
		return false, err
	}
	old, err := inventoryOf(current)
	if err != nil {
		return false, err
	}
	in := inputs{grant: grant}
	if err := r.target(ctx, ks, &in); err != nil {
		return false, err
	}
	of := owner(ks, "")
	of.Ignore, of.Health = nil, nil // a mistake in them must not keep anything from being deleted
	// Planning an empty set puts the whole inventory into the order of deletion.
	plan, err := in.cluster.Plan(ctx, in.grant, of, nil, old)
	if err != nil {
		return false, err
	}
	rightsLast(plan.Prune)
	deleted, _, err := in.cluster.Prune(ctx, in.grant, plan)
	if text := changeLog(deleted); text != "" {
		r.event(ks, m, corev1.EventTypeNormal, fluxmeta.ReconciliationSucceededReason, text, about)
	}
	if err != nil || ks.GetDeletionPolicy() != kustomizev1.DeletionPolicyWaitForTermination {
		return false, err
	}
	if m.deletingSince.IsZero() { // not when the deletion was asked for: that is told by another clock
		m.deletingSince = time.Now()
	}
	if time.Since(m.deletingSince) > ks.GetTimeout() {
		r.event(ks, m, corev1.EventTypeWarning, fluxmeta.PruneFailedReason, "failed to wait for resources termination", about)
		return false, nil
	}
	left, err := in.cluster.Unready(ctx, in.grant, of, terminating(old, deleted, m))
	for _, u := range left {
		if u.Status == "Terminating" {
			return true, err
		}
	}
	return false, err
}

// terminating returns what was deleted in this or an earlier look: what stays on purpose is not waited for.
func terminating(old []manifest.ID, deleted []manifest.Change, m *memory) []manifest.ID {
	for _, c := range deleted {
		m.deleting = append(m.deleting, c.ID)
	}
	if m.deleting == nil { // after a restart
		return old
	}
	return m.deleting
}
