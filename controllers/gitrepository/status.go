package gitrepository

import (
	"context"
	"reflect"
	"sort"
	"strconv"
	"time"

	fluxmeta "github.com/fluxcd/pkg/apis/meta"
	sourcev1 "github.com/fluxcd/source-controller/api/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"sealock.dev/sealock/fault"
	"sealock.dev/sealock/source"
)

const (
	newArtifact  = "NewArtifact"
	messageLines = 10
)

// patchStatus changes the status with fn at the end of a reconcile, echoes a request, and writes only if anything changed.
func (r *Reconciler) patchStatus(ctx context.Context, repo *sourcev1.GitRepository, fn func(*sourcev1.GitRepositoryStatus)) error {
	return r.writeStatus(ctx, repo, func(s *sourcev1.GitRepositoryStatus) {
		if v := repo.Annotations[requestedAt]; v != "" {
			s.LastHandledReconcileAt = v
		}
		fn(s)
	})
}

func (r *Reconciler) writeStatus(ctx context.Context, repo *sourcev1.GitRepository, fn func(*sourcev1.GitRepositoryStatus)) error {
	before := repo.DeepCopy()
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
	// In Flux a change of reason or message is a transition, too (reference/flux.md, section 1.3).
	if old := meta.FindStatusCondition(s.Conditions, typ); old != nil && (old.Reason != reason || old.Message != message) {
		meta.RemoveStatusCondition(&s.Conditions, typ)
	}
	meta.SetStatusCondition(&s.Conditions, metav1.Condition{Type: typ, Status: status, Reason: reason, Message: message, ObservedGeneration: generation})
}

