package policy

import (
	"context"

	"k8s.io/client-go/util/workqueue"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/builder"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller"
	"sigs.k8s.io/controller-runtime/pkg/handler"
	"sigs.k8s.io/controller-runtime/pkg/predicate"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"
	"sigs.k8s.io/controller-runtime/pkg/source"

	"sealock.dev/sealock/api/sealock/v1alpha1"
)

// SetupWithManager registers the controller on every replica. All changes are one request, so that the queue makes one
// compilation of many changes; it is also made at the start, when there may be no Policy at all, and when this replica
// begins to lead, because the status may be another's.
func (r *Reconciler) SetupWithManager(mgr ctrl.Manager) error {
	if r.Leads == nil {
		r.Leads = mgr.Elected()
	}
	everyReplica := false
	all := reconcile.Request{}
	all.Name = "all"
	return ctrl.NewControllerManagedBy(mgr).
		Named("policy").
		Watches(&v1alpha1.Policy{}, handler.EnqueueRequestsFromMapFunc(func(context.Context, client.Object) []reconcile.Request { return []reconcile.Request{all} }),
			builder.WithPredicates(predicate.GenerationChangedPredicate{})).
		WatchesRawSource(source.Func(func(ctx context.Context, queue workqueue.TypedRateLimitingInterface[reconcile.Request]) error {
			queue.Add(all)
			go func() {
				select {
				case <-r.Leads:
					queue.Add(all)
				case <-ctx.Done():
				}
			}()
			return nil
		})).
		WithOptions(controller.Options{NeedLeaderElection: &everyReplica, MaxConcurrentReconciles: 1}).
		Complete(r)
}
