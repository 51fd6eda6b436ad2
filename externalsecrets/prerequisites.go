package externalsecrets

import (
	"maps"
	"slices"

	"k8s.io/apimachinery/pkg/runtime/schema"

	v1 "sealock.dev/sealock/api/externalsecrets/v1"
	"sealock.dev/sealock/manifest"
	"sealock.dev/sealock/tenants"
)

// Prerequisites returns the indexes of what must be in the cluster before the ExternalSecret can be opened: its stores,
// what they refer to, and the namespaces of all of them.
func (o *Opener) Prerequisites(obj manifest.Object, set []manifest.Object) []int {
	spec, err := specOf(obj)
	if err != nil {
		return nil // Open says why
	}
	w := o.work(tenants.Grant{}, obj, spec, set)
	need := map[int]bool{}
	add := func(gvk schema.GroupVersionKind, namespace, name string) int {
		i := in(set, gvk, namespace, name)
		if i < 0 {
			return -1
		}
		need[i] = true
		if at := in(set, gvkNamespace, "", namespace); namespace != "" && at >= 0 {
			need[at] = true
		}
		return i
	}
	for i := range spec.Data {
		ref := w.storeRef(i)
		gvk, namespace := gvkStore, obj.Namespace()
		if ref.Kind == kindClusterStore {
			gvk, namespace = gvkClusterStore, ""
		}
		at := add(gvk, namespace, ref.Name)
		if at < 0 {
			continue // a store of the cluster, whose credentials may still come with the commit
		}
		var store v1.StoreSpec
		if decodeSpec(set[at], &store) != nil {
			continue
		}
		for _, r := range references(store, obj.Namespace()) {
			add(r.gvk, r.namespace, r.name)
			if r.gvk == gvkSecret {
				add(schema.GroupVersionKind{Group: "bitnami.com", Kind: "SealedSecret"}, r.namespace, r.name)
			}
		}
	}
	if at := in(set, gvkNamespace, "", obj.Namespace()); at >= 0 {
		need[at] = true
	}
	return slices.Sorted(maps.Keys(need))
}

// reference is an object that a store refers to.
type reference struct {
	gvk             schema.GroupVersionKind
	namespace, name string
}

// references returns what a store refers to, for a use from the namespace.
func references(s v1.StoreSpec, namespace string) []reference {
	var out []reference
	add := func(gvk schema.GroupVersionKind, named *string, name string) {
		ns := namespace
		if named != nil && *named != "" {
			ns = *named
		}
		out = append(out, reference{gvk, ns, name})
	}
	v := s.Provider.Vault
	if v == nil {
		return nil
	}
	if p := v.CAProvider; p != nil {
		gvk := gvkConfigMap
		if p.Type == "Secret" {
			gvk = gvkSecret
		}
		add(gvk, p.Namespace, p.Name)
	}
	a := v.Auth
	if a == nil {
		return out
	}
	if r := a.TokenSecretRef; r != nil {
		add(gvkSecret, r.Namespace, r.Name)
	}
	if r := a.AppRole; r != nil {
		add(gvkSecret, r.SecretRef.Namespace, r.SecretRef.Name)
		if r.RoleRef != nil {
			add(gvkSecret, r.RoleRef.Namespace, r.RoleRef.Name)
		}
	}
	if k := a.Kubernetes; k != nil {
		if r := k.ServiceAccountRef; r != nil {
			add(gvkAccount, r.Namespace, r.Name)
		}
		if r := k.SecretRef; r != nil {
			add(gvkSecret, r.Namespace, r.Name)
		}
	}
	return out
}
