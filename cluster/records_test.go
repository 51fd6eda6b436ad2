package cluster

import (
	"compress/gzip"
	"io"
	"strings"
	"testing"

	"github.com/go-logr/logr"
	"github.com/google/go-cmp/cmp"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"

	"sealock.dev/sealock/internal/testkit"
	"sealock.dev/sealock/manifest"
	"sealock.dev/sealock/plaintext"
)

// started is a process: its own records, client and view.
func (w *world) started(config *rest.Config) *Records {
	w.Helper()
	config = rest.CopyConfig(config)
	config.Wrap(w.rec.wrap)
	records, err := NewRecords(config, w.ns, logr.Discard())
	if err != nil {
		w.Fatal(err)
	}
	if w.client, err = New(w.Context(), Options{Config: config, Key: plaintext.NewKey([]byte("key of the test")), Baselines: records}); err != nil {
		w.Fatal(err)
	}
	return records
}

// After a restart what is live is compared with what was persisted: nothing is asked about any object.
func TestRestartComparesAndAsksNothing(t *testing.T) {
	w := newWorld(t)
	config := testkit.Cluster(t).Config
	records := w.started(config)
	w.owner.Revision = "main@sha1:1"
	set := w.objects(configMaps(5) + "apiVersion: v1\nkind: Secret\nmetadata: {name: s}\nstringData: {password: hunter2}")
	p, _ := w.run(set)
	records.Remember(w.ns, "app", "fingerprint", Judged{Tenant: "team", Identity: "user", Policies: "snapshot"})
	records.Flush(t.Context())

	records = w.started(config)
	w.rec.take()
	settled, err := w.client.Settled(t.Context(), w.grant, w.owner, p.Union)
	if err != nil || !settled {
		t.Fatalf("settled %v: %v", settled, err)
	}
	if got, err := records.Recall(t.Context(), w.ns, "app"); err != nil || got != "fingerprint" {
		t.Errorf("fingerprint %q: %v", got, err)
	}
	if again := w.plan(set, p.Union...); actions(again)[manifest.Unchanged] != 6 {
		t.Errorf("plan %v", actions(again))
	}
	if asked := w.rec.take(); len(asked) > 0 {
		t.Errorf("it asked %v", asked)
	}

	// What changed while nobody looked is noticed.
	if err := w.kube.CoreV1().ConfigMaps(w.ns).Delete(t.Context(), "cm-03", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	w.started(config)
	if settled, err = w.client.Settled(t.Context(), w.grant, w.owner, p.Union); err != nil || settled {
		t.Errorf("settled %v with an object missing: %v", settled, err)
	}
	if again := w.plan(set, p.Union...); actions(again)[manifest.Created] != 1 || actions(again)[manifest.Unchanged] != 5 {
		t.Errorf("plan %v", actions(again))
	}
}

// The record says where objects come from, and holds no value.
func TestRecordIsReadable(t *testing.T) {
	w := newWorld(t)
	records := w.started(testkit.Cluster(t).Config)
	w.owner.Revision = "main@sha1:1"
	w.run(w.objects("apiVersion: v1\nkind: Secret\nmetadata: {name: s}\nstringData: {password: hunter2}"))
	w.owner.Revision = "main@sha1:2"
	w.run(w.objects("# moved by a line\napiVersion: v1\nkind: Secret\nmetadata: {name: s}\nstringData: {password: hunter2}"))
	if _, err := w.kube.CoreV1().Secrets(w.ns).Patch(t.Context(), "s", "application/merge-patch+json", []byte(`{"data":{"password":"eA=="}}`), metav1.PatchOptions{FieldManager: "mallory"}); err != nil {
		t.Fatal(err)
	}
	if e := w.event(Drifted, "s"); e.By != "mallory" {
		t.Errorf("by %q", e.By)
	}
	records.Flush(t.Context())
	cm, err := w.kube.CoreV1().ConfigMaps(w.ns).Get(t.Context(), RecordName(w.ns, "app"), metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	rec, err := DecodeRecord(cm.BinaryData[RecordKey])
	if err != nil || len(rec.Objects) != 1 {
		t.Fatalf("%+v: %v", rec, err)
	}
	o := rec.Objects[0]
	if o.File != "app.yaml" || o.Line != 2 || o.Revision != "main@sha1:1" || o.DriftedBy != "mallory" || o.DriftedAt.IsZero() || o.Applied.IsZero() {
		t.Errorf("%+v", o)
	}
	records.Drop(w.ns + "/app")
	records.Flush(t.Context())
	left, err := w.kube.CoreV1().ConfigMaps(w.ns).List(t.Context(), metav1.ListOptions{LabelSelector: RecordLabel})
	if err != nil || len(left.Items) != 0 {
		t.Errorf("%d records are left: %v", len(left.Items), err)
	}
}

// A record that was damaged, or is somebody's idea of one, costs dry-runs and nothing else.
func TestDamagedRecordIsLeftOut(t *testing.T) {
	w := newWorld(t)
	config := testkit.Cluster(t).Config
	records := w.started(config)
	set := w.objects(configMaps(2))
	p, _ := w.run(set)
	records.Flush(t.Context())
	cm, err := w.kube.CoreV1().ConfigMaps(w.ns).Get(t.Context(), RecordName(w.ns, "app"), metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	cm.BinaryData[RecordKey] = cm.BinaryData[RecordKey][:20]
	if _, err := w.kube.CoreV1().ConfigMaps(w.ns).Update(t.Context(), cm, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	w.started(config)
	if again := w.plan(set, p.Union...); actions(again)[manifest.Unchanged] != 2 {
		t.Errorf("plan %v", actions(again))
	}
}

// Only what a plan is about is forgotten: an object in another version, and what was let go. What is kept is written down.
func TestBaselinesOfWhatWasLetGoAreForgotten(t *testing.T) {
	id := func(name, version string) manifest.ID { return manifest.ID{Kind: "Boat", Name: name, Version: version} }
	step := func(name, version string) manifest.Step {
		return manifest.Step{Object: parse(t, "apiVersion: "+version+"\nkind: Boat\nmetadata: {name: "+name+"}\n")[0]}
	}
	plan := manifest.Plan{
		Steps: []manifest.Step{step("moved", "v2"), step("stays", "v1")}, Prune: []manifest.ID{id("pruned", "v1")},
		Union: []manifest.ID{id("moved", "v2"), id("stays", "v1"), id("pruned", "v1"), id("let", "v1")},
	}
	r := &Records{memory: NewMemory(), heads: map[string]head{}, dirty: map[string]struct{}{}}
	for _, each := range []manifest.ID{id("moved", "v1"), id("moved", "v2"), id("stays", "v1"), id("pruned", "v1"), id("let", "v1"), id("other", "v1")} {
		r.Put("ns/app", each, Baseline{Once: each.Name == "stays"})
	}
	clear(r.dirty)
	r.ForgetIf("ns/other", letGo(plan))
	if len(r.dirty) != 0 {
		t.Error("nothing was forgotten, and it is written")
	}
	r.ForgetIf("ns/app", letGo(plan))
	var left []string
	for _, o := range r.memory.records("ns/app") {
		again, b, err := fromRecord(o)
		if err != nil || b.Once != (again.Name == "stays") {
			t.Errorf("%v %v: %v", again, b, err)
		}
		left = append(left, again.Name+" "+again.Version)
	}
	if diff := cmp.Diff([]string{"moved v2", "other v1", "pruned v1", "stays v1"}, left); diff != "" || len(r.dirty) != 1 {
		t.Errorf("%s, dirty %v", diff, r.dirty)
	}
}

func FuzzDecodeRecord(f *testing.F) {
	packed, err := Record{Version: recordVersion, Owner: "a/b", Objects: []RecordObject{{ID: "a_b__ConfigMap", Version: "v1", Desired: make([]byte, 16), Owned: make([]byte, 16)}}}.encode(gzip.NewWriter(io.Discard))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(packed)
	f.Add([]byte(strings.Repeat("x", 30)))
	f.Fuzz(func(_ *testing.T, packed []byte) {
		rec, err := DecodeRecord(packed)
		if err != nil {
			return
		}
		for _, o := range rec.Objects {
			_, _, _ = fromRecord(o)
		}
	})
}
