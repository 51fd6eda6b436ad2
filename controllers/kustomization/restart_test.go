package kustomization

import (
	"slices"
	"strings"
	"testing"
)

// TestARestartWithNothingChangedCostsNothing: no build, no request for an object, no event; what changes afterwards is
// repaired as before.
func TestARestartWithNothingChangedCostsNothing(t *testing.T) {
	o := options{records: true}
	w := newWorld(t, o)
	w.create(labelled(w, "vars", map[string]string{"v": "1"}))
	w.source("app", "main@sha1:1", map[string]string{"a.yaml": w.configMapYAML("a", "v${v}"), "b.yaml": w.configMapYAML("b", "1")})
	w.sync("app", "wait: true", "postBuild: {substituteFrom: [{kind: ConfigMap, name: vars}]}")
	before := w.ready("app", "main@sha1:1")

	restart := func(meanwhile func()) (builds int) {
		t.Helper()
		w.stop()
		was, told := w.judge.builds(), len(w.events.of("app", ""))
		if meanwhile != nil {
			meanwhile()
		}
		w.asked.take()
		w.start(o)
		w.until("it is looked at", func() bool { return w.looks.Load() > 0 })
		if meanwhile == nil && len(w.events.of("app", "")) != told {
			t.Errorf("events: %+v", w.events.of("app", "")[told:])
		}
		return w.judge.builds() - was
	}
	if n := restart(nil); n != 0 {
		t.Errorf("%d builds", n)
	}
	if asked := slices.DeleteFunc(w.asked.take(), func(s string) bool { return strings.Contains(s, "/customresourcedefinitions") }); len(asked) != 0 {
		t.Errorf("requests for objects: %v", asked)
	}
	if now := w.get("app"); now.ResourceVersion != before.ResourceVersion {
		t.Errorf("the Kustomization was written: %+v", now.Status)
	}
	w.update("a", map[string]string{"value": "by hand"})
	w.until("the edit is undone", func() bool { return w.configMap("a").Data["value"] == "v1" })
	w.ready("app", "main@sha1:1")

	for name, meanwhile := range map[string]func(){
		"drift":      func() { w.update("b", map[string]string{"value": "by hand"}) },
		"a variable": func() { w.update("vars", map[string]string{"v": "2"}) },
		"a commit": func() {
			w.source("app", "main@sha1:2", map[string]string{"a.yaml": w.configMapYAML("a", "v${v}"), "b.yaml": w.configMapYAML("b", "3")})
		},
	} {
		if n := restart(meanwhile); n == 0 {
			t.Errorf("%s while nobody looked: no build", name)
		}
		w.until("it is ready again", func() bool { return condition(w.get("app"), "Ready").Status == "True" })
	}
	if a, b := w.configMap("a"), w.configMap("b"); a.Data["value"] != "v2" || b.Data["value"] != "3" {
		t.Errorf("%v %v", a.Data, b.Data)
	}
}
