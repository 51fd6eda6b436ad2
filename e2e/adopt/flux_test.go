//go:build adopt

// Package adopt takes over from a real Flux: its kustomize-controller, built from its module, reconciles a commit against
// a real control plane, and then Sealock goes on where it stopped. `make adopt` runs it; the build of that program takes
// minutes, which is why `make test` does not.
//
// source-controller cannot be built from the registry here (one of its modules is not served), so that source_test.go stands in
// for it: it serves the artifact and writes the status as source-controller does.
package adopt

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"sealock.dev/sealock/e2e/harness"
)

const (
	patience = time.Minute
	ksAPI    = "kustomize.toolkit.fluxcd.io/v1"
	srcAPI   = "source.toolkit.fluxcd.io/v1"
)

// TestTakeover: Flux applies, Sealock takes over in place. Every object keeps uid, generation and resourceVersion, every
// pod lives on, the inventory is the same; the next commit is applied and pruned by Sealock; and there is a way back.
func TestTakeover(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 8*time.Minute)
	t.Cleanup(cancel)
	a := newAdoption(ctx, t)
	a.install()
	commit := a.publish(a.files("1"))
	stop := a.flux()
	a.ok(a.WaitReady(ctx, patience, "flux-system", "apps", commit))
	a.ok(a.WaitReady(ctx, patience, "apps", "tenant", commit))
	before, inventory, pods := a.objects(), a.inventory(), a.pods()
	if len(before) < 9 || len(pods) != 2 {
		t.Fatalf("Flux applied %d objects with %d pods: %v", len(before), len(pods), before)
	}

	if out, err := a.World.Run(ctx, nil, "sealock", "controller", "--kubeconfig", a.Kubeconfig, "--cache-dir", t.TempDir()); err == nil || !strings.Contains(err.Error(), "sealock adopt flux") {
		t.Fatalf("Sealock starts beside Flux: %v %s", err, out)
	}
	out, err := a.World.Run(ctx, nil, "sealock", "adopt", "flux", "--kubeconfig", a.Kubeconfig)
	if err == nil || !strings.Contains(err.Error(), "--accept generated-names") {
		t.Errorf("the generated Secret does not stand in the way: %v", err)
	}
	t.Logf("the plan:\n%s", out)
	out, err = a.World.Run(ctx, nil, "sealock", "adopt", "flux", "--kubeconfig", a.Kubeconfig, "--yes", "--accept", "generated-names", "-o", "json")
	a.ok(err)
	var plan struct{ Arguments, PlatformNamespaces, Renamed []string }
	a.ok(json.Unmarshal([]byte(out), &plan))
	if !slices.Contains(plan.PlatformNamespaces, "apps") || len(plan.Renamed) != 1 {
		t.Errorf("platform namespaces %v, renamed %v", plan.PlatformNamespaces, plan.Renamed)
	}
	stop()

	a.ok(a.StartController(ctx, false, plan.Arguments...))
	for _, ks := range [][2]string{{"flux-system", "apps"}, {"apps", "tenant"}} {
		a.ok(a.handled(ks[0], ks[1]))
		a.ok(a.WaitReady(ctx, patience, ks[0], ks[1], commit))
	}
	a.same(before, a.objects(), plan.Renamed)
	if got := a.inventory(); !slices.Equal(without(got, plan.Renamed), without(inventory, plan.Renamed)) {
		t.Errorf("inventory\n%q, was\n%q", got, inventory)
	}
	if got := a.pods(); !maps.Equal(got, pods) {
		t.Errorf("pods %v, were %v", got, pods)
	}

	next := a.files("2")
	next["apps/extra.yaml"] = ""
	commit = a.publish(next)
	for _, ks := range [][2]string{{"flux-system", "apps"}, {"apps", "tenant"}} {
		a.ok(a.handled(ks[0], ks[1]))
		a.ok(a.WaitReady(ctx, patience, ks[0], ks[1], commit))
	}
	settings, err := a.Get(ctx, "v1", "ConfigMap", "apps", "settings")
	a.ok(err)
	if v, _, _ := unstructured.NestedString(settings.Object, "data", "version"); v != "2" {
		t.Errorf("the next commit is not applied: version %q", v)
	}
	if extra, err := a.Get(ctx, "v1", "ConfigMap", "apps", "extra"); err != nil || extra != nil {
		t.Errorf("what left Git was not pruned: %v", err)
	}

	a.ok(a.StopController())
	before = a.objects()
	_, err = a.World.Run(ctx, nil, "sealock", "adopt", "flux", "--kubeconfig", a.Kubeconfig, "--undo")
	a.ok(err)
	a.artifact("flux-system", "repository", commit, next)
	stop = a.flux()
	defer stop()
	a.ok(a.handled("flux-system", "apps"))
	a.ok(a.WaitReady(ctx, patience, "flux-system", "apps", commit))
	a.same(before, a.objects(), a.generated())
}

