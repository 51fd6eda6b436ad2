package gitrepository

import (
	"context"
	"reflect"
	"sort"

	fluxmeta "github.com/fluxcd/pkg/apis/meta"
	sourcev1 "github.com/fluxcd/source-controller/api/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"sealock.dev/sealock/fault"
)

const (
	newArtifact  = "NewArtifact"
	messageLines = 10
)

// patchStatus changes the status with fn, echoes a reconcile request, and writes only if anything changed.
func (r *Reconciler) patchStatus(ctx context.Context, repo *sourcev1.GitRepository, fn func(*sourcev1.GitRepositoryStatus)) error {
	before := repo.DeepCopy()
	if v := repo.Annotations[requestedAt]; v != "" {
		repo.Status.LastHandledReconcileAt = v
	}
	fn(&repo.Status)
	order(repo.Status.Conditions)
	if reflect.DeepEqual(before.Status, repo.Status) {
		return nil
	}
	err := r.Client.Status().Patch(ctx, repo, client.MergeFrom(before), client.FieldOwner(statusOwner))
	return client.IgnoreNotFound(err)
}

// order puts the conditions in the order that Flux's clients print.
func order(list []metav1.Condition) {
	rank := map[string]int{fluxmeta.StalledCondition: 1, fluxmeta.ReconcilingCondition: 2, fluxmeta.ReadyCondition: 3}
	at := func(c metav1.Condition) int {
		if n, ok := rank[c.Type]; ok {
			return n
		}
		return len(rank) + 1
	}
	sort.SliceStable(list, func(i, j int) bool {
		if a, b := at(list[i]), at(list[j]); a != b {
			return a < b
		}
		return list[i].Type < list[j].Type
	})
}

func set(s *sourcev1.GitRepositoryStatus, generation int64, typ string, status metav1.ConditionStatus, reason, message string) {
	meta.SetStatusCondition(&s.Conditions, metav1.Condition{Type: typ, Status: status, Reason: reason, Message: message, ObservedGeneration: generation})
}

// failed reports that the repository could not be had. The artifact that is there stays, and so does who uses it.
func (r *Reconciler) failed(ctx context.Context, repo *sourcev1.GitRepository, p *problem) (ctrl.Result, error) {
	message := fault.Lines(p.err, messageLines)
	old := meta.FindStatusCondition(repo.Status.Conditions, fluxmeta.ReadyCondition)
	news := old == nil || old.Status != metav1.ConditionFalse || old.Reason != p.reason || old.Message != message
	err := r.patchStatus(ctx, repo, func(s *sourcev1.GitRepositoryStatus) {
		clear(s, sourcev1.FetchFailedCondition, sourcev1.StorageOperationFailedCondition, p.condition)
		set(s, repo.Generation, p.condition, metav1.ConditionTrue, p.reason, message)
		set(s, repo.Generation, fluxmeta.ReadyCondition, metav1.ConditionFalse, p.reason, message)
		if p.stalled {
			set(s, repo.Generation, fluxmeta.StalledCondition, metav1.ConditionTrue, p.reason, message)
			meta.RemoveStatusCondition(&s.Conditions, fluxmeta.ReconcilingCondition)
			s.ObservedGeneration = repo.Generation
			return
		}
		meta.RemoveStatusCondition(&s.Conditions, fluxmeta.StalledCondition)
		set(s, repo.Generation, fluxmeta.ReconcilingCondition, metav1.ConditionTrue, fluxmeta.ProgressingWithRetryReason, message)
	})
	if err != nil {
		return ctrl.Result{}, err
	}
	log := ctrl.LoggerFrom(ctx)
	if news {
		log.Info("not fetched", "reason", p.reason, "stage", string(fault.StageOf(p.err)), "kind", fault.KindOf(p.err).String(), "error", message)
		r.Events.Event(repo, corev1.EventTypeWarning, p.reason, message)
	}
	switch kind := fault.KindOf(p.err); {
	case p.stalled && kind != fault.Denied:
		return ctrl.Result{}, nil // a change of the object brings it back
	case kind == fault.Transient || kind == fault.Internal:
		return ctrl.Result{}, p.err // retried with back-off
	}
	return ctrl.Result{RequeueAfter: jitter(repo.Spec.Interval.Duration)}, nil
}

// clear removes the conditions of the given types, but not the last one named.
func clear(s *sourcev1.GitRepositoryStatus, one, two, keep string) {
	for _, typ := range []string{one, two} {
		if typ != keep {
			meta.RemoveStatusCondition(&s.Conditions, typ)
		}
	}
}

// succeeded reports what is fetched and stored. Nothing is written when it is what the status says already.
func (r *Reconciler) succeeded(ctx context.Context, repo *sourcev1.GitRepository, got outcome) (ctrl.Result, error) {
	revision := got.tree.Revision()
	old := repo.Status.Artifact
	fresh := old == nil || old.Revision != revision || old.Digest != got.artifact.Digest
	recovered := meta.IsStatusConditionFalse(repo.Status.Conditions, fluxmeta.ReadyCondition)
	message := "stored artifact for revision '" + revision + "'"
	err := r.patchStatus(ctx, repo, func(s *sourcev1.GitRepositoryStatus) {
		clear(s, sourcev1.FetchFailedCondition, sourcev1.StorageOperationFailedCondition, "")
		meta.RemoveStatusCondition(&s.Conditions, fluxmeta.StalledCondition)
		meta.RemoveStatusCondition(&s.Conditions, fluxmeta.ReconcilingCondition)
		set(s, repo.Generation, fluxmeta.ReadyCondition, metav1.ConditionTrue, fluxmeta.SucceededReason, message)
		set(s, repo.Generation, sourcev1.ArtifactInStorageCondition, metav1.ConditionTrue, fluxmeta.SucceededReason, message)
		s.ObservedGeneration = repo.Generation
		s.ObservedIgnore = repo.Spec.Ignore
		s.Artifact = r.artifact(old, got, fresh)
	})
	if err != nil {
		return ctrl.Result{}, err
	}
	annotations := map[string]string{
		sourcev1.GroupVersion.Group + "/revision": revision,
		sourcev1.GroupVersion.Group + "/digest":   got.artifact.Digest,
	}
	text := "stored artifact for commit '" + got.tree.Subject() + "'"
	switch {
	case fresh:
		ctrl.LoggerFrom(ctx).Info("fetched", "revision", revision)
		r.Events.AnnotatedEventf(repo, annotations, corev1.EventTypeNormal, newArtifact, "%s", text)
	case recovered:
		r.Events.AnnotatedEventf(repo, annotations, corev1.EventTypeNormal, fluxmeta.SucceededReason, "%s", text)
	}
	return ctrl.Result{RequeueAfter: jitter(repo.Spec.Interval.Duration)}, nil
}

func (r *Reconciler) artifact(old *fluxmeta.Artifact, got outcome, fresh bool) *fluxmeta.Artifact {
	size := got.artifact.Size
	a := &fluxmeta.Artifact{
		Path: got.artifact.Path, URL: "http://" + r.Host + "/" + got.artifact.Path,
		Revision: got.tree.Revision(), Digest: got.artifact.Digest, Size: &size,
	}
	if fresh {
		a.LastUpdateTime = metav1.Now().Rfc3339Copy()
	} else {
		a.LastUpdateTime = old.LastUpdateTime
	}
	return a
}
