package kustomization

import (
	"context"

	kustomizev1 "github.com/fluxcd/kustomize-controller/api/v1"
	sourcev1 "github.com/fluxcd/source-controller/api/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
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
)

// Fields by which Kustomizations are looked up in the cache.
const (
	bySource     = "sealock.source"
	byDependency = "sealock.dependency"
	byExpression = "sealock.expression"
	byReference  = "sealock.reference"
)

// watchLabel on a Secret or ConfigMap asks that its changes are followed at once (reference/flux.md, section 1.1).
const watchLabel = "reconcile.fluxcd.io/watch"

// SetupWithManager registers the controller: a Kustomization is looked at when it, its source, a dependency, a referred
// Secret or ConfigMap with the watch label, or an object that it manages changes. Nothing polls.
func (r *Reconciler) SetupWithManager(ctx context.Context, mgr ctrl.Manager, concurrent int) error {
	for field, keys := range map[string]client.IndexerFunc{bySource: sourceKeys, byDependency: dependencyKeys, byExpression: expressionKeys, byReference: referenceKeys} {
		if err := mgr.GetFieldIndexer().IndexField(ctx, &kustomizev1.Kustomization{}, field, keys); err != nil {
			return err
		}
	}
	requests := make(chan event.TypedGenericEvent[types.NamespacedName])
	if err := mgr.Add(managerRunnable(func(ctx context.Context) error { return forward(ctx, r.Requeue, requests) })); err != nil {
		return err
	}
	configs := r.Configs
	if configs == nil {
		configs = labels.SelectorFromSet(labels.Set{watchLabel: "Enabled"})
	}
	labelled := builder.WithPredicates(predicate.NewPredicateFuncs(func(o client.Object) bool { return configs.Matches(labels.Set(o.GetLabels())) }))
	return ctrl.NewControllerManagedBy(mgr).
		Named("kustomization").
		For(&kustomizev1.Kustomization{}, builder.WithPredicates(predicate.Or(predicate.GenerationChangedPredicate{}, requestedPredicate()))).
		Watches(&sourcev1.GitRepository{}, r.enqueue(bySource), builder.WithPredicates(artifactChanged())).
		Watches(&kustomizev1.Kustomization{}, r.enqueue(byDependency), builder.WithPredicates(readyChanged())).
		Watches(&kustomizev1.Kustomization{}, r.enqueue(byExpression), builder.WithPredicates(predicate.ResourceVersionChangedPredicate{})).
		WatchesMetadata(&corev1.Secret{}, r.enqueueReference("Secret"), labelled).
		WatchesMetadata(&corev1.ConfigMap{}, r.enqueueReference("ConfigMap"), labelled).
		WatchesRawSource(source.TypedChannel(requests, handler.TypedEnqueueRequestsFromMapFunc(
			func(_ context.Context, key types.NamespacedName) []reconcile.Request {
				return []reconcile.Request{{NamespacedName: key}}
			}))).
		WithOptions(controller.Options{MaxConcurrentReconciles: concurrent}).
		Complete(r)
}

// managerRunnable is a function that the manager runs on the leader.
type managerRunnable func(ctx context.Context) error

func (f managerRunnable) Start(ctx context.Context) error { return f(ctx) }

func forward(ctx context.Context, from <-chan types.NamespacedName, to chan<- event.TypedGenericEvent[types.NamespacedName]) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case key := <-from:
			select {
			case to <- event.TypedGenericEvent[types.NamespacedName]{Object: key}:
			case <-ctx.Done():
				return nil
			}
		}
	}
}

func sourceKeys(o client.Object) []string {
	ks, ok := o.(*kustomizev1.Kustomization)
	if !ok {
		return nil
	}
	if ks.Spec.SourceRef.Kind != sourcev1.GitRepositoryKind {
		return nil
	}
	return []string{sourceKey(ks).String()}
}

func dependencyKeys(o client.Object) []string {
	ks, ok := o.(*kustomizev1.Kustomization)
	if !ok {
		return nil
	}
	var out []string
	for i := range ks.Spec.DependsOn {
		out = append(out, dependencyKey(ks, i).String())
	}
	return out
}

