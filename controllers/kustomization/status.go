package kustomization

import (
	"context"
	"fmt"
	"reflect"
	"slices"
	"sort"
	"strings"
	"time"

	kustomizev1 "github.com/fluxcd/kustomize-controller/api/v1"
	fluxmeta "github.com/fluxcd/pkg/apis/meta"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"sealock.dev/sealock/fault"
	"sealock.dev/sealock/manifest"
	"sealock.dev/sealock/pipeline"
)

// Reasons that are ours; the others are those of Flux's package meta.
const (
	accessDenied     = "AccessDenied"
	policyDenied     = "PolicyDenied"
	unsupportedField = "UnsupportedField"
	contested        = "Contested" // also the type of the condition
	unwatched        = "Unwatched" // also the type of the condition
)

// patchStatus changes the status with fn, echoes a reconcile request, and writes only if anything changed.
func (r *Reconciler) patchStatus(ctx context.Context, ks *kustomizev1.Kustomization, fn func(*kustomizev1.KustomizationStatus)) error {
	before := ks.Status.DeepCopy()
	if v := ks.Annotations[requestedAt]; v != "" {
		ks.Status.LastHandledReconcileAt = v
	}
	fn(&ks.Status)
	order(ks.Status.Conditions)
	if reflect.DeepEqual(*before, ks.Status) {
		return nil
	}
	if err := r.sendStatus(ctx, before, ks); err != nil {
		return client.IgnoreNotFound(err)
	}
	r.remember(client.ObjectKeyFromObject(ks)).written = ks.ResourceVersion
	return nil
}

// sendStatus patches the status if it is still the one that it was made from: a leader that was deposed must not put its
// inventory over that of its successor (ADR 10). What people change meanwhile is spec and metadata, and no obstacle.
func (r *Reconciler) sendStatus(ctx context.Context, before *kustomizev1.KustomizationStatus, ks *kustomizev1.Kustomization) error {
	wanted, uid, version := ks.Status, ks.UID, ks.ResourceVersion
	for {
		patch, err := statusPatch(version, before, &wanted)
		if err != nil {
			return err
		}
		if err = r.Client.Status().Patch(ctx, ks, patch, client.FieldOwner(statusOwner)); !apierrors.IsConflict(err) {
			return err
		}
		now := &kustomizev1.Kustomization{}
		if read := r.APIReader.Get(ctx, client.ObjectKeyFromObject(ks), now); read != nil {
			return read
		}
		if now.UID != uid || now.ResourceVersion == version || !equality.Semantic.DeepEqual(now.Status, *before) {
			return err
		}
		version = now.ResourceVersion
	}
}

// statusPatch is the merge patch between two statuses of an object at a version. The rest is not encoded for it: that of a
// request for which nothing changed would cost more than everything else that the request does.
func statusPatch(version string, before, after *kustomizev1.KustomizationStatus) (client.Patch, error) {
	at := func(s *kustomizev1.KustomizationStatus) *kustomizev1.Kustomization {
		return &kustomizev1.Kustomization{ObjectMeta: metav1.ObjectMeta{ResourceVersion: version}, Status: *s}
	}
	data, err := client.MergeFromWithOptions(at(before), client.MergeFromWithOptimisticLock{}).Data(at(after))
	return client.RawPatch(types.MergePatchType, data), err
}

// order puts the conditions in the order that Flux's clients print.
func order(list []metav1.Condition) {
	rank := map[string]int{fluxmeta.StalledCondition: 0, fluxmeta.ReconcilingCondition: 1, fluxmeta.ReadyCondition: 2}
	sort.SliceStable(list, func(i, j int) bool {
		a, okA := rank[list[i].Type]
		b, okB := rank[list[j].Type]
		switch {
		case okA && okB:
			return a < b
		case okA != okB:
			return okA
		}
		return list[i].Type < list[j].Type
	})
}

func set(s *kustomizev1.KustomizationStatus, generation int64, typ string, status metav1.ConditionStatus, reason, message string) {
	message = bounded(message, messageBytes)
	// In Flux a change of reason or message is a transition, too (reference/flux.md, section 1.3).
	if old := meta.FindStatusCondition(s.Conditions, typ); old != nil && (old.Reason != reason || old.Message != message) {
		meta.RemoveStatusCondition(&s.Conditions, typ)
	}
	meta.SetStatusCondition(&s.Conditions, metav1.Condition{Type: typ, Status: status, Reason: reason, Message: message, ObservedGeneration: generation})
}

// contested says which objects somebody else keeps changing: they are left to the interval.
func (r *Reconciler) contested(ks *kustomizev1.Kustomization, s *kustomizev1.KustomizationStatus) {
	var lines []string
	if r.Contested != nil {
		for id, by := range r.Contested(ks.Namespace, ks.Name) {
			if by == "" {
				by = "somebody"
			}
			lines = append(lines, fmt.Sprintf("%s is taken back by %s", id.Ref(), by))
		}
	}
	if len(lines) == 0 {
		meta.RemoveStatusCondition(&s.Conditions, contested)
		return
	}
	slices.Sort(lines)
	set(s, ks.Generation, contested, metav1.ConditionTrue, contested, strings.Join(lines, "\n")+"\nit is repaired at the interval only; leave the field out of the manifest, or list it in spec.ignore")
}

