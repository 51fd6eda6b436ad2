package kustomization

import (
	"context"

	kustomizev1 "github.com/fluxcd/kustomize-controller/api/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// AddToScheme registers the kind, so that nobody else needs Flux's types for it.
func AddToScheme(s *runtime.Scheme) error { return kustomizev1.AddToScheme(s) }

// Names returns all Kustomizations of the cluster.
func Names(ctx context.Context, from client.Reader) ([]types.NamespacedName, error) {
	list := &kustomizev1.KustomizationList{}
	if err := from.List(ctx, list); err != nil {
		return nil, err
	}
	names := make([]types.NamespacedName, len(list.Items))
	for i := range list.Items {
		names[i] = client.ObjectKeyFromObject(&list.Items[i])
	}
	return names, nil
}
