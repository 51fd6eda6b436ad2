package cluster

import (
	"strconv"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/dynamic"

	"sealock.dev/sealock/internal/testkit"
	"sealock.dev/sealock/manifest"
	"sealock.dev/sealock/plaintext"
)

// mark gives a live ConfigMap a marker, as somebody with kubectl would, and waits until the view has it.
func (w *world) mark(name, body string) { w.Helper(); w.edit("kubectl-edit", name, body) }

// edit is mark by another manager, whose fields are not taken back.
func (w *world) edit(manager, name, body string) {
	w.Helper()
	cm, err := w.kube.CoreV1().ConfigMaps(w.ns).Patch(w.Context(), name, types.MergePatchType, []byte(body), metav1.PatchOptions{FieldManager: manager})
	if err != nil {
		w.Fatal(err)
	}
	w.until("the view sees the edit of "+name, func() bool {
		e, ok := w.look("ConfigMap", name)
		return ok && strconv.FormatUint(e.version, 10) == cm.ResourceVersion
	})
}

// TestMarkers_Ignore: an object that is to be ignored is never applied, in Git and in the cluster.
// contract: Object ssa: Ignore, live ssa: Ignore
func TestMarkers_Ignore(t *testing.T) {
	w := newWorld(t)
	set := w.objects(`
apiVersion: v1
kind: ConfigMap
metadata: {name: desired, labels: {` + markerPrefix + `ssa: ignore}}
---
apiVersion: v1
kind: ConfigMap
metadata: {name: live}
data: {k: v}
`)
	p, done := w.run(set)
	if len(done) != 1 || done[0].ID.Name != "live" || actions(p)[manifest.Skipped] != 1 || len(p.Union) != 2 {
		t.Fatalf("%v %v", done, actions(p))
	}
	w.mark("live", `{"data":{"k":"theirs"},"metadata":{"annotations":{"`+markerPrefix+`ssa":"Ignore"}}}`)
	if p, done = w.run(set); len(done) != 0 || actions(p)[manifest.Skipped] != 2 {
		t.Errorf("%v %v", done, actions(p))
	}
	next := w.plan(nil, p.Union...)
	if deleted, _, err := w.client.Prune(t.Context(), w.grant, next); err != nil || len(deleted) != 0 {
		t.Errorf("pruned %v: %v", deleted, err)
	}
	if cm, err := w.kube.CoreV1().ConfigMaps(w.ns).Get(t.Context(), "live", metav1.GetOptions{}); err != nil || cm.Data["k"] != "theirs" {
		t.Errorf("%v %v", cm, err)
	}
}

// TestMarkers_LiveMerge: what kubectl added stays when the marker is on the live object alone.
// contract: Object live ssa: Merge
func TestMarkers_LiveMerge(t *testing.T) {
	w := newWorld(t)
	set := w.objects("apiVersion: v1\nkind: ConfigMap\nmetadata: {name: cm}\ndata: {k: v}\n")
	w.run(set)
	w.mark("cm", `{"data":{"added":"x"},"metadata":{"annotations":{"`+markerPrefix+`ssa":"Merge"}}}`)
	w.run(set)
	w.run(w.objects("apiVersion: v1\nkind: ConfigMap\nmetadata: {name: cm}\ndata: {k: w}\n"))
	cm, err := w.kube.CoreV1().ConfigMaps(w.ns).Get(t.Context(), "cm", metav1.GetOptions{})
	if err != nil || cm.Data["added"] != "x" || cm.Data["k"] != "w" {
		t.Errorf("%v %v", cm.Data, err)
	}
}

// TestMarkers_LiveForce: an immutable object is made anew when the marker is on the live object alone.
// contract: Object live force: enabled
func TestMarkers_LiveForce(t *testing.T) {
	w := newWorld(t)
	w.run(w.objects(strings.ReplaceAll(lockedMap, "VALUE", "one")))
	w.mark("locked", `{"metadata":{"annotations":{"`+markerPrefix+`force":"enabled"}}}`)
	p, changes := w.run(w.objects(strings.ReplaceAll(lockedMap, "VALUE", "two")))
	if !p.Steps[0].Recreate || len(changes) != 1 || changes[0].Action != manifest.Created {
		t.Errorf("plan %+v, changes %v", p.Steps[0], changes)
	}
}

