package config_test

import (
	"context"
	"encoding/json"
	"os"
	"strings"
	"testing"

	authorizationv1 "k8s.io/api/authorization/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"
	"sigs.k8s.io/yaml"

	"sealock.dev/sealock/internal/testkit"
)

func TestMain(m *testing.M) { os.Exit(testkit.Main(m, "--without=vault,git")) }

// TestManifestsOfTheField applies manifests in the shapes that the field uses to the real API server, with strict field
// validation: an unknown field would be an error, a pruned one a difference.
func TestManifestsOfTheField(t *testing.T) {
	dc := testkit.Cluster(t)
	dc.InstallCRDs(t)
	client, err := dynamic.NewForConfig(dc.Config)
	if err != nil {
		t.Fatal(err)
	}
	ns := dc.Namespace(t, nil)
	for _, tc := range fieldManifests {
		t.Run(tc.name, func(t *testing.T) {
			obj := &unstructured.Unstructured{}
			if err := yaml.Unmarshal([]byte(tc.manifest), &obj.Object); err != nil {
				t.Fatal(err)
			}
			want := obj.DeepCopy().Object["spec"]
			created, err := create(t.Context(), client, ns, obj, tc.cluster)
			if tc.refused != nil {
				checkRefusal(t, err, tc.refused)
				return
			}
			if err != nil {
				t.Fatalf("refused: %v", err)
			}
			if missing := lost(want, created.Object["spec"], "spec"); missing != nil {
				t.Errorf("the API server dropped or changed %v", missing)
			}
		})
	}
}

func create(ctx context.Context, client dynamic.Interface, ns string, obj *unstructured.Unstructured, cluster bool) (*unstructured.Unstructured, error) {
	gvk := obj.GroupVersionKind()
	plural := strings.ToLower(gvk.Kind) + "s"
	if strings.HasSuffix(gvk.Kind, "y") {
		plural = strings.TrimSuffix(strings.ToLower(gvk.Kind), "y") + "ies"
	}
	api := client.Resource(gvk.GroupVersion().WithResource(plural))
	opts := metav1.CreateOptions{FieldValidation: metav1.FieldValidationStrict}
	if cluster {
		return api.Create(ctx, obj, opts)
	}
	obj.SetNamespace(ns)
	return api.Namespace(ns).Create(ctx, obj, opts)
}

func checkRefusal(t *testing.T, err error, fields []string) {
	t.Helper()
	if err == nil {
		t.Fatal("accepted, want a refusal")
	}
	for _, field := range fields {
		if !strings.Contains(err.Error(), field) {
			t.Errorf("the refusal does not name %s: %v", field, err)
		}
	}
}

// lost returns the paths of want that got does not have; got may have more, by defaults.
func lost(want, got any, path string) []string {
	switch w := want.(type) {
	case map[string]any:
		g, _ := got.(map[string]any)
		var out []string
		for k, v := range w {
			out = append(out, lost(v, g[k], path+"."+k)...)
		}
		return out
	case []any:
		g, _ := got.([]any)
		if len(g) != len(w) {
			return []string{path}
		}
		var out []string
		for i := range w {
			out = append(out, lost(w[i], g[i], path)...)
		}
		return out
	}
	a, _ := json.Marshal(want)
	b, _ := json.Marshal(got)
	if string(a) != string(b) {
		return []string{path}
	}
	return nil
}