type adoption struct {
	*testing.T
	*harness.World
	ctx       context.Context
	recipient string
}

func newAdoption(ctx context.Context, t *testing.T) *adoption {
	t.Helper()
	bin, err := filepath.Abs("../../bin")
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	w, err := harness.Start(ctx, harness.Options{Dir: dir, Bin: bin, WithoutController: true})
	if err != nil {
		t.Fatal(err)
	}
	a := &adoption{T: t, World: w, ctx: ctx}
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("Sealock:\n%s\nFlux:\n%s", w.LogTail(30), last(a.File(filepath.Join(dir, "flux.log"))))
		}
		if err := w.Stop(); err != nil {
			t.Error(err)
		}
	})
	identity, recipient, err := w.AgeKey(ctx)
	a.ok(err)
	a.recipient = recipient
	a.apply(fmt.Sprintf("apiVersion: v1\nkind: Namespace\nmetadata: {name: flux-system}\n---\napiVersion: v1\nkind: Namespace\nmetadata: {name: apps}\n---\n"+
		"apiVersion: v1\nkind: Secret\nmetadata: {name: sops-age, namespace: flux-system}\nstringData: {keys.agekey: %q}\n", identity))
	return a
}

// last returns the last lines of a log.
func last(text string) string {
	lines := strings.Split(text, "\n")
	return strings.Join(lines[max(0, len(lines)-8):], "\n")
}

func (a *adoption) ok(err error) {
	a.Helper()
	if err != nil {
		a.Fatal(err)
	}
}

func (a *adoption) apply(text string) { a.Helper(); a.ok(a.World.Apply(a.ctx, text)) }

// install makes what an installation of Flux has: its Deployments, whose pods the devcluster makes ready, the kinds that
// kustomize-controller watches besides ours, a source and two Kustomizations.
func (a *adoption) install() {
	a.Helper()
	for _, kind := range [][2]string{{"OCIRepository", "ocirepositories"}, {"Bucket", "buckets"}} {
		a.apply(fmt.Sprintf(`
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: %[2]s.source.toolkit.fluxcd.io}
spec:
  group: source.toolkit.fluxcd.io
  scope: Namespaced
  names: {kind: %[1]s, listKind: %[1]sList, plural: %[2]s, singular: %[3]s}
  versions:
  - {name: v1, served: true, storage: true, schema: {openAPIV3Schema: {type: object, x-kubernetes-preserve-unknown-fields: true}}}
`, kind[0], kind[1], strings.ToLower(kind[0])))
	}
	for _, name := range []string{"kustomize-controller", "source-controller"} {
		a.apply(fmt.Sprintf(`
apiVersion: apps/v1
kind: Deployment
metadata:
  name: %[1]s
  namespace: flux-system
  labels: {app.kubernetes.io/part-of: flux, app.kubernetes.io/component: %[1]s, app.kubernetes.io/instance: flux-system, app.kubernetes.io/version: v2.9.0}
spec:
  replicas: 1
  selector: {matchLabels: {app: %[1]s}}
  template:
    metadata: {labels: {app: %[1]s}}
    spec: {containers: [{name: manager, image: "ghcr.io/fluxcd/%[1]s:v1.9.5", args: [--watch-all-namespaces=true, --log-level=info]}]}
`, name))
	}
	a.apply(fmt.Sprintf(`
apiVersion: v1
kind: Secret
metadata: {name: git, namespace: flux-system}
stringData: {username: %q, password: %q}
---
apiVersion: source.toolkit.fluxcd.io/v1
kind: GitRepository
metadata: {name: repository, namespace: flux-system, finalizers: [finalizers.fluxcd.io]}
spec: {interval: 10m, url: "%s/flux.git", ref: {branch: main}, secretRef: {name: git}}
---
apiVersion: kustomize.toolkit.fluxcd.io/v1
kind: Kustomization
metadata: {name: apps, namespace: flux-system}
spec:
  interval: 10m
  retryInterval: 2s
  timeout: 1m
  path: ./apps
  prune: true
  wait: true
  sourceRef: {kind: GitRepository, name: repository}
  decryption: {provider: sops, secretRef: {name: sops-age}}
  postBuild: {substitute: {version: v1}}
---
apiVersion: kustomize.toolkit.fluxcd.io/v1
kind: Kustomization
metadata: {name: tenant, namespace: apps}
spec:
  interval: 10m
  retryInterval: 2s
  path: ./tenant
  prune: true
  targetNamespace: apps
  sourceRef: {kind: GitRepository, name: repository, namespace: flux-system}
`, a.Env["GIT_USERNAME"], a.Env["GIT_PASSWORD"], a.Env["GIT_HTTP_URL"]))
}

