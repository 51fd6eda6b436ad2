package kustomization

import (
	"strings"
	"testing"
	"testing/fstest"
	"time"

	kustomizev1 "github.com/fluxcd/kustomize-controller/api/v1"
	sourcev1 "github.com/fluxcd/source-controller/api/v1"
	"github.com/google/go-cmp/cmp"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/dynamic"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"sealock.dev/sealock/fault"
	"sealock.dev/sealock/internal/testkit"
	"sealock.dev/sealock/manifest"
	"sealock.dev/sealock/pipeline"
	"sealock.dev/sealock/plaintext"
)

// TestCRDsAsFluxsClientsKnowThem: names, categories and what kubectl prints.
// contract: Kustomization column Ready, column Status
// contract: GitRepository column Ready, status default
func TestCRDsAsFluxsClientsKnowThem(t *testing.T) {
	dc := testkit.Cluster(t)
	dc.InstallCRDs(t)
	dyn, err := dynamic.NewForConfig(dc.Config)
	if err != nil {
		t.Fatal(err)
	}
	crds := dyn.Resource(schema.GroupVersionResource{Group: "apiextensions.k8s.io", Version: "v1", Resource: "customresourcedefinitions"})
	for name, want := range map[string]struct{ names, columns string }{
		"kustomizations.kustomize.toolkit.fluxcd.io": {"ks all,fluxcd,fluxcd-appliers", "Age=.metadata.creationTimestamp Ready=" + readyPath + "status Status=" + readyPath + "message"},
		"gitrepositories.source.toolkit.fluxcd.io":   {"gitrepo all,fluxcd,fluxcd-sources", "URL=.spec.url Age=.metadata.creationTimestamp Ready=" + readyPath + "status Status=" + readyPath + "message"},
	} {
		crd, err := crds.Get(t.Context(), name, metav1.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}
		short, _, _ := unstructured.NestedStringSlice(crd.Object, "spec", "names", "shortNames")
		categories, _, _ := unstructured.NestedStringSlice(crd.Object, "spec", "names", "categories")
		if got := strings.Join(short, ",") + " " + strings.Join(categories, ","); got != want.names {
			t.Errorf("%s: %q", name, got)
		}
		versions, _, _ := unstructured.NestedSlice(crd.Object, "spec", "versions")
		v1, _ := versions[0].(map[string]any)
		list, _, _ := unstructured.NestedSlice(v1, "additionalPrinterColumns")
		var columns []string
		for _, each := range list {
			c, _ := each.(map[string]any)
			title, _, _ := unstructured.NestedString(c, "name")
			path, _, _ := unstructured.NestedString(c, "jsonPath")
			columns = append(columns, title+"="+path)
		}
		if got := strings.Join(columns, " "); got != want.columns || len(versions) != 1 {
			t.Errorf("%s: %q", name, got)
		}
		status, _, _ := unstructured.NestedMap(v1, "schema", "openAPIV3Schema", "properties", "status", "default")
		if diff := cmp.Diff(map[string]any{"observedGeneration": int64(-1)}, status); diff != "" {
			t.Errorf("%s: %s", name, diff)
		}
	}
}

const readyPath = `.status.conditions[?(@.type=="Ready")].`

// TestPatchTarget: each field of a target selects, alone, and every one leaves out what it does not fit.
// contract: Kustomization spec.patches[].target.group, spec.patches[].target.version, spec.patches[].target.kind, spec.patches[].target.name
// contract: Kustomization spec.patches[].target.namespace, spec.patches[].target.labelSelector, spec.patches[].target.annotationSelector
func TestPatchTarget(t *testing.T) {
	files := fstest.MapFS{"deploy/d.yaml": {Data: []byte(strings.Replace(deploymentYAML, "{name: app, annotations: {", "{name: app, namespace: there, labels: {tier: web}, annotations: {kind: test, ", 1))}}
	for field, values := range map[string][2]string{
		"group": {"apps", "batch"}, "version": {"v1", "v2"}, "kind": {"Deployment", "StatefulSet"}, "name": {"a.p", "b.p"}, "namespace": {"there", "here"},
		"labelSelector": {"tier=web", "tier=db"}, "annotationSelector": {"kind=test", "kind!=test"},
	} {
		for i, value := range values {
			spec := `patches: [{patch: '[{"op": "add", "path": "/metadata/labels/patched", "value": "yes"}]', target: {` + field + `: "` + value + `"}}]`
			set, _, err := renderer(parsed(t, spec), nil).Render(t.Context(), files, nil)
			if err != nil {
				t.Errorf("%s %s: %v", field, value, err)
				continue
			}
			if patched := set[0].Labels()["patched"] == "yes"; patched != (i == 0) {
				t.Errorf("%s %s: patched is %v", field, value, patched)
			}
		}
	}
}

// TestHealthTargets: what is waited for. Without an API version a health check means a workload, as in Flux.
// contract: Kustomization spec.wait, spec.healthChecks[].apiVersion, spec.healthChecks[].kind, spec.healthChecks[].name, spec.healthChecks[].namespace
func TestHealthTargets(t *testing.T) {
	ks := parsed(t, "healthChecks: [{kind: Deployment, name: a, namespace: x}, {apiVersion: example.com/v2, kind: Thing, name: b}]")
	ks.Namespace, ks.Name = "n", "app"
	self := manifest.ID{Group: "kustomize.toolkit.fluxcd.io", Version: "v1", Kind: "Kustomization", Namespace: "n", Name: "app"}
	applied := []manifest.ID{{Version: "v1", Kind: "ConfigMap", Namespace: "n", Name: "c"}, self}
	want := []manifest.ID{{Group: "apps", Version: "v1", Kind: "Deployment", Namespace: "x", Name: "a"}, {Group: "example.com", Version: "v2", Kind: "Thing", Name: "b"}}
	if diff := cmp.Diff(want, healthTargets(ks, applied)); diff != "" {
		t.Error(diff)
	}
	ks.Spec.Wait = true
	if diff := cmp.Diff(applied[:1], healthTargets(ks, applied)); diff != "" {
		t.Errorf("with wait, all but itself: %s", diff)
	}
}

