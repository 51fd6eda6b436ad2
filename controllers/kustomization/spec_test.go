package kustomization

import (
	"strings"
	"testing"

	"github.com/fluxcd/cli-utils/pkg/kstatus/status"
	kustomizev1 "github.com/fluxcd/kustomize-controller/api/v1"
	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/yaml"

	"sealock.dev/sealock/fault"
	"sealock.dev/sealock/manifest"
)

// TestOwnerCarriesTheSpec: force, ignore and healthCheckExprs are the cluster's to do; here they are handed over.
// contract: Kustomization spec.force, spec.ignore[].paths[], spec.ignore[].target.group, spec.ignore[].target.version, spec.ignore[].target.kind, spec.ignore[].target.name
// contract: Kustomization spec.ignore[].target.namespace, spec.ignore[].target.labelSelector, spec.ignore[].target.annotationSelector
// contract: Kustomization spec.healthCheckExprs[].apiVersion, spec.healthCheckExprs[].kind, spec.healthCheckExprs[].current, spec.healthCheckExprs[].inProgress, spec.healthCheckExprs[].failed
func TestOwnerCarriesTheSpec(t *testing.T) {
	ks := &kustomizev1.Kustomization{}
	err := yaml.UnmarshalStrict([]byte(`
metadata: {name: app, namespace: 'n', uid: u, annotations: {sealock.dev/on-error: continue}}
spec:
  interval: 1m
  prune: true
  sourceRef: {kind: GitRepository, name: app}
  force: true
  ignore:
  - {paths: [/spec/replicas]}
  - paths: [/data/a, /data/b]
    target: {group: g, version: v, kind: k, name: 'n', namespace: s, labelSelector: l=1, annotationSelector: a=1}
  healthCheckExprs:
  - {apiVersion: example.com/v1, kind: Thing, current: "true", inProgress: "false", failed: status.bad}
  - {apiVersion: example.org/v1beta1, current: "true"}
`), ks)
	if err != nil {
		t.Fatal(err)
	}
	want := manifest.Owner{
		Ref: fault.Ref{APIVersion: "kustomize.toolkit.fluxcd.io/v1", Kind: "Kustomization", Namespace: "n", Name: "app"}, UID: "u",
		Labels:       map[string]string{labelName: "app", labelNamespace: "n"},
		FieldManager: "kustomize-controller", Revision: "main@sha1:1", Force: true, Partial: true,
		Ignore: []manifest.IgnoreRule{
			{Paths: []string{"/spec/replicas"}},
			{Paths: []string{"/data/a", "/data/b"}, Target: &manifest.Selector{Group: "g", Version: "v", Kind: "k", Name: "n", Namespace: "s", LabelSelector: "l=1", AnnotationSelector: "a=1"}},
		},
		Health: []manifest.HealthRule{
			{Group: "example.com", Kind: "Thing", Current: "true", InProgress: "false", Failed: "status.bad"},
			{Group: "example.org", Current: "true"},
		},
	}
	if diff := cmp.Diff(want, owner(ks, "main@sha1:1")); diff != "" {
		t.Error(diff)
	}
	ks.Annotations[onError] = "stop"
	if owner(ks, "").Partial {
		t.Error("any other value of sealock.dev/on-error is the default")
	}
}

// TestRefusedForGood: what only a change of the spec can heal is told with Stalled, the generation observed, so that nobody waits for it.
// contract: Kustomization spec.sourceRef.kind, spec.decryption.serviceAccountName, condition Stalled, reason InvalidCELExpression, reason FeatureGateDisabled
func TestRefusedForGood(t *testing.T) {
	w := newWorld(t, options{})
	w.source("app", "main@sha1:1", map[string]string{"a.yaml": w.configMapYAML("a", "1")})
	for name, c := range map[string]struct{ spec, reason, message string }{
		"healthcheckexprs": {"healthCheckExprs: [{apiVersion: v1, kind: ConfigMap, current: 'a.'}]", "InvalidCELExpression", "Reconciliation failed terminally due to configuration error: Kustomization/" + w.ns + "/healthcheckexprs: spec.healthCheckExprs[0].current: the expression is wrong at 1:"},
		"readyexpr":        {"dependsOn: [{name: other, readyExpr: 'dep.status.x == 1'}, {name: other, readyExpr: 'nothing.x'}]", "InvalidCELExpression", "spec.dependsOn[1].readyExpr: the expression is wrong"},
		"decryption-sa":    {"decryption: {provider: sops, serviceAccountName: x}", "FeatureGateDisabled", "ObjectLevelWorkloadIdentity"},
		"externalartifact": {"sourceRef: {kind: ExternalArtifact, name: app}", "AccessDenied", "can't access 'ExternalArtifact/" + w.ns + "/app'"},
		"ocirepository":    {"sourceRef: {kind: OCIRepository, name: app}", "UnsupportedField", "does not serve sources of kind OCIRepository yet"},
		"bucket":           {"sourceRef: {kind: Bucket, name: app}", "UnsupportedField", "does not serve sources of kind Bucket yet"},
	} {
		w.sync(name, c.spec)
		if message := w.failed(name, c.reason, ""); !strings.Contains(message, c.message) {
			t.Errorf("%s: %s", name, message)
		}
		ks := w.get(name)
		if s := condition(ks, "Stalled"); s.Status != metav1.ConditionTrue || s.Reason != c.reason || ks.Status.ObservedGeneration != ks.Generation {
			t.Errorf("%s: %+v", name, ks.Status)
		}
		if condition(ks, "Reconciling").Type != "" {
			t.Errorf("%s: still reconciling", name)
		}
		// What flux reconcile, and a parent with wait, make of it.
		fields, err := fieldsOf(ks)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := status.Compute(&unstructured.Unstructured{Object: fields}); err != nil || got.Status != status.FailedStatus {
			t.Errorf("%s: whoever waits sees %+v %v", name, got, err)
		}
	}
	if w.judge.builds() != 0 {
		t.Error("something was built")
	}
	// A corrected spec heals.
	w.edit("decryption-sa", func(ks *kustomizev1.Kustomization) { ks.Spec.Decryption = nil })
	if ks := w.ready("decryption-sa", "main@sha1:1"); condition(ks, "Stalled").Type != "" {
		t.Error("still stalled")
	}
}

