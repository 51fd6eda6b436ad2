package main

import (
	"context"
	"encoding/json"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/go-logr/logr"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"

	"sealock.dev/sealock/api/sealock/v1alpha1"
	"sealock.dev/sealock/cluster"
	"sealock.dev/sealock/fault"
	"sealock.dev/sealock/manifest"
	"sealock.dev/sealock/policies/builtin"
)

// noted is a provenance that a test fills in.
type noted struct {
	id     manifest.ID
	owner  types.NamespacedName
	origin origin
}

func (n *noted) of(_ context.Context, owner types.NamespacedName, id manifest.ID) (origin, error) {
	n.owner, n.id = owner, id
	return n.origin, nil
}

// TestWhyTellsWhereFromAndWhoSince follows a Deployment, a Pod-like child and a sealed Secret to the commit.
func TestWhyTellsWhereFromAndWhoSince(t *testing.T) {
	p := newPeople(t)
	ns := p.session.namespace
	p.repository("src")
	p.kustomization("app")
	p.apply(workload, applyManager, "app")
	p.apply(sealedAndExternal, applyManager, "app")
	p.inventory("app", 1, ns+"_web_apps_Deployment/v1", ns+"_sealed_bitnami.com_SealedSecret/v1alpha1")
	deployments := p.objects.Resource(schema.GroupVersionResource{Group: "apps", Version: "v1", Resource: "deployments"}).Namespace(ns)
	if _, err := deployments.Patch(t.Context(), "web", types.MergePatchType, []byte(`{"spec":{"replicas":7}}`), metav1.PatchOptions{FieldManager: "kubectl-scale"}); err != nil {
		t.Fatal(err)
	}
	// The controller manager makes it.
	replicaSets, made := schema.GroupVersionResource{Group: "apps", Version: "v1", Resource: "replicasets"}, ""
	err := follow(t.Context(), p.objects.Resource(replicaSets).Namespace(ns), metav1.ListOptions{}, fault.Ref{}, func(_ watch.EventType, obj *unstructured.Unstructured) (bool, error) {
		made = obj.GetName()
		return strings.HasPrefix(made, "web-"), nil
	})
	if err != nil {
		t.Fatal(err)
	}
	p.apply(`apiVersion: v1
kind: Secret
metadata: {name: opened, labels: {kustomize.toolkit.fluxcd.io/name: app, kustomize.toolkit.fluxcd.io/namespace: `+ns+`}, ownerReferences: [{apiVersion: bitnami.com/v1alpha1, kind: SealedSecret, name: sealed, uid: `+string(p.read(sealedSecretKind, "sealed").GetUID())+`}]}
stringData: {password: hush-hush}
`, "test", "")
	p.event("e1", kustomizationKind, "app", "Normal", "Progressing", "Service/"+ns+"/web configured\nDeployment/"+ns+"/web configured", time.Minute)
	p.event("e2", kustomizationKind, "app", "Normal", "Progressing", "Deployment/"+ns+"/website created", time.Minute)

	out := p.ok("why", "deployment/web")
	for _, want := range []string{
		"Deployment/" + ns + "/web\n", "from      Kustomization/" + ns + "/app, ready",
		"commit    " + shortRevision + " of https://git.example.com/app.git (branch main), path ./deploy",
		"applied   20", "changed   by kubectl-scale", ": spec.replicas (taken back by the next apply)",
		"Normal Progressing  Deployment/" + ns + "/web configured\n",
	} {
		if !strings.Contains(out, want) {
			t.Errorf("%q is not in\n%s", want, out)
		}
	}
	if strings.Contains(out, "website") || strings.Contains(out, "Service/") {
		t.Errorf("what happened to others is told:\n%s", out)
	}

	var a explanation
	if err := json.Unmarshal([]byte(p.ok("why", "rs", made, "-o", "json")), &a); err != nil || a.Kustomization != "Kustomization/"+ns+"/app" || !slices.Equal(a.Through, []string{"Deployment/" + ns + "/web"}) || a.Applied.IsZero() {
		t.Errorf("a ReplicaSet: %v %+v", err, a)
	}
	out = p.ok("why", "secret/opened")
	if !strings.Contains(out, "through   SealedSecret/"+ns+"/sealed") || !strings.Contains(out, "Kustomization/"+ns+"/app") || strings.Contains(out, "hush") {
		t.Errorf("a Secret:\n%s", out)
	}
	// Labels without an entry in the inventory prove nothing.
	if out = p.ok("why", "service/web"); !strings.Contains(out, "no Kustomization brings it") || !strings.Contains(out, "does not have it in its inventory") {
		t.Errorf("an object that is not in the inventory:\n%s", out)
	}
}

