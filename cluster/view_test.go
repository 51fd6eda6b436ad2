package cluster

import (
	"fmt"
	"runtime"
	"testing"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"sealock.dev/sealock/plaintext"
)

func loose(t testing.TB) *watched {
	opts := Options{Key: plaintext.NewKey([]byte("k")), OwnerLabel: markerPrefix + "name", OwnerNamespaceLabel: markerPrefix + "namespace", FieldManager: "m", Baselines: NewMemory()}
	return newWatched(newView(t.Context(), nil, opts), kindInfo{gvk: schema.GroupVersionKind{Version: "v1", Kind: "ConfigMap"}, resource: "configmaps", namespaced: true})
}

func live(name, version, value string) *unstructured.Unstructured {
	return &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": "v1", "kind": "ConfigMap", "data": map[string]any{"k": value},
		"metadata": map[string]any{
			"name": name, "namespace": "default", "uid": "9f1c2d34-0000-4000-8000-" + fmt.Sprintf("%012s", name), "resourceVersion": version,
			"labels":        map[string]any{markerPrefix + "name": "app", markerPrefix + "namespace": "default"},
			"managedFields": []any{map[string]any{"manager": "m", "operation": "Apply", "fieldsType": "FieldsV1", "fieldsV1": map[string]any{"f:data": map[string]any{"f:k": map[string]any{}}}}},
		},
	}}
}

// based is loose with objects of value "x" that are there as they were applied.
func based(t testing.TB, names ...string) *watched {
	w := loose(t)
	var list []any
	for _, name := range names {
		o := live(name, "1", "x")
		e := w.view.reduce.reduce(o.Object)
		w.view.baselines.Put("default/app", w.id(nsName{"default", name}), Baseline{Owned: e.owned, UID: e.uid})
		list = append(list, o)
	}
	_ = w.Replace(list, "1")
	return w
}

// The answer to our own write may be faster than the watch: what is older must not undo it.
func TestViewNeverGoesBack(t *testing.T) {
	w := loose(t)
	key := nsName{"default", "a"}
	release := w.hold(key)
	after := w.view.reduce.reduce(live("a", "20", "new").Object)
	release(&after)
	_ = w.Update(live("a", "10", "old"))
	if e, _ := w.lookup(key); e.version != 20 {
		t.Errorf("an older event won: %d", e.version)
	}
	_ = w.Delete(live("a", "15", "old"))
	if _, ok := w.lookup(key); !ok {
		t.Error("an older deletion won")
	}
	_ = w.Replace(nil, "18")
	if _, ok := w.lookup(key); !ok {
		t.Error("an older list won")
	}
	_ = w.Replace(nil, "30")
	if _, ok := w.lookup(key); ok {
		t.Error("a newer list is ignored")
	}
}

// What the API server knows of our own writes is no news.
func TestOwnWritesAreNoEvents(t *testing.T) {
	w := based(t, "a", "b")
	release := w.hold(nsName{"default", "a"})
	_ = w.Update(live("a", "2", "y")) // the watch is faster than the answer
	after := w.view.reduce.reduce(live("a", "2", "y").Object)
	release(&after)
	w.leave(nsName{"default", "a"})
	_ = w.Delete(live("a", "3", "y"))
	_ = w.Update(live("b", "5", "z"))
	if e := <-w.view.Events(); e.ID.Name != "b" || e.Kind != Drifted {
		t.Errorf("first event is %v", e)
	}
}

// 10,000 objects fit in a few megabytes (DESIGN.md, section 4). Bytes are counted, no time is.
func TestViewIsSmall(t *testing.T) {
	const n = 10_000
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	w := loose(t)
	for i := range n {
		if err := w.Add(live(fmt.Sprintf("object-with-a-name-%06d", i), fmt.Sprint(i+1), "x")); err != nil {
			t.Fatal(err)
		}
	}
	runtime.GC()
	runtime.ReadMemStats(&after)
	each := (after.HeapAlloc - before.HeapAlloc) / n
	t.Logf("%d bytes for an object", each)
	if each > 700 || w.len() != n {
		t.Errorf("%d bytes for each of %d objects", each, w.len())
	}
	runtime.KeepAlive(w)
}
