// Package gitrepository is the front end for Flux's GitRepository: it translates the object into a source.Remote and a
// source.Ref, and what came of it into status and an artifact.
//
// It exists so that the source stage never sees a Flux type. It must not speak Git or write files itself, read a
// Secret of another namespace, or ignore a field that it does not serve. The contract is reference/flux.md, section 1.14.
package gitrepository

import (
	"cmp"
	"context"
	"time"

	fluxmeta "github.com/fluxcd/pkg/apis/meta"
	sourcev1 "github.com/fluxcd/source-controller/api/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/client-go/tools/record"
	"k8s.io/client-go/util/workqueue"
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
	Host string
	// Events gets what happened. Events with the annotation TraceAnnotation are for people at this cluster only.
	Events record.EventRecorder
	// Jitter is how much of an interval the next fetch may be early or late, as a share of it, below a half.
	Jitter float64
	// Configs selects the Secrets whose changes are followed at once. nil: those with Flux's watch label.
	Configs labels.Selector
	// MinRetry and MaxRetry bound the wait after a failure. 0: what is usual.
	MinRetry, MaxRetry time.Duration
	// Measure is told how long each reconcile took, and when an object is gone. It may be nil.
	Measure func(key types.NamespacedName, took time.Duration, gone bool)
}

// TraceAnnotation marks events that are not sent to a notification controller.
const TraceAnnotation = "sealock.dev/trace"

// Reconciler fetches what GitRepositories name.
type Reconciler struct {
	Options
	missed  chan types.NamespacedName
	tidied  tidied
	retries workqueue.TypedRateLimiter[types.NamespacedName] // of what is no error of the controller
}

// missedQueue is how many repositories may wait to be fetched again. What does not fit comes back with its interval.
const missedQueue = 1024

// New returns a Reconciler.
func New(o Options) *Reconciler {
	r := &Reconciler{Options: o, missed: make(chan types.NamespacedName, missedQueue)}
	r.retries = workqueue.NewTypedItemExponentialFailureRateLimiter[types.NamespacedName](cmp.Or(o.MinRetry, retryFirst), cmp.Or(o.MaxRetry, retryLast))
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
	if err := r.tidy(ctx); err != nil {
		return ctrl.Result{}, err
	}
	repo := &sourcev1.GitRepository{}
	if err := r.Client.Get(ctx, req.NamespacedName, repo); err != nil {
		if apierrors.IsNotFound(err) {
			r.measure(req.NamespacedName, 0, true)
			r.retries.Forget(req.NamespacedName)
			return ctrl.Result{}, r.cleanUp(ctx, req.NamespacedName)
		}
		return ctrl.Result{}, err
	}
	began := time.Now()
	defer func() { r.measure(req.NamespacedName, time.Since(began), false) }()
	if !repo.DeletionTimestamp.IsZero() {
		return ctrl.Result{}, r.finalize(ctx, repo)
	}
	if repo.Spec.Suspend {
		return r.suspended(ctx, repo)
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

// secret reads a Secret that the object names in a field, from its own namespace.
func (r *Reconciler) secret(ctx context.Context, repo *sourcev1.GitRepository, ref *fluxmeta.LocalObjectReference, field string) (map[string]plaintext.Value, error) {
	if ref == nil {
		return nil, nil //nolint:nilnil // no Secret is a valid answer
	}
	secret := &corev1.Secret{}
	name := ref.Name
	if err := r.APIReader.Get(ctx, client.ObjectKey{Namespace: repo.Namespace, Name: name}, secret); err != nil {
		if apierrors.IsNotFound(err) {
			return nil, fault.New(fault.StageSource, fault.NotFound, fault.Ref{}, "Secret %q not found in this namespace", name).At(field).Fix("create it")
		}
		return nil, fault.New(fault.StageSource, fault.Transient, fault.Ref{}, "Secret %q cannot be read now", name).At(field).Fix("it is tried again")
	}
	out := make(map[string]plaintext.Value, len(secret.Data))
	for key, value := range secret.Data {
		out[key] = plaintext.New(value)
	}
	return out, nil
}

// jitter returns a time around d, so that what was created together does not stay together.
func (r *Reconciler) jitter(d time.Duration) time.Duration {
	if r.Jitter <= 0 {
		return d
	}
	return wait.Jitter(time.Duration(float64(d)*(1-r.Jitter)), 2*r.Jitter/(1-r.Jitter))
}

func (r *Reconciler) measure(key types.NamespacedName, took time.Duration, gone bool) {
	if r.Measure != nil {
		r.Measure(key, took, gone)
	}
}
