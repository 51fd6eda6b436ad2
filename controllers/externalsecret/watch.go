package externalsecret

import (
	"context"
	"maps"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
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

	v1 "sealock.dev/sealock/api/externalsecrets/v1"
	"sealock.dev/sealock/externalsecrets"
)

// The indexes of the cache.
const (
	byTarget     = "sealock.target"     // ExternalSecrets by the name of their Secret
	byStore      = "sealock.store"      // ExternalSecrets by "kind/name" of their stores
	byCredential = "sealock.credential" // stores by "namespace/name" of the Secrets that they refer to
)

// SetupWithManager registers the controllers of ExternalSecrets and of both kinds of store.
func (r *Reconciler) SetupWithManager(ctx context.Context, mgr ctrl.Manager, concurrent int) error {
	r.reader = mgr.GetCache() // a client reads unstructured objects from the API server unless told otherwise
	indexer := mgr.GetFieldIndexer()
	for _, each := range indexes() {
		if err := indexer.IndexField(ctx, newObject(each.kind), each.field, each.extract); err != nil {
			return err
		}
	}
	options := controller.Options{
		MaxConcurrentReconciles: concurrent,
		RateLimiter:             workqueue.NewTypedItemExponentialFailureRateLimiter[reconcile.Request](time.Second, 7*time.Minute),
	}
	err := ctrl.NewControllerManagedBy(mgr).
		Named("externalsecret").
		For(newObject("ExternalSecret"), builder.WithPredicates(touched())).
		Watches(newObject("ExternalSecret"), r.touchedByHand()).
		WatchesMetadata(&corev1.Secret{}, handler.EnqueueRequestsFromMapFunc(r.usersOfSecret)).
		Watches(newObject(kindStore), r.usersOfStore(kindStore)).
		Watches(newObject(kindClusterStore), r.usersOfStore(kindClusterStore)).
		WithOptions(options).
		Complete(r)
	if err != nil {
		return err
	}
	for _, kind := range []string{kindStore, kindClusterStore} {
		s := &storeReconciler{Reconciler: r, kind: kind}
		options.RateLimiter = workqueue.NewTypedItemExponentialFailureRateLimiter[reconcile.Request](time.Second, 7*time.Minute)
		err := ctrl.NewControllerManagedBy(mgr).
			Named(map[string]string{kindStore: "secretstore", kindClusterStore: "clustersecretstore"}[kind]).
			For(newObject(kind), builder.WithPredicates(predicate.GenerationChangedPredicate{})).
			WatchesMetadata(&corev1.Secret{}, handler.EnqueueRequestsFromMapFunc(func(ctx context.Context, o client.Object) []reconcile.Request {
				return requests(r.storesWith(ctx, kind, o))
			})).
			WithOptions(options).
			Complete(s)
		if err != nil {
			return err
		}
	}
	return nil
}

// index is one index of the cache.
type index struct {
	kind, field string
	extract     client.IndexerFunc
}

func indexes() []index {
	spec := func(o client.Object) (v1.ExternalSecretSpec, bool) {
		u, ok := o.(*unstructured.Unstructured)
		if !ok {
			return v1.ExternalSecretSpec{}, false
		}
		_, s, err := decode(u)
		return s, err == nil
	}
	credentials := func(o client.Object) []string {
		u, ok := o.(*unstructured.Unstructured)
		if !ok {
			return nil
		}
		obj, err := objectOf(u)
		if err != nil {
			return nil
		}
		return externalsecrets.Credentials(obj)
	}
	return []index{
		{"ExternalSecret", byTarget, func(o client.Object) []string {
			if s, ok := spec(o); ok {
				return []string{externalsecrets.TargetName(o.GetName(), s)}
			}
			return nil
		}},
		{"ExternalSecret", byStore, func(o client.Object) []string {
			var out []string
			if s, ok := spec(o); ok {
				for _, ref := range externalsecrets.Stores(s) {
					out = append(out, ref.Kind+"/"+ref.Name)
				}
			}
			return out
		}},
		{kindStore, byCredential, credentials},
		{kindClusterStore, byCredential, credentials},
	}
}

// touched passes what an ExternalSecret is refreshed for: spec, labels and annotations. Status writes are ours.
func touched() predicate.Predicate {
	return predicate.Or(predicate.GenerationChangedPredicate{}, predicate.LabelChangedPredicate{}, predicate.AnnotationChangedPredicate{})
}

