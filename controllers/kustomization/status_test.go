package kustomization

import (
	"fmt"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	kustomizev1 "github.com/fluxcd/kustomize-controller/api/v1"
	sourcev1 "github.com/fluxcd/source-controller/api/v1"
	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/dynamic"

	"sealock.dev/sealock/internal/testkit"
)

// TestStatusDefaults: an object without spec has observedGeneration -1, and the CRD is spared from substitution.
// contract: Kustomization status default, crd annotation kustomize.toolkit.fluxcd.io/substitute
func TestStatusDefaults(t *testing.T) {
	dc := testkit.Cluster(t)
	dc.InstallCRDs(t)
	client, err := dynamic.NewForConfig(dc.Config)
	if err != nil {
		t.Fatal(err)
	}
	gvr := schema.GroupVersionResource{Group: "kustomize.toolkit.fluxcd.io", Version: "v1", Resource: "kustomizations"}
	ns := dc.Namespace(t, nil)
	o, err := client.Resource(gvr).Namespace(ns).Create(t.Context(), &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": "kustomize.toolkit.fluxcd.io/v1", "kind": "Kustomization", "metadata": map[string]any{"name": "empty"},
	}}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(map[string]any{"observedGeneration": int64(-1)}, o.Object["status"]); diff != "" {
		t.Error(diff)
	}
	crds := schema.GroupVersionResource{Group: "apiextensions.k8s.io", Version: "v1", Resource: "customresourcedefinitions"}
	crd, err := client.Resource(crds).Get(t.Context(), "kustomizations.kustomize.toolkit.fluxcd.io", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if crd.GetAnnotations()["kustomize.toolkit.fluxcd.io/substitute"] != "disabled" {
		t.Error("the CRD lacks its annotation")
	}
}

