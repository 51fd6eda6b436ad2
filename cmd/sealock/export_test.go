package main

import (
	"bytes"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/yaml"
)

// TestExportIsAManifest: what is exported can be applied again, and holds nothing that the cluster added.
func TestExportIsAManifest(t *testing.T) {
	p := newPeople(t)
	ns := p.session.namespace
	p.apply("apiVersion: kustomize.toolkit.fluxcd.io/v1\nkind: Kustomization\nmetadata: {name: app, labels: {team: a}, annotations: {reconcile.fluxcd.io/requestedAt: now}}\n"+
		"spec: {interval: 1h, prune: true, sourceRef: {kind: GitRepository, name: src}}\n", "test", "parent")
	p.inventory("app", 1, ns+"_a__ConfigMap/v1")
	text := p.ok("export", "ks", "app")
	var got, want map[string]any
	if err := yaml.Unmarshal([]byte(strings.TrimPrefix(text, "---\n")), &got); err != nil {
		t.Fatal(err)
	}
	if err := yaml.Unmarshal([]byte("apiVersion: kustomize.toolkit.fluxcd.io/v1\nkind: Kustomization\nmetadata: {name: app, namespace: "+ns+", labels: {team: a}}\n"+
		"spec: {interval: 1h, prune: true, force: false, sourceRef: {kind: GitRepository, name: src}}\n"), &want); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	p.apply(text, "test", "")
	if out := p.ok("export", "ks", "--all", "-o", "json"); strings.Count(out, `"kind": "Kustomization"`) != 1 {
		t.Errorf("%s", out)
	}
	if code, _, errs := p.sealock("export", "source", "git", "--all"); code != 4 || !strings.Contains(errs, "no GitRepository") {
		t.Errorf("exit code %d: %s", code, errs)
	}
}

// TestDeleteAsksAndWaits: it says what goes along, does nothing without a yes, and returns when the object is gone.
func TestDeleteAsksAndWaits(t *testing.T) {
	p := newPeople(t)
	ns := p.session.namespace
	p.kustomization("app")
	p.kustomization("kept", "  deletionPolicy: Orphan")
	p.inventory("app", 1, ns+"_a__ConfigMap/v1", ns+"_b__ConfigMap/v1")
	p.inventory("kept", 1, ns+"_a__ConfigMap/v1")
	del := func(answer string, args ...string) (int, string) {
		var out bytes.Buffer
		code := run(t.Context(), append([]string{"delete", "ks", "--kubeconfig", p.kubeconfig, "-n", ns}, args...), strings.NewReader(answer), &out, &out)
		return code, out.String()
	}
	if code, out := del("\n", "app"); code != 2 || !strings.Contains(out, "and with it the 2 objects that it brought. Go on? [y/N]") || !strings.Contains(out, "not deleted") {
		t.Errorf("exit code %d: %s", code, out)
	}
	p.read(kustomizationKind, "app")
	if code, out := del("y\n", "app"); code != 0 || !strings.Contains(out, "Kustomization/"+ns+"/app is deleted") {
		t.Errorf("exit code %d: %s", code, out)
	}
	if code, out := del("n\n", "kept"); code != 2 || !strings.Contains(out, "the 1 object that it brought will stay") {
		t.Errorf("exit code %d: %s", code, out)
	}
	// One that a finalizer holds is waited for.
	held := []byte(`{"metadata":{"finalizers":["example.com/hold"]}}`)
	if _, err := p.of(kustomizationKind, ns).Patch(t.Context(), "kept", "application/merge-patch+json", held, metav1.PatchOptions{}); err != nil {
		t.Fatal(err)
	}
	if code, out := del("", "kept", "--silent", "--timeout", "500ms"); code != 5 || !strings.Contains(out, "being deleted") {
		t.Errorf("exit code %d: %s", code, out)
	}
	done := make(chan int)
	go func() { code, _ := del("", "kept", "-s"); done <- code }()
	if _, err := p.of(kustomizationKind, ns).Patch(t.Context(), "kept", "application/merge-patch+json", []byte(`{"metadata":{"finalizers":null}}`), metav1.PatchOptions{}); err != nil {
		t.Fatal(err)
	}
	if code := <-done; code != 0 && code != 4 { // 4: it was gone before it was asked for
		t.Errorf("exit code %d", code)
	}
	if _, err := p.of(kustomizationKind, ns).Get(t.Context(), "kept", metav1.GetOptions{}); !apierrors.IsNotFound(err) {
		t.Errorf("it is still there: %v", err)
	}
}