// files is the content of the repository: what kinds of object and of sources there are.
func (a *adoption) files(version string) map[string]string {
	a.Helper()
	secret, err := a.Sops(a.ctx, "secret.yaml", "apiVersion: v1\nkind: Secret\nmetadata: {name: password, namespace: apps}\nstringData: {password: hunter2}\n", a.recipient, "--encrypted-regex", "^(data|stringData)$")
	a.ok(err)
	env, err := a.Sops(a.ctx, "generated.env", "TOKEN=hunter2\n", a.recipient)
	a.ok(err)
	return map[string]string{
		"apps/kustomization.yaml": "apiVersion: kustomize.config.k8s.io/v1beta1\nkind: Kustomization\nresources: [workload.yaml, secret.yaml, rights.yaml" + map[string]string{"1": ", extra.yaml", "2": ""}[version] + "]\n" +
			"configMapGenerator: [{name: generated, namespace: apps, literals: [a=b]}]\nsecretGenerator: [{name: generated, namespace: apps, envs: [generated.env]}]\n",
		"apps/generated.env": env,
		"apps/secret.yaml":   secret,
		"apps/extra.yaml":    "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: extra, namespace: apps}\ndata: {a: b}\n",
		"apps/rights.yaml": `apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRole
metadata: {name: adopted}
rules: [{apiGroups: [""], resources: [pods], verbs: [get]}]
---
apiVersion: v1
kind: ServiceAccount
metadata: {name: adopted, namespace: apps}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {name: adopted, namespace: apps}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: adopted}
subjects: [{kind: ServiceAccount, name: adopted, namespace: apps}]
`,
		"apps/workload.yaml": `apiVersion: v1
kind: ConfigMap
metadata: {name: settings, namespace: apps}
data: {version: "` + version + `", from: "${version}"}
---
apiVersion: v1
kind: Service
metadata: {name: app, namespace: apps}
spec: {selector: {app: app}, ports: [{port: 80}]}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: app, namespace: apps}
spec:
  replicas: 2
  selector: {matchLabels: {app: app}}
  template:
    metadata: {labels: {app: app}}
    spec:
      containers:
      - name: main
        image: example.com/app:1
        ports: [{containerPort: 8080}]
        env: [{name: PASSWORD, valueFrom: {secretKeyRef: {name: password, key: password}}}]
        resources: {requests: {cpu: 0.1, memory: 64Mi}}
`,
		"tenant/cm.yaml": "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: tenant}\ndata: {version: \"" + version + "\"}\n",
	}
}

// publish pushes the files, and has the stand-in for source-controller offer them while Flux runs.
func (a *adoption) publish(files map[string]string) string {
	a.Helper()
	commit, err := a.Push(a.ctx, "flux", "change", files)
	a.ok(err)
	if a.Pid("controller") == 0 {
		a.artifact("flux-system", "repository", commit, files)
		return commit
	}
	_, err = a.Reconcile(a.ctx, srcAPI, "GitRepository", "flux-system", "repository")
	a.ok(err)
	a.ok(a.Wait(a.ctx, patience, "the commit to be fetched", func(ctx context.Context) (bool, error) {
		o, err := a.Get(ctx, srcAPI, "GitRepository", "flux-system", "repository")
		if err != nil {
			return false, err
		}
		revision, _, _ := unstructured.NestedString(o.Object, "status", "artifact", "revision")
		return strings.HasSuffix(revision, commit), nil
	}))
	return commit
}