// TestStatusOfASuccess: every field of the status, the events and what they carry.
// contract: Kustomization status.lastAppliedRevision, status.lastAttemptedRevision, status.lastAppliedOriginRevision, status.lastHandledReconcileAt, status.observedGeneration
// contract: Kustomization status.conditions[].type, status.conditions[].status, status.conditions[].reason, status.conditions[].message, status.conditions[].observedGeneration, status.conditions[].lastTransitionTime
// contract: Kustomization status.inventory.entries[].id, status.inventory.entries[].v, status.history[].digest, status.history[].metadata, status.history[].firstReconciled, status.history[].lastReconciled
// contract: Kustomization status.history[].lastReconciledDuration, status.history[].lastReconciledStatus, status.history[].totalReconciliations, spec.wait, finalizer finalizers.fluxcd.io
// contract: Kustomization condition Ready, condition Healthy, reason ReconciliationSucceeded, reason Succeeded, annotation reconcile.fluxcd.io/requestedAt, annotation event.toolkit.fluxcd.io/*
// contract: Kustomization event change log, event Reconciliation finished, event Health check passed, event annotation kustomize.toolkit.fluxcd.io/revision
// contract: Kustomization event annotation kustomize.toolkit.fluxcd.io/originRevision, event annotation kustomize.toolkit.fluxcd.io/commit_status
func TestStatusOfASuccess(t *testing.T) {
	w := newWorld(t, options{})
	w.source("app", "main@sha1:1", map[string]string{"a.yaml": w.configMapYAML("a", "1")})
	w.sync("app", "wait: true", "annotations: {event.toolkit.fluxcd.io/team: red, other: x, reconcile.fluxcd.io/requestedAt: first}")
	ks := w.ready("app", "main@sha1:1")
	s := ks.Status
	if s.LastAttemptedRevision != "main@sha1:1" || s.LastAppliedOriginRevision != "origin-main@sha1:1" || s.LastHandledReconcileAt != "first" || s.ObservedGeneration != ks.Generation {
		t.Errorf("%+v", s)
	}
	var types []string
	for _, c := range s.Conditions {
		types = append(types, fmt.Sprintf("%s=%s/%s %d", c.Type, c.Status, c.Reason, c.ObservedGeneration))
	}
	if diff := cmp.Diff([]string{"Ready=True/ReconciliationSucceeded 1", "Healthy=True/Succeeded 1"}, types); diff != "" {
		t.Error(diff)
	}
	if c := condition(ks, "Ready"); c.Message != "Applied revision: main@sha1:1" {
		t.Error(c.Message)
	}
	if len(s.Inventory.Entries) != 1 || s.Inventory.Entries[0].ID != w.ns+"_a__ConfigMap" || s.Inventory.Entries[0].Version != "v1" {
		t.Errorf("%+v", s.Inventory)
	}
	h := s.History[0]
	if len(s.History) != 1 || !strings.HasPrefix(h.Digest, "sha256:") || h.LastReconciledStatus != "ReconciliationSucceeded" || h.Metadata["originRevision"] != "origin-main@sha1:1" || h.LastReconciledDuration.Duration <= 0 || h.FirstReconciled.Time.IsZero() || h.LastReconciled.Time.Before(h.FirstReconciled.Time) {
		t.Errorf("%+v", s.History)
	}
	if diff := cmp.Diff([]string{"finalizers.fluxcd.io"}, ks.Finalizers); diff != "" || condition(ks, "Ready").LastTransitionTime.Time.IsZero() {
		t.Error(diff)
	}
	w.until("all is told", func() bool { return len(w.events.of("app", "")) == 3 })
	want := []told{
		{"app", "Normal", "Progressing", "ConfigMap/" + w.ns + "/a created", nil},
		{"app", "Normal", "Progressing", "Health check passed in ", nil},
		{"app", "Normal", "ReconciliationSucceeded", "Reconciliation finished in ", map[string]string{annotationCommit: "update"}},
	}
	for i, e := range w.events.of("app", "") {
		carried := map[string]string{"event.toolkit.fluxcd.io/team": "red", annotationRevision: "main@sha1:1", annotationOrigin: "origin-main@sha1:1"}
		for k, v := range want[i].annotations {
			carried[k] = v
		}
		if e.typ != want[i].typ || e.reason != want[i].reason || !strings.HasPrefix(e.message, want[i].message) {
			t.Errorf("event %d: %+v", i, e)
		}
		if diff := cmp.Diff(carried, e.annotations); diff != "" {
			t.Errorf("event %d: %s", i, diff)
		}
	}
	// A request that finds nothing to do is answered, and counted.
	w.request("app", "second")
	w.until("the request is handled", func() bool { return w.get("app").Status.LastHandledReconcileAt == "second" })
	if h := w.get("app").Status.History; len(h) != 1 || h[0].TotalReconciliations != 2 {
		t.Errorf("%+v", h)
	}
}

// TestHistory: five at most, the newest first, one for each digest and status, failures included.
// contract: Kustomization status.history[].lastReconciledStatus, status.history[].totalReconciliations, status.history[].metadata
func TestHistory(t *testing.T) {
	w := newWorld(t, options{})
	bad := "apiVersion: v1\nkind: Service\nmetadata: {name: bad, namespace: " + w.ns + "}\nspec: {ports: [{port: 808080}]}\n"
	w.sync("app")
	for i := range 6 {
		revision := fmt.Sprintf("main@sha1:%d", i)
		w.source("app", revision, map[string]string{"a.yaml": w.configMapYAML("a", fmt.Sprint(i))})
		w.ready("app", revision)
	}
	w.source("app", "main@sha1:bad", map[string]string{"bad.yaml": bad})
	w.failed("app", "ReconciliationFailed", "main@sha1:bad")
	w.source("app", "main@sha1:unbuilt", map[string]string{"bad.yaml": "a: ["})
	w.failed("app", "BuildFailed", "main@sha1:unbuilt")
	w.source("app", "main@sha1:again", map[string]string{"a.yaml": w.configMapYAML("a", "5")})
	h := w.ready("app", "main@sha1:again").Status.History
	var got []string
	for _, each := range h {
		got = append(got, fmt.Sprintf("%s %s %d", each.Metadata["revision"], each.LastReconciledStatus, each.TotalReconciliations))
	}
	if diff := cmp.Diff([]string{
		"main@sha1:again ReconciliationSucceeded 2", "main@sha1:bad ReconciliationFailed 1",
		"main@sha1:4 ReconciliationSucceeded 1", "main@sha1:3 ReconciliationSucceeded 1", "main@sha1:2 ReconciliationSucceeded 1",
	}, got); diff != "" {
		t.Error(diff)
	}
}

