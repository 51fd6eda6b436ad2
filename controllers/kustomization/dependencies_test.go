package kustomization

import (
	"context"
	"io/fs"
	"strings"
	"testing"
	"time"

	kustomizev1 "github.com/fluxcd/kustomize-controller/api/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"sealock.dev/sealock/internal/testkit"
)

// TestDependsOn_Namespace: it is the own one, or the one that is named, and what becomes ready there wakes.
// contract: Kustomization spec.dependsOn[].name, spec.dependsOn[].namespace, reason DependencyNotReady
func TestDependsOn_Namespace(t *testing.T) {
	other := testkit.Cluster(t).Namespace(t, nil)
	w := newWorld(t, options{platform: []string{other}})
	w.source("app", "main@sha1:1", map[string]string{"own/a.yaml": w.configMapYAML("a", "1"), "other/b.yaml": w.configMapYAML("b", "1"), "dep/c.yaml": w.configMapYAML("c", "1"), "there/d.yaml": w.configMapYAML("d", "1")})
	w.sync("other", "path: other", "dependsOn: [{name: dep, namespace: "+other+"}]")
	w.sync("own", "path: own", "dependsOn: [{name: dep, namespace: "+w.ns+"}]")
	if m := w.failed("other", "DependencyNotReady", ""); !strings.Contains(m, other+"/dep") {
		t.Error(m)
	}
	if m := w.failed("own", "DependencyNotReady", ""); !strings.Contains(m, w.ns+"/dep") {
		t.Error(m)
	}
	w.sync("dep", "path: dep")
	w.ready("own", "main@sha1:1")
	w.failed("other", "DependencyNotReady", "")
	dep := &kustomizev1.Kustomization{ObjectMeta: metav1.ObjectMeta{Namespace: other, Name: "dep"}}
	dep.Spec.Interval, dep.Spec.Path = metav1.Duration{Duration: time.Hour}, "there"
	dep.Spec.SourceRef = kustomizev1.CrossNamespaceSourceReference{Kind: "GitRepository", Name: "app", Namespace: w.ns}
	w.create(dep)
	w.ready("other", "main@sha1:1")
}

// TestDependsOn_ABusyDependencyStopsNothing: what was applied stays Ready and is looked after, also by another process, while
// a dependency fails; what is new waits.
// contract: Kustomization spec.dependsOn[].name
func TestDependsOn_ABusyDependencyStopsNothing(t *testing.T) {
	o := options{records: true}
	w := newWorld(t, o)
	w.source("app", "main@sha1:1", map[string]string{"a.yaml": w.configMapYAML("a", "1")})
	w.source("base", "main@sha1:base", map[string]string{"b.yaml": w.configMapYAML("b", "1")})
	w.sync("base", "sourceRef: {kind: GitRepository, name: base}")
	w.sync("app", "dependsOn: [{name: base}]")
	w.ready("app", "main@sha1:1")
	before := len(w.events.of("app", "DependencyNotReady"))

	w.source("base", "main@sha1:broken", map[string]string{"b.yaml": "b: ["})
	w.failed("base", "BuildFailed", "main@sha1:broken")
	undisturbed := func(when string) {
		t.Helper()
		w.asks("app", when)
		w.update("a", map[string]string{"value": when})
		w.until("the drift is repaired "+when, func() bool { return w.configMap("a").Data["value"] == "1" })
		if c := condition(w.get("app"), "Ready"); c.Status != metav1.ConditionTrue {
			t.Errorf("%s: %+v", when, c)
		}
	}
	undisturbed("at once")
	w.stop()
	w.update("a", map[string]string{"value": "while nobody ran"})
	w.start(o)
	undisturbed("after a restart")
	if told := w.events.of("app", "DependencyNotReady"); len(told) > before {
		t.Errorf("told: %+v", told[before:])
	}

	w.edit("app", func(ks *kustomizev1.Kustomization) { ks.Spec.NamePrefix = "x-" })
	w.failed("app", "DependencyNotReady", "")
	w.edit("app", func(ks *kustomizev1.Kustomization) { ks.Spec.NamePrefix = "" })
	w.source("app", "main@sha1:2", map[string]string{"a.yaml": w.configMapYAML("a", "2")})
	w.until("the new commit waits", func() bool { return len(w.events.about("app", "main@sha1:2")) > 0 })
	if m := w.failed("app", "DependencyNotReady", ""); !strings.Contains(m, "dependency '"+w.ns+"/base' is not ready") || w.configMap("a").Data["value"] != "1" {
		t.Error(m)
	}
	w.source("base", "main@sha1:mended", map[string]string{"b.yaml": w.configMapYAML("b", "2")})
	w.ready("app", "main@sha1:2")
}

// TestDependsOn_Revision: of one source, the dependency has to have applied the revision that is to be applied.
// contract: Kustomization reason DependencyNotReady
func TestDependsOn_Revision(t *testing.T) {
	release := make(chan struct{})
	w := newWorld(t, options{change: func(r *Reconciler) {
		tree := r.Tree
		r.Tree = func(ctx context.Context, namespace, name, revision string) (fs.FS, error) {
			if revision == "main@sha1:2" {
				select {
				case <-release:
				case <-ctx.Done():
				}
			}
			return tree(ctx, namespace, name, revision)
		}
	}})
	w.source("app", "main@sha1:1", map[string]string{"a/a.yaml": w.configMapYAML("a", "1"), "b/b.yaml": w.configMapYAML("b", "1")})
	w.sync("base", "path: b")
	w.sync("app", "path: a", "dependsOn: [{name: base}]")
	w.ready("app", "main@sha1:1")
	w.source("app", "main@sha1:2", map[string]string{"a/a.yaml": w.configMapYAML("a", "2"), "b/b.yaml": w.configMapYAML("b", "2")})
	if m := w.failed("app", "DependencyNotReady", ""); !strings.Contains(m, "dependency '"+w.ns+"/base' revision is not up to date") {
		t.Error(m)
	}
	if c := condition(w.get("base"), "Ready"); c.Status != metav1.ConditionTrue {
		t.Errorf("the dependency is no longer Ready: %+v", c)
	}
	close(release)
	w.ready("app", "main@sha1:2")
}