// TestWhyTellsWhatTheControllerNoted: file, line, commit, judges and drift come from the record where there is one.
func TestWhyTellsWhatTheControllerNoted(t *testing.T) {
	p := newPeople(t)
	ns := p.session.namespace
	p.kustomization("app")
	p.apply("apiVersion: v1\nkind: ConfigMap\nmetadata: {name: settings}\n", applyManager, "app")
	p.inventory("app", 1, ns+"_settings__ConfigMap/v1")
	at := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	record := &noted{origin: origin{
		File: "deploy/all.yaml", Line: 12, Revision: "main@sha1:ffffffffffffffffffffffffffffffffffffffff", Applied: at, Tenant: "team-a", Identity: "sealock:tenant:team-a",
		Policies: "p1", DriftedAt: at, DriftedBy: "kubectl-edit",
	}}
	a, err := p.why(t.Context(), configMapKind, "settings", record, ns)
	if err != nil {
		t.Fatal(err)
	}
	if record.owner != (types.NamespacedName{Namespace: ns, Name: "app"}) || record.id.String() != ns+"_settings__ConfigMap" {
		t.Errorf("asked for %v of %v", record.id, record.owner)
	}
	var out strings.Builder
	if err := a.print(&out); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		"file      deploy/all.yaml:12", "commit    main@sha1:ffffffff", "tenant    team-a", "acts as   sealock:tenant:team-a", "policies  snapshot p1, which were others than now: ", "applied   2026-01-02T03:04:05Z",
		"drifted   2026-01-02T03:04:05Z", "by kubectl-edit", "the source cannot be read",
	} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("%q is not in\n%s", want, out.String())
		}
	}
	dir := folder(t, map[string]string{"x.yaml": "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: other}\n---\napiVersion: v1\nkind: ConfigMap\nmetadata: {name: settings}\n"})
	if out := p.ok("why", "cm/settings", "--path", dir); !strings.Contains(out, "x.yaml:5") {
		t.Errorf("with a clone of the repository:\n%s", out)
	}
}

// TestWhyReadsTheRecordOfTheController: the one that cluster persists, through its own writer.
func TestWhyReadsTheRecordOfTheController(t *testing.T) {
	p := newPeople(t)
	ns := p.session.namespace
	p.kustomization("app")
	p.apply("apiVersion: v1\nkind: ConfigMap\nmetadata: {name: settings}\n", applyManager, "app")
	p.inventory("app", 1, ns+"_settings__ConfigMap/v1")
	records, err := cluster.NewRecords(p.config, ns, logr.Discard())
	if err != nil {
		t.Fatal(err)
	}
	at := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	records.Put(ns+"/app", manifest.ID{Namespace: ns, Name: "settings", Kind: "ConfigMap", Version: "v1"}, cluster.Baseline{Origin: cluster.Origin{
		File: "deploy/all.yaml", Line: 7, Revision: "main@sha1:ffffffffffffffffffffffffffffffffffffffff", Applied: at, Drift: cluster.Drift{At: at, By: "kubectl-edit"},
	}})
	var inForce []v1alpha1.Policy
	if err := list(t.Context(), p.objects, "policies", &inForce); err != nil {
		t.Fatal(err)
	}
	judged, _ := builtin.Load(nil, inForce)
	records.Remember(ns, "app", "f", cluster.Judged{Tenant: "team-a", Identity: "sealock:tenant:team-a", Policies: judged.ID()})
	records.Flush(t.Context())
	out := p.ok("why", "configmap/settings", "--system-namespace", ns)
	for _, want := range []string{"deploy/all.yaml:7", "main@sha1:ffffffff", "applied   2026-01-02T03:04:05Z", "drifted   2026-01-02T03:04:05Z", "by kubectl-edit", "tenant    team-a", "policies  snapshot " + judged.ID()[:8] + ": ", "sealock-secret-types"} {
		if !strings.Contains(out, want) {
			t.Errorf("%q is not in\n%s", want, out)
		}
	}
	if out := p.ok("why", "configmap/settings", "--system-namespace", "nowhere"); !strings.Contains(out, "Kustomization/"+ns+"/app") ||
		!strings.Contains(out, "note      file and line are not known: ConfigMap/nowhere/"+cluster.RecordName(ns, "app")) || !strings.Contains(out, "--system-namespace") {
		t.Errorf("without a record:\n%s", out)
	}
}

