package main

import (
	"context"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"sealock.dev/sealock/api/sealock/v1alpha1"
	"sealock.dev/sealock/policies/builtin"
	"sealock.dev/sealock/tenants"
)

// tenant tells whose namespace the Kustomization is in, and as whom it acts, where the controller has not noted it: by the
// Tenants and the settings, or, for who may not list them, by the label of the namespace.
func (a *asker) tenant(ctx context.Context, ks *unstructured.Unstructured, system string) {
	namespace := ks.GetNamespace()
	var all []v1alpha1.Tenant
	list, err := a.of(tenantKind, "").List(ctx, metav1.ListOptions{})
	if err == nil {
		for i := range list.Items {
			_ = typed(list.Items[i].Object, &all) // one that cannot be read owns nothing
		}
		settings, err := a.settings(ctx, system)
		if err != nil {
			a.Notes = append(a.Notes, "as whom it acts is told by the settings of the shipped manifests: "+err.Error())
		}
		index := tenants.NewIndex(all, settings)
		grant, err := index.Grant(kustomizationKind.ref(namespace, ks.GetName()), field(ks, "spec", "serviceAccountName"))
		if err != nil {
			grant = index.GrantFor(namespace)
		}
		a.Tenant, a.Identity = grant.Tenant, grant.User
		return
	}
	ns, err := a.meta.Resource(schema.GroupVersionResource{Version: "v1", Resource: "namespaces"}).Get(ctx, namespace, metav1.GetOptions{})
	if err != nil {
		a.Notes = append(a.Notes, "whose tenant it is cannot be told: you may read neither Tenants nor the Namespace")
		return
	}
	a.Tenant = ns.Labels[v1alpha1.TenantLabel]
}

// policies names those that judged. Which they were is known as long as they are the same now: the snapshot is a digest.
func (a *asker) policies(ctx context.Context) {
	if a.Policies == "" {
		return
	}
	var found []v1alpha1.Policy
	if err := list(ctx, a.objects, "policies", &found); err != nil {
		a.Notes = append(a.Notes, "which policies judged is not known: "+err.Error())
		return
	}
	snapshot, _ := builtin.Load(nil, found)
	a.PolicyNames, a.NamesAreNow = snapshot.Names(), snapshot.ID() != a.Policies
}

// shortSnapshot is how much of a digest people compare by eye.
const shortSnapshot = 8

func (a *explanation) policyText() string {
	if a.Policies == "" {
		return ""
	}
	text := "snapshot " + a.Policies[:min(shortSnapshot, len(a.Policies))]
	switch names := strings.Join(a.PolicyNames, ", "); {
	case names == "":
	case a.NamesAreNow:
		text += ", which were others than now: " + names
	default:
		text += ": " + names
	}
	return text
}