// TestInterval: at its interval a Kustomization is looked at again though nothing happened, and stays as it is.
// contract: Kustomization spec.interval
func TestInterval(t *testing.T) {
	w := newWorld(t, options{})
	w.source("app", "main@sha1:1", map[string]string{"a.yaml": w.configMapYAML("a", "1")})
	w.sync("app", "interval: 100ms")
	first := w.ready("app", "main@sha1:1")
	looks := w.looks.Load()
	w.until("it is looked at thrice more", func() bool { return w.looks.Load() >= looks+3 })
	if ks := w.get("app"); condition(ks, "Ready").LastTransitionTime != condition(first, "Ready").LastTransitionTime || w.judge.builds() != 1 {
		t.Errorf("%+v, %d builds", ks.Status, w.judge.builds())
	}
	ks := &kustomizev1.Kustomization{}
	ks.Spec.Interval = metav1.Duration{Duration: time.Hour}
	for range 100 {
		if d := (&Reconciler{Jitter: 0.05}).jitter(ks.GetRequeueAfter()); d < 57*time.Minute || d > 63*time.Minute {
			t.Errorf("an hour became %s", d)
		}
	}
}

// TestSourceRef: each field of it, and every way in which there is nothing to apply yet.
// contract: Kustomization spec.sourceRef.apiVersion, spec.sourceRef.kind, spec.sourceRef.name, spec.sourceRef.namespace, reason ArtifactFailed
func TestSourceRef(t *testing.T) {
	w := newWorld(t, options{})
	w.sync("explicit", "sourceRef: {apiVersion: example.com/v1, kind: GitRepository, name: app, namespace: "+w.ns+"}")
	if m := w.failed("explicit", "ArtifactFailed", ""); !strings.Contains(m, w.ns+"/app") || !strings.Contains(m, "not found") {
		t.Errorf("without the source: %s", m)
	}
	repo := &sourcev1.GitRepository{ObjectMeta: metav1.ObjectMeta{Namespace: w.ns, Name: "app"}}
	repo.Spec.URL, repo.Spec.Interval = "https://example.com/x", metav1.Duration{Duration: time.Hour}
	w.create(repo)
	w.sync("fresh")
	if m := w.failed("fresh", "ArtifactFailed", ""); !strings.Contains(m, "Source artifact not found") {
		t.Errorf("without an artifact: %s", m)
	}
	w.source("app", "main@sha1:1", map[string]string{"a/a.yaml": w.configMapYAML("a", "1")})
	w.ready("explicit", "main@sha1:1")
	w.ready("fresh", "main@sha1:1")
	w.sync("nowhere", "path: none")
	if m := w.failed("nowhere", "ArtifactFailed", ""); !strings.Contains(m, "none") {
		t.Errorf("without the path: %s", m)
	}
	tenant := newWorld(t, options{tenant: true})
	tenant.sync("app", "sourceRef: {kind: GitRepository, name: app, namespace: "+w.ns+"}")
	if m := tenant.failed("app", "AccessDenied", ""); !strings.Contains(m, "can't access 'GitRepository/"+w.ns+"/app', cross-namespace references have been blocked") {
		t.Error(m)
	}
}

// TestDecryption: the keys are those of the Secret that the Kustomization names, in its own namespace.
// contract: Kustomization spec.decryption.provider, spec.decryption.secretRef.name
func TestDecryption(t *testing.T) {
	asked := make(chan Decryption, 16)
	w := newWorld(t, options{change: func(r *Reconciler) {
		r.Decrypter = func(d Decryption) (pipeline.FileOpener, error) {
			asked <- d
			return nil, fault.New(fault.StageDecrypt, fault.NoKey, d.KeySource, "not in this test")
		}
	}})
	w.source("app", "main@sha1:1", map[string]string{"a/a.yaml": w.configMapYAML("a", "1")})
	w.sync("app", "decryption: {provider: sops, secretRef: {name: keys}}", "path: a")
	if m := w.failed("app", "BuildFailed", ""); !strings.Contains(m, "the Secret "+w.ns+"/keys with the decryption keys does not exist") || len(asked) != 0 {
		t.Error(m)
	}
	w.secret("keys", map[string]string{"id.agekey": "identity"})
	d := <-asked
	if d.KeySource.Namespace != w.ns || d.KeySource.Name != "keys" || !d.Keys["id.agekey"].Equal(plaintext.FromString("identity")) || d.Dir != "a" {
		t.Errorf("asked for %v in %q", d.KeySource, d.Dir)
	}
	ks := w.get("app")
	before := ks.DeepCopy()
	ks.Spec.Decryption.Provider = "vault"
	if err := w.kube.Patch(t.Context(), ks, client.MergeFrom(before)); !apierrors.IsInvalid(err) {
		t.Errorf("another provider is accepted: %v", err)
	}
}
