package kustomization

import (
	"strings"
	"testing"
	"testing/fstest"

	kustomizev1 "github.com/fluxcd/kustomize-controller/api/v1"
	"sigs.k8s.io/yaml"

	"sealock.dev/sealock/manifest"
	"sealock.dev/sealock/plaintext"
	"sealock.dev/sealock/render"
)

const deploymentYAML = `apiVersion: apps/v1
kind: Deployment
metadata: {name: app, annotations: {note: "${who}"}}
spec: {template: {spec: {containers: [{name: main, image: example.com/app:1}]}}}
`

// TestBuildFields: each field of the spec that shapes the build reaches it.
// contract: Kustomization spec.path, spec.targetNamespace, spec.namePrefix, spec.nameSuffix, spec.commonMetadata.labels, spec.commonMetadata.annotations, spec.patches[].patch
// contract: Kustomization spec.images[].name, spec.images[].newName, spec.images[].newTag, spec.images[].digest, spec.components[], spec.ignoreMissingComponents, spec.buildMetadata[]
// contract: Kustomization spec.postBuild.substitute, spec.postBuild.substituteStrategy
func TestBuildFields(t *testing.T) {
	files := fstest.MapFS{
		"deploy/d.yaml":                   {Data: []byte(deploymentYAML)},
		"elsewhere/c.yaml":                {Data: []byte("apiVersion: v1\nkind: ConfigMap\nmetadata: {name: elsewhere}\n")},
		"components/c/kustomization.yaml": {Data: []byte("apiVersion: kustomize.config.k8s.io/v1alpha1\nkind: Component\ncommonAnnotations: {component: yes-it-is}\n")},
		"overlay/kustomization.yaml":      {Data: []byte("resources: [../deploy/d.yaml]\n")},
		"originated/kustomization.yaml":   {Data: []byte("resources: [../deploy/d.yaml]\nbuildMetadata: [managedByLabel]\n")},
	}
	secret := []render.Variables{{Public: map[string]string{"who": "config", "other": "x"}}, {Secret: map[string]plaintext.Value{"other": plaintext.FromString("y")}}}
	peek := func(path ...string) func(manifest.Object) string {
		return func(o manifest.Object) string { s, _ := o.Peek(path...).(string); return s }
	}
	image := func(o manifest.Object) string {
		list, _ := o.Peek("spec", "template", "spec", "containers").([]any)
		c, _ := list[0].(map[string]any)
		s, _ := c["image"].(string)
		return s
	}
	for field, c := range map[string]struct {
		spec string
		vars []render.Variables
		see  func(manifest.Object) string
		want string
	}{
		"path":                         {"path: ./elsewhere/", nil, peek("metadata", "name"), "elsewhere"},
		"path, outside":                {"path: ../../elsewhere", nil, peek("metadata", "name"), "elsewhere"},
		"targetNamespace":              {"targetNamespace: there", nil, peek("metadata", "namespace"), "there"},
		"namePrefix":                   {"namePrefix: pre-", nil, peek("metadata", "name"), "pre-app"},
		"nameSuffix":                   {"nameSuffix: -suf", nil, peek("metadata", "name"), "app-suf"},
		"commonMetadata.labels":        {"commonMetadata: {labels: {a: b}}", nil, peek("metadata", "labels", "a"), "b"},
		"commonMetadata.annotations":   {"commonMetadata: {annotations: {a: b}}", nil, peek("metadata", "annotations", "a"), "b"},
		"patches, merge":               {"patches: [{patch: '{\"apiVersion\": \"apps/v1\", \"kind\": \"Deployment\", \"metadata\": {\"name\": \"app\", \"labels\": {\"p\": \"q\"}}}'}]", nil, peek("metadata", "labels", "p"), "q"},
		"patches, json6902 and target": {"patches: [{patch: '[{\"op\": \"add\", \"path\": \"/metadata/labels\", \"value\": {\"p\": \"q\"}}]', target: {group: apps, version: v1, kind: Deployment, name: a.*}}]", nil, peek("metadata", "labels", "p"), "q"},
		"images.newName":               {"images: [{name: example.com/app, newName: mirror/app}]", nil, image, "mirror/app:1"},
		"images.newTag":                {"images: [{name: example.com/app, newTag: '2'}]", nil, image, "example.com/app:2"},
		"images.digest":                {"images: [{name: example.com/app, digest: 'sha256:aa'}]", nil, image, "example.com/app@sha256:aa"},
		"components":                   {"components: [../components/c]", nil, peek("metadata", "annotations", "component"), "yes-it-is"},
		"ignoreMissingComponents":      {"components: [../components/none]\nignoreMissingComponents: true", nil, peek("metadata", "name"), "app"},
		"buildMetadata":                {"path: originated\nbuildMetadata: [originAnnotations]", nil, peek("metadata", "labels", "app.kubernetes.io/managed-by"), ""},
		"postBuild.substitute":         {"postBuild: {substitute: {who: inline}}", nil, peek("metadata", "annotations", "note"), "inline"},
		"postBuild.substituteFrom":     {"postBuild: {substituteFrom: [{kind: ConfigMap, name: x}]}", secret, peek("metadata", "annotations", "note"), "config"},
		"postBuild, inline wins":       {"postBuild: {substitute: {who: inline}, substituteFrom: [{kind: ConfigMap, name: x}]}", secret, peek("metadata", "annotations", "note"), "inline"},
		"postBuild absent":             {"", nil, peek("metadata", "annotations", "note"), "${who}"},
	} {
		set, _, err := renderer(parsed(t, c.spec), c.vars).Render(t.Context(), files, plaintext.NewTokens(plaintext.NewKey([]byte("k"))))
		if err != nil {
			t.Errorf("%s: %v", field, err)
			continue
		}
		if got := c.see(set[0]); got != c.want {
			t.Errorf("%s: %q, want %q", field, got, c.want)
		}
	}
	for field, c := range map[string]struct{ spec, want string }{
		"path, missing":                          {"path: none", `path "none" does not exist in this revision`},
		"components, missing":                    {"components: [../components/none]", "components/none"},
		"components, remote":                     {"components: [https://example.com/x]", "example.com/x"},
		"postBuild.substituteStrategy Always":    {"postBuild: {substituteStrategy: Always}", "who"},
		"postBuild, a variable that is not set":  {"postBuild: {substitute: {x: y}}", "who"},
		"postBuild, a name that is not possible": {"postBuild: {substitute: {x-y: y}}", "x-y"},
		"sealock.dev/on-error with an overlay":   {"path: overlay\ncomponents: [none]", "none"},
	} {
		_, _, err := renderer(parsed(t, c.spec), nil).Render(t.Context(), files, nil)
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v", field, err)
		}
	}
}

