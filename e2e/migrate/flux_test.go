// Package migrate follows the pages that tell how to move to Sealock, literally: it runs the commands that stand in them.
//
// It exists so that those pages stay true. It does not prove that a takeover keeps every object; e2e/adopt does, with the
// real controller of Flux. Here Flux is what its Deployments say, with pods that do nothing.
package migrate

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"

	"sealock.dev/sealock/e2e/harness"
)

var (
	block    = regexp.MustCompile("(?s)```sh\n(.*?)```")
	argument = regexp.MustCompile(`--controller-arg=(\S+)`)
)

// TestFromFlux runs the blocks of docs/migrate-from-flux.md in their order.
func TestFromFlux(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 8*time.Minute)
	t.Cleanup(cancel)
	page, err := os.ReadFile("../../docs/migrate-from-flux.md")
	if err != nil {
		t.Fatal(err)
	}
	blocks := block.FindAllStringSubmatch(string(page), -1)
	if len(blocks) != 5 {
		t.Fatalf("%d blocks of commands, want 5", len(blocks))
	}
	w, shell := start(ctx, t)
	if out, err := shell("sealock controller --kubeconfig $KUBECONFIG"); err == nil || !strings.Contains(out, "controller is live") || !strings.Contains(out, "`sealock adopt flux`") {
		t.Errorf("beside Flux: %v %s", err, out)
	}
	for _, each := range blocks {
		commands := each[1]
		run := func(text string) {
			t.Helper()
			out, err := shell(text)
			t.Logf("$ %s\n%s", text, out)
			if err != nil {
				t.Fatalf("%v\n%s", err, w.LogTail(20))
			}
			if strings.Contains(text, "adopt flux ||") && (!strings.Contains(out, "--platform-namespaces=apps,flux-system,sealock-system") || strings.Contains(out, "stand in the way")) {
				t.Error("the plan is not that of the page")
			}
		}
		// No program runs in the pods of this cluster: the controller is a process, with the arguments of the page, for as
		// long as the Deployment wants replicas.
		if before, after, found := strings.Cut(commands, "sealock adopt flux --undo"); found {
			run(before)
			if err := w.StopController(); err != nil {
				t.Fatal(err)
			}
			run("sealock adopt flux --undo" + after)
			continue
		}
		run(commands)
		if strings.Contains(commands, "sealock reconcile --all") {
			bootstrapped(ctx, t, w)
		}
		if args := argument.FindAllStringSubmatch(commands, -1); args != nil {
			if err := w.StartController(ctx, false, args[0][1]); err != nil {
				t.Fatal(err)
			}
		}
	}
	applied, err := w.Get(ctx, "v1", "ConfigMap", "apps", "app")
	if err != nil || applied == nil {
		t.Errorf("what stands in Git is not in the cluster: %v", err)
	}
	out, err := shell("kubectl -n flux-system get deployment kustomize-controller source-controller -o jsonpath='{.items[*].spec.replicas}'")
	if err != nil || out != "1 1" {
		t.Errorf("after the way back Flux has %q replicas: %v", out, err)
	}
}

// start brings up a cluster with a Flux in it, and a shell that finds the programs of the page.
func start(ctx context.Context, t *testing.T) (*harness.World, func(string) (string, error)) {
	t.Helper()
	bin, err := filepath.Abs("../../bin")
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	w, err := harness.Start(ctx, harness.Options{Dir: dir, Bin: bin, WithoutController: true, Devcluster: []string{"--without=vault"}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := w.Stop(); err != nil {
			t.Error(err)
		}
	})
	if _, err := w.Push(ctx, "app", "first", map[string]string{"app.yaml": "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: app, namespace: apps}\ndata: {a: b}\n"}); err != nil {
		t.Fatal(err)
	}
	if _, err := w.Push(ctx, "flux", "bootstrap", map[string]string{"gotk-components.yaml": controllers() + olderCRDs}); err != nil {
		t.Fatal(err)
	}
	if err := w.Apply(ctx, flux(w)); err != nil {
		t.Fatal(err)
	}
	for _, kind := range []string{"GitRepository", "Kustomization"} {
		for _, name := range []string{"apps/app", "flux-system/flux-system"} {
			if err := readyByFlux(ctx, w, kind, name); err != nil {
				t.Fatal(err)
			}
		}
	}
	tools := t.TempDir()
	script := fmt.Sprintf("#!/bin/sh\nexec %s kubectl \"$@\"\n", filepath.Join(bin, "devcluster"))
	if err := os.WriteFile(filepath.Join(tools, "kubectl"), []byte(script), 0o700); err != nil {
		t.Fatal(err)
	}
	return w, func(text string) (string, error) {
		cmd := exec.CommandContext(ctx, "bash", "-eu", "-c", text)
		cmd.Env = append(os.Environ(), "PATH="+tools+":"+bin+":"+os.Getenv("PATH"), "KUBECONFIG="+w.Kubeconfig)
		out, err := cmd.CombinedOutput()
		return string(out), err
	}
}

