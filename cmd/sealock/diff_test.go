package main

import (
	"context"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/wait"

	"sealock.dev/sealock/internal/testkit"
)

// compared runs diff and returns what it found, and its exit code.
func (p *people) compared(name, dir string, more ...string) (comparison, int) {
	p.Helper()
	code, out, errs := p.sealock(append([]string{"diff", "ks", name, "--path", dir, "-o", "json"}, more...)...)
	var c comparison
	if code > 1 || json.Unmarshal([]byte(out), &c) != nil {
		p.Fatalf("exit code %d\n%s%s", code, out, errs)
	}
	return c, code
}

// actions lists what would happen, "action Kind/name".
func (c comparison) actions() []string {
	var out []string
	for _, d := range c.Objects {
		out = append(out, d.Action+" "+d.Kind+"/"+d.Name)
	}
	return out
}

const workload = `
apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
spec:
  replicas: 2
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      containers:
      - name: web
        image: example.com/web:1
        ports: [{containerPort: 8080}]
        resources: {requests: {cpu: 0.5, memory: 1024Mi}, limits: {memory: 2G}}
        env: [{name: A, value: "1"}]
---
apiVersion: v1
kind: Service
metadata: {name: web}
spec:
  selector: {app: web}
  ports: [{port: 80, targetPort: 8080}]
---
apiVersion: v1
kind: ConfigMap
metadata: {name: settings}
data:
  file.conf: |
    a = 1
    b = 2
    c = 3
---
apiVersion: autoscaling/v2
kind: HorizontalPodAutoscaler
metadata: {name: web}
spec:
  maxReplicas: 3
  scaleTargetRef: {apiVersion: apps/v1, kind: Deployment, name: web}
  metrics: [{type: Resource, resource: {name: cpu, target: {type: Utilization, averageUtilization: 80}}}]
---
apiVersion: v1
kind: Secret
metadata: {name: db}
stringData: {user: app, password: hush-hush-1}
`

const definition = `
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: widgets.diff.example.com}
spec:
  group: diff.example.com
  scope: Namespaced
  names: {kind: Widget, plural: widgets, singular: widget, listKind: WidgetList}
  versions:
  - name: v1
    served: true
    storage: true
    schema:
      openAPIV3Schema:
        type: object
        properties:
          spec: {type: object, properties: {size: {type: integer, default: 3}, color: {type: string}}}
`

const widget = "\napiVersion: diff.example.com/v1\nkind: Widget\nmetadata: {name: one}\nspec: {color: red}\n"

// TestDiffOfWhatIsLiveIsEmpty: defaults, canonical quantities, folded stringData and a kind of the same set are no drift.
func TestDiffOfWhatIsLiveIsEmpty(t *testing.T) {
	p := newPeople(t)
	p.kustomization("app", "  commonMetadata: {labels: {team: a}}")
	own := strings.NewReplacer("diff.example.com", p.session.namespace+".example.com") // definitions are the whole cluster's
	definition, widget := own.Replace(definition), own.Replace(widget)
	name := "widgets." + p.session.namespace + ".example.com"
	dir := folder(t, map[string]string{"all.yaml": workload, "crd.yaml": definition, "widget.yaml": widget})
	before, code := p.compared("app", dir)
	if code != 1 || before.Created != 7 {
		t.Errorf("before the apply: exit code %d, %v", code, before.actions())
	}
	rendered := func(text string) string { // as the controller applies it
		return strings.NewReplacer("metadata: {name: web}", "metadata: {name: web, labels: {team: a}}", "metadata: {name: settings}", "metadata: {name: settings, labels: {team: a}}",
			"metadata: {name: db}", "metadata: {name: db, labels: {team: a}}", "metadata: {name: one}", "metadata: {name: one, labels: {team: a}}",
			"metadata: {name: "+name+"}", "metadata: {name: "+name+", labels: {team: a}}").Replace(text)
	}
	p.apply(rendered(workload)+"---"+rendered(definition), applyManager, "app")
	p.established(name)
	p.apply(rendered(widget), applyManager, "app")

	after, code := p.compared("app", dir)
	if code != 0 || len(after.Objects) != 0 || after.Unchanged != 7 {
		text, _ := json.MarshalIndent(after, "", " ")
		t.Errorf("after the apply: exit code %d\n%s", code, text)
	}
	out := p.ok("diff", "ks", "app", "--path", dir)
	if !strings.Contains(out, "0 created, 0 changed, 0 pruned, 0 skipped, 7 unchanged") {
		t.Errorf("%s", out)
	}
}

