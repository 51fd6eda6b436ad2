// Package faults breaks what Sealock depends on, and Sealock itself, while it works: the real program against a real
// control plane and a real Git server, with a proxy between the two wherever requests are to be lost, refused or delayed.
// After each fault the same is asked (see sound): it converged, nothing is orphaned, nothing was pruned that should live,
// the inventory is exact, no Secret is empty.
package faults

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"

	"sealock.dev/sealock/e2e/harness"
)

const (
	patience = 90 * time.Second
	ksAPI    = "kustomize.toolkit.fluxcd.io/v1"
	srcAPI   = "source.toolkit.fluxcd.io/v1"

	main = "controller" // the process that most tests share
)

// The controller reaches the API server by the proxy. A test that ends, replaces or starves it runs alone; those that
// harm only their own namespace run side by side after them.
var (
	world *harness.World
	proxy *harness.Proxy
)

func TestMain(m *testing.M) { os.Exit(run(m)) }

func run(m *testing.M) int {
	dir, err := os.MkdirTemp("", "faults")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer func() {
		if os.Getenv("KEEPDIR") == "" {
			os.RemoveAll(dir)
		}
	}()
	bin, err := filepath.Abs("../../bin")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	defer cancel()
	if err := start(ctx, dir, bin); err != nil {
		fmt.Fprintln(os.Stderr, "starting the world:", err)
		return 1
	}
	code := m.Run()
	if err := world.Stop(); err != nil {
		fmt.Fprintln(os.Stderr, "stopping the world:", err)
		code = 1
	}
	proxy.Close()
	if code != 0 {
		fmt.Fprintf(os.Stderr, "last lines of the controller's log:\n%s\n", world.LogTail(60))
	}
	return code
}

func start(ctx context.Context, dir, bin string) (err error) {
	world, err = harness.Start(ctx, harness.Options{Dir: dir, Bin: bin, WithoutController: true})
	if err != nil {
		return err
	}
	if proxy, err = harness.NewProxy(world.Config); err == nil {
		err = startMain(ctx)
	}
	if err != nil {
		_ = world.Stop()
	}
	return err
}

// startMain starts the controller that leads without being elected: after a kill nobody waits for the end of a lease.
func startMain(ctx context.Context) error {
	return world.StartReplica(ctx, harness.Replica{Name: main, Ports: world.Ports, Via: proxy, Args: []string{"--leader-elect=false"}})
}

// team is a tenant with a repository and a namespace of the same name.
type team struct {
	*testing.T
	*harness.World
	ctx                       context.Context
	name, identity, recipient string
}

func newTeam(t *testing.T, name string) *team {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Minute)
	t.Cleanup(cancel)
	tm := &team{T: t, World: world, ctx: ctx, name: name}
	var err error
	tm.identity, tm.recipient, err = world.AgeKey(ctx)
	tm.ok(err)
	tm.apply(secretYAML(harness.SystemNamespace, name+"-age", map[string]string{"keys.agekey": tm.identity}))
	tm.apply(fmt.Sprintf(`
apiVersion: sealock.dev/v1alpha1
kind: Tenant
metadata: {name: %[1]s}
spec:
  namespaces: [{name: %[1]s}]
  decryption: {secretRef: {name: %[1]s-age}}
`, name))
	_, err = world.WaitCondition(ctx, patience, "sealock.dev/v1alpha1", "Tenant", "", name, "Ready", "True", "")
	tm.ok(err)
	tm.credentials()
	return tm
}

func (tm *team) credentials() {
	tm.apply(secretYAML(tm.name, "git-credentials", map[string]string{"username": world.Env["GIT_USERNAME"], "password": world.Env["GIT_PASSWORD"]}))
}

func (tm *team) ok(err error) {
	tm.Helper()
	if err != nil {
		tm.Fatal(err)
	}
}

func (tm *team) apply(text string) { tm.Helper(); tm.ok(tm.Apply(text)) }

// Apply applies as administrator.
func (tm *team) Apply(text string) error { return tm.World.Apply(tm.ctx, text) }

func (tm *team) push(files map[string]string) string {
	tm.Helper()
	commit, err := tm.Push(tm.ctx, tm.name, "change", files)
	tm.ok(err)
	return commit
}

// source is the team's GitRepository, with further lines of its spec.
func (tm *team) source(extra ...string) string {
	return fmt.Sprintf(`
apiVersion: source.toolkit.fluxcd.io/v1
kind: GitRepository
metadata: {name: app, namespace: %s}
spec:
  interval: 10m
  timeout: 20s
  url: %s/%s.git
  ref: {branch: main}
  secretRef: {name: git-credentials}
%s
---
`, tm.name, tm.Env["GIT_HTTP_URL"], tm.name, strings.Join(extra, "\n"))
}