var fieldManifests = []struct {
	name, manifest string
	cluster        bool
	refused        []string // fields that the refusal names; nil is accepted
}{
	{name: "source with branch, credentials and ignore", manifest: `
apiVersion: source.toolkit.fluxcd.io/v1
kind: GitRepository
metadata: {name: shop}
spec:
  interval: 1m
  url: https://git.example.com/shop.git
  ref: {branch: main}
  secretRef: {name: git}
  ignore: |
    # all
    /*
    # but
    !/deploy/
`},
	{name: "source fragment without interval", refused: []string{"spec.interval"}, manifest: `
apiVersion: source.toolkit.fluxcd.io/v1
kind: GitRepository
metadata: {name: fragment}
spec: {url: https://git.example.com/shop.git}
`},
	{name: "source with a scp-like URL", refused: []string{"spec.url"}, manifest: `
apiVersion: source.toolkit.fluxcd.io/v1
kind: GitRepository
metadata: {name: scp}
spec: {interval: 1m, url: "git@git.example.com:shop.git"}
`},
	{name: "sync with health checks", manifest: `
apiVersion: kustomize.toolkit.fluxcd.io/v1
kind: Kustomization
metadata: {name: shop}
spec:
  interval: 10m
  retryInterval: 2m
  sourceRef: {kind: GitRepository, name: shop}
  path: ./deploy/production
  targetNamespace: production
  prune: true
  timeout: 5m
  wait: true
  healthChecks:
  - {apiVersion: apps/v1, kind: Deployment, name: shop, namespace: production}
`},
	{name: "sync with patches", manifest: `
apiVersion: kustomize.toolkit.fluxcd.io/v1
kind: Kustomization
metadata: {name: patched}
spec:
  interval: 5m
  sourceRef: {kind: GitRepository, name: shop}
  path: ./deploy
  prune: true
  patches:
  - patch: |
      apiVersion: apps/v1
      kind: Deployment
      metadata: {name: shop}
      spec: {replicas: 5}
    target: {kind: Deployment, name: shop}
`},
	{name: "sync with decryption", manifest: `
apiVersion: kustomize.toolkit.fluxcd.io/v1
kind: Kustomization
metadata: {name: encrypted}
spec:
  interval: 5m
  sourceRef: {kind: GitRepository, name: shop}
  path: ./deploy
  prune: true
  decryption: {provider: sops, secretRef: {name: sops-age}}
`},
	{name: "sync fragment", refused: []string{"spec.interval", "spec.prune", "spec.sourceRef"}, manifest: `
apiVersion: kustomize.toolkit.fluxcd.io/v1
kind: Kustomization
metadata: {name: fragment}
spec: {targetNamespace: team-a, serviceAccountName: team-a}
`},
	{name: "sync with a misspelt field", refused: []string{"spec.prunes"}, manifest: `
apiVersion: kustomize.toolkit.fluxcd.io/v1
kind: Kustomization
metadata: {name: misspelt}
spec: {interval: 1m, prune: true, prunes: true, sourceRef: {kind: GitRepository, name: a}}
`},
	{name: "sealed secret whose ciphertext is a placeholder", manifest: `
apiVersion: bitnami.com/v1alpha1
kind: SealedSecret
metadata: {name: db}
spec:
  encryptedData: {username: "AgB7placeholder...", password: "AgC8placeholder..."}
  template: {metadata: {name: db, labels: {a: b}}, type: Opaque, data: {url: "{{ .username }}", gone: null}}
`},
	{name: "store, v1beta1", manifest: `
apiVersion: external-secrets.io/v1beta1
kind: SecretStore
metadata: {name: vault}
spec:
  provider:
    vault:
      server: https://vault.example.com
      path: secret
      version: v2
      auth: {kubernetes: {mountPath: kubernetes, role: shop, serviceAccountRef: {name: vault-auth}}}
`},
	{name: "store of a provider that is not served keeps its text", cluster: true, manifest: `
apiVersion: external-secrets.io/v1beta1
kind: ClusterSecretStore
metadata: {name: aws}
spec:
  provider:
    aws:
      service: SecretsManager
      region: eu-central-1
      auth: {jwt: {serviceAccountRef: {name: reader, namespace: external-secrets}}}
`},
	{name: "store of two providers", refused: []string{"spec.provider"}, manifest: `
apiVersion: external-secrets.io/v1
kind: SecretStore
metadata: {name: two}
spec: {provider: {vault: {server: https://vault.example.com}, aws: {}}}
`},
	{name: "external secret, v1beta1", manifest: `
apiVersion: external-secrets.io/v1beta1
kind: ExternalSecret
metadata: {name: db}
spec:
  refreshInterval: 1h
  secretStoreRef: {name: vault, kind: SecretStore}
  target:
    name: db
    creationPolicy: Owner
    template:
      type: Opaque
      data: {URL: "postgresql://{{ .username }}:{{ .password }}@db:5432/shop"}
  data:
  - {secretKey: username, remoteRef: {key: production/db, property: username}}
  - {secretKey: password, remoteRef: {key: production/db, property: password}}
`},
	{name: "external secret, v1", manifest: `
apiVersion: external-secrets.io/v1
kind: ExternalSecret
metadata: {name: db-v1}
spec:
  secretStoreRef: {name: vault}
  dataFrom: [{extract: {key: production/db}}]
`},
	{name: "tenant with a bad namespace", cluster: true, refused: []string{"spec.namespaces[0].name"}, manifest: `
apiVersion: sealock.dev/v1alpha1
kind: Tenant
metadata: {name: bad}
spec: {namespaces: [{name: Team_A}]}
`},
	{name: "policy without a rule", cluster: true, refused: []string{"spec.rego"}, manifest: `
apiVersion: sealock.dev/v1alpha1
kind: Policy
metadata: {name: empty}
spec: {description: nothing}
`},
}