// only waits for the event of the kind, and fails if anything else but health is told before.
func (w *world) only(kind EventKind, name string) {
	w.Helper()
	for {
		select {
		case e := <-w.client.View().Events():
			if e.Kind == kind && e.ID.Name == name {
				return
			}
			if e.Kind != Health {
				w.Errorf("told %s of %s", e.Kind, e.ID.Name)
			}
		case <-time.After(30 * time.Second):
			w.Fatalf("no event %s of %s", kind, name)
		}
	}
}

// What the manifest or somebody marks as others' business is no drift, and does not keep the rest from being settled. Its
// deletion is told: then it is made again.
// contract: Object ssa: IfNotPresent, live reconcile: disabled, live ssa: Ignore
func TestMarkedObjectsAreNoDrift(t *testing.T) {
	w := newWorld(t)
	text := "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: once, annotations: {" + markerPrefix + "ssa: IfNotPresent}}\ndata: {k: v}\n---\n" + configMaps(3)
	p, _ := w.run(w.objects(text))
	w.mark("once", `{"data":{"k":"theirs"}}`)
	w.mark("once", `{"metadata":{"annotations":{"`+markerPrefix+`ssa":null}}}`)
	w.mark("cm-00", `{"data":{"k":"theirs"},"metadata":{"annotations":{"`+markerPrefix+`reconcile":"disabled"}}}`)
	w.mark("cm-01", `{"data":{"k":"theirs"},"metadata":{"labels":{"`+markerPrefix+`ssa":"ignore"}}}`)
	if !w.settled(p.Union...) {
		t.Error("not settled")
	}
	// Only the manifest may say IfNotPresent.
	w.edit("somebody", "cm-02", `{"metadata":{"annotations":{"`+markerPrefix+`ssa":"IfNotPresent"}}}`)
	if !w.settled(p.Union...) {
		t.Error("a marker alone is a drift")
	}
	w.edit("somebody", "cm-02", `{"data":{"k":"theirs"}}`)
	w.only(Drifted, "cm-02")
	if w.settled(p.Union...) {
		t.Error("settled with a drift")
	}
	for _, name := range []string{"once", "cm-00"} {
		if err := w.kube.CoreV1().ConfigMaps(w.ns).Delete(t.Context(), name, metav1.DeleteOptions{}); err != nil {
			t.Fatal(err)
		}
		w.event(Gone, name)
	}
	if _, done := w.run(w.objects(text)); len(done) != 3 {
		t.Errorf("%v", done)
	}
}

// An object with ssa: IfNotPresent that was there before, with our labels, is known as well.
func TestIfNotPresentOfAnEarlierProcess(t *testing.T) {
	w := newWorld(t)
	text := "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: once, annotations: {" + markerPrefix + "ssa: IfNotPresent}}\ndata: {k: v}\n"
	w.run(w.objects(text))
	w.mark("once", `{"data":{"k":"theirs"}}`)
	w.client = w.open(testkit.Cluster(t).Config, plaintext.NewKey([]byte("key of the test")))
	p, done := w.run(w.objects(text))
	if len(done) != 0 || !w.settled(p.Union...) {
		t.Errorf("%v, not settled", done)
	}
	if err := w.kube.CoreV1().ConfigMaps(w.ns).Delete(t.Context(), "once", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	w.only(Gone, "once")
}

// An object that is there without our labels is not taken over with ssa: IfNotPresent. One that we made is ours: it is pruned.
// contract: Object ssa: IfNotPresent
func TestIfNotPresentTakesNothingOver(t *testing.T) {
	w := newWorld(t)
	maps := w.kube.CoreV1().ConfigMaps(w.ns)
	before, err := maps.Create(t.Context(), &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "theirs"}, Data: map[string]string{"k": "theirs"}}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	once := func(name string) string {
		return "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: " + name + ", annotations: {" + markerPrefix + "ssa: IfNotPresent}}\ndata: {k: ours}\n---\n"
	}
	p, done := w.run(w.objects(once("theirs") + once("ours")))
	if len(done) != 1 || done[0].ID.Name != "ours" || actions(p)[manifest.Skipped] != 1 {
		t.Errorf("%v %v", done, actions(p))
	}
	w.mark("ours", `{"data":{"k":"edited"}}`)
	if deleted, _, err := w.client.Prune(t.Context(), w.grant, w.plan(nil, p.Union...)); err != nil || len(deleted) != 1 || deleted[0].ID.Name != "ours" {
		t.Errorf("pruned %v: %v", deleted, err)
	}
	if after, err := maps.Get(t.Context(), "theirs", metav1.GetOptions{}); err != nil || after.ResourceVersion != before.ResourceVersion {
		t.Errorf("%v: %v", after, err)
	}
}

