package cluster

import (
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// job is a live Job whose conditions of these types are true.
func job(conditions ...string) *unstructured.Unstructured {
	o := live("j", "1", "x")
	o.SetGroupVersionKind(schema.GroupVersionKind{Group: "batch", Version: "v1", Kind: "Job"})
	list := []any{}
	for _, c := range conditions {
		list = append(list, map[string]any{"type": c, "status": "True", "reason": "Because", "message": "of that"})
	}
	o.Object["status"] = map[string]any{"startTime": "2026-01-01T00:00:00Z", "active": int64(1), "conditions": list}
	return o
}

// A Job is healthy when it is complete, not when it has begun.
func TestJobHealth(t *testing.T) {
	for name, c := range map[string]struct {
		body *unstructured.Unstructured
		want health
	}{
		"new":       {&unstructured.Unstructured{Object: map[string]any{"apiVersion": "batch/v1", "kind": "Job", "metadata": map[string]any{"name": "j"}}}, healthInProgress},
		"started":   {job(), healthInProgress},
		"suspended": {job("Suspended"), healthInProgress},
		"complete":  {job("SuccessCriteriaMet", "Complete"), healthCurrent},
		"failing":   {job("FailureTarget", "Failed"), healthFailed},
	} {
		if got, message := healthOf(c.body.Object); got != c.want {
			t.Errorf("%s: %v (%s), want %v", name, got, message, c.want)
		}
	}
}

const plainJob = `
apiVersion: batch/v1
kind: Job
metadata: {name: NAME}
spec:
  suspend: true
  SPEC
  template: {spec: {restartPolicy: Never, containers: [{name: c, image: x}]}}
`

// A Job with a time to live that is gone is as good as complete; any other one is missed, and followed.
// contract: Kustomization spec.wait
func TestJobThatVanishes(t *testing.T) {
	w := newWorld(t)
	p, _ := w.run(w.objects(replace(plainJob, "NAME", "brief", "SPEC", "ttlSecondsAfterFinished: 0") + "---" + replace(plainJob, "NAME", "lasting", "SPEC", "")))
	background := metav1.DeletePropagationBackground
	for _, name := range []string{"brief", "lasting"} {
		if err := w.kube.BatchV1().Jobs(w.ns).Delete(t.Context(), name, metav1.DeleteOptions{PropagationPolicy: &background}); err != nil {
			t.Fatal(err)
		}
		w.event(Gone, name) // neither was complete
	}
	unready, err := w.client.Unready(t.Context(), w.grant, w.owner, p.Union)
	if err != nil || len(unready) != 1 || unready[0].ID.Name != "lasting" || unready[0].Status != "NotFound" {
		t.Errorf("%v: %v", unready, err)
	}
	if n := len(w.client.view.following); n != 1 {
		t.Errorf("%d are followed", n)
	}
	// The owner that did not apply it knows nothing of its time to live.
	if unready, err = w.client.Unready(t.Context(), w.grant, ownerNamed(w.ns, "other"), p.Union); err != nil || len(unready) != 2 {
		t.Errorf("%v: %v", unready, err)
	}
}

// A Job that was complete when it went is no drift, and healthy until it is planned again.
func TestCompleteJobMayGo(t *testing.T) {
	v := loose(t).view
	w := newWatched(v, kindInfo{gvk: schema.GroupVersionKind{Group: "batch", Version: "v1", Kind: "Job"}, resource: "jobs", namespaced: true})
	id := w.id(nsName{"default", "j"})
	v.baselines.Put("default/app", id, Baseline{})
	v.baselines.Put("default/app", w.id(nsName{"default", "sentinel"}), Baseline{})
	_ = w.Add(job())
	if v.jobs.mayBeMissing("default/app", id) {
		t.Error("it may be missing before it is complete")
	}
	_ = w.Update(job("SuccessCriteriaMet", "Complete"))
	_ = w.Delete(job("SuccessCriteriaMet", "Complete"))
	if !v.jobs.mayBeMissing("default/app", id) || v.jobs.mayBeMissing("default/other", id) {
		t.Error("it was complete when it went, and its owner's")
	}
	begun := job()
	begun.SetName("sentinel")
	_ = w.Add(begun)
	_ = w.Delete(begun)
	for e := told(t, w); e.ID.Name != "sentinel"; e = told(t, w) {
		if e.Kind == Gone {
			t.Errorf("told %v", e)
		}
	}
	v.jobs.planned("default/app", nil)
	if v.jobs.mayBeMissing("default/app", id) || len(v.jobs.of) != 0 {
		t.Error("it is remembered after the next plan")
	}
}
