package kustomization

import (
	"strings"
	"testing"
	"time"

	kustomizev1 "github.com/fluxcd/kustomize-controller/api/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"sealock.dev/sealock/fault"
	"sealock.dev/sealock/internal/testkit"
)

// TestDependsOn_OtherShard: a dependency that the cache does not have is read past it, with an expression or without; an
// instance that has all of them says that it does not exist.
func TestDependsOn_OtherShard(t *testing.T) {
	other := testkit.Cluster(t).Namespace(t, nil)
	for name, sharded := range map[string]bool{"sharded": true, "alone": false} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, options{change: func(r *Reconciler) { r.Sharded = sharded }})
			w.source("app", "main@sha1:1", map[string]string{"a/a.yaml": w.configMapYAML("a", "1"), "b/b.yaml": w.configMapYAML("b", "1")})
			dep := &kustomizev1.Kustomization{ObjectMeta: metav1.ObjectMeta{Namespace: other, Name: name}}
			dep.Spec.Interval, dep.Spec.SourceRef = metav1.Duration{Duration: time.Hour}, kustomizev1.CrossNamespaceSourceReference{Kind: "GitRepository", Name: "x"}
			w.create(dep)
			before := dep.DeepCopy()
			dep.Status.ObservedGeneration = dep.Generation
			meta.SetStatusCondition(&dep.Status.Conditions, metav1.Condition{Type: "Ready", Status: metav1.ConditionTrue, Reason: "Test"})
			if err := w.kube.Status().Patch(t.Context(), dep, client.MergeFrom(before)); err != nil {
				t.Fatal(err)
			}
			w.sync("plain", "path: a", "dependsOn: [{name: "+name+", namespace: "+other+"}]")
			w.sync("expression", "path: b", "dependsOn: [{name: "+name+", namespace: "+other+", readyExpr: 'dep.status.observedGeneration == 1'}]")
			if !sharded {
				if m := w.failed("plain", "DependencyNotReady", ""); !strings.Contains(m, other+"/alone") {
					t.Error(m)
				}
				return
			}
			w.ready("plain", "main@sha1:1")
			w.ready("expression", "main@sha1:1")
		})
	}
	ks := &kustomizev1.Kustomization{}
	ks.Spec.Interval.Duration = time.Hour
	waiting := fault.New(dependency, fault.NotFound, fault.Ref{}, "not ready")
	for foreign, want := range map[bool]time.Duration{true: otherShard, false: time.Hour} {
		if got := (&Reconciler{}).retryAfter(ks, &memory{foreign: foreign}, waiting); got != want {
			t.Errorf("of another shard %v: looked at again after %s", foreign, got)
		}
	}
}
