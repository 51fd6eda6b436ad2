package gitrepository

import (
	"cmp"
	"context"
	"time"

	sourcev1 "github.com/fluxcd/source-controller/api/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/util/workqueue"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/builder"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller"
	"sigs.k8s.io/controller-runtime/pkg/event"
	"sigs.k8s.io/controller-runtime/pkg/handler"
	"sigs.k8s.io/controller-runtime/pkg/predicate"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"
	runtimesource "sigs.k8s.io/controller-runtime/pkg/source"

	"sealock.dev/sealock/api/sealock/v1alpha1"
)

// Back-off after a failure that heals by itself.
const (
	retryFirst = 750 * time.Millisecond
	retryLast  = 5 * time.Minute
)

// watchLabel on a Secret asks that its changes are followed at once.
const watchLabel = "reconcile.fluxcd.io/watch"

// SetupWithManager registers the controller: a GitRepository is looked at when it, its tenant, what it includes, or its Secret
// with the watch label changes, when its files left the cache, and at its interval.
func (r *Reconciler) SetupWithManager(mgr ctrl.Manager, concurrent int) error {
	missed := make(chan event.TypedGenericEvent[types.NamespacedName])
	if err := mgr.Add(leader(func(ctx context.Context) error { return r.forward(ctx, missed) })); err != nil {
		return err
	}
	configs := r.Configs
	if configs == nil {
		configs = labels.SelectorFromSet(labels.Set{watchLabel: "Enabled"})
	}
	labelled := predicate.NewPredicateFuncs(func(o client.Object) bool { return configs.Matches(labels.Set(o.GetLabels())) })
	return ctrl.NewControllerManagedBy(mgr).
		Named("gitrepository").
		For(&sourcev1.GitRepository{}, builder.WithPredicates(predicate.Or(predicate.GenerationChangedPredicate{}, requested()))).
		Watches(&sourcev1.GitRepository{}, handler.EnqueueRequestsFromMapFunc(r.including), builder.WithPredicates(contentChanged())).
		Watches(&v1alpha1.Tenant{}, handler.EnqueueRequestsFromMapFunc(r.ofTenant), builder.WithPredicates(fenceChanged())).
		WatchesMetadata(&corev1.Secret{}, handler.EnqueueRequestsFromMapFunc(r.ofSecret), builder.WithPredicates(labelled)).
		WatchesRawSource(runtimesource.TypedChannel(missed, handler.TypedEnqueueRequestsFromMapFunc(
			func(_ context.Context, key types.NamespacedName) []reconcile.Request {
				return []reconcile.Request{{NamespacedName: key}}
			}))).
		WithOptions(controller.Options{
			MaxConcurrentReconciles: concurrent,
			RateLimiter:             workqueue.NewTypedItemExponentialFailureRateLimiter[reconcile.Request](cmp.Or(r.MinRetry, retryFirst), cmp.Or(r.MaxRetry, retryLast)),
		}).
		Complete(r)
}

// leader is a function that the manager runs on the leader.
type leader func(ctx context.Context) error

func (f leader) Start(ctx context.Context) error { return f(ctx) }

func (r *Reconciler) forward(ctx context.Context, to chan<- event.TypedGenericEvent[types.NamespacedName]) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case key := <-r.missed:
			select {
			case to <- event.TypedGenericEvent[types.NamespacedName]{Object: key}:
			case <-ctx.Done():
				return nil
			}
		}
	}
}

// requested lets a request to reconcile now pass.
func requested() predicate.Predicate {
	return predicate.Funcs{UpdateFunc: func(e event.UpdateEvent) bool {
		return e.ObjectOld.GetAnnotations()[requestedAt] != e.ObjectNew.GetAnnotations()[requestedAt]
	}}
}

// fenceChanged lets changes of a tenant pass, and the moment at which its controller has taken them in: only then is
// the new fence in force.
func fenceChanged() predicate.Predicate {
	observed := func(o client.Object) (int64, int64) {
		if t, ok := o.(*v1alpha1.Tenant); ok {
			return t.Generation, t.Status.ObservedGeneration
		}
		return 0, 0
	}
	return predicate.Funcs{UpdateFunc: func(e event.UpdateEvent) bool {
		g1, s1 := observed(e.ObjectOld)
		g2, s2 := observed(e.ObjectNew)
		return g1 != g2 || s1 != s2
	}}
}

// ofTenant returns the repositories whose URL is fenced by the tenant.
func (r *Reconciler) ofTenant(ctx context.Context, o client.Object) []reconcile.Request {
	t, ok := o.(*v1alpha1.Tenant)
	if !ok {
		return nil
	}
	var out []reconcile.Request
	for _, ns := range t.Spec.Namespaces {
		out = append(out, r.in(ctx, ns.Name, func(*sourcev1.GitRepository) bool { return true })...)
	}
	return out
}

func (r *Reconciler) ofSecret(ctx context.Context, o client.Object) []reconcile.Request {
	return r.in(ctx, o.GetNamespace(), func(repo *sourcev1.GitRepository) bool {
		s, name := repo.Spec, o.GetName()
		return s.SecretRef != nil && s.SecretRef.Name == name || s.ProxySecretRef != nil && s.ProxySecretRef.Name == name ||
			s.Verification != nil && s.Verification.SecretRef.Name == name
	})
}

// contentChanged lets pass what changes what others include: another artifact, or other includes, which may close a loop.
func contentChanged() predicate.Predicate {
	return predicate.Funcs{UpdateFunc: func(e event.UpdateEvent) bool {
		before, ok1 := e.ObjectOld.(*sourcev1.GitRepository)
		after, ok2 := e.ObjectNew.(*sourcev1.GitRepository)
		if !ok1 || !ok2 {
			return false
		}
		a, b := before.Status.Artifact, after.Status.Artifact
		return (a == nil) != (b == nil) || a != nil && (a.Revision != b.Revision || a.Digest != b.Digest) || !equalLists(before.Spec.Include, after.Spec.Include)
	}}
}

// including returns the repositories that include the object.
func (r *Reconciler) including(ctx context.Context, o client.Object) []reconcile.Request {
	return r.in(ctx, o.GetNamespace(), func(repo *sourcev1.GitRepository) bool {
		for _, i := range repo.Spec.Include {
			if i.GitRepositoryRef.Name == o.GetName() {
				return true
			}
		}
		return false
	})
}

// in returns the repositories of a namespace that are wanted.
func (r *Reconciler) in(ctx context.Context, namespace string, wanted func(*sourcev1.GitRepository) bool) []reconcile.Request {
	list := &sourcev1.GitRepositoryList{}
	if err := r.Client.List(ctx, list, client.InNamespace(namespace)); err != nil {
		ctrl.LoggerFrom(ctx).Error(err, "looking up GitRepositories", "namespace", namespace)
		return nil
	}
	var out []reconcile.Request
	for i := range list.Items {
		if wanted(&list.Items[i]) {
			out = append(out, reconcile.Request{NamespacedName: client.ObjectKeyFromObject(&list.Items[i])})
		}
	}
	return out
}
