package kustomization

import (
	"testing"

	kustomizev1 "github.com/fluxcd/kustomize-controller/api/v1"
	fluxkustomize "github.com/fluxcd/pkg/apis/kustomize"
)

// A mistake in the spec does not orphan what was applied: deletion needs none of the rules.
func TestDeletionWithAMistakeInTheSpec(t *testing.T) {
	w := newWorld(t, options{})
	w.source("app", "main@sha1:1", map[string]string{"a.yaml": w.configMapYAML("a", "1")})
	w.sync("app")
	w.ready("app", "main@sha1:1")
	w.edit("app", func(ks *kustomizev1.Kustomization) {
		ks.Spec.Ignore = []kustomizev1.IgnoreRule{{Paths: []string{"/data/x"}, Target: &fluxkustomize.Selector{Name: "("}}}
	})
	w.failing("app")
	w.delete("app")
	w.gone("app")
	if w.configMap("a") != nil {
		t.Errorf("it is left behind: %+v", w.events.of("app", ""))
	}
}
