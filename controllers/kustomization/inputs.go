package kustomization

import (
	"context"
	"encoding/json"
	"fmt"
	"io/fs"
	"maps"
	"path"
	"slices"

	kustomizev1 "github.com/fluxcd/kustomize-controller/api/v1"
	sourcev1 "github.com/fluxcd/source-controller/api/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
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
	revision    string
	open        func(ctx context.Context) (fs.FS, error)
	decrypter   pipeline.FileOpener
	renderer    pipeline.Renderer
	fingerprint string
}

// inputs reads what the Kustomization refers to, under its grant. The order is that of the checks that users expect:
// configuration, identity, source, dependencies, keys.
func (r *Reconciler) inputs(ctx context.Context, ks *kustomizev1.Kustomization) (inputs, error) {
	in := inputs{}
	if err := unsupported(ks); err != nil {
		return in, err
	}
	grant, err := r.Tenants().Grant(refOf(ks), ks.Spec.ServiceAccountName)
	if err != nil {
		return in, err
	}
	in.grant = grant
	if ks.Spec.TargetNamespace != "" && !grant.AllowsNamespace(ks.Spec.TargetNamespace) {
		return in, fault.New(fault.StageGrant, fault.Denied, refOf(ks), "tenant %q has no namespace %q", grant.Tenant, ks.Spec.TargetNamespace).
			At("spec.targetNamespace").Fix("use one of %v", grant.Namespaces)
	}
	if err := r.source(ctx, ks, &in); err != nil {
		return in, err
	}
	if err := r.dependencies(ctx, ks, in); err != nil {
		return in, err
	}
	keys, err := r.decryption(ctx, ks, &in)
	if err != nil {
		return in, err
	}
	vars, err := r.variables(ctx, ks)
	if err != nil {
		return in, err
	}
	in.renderer = renderer(ks, vars)
	in.fingerprint = r.fingerprint(ks, in, keys, vars)
	return in, nil
}

// unsupported names the first field that is not served yet: a field that is silently ignored would be worse.
func unsupported(ks *kustomizev1.Kustomization) error {
	s := ks.Spec
	for _, f := range []struct {
		path string
		set  bool
	}{
		{"spec.kubeConfig", s.KubeConfig != nil},
		{"spec.force", s.Force},
		{"spec.healthCheckExprs", len(s.HealthCheckExprs) > 0},
		{"spec.ignore", len(s.Ignore) > 0},
		{"spec.decryption.serviceAccountName", s.Decryption != nil && s.Decryption.ServiceAccountName != ""},
		{"spec.sourceRef.kind", s.SourceRef.Kind != sourcev1.GitRepositoryKind},
	} {
		if f.set {
			return fault.New(fault.StageGrant, fault.Invalid, refOf(ks), "this version of Sealock does not serve the field yet").At(f.path).Fix("leave it out")
		}
	}
	for i, d := range s.DependsOn {
		if d.ReadyExpr != "" {
			return fault.New(fault.StageGrant, fault.Invalid, refOf(ks), "this version of Sealock does not serve the field yet").
				At(fmt.Sprintf("spec.dependsOn[%d].readyExpr", i)).Fix("leave it out")
		}
	}
	return nil
}

func (r *Reconciler) source(ctx context.Context, ks *kustomizev1.Kustomization, in *inputs) error {
	ref := ks.Spec.SourceRef
	key := types.NamespacedName{Namespace: ref.Namespace, Name: ref.Name}
	if key.Namespace == "" {
		key.Namespace = ks.Namespace
	}
	if !in.grant.AllowsReference(key.Namespace) {
		return fault.New(fault.StageGrant, fault.Denied, refOf(ks), "can't access '%s/%s', cross-namespace references have been blocked", ref.Kind, key).
			At("spec.sourceRef.namespace").Fix("make the GitRepository in namespace %s", ks.Namespace)
	}
	repo := &sourcev1.GitRepository{}
	if err := r.Client.Get(ctx, key, repo); err != nil {
		if apierrors.IsNotFound(err) {
			return fault.New(fault.StageSource, fault.NotFound, refOf(ks), "GitRepository %q not found", key.String()).At("spec.sourceRef").Fix("create it")
		}
		return fault.New(fault.StageSource, fault.Transient, refOf(ks), "reading GitRepository %q failed", key.String()).At("spec.sourceRef")
	}
	revision, ok := artifactOf(repo)
	if !ok {
		return fault.New(fault.StageSource, fault.NotFound, refOf(ks), "Source artifact not found, GitRepository %q is not ready", key.String()).
			At("spec.sourceRef").Fix("see the conditions of the GitRepository")
	}
	in.revision = revision
	in.open = func(ctx context.Context) (fs.FS, error) { return r.Tree(ctx, key.Namespace, key.Name, revision) }
	return nil
}

