package tenant

import (
	"context"

	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apimachinery/pkg/types"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/builder"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller"
	"sigs.k8s.io/controller-runtime/pkg/handler"
	"sigs.k8s.io/controller-runtime/pkg/predicate"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"sealock.dev/sealock/api/sealock/v1alpha1"
)

// SetupWithManager registers the controller. Namespaces and role bindings are watched so that what somebody removes by
// hand is made again.
func (r *Reconciler) SetupWithManager(mgr ctrl.Manager) error {
	if err := r.setupIndex(mgr); err != nil {
		return err
	}
	return ctrl.NewControllerManagedBy(mgr).
		Named("tenant").
		For(&v1alpha1.Tenant{}, builder.WithPredicates(predicate.GenerationChangedPredicate{})).
		Watches(&corev1.Namespace{}, handler.EnqueueRequestsFromMapFunc(r.ownerOf)).
		Watches(&rbacv1.RoleBinding{}, handler.EnqueueRequestsFromMapFunc(byLabel), builder.WithPredicates(predicate.NewPredicateFuncs(
			func(o client.Object) bool { return o.GetName() == bindingName }))).
		Complete(r)
}

// setupIndex keeps the index on every replica, since every replica answers the webhook. All changes are one request.
func (r *Reconciler) setupIndex(mgr ctrl.Manager) error {
	everyReplica := false
	all := []reconcile.Request{{NamespacedName: types.NamespacedName{Name: "all"}}}
	return ctrl.NewControllerManagedBy(mgr).
		Named("tenant-index").
		Watches(&v1alpha1.Tenant{}, handler.EnqueueRequestsFromMapFunc(func(context.Context, client.Object) []reconcile.Request { return all }),
			builder.WithPredicates(predicate.GenerationChangedPredicate{})).
		WithOptions(controller.Options{NeedLeaderElection: &everyReplica, MaxConcurrentReconciles: 1}).
		Complete(reconcile.Func(func(ctx context.Context, _ reconcile.Request) (reconcile.Result, error) {
			return reconcile.Result{}, r.reload(ctx)
		}))
}

// ownerOf maps a namespace to the tenant that has it by the index, and to the one that its label names.
func (r *Reconciler) ownerOf(_ context.Context, o client.Object) []reconcile.Request {
	var out []reconcile.Request
	if t := r.Registry.Index().Owner(o.GetName()); t != nil {
		out = append(out, reconcile.Request{NamespacedName: types.NamespacedName{Name: t.Name}})
	}
	return append(out, byLabel(context.Background(), o)...)
}

func byLabel(_ context.Context, o client.Object) []reconcile.Request {
	if name := o.GetLabels()[v1alpha1.TenantLabel]; name != "" {
		return []reconcile.Request{{NamespacedName: types.NamespacedName{Name: name}}}
	}
	return nil
}
