package externalsecrets

import (
	"context"
	"encoding/json"
	"maps"
	"slices"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	v1 "sealock.dev/sealock/api/externalsecrets/v1"
	"sealock.dev/sealock/fault"
	"sealock.dev/sealock/manifest"
	"sealock.dev/sealock/plaintext"
)

// RefreshPeriodic is the refresh policy of those that name none.
const RefreshPeriodic = "Periodic"

// DefaultInterval is the refresh interval of those that name none.
var DefaultInterval = metav1.Duration{Duration: time.Hour} //nolint:gochecknoglobals // a constant

func uid(o manifest.Object) string { s, _ := o.Peek("metadata", "uid").(string); return s }

func version(o manifest.Object) string {
	s, _ := o.Peek("metadata", "resourceVersion").(string)
	return s
}

// keys returns the keys of the Secret that the spec yields.
func keys(spec v1.ExternalSecretSpec) []string {
	out := map[string]bool{}
	t := spec.Target.Template
	if t == nil || len(t.Data) == 0 || t.MergePolicy == "Merge" {
		for _, d := range spec.Data {
			out[d.SecretKey] = true
		}
	}
	if t != nil {
		for k := range t.Data {
			out[k] = true
		}
	}
	return slices.Sorted(maps.Keys(out))
}

// Valid reports whether a live Secret is what the ExternalSecret last made of it: managed, and with the content whose hash
// it carries. Where a Secret is only completed, the keys of others do not count.
func Valid(spec v1.ExternalSecretSpec, secret manifest.Object) bool {
	if spec.Target.CreationPolicy == creationOrphan {
		return true
	}
	hash := secret.Annotations()[v1.AnnotationDataHash]
	if secret.Labels()[v1.LabelManaged] != "true" || hash == "" {
		return false
	}
	data := secret.SecretData()
	if DataHash(data) == hash {
		return true
	}
	if p := spec.Target.CreationPolicy; p != creationMerge && p != creationCreateOrMerge {
		return false
	}
	ours := map[string]plaintext.Value{}
	for _, k := range keys(spec) {
		if v, ok := data[k]; ok {
			ours[k] = v
		}
	}
	return DataHash(ours) == hash
}

// unchanged reports whether the cluster has this very ExternalSecret already, and a valid Secret of it. Whoever cannot be
// read counts as changed.
func (w *work) unchanged(ctx context.Context) bool {
	if w.find.lookup == nil || w.spec.Target.CreationPolicy == creationNone {
		return false
	}
	live, err := w.find.live(ctx, gvkExternalSecret, w.obj.Namespace(), w.obj.Name())
	if err != nil {
		return false
	}
	spec, err := specOf(live)
	if err != nil || !same(spec, w.spec) || !within(w.obj.Annotations(), live.Annotations()) || !within(w.obj.Labels(), live.Labels()) {
		return false
	}
	if live.Peek("status", "syncedResourceVersion") != syncedVersion(live) {
		return false // it was changed, and has not been read since
	}
	if w.storesChange(ctx) {
		return false
	}
	secret, err := w.find.live(ctx, gvkSecret, w.obj.Namespace(), TargetName(w.obj.Name(), w.spec))
	return err == nil && Valid(w.spec, secret)
}

func syncedVersion(live manifest.Object) string {
	generation, _ := live.Peek("metadata", "generation").(int64)
	if f, ok := live.Peek("metadata", "generation").(float64); ok {
		generation = int64(f)
	}
	return SyncedResourceVersion(generation, live.Annotations(), live.Labels())
}

// storesChange reports whether the commit changes a store that is used.
func (w *work) storesChange(ctx context.Context) bool {
	for i := range w.spec.Data {
		ref := w.storeRef(i)
		gvk, namespace := gvkStore, w.obj.Namespace()
		if ref.Kind == kindClusterStore {
			gvk, namespace = gvkClusterStore, ""
		}
		at := in(w.find.set, gvk, namespace, ref.Name)
		if at < 0 {
			continue
		}
		live, err := w.find.live(ctx, gvk, namespace, ref.Name)
		if err != nil {
			return true
		}
		var a, b v1.StoreSpec
		if decodeSpec(w.find.set[at], &a) != nil || decodeSpec(live, &b) != nil || !same(storeDefaults(a), storeDefaults(b)) {
			return true
		}
	}
	return false
}

// storeDefaults fills in what the schema would.
func storeDefaults(s v1.StoreSpec) v1.StoreSpec {
	v := s.Provider.Vault
	if v == nil {
		return s
	}
	if v.Version == "" {
		v.Version = "v2"
	}
	if a := v.Auth; a != nil && a.Kubernetes != nil && a.Kubernetes.Path == "" {
		a.Kubernetes.Path = "kubernetes"
	}
	if a := v.Auth; a != nil && a.AppRole != nil && a.AppRole.Path == "" {
		a.AppRole.Path = "approle"
	}
	return s
}

func same(a, b any) bool {
	x, errX := json.Marshal(a)
	y, errY := json.Marshal(b)
	return errX == nil && errY == nil && string(x) == string(y)
}

// within reports whether everything of part stands in whole.
func within(part, whole map[string]string) bool {
	for k, v := range part {
		if whole[k] != v {
			return false
		}
	}
	return true
}

// Intact reports whether the Secret of an ExternalSecret of the cluster is there and valid, so that nothing needs to be
// read while no refresh is due. It asks the cluster alone.
func (o *Opener) Intact(ctx context.Context, obj manifest.Object) (bool, error) {
	spec, err := specOf(obj)
	if err != nil {
		return false, err
	}
	if p := spec.Target.CreationPolicy; p == creationNone || p == creationOrphan {
		return true, nil
	}
	secret, err := finder{lookup: o.Lookup}.live(ctx, gvkSecret, obj.Namespace(), TargetName(obj.Name(), spec))
	if fault.KindOf(err) == fault.NotFound && err != nil {
		return spec.Target.CreationPolicy == creationMerge, nil //nolint:nilerr // one that is only completed may be absent
	}
	if err != nil {
		return false, err
	}
	return Valid(spec, secret), nil
}

// Stores returns the stores that an ExternalSecret uses, without duplicates.
func Stores(spec v1.ExternalSecretSpec) []v1.StoreRef {
	w := &work{spec: spec}
	var out []v1.StoreRef
	for i := range spec.Data {
		if ref := w.storeRef(i); !slices.Contains(out, ref) {
			out = append(out, ref)
		}
	}
	return out
}

// Credentials returns the Secrets that a store refers to, as "namespace/name"; the namespace is "*" where it is that of
// whoever uses the store.
func Credentials(store manifest.Object) []string {
	var spec v1.StoreSpec
	if decodeSpec(store, &spec) != nil {
		return nil
	}
	namespace := store.Namespace()
	if store.Kind() == kindClusterStore {
		namespace = "*"
	}
	var out []string
	for _, r := range references(spec, namespace) {
		if r.gvk == gvkSecret {
			out = append(out, r.namespace+"/"+r.name)
		}
	}
	return out
}