// unwatched says of which kinds changes in the cluster are noticed at the interval only.
func (r *Reconciler) unwatched(ks *kustomizev1.Kustomization, s *kustomizev1.KustomizationStatus) {
	var kinds []string
	if r.Unwatched != nil {
		kinds = r.Unwatched(ks.Namespace, ks.Name)
	}
	if len(kinds) == 0 {
		meta.RemoveStatusCondition(&s.Conditions, unwatched)
		return
	}
	set(s, ks.Generation, unwatched, metav1.ConditionTrue, "Forbidden", "the controller may not list and watch "+strings.Join(kinds, ", ")+
		": changes of such objects are noticed at the interval only; grant it list and watch on them")
}

func (r *Reconciler) keepInventory(s *kustomizev1.KustomizationStatus, res pipeline.Result) {
	if !res.Untouched {
		s.Inventory = entries(res.Inventory)
	}
}

// recordInventory persists what is about to exist, before the first write, together with the progress that users see.
func (r *Reconciler) recordInventory(ctx context.Context, ks *kustomizev1.Kustomization, in inputs, union []manifest.ID) error {
	old, err := inventoryOf(ks)
	if err == nil && covers(old, union) && ks.Status.LastAttemptedRevision == in.revision {
		return nil
	}
	err = r.patchStatus(ctx, ks, func(s *kustomizev1.KustomizationStatus) {
		s.LastAttemptedRevision = in.revision
		s.Inventory = entries(union)
		set(s, ks.Generation, fluxmeta.ReconcilingCondition, metav1.ConditionTrue, fluxmeta.ProgressingReason, "Applying revision "+in.revision)
		set(s, ks.Generation, fluxmeta.ReadyCondition, metav1.ConditionUnknown, fluxmeta.ProgressingReason, "Reconciliation in progress")
		meta.RemoveStatusCondition(&s.Conditions, fluxmeta.StalledCondition)
	})
	if err != nil {
		return fault.New(fault.StageApply, fault.Transient, refOf(ks), "recording the inventory failed").Fix("the commit is retried; nothing was written")
	}
	return nil
}

func covers(have, want []manifest.ID) bool {
	known := map[string]bool{}
	for _, id := range have {
		known[id.String()] = true
	}
	for _, id := range want {
		if !known[id.String()] {
			return false
		}
	}
	return true
}

// verdict is what a failure means for the status.
type verdict struct {
	reason  string
	stalled bool
}

// judgeFailure maps the stage and kind of a failure to Flux's reasons.
func judgeFailure(err error) verdict {
	kind := fault.KindOf(err)
	switch fault.StageOf(err) {
	case fault.StageGrant:
		if kind == fault.Invalid {
			return verdict{unsupportedField, true}
		}
		return verdict{accessDenied, true}
	case fault.StageSource:
		return verdict{fluxmeta.ArtifactFailedReason, false}
	case dependency:
		return verdict{fluxmeta.DependencyNotReadyReason, false}
	case expression:
		return verdict{fluxmeta.InvalidCELExpressionReason, true}
	case gate:
		return verdict{fluxmeta.FeatureGateDisabledReason, true}
	case fault.StageDecrypt, fault.StageRender, fault.StageOpen:
		if all := fault.All(err); kind == fault.NotFound && len(all) == 1 && all[0].Field == "spec.path" {
			return verdict{fluxmeta.ArtifactFailedReason, false} // it does not exist in the artifact
		}
		return verdict{fluxmeta.BuildFailedReason, false}
	case fault.StageJudge:
		return verdict{policyDenied, false}
	case fault.StagePrune:
		return verdict{fluxmeta.PruneFailedReason, false}
	case fault.StageHealth:
		return verdict{fluxmeta.HealthCheckFailedReason, false}
	case fault.StagePlan, fault.StageApply:
		return verdict{fluxmeta.ReconciliationFailedReason, false}
	}
	return verdict{fluxmeta.ReconciliationFailedReason, false}
}

