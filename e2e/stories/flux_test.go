package stories

import (
	"context"
	"encoding/json"
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"

	"sealock.dev/sealock/e2e/harness"
)

// TestFluxCheckAndVersion: what `flux check`, `flux check --pre` and `flux version` look at. The controller of this world
// is no Deployment: the one that `sealock install` prints runs in a namespace of its own, with pods that do nothing.
func TestFluxCheckAndVersion(t *testing.T) {
	t.Parallel()
	tm := newTeam(t, "fluxcheck")
	server, err := tm.Typed.Discovery().ServerVersion()
	tm.ok(err)
	if minor, err := strconv.Atoi(server.Minor); err != nil || server.Major != "1" || minor < 33 {
		t.Errorf("check --pre: %s", server)
	}
	crds := tm.Dynamic.Resource(schema.GroupVersionResource{Group: "apiextensions.k8s.io", Version: "v1", Resource: "customresourcedefinitions"})
	list, err := crds.List(tm.ctx, metav1.ListOptions{LabelSelector: "app.kubernetes.io/part-of=flux"})
	tm.ok(err)
	var names []string
	for i := range list.Items {
		crd := &list.Items[i]
		names = append(names, crd.GetName())
		stored, _, _ := unstructured.NestedStringSlice(crd.Object, "status", "storedVersions")
		if len(stored) == 0 || crd.GetLabels()["app.kubernetes.io/version"] == "" {
			t.Errorf("%s: stored versions %v, labels %v", crd.GetName(), stored, crd.GetLabels())
		}
		if crd.GetLabels()["kustomize.toolkit.fluxcd.io/name"] != "" {
			t.Errorf("%s says that flux bootstrapped it", crd.GetName())
		}
	}
	slices.Sort(names)
	if !slices.Equal(names, []string{"gitrepositories.source.toolkit.fluxcd.io", "kustomizations.kustomize.toolkit.fluxcd.io"}) {
		t.Errorf("CRDs of flux: %v", names)
	}

	out, err := tm.World.Run(tm.ctx, nil, "sealock", "install", "-n", "fluxcheck")
	tm.ok(err)
	objects, err := harness.Parse(out)
	tm.ok(err)
	for _, o := range objects {
		if o.GetKind() == "Deployment" || o.GetKind() == "ServiceAccount" {
			body, err := json.Marshal(o)
			tm.ok(err)
			tm.apply(string(body))
		}
	}
	deployments, err := tm.Typed.AppsV1().Deployments("fluxcheck").List(tm.ctx, metav1.ListOptions{LabelSelector: "app.kubernetes.io/part-of=flux"})
	tm.ok(err)
	if len(deployments.Items) != 1 {
		t.Fatalf("flux finds %d Deployments", len(deployments.Items))
	}
	d := deployments.Items[0]
	container := d.Spec.Template.Spec.Containers[0]
	_, tag, _ := strings.Cut(path.Base(container.Image), ":")
	if !regexp.MustCompile(`^v\d+\.\d+\.\d+(-[0-9A-Za-z.-]+)?$`).MatchString(tag) || container.Name != "manager" || len(d.Spec.Template.Labels) == 0 {
		t.Errorf("version and logs: container %q, image %q", container.Name, container.Image)
	}
	tm.ok(tm.eventually("the Deployment to be current", func() bool {
		live, err := tm.Typed.AppsV1().Deployments("fluxcheck").Get(tm.ctx, d.Name, metav1.GetOptions{})
		return err == nil && live.Status.ObservedGeneration == live.Generation && live.Status.AvailableReplicas == *live.Spec.Replicas
	}))
}

