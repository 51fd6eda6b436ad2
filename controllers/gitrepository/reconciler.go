// Package gitrepository is the front end for Flux's GitRepository: it translates the object into a source.Remote and a
// source.Ref, and what came of it into status and an artifact.
//
// It exists so that the source stage never sees a Flux type. It must not speak Git or write files itself, read a
// Secret of another namespace, or ignore a field that it does not serve. The contract is reference/flux.md, section 1.14.
package gitrepository

import (
	"context"
	"time"

	sourcev1 "github.com/fluxcd/source-controller/api/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/client-go/tools/record"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller/controllerutil"

	"sealock.dev/sealock/fault"
	"sealock.dev/sealock/plaintext"
	"sealock.dev/sealock/source"
	"sealock.dev/sealock/tenants"
)

// Strings that clients of Flux rely on, and what they mean when they are left out.
const (
	finalizer      = sourcev1.SourceFinalizer
	statusOwner    = "source-controller"
	requestedAt    = "reconcile.fluxcd.io/requestedAt"
	defaultTimeout = time.Minute
	intervalJitter = 0.05
)

// Options are what a Reconciler works with. All are required.
type Options struct {
	Client       client.Client
	APIReader    client.Reader // past the cache: Secrets are not cached
	Repositories *source.Repositories
	Storage      *source.Storage
	// Grants returns the fences of a namespace.
	Grants func(namespace string) tenants.Grant
	// Host is the host, and port, in the URLs of artifacts.
	Host   string
	Events record.EventRecorder
}

// Reconciler fetches what GitRepositories name.
type Reconciler struct {
	Options
	missed chan types.NamespacedName
}

// missedQueue is how many repositories may wait to be fetched again. What does not fit comes back with its interval.
const missedQueue = 1024

// New returns a Reconciler.
func New(o Options) *Reconciler {
	r := &Reconciler{Options: o, missed: make(chan types.NamespacedName, missedQueue)}
	o.Repositories.OnMiss(func(owner source.Owner) {
		select {
		case r.missed <- types.NamespacedName(owner):
		default:
		}
	})
	return r
}

// Reconcile is called for every change of a GitRepository, and at its interval.
func (r *Reconciler) Reconcile(ctx context.Context, req ctrl.Request) (ctrl.Result, error) {
	repo := &sourcev1.GitRepository{}
	if err := r.Client.Get(ctx, req.NamespacedName, repo); err != nil {
		if apierrors.IsNotFound(err) {
			return ctrl.Result{}, r.cleanUp(ctx, req.NamespacedName)
		}
		return ctrl.Result{}, err
	}
	if !repo.DeletionTimestamp.IsZero() {
		return ctrl.Result{}, r.finalize(ctx, repo)
	}
	if repo.Spec.Suspend {
		return ctrl.Result{}, r.patchStatus(ctx, repo, func(*sourcev1.GitRepositoryStatus) {})
	}
	if !controllerutil.ContainsFinalizer(repo, finalizer) {
		patch := client.MergeFromWithOptions(repo.DeepCopy(), client.MergeFromWithOptimisticLock{})
		controllerutil.AddFinalizer(repo, finalizer)
		if err := r.Client.Patch(ctx, repo, patch, client.FieldOwner(statusOwner)); err != nil {
			return ctrl.Result{}, client.IgnoreNotFound(err)
		}
	}
	got, failed := r.fetch(ctx, repo)
	if failed != nil {
		return r.failed(ctx, repo, failed)
	}
	return r.succeeded(ctx, repo, got)
}

// finalize deletes what is cached and stored, and then lets the object go.
func (r *Reconciler) finalize(ctx context.Context, repo *sourcev1.GitRepository) error {
	if !controllerutil.ContainsFinalizer(repo, finalizer) {
		return nil
	}
	if err := r.cleanUp(ctx, client.ObjectKeyFromObject(repo)); err != nil {
		return err
	}
	patch := client.MergeFromWithOptions(repo.DeepCopy(), client.MergeFromWithOptimisticLock{})
	controllerutil.RemoveFinalizer(repo, finalizer)
	return client.IgnoreNotFound(r.Client.Patch(ctx, repo, patch, client.FieldOwner(statusOwner)))
}

func (r *Reconciler) cleanUp(ctx context.Context, key types.NamespacedName) error {
	if err := r.Storage.Remove(source.Owner(key)); err != nil {
		return err
	}
	return r.Repositories.Remove(ctx, key.Namespace, key.Name)
}

// outcome is a commit that is fetched, and its artifact.
type outcome struct {
	tree     *source.Tree
	artifact source.Artifact
	stored   bool // written now; false when the one in storage was good
}

// problem is why there is none.
type problem struct {
	condition string // FetchFailed or StorageOperationFailed
	reason    string
	stalled   bool // nothing but a change of the object or of its tenant helps
	err       error
}

// The reasons that are ours.
const (
	unsupportedField = "UnsupportedField"
	accessDenied     = "AccessDenied"
)

func fetchProblem(err error) *problem {
	return &problem{condition: sourcev1.FetchFailedCondition, reason: string(source.ReasonOf(err)), stalled: misconfigured(err), err: err}
}

// misconfigured reports a mistake in the spec itself. What is wrong with the Secret or in the repository is mended
// elsewhere, without the object changing.
func misconfigured(err error) bool {
	for _, f := range fault.All(err) {
		if f.Kind == fault.Invalid {
			switch f.Field {
			case "spec.url", "spec.ignore", "spec.ref.name", "spec.ref.semver", "spec.ref.commit":
				return true
			}
		}
	}
	return false
}

