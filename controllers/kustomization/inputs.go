package kustomization

import (
	"context"
	"encoding/json"
	"fmt"
	"io/fs"
	"maps"
	"path"
	"slices"
	"strings"

	kustomizev1 "github.com/fluxcd/kustomize-controller/api/v1"
	sourcev1 "github.com/fluxcd/source-controller/api/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"

	"sealock.dev/sealock/fault"
	"sealock.dev/sealock/pipeline"
	"sealock.dev/sealock/plaintext"
	"sealock.dev/sealock/render"
	"sealock.dev/sealock/tenants"
)

// inputs is everything that a run depends on, read before it.
type inputs struct {
	grant       tenants.Grant
	cluster     pipeline.Cluster
	target      string // identifies a remote cluster
	revision    string
	content     string // the digest of the artifact: what is included, or left out, changes at one revision, too
	origin      string // the revision that the artifact was made from, when it says so
	open        func(ctx context.Context) (fs.FS, error)
	decrypter   pipeline.FileOpener
	renderer    pipeline.Renderer
	reads       *reads // what the build asks
	fingerprint string // of all of this but the revision
}

// inputs reads what the Kustomization refers to, under its grant. The order is that of the checks that users expect:
// configuration, identity, source, dependencies, keys. As in Flux, dependencies are asked when there is something to do: one
// that is busy with a commit of its own does not stop what was applied from being looked after.
func (r *Reconciler) inputs(ctx context.Context, ks *kustomizev1.Kustomization, m *memory) (inputs, error) {
	in := inputs{reads: newReads()}
	if err := r.standing(ctx, ks, m, &in); err != nil {
		return in, err
	}
	if !r.seemsApplied(ks, m, in) {
		if err := r.dependencies(ctx, ks, m, in); err != nil {
			return in, err
		}
		return in, r.content(ctx, ks, &in)
	}
	err := r.content(ctx, ks, &in)
	if err != nil || !r.sameInputs(ctx, ks, m, in) {
		if waits := r.dependencies(ctx, ks, m, in); waits != nil {
			return in, waits
		}
	}
	return in, err
}

// seemsApplied reports whether the revision was applied, by what costs nothing to know. The fingerprint has the last word.
func (r *Reconciler) seemsApplied(ks *kustomizev1.Kustomization, m *memory, in inputs) bool {
	if m.ranAt.IsZero() {
		return r.remembers(ks, in)
	}
	return m.fingerprint != "" && m.revision == in.revision && m.content == in.content
}

// sameInputs reports whether the last whole run, of an earlier process if need be, had the same.
func (r *Reconciler) sameInputs(ctx context.Context, ks *kustomizev1.Kustomization, m *memory, in inputs) bool {
	if m.ranAt.IsZero() {
		return r.recall(ctx, ks, m, in)
	}
	return m.fingerprint == in.fingerprint
}

// standing finds out who asks for what: whether it may, and the source.
func (r *Reconciler) standing(ctx context.Context, ks *kustomizev1.Kustomization, m *memory, in *inputs) error {
	if err := r.configuration(ks, m); err != nil {
		return err
	}
	grant, err := r.identity(ks)
	if err != nil {
		return err
	}
	in.grant = grant
	if ks.Spec.TargetNamespace != "" && !grant.AllowsNamespace(ks.Spec.TargetNamespace) {
		return fault.New(fault.StageGrant, fault.Denied, refOf(ks), "tenant %q has no namespace %q", grant.Tenant, ks.Spec.TargetNamespace).
			At("spec.targetNamespace").Fix("use one of %v", grant.Namespaces)
	}
	return r.source(ctx, ks, in)
}

// content reads keys, variables and what leads to another cluster.
func (r *Reconciler) content(ctx context.Context, ks *kustomizev1.Kustomization, in *inputs) error {
	keys, err := r.decryption(ctx, ks, in)
	if err != nil {
		return err
	}
	vars, err := r.variables(ctx, ks)
	if err != nil {
		return err
	}
	if err := r.target(ctx, ks, in); err != nil {
		return err
	}
	in.renderer = renderer(ks, vars)
	in.fingerprint = r.fingerprint(ks, *in, keys, vars)
	return nil
}

func sourceKey(ks *kustomizev1.Kustomization) types.NamespacedName {
	key := types.NamespacedName{Namespace: ks.Spec.SourceRef.Namespace, Name: ks.Spec.SourceRef.Name}
	if key.Namespace == "" {
		key.Namespace = ks.Namespace
	}
	return key
}

