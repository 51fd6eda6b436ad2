package main

import (
	"context"
	"path"
	"slices"
	"strings"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/discovery"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"sealock.dev/sealock/fault"
)

// Groups that the adoption looks into.
const (
	sourceGroup   = "source.toolkit.fluxcd.io"
	operatorGroup = "fluxcd.controlplane.io" // of the Flux operator, which keeps Flux as its FluxInstance says
	fluxGroups    = ".toolkit.fluxcd.io"
	crdResource   = "customresourcedefinitions"
)

// fluxState is what a cluster says about its Flux. It holds no Secret.
type fluxState struct {
	namespace   string
	server      string
	controllers []fluxController
	crds        []unstructured.Unstructured
	// objects by kind, of every kind of Flux that the cluster serves.
	objects map[string][]unstructured.Unstructured
	// tenants owns namespaces; nil where Sealock's CRDs are not installed.
	tenants map[string]string
	sealock bool
	// consumers are Deployments that fetch artifacts of GitRepositories and know no token.
	consumers []string
}

// anonymousConsumers are images of controllers that read GitRepositories, besides Flux's own.
var anonymousConsumers = []string{"tf-controller", "tofu-controller", "source-watcher", "pulumi-kubernetes-operator"} //nolint:gochecknoglobals // a constant table

// consumersAmong finds them by their images: they are installed in many ways.
func consumersAmong(list []appsv1.Deployment) []string {
	var out []string
	for _, d := range list {
		if slices.ContainsFunc(d.Spec.Template.Spec.Containers, func(c corev1.Container) bool {
			repository, _, _ := strings.Cut(path.Base(c.Image), ":")
			repository, _, _ = strings.Cut(repository, "@")
			return slices.Contains(anonymousConsumers, repository)
		}) {
			out = append(out, "Deployment/"+d.Namespace+"/"+d.Name)
		}
	}
	return out
}

// readFlux reads it, and fails as NotFound where there is none.
func readFlux(ctx context.Context, config *rest.Config, kube kubernetes.Interface, namespace string) (*fluxState, error) {
	s := &fluxState{namespace: namespace, objects: map[string][]unstructured.Unstructured{}}
	version, err := kube.Discovery().ServerVersion()
	if err != nil {
		return nil, cannotRead("the version of the API server", err)
	}
	s.server = version.GitVersion
	if s.controllers, err = fluxControllers(ctx, kube, time.Now()); err != nil {
		return nil, err
	}
	deployments, err := kube.AppsV1().Deployments("").List(ctx, metav1.ListOptions{})
	if err != nil {
		return nil, cannotRead("Deployments", err)
	}
	s.consumers = consumersAmong(deployments.Items)
	client, err := dynamic.NewForConfig(config)
	if err != nil {
		return nil, err
	}
	if err := s.readKinds(ctx, kube.Discovery(), client); err != nil {
		return nil, err
	}
	if len(s.controllers) == 0 && len(s.crds) == 0 {
		return nil, fault.New("", fault.NotFound, fault.Ref{}, "there is no Flux in this cluster").Fix("check the context; with none there is nothing to take over, and `sealock install` is all that is needed")
	}
	return s, nil
}

func (s *fluxState) readKinds(ctx context.Context, disco discovery.DiscoveryInterface, client dynamic.Interface) error {
	crds, err := client.Resource(schema.GroupVersionResource{Group: "apiextensions.k8s.io", Version: "v1", Resource: crdResource}).List(ctx, metav1.ListOptions{})
	if err != nil {
		return cannotRead("CustomResourceDefinitions", err)
	}
	for _, crd := range crds.Items {
		switch group, _, _ := unstructured.NestedString(crd.Object, "spec", "group"); {
		case strings.HasSuffix(group, fluxGroups), group == operatorGroup:
			s.crds = append(s.crds, crd)
		case group == "sealock.dev":
			s.sealock = true
		}
	}
	// A broken aggregated API must not hide the rest: what could be read is returned beside the error.
	lists, err := disco.ServerPreferredResources()
	if err != nil && len(lists) == 0 {
		return cannotRead("the served kinds", err)
	}
	for _, list := range lists {
		gv, err := schema.ParseGroupVersion(list.GroupVersion)
		if err != nil || !strings.HasSuffix(gv.Group, fluxGroups) && gv.Group != operatorGroup && gv.Group != "sealock.dev" {
			continue
		}
		for _, r := range list.APIResources {
			if !slices.Contains(r.Verbs, "list") || gv.Group == "sealock.dev" && r.Kind != "Tenant" {
				continue
			}
			items, err := client.Resource(gv.WithResource(r.Name)).List(ctx, metav1.ListOptions{})
			if err != nil {
				return cannotRead(r.Kind+" objects", err)
			}
			s.objects[r.Kind] = items.Items
		}
	}
	s.tenants = map[string]string{}
	for _, t := range s.objects["Tenant"] {
		namespaces, _, _ := unstructured.NestedSlice(t.Object, "spec", "namespaces")
		for _, each := range namespaces {
			if ns, ok := each.(map[string]any); ok {
				name, _ := ns["name"].(string)
				s.tenants[name] = t.GetName()
			}
		}
	}
	return nil
}

// text returns a string field of an object, "" when there is none.
func text(o *unstructured.Unstructured, fields ...string) string {
	v, _, _ := unstructured.NestedString(o.Object, fields...)
	return v
}

// has reports whether the field is there and not empty.
func has(o *unstructured.Unstructured, fields ...string) bool {
	v, ok, _ := unstructured.NestedFieldNoCopy(o.Object, fields...)
	switch v := v.(type) {
	case bool:
		return v
	case string:
		return v != ""
	case []any:
		return len(v) > 0
	}
	return ok && v != nil
}

func nameOf(o *unstructured.Unstructured) string {
	if o.GetNamespace() == "" {
		return o.GetKind() + "/" + o.GetName()
	}
	return o.GetKind() + "/" + o.GetNamespace() + "/" + o.GetName()
}

// namesOf returns the names of those that match.
func namesOf(list []unstructured.Unstructured, match func(*unstructured.Unstructured) bool) []string {
	var out []string
	for i := range list {
		if match(&list[i]) {
			out = append(out, nameOf(&list[i]))
		}
	}
	return out
}
