package externalsecrets

import (
	"context"

	"k8s.io/apimachinery/pkg/runtime/schema"

	v1 "sealock.dev/sealock/api/externalsecrets/v1"
	"sealock.dev/sealock/fault"
	"sealock.dev/sealock/manifest"
)

const (
	kindStore        = "SecretStore"
	kindClusterStore = "ClusterSecretStore"
)

// The kinds that an ExternalSecret refers to, directly or through its store.
var (
	gvkExternalSecret = v1.GroupVersion.WithKind("ExternalSecret")
	gvkStore          = v1.GroupVersion.WithKind(kindStore)
	gvkClusterStore   = v1.GroupVersion.WithKind(kindClusterStore)
	gvkSecret         = schema.GroupVersionKind{Version: "v1", Kind: "Secret"}
	gvkConfigMap      = schema.GroupVersionKind{Version: "v1", Kind: "ConfigMap"}
	gvkAccount        = schema.GroupVersionKind{Version: "v1", Kind: "ServiceAccount"}
	gvkNamespace      = schema.GroupVersionKind{Version: "v1", Kind: "Namespace"}
)

// finder looks for an object in the set of the commit, then in the cluster.
type finder struct {
	set    []manifest.Object
	lookup Lookup
}

// in returns the index of the object in the set, -1 when it is not there. The version is not compared: v1 and v1beta1
// are the same object.
func in(set []manifest.Object, gvk schema.GroupVersionKind, namespace, name string) int {
	for i, o := range set {
		if g := o.GVK(); g.Group == gvk.Group && g.Kind == gvk.Kind && o.Name() == name && (o.Namespace() == namespace || namespace == "") {
			return i
		}
	}
	return -1
}

// get returns the object as it will be. fresh says that it comes with the commit.
func (f finder) get(ctx context.Context, gvk schema.GroupVersionKind, namespace, name string) (obj manifest.Object, fresh bool, err error) {
	if i := in(f.set, gvk, namespace, name); i >= 0 {
		return f.set[i], true, nil
	}
	obj, err = f.live(ctx, gvk, namespace, name)
	return obj, false, err
}

// live returns the object as the cluster has it.
func (f finder) live(ctx context.Context, gvk schema.GroupVersionKind, namespace, name string) (manifest.Object, error) {
	ref := fault.Ref{APIVersion: gvk.GroupVersion().String(), Kind: gvk.Kind, Namespace: namespace, Name: name}
	if f.lookup == nil {
		return manifest.Object{}, absent(ref)
	}
	obj, err := f.lookup.Get(ctx, gvk, namespace, name)
	if err != nil {
		return manifest.Object{}, unread(ref, err)
	}
	return obj, nil
}

// uid returns the uid of an object as the cluster has it.
func (f finder) uid(ctx context.Context, gvk schema.GroupVersionKind, namespace, name string, upcoming bool) (string, error) {
	ref := fault.Ref{APIVersion: gvk.GroupVersion().String(), Kind: gvk.Kind, Namespace: namespace, Name: name}
	if f.lookup == nil {
		return "", absent(ref)
	}
	uid, err := f.lookup.UID(ctx, gvk, namespace, name, upcoming)
	if err != nil {
		return "", unread(ref, err)
	}
	return uid, nil
}

func absent(ref fault.Ref) error {
	return fault.New(fault.StageOpen, fault.NotFound, ref, "it does not exist in the set").Fix("add it")
}

// unread says why an object of the cluster is not known.
func unread(ref fault.Ref, err error) error {
	switch kind := fault.KindOf(err); kind {
	case fault.NotFound:
		return fault.New(fault.StageOpen, kind, ref, "it does not exist").Fix("create it, or add it to the same commit")
	case fault.Denied:
		return fault.New(fault.StageOpen, kind, ref, "it may not be read").Fix("give the controller the right to read it")
	default:
		return fault.New(fault.StageOpen, fault.Transient, ref, "it cannot be read now").Fix("see whether the API server is healthy; it is tried again")
	}
}