// sync is a Kustomization of the team, of a folder of that name.
func (tm *team) sync(name string, extra ...string) string {
	return fmt.Sprintf(`
apiVersion: kustomize.toolkit.fluxcd.io/v1
kind: Kustomization
metadata: {name: %[2]s, namespace: %[1]s}
spec:
  interval: 10m
  retryInterval: 2s
  timeout: 1m
  prune: true
  path: %[2]s
  sourceRef: {kind: GitRepository, name: app}
  decryption: {provider: sops}
%[3]s
---
`, tm.name, name, strings.Join(extra, "\n"))
}

// patch merges JSON into an object of the team's namespace, as administrator.
func (tm *team) patch(apiVersion, kind, name, body string) {
	tm.Helper()
	r, err := tm.Resource(schema.FromAPIVersionAndKind(apiVersion, kind), tm.name)
	tm.ok(err)
	_, err = r.Patch(tm.ctx, name, types.MergePatchType, []byte(body), metav1.PatchOptions{FieldManager: "e2e"})
	tm.ok(err)
}

// fetch asks the source to look at once.
func (tm *team) fetch() {
	tm.Helper()
	_, err := tm.Reconcile(tm.ctx, srcAPI, "GitRepository", tm.name, "app")
	tm.ok(err)
}

// ready waits until a Kustomization is ready at the commit.
func (tm *team) ready(name, commit string) {
	tm.Helper()
	tm.ok(tm.WaitReady(tm.ctx, patience, tm.name, name, commit))
}

// begin makes a team with one Kustomization "app" that is ready with the first set.
func begin(t *testing.T, name string, first set) *team {
	t.Helper()
	tm := newTeam(t, name)
	commit := tm.push(first.files("app"))
	tm.apply(tm.source() + tm.sync("app"))
	tm.ready("app", commit)
	tm.sound("app", first)
	return tm
}

// deliver brings a set into the cluster, and checks it.
func (tm *team) deliver(before, after set) {
	tm.Helper()
	commit := tm.push(after.change("app", before))
	tm.fetch()
	tm.ready("app", commit)
	tm.sound("app", after)
}

func (tm *team) eventually(what string, ok func() (bool, error)) {
	tm.Helper()
	tm.ok(tm.Wait(tm.ctx, patience, what, func(context.Context) (bool, error) { return ok() }))
}

// condition waits for Ready of a kind in the team's namespace, and returns the message.
func (tm *team) condition(apiVersion, kind, name, status, reason string) string {
	tm.Helper()
	message, err := tm.WaitCondition(tm.ctx, patience, apiVersion, kind, tm.name, name, "Ready", status, reason)
	tm.ok(err)
	return message
}

// set is what a folder holds: the value of each object by "Kind/name".
type set map[string]string

func (s set) files(folder string) map[string]string {
	out := map[string]string{}
	for id, value := range s {
		out[folder+"/"+strings.ReplaceAll(strings.ToLower(id), "/", "-")+".yaml"] = manifestOf(id, value)
	}
	return out
}

// change is what has to be written over the files of before to have those of s.
func (s set) change(folder string, before set) map[string]string {
	out := s.files(folder)
	for name := range before.files(folder) {
		if _, still := out[name]; !still {
			out[name] = ""
		}
	}
	return out
}

func manifestOf(id, value string) string {
	kind, name, _ := strings.Cut(id, "/")
	switch kind {
	case "ConfigMap":
		return fmt.Sprintf("apiVersion: v1\nkind: ConfigMap\nmetadata: {name: %s}\ndata: {value: %q}\n", name, value)
	case "ServiceAccount":
		return fmt.Sprintf("apiVersion: v1\nkind: ServiceAccount\nmetadata: {name: %s, annotations: {value: %q}}\n", name, value)
	}
	return value // of Secrets and SealedSecrets: the manifest, encrypted beforehand
}

// kinds are those that sets hold. The live objects of exactly these are compared with the inventory.
var kinds = map[string]schema.GroupVersionKind{
	"ConfigMap":      {Version: "v1", Kind: "ConfigMap"},
	"ServiceAccount": {Version: "v1", Kind: "ServiceAccount"},
	"Secret":         {Version: "v1", Kind: "Secret"},
	"SealedSecret":   {Group: "bitnami.com", Version: "v1alpha1", Kind: "SealedSecret"},
	"ExternalSecret": {Group: "external-secrets.io", Version: "v1", Kind: "ExternalSecret"},
}

