package cluster

import (
	"context"
	"errors"
	"strconv"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"sealock.dev/sealock/manifest"
)

// late makes a ConfigMap as a deposed leader would: with the labels of the owner, by server-side apply of the manager.
func (w *world) late(name, manager string) (version string) {
	w.Helper()
	force := true
	body := `{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"` + name + `","labels":{"` + markerPrefix + `name":"app","` + markerPrefix + `namespace":"` + w.ns + `"}},"data":{"k":"late"}}`
	cm, err := w.kube.CoreV1().ConfigMaps(w.ns).Patch(w.Context(), name, types.ApplyPatchType, []byte(body), metav1.PatchOptions{FieldManager: manager, Force: &force})
	if err != nil {
		w.Fatal(err)
	}
	return cm.ResourceVersion
}

// seen waits until the view has a version of a ConfigMap.
func (w *world) seen(name, version string) {
	w.Helper()
	w.until("the view sees "+name, func() bool {
		e, there := w.look("ConfigMap", name)
		return there && e.version >= number(w.T, version)
	})
}

// pruned applies the objects, takes all of them out and returns the inventory that is left.
func (w *world) pruned(text string) []manifest.ID {
	w.Helper()
	p, _ := w.run(w.objects(text))
	p, _ = w.run(nil, p.Union...)
	deleted, left, err := w.client.Prune(w.Context(), w.grant, p)
	if err != nil || len(left) != 0 || len(deleted) != len(p.Prune) {
		w.Fatalf("deleted %v, left %v: %v", deleted, left, err)
	}
	return left
}

func (w *world) settled(ids ...manifest.ID) bool {
	w.Helper()
	yes, err := w.client.Settled(w.Context(), w.grant, w.owner, ids)
	if err != nil {
		w.Fatal(err)
	}
	return yes
}

func (w *world) absent(name string) bool {
	w.Helper()
	_, err := w.kube.CoreV1().ConfigMaps(w.ns).Get(w.Context(), name, metav1.GetOptions{})
	return apierrors.IsNotFound(err)
}

// What was pruned and is written again by us, late, is told, and pruned by the next run (ADR 10).
func TestWhatReturnsIsPrunedAgain(t *testing.T) {
	w := newWorld(t)
	left := w.pruned(configMaps(1))
	if !w.settled(left...) {
		t.Error("not settled before anything returned")
	}
	w.late("cm-00", "kustomize-controller")
	if e := w.event(Returned, "cm-00"); e.OwnerName != "app" || !e.Kind.Mend() {
		t.Errorf("told %+v", e)
	}
	if w.settled(left...) {
		t.Error("settled with an orphan")
	}
	p, _ := w.run(nil, left...)
	if len(p.Prune) != 1 || len(p.Union) != 1 {
		t.Fatalf("prune %v, union %v", p.Prune, p.Union)
	}
	if deleted, _, err := w.client.Prune(t.Context(), w.grant, p); err != nil || len(deleted) != 1 || !w.absent("cm-00") {
		t.Errorf("deleted %v: %v", deleted, err)
	}
	w.until("it to be settled", func() bool { return w.settled(left...) })
}

// It is not there when it is pruned, and is made afterwards.
func TestWhatWasNotThereYetIsPrunedWhenItComes(t *testing.T) {
	w := newWorld(t)
	id := w.objects(configMaps(1))[0].ID()
	id.Namespace = w.ns
	p, _ := w.run(nil, id)
	if deleted, left, err := w.client.Prune(t.Context(), w.grant, p); err != nil || len(deleted)+len(left) != 0 {
		t.Fatalf("deleted %v, left %v: %v", deleted, left, err)
	}
	w.late("cm-00", "kustomize-controller")
	w.event(Returned, "cm-00")
	if p = w.plan(nil); len(p.Prune) != 1 {
		t.Errorf("prune %v", p.Prune)
	}
}

// The inventory names a version that is not the one that is watched, or one that is not served any more.
func TestWhatReturnsInAnotherVersionIsKnown(t *testing.T) {
	w := newWorld(t)
	set := w.objects("apiVersion: policy/v1\nkind: PodDisruptionBudget\nmetadata: {name: old}\nspec: {selector: {matchLabels: {a: b}}, minAvailable: 1}\n")
	p, _ := w.run(set)
	p.Union[0].Version = "v1beta1"
	p, _ = w.run(nil, p.Union...)
	if deleted, _, err := w.client.Prune(t.Context(), w.grant, p); err != nil || len(deleted) != 1 {
		t.Fatalf("deleted %v: %v", deleted, err)
	}
	late := set[0].Edit(func(body map[string]any) {
		body["metadata"] = map[string]any{"name": "old", "labels": map[string]any{markerPrefix + "name": "app", markerPrefix + "namespace": w.ns}}
	})
	body, err := late.Wire()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.kube.PolicyV1().PodDisruptionBudgets(w.ns).Patch(t.Context(), "old", types.ApplyPatchType, body, metav1.PatchOptions{FieldManager: "kustomize-controller"}); err != nil {
		t.Fatal(err)
	}
	w.event(Returned, "old")
	if p = w.plan(nil); len(p.Prune) != 1 {
		t.Errorf("prune %v", p.Prune)
	}
	w.run(set) // wanted again, in the other version
	if !w.settled(w.resolve(set)[0].ID()) {
		t.Error("what is wanted again is taken for an orphan")
	}
}