func (p *people) established(name string) {
	p.Helper()
	crds := p.objects.Resource(schema.GroupVersionResource{Group: "apiextensions.k8s.io", Version: "v1", Resource: "customresourcedefinitions"})
	p.Cleanup(func() { _ = crds.Delete(context.WithoutCancel(p.Context()), name, metav1.DeleteOptions{}) })
	err := wait.PollUntilContextTimeout(p.Context(), 50*time.Millisecond, time.Minute, true, func(ctx context.Context) (bool, error) {
		crd, err := crds.Get(ctx, name, metav1.GetOptions{})
		return err == nil && condition(crd, "Established") == "True", err
	})
	if err != nil {
		p.Fatal(err)
	}
	if mapper, _, err := p.mapper(); err == nil {
		mapper.Reset() // it has learnt that there is no such kind
	}
}

// TestDiffTellsWhichFieldsChange: created, changed and pruned objects, markers, and drift that somebody else made.
func TestDiffTellsWhichFieldsChange(t *testing.T) {
	p := newPeople(t)
	ns := p.session.namespace
	p.kustomization("app")
	p.apply(workload, applyManager, "app")
	p.apply("apiVersion: v1\nkind: ConfigMap\nmetadata: {name: old}\n", applyManager, "app")
	p.apply("apiVersion: v1\nkind: ConfigMap\nmetadata: {name: kept, annotations: {kustomize.toolkit.fluxcd.io/prune: disabled}}\n", applyManager, "app")
	p.apply("apiVersion: v1\nkind: ConfigMap\nmetadata: {name: moved}\n", applyManager, "other")
	p.apply("apiVersion: v1\nkind: ConfigMap\nmetadata: {name: mine, labels: {kustomize.toolkit.fluxcd.io/reconcile: disabled}}\n", "kubectl", "app")
	p.inventory("app", 1, ns+"_web_apps_Deployment/v1", ns+"_old__ConfigMap/v1", ns+"_kept__ConfigMap/v1", ns+"_moved__ConfigMap/v1", ns+"_gone__ConfigMap/v1")
	// Somebody scales by hand.
	if _, err := p.objects.Resource(schema.GroupVersionResource{Group: "apps", Version: "v1", Resource: "deployments"}).Namespace(ns).
		Patch(t.Context(), "web", types.MergePatchType, []byte(`{"spec":{"replicas":7}}`), metav1.PatchOptions{FieldManager: "kubectl-scale"}); err != nil {
		t.Fatal(err)
	}
	dir := folder(t, map[string]string{
		"all.yaml":  strings.NewReplacer("web:1", "web:2", "b = 2", "b = two", "        env:", "      - {name: sidecar, image: example.com/s}\n      - name: third\n        image: example.com/t\n        env:").Replace(workload),
		"new.yaml":  "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: new}\n",
		"mine.yaml": "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: mine}\ndata: {a: b}\n",
	})
	c, code := p.compared("app", dir)
	want := []string{"changed Deployment/web", "changed ConfigMap/settings", "skipped ConfigMap/mine", "created ConfigMap/new", "skipped ConfigMap/moved", "skipped ConfigMap/kept", "pruned ConfigMap/old"}
	if diff := cmp.Diff(want, c.actions()); diff != "" || code != 1 {
		t.Errorf("exit code %d: %s", code, diff)
	}
	i := slices.IndexFunc(c.Objects, func(d difference) bool { return d.Name == "web" })
	if d := c.Objects[i]; d.File != filepath.Join(dir, "all.yaml") || d.Line != 2 {
		t.Errorf("it is said to stand in %s:%d", d.File, d.Line)
	}
	_, out, _ := p.sealock("diff", "ks", "app", "--path", dir)
	for _, line := range []string{
		"- spec.replicas: 7", "+ spec.replicas: 2",
		"- spec.template.spec.containers[web].image: example.com/web:1", "+ spec.template.spec.containers[web].image: example.com/web:2",
		"+ spec.template.spec.containers[sidecar].image: example.com/s", "-     b = 2", "+     b = two", "      a = 1",
		"it belongs to another owner", "prune is disabled",
	} {
		if !strings.Contains(out, line) {
			t.Errorf("%q is not in\n%s", line, out)
		}
	}
	if strings.Contains(out, "status") || strings.Contains(out, "managedFields") || strings.Contains(out, "generation") {
		t.Errorf("what the server writes is shown:\n%s", out)
	}
	// Nothing was written.
	if p.read(kind{name: "Deployment", resource: schema.GroupVersionResource{Group: "apps", Version: "v1", Resource: "deployments"}}, "web").Object["spec"].(map[string]any)["replicas"] != int64(7) {
		t.Error("the dry run wrote")
	}
}

