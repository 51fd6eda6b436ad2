package main

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path"
	"slices"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/rest"

	"sealock.dev/sealock/api/sealock/v1alpha1"
	"sealock.dev/sealock/cluster"
	"sealock.dev/sealock/fault"
	"sealock.dev/sealock/manifest"
	"sealock.dev/sealock/plaintext"
	"sealock.dev/sealock/tenants"
)

// judgesOfCluster reads Policies and Tenants from a cluster, and asks it for the scope of kinds.
func judgesOfCluster(ctx context.Context, config *rest.Config) (judges, error) {
	client, err := dynamic.NewForConfig(config)
	if err != nil {
		return judges{}, err
	}
	var with judges
	if err := list(ctx, client, "policies", &with.policies); err != nil {
		return judges{}, err
	}
	if err := list(ctx, client, "tenants", &with.tenants); err != nil {
		return judges{}, err
	}
	objects, err := cluster.New(ctx, cluster.Options{Config: config, Key: plaintext.RandomKey()})
	if err != nil {
		return judges{}, err
	}
	with.resolve = objects.Resolve
	return with, nil
}

func list[T any](ctx context.Context, client dynamic.Interface, resource string, into *[]T) error {
	found, err := client.Resource(v1alpha1.GroupVersion.WithResource(resource)).List(ctx, metav1.ListOptions{})
	switch {
	case apierrors.IsNotFound(err), meta.IsNoMatchError(err):
		return fault.New("", fault.NotFound, fault.Ref{}, "the cluster has no %s of sealock.dev", resource).Fix("run `sealock install --apply`, or name files with --policies")
	case apierrors.IsForbidden(err):
		return fault.New("", fault.Denied, fault.Ref{}, "you may not list %s of sealock.dev", resource).Fix("ask for the right, or name files with --policies")
	case err != nil:
		return fault.New("", fault.Transient, fault.Ref{}, "the API server did not list %s", resource).Fix("check it with `kubectl version`, and repeat the command")
	}
	for i := range found.Items {
		if err := typed(found.Items[i].Object, into); err != nil {
			return err
		}
	}
	return nil
}

func typed[T any](body map[string]any, into *[]T) error {
	var one T
	if err := runtime.DefaultUnstructuredConverter.FromUnstructured(body, &one); err != nil {
		u := unstructured.Unstructured{Object: body}
		return fault.New("", fault.Invalid, refOf(&u), "%w", err).Fix("see docs/spec for its fields")
	}
	*into = append(*into, one)
	return nil
}

// judgesOfFiles reads Policies and Tenants from a folder and below; other objects there are left alone.
func judgesOfFiles(ctx context.Context, dir string) (judges, error) {
	disk, err := os.OpenRoot(dir)
	if err != nil {
		return judges{}, noFolder(dir)
	}
	defer disk.Close()
	with := judges{resolve: resolveOffline}
	err = fs.WalkDir(disk.FS(), ".", func(name string, entry fs.DirEntry, err error) error {
		if err != nil || ctx.Err() != nil {
			return errors.Join(err, ctx.Err())
		}
		if !entry.Type().IsRegular() || !slices.Contains([]string{".yaml", ".yml", ".json"}, path.Ext(name)) {
			return nil
		}
		return with.read(disk.FS(), dir, name)
	})
	return with, err
}

func (with *judges) read(files fs.FS, dir, name string) error {
	text, err := fs.ReadFile(files, name)
	if err != nil {
		return fault.New("", fault.NotFound, fault.Ref{File: path.Join(dir, name)}, "the file cannot be read").Fix("check its permissions")
	}
	docs, err := manifest.Decode(path.Join(dir, name), text, manifest.DefaultLimits)
	if err != nil {
		return err
	}
	for _, d := range docs {
		if d.Body["apiVersion"] != v1alpha1.GroupVersion.String() {
			continue
		}
		switch d.Body["kind"] {
		case kindPolicy:
			err = typed(d.Body, &with.policies)
		case "Tenant":
			err = typed(d.Body, &with.tenants)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// clusterScoped are the kinds without a namespace that every cluster has, and ours. Without a cluster nobody can be
// asked; kinds that are not listed, and not defined in the set, count as namespaced.
var clusterScoped = []string{ //nolint:gochecknoglobals // a constant
	"Namespace", "Node", "PersistentVolume",
	"APIService.apiregistration.k8s.io",
	"CertificateSigningRequest.certificates.k8s.io",
	"ClusterRole.rbac.authorization.k8s.io", "ClusterRoleBinding.rbac.authorization.k8s.io",
	"CustomResourceDefinition.apiextensions.k8s.io",
	"CSIDriver.storage.k8s.io", "CSINode.storage.k8s.io", "StorageClass.storage.k8s.io", "VolumeAttachment.storage.k8s.io",
	"FlowSchema.flowcontrol.apiserver.k8s.io", "PriorityLevelConfiguration.flowcontrol.apiserver.k8s.io",
	"IngressClass.networking.k8s.io", "GatewayClass.gateway.networking.k8s.io",
	"MutatingWebhookConfiguration.admissionregistration.k8s.io", "ValidatingWebhookConfiguration.admissionregistration.k8s.io",
	"ValidatingAdmissionPolicy.admissionregistration.k8s.io", "ValidatingAdmissionPolicyBinding.admissionregistration.k8s.io",
	"PriorityClass.scheduling.k8s.io", "RuntimeClass.node.k8s.io",
	"Tenant.sealock.dev", "Policy.sealock.dev", "PolicyException.sealock.dev",
	"ClusterSecretStore.external-secrets.io",
}

// resolveOffline does what a cluster's Resolve does, with what is known without one.
func resolveOffline(_ context.Context, grant tenants.Grant, set []manifest.Object) ([]manifest.Object, error) {
	scoped := slices.Clone(clusterScoped)
	for _, o := range set {
		if group, _ := o.Peek("spec", "group").(string); o.Kind() == kindCRD && o.Peek("spec", "scope") == "Cluster" {
			kind, _ := o.Peek("spec", "names", "kind").(string)
			scoped = append(scoped, kind+"."+group)
		}
	}
	var out []manifest.Object
	var errs []error
	for _, o := range set {
		gk := o.GVK().GroupKind()
		switch {
		case slices.Contains(scoped, gk.String()):
			if !grant.AllowsClusterKind(gk.Group, gk.Kind) {
				errs = append(errs, fault.New(fault.StageGrant, fault.Denied, o.Ref(), "%s is cluster-scoped, and tenant %q may not have it", gk.Kind, grant.Tenant).
					Fix("take it out, or let the platform team list it in spec.clusterKinds of the Tenant"))
				continue
			}
			o = o.WithNamespace("")
		case o.Namespace() == "":
			o = o.WithNamespace(grant.Namespace)
		case !grant.AllowsNamespace(o.Namespace()):
			errs = append(errs, fault.New(fault.StageGrant, fault.Denied, o.Ref(), "the namespace %q is not one of tenant %q", o.Namespace(), grant.Tenant).
				At("metadata.namespace").Fix("use one of the tenant's namespaces, or let the platform team add it to the Tenant"))
			continue
		}
		out = append(out, o)
	}
	return out, errors.Join(errs...)
}