// TestSuspend: nothing is done but the echo of a request, and nothing is deleted.
// contract: Kustomization spec.suspend
func TestSuspend(t *testing.T) {
	w := newWorld(t, options{})
	w.source("app", "main@sha1:1", map[string]string{"a.yaml": w.configMapYAML("a", "1")})
	w.sync("app")
	w.ready("app", "main@sha1:1")
	w.edit("app", func(ks *kustomizev1.Kustomization) { ks.Spec.Suspend = true })
	w.source("app", "main@sha1:2", map[string]string{"a.yaml": w.configMapYAML("a", "2")})
	w.request("app", "while suspended")
	w.until("the request is echoed", func() bool { return w.get("app").Status.LastHandledReconcileAt == "while suspended" })
	if ks := w.get("app"); ks.Status.LastAppliedRevision != "main@sha1:1" || condition(ks, "Ready").Status != metav1.ConditionTrue || w.configMap("a").Data["value"] != "1" {
		t.Errorf("%+v", ks.Status)
	}
	w.edit("app", func(ks *kustomizev1.Kustomization) { ks.Spec.Suspend = false })
	w.ready("app", "main@sha1:2")
	w.edit("app", func(ks *kustomizev1.Kustomization) { ks.Spec.Suspend = true })
	w.delete("app")
	w.gone("app")
	if w.configMap("a") == nil {
		t.Error("a suspended Kustomization took its objects along")
	}
}

// TestDeletionPolicy: what goes with the Kustomization.
// contract: Kustomization spec.deletionPolicy
func TestDeletionPolicy(t *testing.T) {
	w := newWorld(t, options{})
	cases := map[string]struct {
		spec  []string
		stays bool
	}{
		"mirror-pruning": {[]string{"deletionPolicy: MirrorPrune"}, false},
		"mirror-keeping": {[]string{"prune: false"}, true},
		"delete":         {[]string{"prune: false", "deletionPolicy: Delete"}, false},
		"orphan":         {[]string{"deletionPolicy: Orphan"}, true},
		"wait":           {[]string{"prune: false", "deletionPolicy: WaitForTermination"}, false},
	}
	files := map[string]string{}
	for name := range cases {
		files[name+"/a.yaml"] = w.configMapYAML(name, "1")
	}
	w.source("app", "main@sha1:1", files)
	for name, c := range cases {
		w.sync(name, append(c.spec, "path: "+name)...)
	}
	for name := range cases {
		w.ready(name, "main@sha1:1")
	}
	held := w.configMap("wait")
	held.Finalizers = []string{"example.com/hold"}
	if err := w.kube.Update(w.Context(), held); err != nil {
		t.Fatal(err)
	}
	for name := range cases {
		w.delete(name)
	}
	for name, c := range cases {
		if name == "wait" {
			continue
		}
		w.gone(name)
		if stays := w.configMap(name) != nil; stays != c.stays {
			t.Errorf("%s: stays is %v", name, stays)
		}
	}
	w.until("the deletion of the object has begun", func() bool { return w.configMap("wait").DeletionTimestamp != nil })
	w.get("wait") // is still there
	held = w.configMap("wait")
	held.Finalizers = nil
	if err := w.kube.Update(w.Context(), held); err != nil {
		t.Fatal(err)
	}
	w.gone("wait")
}

