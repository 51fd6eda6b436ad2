package kustomization

import (
	"strings"
	"testing"
	"time"

	kustomizev1 "github.com/fluxcd/kustomize-controller/api/v1"
	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"sealock.dev/sealock/internal/testkit"
	"sealock.dev/sealock/manifest"
	"sealock.dev/sealock/pipeline"
)

// TestPruneFails: what may not be deleted stays in the inventory, is named, and goes once the right is there.
// contract: Kustomization reason PruneFailed, spec.prune
func TestPruneFails(t *testing.T) {
	w := newWorld(t, options{tenant: true, bare: true})
	role := &rbacv1.Role{
		ObjectMeta: metav1.ObjectMeta{Namespace: w.ns, Name: "reconciler"},
		Rules:      []rbacv1.PolicyRule{{APIGroups: []string{""}, Resources: []string{"configmaps"}, Verbs: []string{"get", "create", "patch"}}},
	}
	w.create(role)
	w.create(&rbacv1.RoleBinding{
		ObjectMeta: metav1.ObjectMeta{Namespace: w.ns, Name: "reconciler"}, RoleRef: rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "Role", Name: "reconciler"},
		Subjects: []rbacv1.Subject{{Kind: "ServiceAccount", Namespace: w.ns, Name: "reconciler"}},
	})
	w.source("app", "main@sha1:1", map[string]string{"a.yaml": w.configMapYAML("a", "1"), "b.yaml": w.configMapYAML("b", "1")})
	w.sync("app", "serviceAccountName: reconciler", "retryInterval: 1s")
	w.ready("app", "main@sha1:1")
	w.source("app", "main@sha1:2", map[string]string{"a.yaml": w.configMapYAML("a", "2")})
	if m := w.failed("app", "PruneFailed", "main@sha1:2"); !strings.Contains(m, "ConfigMap/"+w.ns+"/b") {
		t.Error(m)
	}
	if diff := cmp.Diff([]string{"a__ConfigMap", "b__ConfigMap"}, w.inventory("app")); diff != "" {
		t.Error(diff)
	}
	if ks := w.get("app"); ks.Status.LastAppliedRevision != "main@sha1:1" || ks.Status.History[0].LastReconciledStatus != "PruneFailed" || w.configMap("a").Data["value"] != "2" {
		t.Errorf("%+v", ks.Status)
	}
	role.Rules[0].Verbs = append(role.Rules[0].Verbs, "delete")
	if err := w.kube.Update(t.Context(), role); err != nil {
		t.Fatal(err)
	}
	w.ready("app", "main@sha1:2")
	if got := w.inventory("app"); w.configMap("b") != nil || len(got) != 1 {
		t.Errorf("inventory %v", got)
	}
}

// TestPruneSwitchedOn: what was let go while prune was off is nobody's any more; what leaves afterwards is deleted.
// contract: Kustomization spec.prune
func TestPruneSwitchedOn(t *testing.T) {
	w := newWorld(t, options{})
	files := map[string]string{"a.yaml": w.configMapYAML("a", "1"), "b.yaml": w.configMapYAML("b", "1"), "c.yaml": w.configMapYAML("c", "1")}
	w.source("app", "main@sha1:1", files)
	w.sync("app", "prune: false")
	w.ready("app", "main@sha1:1")
	delete(files, "a.yaml")
	w.source("app", "main@sha1:2", files)
	w.ready("app", "main@sha1:2")
	w.edit("app", func(ks *kustomizev1.Kustomization) { ks.Spec.Prune = true })
	w.ready("app", "main@sha1:2")
	delete(files, "b.yaml")
	w.source("app", "main@sha1:3", files)
	w.ready("app", "main@sha1:3")
	if w.configMap("a") == nil || w.configMap("b") != nil || w.configMap("c") == nil {
		t.Error("the wrong objects are there")
	}
}

// TestTargetNamespaceMoves: the objects are made in the new namespace and pruned from the old one.
// contract: Kustomization spec.targetNamespace
func TestTargetNamespaceMoves(t *testing.T) {
	other := testkit.Cluster(t).Namespace(t, nil)
	w := newWorld(t, options{})
	w.source("app", "main@sha1:1", map[string]string{"a.yaml": "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a}\n"})
	w.sync("app", "targetNamespace: "+w.ns)
	w.ready("app", "main@sha1:1")
	if w.configMap("a") == nil {
		t.Fatal("nothing was applied")
	}
	w.edit("app", func(ks *kustomizev1.Kustomization) { ks.Spec.TargetNamespace = other })
	ks := w.ready("app", "main@sha1:1")
	moved := &corev1.ConfigMap{}
	if err := w.kube.Get(t.Context(), types.NamespacedName{Namespace: other, Name: "a"}, moved); err != nil || w.configMap("a") != nil {
		t.Errorf("in the new namespace: %v, in the old one: %v", err, w.configMap("a"))
	}
	if e := ks.Status.Inventory.Entries; len(e) != 1 || e[0].ID != other+"_a__ConfigMap" {
		t.Errorf("%+v", e)
	}
}

