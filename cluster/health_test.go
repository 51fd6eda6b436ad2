package cluster

import (
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
	if seen := w.rec.take(); len(seen) != 1 {
		t.Errorf("health of what the view knows was asked for: %v", seen)
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