// TestWhyKnowsTheSettings: as whom an object acts follows from arguments of the controller, where that has noted nothing.
func TestWhyKnowsTheSettings(t *testing.T) {
	p := newPeople(t)
	ns := p.session.namespace
	p.kustomization("app")
	p.apply("apiVersion: v1\nkind: ConfigMap\nmetadata: {name: settings}\n", applyManager, "app")
	p.inventory("app", 1, ns+"_settings__ConfigMap/v1")
	ask := func() string { t.Helper(); return p.ok("why", "cm/settings", "--system-namespace", ns) }
	if out := ask(); !strings.Contains(out, "by the settings of the shipped manifests") {
		t.Errorf("without a Deployment:\n%s", out)
	}
	p.apply(`apiVersion: apps/v1
kind: Deployment
metadata: {name: sealock-controller, labels: {app.kubernetes.io/name: sealock, app.kubernetes.io/component: controller}}
spec:
  replicas: 0
  selector: {matchLabels: {app: sealock}}
  template:
    metadata: {labels: {app: sealock}}
    spec: {containers: [{name: manager, image: example.com/sealock, args: [controller, --of-another-version, --default-service-account=deployer]}]}
`, "test", "")
	if out := ask(); !strings.Contains(out, "acts as   system:serviceaccount:"+ns+":deployer") || strings.Contains(out, "shipped manifests") {
		t.Errorf("a default service account:\n%s", out)
	}
	if got := settingsIn([]string{"controller", "--platform-namespaces=a,b", "--new-flag=x", "--no-cross-namespace-refs"}, "sys"); !slices.Equal(got.PlatformNamespaces, []string{"a", "b"}) || !got.NoCrossNamespaceRefs || got.SystemNamespace != "sys" {
		t.Errorf("%+v", got)
	}
}

// TestWhyNamesTheTenant: by the Tenants, and by the label for who may not list them.
func TestWhyNamesTheTenant(t *testing.T) {
	p := newPeople(t)
	ns := p.session.namespace
	p.kustomization("app")
	p.apply("apiVersion: v1\nkind: ConfigMap\nmetadata: {name: settings}\n", applyManager, "app")
	p.inventory("app", 1, ns+"_settings__ConfigMap/v1")
	p.apply("apiVersion: sealock.dev/v1alpha1\nkind: Tenant\nmetadata: {name: why}\nspec: {namespaces: [{name: "+ns+"}]}\n", "test", "")
	t.Cleanup(func() {
		_ = p.of(tenantKind, "").Delete(context.WithoutCancel(t.Context()), "why", metav1.DeleteOptions{})
	})
	if out := p.ok("why", "configmap/settings"); !strings.Contains(out, "tenant    why\n") || !strings.Contains(out, "sealock:tenant:why") {
		t.Errorf("%s", out)
	}
	if out := p.ok("get", "tenants"); !strings.Contains(out, "why") || strings.Contains(out, "NAMESPACE") {
		t.Errorf("%s", out)
	}
	p.apply(`apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata: {name: reader}
rules: [{apiGroups: ["*"], resources: ["*"], verbs: [get, list, watch]}]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {name: reader}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: Role, name: reader}
subjects: [{apiGroup: rbac.authorization.k8s.io, kind: User, name: joe}]
`, "test", "")
	p.allowed("joe")
	// Last: from here on the webhook that another test has registered guards the namespace.
	p.apply("apiVersion: v1\nkind: Namespace\nmetadata: {name: "+ns+", labels: {sealock.dev/tenant: why}}\n", "test", "")
	if out := p.ok("why", "configmap/settings", "--as", "joe"); !strings.Contains(out, "tenant    why\n") {
		t.Errorf("as somebody of the namespace:\n%s", out)
	}
	for _, tc := range []struct {
		args []string
		code int
		want string
	}{
		{[]string{"deployment"}, 2, "KIND/NAME"},
		{[]string{"blob/x"}, 4, `no kind "blob"`},
		{[]string{"cm/nowhere"}, 4, "not found"},
		{[]string{"cm/settings", "--as", "nobody"}, 1, "you may not read it"},
	} {
		if code, _, errs := p.sealock(append([]string{"why"}, tc.args...)...); code != tc.code || !strings.Contains(errs, tc.want) {
			t.Errorf("%v: exit code %d: %s", tc.args, code, errs)
		}
	}
}
