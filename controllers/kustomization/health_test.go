package kustomization

import (
	"strings"
	"testing"

	kustomizev1 "github.com/fluxcd/kustomize-controller/api/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"sealock.dev/sealock/manifest"
)

const stateExprs = `healthCheckExprs: [{apiVersion: v1, kind: ConfigMap, inProgress: "data.value == 'rolling'", failed: "data.value == 'broken'", current: "data.value == 'fine'"}]`

// state gives an object a value that the Kustomization does not own.
func (w *world) state(name, value string) {
	w.Helper()
	c := w.configMap(name)
	before := c.DeepCopy()
	if c.Data == nil {
		c.Data = map[string]string{}
	}
	c.Data["value"] = value
	if err := w.kube.Patch(w.Context(), c, client.MergeFrom(before), client.FieldOwner("other")); err != nil {
		w.Fatal(err)
	}
}

// TestHealth_HealthChecks: objects of others are waited for, and judged by healthCheckExprs; the worker is not held, and
// their change is noticed.
// contract: Kustomization spec.timeout, condition Reconciling, reason Progressing
func TestHealth_HealthChecks(t *testing.T) {
	w := newWorld(t, options{})
	w.create(labelled(w, "theirs", map[string]string{"value": "rolling"}))
	w.source("app", "main@sha1:1", map[string]string{"a.yaml": w.configMapYAML("a", "1")})
	w.sync("app", stateExprs, "timeout: 10m", "healthChecks: [{apiVersion: v1, kind: ConfigMap, name: theirs, namespace: "+w.ns+"}]")
	w.until("it waits", func() bool {
		return condition(w.get("app"), "Healthy").Message == "Running health checks for revision main@sha1:1 with a timeout of 10m0s"
	})
	ks := w.get("app")
	if r, p := condition(ks, "Ready"), condition(ks, "Reconciling"); r.Status != "Unknown" || r.Reason != "Progressing" || p.Status != "True" || ks.Status.LastAppliedRevision != "" || ks.Status.ObservedGeneration == ks.Generation {
		t.Errorf("%+v", ks.Status)
	}
	w.state("theirs", "fine")
	ks = w.ready("app", "main@sha1:1")
	if h := condition(ks, "Healthy"); h.Status != "True" || !strings.HasPrefix(h.Message, "Health check passed in ") {
		t.Errorf("%+v", h)
	}
	w.edit("app", func(ks *kustomizev1.Kustomization) { ks.Spec.HealthChecks = nil })
	if c := condition(w.ready("app", "main@sha1:1"), "Healthy"); c.Type != "" {
		t.Error("Healthy stays though nothing is waited for")
	}
}

// TestHealth_FailedIsToldAndHeals: an object that has failed fails the Kustomization at once, with its name, and stands in
// the history; the next commit heals it.
// contract: Kustomization reason HealthCheckFailed, reason ProgressingWithRetry, event failure
func TestHealth_FailedIsToldAndHeals(t *testing.T) {
	w := newWorld(t, options{})
	w.source("app", "main@sha1:1", map[string]string{"a.yaml": w.configMapYAML("a", "broken")})
	w.sync("app", stateExprs, "wait: true")
	message := w.failed("app", "HealthCheckFailed", "main@sha1:1")
	if !strings.Contains(message, "failed early due to stalled resources: [ConfigMap/"+w.ns+"/a status: 'Failed'") {
		t.Error(message)
	}
	ks := w.get("app")
	if h := ks.Status.History; len(h) != 1 || h[0].LastReconciledStatus != "HealthCheckFailed" {
		t.Errorf("%+v", h)
	}
	if c := condition(ks, "Reconciling"); c.Status != "True" || c.Reason != "ProgressingWithRetry" {
		t.Errorf("%+v", c)
	}
	w.until("whoever reads events is told", func() bool {
		e := w.events.of("app", "HealthCheckFailed")
		return len(e) == 1 && e[0].typ == "Warning" && strings.Contains(e[0].message, "ConfigMap/"+w.ns+"/a")
	})
	w.source("app", "main@sha1:2", map[string]string{"a.yaml": w.configMapYAML("a", "fine")})
	w.ready("app", "main@sha1:2")
}

// TestHealth_AWorkloadThatRollsIsNotUnready: what was healthy has the timeout to become so again, and Ready stays.
func TestHealth_AWorkloadThatRollsIsNotUnready(t *testing.T) {
	w := newWorld(t, options{})
	w.create(labelled(w, "theirs", map[string]string{"value": "fine"}))
	w.source("app", "main@sha1:1", map[string]string{"a.yaml": strings.Replace(w.configMapYAML("a", "1"), "data: {value: \"1\"}", "data: {k: v}", 1)})
	w.sync("app", stateExprs, "ignore: [{paths: [/data/value]}]", "wait: true")
	// The field value is another's.
	w.until("it is applied", func() bool { return w.configMap("a") != nil })
	w.state("a", "fine")
	w.ready("app", "main@sha1:1")
	w.until("it is told", func() bool { return len(w.events.of("app", "ReconciliationSucceeded")) > 0 }) // after the status
	before, looks := len(w.events.of("app", "")), w.looks.Load()
	w.state("a", "rolling")
	grant, err := w.index.Grant(refOf(w.get("app")), "")
	if err != nil {
		t.Fatal(err)
	}
	id := manifest.ID{Namespace: w.ns, Name: "a", Kind: "ConfigMap", Version: "v1"}
	w.until("the view sees it", func() bool {
		unready, err := w.cluster.Unready(t.Context(), grant, owner(w.get("app"), ""), []manifest.ID{id})
		return err == nil && len(unready) == 1 && unready[0].Status == "InProgress"
	})
	w.state("a", "fine")
	w.until("it was looked at", func() bool { return w.looks.Load() > looks })
	if ks := w.get("app"); condition(ks, "Ready").Status != "True" || ks.Status.History[0].TotalReconciliations != 1 || len(w.events.of("app", "")) != before {
		t.Errorf("%+v %+v", ks.Status, w.events.of("app", "")[before:])
	}
	w.state("a", "broken")
	w.failed("app", "HealthCheckFailed", "main@sha1:1")
	w.state("a", "fine")
	w.ready("app", "main@sha1:1")
}
