package stories

import (
	"slices"
	"strings"
	"testing"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"sealock.dev/sealock/e2e/harness"
)

// TestFluxReads: create, get all, trace of a Pod, diff with deletions, build, and what uninstall looks for.
func TestFluxReads(t *testing.T) {
	t.Parallel()
	f := fluxCLI{newTeam(t, "fluxreads")}
	commit := f.push(map[string]string{"web.yaml": deployment("web", "none"), "old.yaml": configMap("old", "1"), "vars.yaml": configMap("settings", "${size}")})
	f.apply(f.source("  ref: {branch: main}") + f.sync("  postBuild: {substitute: {size: large}}"))

	// flux create source git, flux create kustomization: both wait until the object is current.
	for _, kind := range []string{repositories, kustomizations} {
		f.ok(f.eventually("flux create "+kind, func() bool {
			o := f.get(kind, "app")
			return kstatus(o) == "Current" && conditionOf(o, "Ready")["status"] == "True" && strings.HasSuffix(revisionOf(o), commit)
		}))
	}
	f.missingKinds()
	f.traceOfAPod(commit)

	// flux diff ks: what the inventory has and the folder has not would be deleted.
	var gone []string
	for _, id := range f.tree("app") {
		if !strings.HasSuffix(id, "/web") && !strings.HasSuffix(id, "/settings") {
			gone = append(gone, id)
		}
	}
	if len(gone) != 1 || !strings.HasSuffix(gone[0], "/fluxreads/old") {
		t.Errorf("diff: deleted would be %q", gone)
	}
	// flux build ks: with the variables of the live object there is no drift.
	size := str(f.get(kustomizations, "app").Object, "spec", "postBuild", "substitute", "size")
	objects, err := harness.Parse(configMap("settings", size))
	f.ok(err)
	if f.diff("app", objects[0]) {
		t.Errorf("build: with size=%q there is drift", size)
	}
	f.nothingOfOurs()
}

// missingKinds: `flux get all`, `stats` and `export` list every kind of Flux, and go on where it is not served.
func (f fluxCLI) missingKinds() {
	f.Helper()
	for resource, group := range map[string]string{"buckets": "source", "helmcharts": "source", "helmreleases": "helm", "receivers": "notification", "imagepolicies": "image"} {
		_, err := f.Dynamic.Resource(schema.GroupVersionResource{Group: group + ".toolkit.fluxcd.io", Version: "v1", Resource: resource}).Namespace(f.name).List(f.ctx, metav1.ListOptions{})
		if !apierrors.IsNotFound(err) {
			f.Errorf("get all: %s: %v", resource, err)
		}
	}
}

// traceOfAPod: `flux trace pod` goes up to the owner that a Kustomization has applied.
func (f fluxCLI) traceOfAPod(commit string) {
	f.Helper()
	var pod metav1.Object
	f.ok(f.eventually("a Pod", func() bool {
		list, err := f.Typed.CoreV1().Pods(f.name).List(f.ctx, metav1.ListOptions{LabelSelector: "app=web"})
		if err != nil || len(list.Items) == 0 {
			return false
		}
		pod = &list.Items[0]
		return true
	}))
	owner := metav1.GetControllerOf(pod)
	for owner != nil && owner.Kind != "Deployment" {
		o, err := f.Get(f.ctx, owner.APIVersion, owner.Kind, f.name, owner.Name)
		f.ok(err)
		if owner = nil; o != nil {
			owner = metav1.GetControllerOf(o)
		}
	}
	if owner == nil {
		f.Fatal("trace: the Pod belongs to no Deployment")
	}
	if _, revision := f.trace("apps/v1", "Deployment", owner.Name); !strings.HasSuffix(revision, commit) {
		f.Errorf("trace: %q", revision)
	}
}

// nothingOfOurs: `flux uninstall` deletes rights, accounts and services with the label of Flux. Ours must not carry it.
func (f fluxCLI) nothingOfOurs() {
	f.Helper()
	ofFlux := metav1.ListOptions{LabelSelector: "app.kubernetes.io/part-of=flux"}
	roles, err := f.Typed.RbacV1().ClusterRoles().List(f.ctx, ofFlux)
	f.ok(err)
	bindings, err := f.Typed.RbacV1().ClusterRoleBindings().List(f.ctx, ofFlux)
	f.ok(err)
	accounts, err := f.Typed.CoreV1().ServiceAccounts(harness.SystemNamespace).List(f.ctx, ofFlux)
	f.ok(err)
	if n := len(roles.Items) + len(bindings.Items) + len(accounts.Items); n > 0 {
		f.Errorf("uninstall: %d objects of Sealock would be deleted", n)
	}
	out, err := f.World.Run(f.ctx, nil, "sealock", "install")
	f.ok(err)
	objects, err := harness.Parse(out)
	f.ok(err)
	for _, o := range objects {
		if o.GetLabels()["app.kubernetes.io/part-of"] == "flux" && !slices.Contains([]string{"CustomResourceDefinition", "Deployment"}, o.GetKind()) {
			f.Errorf("uninstall: %s/%s carries the label of Flux", o.GetKind(), o.GetName())
		}
	}
}