// TestDependsOn_ReadyExpr: an expression takes the place of the built-in checks, and is asked again whenever the
// dependency changes in any way.
// contract: Kustomization spec.dependsOn[].readyExpr
func TestDependsOn_ReadyExpr(t *testing.T) {
	w := newWorld(t, options{})
	w.source("app", "main@sha1:1", map[string]string{"a/a.yaml": w.configMapYAML("a", "1"), "b/b.yaml": w.configMapYAML("b", "1")})
	w.sync("dep", "suspend: true", "path: a")
	w.sync("app", "path: b", `dependsOn: [{name: dep, readyExpr: "dep.metadata.?annotations.?go.orValue('') == self.metadata.name"}]`)
	if message := w.failed("app", "DependencyNotReady", ""); !strings.Contains(message, "is not ready according to readyExpr eval") {
		t.Error(message)
	}
	w.edit("dep", func(ks *kustomizev1.Kustomization) { ks.Annotations = map[string]string{"go": "app"} })
	w.ready("app", "main@sha1:1") // though dep never was Ready
	if e := w.events.of("app", "DependencyNotReady"); len(e) == 0 || e[0].typ != corev1.EventTypeNormal {
		t.Errorf("%+v", e)
	}
}

// TestHazard_ReadyExprAcrossNamespaces: an expression over somebody else's object is an oracle of one bit a question.
// contract: Kustomization spec.dependsOn[].namespace, reason AccessDenied
func TestHazard_ReadyExprAcrossNamespaces(t *testing.T) {
	w := newWorld(t, options{tenant: true})
	w.source("app", "main@sha1:1", map[string]string{"a.yaml": w.configMapYAML("a", "1")})
	w.sync("app", `dependsOn: [{name: dep, namespace: kube-system, readyExpr: "true"}]`)
	if message := w.failed("app", "AccessDenied", ""); !strings.Contains(message, "spec.dependsOn[0].namespace: can't access 'Kustomization/kube-system/dep', cross-namespace references have been blocked") {
		t.Error(message)
	}
	if w.configMap("a") != nil {
		t.Error("it was applied")
	}
}

// TestHazard_CycleSilencesNobody: Kustomizations that wait for each other say so, and the others of the same source are
// reconciled by its next revision.
func TestHazard_CycleSilencesNobody(t *testing.T) {
	w := newWorld(t, options{})
	files := map[string]string{"a/a.yaml": w.configMapYAML("a", "1")}
	w.source("app", "main@sha1:1", files)
	w.sync("one", "path: a", "dependsOn: [{name: two}]")
	w.sync("two", "path: a", "dependsOn: [{name: three}]")
	w.sync("three", "path: a", "dependsOn: [{name: one}]")
	w.sync("self", "path: a", "dependsOn: [{name: self}]")
	w.sync("free", "path: a")
	w.ready("free", "main@sha1:1")
	for name, way := range map[string]string{"one": "NS/one -> NS/two -> NS/three -> NS/one", "self": "NS/self -> NS/self"} {
		w.until("the cycle of "+name+" is told", func() bool {
			return strings.Contains(w.failed(name, "DependencyNotReady", ""), strings.ReplaceAll(way, "NS", w.ns))
		})
	}
	w.source("app", "main@sha1:2", map[string]string{"a/a.yaml": w.configMapYAML("a", "2")})
	w.ready("free", "main@sha1:2")
	w.edit("three", func(ks *kustomizev1.Kustomization) { ks.Spec.DependsOn = nil })
	for _, name := range []string{"three", "two", "one"} { // woken by each other
		w.ready(name, "main@sha1:2")
	}
}
