package kustomization

import (
	"context"
	"fmt"
	"reflect"
	"sort"
	"strings"
	"time"

	kustomizev1 "github.com/fluxcd/kustomize-controller/api/v1"
	fluxmeta "github.com/fluxcd/pkg/apis/meta"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"sealock.dev/sealock/fault"
	"sealock.dev/sealock/manifest"
	"sealock.dev/sealock/pipeline"
)

// Condition types and the reasons that are ours; the others are those of Flux's package meta.
const (
	healthy          = "Healthy"
	accessDenied     = "AccessDenied"
	policyDenied     = "PolicyDenied"
	unsupportedField = "UnsupportedField"
	messageLines     = 25
	messageBytes     = 20_000
	eventBytes       = 1024 // what the API server takes in a note
)

// patchStatus changes the status with fn, echoes a reconcile request, and writes only if anything changed.
func (r *Reconciler) patchStatus(ctx context.Context, ks *kustomizev1.Kustomization, fn func(*kustomizev1.KustomizationStatus)) error {
	before := ks.DeepCopy()
	if v := ks.Annotations[requestedAt]; v != "" {
		ks.Status.LastHandledReconcileAt = v
	}
	fn(&ks.Status)
	order(ks.Status.Conditions)
	if reflect.DeepEqual(before.Status, ks.Status) {
		return nil
	}
	err := r.Client.Status().Patch(ctx, ks, client.MergeFrom(before), client.FieldOwner(statusOwner))
	return client.IgnoreNotFound(err)
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
	if len(message) > messageBytes {
		message = message[:messageBytes] + "..."
	}
	meta.SetStatusCondition(&s.Conditions, metav1.Condition{Type: typ, Status: status, Reason: reason, Message: message, ObservedGeneration: generation})
}