// fetch decides whether the repository may be fetched, fetches it, and stores its artifact where that is not done.
func (r *Reconciler) fetch(ctx context.Context, repo *sourcev1.GitRepository) (outcome, *problem) {
	if err := unsupported(repo); err != nil {
		return outcome{}, &problem{condition: sourcev1.FetchFailedCondition, reason: unsupportedField, stalled: true, err: err}
	}
	grant := r.Grants(repo.Namespace)
	if !grant.AllowsGit(repo.Spec.URL) {
		err := fault.New(fault.StageGrant, fault.Denied, fault.Ref{}, "tenant %q may not fetch from this URL", grant.Tenant).
			At("spec.url").Fix("use a repository that spec.git.urls of the Tenant allows, or ask the platform team to allow this one")
		return outcome{}, &problem{condition: sourcev1.FetchFailedCondition, reason: accessDenied, stalled: true, err: err}
	}
	auth, err := r.credentials(ctx, repo)
	if err != nil {
		return outcome{}, &problem{condition: sourcev1.FetchFailedCondition, reason: sourcev1.AuthenticationFailedReason, err: err}
	}
	timeout := defaultTimeout
	if t := repo.Spec.Timeout; t != nil && t.Duration > 0 {
		timeout = t.Duration
	}
	limited, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	owner := source.Owner(client.ObjectKeyFromObject(repo))
	remote := source.Remote{URL: repo.Spec.URL, Auth: auth, Allows: grant.AllowsGit}
	got, err := r.Repositories.Fetch(limited, owner, remote, refOf(repo), repo.Spec.Ignore)
	if err != nil {
		return outcome{}, fetchProblem(err)
	}
	if a, ok := r.inStorage(repo, got.Tree); ok {
		return outcome{tree: got.Tree, artifact: a}, nil
	}
	a, err := r.Storage.Store(ctx, owner, got.Tree)
	if err != nil {
		return outcome{}, &problem{condition: sourcev1.StorageOperationFailedCondition, reason: string(source.ReasonOf(err)), err: err}
	}
	return outcome{tree: got.Tree, artifact: a, stored: true}, nil
}

// inStorage returns the artifact that the status names, if it is that of the tree and still there.
func (r *Reconciler) inStorage(repo *sourcev1.GitRepository, t *source.Tree) (source.Artifact, bool) {
	owner := source.Owner(client.ObjectKeyFromObject(repo))
	old := repo.Status.Artifact
	if old == nil || old.Size == nil || old.Path != source.ArtifactPath(owner, t.Commit()) || !equalText(repo.Status.ObservedIgnore, repo.Spec.Ignore) {
		return source.Artifact{}, false
	}
	a := source.Artifact{Path: old.Path, Digest: old.Digest, Size: *old.Size}
	return a, r.Storage.Has(a)
}

func equalText(a, b *string) bool { return a == b || a != nil && b != nil && *a == *b }

func refOf(repo *sourcev1.GitRepository) source.Ref {
	if ref := repo.Spec.Reference; ref != nil {
		return source.Ref{Branch: ref.Branch, Tag: ref.Tag, SemVer: ref.SemVer, Name: ref.Name, Commit: ref.Commit}
	}
	return source.Ref{}
}

// unsupported names the first field that is not served yet: a field that is silently ignored would be worse. Verification
// above all.
func unsupported(repo *sourcev1.GitRepository) error {
	s := repo.Spec
	for _, f := range []struct {
		path string
		set  bool
	}{
		{"spec.verify", s.Verification != nil},
		{"spec.include", len(s.Include) > 0},
		{"spec.recurseSubmodules", s.RecurseSubmodules},
		{"spec.sparseCheckout", len(s.SparseCheckout) > 0},
		{"spec.proxySecretRef", s.ProxySecretRef != nil},
		{"spec.provider", s.Provider != "" && s.Provider != sourcev1.GitProviderGeneric},
		{"spec.serviceAccountName", s.ServiceAccountName != ""},
	} {
		if f.set {
			return fault.New(fault.StageGrant, fault.Invalid, fault.Ref{}, "this version of Sealock does not serve the field yet").At(f.path).Fix("leave it out")
		}
	}
	return nil
}

// credentials reads the Secret that the object names, from its own namespace.
func (r *Reconciler) credentials(ctx context.Context, repo *sourcev1.GitRepository) (map[string]plaintext.Value, error) {
	if repo.Spec.SecretRef == nil {
		return nil, nil //nolint:nilnil // no credentials is a valid answer
	}
	secret := &corev1.Secret{}
	name := repo.Spec.SecretRef.Name
	if err := r.APIReader.Get(ctx, client.ObjectKey{Namespace: repo.Namespace, Name: name}, secret); err != nil {
		if apierrors.IsNotFound(err) {
			return nil, fault.New(fault.StageSource, fault.NotFound, fault.Ref{}, "Secret %q not found in this namespace", name).At("spec.secretRef").Fix("create it")
		}
		return nil, fault.New(fault.StageSource, fault.Transient, fault.Ref{}, "Secret %q cannot be read now", name).At("spec.secretRef").Fix("it is tried again")
	}
	out := make(map[string]plaintext.Value, len(secret.Data))
	for key, value := range secret.Data {
		out[key] = plaintext.New(value)
	}
	return out, nil
}

func jitter(d time.Duration) time.Duration {
	return wait.Jitter(time.Duration(float64(d)*(1-intervalJitter)), 2*intervalJitter)
}