// TestPrune: what left the set goes with prune, and is let go without.
// contract: Kustomization spec.prune
func TestPrune(t *testing.T) {
	w := newWorld(t, options{})
	w.source("app", "main@sha1:1", map[string]string{
		"pruning/a.yaml": w.configMapYAML("pruning-a", "1"), "pruning/b.yaml": w.configMapYAML("pruning-b", "1"), "keeping/a.yaml": w.configMapYAML("keeping-a", "1"), "keeping/b.yaml": w.configMapYAML("keeping-b", "1"),
	})
	w.sync("pruning", "path: pruning")
	w.sync("keeping", "path: keeping", "prune: false")
	w.ready("pruning", "main@sha1:1")
	w.ready("keeping", "main@sha1:1")
	w.source("app", "main@sha1:2", map[string]string{"pruning/a.yaml": w.configMapYAML("pruning-a", "1"), "keeping/a.yaml": w.configMapYAML("keeping-a", "1")})
	w.ready("pruning", "main@sha1:2")
	w.ready("keeping", "main@sha1:2")
	if w.configMap("pruning-b") != nil || w.configMap("keeping-b") == nil {
		t.Error("prune")
	}
	for _, name := range []string{"pruning", "keeping"} {
		if got := w.inventory(name); len(got) != 1 || got[0] != name+"-a__ConfigMap" {
			t.Errorf("%s: %v", name, got)
		}
	}
}

// TestHazard_LabelsThatHideOwnership: neither commonMetadata nor a manifest can name another owner, which would keep an
// object from being pruned, or have another Kustomization prune it.
// contract: Object label kustomize.toolkit.fluxcd.io/name, label kustomize.toolkit.fluxcd.io/namespace
func TestHazard_LabelsThatHideOwnership(t *testing.T) {
	w := newWorld(t, options{})
	w.source("app", "main@sha1:1", map[string]string{"a.yaml": strings.Replace(w.configMapYAML("a", "1"), "name: a,", "name: a, labels: {kustomize.toolkit.fluxcd.io/namespace: else},", 1)})
	w.sync("app", "commonMetadata: {labels: {kustomize.toolkit.fluxcd.io/name: other, team: red}, annotations: {note: x}}")
	w.ready("app", "main@sha1:1")
	a := w.configMap("a")
	if diff := cmp.Diff(map[string]string{labelName: "app", labelNamespace: w.ns, "team": "red"}, a.Labels); diff != "" || a.Annotations["note"] != "x" {
		t.Error(diff)
	}
	w.delete("app")
	w.gone("app")
	if w.configMap("a") != nil {
		t.Error("it was not pruned")
	}
}

// TestHazard_ValuesInMessages: a value of a Secret that substitution puts into a wrong place is not in what people read.
func TestHazard_ValuesInMessages(t *testing.T) {
	w := newWorld(t, options{})
	canary := testkit.NewCanary()
	w.create(&corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: w.ns, Name: "vars"}, StringData: map[string]string{"v": canary.String()}})
	w.source("app", "main@sha1:1", map[string]string{
		"a.yaml": "apiVersion: v1\nkind: Service\nmetadata: {name: bad, namespace: " + w.ns + "}\nspec: {ports: [{port: 1, targetPort: '${v}'}], type: '${v}'}\n",
		"b.yaml": "apiVersion: v1\nkind: Secret\nmetadata: {name: s, namespace: " + w.ns + "}\nstringData: {a: '${v:1:x}'}\n",
	})
	w.sync("one", "postBuild: {substituteFrom: [{kind: Secret, name: vars}]}")
	w.until("it fails", func() bool { return condition(w.get("one"), "Ready").Status == metav1.ConditionFalse })
	w.source("app", "main@sha1:2", map[string]string{"a.yaml": "apiVersion: v1\nkind: Service\nmetadata: {name: bad, namespace: " + w.ns + "}\nspec: {ports: [{port: 1}], type: '${v}'}\n"})
	w.failed("one", "ReconciliationFailed", "main@sha1:2")
	text := fmt.Sprintf("%+v %+v", w.get("one").Status, w.events.of("one", ""))
	if found := canary.FindIn(text); len(found) > 0 {
		t.Errorf("%v in %s", found, text)
	}
}

func TestMessagesAreBounded(t *testing.T) {
	s := &kustomizev1.KustomizationStatus{}
	long := strings.Repeat("ä", 40_000)
	set(s, 1, "Ready", metav1.ConditionFalse, "X", long)
	if m := s.Conditions[0].Message; len(m) > messageBytes || !utf8.ValidString(m) {
		t.Errorf("%d bytes", len(m))
	}
	e := &events{}
	r := &Reconciler{Events: e}
	ks := &kustomizev1.Kustomization{ObjectMeta: metav1.ObjectMeta{Name: "app"}}
	m := &memory{}
	r.event(ks, m, "Warning", "X", long, revisions{})
	r.event(ks, m, "Warning", "X", long, revisions{})
	if got := e.of("app", "X"); len(got) != 1 || got[0].message != long { // notify cuts it: at 1,024 bytes for the cluster, at 39,000 for a POST
		t.Errorf("%d events", len(got))
	}
}

