package kustomization

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	kustomizev1 "github.com/fluxcd/kustomize-controller/api/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"sealock.dev/sealock/expressions"
	"sealock.dev/sealock/fault"
	"sealock.dev/sealock/tenants"
)

// maxCycle bounds how many Kustomizations are looked at in the search for a cycle.
const maxCycle = 200

// otherShard is how soon a dependency of another shard, which is not watched, is looked at again: the default of Flux's
// --requeue-dependency.
const otherShard = 30 * time.Second

// dependencies fails as NotFound while one of dependsOn is not ready. Changes of Kustomizations are watched. A dependency
// in another namespace is held to the rules for references, all the more with an expression: its answers would tell
// anything about the object, a bit at a time.
func (r *Reconciler) dependencies(ctx context.Context, ks *kustomizev1.Kustomization, m *memory, in inputs) error {
	m.foreign = false
	for i := range ks.Spec.DependsOn {
		key := dependencyKey(ks, i)
		if !in.grant.AllowsDependency(key.Namespace, ks.Spec.DependsOn[i].ReadyExpr != "") {
			return fault.New(fault.StageGrant, fault.Denied, refOf(ks), "can't access 'Kustomization/%s', cross-namespace references have been blocked", key).
				At(fmt.Sprintf("spec.dependsOn[%d].namespace", i)).Fix("depend on a Kustomization of namespace %s", ks.Namespace)
		}
		dep := &kustomizev1.Kustomization{}
		foreign, err := r.kustomization(ctx, key, dep)
		m.foreign = m.foreign || foreign
		if err != nil {
			if !apierrors.IsNotFound(err) {
				return fault.New(dependency, fault.Transient, refOf(ks), "reading dependency '%s' failed", key)
			}
			return fault.New(dependency, fault.NotFound, refOf(ks), "dependency '%s' not found", key)
		}
		if err := dependable(ctx, ks, dep, m.compiled.ready[i], in.revision); err != nil {
			if path := r.cycle(ctx, ks, in.grant); path != nil {
				return fault.New(dependency, fault.NotFound, refOf(ks), "%w; none of them can become ready: %s", causeError(err), strings.Join(path, " -> ")).
					At("spec.dependsOn").Fix("remove one of the dependencies of this cycle")
			}
			return err
		}
	}
	return nil
}

// kustomization reads one that another refers to. foreign says that it is of another shard: nobody tells when it changes.
func (r *Reconciler) kustomization(ctx context.Context, key types.NamespacedName, into *kustomizev1.Kustomization) (foreign bool, err error) {
	err = r.Client.Get(ctx, key, into)
	if r.Sharded && err != nil { // not found, or in a namespace that the cache does not have
		return true, r.APIReader.Get(ctx, key, into)
	}
	return false, err
}

func causeError(err error) error {
	for _, f := range fault.All(err) {
		return f.Err
	}
	return err
}

func dependencyKey(ks *kustomizev1.Kustomization, i int) types.NamespacedName {
	d := ks.Spec.DependsOn[i]
	if d.Namespace == "" {
		return types.NamespacedName{Namespace: ks.Namespace, Name: d.Name}
	}
	return types.NamespacedName{Namespace: d.Namespace, Name: d.Name}
}

// dependable says why dep is not ready for ks. As in Flux an expression takes the place of the built-in checks.
func dependable(ctx context.Context, ks, dep *kustomizev1.Kustomization, ready *expressions.Expression, revision string) error {
	key := client.ObjectKeyFromObject(dep)
	if ready != nil {
		self, errSelf := fieldsOf(ks)
		other, errOther := fieldsOf(dep)
		if errSelf != nil || errOther != nil {
			return fault.New(dependency, fault.Internal, refOf(ks), "dependency '%s' cannot be read by an expression", key)
		}
		yes, err := ready.Eval(ctx, map[string]any{"self": self, "dep": other})
		if err != nil {
			return fault.New(dependency, fault.NotFound, refOf(ks), "dependency '%s' is not ready according to readyExpr eval: %s", key, causeOf(err))
		}
		if !yes {
			return fault.New(dependency, fault.NotFound, refOf(ks), "dependency '%s' is not ready according to readyExpr eval", key)
		}
		return nil
	}
	if !meta.IsStatusConditionTrue(dep.Status.Conditions, "Ready") || dep.Generation != dep.Status.ObservedGeneration {
		return fault.New(dependency, fault.NotFound, refOf(ks), "dependency '%s' is not ready", key)
	}
	if sourceKey(ks) == sourceKey(dep) && ks.Spec.SourceRef.Kind == dep.Spec.SourceRef.Kind && dep.Status.LastAppliedRevision != revision {
		return fault.New(dependency, fault.NotFound, refOf(ks), "dependency '%s' revision is not up to date", key)
	}
	return nil
}

// fieldsOf returns the Kustomization as an expression sees it.
func fieldsOf(ks *kustomizev1.Kustomization) (map[string]any, error) {
	c := ks.DeepCopy()
	c.APIVersion, c.Kind = kustomizev1.GroupVersion.String(), kustomizev1.KustomizationKind
	c.ManagedFields = nil
	return runtime.DefaultUnstructuredConverter.ToUnstructured(c)
}

// cycle returns a way from the Kustomization along dependsOn back to itself, nil when there is none. It follows only the
// references that the grant allows.
func (r *Reconciler) cycle(ctx context.Context, ks *kustomizev1.Kustomization, grant tenants.Grant) []string {
	self := client.ObjectKeyFromObject(ks)
	seen := map[types.NamespacedName]bool{}
	var search func(at *kustomizev1.Kustomization, path []string) []string
	search = func(at *kustomizev1.Kustomization, path []string) []string {
		for i := range at.Spec.DependsOn {
			key := dependencyKey(at, i)
			if key == self {
				return append(slices.Clone(path), key.String())
			}
			if seen[key] || len(seen) >= maxCycle || !grant.AllowsDependency(key.Namespace, false) {
				continue
			}
			seen[key] = true
			next := &kustomizev1.Kustomization{}
			if _, err := r.kustomization(ctx, key, next); err != nil {
				continue
			}
			if found := search(next, append(slices.Clone(path), key.String())); found != nil {
				return found
			}
		}
		return nil
	}
	return search(ks, []string{self.String()})
}
