package main

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/watch"

	"sealock.dev/sealock/fault"
)

// TestReconcileAllWaitsForThisRequest: a Ready of before, as Flux left it, is no answer; what has failed ends the wait of
// what depends on it, and of nothing else.
func TestReconcileAllWaitsForThisRequest(t *testing.T) {
	object := func(name, handled, status, reason, dependsOn string) *unstructured.Unstructured {
		body := map[string]any{
			"metadata": map[string]any{"name": name, "namespace": "x", "generation": int64(1)},
			"status": map[string]any{"observedGeneration": int64(1), "lastHandledReconcileAt": handled, "conditions": []any{
				map[string]any{"type": "Ready", "status": status, "reason": reason, "observedGeneration": int64(1)},
			}},
		}
		if dependsOn != "" {
			body["spec"] = map[string]any{"dependsOn": []any{map[string]any{"name": dependsOn}}}
		}
		return &unstructured.Unstructured{Object: body}
	}
	w := &waiting{round: &round{asked: "now"}, k: kustomizationKind, open: map[string]*unstructured.Unstructured{}, words: map[string]string{}, failed: map[string]bool{}}
	for _, name := range []string{"a", "b", "on-a", "on-b", "on-on-b", "gone", "stopped"} {
		w.open["x/"+name] = object(name, "before", "True", "ReconciliationSucceeded", "")
		w.all++
	}
	still := func(want ...string) {
		t.Helper()
		if got := strings.Join(w.left(), " "); got != strings.Join(want, " ") {
			t.Errorf("open: %s, want %v", got, want)
		}
	}
	w.see(watch.Modified, object("a", "before", "True", "ReconciliationSucceeded", ""))
	still("x/a", "x/b", "x/gone", "x/on-a", "x/on-b", "x/on-on-b", "x/stopped")
	if line := w.now(); line != "0 of 7 done, x/a: waiting for the controller to look at it" {
		t.Error(line)
	}
	stopped := object("stopped", "now", "True", "ReconciliationSucceeded", "")
	stopped.Object["spec"] = map[string]any{"suspend": true}
	w.see(watch.Modified, stopped)
	w.see(watch.Deleted, object("gone", "now", "True", "ReconciliationSucceeded", ""))
	w.see(watch.Modified, object("on-on-b", "now", "False", "DependencyNotReady", "on-b"))
	w.see(watch.Modified, object("on-b", "now", "False", "DependencyNotReady", "b"))
	w.see(watch.Modified, object("on-a", "now", "False", "DependencyNotReady", "a"))
	w.see(watch.Modified, object("b", "now", "False", "PolicyDenied", ""))
	still("x/a", "x/on-a")
	w.see(watch.Modified, object("a", "now", "True", "ReconciliationSucceeded", ""))
	still("x/on-a")
	w.see(watch.Modified, object("on-a", "now", "True", "ReconciliationSucceeded", "a"))
	still()
	kinds := map[string]string{}
	for _, d := range w.done {
		kinds[d.obj.GetName()] = "ready"
		if d.err != nil {
			kinds[d.obj.GetName()] = fault.KindOf(d.err).String()
		}
	}
	if diff := cmp.Diff(map[string]string{"a": "ready", "on-a": "ready", "b": "Denied", "on-b": "Transient", "on-on-b": "Transient"}, kinds); diff != "" {
		t.Error(diff)
	}
}

// TestReconcileAllListsWhatFailed: the whole verb, with the exit code of the worst.
func TestReconcileAllListsWhatFailed(t *testing.T) {
	p := newPeople(t)
	ns := p.session.namespace
	p.repository("src")
	p.kustomization("good")
	p.kustomization("broken")
	p.kustomization("after", "  dependsOn: [{name: broken}]")
	p.kustomization("stopped", "  suspend: true")
	for _, name := range []string{"good", "broken", "after"} { // as Flux left them
		p.status(kustomizationKind, name, readyStatus(kustomizationKind, 1, "True", "ReconciliationSucceeded", "of before"))
	}
	p.status(gitRepositoryKind, "src", readyStatus(gitRepositoryKind, 1, "True", "Succeeded", "of before"))
	if code, out, _ := p.sealock("reconcile", "--all", "--timeout", "1500ms"); code != 5 || !strings.Contains(out, "0 of 4 are ready; 1 suspended") || !strings.Contains(out, "waiting for the controller") {
		t.Errorf("without a controller: exit code %d\n%s", code, out)
	}
	p.controller(gitRepositoryKind, func(*unstructured.Unstructured) []map[string]any {
		return []map[string]any{readyStatus(gitRepositoryKind, 1, "True", "Succeeded", "ok")}
	})
	p.controller(kustomizationKind, func(obj *unstructured.Unstructured) []map[string]any {
		switch obj.GetName() {
		case "broken":
			return []map[string]any{readyStatus(kustomizationKind, 1, "False", "BuildFailed", "no such file")}
		case "after":
			return []map[string]any{readyStatus(kustomizationKind, 1, "False", "DependencyNotReady", "waiting for broken")}
		}
		return []map[string]any{readyStatus(kustomizationKind, 1, "True", "ReconciliationSucceeded", "ok")}
	})
	code, out, errs := p.sealock("reconcile", "--all", "--timeout", "1m")
	for _, want := range []string{"Kustomization/" + ns + "/broken   BuildFailed          no such file", "Kustomization/" + ns + "/after    DependencyNotReady   waiting for broken", "2 of 4 are ready; 1 suspended were left alone"} {
		if !strings.Contains(out, want) {
			t.Errorf("%q is not in\n%s", want, out)
		}
	}
	if code != 2 || strings.Contains(out, "/good") {
		t.Errorf("exit code %d\n%s%s", code, out, errs)
	}
	var list []outcomeOf
	if err := json.Unmarshal([]byte(p.ok("reconcile", "source", "git", "--all", "-o", "json")), &list); err != nil || len(list) != 1 || list[0].Ready != "True" {
		t.Errorf("-o json: %v %v", list, err)
	}
	for _, tc := range []struct {
		args []string
		want string
	}{
		{[]string{"reconcile"}, "reconcile what?"},
		{[]string{"reconcile", "-A"}, "reconcile what?"},
		{[]string{"reconcile", "ks", "app", "--all"}, "one argument too many"},
		{[]string{"reconcile", "ks", "app", "-A"}, "-A goes with --all"},
		{[]string{"reconcile", "ks", "--all", "--with-source"}, "--with-source with a name"},
	} {
		if code, _, errs := p.sealock(tc.args...); code != 2 || !strings.Contains(errs, tc.want) {
			t.Errorf("%v: exit code %d: %s", tc.args, code, errs)
		}
	}
}