// failed reports that the repository could not be had. The artifact that is there stays, and so does who uses it, unless
// its own signature turned out not to be good.
func (r *Reconciler) failed(ctx context.Context, repo *sourcev1.GitRepository, p *problem) (ctrl.Result, error) {
	if p.wait { // nothing is wrong with this one, and nothing is said of it
		return ctrl.Result{RequeueAfter: r.soon(repo)}, nil
	}
	message := fault.Lines(p.err, messageLines)
	old := meta.FindStatusCondition(repo.Status.Conditions, fluxmeta.ReadyCondition)
	news := old == nil || old.Status != metav1.ConditionFalse || old.Reason != p.reason || old.Message != message
	if err := r.withdraw(repo, source.RefusedRevision(p.err)); err != nil {
		return ctrl.Result{}, err
	}
	err := r.patchStatus(ctx, repo, func(s *sourcev1.GitRepositoryStatus) {
		clearProblems(s, p.condition)
		if repo.Spec.Verification == nil {
			forgetVerification(s)
		}
		bad := metav1.ConditionTrue
		if p.condition == sourcev1.SourceVerifiedCondition {
			bad = metav1.ConditionFalse
		}
		set(s, repo.Generation, p.condition, bad, p.reason, message)
		if a := s.Artifact; a != nil && a.Revision == source.RefusedRevision(p.err) {
			s.Artifact = nil
			meta.RemoveStatusCondition(&s.Conditions, sourcev1.ArtifactInStorageCondition)
		}
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
	case p.stalled && kind != fault.Denied && p.reason != sourcev1.InvalidProviderConfigurationReason && p.reason != includeLoop:
		return ctrl.Result{}, nil // a change of the object brings it back
	case kind == fault.Transient || kind == fault.Internal:
		return ctrl.Result{}, p.err // retried with back-off
	}
	if p.stalled || !elsewhere(p.err) {
		return ctrl.Result{RequeueAfter: r.jitter(repo.Spec.Interval.Duration)}, nil
	}
	return ctrl.Result{RequeueAfter: r.soon(repo)}, nil
}

// elsewhere reports whether the failure is mended where nothing tells of it, and looking again costs little: on the server, in a
// Secret. What is wrong with the content of the commit would be transferred for nothing.
func elsewhere(err error) bool {
	switch source.ReasonOf(err) {
	case source.ReasonAuth, source.ReasonVerification:
		return true
	default:
		return fault.KindOf(err) != fault.Invalid
	}
}

// soon returns when to look again after a failure: later each time, at last with the interval.
func (r *Reconciler) soon(repo *sourcev1.GitRepository) time.Duration {
	return min(r.retries.When(client.ObjectKeyFromObject(repo)), r.jitter(repo.Spec.Interval.Duration))
}

// withdraw takes the artifact of a revision out of the storage.
func (r *Reconciler) withdraw(repo *sourcev1.GitRepository, revision string) error {
	commit, ok := source.CommitOf(revision)
	if !ok {
		return nil
	}
	return r.Storage.Withdraw(source.Owner(client.ObjectKeyFromObject(repo)), commit)
}

// clearProblems removes the conditions that say what is wrong, but for one.
func clearProblems(s *sourcev1.GitRepositoryStatus, keep string) {
	for _, typ := range []string{sourcev1.FetchFailedCondition, sourcev1.StorageOperationFailedCondition, sourcev1.IncludeUnavailableCondition} {
		if typ != keep {
			meta.RemoveStatusCondition(&s.Conditions, typ)
		}
	}
}

func forgetVerification(s *sourcev1.GitRepositoryStatus) {
	s.SourceVerificationMode = nil
	meta.RemoveStatusCondition(&s.Conditions, sourcev1.SourceVerifiedCondition)
}

// succeeded reports what is fetched and stored. Nothing is written when it is what the status says already.
func (r *Reconciler) succeeded(ctx context.Context, repo *sourcev1.GitRepository, got outcome) (ctrl.Result, error) {
	revision := got.tree.Revision()
	old := repo.Status.Artifact
	fresh := old == nil || old.Revision != revision || old.Digest != got.artifact.Digest
	recovered := meta.IsStatusConditionFalse(repo.Status.Conditions, fluxmeta.ReadyCondition)
	asked := repo.Annotations[requestedAt] != repo.Status.LastHandledReconcileAt
	message := "stored artifact for revision '" + revision + "'"
	r.retries.Forget(client.ObjectKeyFromObject(repo))
	err := r.patchStatus(ctx, repo, func(s *sourcev1.GitRepositoryStatus) {
		clearProblems(s, "")
		r.verifiedStatus(repo, s, got.verified)
		meta.RemoveStatusCondition(&s.Conditions, sourcev1.ArtifactOutdatedCondition)
		meta.RemoveStatusCondition(&s.Conditions, fluxmeta.StalledCondition)
		meta.RemoveStatusCondition(&s.Conditions, fluxmeta.ReconcilingCondition)
		set(s, repo.Generation, fluxmeta.ReadyCondition, metav1.ConditionTrue, fluxmeta.SucceededReason, message)
		set(s, repo.Generation, sourcev1.ArtifactInStorageCondition, metav1.ConditionTrue, fluxmeta.SucceededReason, message)
		s.ObservedGeneration = repo.Generation
		s.ObservedIgnore = repo.Spec.Ignore
		s.ObservedRecurseSubmodules = repo.Spec.RecurseSubmodules
		s.ObservedSparseCheckout = repo.Spec.SparseCheckout
		s.ObservedInclude = repo.Spec.Include
		s.IncludedArtifacts = got.included
		s.Artifact = r.artifact(old, got, fresh)
	})
	if err != nil {
		return ctrl.Result{}, err
	}
	r.announce(ctx, repo, got, fresh, recovered, asked)
	r.collect(ctx, repo, got.artifact)
	return ctrl.Result{RequeueAfter: r.jitter(repo.Spec.Interval.Duration)}, nil
}

// verifiedStatus reports what was verified. What was verified before stays as it is.
func (r *Reconciler) verifiedStatus(repo *sourcev1.GitRepository, s *sourcev1.GitRepositoryStatus, v *source.Verified) {
	if repo.Spec.Verification == nil {
		forgetVerification(s)
		return
	}
	mode := repo.Spec.Verification.GetMode()
	s.SourceVerificationMode = &mode
	if v != nil {
		set(s, repo.Generation, sourcev1.SourceVerifiedCondition, metav1.ConditionTrue, fluxmeta.SucceededReason, "verified signature of "+v.What)
	}
}

// announce tells what happened; that nothing did only to who asked.
func (r *Reconciler) announce(ctx context.Context, repo *sourcev1.GitRepository, got outcome, fresh, recovered, asked bool) {
	revision := got.tree.Revision()
	annotations := map[string]string{
		sourcev1.GroupVersion.Group + "/revision": revision,
		sourcev1.GroupVersion.Group + "/digest":   got.artifact.Digest,
	}
	text := "stored artifact for commit '" + got.tree.Subject() + "'"
	if got.verified != nil {
		r.Events.AnnotatedEventf(repo, annotations, corev1.EventTypeNormal, fluxmeta.SucceededReason, "%s", "verified signature of "+got.verified.What)
	}
	switch {
	case fresh:
		ctrl.LoggerFrom(ctx).Info("fetched", "revision", revision)
		r.Events.AnnotatedEventf(repo, annotations, corev1.EventTypeNormal, newArtifact, "%s", text)
	case recovered:
		r.Events.AnnotatedEventf(repo, annotations, corev1.EventTypeNormal, fluxmeta.SucceededReason, "%s", text)
	case asked && got.stored:
		r.trace(repo, sourcev1.ArtifactUpToDateReason, "artifact up-to-date with remote revision: '"+revision+"'")
	case asked:
		r.trace(repo, sourcev1.GitOperationSucceedReason, "no changes since last reconciliation: observed revision '"+revision+"'")
	}
}

// trace makes an event that is of interest to who looks at the object, and that nobody is notified of.
func (r *Reconciler) trace(repo *sourcev1.GitRepository, reason, text string) {
	r.Events.AnnotatedEventf(repo, map[string]string{TraceAnnotation: "true"}, corev1.EventTypeNormal, reason, "%s", text)
}

// collect removes artifacts that nobody should be reading any more.
func (r *Reconciler) collect(ctx context.Context, repo *sourcev1.GitRepository, current source.Artifact) {
	n, err := r.Storage.Collect(source.Owner(client.ObjectKeyFromObject(repo)), current)
	switch {
	case err != nil:
		ctrl.LoggerFrom(ctx).Error(err, "collecting old artifacts")
		r.Events.Event(repo, corev1.EventTypeWarning, "GarbageCollectionFailed", "old artifacts cannot be removed: "+fault.Lines(err, messageLines))
	case n > 0:
		r.trace(repo, "GarbageCollectionSucceeded", "garbage collected "+strconv.Itoa(n)+" artifacts")
	}
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
