package cluster

import (
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"sealock.dev/sealock/fault"
	"sealock.dev/sealock/manifest"
)

func TestHealth(t *testing.T) {
	w := newWorld(t)
	w.until("pods may be made", func() bool {
		_, err := w.kube.CoreV1().ServiceAccounts(w.ns).Get(t.Context(), "default", metav1.GetOptions{})
		return err == nil
	})
	p, _ := w.run(w.objects(`
apiVersion: v1
kind: Pod
metadata: {name: p}
spec: {containers: [{name: c, image: x}]}
---
apiVersion: v1
kind: ConfigMap
metadata: {name: c}
`))
	w.rec.take()
	ids := append(p.Union, manifest.ID{Namespace: w.ns, Name: "absent", Kind: "ConfigMap", Version: "v1"})
	got, err := w.client.Unready(t.Context(), w.grant, w.owner, ids)
	if err != nil || len(got) != 2 || got[0].Status != "InProgress" || got[1].Status != "NotFound" {
		t.Fatalf("%v %v", got, err)
	}
	// The one that does not exist is asked for, and followed by a watch that may begin at any time.
	for _, seen := range w.rec.take() {
		if path := strings.TrimSpace(seen); !strings.HasSuffix(path, "/configmaps/absent") && !strings.HasSuffix(path, "/configmaps") {
			t.Errorf("health of what the view knows was asked for: %s", seen)
		}
	}
	status := `{"status":{"phase":"Running","conditions":[{"type":"Ready","status":"True"}],"containerStatuses":[{"name":"c","ready":true,"image":"x","imageID":"","restartCount":0}]}}`
	if _, err := w.kube.CoreV1().Pods(w.ns).Patch(t.Context(), "p", types.StrategicMergePatchType, []byte(status), metav1.PatchOptions{}, "status"); err != nil {
		t.Fatal(err)
	}
	w.event(Health, "p")
	w.until("the pod is healthy", func() bool {
		got, err := w.client.Unready(t.Context(), w.grant, w.owner, p.Union)
		return err == nil && len(got) == 0
	})
	if p := w.plan(w.objects("apiVersion: v1\nkind: ConfigMap\nmetadata: {name: c}\n")); p.Changed() {
		t.Error("a status is taken for drift")
	}
}

// The view sees with the controller's rights; nobody learns from it how another namespace's objects are.
func TestHealthOfOthersIsReadWithOwnRights(t *testing.T) {
	w := newWorld(t)
	p, _ := w.run(w.objects(configMaps(1)))
	other := newWorld(t)
	other.client = w.client
	_, err := w.client.Unready(t.Context(), other.tenant("curious-"+other.ns, nil), other.owner, p.Union)
	kindOf(t, err, fault.Denied)
}

// spec.healthCheckExprs: an object is judged by the owner's expressions, on arrival, whenever they change.
func TestHealthCheckExprs(t *testing.T) {
	w := newWorld(t)
	rule := func(current, failed string) []manifest.HealthRule {
		return []manifest.HealthRule{{Kind: "ConfigMap", Current: current, Failed: failed}}
	}
	w.owner.Health = rule("data.state == 'up'", "data.state == 'broken'")
	p, _ := w.run(w.objects("apiVersion: v1\nkind: ConfigMap\nmetadata: {name: c}\ndata: {other: x}"))
	status := func() string {
		t.Helper()
		got, err := w.client.Unready(t.Context(), w.grant, w.owner, p.Union)
		if err != nil {
			t.Fatal(err)
		}
		if len(got) == 0 {
			return "Current"
		}
		return got[0].Status
	}
	if s := status(); s != "Unknown" { // data.state does not exist: nobody knows
		t.Errorf("without the field: %s", s)
	}
	for state, want := range map[string]string{"broken": "Failed", "up": "Current", "starting": "InProgress"} {
		if _, err := w.kube.CoreV1().ConfigMaps(w.ns).Patch(t.Context(), "c", types.MergePatchType, []byte(`{"data":{"state":"`+state+`"}}`), metav1.PatchOptions{FieldManager: "operator"}); err != nil {
			t.Fatal(err)
		}
		w.until(state+" is "+want, func() bool { return status() == want })
	}
	w.rec.take()
	if status(); len(w.rec.take()) != 0 {
		t.Error("health by expressions is asked for and not watched")
	}
	w.owner.Health = rule("true", "")
	if s := status(); s != "Current" {
		t.Errorf("by the new rule: %s", s)
	}
	w.rec.take()
	if status(); len(w.rec.take()) != 0 {
		t.Error("asked again though the rule is the same")
	}
	w.owner.Health = rule("data.", "")
	_, err := w.client.Unready(t.Context(), w.grant, w.owner, p.Union)
	kindOf(t, err, fault.Invalid)
}

// spec.healthChecks may name what nobody applied: it is followed, and the owner is told of every change.
func TestForeignObjectsAreFollowed(t *testing.T) {
	w := newWorld(t)
	ids := []manifest.ID{{Namespace: w.ns, Name: "theirs", Group: "apps", Version: "v1", Kind: "Deployment"}}
	unready := func() []manifest.Unready {
		t.Helper()
		got, err := w.client.Unready(t.Context(), w.grant, w.owner, ids)
		if err != nil {
			t.Fatal(err)
		}
		return got
	}
	if got := unready(); len(got) != 1 || got[0].Status != "NotFound" {
		t.Fatalf("%v", got)
	}
	w.settle("deployments", "theirs")
	if _, err := w.kube.AppsV1().Deployments(w.ns).Create(t.Context(), deployment("theirs", 0), metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	if e := w.event(Health, "theirs"); e.OwnerName != "app" || e.OwnerNamespace != w.ns {
		t.Errorf("told %+v", e)
	}
	w.until("it is healthy", func() bool { return len(unready()) == 0 })
	if n := len(w.client.view.following); n != 0 {
		t.Errorf("%d are still followed", n)
	}
	ids[0].Name = "never there"
	unready()
	if n := len(w.client.view.following); n != 1 {
		t.Fatalf("%d are followed instead of one", n)
	}
	if ids = nil; len(unready()) != 0 || len(w.client.view.following) != 0 {
		t.Error("asked about none, it still follows")
	}
}