// TestNoEventWithoutArtifact: a source that is not there, or has nothing yet, is told by the status alone (flux.md 1.3), and
// the first artifact wakes.
func TestNoEventWithoutArtifact(t *testing.T) {
	w := newWorld(t, options{})
	w.sync("app")
	w.failed("app", "ArtifactFailed", "")
	w.create(&sourcev1.GitRepository{
		ObjectMeta: metav1.ObjectMeta{Namespace: w.ns, Name: "app"},
		Spec:       sourcev1.GitRepositorySpec{URL: "https://example.com/x", Interval: metav1.Duration{Duration: time.Hour}},
	})
	w.request("app", "now")
	w.until("it is looked at", func() bool { return w.get("app").Status.LastHandledReconcileAt == "now" })
	if m := w.failed("app", "ArtifactFailed", ""); !strings.Contains(m, "Source artifact not found") {
		t.Error(m)
	}
	if told := w.events.of("app", ""); len(told) > 0 {
		t.Errorf("told: %+v", told)
	}
	w.source("app", "main@sha1:1", map[string]string{"b.yaml": w.configMapYAML("b", "1")})
	w.ready("app", "main@sha1:1")
	w.edit("app", func(ks *kustomizev1.Kustomization) { ks.Spec.Path = "missing" })
	w.until("a path that is missing is told", func() bool { return len(w.events.of("app", "ArtifactFailed")) == 1 })
}

// TestRetry: the retry interval bounds the wait after a failure, and what only a change can heal waits for it.
// contract: Kustomization spec.retryInterval
func TestRetry(t *testing.T) {
	r := &Reconciler{}
	ks := &kustomizev1.Kustomization{}
	ks.Spec.Interval = metav1.Duration{Duration: time.Hour}
	for _, c := range []struct {
		retry *metav1.Duration
		kind  error
		want  []time.Duration
	}{
		{nil, transient(), []time.Duration{time.Second, 2 * time.Second, 4 * time.Second}},
		{&metav1.Duration{Duration: 3 * time.Second}, transient(), []time.Duration{time.Second, 2 * time.Second, 3 * time.Second, 3 * time.Second}},
		{&metav1.Duration{Duration: 3 * time.Second}, invalid(), []time.Duration{3 * time.Second}},
		{nil, invalid(), []time.Duration{time.Hour}},
	} {
		r.MinRetry, r.MaxRetry = 0, 0
		ks.Spec.RetryInterval = c.retry
		m := &memory{}
		for _, want := range c.want {
			if got := r.retryAfter(ks, m, c.kind); got != want {
				t.Errorf("%v: %s, want %s", c, got, want)
			}
		}
	}
	r.MinRetry, r.MaxRetry = 5*time.Second, 8*time.Second
	ks.Spec.RetryInterval = nil
	m := &memory{}
	for _, want := range []time.Duration{5 * time.Second, 8 * time.Second} {
		if got := r.retryAfter(ks, m, transient()); got != want {
			t.Errorf("with bounds: %s, want %s", got, want)
		}
	}
}

// TestJitter: the next reconcile comes around the interval, as far as is allowed.
func TestJitter(t *testing.T) {
	if got := (&Reconciler{}).jitter(time.Hour); got != time.Hour {
		t.Errorf("without jitter: %s", got)
	}
	r := &Reconciler{Jitter: 0.4}
	early, late := false, false
	for range 1000 {
		got := r.jitter(100 * time.Minute)
		if got < 60*time.Minute || got > 140*time.Minute {
			t.Fatalf("%s", got)
		}
		early, late = early || got < 90*time.Minute, late || got > 110*time.Minute
	}
	if !early || !late {
		t.Error("always the same")
	}
}
