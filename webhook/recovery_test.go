package webhook

import (
	"net"
	"strings"
	"testing"

	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/dynamic"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/yaml"
)

func tokenRequest() *authenticationv1.TokenRequest {
	return &authenticationv1.TokenRequest{Spec: authenticationv1.TokenRequestSpec{Audiences: []string{"vault"}}}
}

// critical is what a cluster needs to stay alive, and Sealock to come up again. Who writes is in as.
var critical = []struct{ as, resource, manifest string }{
	{"alice", "nodes", `{apiVersion: v1, kind: Node, metadata: {name: node-1}}`},
	{"alice", "leases.coordination.k8s.io", `{apiVersion: coordination.k8s.io/v1, kind: Lease, metadata: {name: node-1, namespace: kube-node-lease}}`},
	{"alice", "leases.coordination.k8s.io", `{apiVersion: coordination.k8s.io/v1, kind: Lease, metadata: {name: l, namespace: kube-system}}`},
	{"alice", "leases.coordination.k8s.io", `{apiVersion: coordination.k8s.io/v1, kind: Lease, metadata: {name: l, namespace: team-a}}`},
	{"alice", "events", `{apiVersion: v1, kind: Event, metadata: {name: e, namespace: team-a}, involvedObject: {kind: Pod, namespace: team-a, name: p}}`},
	{"alice", "events.events.k8s.io", `{apiVersion: events.k8s.io/v1, kind: Event, metadata: {name: e, namespace: team-a}, eventTime: "2026-01-01T00:00:00.000000Z", reportingController: c, reportingInstance: i, action: a, reason: r, type: Normal, regarding: {kind: Pod, namespace: team-a, name: p}}`},
	{"system:serviceaccount:kube-system:endpoint-controller", "endpoints", `{apiVersion: v1, kind: Endpoints, metadata: {name: e, namespace: team-a}}`},
	{"system:serviceaccount:kube-system:endpointslice-controller", "endpointslices.discovery.k8s.io", `{apiVersion: discovery.k8s.io/v1, kind: EndpointSlice, metadata: {name: e, namespace: team-a}, addressType: IPv4, endpoints: []}`},
	{"alice", "pods", `{apiVersion: v1, kind: Pod, metadata: {name: p, namespace: kube-system}, spec: {serviceAccountName: default, automountServiceAccountToken: false, containers: [{name: c, image: i}]}}`},
	{"alice", "pods", `{apiVersion: v1, kind: Pod, metadata: {name: p, namespace: sealock-system}, spec: {serviceAccountName: sealock-controller, containers: [{name: c, image: i}]}}`},
	{"alice", "deployments.apps", `{apiVersion: apps/v1, kind: Deployment, metadata: {name: d, namespace: sealock-system}, spec: {selector: {matchLabels: {a: b}}, template: {metadata: {labels: {a: b}}, spec: {containers: [{name: c, image: i}]}}}}`},
	{"alice", "secrets", `{apiVersion: v1, kind: Secret, metadata: {name: s, namespace: sealock-system}}`},
	{"alice", "services", `{apiVersion: v1, kind: Service, metadata: {name: s, namespace: flux-system}, spec: {ports: [{port: 80}]}}`},
	{"alice", "namespaces", `{apiVersion: v1, kind: Namespace, metadata: {name: fresh, labels: {pod-security.kubernetes.io/enforce: restricted}}}`},
	{"alice", "serviceaccounts", `{apiVersion: v1, kind: ServiceAccount, metadata: {name: s, namespace: default}}`},
	{"alice", "clusterroles.rbac.authorization.k8s.io", `{apiVersion: rbac.authorization.k8s.io/v1, kind: ClusterRole, metadata: {name: r}}`},
	{"alice", "clusterrolebindings.rbac.authorization.k8s.io", `{apiVersion: rbac.authorization.k8s.io/v1, kind: ClusterRoleBinding, metadata: {name: b}, roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: cluster-admin}}`},
	{"alice", "customresourcedefinitions.apiextensions.k8s.io", `{apiVersion: apiextensions.k8s.io/v1, kind: CustomResourceDefinition, metadata: {name: as.example.com}, spec: {group: example.com, scope: Cluster, names: {plural: as, kind: A}, versions: [{name: v1, served: true, storage: true, schema: {openAPIV3Schema: {type: object}}}]}}`},
	{"alice", "validatingwebhookconfigurations.admissionregistration.k8s.io", `{apiVersion: admissionregistration.k8s.io/v1, kind: ValidatingWebhookConfiguration, metadata: {name: w}}`},
	{"alice", "apiservices.apiregistration.k8s.io", `{apiVersion: apiregistration.k8s.io/v1, kind: APIService, metadata: {name: v1.x.example.com}, spec: {group: x.example.com, version: v1, groupPriorityMinimum: 100, versionPriority: 10, insecureSkipTLSVerify: true, service: {name: s, namespace: default}}}`},
	{"alice", "priorityclasses.scheduling.k8s.io", `{apiVersion: scheduling.k8s.io/v1, kind: PriorityClass, metadata: {name: p}, value: 1}`},
	{"alice", "storageclasses.storage.k8s.io", `{apiVersion: storage.k8s.io/v1, kind: StorageClass, metadata: {name: s}, provisioner: p}`},
	{"alice", "tenants.sealock.dev", `{apiVersion: sealock.dev/v1alpha1, kind: Tenant, metadata: {name: t}, spec: {namespaces: [{name: elsewhere}]}}`},
	{"alice", "policies.sealock.dev", `{apiVersion: sealock.dev/v1alpha1, kind: Policy, metadata: {name: p}, spec: {rego: x}}`},
	{"alice", "gitrepositories.source.toolkit.fluxcd.io", `{apiVersion: source.toolkit.fluxcd.io/v1, kind: GitRepository, metadata: {name: g, namespace: flux-system}, spec: {url: "https://example.com/x", interval: 1m}}`},
	{"alice", "kustomizations.kustomize.toolkit.fluxcd.io", `{apiVersion: kustomize.toolkit.fluxcd.io/v1, kind: Kustomization, metadata: {name: k, namespace: flux-system}, spec: {interval: 1m, prune: true, sourceRef: {kind: GitRepository, name: g}}}`},
	// What Sealock writes for tenants itself.
	{controller, "secrets", `{apiVersion: v1, kind: Secret, metadata: {name: s, namespace: team-a}}`},
	{controller, "namespaces", `{apiVersion: v1, kind: Namespace, metadata: {name: fresh, labels: {sealock.dev/tenant: team-a}}}`},
	{"system:serviceaccount:sealock-system:sealock-platform", "configmaps", `{apiVersion: v1, kind: ConfigMap, metadata: {name: c, namespace: team-a}}`},
}