// What was let go, with prune: false or because somebody keeps it, is no drift although it carries our labels still.
// contract: Object live prune: disabled
func TestWhatWasLetGoIsNoDrift(t *testing.T) {
	w := newWorld(t)
	all := w.objects(configMaps(3))
	p, _ := w.run(all)
	w.edit("somebody", "cm-00", `{"metadata":{"annotations":{"`+markerPrefix+`prune":"disabled"}}}`)
	kept := w.plan(all[1:], p.Union...)
	w.apply(kept)
	if deleted, _, err := w.client.Prune(t.Context(), w.grant, kept); err != nil || len(deleted) != 0 {
		t.Fatalf("deleted %v: %v", deleted, err)
	}
	let := w.plan(all[2:], kept.Steps[0].Object.ID(), kept.Steps[1].Object.ID())
	let.Prune = nil // as the pipeline does for prune: false
	w.apply(let)
	w.mark("cm-00", `{"data":{"k":"theirs"}}`)
	w.mark("cm-01", `{"data":{"k":"theirs"}}`)
	for _, name := range []string{"cm-00", "cm-01", "cm-02"} {
		if err := w.kube.CoreV1().ConfigMaps(w.ns).Delete(t.Context(), name, metav1.DeleteOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	w.only(Gone, "cm-02")
}

// A definition that Sealock came with is not replaced by, or pruned with, another one of that name in Git, whether it has owner
// labels by now or not. Its own it delivers.
func TestServedDefinitionIsNotReplaced(t *testing.T) {
	w := newWorld(t)
	name := "boats." + w.ns + ".example.org"
	theirs := boats(w.ns + ".example.org")
	ours := strings.Replace(theirs, "metadata: {", "metadata: {annotations: {sealock.dev/served: \"true\"}, labels: {made: by-install}, ", 1)
	client, err := dynamic.NewForConfig(testkit.Cluster(t).Config)
	if err != nil {
		t.Fatal(err)
	}
	body, err := w.objects(ours)[0].Wire()
	if err != nil {
		t.Fatal(err)
	}
	of := client.Resource(schema.GroupVersionResource{Group: "apiextensions.k8s.io", Version: "v1", Resource: "customresourcedefinitions"})
	if _, err := of.Patch(t.Context(), name, types.ApplyPatchType, body, metav1.PatchOptions{FieldManager: "sealock"}); err != nil {
		t.Fatal(err)
	}

	skipped := func(when string) manifest.Plan {
		t.Helper()
		p, done := w.run(w.objects(theirs))
		if len(done) != 0 || actions(p)[manifest.Skipped] != 1 || len(p.Union) != 1 || p.Union[0].Name != name {
			t.Errorf("%s: %v %v", when, done, actions(p))
		}
		return p
	}
	skipped("without labels")
	if _, done := w.run(w.objects(strings.Replace(ours, "by-install", "by-commit", 1))); len(done) != 1 || done[0].Action != manifest.Configured {
		t.Errorf("our own: %v", done)
	}
	p := skipped("with labels")
	if deleted, _, err := w.client.Prune(t.Context(), w.grant, w.plan(nil, p.Union...)); err != nil || len(deleted) != 0 {
		t.Errorf("pruned %v: %v", deleted, err)
	}
}

// TestIgnoreTarget: each field of a target selects, alone, and every one leaves out what it does not fit.
// contract: Kustomization spec.ignore[].target.group, spec.ignore[].target.version, spec.ignore[].target.kind, spec.ignore[].target.name
// contract: Kustomization spec.ignore[].target.namespace, spec.ignore[].target.labelSelector, spec.ignore[].target.annotationSelector
func TestIgnoreTarget(t *testing.T) {
	set := parse(t, "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: web, namespace: team, labels: {tier: a}, annotations: {by: hand}}\n")
	for name, c := range map[string]struct {
		target manifest.Selector
		fits   bool
	}{
		"group": {manifest.Selector{Group: "app."}, true}, "another group": {manifest.Selector{Group: "app"}, false},
		"version": {manifest.Selector{Version: "v."}, true}, "another version": {manifest.Selector{Version: "v2"}, false},
		"kind": {manifest.Selector{Kind: "Deployment"}, true}, "another kind": {manifest.Selector{Kind: "Deploy"}, false},
		"name": {manifest.Selector{Name: "w.*"}, true}, "another name": {manifest.Selector{Name: "e.*"}, false},
		"namespace": {manifest.Selector{Namespace: "team|other"}, true}, "another namespace": {manifest.Selector{Namespace: "tea"}, false},
		"labelSelector": {manifest.Selector{LabelSelector: "tier in (a, b)"}, true}, "other labels": {manifest.Selector{LabelSelector: "tier=b"}, false},
		"annotationSelector": {manifest.Selector{AnnotationSelector: "by=hand"}, true}, "other annotations": {manifest.Selector{AnnotationSelector: "!by"}, false},
	} {
		r, err := compileRules(manifest.Owner{Ignore: []manifest.IgnoreRule{{Paths: []string{"/spec"}, Target: &c.target}}}, nil)
		if err != nil {
			t.Fatal(err)
		}
		if got := len(r.ignoredOf(set[0])) == 1; got != c.fits {
			t.Errorf("%s: %v", name, got)
		}
	}
}

// TestHealthRuleOfAGroup: a rule is for a group and, when it names one, a kind of it.
// contract: Kustomization spec.healthCheckExprs[].apiVersion, spec.healthCheckExprs[].kind, spec.healthCheckExprs[].current
// contract: Kustomization spec.healthCheckExprs[].inProgress, spec.healthCheckExprs[].failed
func TestHealthRuleOfAGroup(t *testing.T) {
	owner := manifest.Owner{Health: []manifest.HealthRule{
		{Group: "example.com", Kind: "Boat", Current: "status.s == 'afloat'", InProgress: "status.s == 'building'", Failed: "status.s == 'sunk'"},
		{Group: "example.org", Current: "status.s == 'anything'"},
	}}
	r, err := compileRules(owner, nil)
	if err != nil {
		t.Fatal(err)
	}
	for in, want := range map[[3]string]health{
		{"example.com/v1", "Boat", "afloat"}: healthCurrent, {"example.com/v9", "Boat", "building"}: healthInProgress, {"example.com/v1", "Boat", "sunk"}: healthFailed,
		{"example.com/v1", "Boat", "else"}: healthInProgress, {"example.com/v1", "Car", "sunk"}: healthCurrent,
		{"example.org/v1", "Car", "anything"}: healthCurrent, {"example.org/v1", "Bus", "else"}: healthInProgress,
	} {
		body := map[string]any{"apiVersion": in[0], "kind": in[1], "metadata": map[string]any{"name": "x"}, "status": map[string]any{"s": in[2]}}
		if got, _ := r.healthOf(t.Context(), body); got != want {
			t.Errorf("%v: %v, want %v", in, got, want)
		}
	}
}