// touchedByHand has an ExternalSecret refreshed whose labels or annotations changed, even when they are as before by the
// time that it is looked at: `kubectl annotate es NAME force-sync=...` is how people ask for a refresh, and where Git
// holds the object the annotation is taken back at once.
func (r *Reconciler) touchedByHand() handler.EventHandler {
	return handler.Funcs{
		UpdateFunc: func(_ context.Context, e event.UpdateEvent, q workqueue.TypedRateLimitingInterface[reconcile.Request]) {
			if maps.Equal(e.ObjectOld.GetAnnotations(), e.ObjectNew.GetAnnotations()) && maps.Equal(e.ObjectOld.GetLabels(), e.ObjectNew.GetLabels()) {
				return
			}
			name := client.ObjectKeyFromObject(e.ObjectNew)
			r.touch(name)
			q.Add(reconcile.Request{NamespacedName: name})
		},
	}
}

// list returns the objects of a kind that an index holds under the value. The cache does not fail once it is filled.
func (r *Reconciler) list(ctx context.Context, kind, field, value, namespace string) []types.NamespacedName {
	list := &unstructured.UnstructuredList{}
	list.SetGroupVersionKind(v1.GroupVersion.WithKind(kind + "List"))
	options := []client.ListOption{client.MatchingFields{field: value}}
	if namespace != "" {
		options = append(options, client.InNamespace(namespace))
	}
	if r.reader.List(ctx, list, options...) != nil {
		return nil
	}
	out := make([]types.NamespacedName, 0, len(list.Items))
	for i := range list.Items {
		out = append(out, client.ObjectKeyFromObject(&list.Items[i]))
	}
	return out
}

func requests(names []types.NamespacedName) []reconcile.Request {
	out := make([]reconcile.Request, 0, len(names))
	for _, n := range names {
		out = append(out, reconcile.Request{NamespacedName: n})
	}
	return out
}

// usersOfSecret returns the ExternalSecrets that make a Secret, and those that wait for it as a credential.
func (r *Reconciler) usersOfSecret(ctx context.Context, secret client.Object) []reconcile.Request {
	out := requests(r.list(ctx, "ExternalSecret", byTarget, secret.GetName(), secret.GetNamespace()))
	for _, kind := range []string{kindStore, kindClusterStore} {
		for _, store := range r.storesWith(ctx, kind, secret) {
			// One that was read does not change by a new credential; one that failed may succeed, and is due.
			out = append(out, requests(r.users(ctx, kind, store))...)
		}
	}
	return out
}

// storesWith returns the stores of a kind that refer to the Secret.
func (r *Reconciler) storesWith(ctx context.Context, kind string, secret client.Object) []types.NamespacedName {
	out := r.list(ctx, kind, byCredential, secret.GetNamespace()+"/"+secret.GetName(), "")
	if kind == kindClusterStore {
		out = append(out, r.list(ctx, kind, byCredential, "*/"+secret.GetName(), "")...)
	}
	return out
}

// users returns the ExternalSecrets that use a store.
func (r *Reconciler) users(ctx context.Context, kind string, store types.NamespacedName) []types.NamespacedName {
	return r.list(ctx, "ExternalSecret", byStore, kind+"/"+store.Name, store.Namespace)
}

// usersOfStore has the users of a store refreshed when its spec changes, and looked at when it appears: they may have
// failed for want of it. After a restart every store appears, and none of its users is due for that.
func (r *Reconciler) usersOfStore(kind string) handler.EventHandler {
	type queue = workqueue.TypedRateLimitingInterface[reconcile.Request]
	enqueue := func(ctx context.Context, store client.Object, q queue, changed bool) {
		for _, user := range r.users(ctx, kind, client.ObjectKeyFromObject(store)) {
			if changed {
				r.touch(user)
			}
			q.Add(reconcile.Request{NamespacedName: user})
		}
	}
	return handler.Funcs{
		CreateFunc: func(ctx context.Context, e event.CreateEvent, q queue) { enqueue(ctx, e.Object, q, false) },
		UpdateFunc: func(ctx context.Context, e event.UpdateEvent, q queue) {
			if e.ObjectOld.GetGeneration() != e.ObjectNew.GetGeneration() {
				enqueue(ctx, e.ObjectNew, q, true)
			}
		},
	}
}
