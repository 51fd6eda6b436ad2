package gitrepository

import (
	"context"

	fluxmeta "github.com/fluxcd/pkg/apis/meta"
	sourcev1 "github.com/fluxcd/source-controller/api/v1"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"sealock.dev/sealock/fault"
	"sealock.dev/sealock/source"
)

// suspended moves nothing. Only what the status names and the cache has lost, in a new pod for instance, is fetched again:
// who uses it would wait for ever.
func (r *Reconciler) suspended(ctx context.Context, repo *sourcev1.GitRepository) (ctrl.Result, error) {
	a := repo.Status.Artifact
	key := client.ObjectKeyFromObject(repo)
	if a == nil || r.Repositories.Has(key.Namespace, key.Name, a.Revision) && r.Storage.Has(stored(a)) {
		r.retries.Forget(key)
		return ctrl.Result{}, r.patchStatus(ctx, repo, func(*sourcev1.GitRepositoryStatus) {})
	}
	got, failed := r.fetch(ctx, asItWas(repo))
	if failed != nil {
		ctrl.LoggerFrom(ctx).Info("a suspended repository cannot be cached again", "revision", a.Revision, "error", fault.Lines(failed.err, messageLines))
		return ctrl.Result{RequeueAfter: r.soon(repo)}, nil
	}
	r.retries.Forget(key)
	return ctrl.Result{}, r.patchStatus(ctx, repo, func(s *sourcev1.GitRepositoryStatus) {
		s.Artifact = r.artifact(a, got, false) // another version of the compression makes other bytes of the same files
	})
}

// asItWas returns the object as it was when its artifact was made.
func asItWas(repo *sourcev1.GitRepository) *sourcev1.GitRepository {
	was, s := repo.DeepCopy(), repo.Status
	was.Spec.Ignore, was.Spec.SparseCheckout, was.Spec.RecurseSubmodules, was.Spec.Include = s.ObservedIgnore, s.ObservedSparseCheckout, s.ObservedRecurseSubmodules, s.ObservedInclude
	return was
}

func stored(a *fluxmeta.Artifact) source.Artifact {
	out := source.Artifact{Path: a.Path, Digest: a.Digest}
	if a.Size != nil {
		out.Size = *a.Size
	}
	return out
}