func (r *Reconciler) source(ctx context.Context, ks *kustomizev1.Kustomization, in *inputs) error {
	key := sourceKey(ks)
	if !in.grant.AllowsReference(key.Namespace) {
		return fault.New(fault.StageGrant, fault.Denied, refOf(ks), "can't access '%s/%s', cross-namespace references have been blocked", ks.Spec.SourceRef.Kind, key).
			At("spec.sourceRef.namespace").Fix("make the GitRepository in namespace %s", ks.Namespace)
	}
	repo := &sourcev1.GitRepository{}
	if err := r.Client.Get(ctx, key, repo); err != nil {
		if apierrors.IsNotFound(err) {
			return fault.New(fault.StageSource, fault.NotFound, refOf(ks), "GitRepository %q not found", key.String()).At("spec.sourceRef").Fix("create it")
		}
		return fault.New(fault.StageSource, fault.Transient, refOf(ks), "reading GitRepository %q failed", key.String()).At("spec.sourceRef")
	}
	var ok bool
	if in.revision, in.origin, ok = artifactOf(repo); !ok {
		return fault.New(fault.StageSource, fault.NotFound, refOf(ks), "Source artifact not found, GitRepository %q is not ready", key.String()).
			At("spec.sourceRef").Fix("see the conditions of the GitRepository")
	}
	in.content = repo.Status.Artifact.Digest
	in.open = func(ctx context.Context) (fs.FS, error) { return r.Tree(ctx, key.Namespace, key.Name, in.revision) }
	return nil
}

// decryption reads the keys: those that the Kustomization names in its own namespace, else the tenant's own, else, in a
// platform namespace, those of the installation.
func (r *Reconciler) decryption(ctx context.Context, ks *kustomizev1.Kustomization, in *inputs) (map[string]plaintext.Value, error) {
	d := ks.Spec.Decryption
	if d == nil {
		return nil, nil
	}
	var ns, name string
	fallback := false
	if d.SecretRef != nil {
		ns, name = ks.Namespace, d.SecretRef.Name
	} else if ns, name = in.grant.DecryptionKey(); name == "" && in.grant.Platform {
		ns, name, fallback = r.FallbackKeys.Namespace, r.FallbackKeys.Name, true
	}
	if name == "" {
		return nil, fault.New(fault.StageDecrypt, fault.NoKey, refOf(ks), "no key: neither the Kustomization nor its Tenant names a Secret with age identities").
			At("spec.decryption.secretRef").Fix("name a Secret of namespace %s with an entry *.agekey", ks.Namespace)
	}
	keys, err := r.Data.Secret(ctx, ns, name)
	if err != nil {
		if fault.KindOf(err) == fault.NotFound {
			return nil, fault.New(fault.StageDecrypt, fault.NoKey, refOf(ks), "the Secret %s/%s with the decryption keys does not exist", ns, name).
				At("spec.decryption.secretRef").Fix("create it with an entry *.agekey")
		}
		return nil, err
	}
	if fallback { // for everybody on the platform: it must open nothing but age, whatever else is in it
		maps.DeleteFunc(keys, func(entry string, _ plaintext.Value) bool { return !strings.HasSuffix(entry, ".agekey") })
	}
	in.decrypter, err = r.Decrypter(Decryption{
		Dir: dirOf(ks), Components: ks.Spec.Components, Keys: keys, KeySource: fault.Ref{APIVersion: "v1", Kind: "Secret", Namespace: ns, Name: name}, Recipients: in.grant.Recipients(), Tenant: in.grant.Tenant != "",
	})
	return keys, err
}

// about names the revisions of a run.
func (in inputs) about() revisions { return revisions{in.revision, in.origin} }

// fingerprint identifies, under the key of the installation, all inputs of a run but the revision.
func (r *Reconciler) fingerprint(ks *kustomizev1.Kustomization, in inputs, keys map[string]plaintext.Value, vars []render.Variables) string {
	parts := [][]byte{[]byte(ks.UID), []byte(fmt.Sprint(ks.Generation)), []byte(ks.Annotations[onError]), []byte(ks.Annotations[generatorSuffix]), []byte(ks.Annotations[decryptedValues]), []byte(in.target), []byte(in.grant.User), []byte(r.Snapshot())}
	secrets := []map[string]plaintext.Value{keys}
	public := []any{in.grant.Facts(), in.grant.Recipients()}
	for _, v := range vars {
		public, secrets = append(public, v.Public), append(secrets, v.Secret)
	}
	text, _ := json.Marshal(public) // maps and strings only
	parts = append(parts, text)
	for _, m := range secrets {
		for _, k := range slices.Sorted(maps.Keys(m)) {
			parts = append(parts, []byte(k), []byte(m[k].Digest(r.Engine.Key)))
		}
	}
	return r.Engine.Key.Digest(parts...)
}

// dirOf returns spec.path as a slash-separated path inside the repository. It cannot leave it: path.Clean of a rooted
// path drops every leading "..".
func dirOf(ks *kustomizev1.Kustomization) string {
	dir := path.Clean("/" + ks.Spec.Path)[1:]
	if dir == "" {
		return "."
	}
	return dir
}

func gvkOf(apiVersion, kind string) schema.GroupVersionKind {
	return schema.FromAPIVersionAndKind(apiVersion, kind)
}
