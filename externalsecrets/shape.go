package externalsecrets

import (
	"context"
	"crypto/sha3"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	v1 "sealock.dev/sealock/api/externalsecrets/v1"
	"sealock.dev/sealock/fault"
	"sealock.dev/sealock/manifest"
	"sealock.dev/sealock/plaintext"
)

// maxSecret is what the API server accepts as the payload of a Secret.
const maxSecret = 1 << 20

// FieldManager is the field manager of the Secret of the ExternalSecret: the peer's, so that keys which it wrote once and
// that are gone are removed.
func FieldManager(name string) string {
	const prefix = "externalsecrets.external-secrets.io/"
	if full := prefix + name; len(full) <= 63 {
		return full
	}
	return prefix + "sha3/" + sum(name)
}

// CreatedBy is the value of the label that tells which ExternalSecret made a Secret.
func CreatedBy(namespace, name string) string { return sum(namespace + "/" + name) }

// SyncedResourceVersion identifies what of an ExternalSecret was synced: its spec, labels and annotations.
func SyncedResourceVersion(generation int64, annotations, labels map[string]string) string {
	return fmt.Sprintf("%d-%s", generation, sum(fmt.Sprintf("%+v", struct{ annotations, labels map[string]string }{annotations, labels})))
}

// DataHash is the hash of the payload that the peer's clients know. It is no keyed digest: it stands, as the peer writes
// it, on the ExternalSecret's own Secret and nowhere else.
func DataHash(data map[string]plaintext.Value) string {
	keys := slices.Sorted(maps.Keys(data))
	list := make([]plaintext.Value, len(keys))
	for i, k := range keys {
		list[i] = data[k]
	}
	var hash string
	_, _ = plaintext.Derive(func(parts ...[]byte) ([]byte, error) {
		raw := map[string][]byte{}
		for i, k := range keys {
			raw[k] = parts[i]
		}
		hash = sum(fmt.Sprintf("%+v", raw))
		return nil, nil
	}, list...)
	return hash
}

func sum(text string) string {
	h := sha3.Sum224([]byte(text))
	return hex.EncodeToString(h[:])
}

// TargetName is the name of the Secret that an ExternalSecret makes.
func TargetName(name string, spec v1.ExternalSecretSpec) string {
	if spec.Target.Name != "" {
		return spec.Target.Name
	}
	return name
}

// produced is the frame of every answer.
func (w *work) produced(secret manifest.Object) manifest.Produced {
	owner := w.ref()
	owner.APIVersion = v1.GroupVersion.String() // one form of owner reference, whatever version Git uses
	policy := w.spec.Target.CreationPolicy
	return manifest.Produced{
		Owner: owner, Secret: secret, FieldManager: FieldManager(w.obj.Name()), Adopt: manifest.AdoptManaged,
		OwnerReference: policy == creationOwner,
		CreateIfAbsent: policy == creationOwner || policy == creationOrphan || policy == creationCreateOrMerge,
		Merge:          policy == creationMerge || policy == creationCreateOrMerge,
		Immutable:      w.spec.Target.Immutable,
	}
}

// kept says that nothing is to be written.
func (w *work) kept() manifest.Produced {
	p := w.produced(manifest.NewSecret(w.obj.Namespace(), TargetName(w.obj.Name(), w.spec), "", nil, manifest.External, w.obj.Source))
	p.Keep = true
	return p
}

// shape makes the Secret of the values.
func (w *work) shape(ctx context.Context, values map[string]plaintext.Value) (manifest.Produced, error) {
	data, err := w.data(ctx, values)
	if err != nil {
		return manifest.Produced{}, err
	}
	size := 0
	for _, v := range data {
		size += v.Len()
	}
	if size > maxSecret {
		return manifest.Produced{}, w.fail(fault.Invalid, "spec.data", "split it into several ExternalSecrets", "the Secret would have %d bytes, more than the limit of %d", size, maxSecret)
	}
	labels, annotations, err := w.metadata(ctx)
	if err != nil {
		return manifest.Produced{}, err
	}
	labels[v1.LabelManaged] = "true"
	if w.spec.Target.CreationPolicy == creationOwner {
		labels[v1.LabelCreatedBy] = CreatedBy(w.obj.Namespace(), w.obj.Name())
	}
	annotations[v1.AnnotationDataHash] = DataHash(data)
	typ := ""
	if t := w.spec.Target.Template; t != nil {
		typ = string(t.Type)
	}
	secret := manifest.NewSecret(w.obj.Namespace(), TargetName(w.obj.Name(), w.spec), typ, data, manifest.External, w.obj.Source).WithMeta(labels, annotations)
	return w.produced(secret), nil
}