// dependencies fails as NotFound while one of dependsOn is not ready. Changes of Kustomizations are watched.
func (r *Reconciler) dependencies(ctx context.Context, ks *kustomizev1.Kustomization, in inputs) error {
	for i, d := range ks.Spec.DependsOn {
		key := types.NamespacedName{Namespace: d.Namespace, Name: d.Name}
		if key.Namespace == "" {
			key.Namespace = ks.Namespace
		}
		if !in.grant.AllowsReference(key.Namespace) {
			return fault.New(fault.StageGrant, fault.Denied, refOf(ks), "can't access 'Kustomization/%s', cross-namespace references have been blocked", key).
				At(fmt.Sprintf("spec.dependsOn[%d].namespace", i)).Fix("depend on a Kustomization of namespace %s", ks.Namespace)
		}
		dep := &kustomizev1.Kustomization{}
		if err := r.Client.Get(ctx, key, dep); err != nil {
			if !apierrors.IsNotFound(err) {
				return fault.New(dependency, fault.Transient, refOf(ks), "reading dependency '%s' failed", key)
			}
			return fault.New(dependency, fault.NotFound, refOf(ks), "dependency '%s' not found", key)
		}
		if !meta.IsStatusConditionTrue(dep.Status.Conditions, "Ready") || dep.Generation != dep.Status.ObservedGeneration {
			return fault.New(dependency, fault.NotFound, refOf(ks), "dependency '%s' is not ready", key)
		}
		if sameSource(ks, dep) && dep.Status.LastAppliedRevision != in.revision {
			return fault.New(dependency, fault.NotFound, refOf(ks), "dependency '%s' revision is not up to date", key)
		}
	}
	return nil
}

// dependency is a stage of this front end alone.
const dependency fault.Stage = "dependency"

func sameSource(a, b *kustomizev1.Kustomization) bool {
	x, y := a.Spec.SourceRef, b.Spec.SourceRef
	if x.Namespace == "" {
		x.Namespace = a.Namespace
	}
	if y.Namespace == "" {
		y.Namespace = b.Namespace
	}
	return x.Kind == y.Kind && x.Name == y.Name && x.Namespace == y.Namespace
}

// decryption reads the keys: those that the Kustomization names in its own namespace, else the tenant's own.
func (r *Reconciler) decryption(ctx context.Context, ks *kustomizev1.Kustomization, in *inputs) (map[string]plaintext.Value, error) {
	d := ks.Spec.Decryption
	if d == nil {
		return nil, nil
	}
	var ns, name string
	if d.SecretRef != nil {
		ns, name = ks.Namespace, d.SecretRef.Name
	} else if ns, name = in.grant.DecryptionKey(); name == "" {
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
	in.decrypter, err = r.Decrypter(Decryption{
		Dir: dirOf(ks), Components: ks.Spec.Components, Keys: keys, KeySource: fault.Ref{APIVersion: "v1", Kind: "Secret", Namespace: ns, Name: name}, Recipients: in.grant.Recipients(), Tenant: in.grant.Tenant != "",
	})
	return keys, err
}

// fingerprint identifies all inputs of a run under the key of the installation.
func (r *Reconciler) fingerprint(ks *kustomizev1.Kustomization, in inputs, keys map[string]plaintext.Value, vars []render.Variables) string {
	parts := [][]byte{[]byte(ks.UID), []byte(fmt.Sprint(ks.Generation)), []byte(in.revision), []byte(in.grant.User), []byte(r.Snapshot())}
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