// TestRights asks the real API server what the identities of config/rbac may do.
func TestRights(t *testing.T) {
	dc := testkit.Cluster(t)
	dc.InstallCRDs(t)
	dc.Install(t, "manager") // the namespace; and the API server reads the Deployment
	dc.Install(t, "rbac")
	client, err := kubernetes.NewForConfig(dc.Config)
	if err != nil {
		t.Fatal(err)
	}
	const (
		controller = "system:serviceaccount:sealock-system:sealock-controller"
		platform   = "system:serviceaccount:sealock-system:sealock-platform"
		tenant     = "sealock:tenant:team-a"
	)
	ns := dc.Namespace(t, nil)
	bindTenant(t, client, ns, tenant)
	for _, tc := range []struct {
		who, verb, group, resource, sub, name, ns string
		want                                      bool
		why                                       string
	}{
		{controller, "watch", "apps", "deployments", "", "", ns, true, "the live view"},
		{controller, "impersonate", "", "users", "", tenant, "", true, "a commit acts as its tenant"},
		{controller, "impersonate", "", "serviceaccounts", "", "sealock-platform", "sealock-system", true, "a platform commit"},
		{controller, "impersonate", "", "groups", "", "system:masters", "", false, "nobody becomes an administrator"},
		{controller, "create", "", "secrets", "", "", ns, true, "produced Secrets"},
		{controller, "create", "apps", "deployments", "", "", ns, false, "workloads are written as the tenant"},
		{controller, "delete", "", "namespaces", "", "", "", false, "namespaces of tenants are never deleted"},
		{controller, "bind", "rbac.authorization.k8s.io", "clusterroles", "", "sealock-tenant", "", true, "a tenant's role"},
		{controller, "bind", "rbac.authorization.k8s.io", "clusterroles", "", "cluster-admin", "", false, "no other role"},
		{controller, "patch", "admissionregistration.k8s.io", "validatingwebhookconfigurations", "", "sealock", "", true, "its own CA"},
		{controller, "patch", "admissionregistration.k8s.io", "validatingwebhookconfigurations", "", "somebody-else", "", false, "no other webhook"},
		{controller, "create", "authentication.k8s.io", "selfsubjectreviews", "", "", "", true, "the time of the API server"},
		{controller, "update", "coordination.k8s.io", "leases", "", "", "sealock-system", true, "leader election"},
		{controller, "update", "coordination.k8s.io", "leases", "", "", "kube-system", false, "not the leases of others"},
		{platform, "create", "apiextensions.k8s.io", "customresourcedefinitions", "", "", "", true, "Flux users expect it"},
		{tenant, "create", "apps", "deployments", "", "", ns, true, "workloads"},
		{tenant, "create", "apps", "deployments", "", "", "default", false, "only in its own namespaces"},
		{tenant, "create", "", "serviceaccounts", "token", "", ns, false, "no tokens"},
		{tenant, "impersonate", "", "serviceaccounts", "", "", ns, false, "nobody else"},
		{tenant, "create", "", "endpoints", "", "", ns, false, "no traffic of others"},
		{tenant, "delete", "networking.k8s.io", "networkpolicies", "", "", ns, false, "fences stay"},
		{tenant, "update", "", "resourcequotas", "", "", ns, false, "fences stay"},
		{tenant, "create", "", "pods", "exec", "", ns, false, "a commit does not exec"},
		{tenant, "bind", "rbac.authorization.k8s.io", "clusterroles", "", "view", ns, true, "below the ceiling"},
		{tenant, "bind", "rbac.authorization.k8s.io", "clusterroles", "", "cluster-admin", ns, false, "above it"},
		{tenant, "create", "kustomize.toolkit.fluxcd.io", "kustomizations", "", "", ns, true, "its own syncs"},
		{"somebody", "get", "", "services", "proxy", "http:sealed-secrets-controller:http", "sealock-system", true, "the certificate is public"},
		{"somebody", "get", "", "services", "proxy", "sealock-webhook", "sealock-system", false, "no other Service"},
		{"somebody", "get", "", "configmaps", "", "sealed-secrets-cert", "sealock-system", true, "as the first"},
		{"somebody", "get", "", "secrets", "", "sealed-secrets-cert", "sealock-system", false, "keys are not"},
		{controller, "create", "", "configmaps", "", "", "sealock-system", true, "the public certificate"},
		{controller, "create", "", "configmaps", "", "", ns, false, "no other ConfigMaps"},
		{controller, "patch", "discovery.k8s.io", "endpointslices", "", "sealock-source-ipv4", "sealock-system", true, "artifacts are where the leader is"},
		{controller, "create", "discovery.k8s.io", "endpointslices", "", "", "sealock-system", true, "as above"},
		{controller, "create", "discovery.k8s.io", "endpointslices", "", "", ns, false, "no traffic of others"},
		{tenant, "create", "sealock.dev", "tenants", "", "", "", false, "tenancy is the platform's"},
	} {
		review, err := client.AuthorizationV1().SubjectAccessReviews().Create(t.Context(), &authorizationv1.SubjectAccessReview{
			Spec: authorizationv1.SubjectAccessReviewSpec{User: tc.who, Groups: []string{"system:authenticated"}, ResourceAttributes: &authorizationv1.ResourceAttributes{
				Verb: tc.verb, Group: tc.group, Resource: tc.resource, Subresource: tc.sub, Name: tc.name, Namespace: tc.ns,
			}},
		}, metav1.CreateOptions{})
		if err != nil {
			t.Fatal(err)
		}
		if review.Status.Allowed != tc.want {
			t.Errorf("%s may %s %s/%s %s: %v, want %v (%s)", tc.who, tc.verb, tc.resource, tc.sub, tc.name, review.Status.Allowed, tc.want, tc.why)
		}
	}
}

func bindTenant(t *testing.T, client kubernetes.Interface, ns, user string) {
	t.Helper()
	_, err := client.RbacV1().RoleBindings(ns).Create(t.Context(), &rbacv1.RoleBinding{
		ObjectMeta: metav1.ObjectMeta{Name: "sealock-tenant"},
		RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: "sealock-tenant"},
		Subjects:   []rbacv1.Subject{{APIGroup: rbacv1.GroupName, Kind: rbacv1.UserKind, Name: user}},
	}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
}