// flux runs the real kustomize-controller until stop is called.
func (a *adoption) flux() (stop func()) {
	a.Helper()
	log, err := os.OpenFile(filepath.Join(a.Dir, "flux.log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	a.ok(err)
	bin, err := filepath.Abs("../../bin/kustomize-controller")
	a.ok(err)
	cmd := exec.Command(bin, "--health-addr", free(a.T), "--metrics-addr", free(a.T), "--watch-all-namespaces=true", "--log-level=info", "--requeue-dependency=2s")
	cmd.Env = append(os.Environ(), "KUBECONFIG="+a.Kubeconfig, "RUNTIME_NAMESPACE=flux-system", "TMPDIR="+a.TempDir())
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGTERM}
	a.ok(cmd.Start())
	return func() {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		_ = cmd.Wait()
		_ = log.Close()
	}
}

func free(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

// handled asks for a reconcile and waits until it was one.
func (a *adoption) handled(namespace, name string) error {
	at, err := a.Reconcile(a.ctx, ksAPI, "Kustomization", namespace, name)
	if err != nil {
		return err
	}
	return a.Wait(a.ctx, patience, "the request to be handled", func(ctx context.Context) (bool, error) {
		o, err := a.Get(ctx, ksAPI, "Kustomization", namespace, name)
		if err != nil {
			return false, err
		}
		handled, _, _ := unstructured.NestedString(o.Object, "status", "lastHandledReconcileAt")
		return handled == at, nil
	})
}

// inventory returns the ids of both Kustomizations, in order.
func (a *adoption) inventory() []string {
	a.Helper()
	var out []string
	for _, ks := range [][2]string{{"flux-system", "apps"}, {"apps", "tenant"}} {
		o, err := a.Get(a.ctx, ksAPI, "Kustomization", ks[0], ks[1])
		a.ok(err)
		entries, _, _ := unstructured.NestedSlice(o.Object, "status", "inventory", "entries")
		for _, each := range entries {
			entry, _ := each.(map[string]any)
			out = append(out, fmt.Sprint(entry["id"], "@", entry["v"]))
		}
	}
	return out
}

// objects returns identity, generation and version of everything in the inventories, and of the objects of Flux themselves.
func (a *adoption) objects() map[string]string {
	a.Helper()
	out := map[string]string{}
	for _, id := range a.inventory() {
		id, version, _ := strings.Cut(id, "@")
		part := strings.Split(id, "_")
		apiVersion := strings.TrimPrefix(part[2]+"/"+version, "/")
		o, err := a.Get(a.ctx, apiVersion, part[3], part[0], part[1])
		a.ok(err)
		if o == nil {
			a.Fatalf("%s is in the inventory and not in the cluster", id)
		}
		out[id] = fmt.Sprintf("uid %s generation %d version %s managers %s", o.GetUID(), o.GetGeneration(), o.GetResourceVersion(), managers(o))
	}
	for _, ks := range [][2]string{{"flux-system", "apps"}, {"apps", "tenant"}} {
		o, err := a.Get(a.ctx, ksAPI, "Kustomization", ks[0], ks[1])
		a.ok(err)
		out["Kustomization "+ks[1]] = fmt.Sprintf("uid %s generation %d finalizers %v", o.GetUID(), o.GetGeneration(), o.GetFinalizers())
	}
	return out
}

func managers(o *unstructured.Unstructured) string {
	var out []string
	for _, m := range o.GetManagedFields() {
		if m.Subresource == "" {
			out = append(out, m.Manager+"/"+string(m.Operation))
		}
	}
	slices.Sort(out)
	return strings.Join(out, ",")
}

// generated returns the Secrets that a generator of kustomize named.
func (a *adoption) generated() []string {
	a.Helper()
	var out []string
	for _, id := range a.inventory() {
		if strings.HasPrefix(id, "apps_generated-") && strings.Contains(id, "_Secret@") {
			out = append(out, "Secret/apps/"+strings.Split(id, "_")[1])
		}
	}
	return out
}

// without leaves out generated Secrets, which get a new name once, as the plan says.
func without(list, renamed []string) []string {
	return slices.DeleteFunc(slices.Clone(list), func(id string) bool {
		return len(renamed) > 0 && strings.HasPrefix(id, "apps_generated-") && strings.Contains(id, "_Secret")
	})
}

func (a *adoption) same(before, after map[string]string, renamed []string) {
	a.Helper()
	for _, id := range without(slices.Sorted(maps.Keys(before)), renamed) {
		if after[id] != before[id] {
			a.Errorf("%s: %s, was %s", id, after[id], before[id])
		}
	}
}

// pods returns uid and restarts of the pods of the application.
func (a *adoption) pods() map[string]int32 {
	a.Helper()
	list, err := a.Typed.CoreV1().Pods("apps").List(a.ctx, metav1.ListOptions{})
	a.ok(err)
	out := map[string]int32{}
	for _, pod := range list.Items {
		out[string(pod.UID)] = 0
		for _, c := range pod.Status.ContainerStatuses {
			out[string(pod.UID)] += c.RestartCount
		}
	}
	return out
}