// expressionKeys are the dependencies of which anything may matter.
func expressionKeys(o client.Object) []string {
	ks, ok := o.(*kustomizev1.Kustomization)
	if !ok {
		return nil
	}
	var out []string
	for i, d := range ks.Spec.DependsOn {
		if d.ReadyExpr != "" {
			out = append(out, dependencyKey(ks, i).String())
		}
	}
	return out
}

func referenceKeys(o client.Object) []string {
	ks, ok := o.(*kustomizev1.Kustomization)
	if !ok {
		return nil
	}
	var out []string
	if d := ks.Spec.Decryption; d != nil && d.SecretRef != nil {
		out = append(out, "Secret/"+ks.Namespace+"/"+d.SecretRef.Name)
	}
	if k := ks.Spec.KubeConfig; k != nil && k.ConfigMapRef != nil {
		out = append(out, "ConfigMap/"+ks.Namespace+"/"+k.ConfigMapRef.Name)
	}
	if k := ks.Spec.KubeConfig; k != nil && k.SecretRef != nil {
		out = append(out, "Secret/"+ks.Namespace+"/"+k.SecretRef.Name)
	}
	if p := ks.Spec.PostBuild; p != nil {
		for _, ref := range p.SubstituteFrom {
			out = append(out, ref.Kind+"/"+ks.Namespace+"/"+ref.Name)
		}
	}
	return out
}

func (r *Reconciler) enqueue(field string) handler.EventHandler {
	return handler.EnqueueRequestsFromMapFunc(func(ctx context.Context, o client.Object) []reconcile.Request {
		return r.lookup(ctx, field, o.GetNamespace()+"/"+o.GetName())
	})
}

func (r *Reconciler) enqueueReference(kind string) handler.EventHandler {
	return handler.EnqueueRequestsFromMapFunc(func(ctx context.Context, o client.Object) []reconcile.Request {
		return r.lookup(ctx, byReference, kind+"/"+o.GetNamespace()+"/"+o.GetName())
	})
}

func (r *Reconciler) lookup(ctx context.Context, field, value string) []reconcile.Request {
	list := &kustomizev1.KustomizationList{}
	if err := r.Client.List(ctx, list, client.MatchingFields{field: value}); err != nil {
		ctrl.LoggerFrom(ctx).Error(err, "looking up Kustomizations", "field", field)
		return nil
	}
	out := make([]reconcile.Request, 0, len(list.Items))
	for i := range list.Items {
		out = append(out, reconcile.Request{NamespacedName: client.ObjectKeyFromObject(&list.Items[i])})
	}
	return out
}

func requestedPredicate() predicate.Predicate {
	return predicate.Funcs{UpdateFunc: func(e event.UpdateEvent) bool {
		before, after := e.ObjectOld.GetAnnotations(), e.ObjectNew.GetAnnotations()
		return before[requestedAt] != after[requestedAt] || before[onError] != after[onError] || before[generatorSuffix] != after[generatorSuffix] || before[decryptedValues] != after[decryptedValues]
	}}
}

func artifactChanged() predicate.Predicate {
	return predicate.Funcs{UpdateFunc: func(e event.UpdateEvent) bool {
		a, okA := e.ObjectOld.(*sourcev1.GitRepository)
		b, okB := e.ObjectNew.(*sourcev1.GitRepository)
		if !okA || !okB {
			return false
		}
		x, _, okX := artifactOf(a)
		y, _, okY := artifactOf(b)
		return x != y || okX && okY && a.Status.Artifact.Digest != b.Status.Artifact.Digest
	}}
}

// readyChanged lets dependents look when a Kustomization becomes ready, or ready at another revision or generation.
func readyChanged() predicate.Predicate {
	type state struct {
		ready      metav1.ConditionStatus
		revision   string
		generation int64
	}
	of := func(o client.Object) (s state) {
		if ks, ok := o.(*kustomizev1.Kustomization); ok {
			s.revision, s.generation = ks.Status.LastAppliedRevision, ks.Status.ObservedGeneration
			if c := meta.FindStatusCondition(ks.Status.Conditions, "Ready"); c != nil {
				s.ready = c.Status
			}
		}
		return s
	}
	return predicate.Funcs{UpdateFunc: func(e event.UpdateEvent) bool { return of(e.ObjectOld) != of(e.ObjectNew) }}
}