// failed reports an attempt that did not get through. What runs keeps running.
func (r *Reconciler) failed(ctx context.Context, ks *kustomizev1.Kustomization, m *memory, in inputs, res pipeline.Result) (ctrl.Result, error) {
	v := judgeFailure(res.Err)
	message := failure(res)
	ctrl.LoggerFrom(ctx).Info("failed", "reason", v.reason, "kind", fault.KindOf(res.Err).String(), "revision", res.Revision, "error", message)
	err := r.patchStatus(ctx, ks, func(s *kustomizev1.KustomizationStatus) {
		if res.Revision != "" && fault.StageOf(res.Err) != dependency {
			s.LastAttemptedRevision = res.Revision
		}
		r.keepInventory(s, res)
		if recorded(v.reason) {
			m.history(s, res.Digest, v.reason, in.about())
		}
		set(s, ks.Generation, fluxmeta.ReadyCondition, metav1.ConditionFalse, v.reason, message)
		meta.RemoveStatusCondition(&s.Conditions, fluxmeta.StalledCondition)
		if v.stalled {
			set(s, ks.Generation, fluxmeta.StalledCondition, metav1.ConditionTrue, v.reason, message)
			meta.RemoveStatusCondition(&s.Conditions, fluxmeta.ReconcilingCondition)
			// Flux advances it for InvalidCELExpression alone. Those who wait by kstatus (flux reconcile, a parent with wait) look at
			// Stalled only when the generation is observed: without that they wait in vain for what is refused already.
			s.ObservedGeneration = ks.Generation
			return
		}
		set(s, ks.Generation, fluxmeta.ReconcilingCondition, metav1.ConditionTrue, fluxmeta.ProgressingWithRetryReason, progress(res.Revision))
	})
	switch {
	case awaitsArtifact(res.Err): // the source tells of itself
	case v.reason == fluxmeta.DependencyNotReadyReason:
		r.event(ks, m, corev1.EventTypeNormal, v.reason, "Dependencies do not meet ready condition: "+message, in.about())
	default:
		r.event(ks, m, corev1.EventTypeWarning, v.reason, message, in.about())
	}
	if err != nil {
		return ctrl.Result{}, err
	}
	if v.stalled {
		return ctrl.Result{}, nil // a change of the object, of its tenant or of a policy brings it back
	}
	return ctrl.Result{RequeueAfter: r.retryAfter(ks, m, res.Err)}, nil
}

// awaitsArtifact reports a source that does not exist or has no artifact yet.
func awaitsArtifact(err error) bool {
	all := fault.All(err)
	return fault.StageOf(err) == fault.StageSource && fault.KindOf(err) == fault.NotFound && len(all) == 1 && all[0].Field == "spec.sourceRef"
}

// failure is what people read of a failed attempt.
func failure(res pipeline.Result) string {
	message := fault.Lines(res.Err, messageLines)
	done := changeLog(res.Changes)
	switch {
	case fault.StageOf(res.Err) == expression:
		return "Reconciliation failed terminally due to configuration error: " + message
	case res.Partial:
		message = fmt.Sprintf("%d failed, the other objects are applied:\n%s", places(res.Err), message)
		if done != "" {
			message += "\napplied now:\n" + done
		}
	case done != "":
		message += "\napplied before the failure:\n" + done
	}
	return message
}

// places counts the objects and files that errors are about.
func places(err error) int {
	seen := map[string]bool{}
	for _, f := range fault.All(err) {
		seen[f.Ref.String()] = true
	}
	return len(seen)
}

// recorded reports whether an attempt that ended so stands in the history, as in Flux.
func recorded(reason string) bool {
	return reason == fluxmeta.ReconciliationFailedReason || reason == fluxmeta.PruneFailedReason || reason == fluxmeta.HealthCheckFailedReason
}

// retryAfter returns the retry interval, and less for the first failures of a kind that may heal by itself: an API server
// that comes back, rights that were granted a moment ago. What only a commit or a policy can heal is watched for.
func (r *Reconciler) retryAfter(ks *kustomizev1.Kustomization, m *memory, err error) time.Duration {
	limit := ks.GetRetryInterval()
	if m.foreign && fault.StageOf(err) == dependency {
		return min(limit, otherShard)
	}
	if kind := fault.KindOf(err); kind == fault.Invalid || fault.StageOf(err) == fault.StageJudge || fault.StageOf(err) == dependency {
		return limit
	}
	m.failures++
	first := r.MinRetry
	if first <= 0 {
		first = time.Second
	}
	if r.MaxRetry > 0 {
		limit = min(limit, r.MaxRetry)
	}
	return min(limit, first<<min(m.failures-1, 12))
}

func progress(revision string) string {
	if revision == "" {
		return "Retrying"
	}
	return "Retrying revision " + revision
}

// applied reports a run that got through, and starts to wait for health where the Kustomization asks for it.
func (r *Reconciler) applied(ctx context.Context, ks *kustomizev1.Kustomization, m *memory, in inputs, res pipeline.Result) (ctrl.Result, error) {
	changed := append(append([]manifest.Change(nil), res.Changes...), res.Secrets...)
	if text := changeLog(changed); text != "" {
		ctrl.LoggerFrom(ctx).Info("applied", "revision", res.Revision, "changes", text)
		r.event(ks, m, corev1.EventTypeNormal, fluxmeta.ProgressingReason, text, in.about())
	}
	for _, w := range res.Warnings {
		r.event(ks, m, corev1.EventTypeWarning, policyDenied, w.Ref.String()+": "+w.String(), in.about())
	}
	m.failures = 0
	m.waitFor = healthTargets(ks, res.Applied)
	m.waitSince, m.settled, m.rolling = time.Now(), false, false
	return r.judgeHealth(ctx, ks, m, in, res)
}