// What somebody copied with kubectl is his, although the labels came along.
func TestCopyOfWhatWasPrunedIsLeftAlone(t *testing.T) {
	w := newWorld(t)
	left := w.pruned(configMaps(1))
	w.seen("cm-00", w.late("cm-00", "kubectl-client-side-apply"))
	if p := w.plan(nil, left...); len(p.Prune) != 0 {
		t.Errorf("prune %v", p.Prune)
	}
	if !w.settled(left...) {
		t.Error("a copy is taken for an orphan")
	}
}

// An object that a later commit has again stays, whether it had to be written or was there, late, as it should be.
func TestWhatIsWantedAgainStays(t *testing.T) {
	for name, text := range map[string]string{
		"written":         "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: cm-00}\ndata: {k: new}\n",
		"there already":   "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: cm-00}\ndata: {k: late}\n",
		"of other origin": "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: cm-00, annotations: {" + markerPrefix + "ssa: IfNotPresent}}\n",
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			left := w.pruned(configMaps(1))
			w.seen("cm-00", w.late("cm-00", "kustomize-controller"))
			p, _ := w.run(w.objects(text), left...)
			if len(p.Prune) != 0 || len(w.client.view.returned(w.client.ownerKey(w.owner))) != 0 {
				t.Errorf("prune %v", p.Prune)
			}
			w.client.Release(w.owner) // its deletion policy is Orphan
			watched, _ := w.client.view.peek(p.Union[0].GVK())
			e, _ := watched.lookup(nsName{w.ns, "cm-00"})
			if _, again := w.client.view.departed.returned(p.Union[0], e); again {
				t.Error("it would be deleted now that the owner is gone")
			}
		})
	}
}

// An object that returns after its owner has gone is deleted by the identity that pruned it.
func TestWhatReturnsToNobodyIsDeleted(t *testing.T) {
	w := newWorld(t)
	w.grant = w.tenant("gone-"+w.ns, nil, rbacv1.PolicyRule{APIGroups: []string{""}, Resources: []string{"configmaps"}, Verbs: []string{"*"}})
	w.pruned(configMaps(2))
	w.client.Release(w.owner)
	w.rec.take()
	w.seen("cm-00", w.late("cm-00", "kubectl-client-side-apply"))
	w.late("cm-01", "kustomize-controller")
	w.until("it to be deleted", func() bool { return w.absent("cm-01") })
	if w.absent("cm-00") {
		t.Error("a copy was deleted too")
	}
	if asked := w.rec.take(); len(asked) != 1 {
		t.Errorf("it took %v", asked)
	}
}

// reaped is a view whose owner pruned "a" and is gone; erase stands for the API server.
func reaped(t *testing.T, erase func(uid string) error) *watched {
	w := loose(t)
	w.view.reaper.erase = func(_ context.Context, _ departure, at place, uid string) error {
		if at.name != "a" || at.namespace != "default" {
			t.Errorf("erases %+v", at)
		}
		return erase(uid)
	}
	w.view.departed.note("default/app", w.id(nsName{"default", "a"}), departure{kind: w.info, uid: "before"})
	w.view.departed.release("default/app")
	return w
}

// A deletion that fails is tried again, until the object is wanted again or has gone.
func TestReaperTriesAgain(t *testing.T) {
	for name, end := range map[string]func(w *watched){
		"it goes":      func(w *watched) { _ = w.Delete(live("a", "11", "x")) },
		"it is wanted": func(w *watched) { w.view.departed.forget("default/app", w.id(nsName{"default", "a"})) },
		"too long ago": func(*watched) { time.Sleep(departureKept) },
		"it is to be kept": func(w *watched) {
			o := live("a", "11", "x")
			o.SetAnnotations(map[string]string{markerPrefix + "prune": "disabled"})
			_ = w.Update(o)
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var count atomic.Int64
				w := reaped(t, func(string) error { count.Add(1); return errors.New("no") })
				_ = w.Add(live("a", "10", "x"))
				synctest.Wait()
				if tries := count.Load(); tries != 1 {
					t.Fatalf("%d tries at once", tries)
				}
				time.Sleep(time.Minute)
				synctest.Wait()
				if tries := count.Load(); tries < 5 || tries > 10 {
					t.Errorf("%d tries in a minute", tries)
				}
				end(w)
				before := count.Load()
				time.Sleep(10 * time.Minute)
				synctest.Wait()
				if tries := count.Load(); name != "too long ago" && tries != before {
					t.Errorf("%d more tries", tries-before)
				}
				w.view.departed.mu.Lock()
				defer w.view.departed.mu.Unlock()
				if n := w.view.reaper.queue.Len(); n != 0 || len(w.view.departed.of) != 0 || w.view.departed.n != 0 {
					t.Errorf("%d wait, and %v is remembered", n, w.view.departed.of)
				}
			})
		})
	}
}

// What is remembered is bounded, and let go in time though nobody prunes any more.
func TestDeparturesAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var d departures
		for i := range maxDepartures + 10 {
			d.note("ns/app", manifest.ID{Kind: "ConfigMap", Name: strconv.Itoa(i)}, departure{})
		}
		d.note("ns/app", manifest.ID{Kind: "ConfigMap", Name: "0"}, departure{uid: "known"})
		d.mu.Lock()
		if d.n != maxDepartures || len(d.of["ns/app"]) != maxDepartures || d.of["ns/app"][manifest.ID{Kind: "ConfigMap", Name: "0"}].uid != "known" {
			t.Errorf("%d are counted, %d kept", d.n, len(d.of["ns/app"]))
		}
		d.mu.Unlock()
		time.Sleep(departureKept + time.Second)
		synctest.Wait()
		d.mu.Lock()
		defer d.mu.Unlock()
		if d.n != 0 || len(d.of) != 0 || d.timed {
			t.Errorf("%d are left, timed %v", d.n, d.timed)
		}
	})
}