// TestDiffShowsWhatKubectlAddedAsTakenBack: a field that is not in the manifest is removed by the apply when kubectl wrote
// it, stays when a controller did, and stays on an object that is marked so.
func TestDiffShowsWhatKubectlAddedAsTakenBack(t *testing.T) {
	p := newPeople(t)
	p.kustomization("app")
	p.apply(workload, applyManager, "app")
	deployments := p.objects.Resource(schema.GroupVersionResource{Group: "apps", Version: "v1", Resource: "deployments"}).Namespace(p.session.namespace)
	patch := func(manager, body string) {
		t.Helper()
		if _, err := deployments.Patch(t.Context(), "web", types.StrategicMergePatchType, []byte(body), metav1.PatchOptions{FieldManager: manager}); err != nil {
			t.Fatal(err)
		}
	}
	dir := folder(t, map[string]string{"all.yaml": workload})
	patch("some-controller", `{"metadata":{"annotations":{"some-controller/note":"x"}}}`)
	if c, _ := p.compared("app", dir); len(c.Objects) != 0 {
		t.Errorf("what a controller added is drift: %+v", c.Objects)
	}
	patch("kubectl-edit", `{"metadata":{"annotations":{"note":"x"}},"spec":{"template":{"spec":{"containers":[{"name":"web","env":[{"name":"B","value":"2"}]}]}}}}`)
	c, _ := p.compared("app", dir)
	want := []change{{`metadata.annotations.note`, "x", nil}, {`spec.template.spec.containers[web].env[B].name`, "B", nil}, {`spec.template.spec.containers[web].env[B].value`, "2", nil}}
	if len(c.Objects) != 1 {
		t.Fatalf("%+v", c.Objects)
	}
	if diff := cmp.Diff(want, c.Objects[0].Changes); diff != "" {
		t.Error(diff)
	}
	patch("kubectl-label", `{"metadata":{"annotations":{"kustomize.toolkit.fluxcd.io/ssa":"Merge"}}}`)
	if c, _ := p.compared("app", dir); len(c.Objects) != 0 {
		t.Errorf("an object that is to be merged: %+v", c.Objects)
	}
}

// TestDiffLeavesOutWhatIsIgnored: a field that spec.ignore names is no drift.
func TestDiffLeavesOutWhatIsIgnored(t *testing.T) {
	p := newPeople(t)
	p.kustomization("app", "  ignore: [{paths: [/spec/replicas], target: {kind: Deployment}}]")
	p.apply(workload, applyManager, "app")
	p.apply("apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: web}\nspec: {replicas: 9}\n", "autoscaler", "")
	if c, _ := p.compared("app", folder(t, map[string]string{"all.yaml": workload})); len(c.Objects) != 0 {
		t.Errorf("%+v", c.Objects)
	}
}

// TestDiffRecreates: force, by the Kustomization or by a marker, where a field cannot change.
func TestDiffRecreates(t *testing.T) {
	p := newPeople(t)
	p.kustomization("app")
	p.kustomization("forced", "  force: true")
	for _, owner := range []string{"app", "forced"} {
		p.apply(strings.ReplaceAll(workload, "name: web", "name: "+owner), applyManager, owner)
		dir := folder(t, map[string]string{"all.yaml": strings.NewReplacer("name: web", "name: "+owner, "app: web", "app: other").Replace(workload)})
		code, out, errs := p.sealock("diff", "ks", owner, "--path", dir)
		if owner == "app" && (code != 2 || !strings.Contains(errs, "immutable")) || owner == "forced" && (code != 1 || !strings.Contains(out, "recreated Deployment/")) {
			t.Errorf("%s: exit code %d\n%s%s", owner, code, out, errs)
		}
	}
}

