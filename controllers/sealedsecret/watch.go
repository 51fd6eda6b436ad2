package sealedsecret

import (
	"context"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/builder"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller"
	"sigs.k8s.io/controller-runtime/pkg/event"
	"sigs.k8s.io/controller-runtime/pkg/handler"
	"sigs.k8s.io/controller-runtime/pkg/predicate"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"
	"sigs.k8s.io/controller-runtime/pkg/source"

	"sealock.dev/sealock/sealing"
)

// SetupWithManager registers the controller. A Secret is named as its SealedSecret, so any change of it leads there:
// what was edited or deleted by hand is repaired, and a Secret that stood in the way is noticed when it goes.
func (r *Reconciler) SetupWithManager(mgr ctrl.Manager, concurrent int) error {
	r.reader = mgr.GetCache() // a client reads unstructured objects from the API server unless told otherwise
	return ctrl.NewControllerManagedBy(mgr).
		Named("sealedsecret").
		For(newSealedSecret(), builder.WithPredicates(specOrScope())).
		WatchesMetadata(&corev1.Secret{}, handler.EnqueueRequestsFromMapFunc(r.sealedSecretOf)).
		WatchesRawSource(source.Channel(r.again, &handler.EnqueueRequestForObject{})).
		WithOptions(controller.Options{MaxConcurrentReconciles: concurrent}).
		Complete(r)
}

// specOrScope passes a change of the spec, or of the annotations that decide the scope. Status writes are ours.
func specOrScope() predicate.Predicate {
	return predicate.Or(predicate.GenerationChangedPredicate{}, predicate.Funcs{
		UpdateFunc: func(e event.UpdateEvent) bool {
			return sealing.ScopeOf(e.ObjectOld.GetAnnotations()) != sealing.ScopeOf(e.ObjectNew.GetAnnotations())
		},
	})
}

// sealedSecretOf asks the cache, so that the other Secrets of the cluster make no work.
func (r *Reconciler) sealedSecretOf(ctx context.Context, secret client.Object) []reconcile.Request {
	name := types.NamespacedName{Namespace: secret.GetNamespace(), Name: secret.GetName()}
	if r.reader.Get(ctx, name, newSealedSecret()) != nil {
		return nil
	}
	return []reconcile.Request{{NamespacedName: name}}
}