// data returns the payload: the values as they are, or what the templates make of them.
func (w *work) data(ctx context.Context, values map[string]plaintext.Value) (map[string]plaintext.Value, error) {
	t := w.spec.Target.Template
	if t == nil || len(t.Data) == 0 {
		return values, nil
	}
	out := map[string]plaintext.Value{}
	if t.MergePolicy == "Merge" {
		maps.Copy(out, values)
	}
	var errs []error
	for _, key := range slices.Sorted(maps.Keys(t.Data)) {
		v, err := w.Templates.Execute(ctx, key, t.Data[key], values)
		if err != nil {
			errs = append(errs, w.templateFault(err, "spec.target.template.data."+key))
			continue
		}
		out[key] = v
	}
	return out, errors.Join(errs...)
}

func (w *work) templateFault(err error, path string) error {
	var f *fault.Error
	if !errors.As(err, &f) {
		return w.fail(fault.Internal, path, "report it", "the template failed")
	}
	e := *f
	e.Stage, e.Ref, e.Field = fault.StageOpen, w.ref(), path
	return &e
}

// copied reports whether a label or annotation of the ExternalSecret goes to its Secret when there is no template. Those
// with which tools mark their own objects do not: on the Secret they would be wrong.
func copied(key string) bool {
	for _, prefix := range []string{"kubectl.kubernetes.io/", "kustomize.toolkit.fluxcd.io/", "argocd.argoproj.io/", "sealedsecrets.bitnami.com/", "reconcile.external-secrets.io/", "reconcile.fluxcd.io/"} {
		if strings.HasPrefix(key, prefix) {
			return false
		}
	}
	return true
}

// metadata returns the labels and annotations of the Secret.
func (w *work) metadata(ctx context.Context) (labels, annotations map[string]string, err error) {
	labels, annotations = map[string]string{}, map[string]string{}
	t := w.spec.Target.Template
	if t == nil {
		for k, v := range w.obj.Labels() {
			if copied(k) {
				labels[k] = v
			}
		}
		for k, v := range w.obj.Annotations() {
			if copied(k) {
				annotations[k] = v
			}
		}
		return labels, annotations, nil
	}
	const at = "spec.target.template.metadata."
	return labels, annotations, errors.Join(
		w.rendered(ctx, at+"labels", t.Metadata.Labels, labels), w.rendered(ctx, at+"annotations", t.Metadata.Annotations, annotations))
}

// rendered executes the templates of metadata without any value: metadata is read by more people than a payload is.
func (w *work) rendered(ctx context.Context, path string, from, into map[string]string) error {
	var errs []error
	for _, key := range slices.Sorted(maps.Keys(from)) {
		if strings.HasPrefix(key, "sealedsecrets.bitnami.com/") || strings.HasPrefix(key, "reconcile.external-secrets.io/") {
			errs = append(errs, w.fail(fault.Denied, path, "remove it", "%s may not be set by a template", key))
			continue
		}
		text := from[key]
		if !strings.Contains(text, "{{") {
			into[key] = text
			continue
		}
		v, err := w.Templates.Execute(ctx, key, text, nil)
		if err != nil {
			errs = append(errs, w.fail(fault.Invalid, path, "write it without values", "the template of %s cannot be executed; templates of metadata see no values", key))
			continue
		}
		into[key] = string(v.Reveal()) // made of the template alone
	}
	return errors.Join(errs...)
}