// readyByFlux gives the object of the kind the status that Flux leaves behind: a Ready that says nothing about Sealock.
func readyByFlux(ctx context.Context, w *harness.World, kind, name string) error {
	namespace, name, _ := strings.Cut(name, "/")
	group := map[string]string{"GitRepository": "source", "Kustomization": "kustomize"}[kind] + ".toolkit.fluxcd.io"
	r, err := w.Resource(schema.GroupVersionKind{Group: group, Version: "v1", Kind: kind}, namespace)
	if err != nil {
		return err
	}
	const status = `{"status":{"observedGeneration":1,"conditions":[{"type":"Ready","status":"True","reason":"Succeeded","message":"by Flux","observedGeneration":1,"lastTransitionTime":"2026-01-01T00:00:00Z"}]}}`
	_, err = r.Patch(ctx, name, types.MergePatchType, []byte(status), metav1.PatchOptions{}, "status")
	return err
}

// controllers are the Deployments of Flux, as they stand in Git and in the cluster.
func controllers() string {
	text := ""
	for _, name := range []string{"kustomize-controller", "source-controller", "notification-controller"} {
		text += fmt.Sprintf(`---
apiVersion: apps/v1
kind: Deployment
metadata:
  name: %[1]s
  namespace: flux-system
  labels: {app.kubernetes.io/part-of: flux, app.kubernetes.io/component: %[1]s, app.kubernetes.io/instance: flux-system}
spec:
  replicas: 1
  selector: {matchLabels: {app: %[1]s}}
  template:
    metadata: {labels: {app: %[1]s}}
    spec: {containers: [{name: manager, image: "ghcr.io/fluxcd/%[1]s:v1.9.5"}]}
`, name)
	}
	return text
}

// olderCRDs stand in Git beside the controllers. Applied, they would take fields away from Sealock.
const olderCRDs = `---
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: gitrepositories.source.toolkit.fluxcd.io, labels: {app.kubernetes.io/part-of: flux, app.kubernetes.io/version: v2.0.0}}
spec:
  group: source.toolkit.fluxcd.io
  scope: Namespaced
  names: {kind: GitRepository, listKind: GitRepositoryList, plural: gitrepositories, singular: gitrepository}
  versions: [{name: v1, served: true, storage: true, subresources: {status: {}}, schema: {openAPIV3Schema: {type: object, x-kubernetes-preserve-unknown-fields: true}}}]
---
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: kustomizations.kustomize.toolkit.fluxcd.io, labels: {app.kubernetes.io/part-of: flux, app.kubernetes.io/version: v2.0.0}}
spec:
  group: kustomize.toolkit.fluxcd.io
  scope: Namespaced
  names: {kind: Kustomization, listKind: KustomizationList, plural: kustomizations, singular: kustomization}
  versions: [{name: v1, served: true, storage: true, subresources: {status: {}}, schema: {openAPIV3Schema: {type: object, x-kubernetes-preserve-unknown-fields: true}}}]
`

// flux is an installation that was bootstrapped, with one Kustomization beside its own namespace.
func flux(w *harness.World) string {
	text := "apiVersion: v1\nkind: Namespace\nmetadata: {name: flux-system}\n---\napiVersion: v1\nkind: Namespace\nmetadata: {name: apps}\n" + controllers()
	for namespace, name := range map[string]string{"apps": "app", "flux-system": "flux-system"} {
		text += fmt.Sprintf(`---
apiVersion: v1
kind: Secret
metadata: {name: git, namespace: %[1]s}
stringData: {username: %[3]q, password: %[4]q}
---
apiVersion: source.toolkit.fluxcd.io/v1
kind: GitRepository
metadata: {name: %[2]s, namespace: %[1]s}
spec: {interval: 10m, url: "%[5]s/%[6]s.git", ref: {branch: main}, secretRef: {name: git}}
---
apiVersion: kustomize.toolkit.fluxcd.io/v1
kind: Kustomization
metadata: {name: %[2]s, namespace: %[1]s}
spec: {interval: 10m, prune: true, sourceRef: {kind: GitRepository, name: %[2]s}}
`, namespace, name, w.Env["GIT_USERNAME"], w.Env["GIT_PASSWORD"], w.Env["GIT_HTTP_URL"], map[string]string{"apps": "app", "flux-system": "flux"}[namespace])
	}
	return text
}

// bootstrapped checks what Git holds of Flux: the definitions are still Sealock's, the controllers that it replaces are down.
func bootstrapped(ctx context.Context, t *testing.T, w *harness.World) {
	t.Helper()
	for _, name := range []string{"gitrepositories.source.toolkit.fluxcd.io", "kustomizations.kustomize.toolkit.fluxcd.io"} {
		crd, err := w.Get(ctx, "apiextensions.k8s.io/v1", "CustomResourceDefinition", "", name)
		if err != nil || crd == nil {
			t.Fatalf("%s: %v", name, err)
		}
		if text, err := crd.MarshalJSON(); err != nil || strings.Contains(string(text), "v2.0.0") || !strings.Contains(string(text), "suspend") {
			t.Errorf("%s is the one of Flux's manifests: %v", name, err)
		}
	}
	applied, err := w.Get(ctx, "apps/v1", "Deployment", "flux-system", "notification-controller")
	if err != nil || applied.GetLabels()["kustomize.toolkit.fluxcd.io/name"] != "flux-system" {
		t.Errorf("the commit of Flux's manifests is not applied: %v", err)
	}
	for _, name := range []string{"kustomize-controller", "source-controller"} {
		d, err := w.Typed.AppsV1().Deployments("flux-system").Get(ctx, name, metav1.GetOptions{})
		if err != nil || *d.Spec.Replicas != 0 {
			t.Errorf("%s is started again: %v", name, err)
		}
	}
}