// TestDiffMasksSecretsButTellsThemApart: no value is printed, two values have two digests, and two calls too.
func TestDiffMasksSecretsButTellsThemApart(t *testing.T) {
	p := newPeople(t)
	p.kustomization("app")
	now, next, applied := testkit.NewCanary(), testkit.NewCanary(), testkit.NewCanary()
	secret := func(value, same string) string {
		text, _ := json.Marshal(value)
		return "apiVersion: v1\nkind: Secret\nmetadata: {name: db}\nstringData: {password: " + string(text) + ", same: " + same + "}\n"
	}
	p.apply(secret(now.String(), "constant"), applyManager, "app")
	// Left behind by kubectl apply, in the clear.
	note, _ := json.Marshal(map[string]any{"metadata": map[string]any{"annotations": map[string]string{"kubectl.kubernetes.io/last-applied-configuration": applied.String()}}})
	if _, err := p.of(secretKind, p.session.namespace).Patch(t.Context(), "db", types.MergePatchType, note, metav1.PatchOptions{}); err != nil {
		t.Fatal(err)
	}
	dir := folder(t, map[string]string{"s.yaml": secret(next.String(), "constant")})
	_, first, errs := p.sealock("diff", "ks", "app", "--path", dir)
	_, second, _ := p.sealock("diff", "ks", "app", "--path", dir, "-o", "yaml")
	for _, c := range []testkit.Canary{now, next, applied} {
		if found := c.FindIn(first + second + errs); found != nil {
			t.Errorf("a value is printed: %v", found)
		}
	}
	var digests []string
	for _, line := range strings.Split(first, "\n") {
		if _, digest, ok := strings.Cut(line, "[secret "); ok {
			digests = append(digests, digest)
		}
	}
	if len(digests) != 2 || digests[0] == digests[1] || strings.Contains(first, "data.same") {
		t.Errorf("values are not told apart:\n%s", first)
	}
	if len(digests) == 2 && strings.Contains(second, strings.TrimSuffix(digests[0], "]")) {
		t.Error("the digests of two calls can be compared")
	}
	dir = folder(t, map[string]string{"s.yaml": secret(now.String(), "constant")})
	if c, code := p.compared("app", dir); code != 0 {
		t.Errorf("an unchanged Secret differs: %v", c.Objects)
	}
}

// TestDiffWithSOPS: opened with the key of the cluster, with one of this machine, and masked where there is none.
func TestDiffWithSOPS(t *testing.T) {
	p := newPeople(t)
	identity, recipient := ageKey(t)
	canary := testkit.NewCanary()
	text, _ := json.Marshal(canary.String())
	plain := "apiVersion: v1\nkind: Secret\nmetadata: {name: db}\nstringData: {password: " + string(text) + "}\n"
	dir := folder(t, map[string]string{"s.yaml": sops(t, plain, recipient), "c.yaml": "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: c}\n"})
	p.apply(plain, applyManager, "app")
	p.kustomization("app", "  decryption: {provider: sops, secretRef: {name: keys}}")

	c, _ := p.compared("app", dir)
	if diff := cmp.Diff([]string{"created ConfigMap/c", "unchanged Secret/db"}, sorted(c.actions())); diff != "" || len(c.Notes) != 1 {
		t.Errorf("without a key: %s %v", diff, c.Notes)
	}
	_, out, errs := p.sealock("diff", "ks", "app", "--path", dir)
	if !strings.Contains(out, "**SOPS**") || !strings.Contains(errs, "not compared") {
		t.Errorf("without a key:\n%s%s", out, errs)
	}
	keys := filepath.Join(t.TempDir(), "keys.txt")
	if err := os.WriteFile(keys, []byte(identity), 0o600); err != nil {
		t.Fatal(err)
	}
	if c, _ := p.compared("app", dir, "--decryption-keys", keys); len(c.Notes) != 0 || c.Unchanged != 1 || len(c.Objects) != 1 {
		t.Errorf("with a key of this machine: %+v", c)
	}
	p.apply("apiVersion: v1\nkind: Secret\nmetadata: {name: keys}\nstringData:\n  a.agekey: |\n    "+strings.ReplaceAll(identity, "\n", "\n    ")+"\n", "test", "")
	if c, _ := p.compared("app", dir); len(c.Notes) != 0 || c.Unchanged != 1 || len(c.Objects) != 1 {
		t.Errorf("with the key of the cluster: %+v", c)
	}
	other := testkit.NewCanary()
	text, _ = json.Marshal(other.String())
	dir = folder(t, map[string]string{"s.yaml": sops(t, strings.Replace(plain, string(mustJSON(canary.String())), string(text), 1), recipient)})
	code, out, errs := p.sealock("diff", "ks", "app", "--path", dir)
	if code != 1 || strings.Count(out, "[secret ") != 2 || canary.FindIn(out+errs) != nil || other.FindIn(out+errs) != nil {
		t.Errorf("a changed value: exit code %d\n%s%s", code, out, errs)
	}
}