func parsed(t *testing.T, spec string) *kustomizev1.Kustomization {
	t.Helper()
	ks := &kustomizev1.Kustomization{}
	ks.Spec.Path = "deploy"
	if err := yaml.UnmarshalStrict([]byte(spec), &ks.Spec); err != nil {
		t.Fatal(err)
	}
	return ks
}

// TestSubstituteFrom_OptionalAndMissing: what does not exist is an error that names it, unless it is optional.
// contract: Kustomization spec.postBuild.substituteFrom[].kind, spec.postBuild.substituteFrom[].name, spec.postBuild.substituteFrom[].optional
// contract: Kustomization label reconcile.fluxcd.io/watch, reason BuildFailed
func TestSubstituteFrom_OptionalAndMissing(t *testing.T) {
	w := newWorld(t, options{})
	w.source("app", "main@sha1:1", map[string]string{"a.yaml": w.configMapYAML("a", "v${v:-none}")})
	w.sync("optional", "postBuild: {substituteStrategy: Always, substituteFrom: [{kind: ConfigMap, name: vars, optional: true}, {kind: Secret, name: vars, optional: true}]}")
	w.ready("optional", "main@sha1:1")
	if got := w.configMap("a").Data["value"]; got != "vnone" {
		t.Error(got)
	}
	w.sync("missing", "postBuild: {substituteFrom: [{kind: Secret, name: vars}]}")
	if m := w.failed("missing", "BuildFailed", ""); !strings.Contains(m, "spec.postBuild.substituteFrom[0]: substitute from 'Secret/vars' error") {
		t.Error(m)
	}
	// A Secret with the watch label wakes whoever names it.
	w.secret("vars", map[string]string{"unused": "x"})
	w.ready("missing", "main@sha1:1")
}