// TestAListWithOneObjectTwice: at two versions of its kind, too.
func TestAListWithOneObjectTwice(t *testing.T) {
	w := newWorld(t, options{})
	item := "- apiVersion: autoscaling/VERSION\n  kind: HorizontalPodAutoscaler\n  metadata: {name: a, namespace: " + w.ns + "}\n  spec: {maxReplicas: 2, scaleTargetRef: {apiVersion: apps/v1, kind: Deployment, name: a}}\n"
	w.source("app", "main@sha1:1", map[string]string{
		"a.yaml": "apiVersion: v1\nkind: List\nitems:\n" + strings.ReplaceAll(item, "VERSION", "v1") + strings.ReplaceAll(item, "VERSION", "v2"),
	})
	w.sync("app")
	if m := w.failed("app", "BuildFailed", "main@sha1:1"); !strings.Contains(m, "HorizontalPodAutoscaler/"+w.ns+"/a") || !strings.Contains(m, "also stands in") {
		t.Error(m)
	}
}

// TestHealth_Timeout: what does not become healthy is named when the timeout has passed.
// contract: Kustomization spec.timeout, reason HealthCheckFailed
func TestHealth_Timeout(t *testing.T) {
	w := newWorld(t, options{})
	w.sync("app", "suspend: true", "timeout: 1m") // the test is in the controller's place, since a minute is long
	in := inputs{revision: "main@sha1:1"}
	slow := []manifest.Unready{{ID: manifest.ID{Version: "v1", Kind: "ConfigMap", Namespace: w.ns, Name: "theirs"}, Status: "InProgress"}}
	for waited, reason := range map[time.Duration]string{59 * time.Second: "Progressing", 61 * time.Second: "HealthCheckFailed"} {
		ks, m := w.get("app"), &memory{waitSince: time.Now().Add(-waited)}
		if _, err := w.r.judgeHealth(t.Context(), ks, m, in, pipeline.Result{Untouched: true, Unready: slow}); err != nil {
			t.Fatal(err)
		}
		c := condition(w.get("app"), "Ready")
		if told := strings.Contains(c.Message, "timeout waiting for: [ConfigMap/"+w.ns+"/theirs status: 'InProgress'"); c.Reason != reason || told != (reason == "HealthCheckFailed") {
			t.Errorf("after %s: %+v", waited, c)
		}
	}
}

// hold gives a ConfigMap a finalizer, or takes it.
func (w *world) hold(name string, finalizers ...string) {
	w.Helper()
	held := w.configMap(name)
	held.Finalizers = finalizers
	if err := w.kube.Update(w.Context(), held); err != nil {
		w.Fatal(err)
	}
}

// TestWaitForTermination_Timeout: it is told, and the Kustomization goes without the object.
// contract: Kustomization spec.deletionPolicy, spec.timeout
func TestWaitForTermination_Timeout(t *testing.T) {
	w := newWorld(t, options{})
	w.source("app", "main@sha1:1", map[string]string{"a.yaml": w.configMapYAML("a", "1")})
	w.sync("app", "deletionPolicy: WaitForTermination", "timeout: 1m")
	w.ready("app", "main@sha1:1")
	w.hold("a", "example.com/hold")
	w.edit("app", func(ks *kustomizev1.Kustomization) { ks.Spec.Suspend = true }) // the test is in the controller's place
	for waited, waits := range map[time.Duration]bool{30 * time.Second: true, 2 * time.Minute: false} {
		wait, err := w.r.deleteOwned(t.Context(), w.get("app"), &memory{deletingSince: time.Now().Add(-waited)}, revisions{})
		if err != nil || wait != waits {
			t.Errorf("after %s: waits %v: %v", waited, wait, err)
		}
	}
	if e := w.events.of("app", "PruneFailed"); len(e) != 1 || e[0].typ != "Warning" || e[0].message != "failed to wait for resources termination" {
		t.Errorf("%+v", e)
	}
	if a := w.configMap("a"); a == nil || a.DeletionTimestamp == nil {
		t.Error("the object is not terminating")
	}
	w.hold("a")
}

// TestWaitForTermination_Restart: another process goes on waiting.
// contract: Kustomization spec.deletionPolicy
func TestWaitForTermination_Restart(t *testing.T) {
	w := newWorld(t, options{})
	w.source("app", "main@sha1:1", map[string]string{"a.yaml": w.configMapYAML("a", "1")})
	w.sync("app", "deletionPolicy: WaitForTermination", "timeout: 10m")
	w.ready("app", "main@sha1:1")
	w.hold("a", "example.com/hold")
	w.delete("app")
	w.until("the deletion has begun", func() bool { return w.configMap("a").DeletionTimestamp != nil })
	w.stop()
	w.asked.take()
	w.start(options{})
	looks := 0
	w.until("it is looked at twice", func() bool {
		for _, request := range w.asked.take() {
			if strings.HasPrefix(request, "GET ") && strings.Contains(request, "/configmaps/a") {
				looks++
			}
		}
		return looks >= 3 // one look may ask twice
	})
	w.get("app") // is still there
	w.hold("a")
	w.gone("app")
	err := w.kube.Get(t.Context(), types.NamespacedName{Namespace: w.ns, Name: "a"}, &corev1.ConfigMap{})
	if !apierrors.IsNotFound(err) {
		t.Errorf("the object: %v", err)
	}
}