func mustJSON(v any) []byte { out, _ := json.Marshal(v); return out }

func sorted(list []string) []string { slices.Sort(list); return list }

// ageKey makes an identity with the real age-keygen.
func ageKey(t *testing.T) (identity, recipient string) {
	t.Helper()
	identity = string(program(t, "age-keygen"))
	for line := range strings.Lines(identity) {
		if r, ok := strings.CutPrefix(line, "# public key: "); ok {
			return identity, strings.TrimSpace(r)
		}
	}
	t.Fatal("age-keygen printed no public key")
	return "", ""
}

// sops encrypts with the real sops.
func sops(t *testing.T, plain, recipient string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "s.yaml")
	if err := os.WriteFile(path, []byte(plain), 0o600); err != nil {
		t.Fatal(err)
	}
	return string(program(t, "sops", "--encrypt", "--age", recipient, "--encrypted-regex", "^(data|stringData)$", path))
}

func program(t *testing.T, name string, args ...string) []byte {
	t.Helper()
	root, err := testkit.Root()
	if err != nil {
		t.Fatal(err)
	}
	out, err := exec.CommandContext(t.Context(), filepath.Join(root, "bin", name), args...).Output()
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	return out
}

func TestDiffFails(t *testing.T) {
	p := newPeople(t)
	p.kustomization("app")
	p.kustomization("remote", "  kubeConfig: {secretRef: {name: x}}")
	p.kustomization("vars", "  postBuild: {substituteFrom: [{kind: ConfigMap, name: nowhere}]}")
	good := folder(t, map[string]string{"a.yaml": "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a}\n"})
	for _, tc := range []struct {
		name string
		args []string
		code int
		want string
	}{
		{"no such Kustomization", []string{"x", "--path", good}, 4, "not found"},
		{"no such folder", []string{"app", "--path", "/nowhere"}, 4, "no such folder"},
		{"nothing here", []string{"app"}, 2, "--path"},
		{"another cluster", []string{"remote", "--path", good}, 2, "another cluster"},
		{"a variable that cannot be read", []string{"vars", "--path", good}, 4, "ConfigMap/nowhere"},
		{"not valid", []string{"app", "--path", folder(t, map[string]string{"a.yaml": "apiVersion: v1\nkind: Service\nmetadata: {name: a}\nspec: {ports: [{port: 99999}]}\n"})}, 2, "Service/"},
		{"an unknown kind", []string{"app", "--path", folder(t, map[string]string{"a.yaml": "apiVersion: x.example.com/v1\nkind: X\nmetadata: {name: a}\n"})}, 4, "does not know"},
		{"a version that is not served", []string{"app", "--path", folder(t, map[string]string{"a.yaml": "apiVersion: apps/v1beta1\nkind: Deployment\nmetadata: {name: a}\n"})}, 4, "does not know apps/v1beta1"},
		{"twice", []string{"app", "--path", folder(t, map[string]string{"a.yaml": "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a}\n", "b.yaml": "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a}\n"})}, 2, "also stands in"},
		{"encrypted, not asked for", []string{"app", "--path", folder(t, map[string]string{"a.yaml": "apiVersion: v1\nkind: Secret\nmetadata: {name: a}\nstringData: {k: ENC}\nsops: {mac: x}\n"})}, 2, "SOPS encrypted"},
		{"forbidden", []string{"app", "--path", good, "--as", "nobody"}, 2, "you may not read it"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			code, out, errs := p.sealock(append([]string{"diff", "ks"}, tc.args...)...)
			if code != tc.code || !strings.Contains(errs, tc.want) {
				t.Errorf("exit code %d, want %d; %q is to be in:\n%s%s", code, tc.code, tc.want, out, errs)
			}
		})
	}
}