// id is the inventory's id of "Kind/name".
func (set) id(namespace, each string) string {
	kind, name, _ := strings.Cut(each, "/")
	return fmt.Sprintf("%s_%s_%s_%s", namespace, name, kinds[kind].Group, kind)
}

// ids are the inventory of a set, sorted.
func (s set) ids(namespace string) []string {
	var out []string
	for each := range s {
		out = append(out, s.id(namespace, each))
	}
	slices.Sort(out)
	return out
}

// inventory returns the ids that the status of a Kustomization holds, sorted.
func (tm *team) inventory(name string) []string {
	tm.Helper()
	o, err := tm.Get(tm.ctx, ksAPI, "Kustomization", tm.name, name)
	tm.ok(err)
	if o == nil {
		return nil
	}
	entries, _, _ := unstructured.NestedSlice(o.Object, "status", "inventory", "entries")
	var out []string
	for _, e := range entries {
		if m, ok := e.(map[string]any); ok {
			id, _ := m["id"].(string)
			out = append(out, id)
		}
	}
	slices.Sort(out)
	return out
}

// live returns the objects that carry the labels of a Kustomization, by inventory id.
func (tm *team) live(name string) map[string]*unstructured.Unstructured {
	tm.Helper()
	out := map[string]*unstructured.Unstructured{}
	selector := "kustomize.toolkit.fluxcd.io/name=" + name + ",kustomize.toolkit.fluxcd.io/namespace=" + tm.name
	for kind, gvk := range kinds {
		r, err := tm.Resource(gvk, tm.name)
		tm.ok(err)
		list, err := r.List(tm.ctx, metav1.ListOptions{LabelSelector: selector})
		tm.ok(err)
		for i := range list.Items {
			o := &list.Items[i]
			out[fmt.Sprintf("%s_%s_%s_%s", o.GetNamespace(), o.GetName(), gvk.Group, kind)] = o
		}
	}
	return out
}

// sound fails the test unless exactly the set is there, with its values, and the inventory says so.
func (tm *team) sound(name string, want set) {
	tm.Helper()
	if problem := tm.unsound(name, want); problem != "" {
		tm.Fatal(problem)
	}
}

func (tm *team) unsound(name string, want set) string {
	tm.Helper()
	ids, inventory, live := want.ids(tm.name), tm.inventory(name), tm.live(name)
	if !slices.Equal(ids, inventory) {
		return fmt.Sprintf("%s: the inventory is not exact\nwanted %v\nfound  %v", name, ids, inventory)
	}
	for id := range live {
		if !slices.Contains(ids, id) {
			return fmt.Sprintf("%s: orphaned: %s", name, id)
		}
	}
	for each, value := range want {
		kind, _, _ := strings.Cut(each, "/")
		o := live[want.id(tm.name, each)]
		if o == nil {
			return fmt.Sprintf("%s: %s is missing", name, each)
		}
		got := value
		switch kind {
		case "ConfigMap":
			got, _, _ = unstructured.NestedString(o.Object, "data", "value")
		case "ServiceAccount":
			got = o.GetAnnotations()["value"]
		case "Secret":
			if data, _, _ := unstructured.NestedMap(o.Object, "data"); len(data) == 0 || data["password"] == "" {
				return fmt.Sprintf("%s: %s was emptied", name, each)
			}
		}
		if got != value {
			return fmt.Sprintf("%s: %s has %q instead of %q", name, each, got, value)
		}
	}
	return ""
}

// sops is a Secret of a commit, encrypted with the real sops.
func (tm *team) sops(name, password string) string {
	tm.Helper()
	out, err := tm.Sops(tm.ctx, "s.yaml", secretYAML(tm.name, name, map[string]string{"password": password}), tm.recipient, "--encrypted-regex", "^(data|stringData)$")
	tm.ok(err)
	return out
}

// sealed is a SealedSecret of a commit.
func (tm *team) sealed(name, password string) string {
	tm.Helper()
	out, err := tm.Seal(tm.ctx, secretYAML(tm.name, name, map[string]string{"password": password}))
	tm.ok(err)
	return out
}

func (tm *team) password(name string) string {
	tm.Helper()
	data, err := tm.SecretData(tm.ctx, tm.name, name)
	tm.ok(err)
	return data["password"]
}

func secretYAML(namespace, name string, data map[string]string) string {
	text := fmt.Sprintf("apiVersion: v1\nkind: Secret\nmetadata:\n  name: %s\n  namespace: %s\nstringData:\n", name, namespace)
	for k, v := range data {
		text += fmt.Sprintf("  %s: %q\n", k, v)
	}
	return text + "---\n"
}

func condition(o *unstructured.Unstructured) (status, reason, message string) {
	return harness.Condition(o, "Ready")
}
