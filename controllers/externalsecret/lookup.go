package externalsecret

import (
	"context"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	v1 "sealock.dev/sealock/api/externalsecrets/v1"
	"sealock.dev/sealock/externalsecrets"
	"sealock.dev/sealock/fault"
	"sealock.dev/sealock/manifest"
)

// Lookup answers for the kinds that this controller watches from the cache, and for everything else, and for a store that
// the cache does not show yet, from the API server. An ExternalSecret that a watch does not show yet counts as absent: a
// commit then reads for it, once more than it had to.
type Lookup struct {
	externalsecrets.Lookup
	Cache client.Reader
}

// Get implements externalsecrets.Lookup.
func (l Lookup) Get(ctx context.Context, gvk schema.GroupVersionKind, namespace, name string) (manifest.Object, error) {
	if gvk.GroupVersion() != v1.GroupVersion {
		return l.Lookup.Get(ctx, gvk, namespace, name)
	}
	live := newObject(gvk.Kind)
	err := l.Cache.Get(ctx, types.NamespacedName{Namespace: namespace, Name: name}, live)
	if err == nil {
		return manifest.New(live.DeepCopy().Object, manifest.Source{}, nil)
	}
	if apierrors.IsNotFound(err) && gvk.Kind == "ExternalSecret" {
		ref := fault.Ref{APIVersion: gvk.GroupVersion().String(), Kind: gvk.Kind, Namespace: namespace, Name: name}
		return manifest.Object{}, fault.New(fault.StageOpen, fault.NotFound, ref, "it does not exist").Fix("create it, or correct the reference")
	}
	return l.Lookup.Get(ctx, gvk, namespace, name)
}