// TestFluxDay: get, reconcile, suspend, resume, tree, trace, events, debug, stats, diff, export, logs and delete, as the flux
// program asks for them.
// contract: GitRepository event annotation source.toolkit.fluxcd.io/revision
func TestFluxDay(t *testing.T) {
	t.Parallel()
	f := fluxCLI{newTeam(t, "fluxday")}
	child := strings.Replace(strings.TrimSuffix(strings.TrimSpace(f.sync("  path: ./child")), "---"), "{name: app,", "{name: child,", 1)
	root := strings.Replace(f.sync("  path: ./root"), "{name: app,", "{name: root,", 1)
	settings := configMap("settings", "1")
	commit := f.push(map[string]string{"root/settings.yaml": settings, "root/child.yaml": child, "root/web.yaml": service("web") + "---\n" + deployment("web", "none"), "child/leaf.yaml": configMap("leaf", "1")})
	f.apply(f.source("  ref: {branch: main}") + root)
	f.ok(f.WaitReady(f.ctx, patience, f.name, "root", commit))
	f.ok(f.WaitReady(f.ctx, patience, f.name, "child", commit))

	// flux get, flux stats
	ks, repository := f.get(kustomizations, "root"), f.get(repositories, "app")
	if revisionOf(ks) != "main@sha1:"+commit || revisionOf(repository) != revisionOf(ks) || suspended(ks) {
		t.Errorf("get: %q, %q", revisionOf(ks), revisionOf(repository))
	}
	if size, _, _ := unstructured.NestedInt64(repository.Object, "status", "artifact", "size"); size <= 0 {
		t.Errorf("stats: the artifact has %d bytes", size)
	}

	// flux reconcile ks root --with-source
	commit = f.push(map[string]string{"root/settings.yaml": configMap("settings", "2")})
	for _, step := range [][2]string{{repositories, "app"}, {kustomizations, "root"}} {
		revision, err := f.reconcile(step[0], step[1])
		if err != nil || !strings.HasSuffix(revision, commit) {
			t.Errorf("reconcile %s: %q, want %s: %v", step[0], revision, commit, err)
		}
	}
	if got := str(f.exists("v1", "ConfigMap", "settings"), "data", "value"); got != "2" {
		t.Errorf("reconcile has not applied: %q", got)
	}
	f.suspending(commit)

	// flux tree, flux trace
	want := []string{"ConfigMap/fluxday/settings", "Deployment.apps/fluxday/web", "Kustomization.kustomize.toolkit.fluxcd.io/fluxday/child", "  ConfigMap/fluxday/leaf"}
	tree := f.tree("root")
	for _, line := range want {
		if !slices.ContainsFunc(tree, func(got string) bool { return strings.Replace(got, "ConfigMap./", "ConfigMap/", 1) == line }) {
			t.Errorf("tree: %q lacks %q", tree, line)
		}
	}
	if url, revision := f.trace("v1", "ConfigMap", "leaf"); !strings.HasSuffix(url, "/fluxday.git") || !strings.HasSuffix(revision, commit) {
		t.Errorf("trace: %q at %q", url, revision)
	}
	f.told(commit)

	// flux diff ks: no false drift, and a real one is found
	for _, text := range []string{configMap("settings", "2"), service("web"), deployment("web", "none")} {
		objects, err := harness.Parse(text)
		f.ok(err)
		if f.diff("root", objects[0]) {
			t.Errorf("diff: false drift of %s", objects[0].GetKind())
		}
	}
	objects, err := harness.Parse(configMap("settings", "3"))
	f.ok(err)
	if !f.diff("root", objects[0]) {
		t.Error("diff: a change is not found")
	}

	// flux debug ks --show-history
	history, _, _ := unstructured.NestedSlice(f.get(kustomizations, "root").Object, "status", "history")
	if len(history) == 0 {
		t.Fatal("debug: no history")
	}
	newest, _ := history[0].(map[string]any)
	for _, field := range []string{"digest", "firstReconciled", "lastReconciled", "lastReconciledDuration", "lastReconciledStatus", "totalReconciliations"} {
		if newest[field] == nil {
			t.Errorf("debug: history has no %s: %v", field, newest)
		}
	}
	if revision := str(newest, "metadata", "revision"); !strings.HasSuffix(revision, commit) {
		t.Errorf("debug: revision %q", revision)
	}
	f.logs()
	f.leaving()
}

// suspending: a suspended object is not touched, and resuming goes on with what came meanwhile.
func (f fluxCLI) suspending(commit string) {
	f.Helper()
	f.suspend(kustomizations, "root", true)
	if _, err := f.reconcile(kustomizations, "root"); err == nil {
		f.Error("a suspended Kustomization was reconciled")
	}
	f.ok(f.delete("v1", "ConfigMap", "settings"))
	if got := f.resume(kustomizations, "root"); !strings.HasSuffix(got, commit) {
		f.Errorf("resume: %q", got)
	}
	f.ok(f.eventually("resume to repair what went while it was suspended", func() bool { return f.exists("v1", "ConfigMap", "settings") != nil }))
	f.suspend(repositories, "app", true)
	if got := f.resume(repositories, "app"); !strings.HasSuffix(got, commit) {
		f.Errorf("resume source: %q", got)
	}
}