// TestT34_ADeadWebhookBlocksTenantsAndNothingElse registers a webhook that nobody serves.
func TestT34_ADeadWebhookBlocksTenantsAndNothingElse(t *testing.T) {
	c := start(t)
	closed, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := closed.Addr().String()
	_ = closed.Close()
	c.register(t, "ValidatingWebhookConfiguration", "https://"+address)
	c.register(t, "ValidatingAdmissionPolicy", "")
	alice := c.clientAs(t, "alice")
	inTenant := func() error {
		return alice.Create(t.Context(), &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: "team-a", GenerateName: "c-"}}, client.DryRunAll)
	}
	c.until(t, "the webhook to be asked", inTenant, func(err error) bool { return err != nil })
	if err := inTenant(); !strings.Contains(err.Error(), `failed calling webhook "objects.tenants.sealock.dev"`) {
		t.Errorf("a tenant's write: %v", err)
	}
	c.guarded(t, "ValidatingAdmissionPolicy")

	for _, each := range critical {
		u := &unstructured.Unstructured{}
		if err := yaml.Unmarshal([]byte(each.manifest), &u.Object); err != nil {
			t.Fatal(err)
		}
		dyn, err := dynamic.NewForConfig(c.as(each.as))
		if err != nil {
			t.Fatal(err)
		}
		resource, group, _ := strings.Cut(each.resource, ".")
		api := dyn.Resource(schema.GroupVersionResource{Group: group, Version: u.GroupVersionKind().Version, Resource: resource}).Namespace(u.GetNamespace())
		if _, err := api.Create(t.Context(), u, metav1.CreateOptions{DryRun: []string{metav1.DryRunAll}}); err != nil {
			t.Errorf("%s as %s: %v", each.resource, each.as, err)
		}
	}
	// Labels and status that are nobody's business, also of a tenant's namespace.
	for _, name := range []string{"kube-system", "default", "team-a"} {
		for _, subresources := range [][]string{nil, {"status"}} {
			dyn, _ := dynamic.NewForConfig(c.as("alice"))
			body := []byte(`{"metadata":{"labels":{"free":"x"}}}`)
			if _, err := dyn.Resource(schema.GroupVersionResource{Version: "v1", Resource: "namespaces"}).Patch(t.Context(), name, types.MergePatchType, body, metav1.PatchOptions{DryRun: []string{metav1.DryRunAll}}, subresources...); err != nil {
				t.Errorf("namespace %s %v: %v", name, subresources, err)
			}
		}
	}
	// The way out is open: whoever may can remove the configuration.
	dyn, _ := dynamic.NewForConfig(c.as("alice"))
	if err := dyn.Resource(schema.GroupVersionResource{Group: "admissionregistration.k8s.io", Version: "v1", Resource: "validatingwebhookconfigurations"}).
		Delete(t.Context(), ConfigurationName, metav1.DeleteOptions{}); err != nil {
		t.Errorf("removing the configuration: %v", err)
	}
}