// recordInventory persists what is about to exist, before the first write, together with the progress that users see.
func (r *Reconciler) recordInventory(ctx context.Context, ks *kustomizev1.Kustomization, revision string, union []manifest.ID) error {
	old, err := inventoryOf(ks)
	if err == nil && covers(old, union) && ks.Status.LastAttemptedRevision == revision {
		return nil
	}
	err = r.patchStatus(ctx, ks, func(s *kustomizev1.KustomizationStatus) {
		s.LastAttemptedRevision = revision
		s.Inventory = entries(union)
		set(s, ks.Generation, fluxmeta.ReconcilingCondition, metav1.ConditionTrue, fluxmeta.ProgressingReason, "Applying revision "+revision)
		set(s, ks.Generation, fluxmeta.ReadyCondition, metav1.ConditionUnknown, fluxmeta.ProgressingReason, "Reconciliation in progress")
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
	case fault.StageDecrypt, fault.StageRender, fault.StageOpen:
		if kind == fault.NotFound && fault.StageOf(err) == fault.StageRender {
			return verdict{fluxmeta.ArtifactFailedReason, false} // spec.path does not exist in the artifact
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

// failed reports a run that did not get through. What runs keeps running.
func (r *Reconciler) failed(ctx context.Context, ks *kustomizev1.Kustomization, m *memory, res pipeline.Result) (ctrl.Result, error) {
	log := ctrl.LoggerFrom(ctx)
	r.mu.Lock()
	m.fingerprint, m.waitFor = "", nil
	r.mu.Unlock()
	v := judgeFailure(res.Err)
	message := fault.Lines(res.Err, messageLines)
	if text := changeLog(res.Changes); text != "" {
		message += "\napplied before the failure:\n" + text
	}
	log.Info("not applied", "reason", v.reason, "stage", string(fault.StageOf(res.Err)), "kind", fault.KindOf(res.Err).String(), "revision", res.Revision, "error", message)
	err := r.patchStatus(ctx, ks, func(s *kustomizev1.KustomizationStatus) {
		if res.Revision != "" && fault.StageOf(res.Err) != dependency {
			s.LastAttemptedRevision = res.Revision
		}
		if !res.Untouched {
			s.Inventory = entries(res.Inventory)
		}
		set(s, ks.Generation, fluxmeta.ReadyCondition, metav1.ConditionFalse, v.reason, message)
		meta.RemoveStatusCondition(&s.Conditions, fluxmeta.StalledCondition)
		if v.stalled {
			set(s, ks.Generation, fluxmeta.StalledCondition, metav1.ConditionTrue, v.reason, message)
			meta.RemoveStatusCondition(&s.Conditions, fluxmeta.ReconcilingCondition)
			s.ObservedGeneration = ks.Generation
			return
		}
		set(s, ks.Generation, fluxmeta.ReconcilingCondition, metav1.ConditionTrue, fluxmeta.ProgressingWithRetryReason, progress(res))
	})
	r.event(ks, m, corev1.EventTypeWarning, v.reason, message)
	if err != nil {
		return ctrl.Result{}, err
	}
	if v.stalled {
		return ctrl.Result{}, nil // a change of the object, of its tenant or of a policy brings it back
	}
	return ctrl.Result{RequeueAfter: r.retryAfter(ks, m, res.Err)}, nil
}

// retryAfter returns the retry interval, and less for the first failures of a kind that may heal by itself: an API server
// that comes back, rights that were granted a moment ago. What only a commit or a policy can heal is watched for.
func (r *Reconciler) retryAfter(ks *kustomizev1.Kustomization, m *memory, err error) time.Duration {
	limit := ks.GetRetryInterval()
	if kind := fault.KindOf(err); kind == fault.Invalid || fault.StageOf(err) == fault.StageJudge || fault.StageOf(err) == dependency {
		return limit
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	m.failures++
	return min(limit, time.Second<<min(m.failures-1, 12))
}

func progress(res pipeline.Result) string {
	if res.Revision == "" {
		return "Retrying"
	}
	return "Retrying revision " + res.Revision
}

// applied reports a run that got through, and starts to wait for health where the Kustomization asks for it.
func (r *Reconciler) applied(ctx context.Context, ks *kustomizev1.Kustomization, m *memory, in inputs, res pipeline.Result) (ctrl.Result, error) {
	log := ctrl.LoggerFrom(ctx)
	changed := append(append([]manifest.Change(nil), res.Changes...), res.Secrets...)
	if text := changeLog(changed); text != "" {
		log.Info("applied", "revision", res.Revision, "changes", text)
		r.event(ks, m, corev1.EventTypeNormal, fluxmeta.ProgressingReason, text)
	}
	for _, w := range res.Warnings {
		r.event(ks, m, corev1.EventTypeWarning, policyDenied, w.Ref.String()+": "+w.String())
	}
	r.mu.Lock()
	m.failures = 0
	m.waitFor = healthTargets(ks, res.Inventory)
	m.waitSince = time.Now()
	r.mu.Unlock()
	return r.judgeHealth(ctx, ks, m, in, res)
}

// judgeHealth decides between done, waiting and failed, and says so in the status.
func (r *Reconciler) judgeHealth(ctx context.Context, ks *kustomizev1.Kustomization, m *memory, in inputs, res pipeline.Result) (ctrl.Result, error) {
	waited := time.Since(m.waitSince)
	timeout := ks.GetTimeout()
	failing, progressing := split(res.Unready)
	switch {
	case len(res.Unready) == 0:
		return r.succeeded(ctx, ks, m, in, res, waited)
	case len(failing) > 0 && len(progressing) == 0:
		return r.unhealthy(ctx, ks, m, in, res, fmt.Sprintf("health check failed after %s: failed early due to stalled resources: [%s]", waited.Round(time.Second), join(failing)))
	case waited > timeout:
		return r.unhealthy(ctx, ks, m, in, res, fmt.Sprintf("health check failed after %s: timeout waiting for: [%s]", waited.Round(time.Second), join(res.Unready)))
	}
	err := r.patchStatus(ctx, ks, func(s *kustomizev1.KustomizationStatus) {
		if !res.Untouched {
			s.Inventory = entries(res.Inventory)
		}
		s.LastAttemptedRevision = in.revision
		message := fmt.Sprintf("Running health checks for revision %s with a timeout of %s", in.revision, timeout)
		set(s, ks.Generation, fluxmeta.ReconcilingCondition, metav1.ConditionTrue, fluxmeta.ProgressingReason, message)
		set(s, ks.Generation, healthy, metav1.ConditionUnknown, fluxmeta.ProgressingReason, message)
		set(s, ks.Generation, fluxmeta.ReadyCondition, metav1.ConditionUnknown, fluxmeta.ProgressingReason, "Reconciliation in progress")
		meta.RemoveStatusCondition(&s.Conditions, fluxmeta.StalledCondition)
	})
	return ctrl.Result{RequeueAfter: timeout - waited + time.Second}, err
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
	first := !meta.IsStatusConditionFalse(ks.Status.Conditions, healthy)
	err := r.patchStatus(ctx, ks, func(s *kustomizev1.KustomizationStatus) {
		if !res.Untouched {
			s.Inventory = entries(res.Inventory)
		}
		s.LastAttemptedRevision = in.revision
		if first { // the message holds a duration; it is kept so that a look without news writes nothing
			set(s, ks.Generation, fluxmeta.ReadyCondition, metav1.ConditionFalse, fluxmeta.HealthCheckFailedReason, message)
			set(s, ks.Generation, healthy, metav1.ConditionFalse, fluxmeta.HealthCheckFailedReason, message)
		}
		set(s, ks.Generation, fluxmeta.ReconcilingCondition, metav1.ConditionTrue, fluxmeta.ProgressingWithRetryReason, progress(pipeline.Result{Revision: in.revision}))
	})
	if first {
		r.event(ks, m, corev1.EventTypeWarning, fluxmeta.HealthCheckFailedReason, message)
	}
	return ctrl.Result{RequeueAfter: ks.GetRetryInterval()}, err
}

func (r *Reconciler) succeeded(ctx context.Context, ks *kustomizev1.Kustomization, m *memory, in inputs, res pipeline.Result, waited time.Duration) (ctrl.Result, error) {
	news := ks.Status.LastAppliedRevision != in.revision || !meta.IsStatusConditionTrue(ks.Status.Conditions, fluxmeta.ReadyCondition)
	err := r.patchStatus(ctx, ks, func(s *kustomizev1.KustomizationStatus) {
		if !res.Untouched {
			s.Inventory = entries(res.Inventory)
		}
		s.LastAttemptedRevision, s.LastAppliedRevision, s.ObservedGeneration = in.revision, in.revision, ks.Generation
		meta.RemoveStatusCondition(&s.Conditions, fluxmeta.ReconcilingCondition)
		meta.RemoveStatusCondition(&s.Conditions, fluxmeta.StalledCondition)
		set(s, ks.Generation, fluxmeta.ReadyCondition, metav1.ConditionTrue, fluxmeta.ReconciliationSucceededReason, "Applied revision: "+in.revision)
		if len(m.waitFor) == 0 {
			meta.RemoveStatusCondition(&s.Conditions, healthy)
		} else if !meta.IsStatusConditionTrue(s.Conditions, healthy) {
			set(s, ks.Generation, healthy, metav1.ConditionTrue, fluxmeta.SucceededReason, "Health check passed in "+waited.Round(time.Millisecond).String())
		}
		if news && res.Digest != "" {
			s.History.Upsert(res.Digest, time.Now(), waited, fluxmeta.ReconciliationSucceededReason, map[string]string{"revision": in.revision})
		}
	})
	next := jitter(ks.GetRequeueAfter())
	if news {
		r.event(ks, m, corev1.EventTypeNormal, fluxmeta.ReconciliationSucceededReason, "Applied revision: "+in.revision)
		ctrl.LoggerFrom(ctx).Info("ready", "revision", in.revision, "next", next.Round(time.Second).String())
	}
	return ctrl.Result{RequeueAfter: next}, err
}

// event tells what happened, once: a retry that fails in the same way is no news.
func (r *Reconciler) event(ks *kustomizev1.Kustomization, m *memory, typ, reason, message string) {
	r.mu.Lock()
	same := m.lastEvent == typ+reason+message
	m.lastEvent = typ + reason + message
	r.mu.Unlock()
	if same {
		return
	}
	annotations := map[string]string{}
	if rev := ks.Status.LastAttemptedRevision; rev != "" {
		annotations[annotationRevision] = rev
	}
	if len(message) > eventBytes {
		message = message[:eventBytes-3] + "..."
	}
	r.Events.AnnotatedEventf(ks, annotations, typ, reason, "%s", message)
}

// changeLog returns a line for each change, without the unchanged.
func changeLog(changes []manifest.Change) string {
	var lines []string
	for _, c := range changes {
		if c.Action != manifest.Unchanged && c.Action != manifest.Skipped {
			lines = append(lines, c.String())
		}
	}
	return strings.Join(lines, "\n")
}
