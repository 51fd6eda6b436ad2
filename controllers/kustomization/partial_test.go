package kustomization

import (
	"slices"
	"strings"
	"testing"

	kustomizev1 "github.com/fluxcd/kustomize-controller/api/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"sealock.dev/sealock/manifest"
)

func (w *world) inventory(name string) []string {
	w.Helper()
	var out []string
	if inv := w.get(name).Status.Inventory; inv != nil {
		for _, e := range inv.Entries {
			out = append(out, strings.TrimPrefix(e.ID, w.ns+"_"))
		}
	}
	slices.Sort(out)
	return out
}

// TestOnErrorContinue: the healthy objects of a set are applied, each that failed is told, and what failed is neither
// changed nor pruned. Without the annotation nothing of such a set is applied.
func TestOnErrorContinue(t *testing.T) {
	w := newWorld(t, options{})
	w.judge.deny = func(o manifest.Object) string {
		if o.Peek("data", "value") == "denied" {
			return "this is not allowed"
		}
		return ""
	}
	bad := "apiVersion: v1\nkind: Service\nmetadata: {name: bad, namespace: " + w.ns + "}\nspec: {ports: [{port: 808080}]}\n"
	w.source("app", "main@sha1:1", map[string]string{"a.yaml": w.configMapYAML("a", "1"), "b.yaml": w.configMapYAML("b", "1"), "old.yaml": w.configMapYAML("old", "1")})
	w.sync("app", "wait: true", "annotations: {sealock.dev/on-error: continue}")
	w.ready("app", "main@sha1:1")

	// b is denied now, c is new and denied, bad is refused by the API server, old has left the set.
	w.source("app", "main@sha1:2", map[string]string{
		"a.yaml": w.configMapYAML("a", "2"), "b.yaml": w.configMapYAML("b", "denied"), "c.yaml": w.configMapYAML("c", "denied"), "bad.yaml": bad,
	})
	message := w.failed("app", "PolicyDenied", "main@sha1:2")
	for _, want := range []string{
		"3 failed, the other objects are applied", "ConfigMap/" + w.ns + "/b (b.yaml:1): [test] this is not allowed", "ConfigMap/" + w.ns + "/c (c.yaml:1): [test] this is not allowed",
		"Service/" + w.ns + "/bad (bad.yaml:1)", "ConfigMap/" + w.ns + "/a configured", "ConfigMap/" + w.ns + "/old deleted",
	} {
		if !strings.Contains(message, want) {
			t.Errorf("%q is not in: %s", want, message)
		}
	}
	if a, b, c, old := w.configMap("a"), w.configMap("b"), w.configMap("c"), w.configMap("old"); a.Data["value"] != "2" || b.Data["value"] != "1" || c != nil || old != nil {
		t.Errorf("%v %v %v %v", a, b, c, old)
	}
	if got := w.inventory("app"); !slices.Equal(got, []string{"a__ConfigMap", "b__ConfigMap"}) {
		t.Errorf("inventory %v", got)
	}
	if ks := w.get("app"); ks.Status.LastAppliedRevision != "main@sha1:1" || condition(ks, "Reconciling").Status != metav1.ConditionTrue {
		t.Errorf("%+v", ks.Status)
	}

	// A file that cannot be read: which objects it held is not known, so that nothing is pruned.
	w.source("app", "main@sha1:3", map[string]string{"a.yaml": w.configMapYAML("a", "3"), "broken.yaml": "a: [\n"})
	message = w.failed("app", "BuildFailed", "main@sha1:3")
	if !strings.Contains(message, "broken.yaml") || w.configMap("a").Data["value"] != "3" || w.configMap("b") == nil {
		t.Errorf("%s", message)
	}
	if got := w.inventory("app"); !slices.Equal(got, []string{"a__ConfigMap", "b__ConfigMap"}) {
		t.Errorf("inventory %v", got)
	}

	// All well again: what left the set goes.
	w.source("app", "main@sha1:4", map[string]string{"a.yaml": w.configMapYAML("a", "4")})
	w.ready("app", "main@sha1:4")
	if w.configMap("b") != nil {
		t.Error("b is still there")
	}

	// The default is all or nothing.
	w.edit("app", func(ks *kustomizev1.Kustomization) { delete(ks.Annotations, onError) })
	w.ready("app", "main@sha1:4")
	w.source("app", "main@sha1:5", map[string]string{"a.yaml": w.configMapYAML("a", "5"), "c.yaml": w.configMapYAML("c", "denied")})
	w.failed("app", "PolicyDenied", "main@sha1:5")
	if w.configMap("a").Data["value"] != "4" {
		t.Error("a was applied")
	}
	// The annotation alone brings it back, without a new generation.
	w.edit("app", func(ks *kustomizev1.Kustomization) { ks.Annotations = map[string]string{onError: onErrorContinue} })
	w.until("a is applied", func() bool { return w.configMap("a").Data["value"] == "5" })
}

// TestHazard_InventorySurvivesPartialApply: what a commit applied before it failed is deleted when the commit is reverted.
func TestHazard_InventorySurvivesPartialApply(t *testing.T) {
	w := newWorld(t, options{})
	w.source("app", "main@sha1:1", map[string]string{"a.yaml": w.configMapYAML("a", "1")})
	w.sync("app")
	w.ready("app", "main@sha1:1")
	// The quota lets the dry-runs pass and refuses the second write.
	quota := "apiVersion: v1\nkind: Namespace\nmetadata: {name: NS-extra}\n---\napiVersion: v1\nkind: ConfigMap\nmetadata: {name: x, namespace: NS-extra}\ndata: {big: 1}\n"
	w.source("app", "main@sha1:2", map[string]string{"a.yaml": w.configMapYAML("a", "1"), "extra.yaml": strings.ReplaceAll(quota, "NS", w.ns)})
	w.failed("app", "ReconciliationFailed", "main@sha1:2")
	ns := &corev1.Namespace{}
	key := w.get("app").Status
	found := false
	for _, e := range key.Inventory.Entries {
		found = found || e.ID == "_"+w.ns+"-extra__Namespace"
	}
	if !found {
		t.Fatalf("the namespace that was made is not in the inventory: %+v", key.Inventory)
	}
	w.source("app", "main@sha1:3", map[string]string{"a.yaml": w.configMapYAML("a", "1")})
	w.ready("app", "main@sha1:3")
	w.until("the namespace is going", func() bool {
		err := w.kube.Get(w.Context(), nsKey(w.ns+"-extra"), ns)
		return err != nil || ns.DeletionTimestamp != nil
	})
	if h := w.get("app").Status.History; len(h) != 2 || h[1].LastReconciledStatus != "ReconciliationFailed" || h[0].LastReconciledStatus != "ReconciliationSucceeded" || h[0].TotalReconciliations != 2 {
		t.Errorf("history %+v", h)
	}
}