// told: events are in the cluster as `flux events` reads them, and were posted as notification-controller takes them.
func (f fluxCLI) told(commit string) {
	f.Helper()
	for kind, want := range map[string]struct{ name, component, reason, key string }{
		kustomizations: {"root", "kustomize-controller", "ReconciliationSucceeded", "kustomize.toolkit.fluxcd.io/revision"},
		repositories:   {"app", "source-controller", "NewArtifact", "source.toolkit.fluxcd.io/revision"},
	} {
		// Of events that say the same, the cluster keeps the first with a count, and so the first revision.
		f.ok(f.eventually("events of "+kind, func() bool {
			for _, e := range f.events(kind, want.name) {
				if e.Source.Component == want.component && e.Reason == want.reason && e.Type == "Normal" && strings.HasPrefix(e.Annotations[want.key], "main@sha1:") {
					return true
				}
			}
			return false
		}))
		f.ok(f.eventually("posted events of "+kind, func() bool {
			return slices.ContainsFunc(posted.about(kind, f.name), func(e map[string]any) bool {
				metadata, _ := e["metadata"].(map[string]any)
				revision, _ := metadata[want.key].(string)
				return e["reportingController"] == want.component && e["reason"] == want.reason && e["severity"] == "info" &&
					str(e, "involvedObject", "name") == want.name && str(e, "involvedObject", "uid") != "" && strings.HasSuffix(revision, commit)
			})
		}))
	}
}

// logs: a line about an object has the keys that `flux logs` reads.
func (f fluxCLI) logs() {
	f.Helper()
	lines, err := f.LogLines()
	f.ok(err)
	if !slices.ContainsFunc(lines, func(line map[string]any) bool {
		_, err := time.Parse(time.RFC3339Nano, str(line, "ts"))
		return err == nil && line["level"] == "info" && str(line, "msg") != "" && line["controllerKind"] == kustomizations && line["namespace"] == f.name && line["name"] == "root"
	}) {
		f.Error("logs: no line about the Kustomization has the keys that flux reads")
	}
}

// leaving: `flux delete` prunes and ends; `flux uninstall` takes the finalizers away first, and then nothing is pruned.
func (f fluxCLI) leaving() {
	f.Helper()
	f.suspend(kustomizations, "root", true) // it would bring the child back
	f.ok(f.api(kustomizations).Delete(f.ctx, "child", metav1.DeleteOptions{}))
	f.ok(f.eventually("flux delete to prune", func() bool { return f.exists("v1", "ConfigMap", "leaf") == nil }))
	f.resume(kustomizations, "root")
	_, err := f.api(kustomizations).Patch(f.ctx, "root", types.JSONPatchType, []byte(`[{"op":"remove","path":"/metadata/finalizers"}]`), metav1.PatchOptions{FieldManager: "flux"})
	f.ok(err)
	f.ok(f.api(kustomizations).Delete(f.ctx, "root", metav1.DeleteOptions{}))
	f.ok(f.eventually("the Kustomization without finalizers to go", func() bool {
		_, err := f.api(kustomizations).Get(f.ctx, "root", metav1.GetOptions{})
		return apierrors.IsNotFound(err)
	}))
	if f.exists("v1", "ConfigMap", "settings") == nil || f.exists("apps/v1", "Deployment", "web") == nil {
		f.Error("uninstall: objects went with the Kustomization")
	}
	crds := f.Dynamic.Resource(schema.GroupVersionResource{Group: "apiextensions.k8s.io", Version: "v1", Resource: "customresourcedefinitions"})
	err = crds.Delete(f.ctx, "kustomizations.kustomize.toolkit.fluxcd.io", metav1.DeleteOptions{DryRun: []string{metav1.DryRunAll}})
	if !apierrors.IsForbidden(err) && !apierrors.IsInvalid(err) {
		f.Errorf("uninstall: the CRD can be deleted: %v", err)
	}
}

func (f fluxCLI) delete(apiVersion, kind, name string) error {
	r, err := f.Resource(schema.FromAPIVersionAndKind(apiVersion, kind), f.name)
	if err != nil {
		return err
	}
	return r.Delete(f.ctx, name, metav1.DeleteOptions{})
}

func service(name string) string {
	return "apiVersion: v1\nkind: Service\nmetadata: {name: " + name + "}\nspec: {selector: {app: " + name + "}, ports: [{port: 80}]}\n"
}

// TestFluxReconcileFails: a Kustomization that is stalled ends the wait of `flux reconcile` with its message.
func TestFluxReconcileFails(t *testing.T) {
	t.Parallel()
	f := fluxCLI{newTeam(t, "fluxfails")}
	f.push(map[string]string{"a.yaml": configMap("a", "1")})
	f.apply(f.source("  ref: {branch: main}") + f.sync("  serviceAccountName: nobody"))
	ctx, cancel := context.WithTimeout(f.ctx, patience)
	defer cancel()
	_, err := f.WaitCondition(ctx, patience, ksAPI, kustomizations, f.name, "app", "Stalled", "True", "")
	f.ok(err)
	if _, err := f.reconcile(kustomizations, "app"); err == nil || !strings.Contains(err.Error(), "nobody") {
		t.Errorf("reconcile: %v", err)
	}
}
