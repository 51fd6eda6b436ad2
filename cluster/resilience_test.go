package cluster

import (
	"fmt"
	"net/http"
	"sync/atomic"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/rest"

	"sealock.dev/sealock/fault"
	"sealock.dev/sealock/internal/testkit"
	"sealock.dev/sealock/manifest"
	"sealock.dev/sealock/plaintext"
)

// told returns the next event.
func told(t *testing.T, w *watched) Event {
	t.Helper()
	select {
	case e := <-w.view.Events():
		return e
	case <-time.After(30 * time.Second):
		t.Fatal("no event")
		return Event{}
	}
}

// An object that is deleted right after we wrote it, and before the answer to our write arrives, is not believed to be there.
func TestDeletedBeforeTheAnswer(t *testing.T) {
	key := nsName{"default", "a"}
	for name, deletion := range map[string]func(w *watched){
		"told by the watch": func(w *watched) {
			_ = w.Update(live("a", "10", "ours"))
			_ = w.Delete(live("a", "11", "ours"))
		},
		"told by the watch, and made anew": func(w *watched) {
			_ = w.Delete(live("a", "11", "ours"))
			_ = w.Add(live("a", "12", "theirs"))
		},
		"missing in a list":                    func(w *watched) { _ = w.Replace(nil, "11") },
		"missing in a list, never seen before": func(w *watched) { _ = w.Replace(nil, "9"); _ = w.Replace(nil, "11") },
	} {
		t.Run(name, func(t *testing.T) {
			w := based(t, "a")
			_ = w.Replace([]any{live("a", "5", "x")}, "5")
			release := w.hold(key)
			deletion(w)
			after := w.view.reduce.reduce(live("a", "10", "ours").Object)
			release(&after)
			if e, there := w.lookup(key); there && e.version <= 10 {
				t.Error("what is gone is believed to be there")
			}
			if e := told(t, w); e.ID.Name != "a" || e.Kind == Health {
				t.Errorf("event is %v", e)
			}
		})
	}
}

// The answer that is newer than a deletion seen meanwhile made the object anew.
func TestMadeAnewByOurWrite(t *testing.T) {
	w := loose(t)
	key := nsName{"default", "a"}
	_ = w.Replace([]any{live("a", "5", "old")}, "5")
	release := w.hold(key)
	_ = w.Delete(live("a", "8", "old"))
	after := w.view.reduce.reduce(live("a", "10", "ours").Object)
	release(&after)
	if e, there := w.lookup(key); !there || e.version != 10 {
		t.Error("our own write is not known")
	}
	release = w.hold(key) // and nothing of it is left for the next write
	after = w.view.reduce.reduce(live("a", "11", "ours").Object)
	release(&after)
	if _, there := w.lookup(key); !there {
		t.Error("our second write is not known")
	}
}

// An object whose deletion was refused is still watched: somebody who deletes it is noticed.
func TestRefusedPruneStaysWatched(t *testing.T) {
	w := newWorld(t)
	rule := rbacv1.PolicyRule{APIGroups: []string{""}, Resources: []string{"configmaps"}, Verbs: []string{"get", "create", "patch", "update"}}
	w.grant = w.tenant("cannot-delete-"+w.ns, nil, rule)
	set := w.objects(configMaps(2))
	p, _ := w.run(set)
	w.until("both to be known", func() bool {
		_, a := w.look("ConfigMap", "cm-00")
		_, b := w.look("ConfigMap", "cm-01")
		return a && b
	})
	shrunk := w.plan(set[:1], p.Union...)
	_, survivors, err := w.client.Prune(w.Context(), w.grant, shrunk)
	if err == nil || len(survivors) != 1 {
		t.Fatalf("survivors %v, error %v", survivors, err)
	}
	w.plan(set, p.Union...) // the commit is reverted: nothing has to be written
	if err := w.kube.CoreV1().ConfigMaps(w.ns).Delete(w.Context(), "cm-01", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	w.event(Gone, "cm-01")
}

// The watch of a kind ends some time after the last owner that needs it went, although nobody calls any more, and begins
// again with the next one.
func TestWatchEndsWithItsKind(t *testing.T) {
	w := newWorld(t)
	v := w.client.View()
	v.idle = time.Nanosecond
	kind := manifest.ID{Version: "v1", Kind: "LimitRange"}.GVK()
	set := w.objects("apiVersion: v1\nkind: LimitRange\nmetadata: {name: l}\nspec: {limits: [{type: Pod, max: {cpu: \"1\"}}]}\n")
	other := ownerNamed(w.ns, "other")
	if _, err := w.client.Plan(w.Context(), w.grant, other, w.resolve(set), nil); err != nil {
		t.Fatal(err)
	}
	w.run(set)
	watching := func() bool {
		_, live := v.peek(kind)
		return live
	}
	w.client.Release(w.owner)
	if !watching() {
		t.Error("the watch ended although another owner needs it")
	}
	w.client.Release(other)
	w.until("the watch to end", func() bool { return !watching() })
	w.run(set)
	if !watching() {
		t.Error("the watch did not begin again")
	}
	if err := w.kube.CoreV1().LimitRanges(w.ns).Delete(w.Context(), "l", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	w.event(Gone, "l")
}

// Three repairs in ten minutes, then one word that it is contested, then silence; after the ten minutes it begins anew.
// What somebody does to one object says nothing of another.
func TestFightIsGivenUp(t *testing.T) {
	w := based(t, "a", "b")
	version := 1
	fight := func(name string) {
		version++
		_ = w.Update(live(name, fmt.Sprint(version), fmt.Sprint("theirs-", version)))
	}
	next := func() Event { return told(t, w) }
	for i := range 50 {
		fight("a")
		if i < repairs {
			if e := next(); e.Kind != Drifted {
				t.Fatalf("event %d is %v", i, e)
			}
		}
	}
	if e := next(); e.Kind != Contested || e.ID.Name != "a" {
		t.Errorf("event is %v", e)
	}
	fight("b") // whatever else of a is told would come first
	if e := next(); e.Kind != Drifted || e.ID.Name != "b" {
		t.Errorf("event is %v", e)
	}
	if c := w.view.Contested("default", "app"); len(c) != 1 {
		t.Errorf("contested: %v", c)
	}
	q := w.view.events
	q.mu.Lock()
	for id, d := range q.drifts {
		d.since = d.since.Add(-repairsWindow - time.Second)
		q.drifts[id] = d
	}
	q.mu.Unlock()
	if c := w.view.Contested("default", "app"); len(c) != 0 {
		t.Errorf("contested after the window: %v", c)
	}
	fight("a")
	if e := next(); e.Kind != Drifted || e.ID.Name != "a" {
		t.Errorf("event is %v", e)
	}
}

// The window of a fight is measured by the clock that only goes forward: setting the clock of the machine back or forth
// neither ends nor prolongs it.
func TestFightIsTimedWithoutTheWallClock(t *testing.T) {
	w := based(t, "a")
	_ = w.Update(live("a", "2", "theirs"))
	told(t, w)
	q := w.view.events
	q.mu.Lock()
	defer q.mu.Unlock()
	for _, d := range q.drifts {
		if d.since == d.since.Round(0) { // Round drops the monotonic reading
			t.Error("the beginning of the window is a time of the wall clock only")
		}
	}
}

// counted counts what is written of baselines.
type counted struct {
	*Memory
	puts int
}

func (c *counted) Put(owner string, id manifest.ID, b Baseline) {
	c.puts++
	c.Memory.Put(owner, id, b)
}

// A fight that was given up is not written down again and again: a record is a request.
func TestFightThatWasGivenUpWritesNoRecord(t *testing.T) {
	w := based(t, "a")
	kept := &counted{Memory: w.view.baselines.(*Memory)} //nolint:forcetypeassert // loose makes one
	w.view.baselines = kept
	for i := range 50 {
		_ = w.Update(live("a", fmt.Sprint(i+2), fmt.Sprint("theirs-", i)))
		if i <= repairs {
			told(t, w)
		}
	}
	if kept.puts != repairs+1 {
		t.Errorf("%d notes of 50 drifts, want those of %d repairs and of the end", kept.puts, repairs)
	}
}

// Who writes the status of an object is woken by our write, and comes between it and the take-over of kubectl's fields.
func TestTakeOverIsTriedAgain(t *testing.T) {
	for conflicts, want := range map[int]fault.Kind{attempts - 1: 0, attempts: fault.Conflict} {
		t.Run(fmt.Sprint(conflicts, " conflicts"), func(t *testing.T) {
			w := newWorld(t)
			maps := w.kube.CoreV1().ConfigMaps(w.ns)
			if _, err := maps.Create(t.Context(), &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "cm"}, Data: map[string]string{"k": "v", "old": "x"}}, metav1.CreateOptions{FieldManager: "kubectl-create"}); err != nil {
				t.Fatal(err)
			}
			var patches atomic.Int32
			config := rest.CopyConfig(testkit.Cluster(t).Config)
			config.Wrap(func(next http.RoundTripper) http.RoundTripper {
				return roundTrip(func(req *http.Request) (*http.Response, error) {
					if n := patches.Load(); req.Header.Get("Content-Type") == string(types.JSONPatchType) && patches.Add(1) <= int32(conflicts) {
						body := fmt.Sprintf(`{"metadata":{"annotations":{"status":"%d"}}}`, n)
						if _, err := maps.Patch(req.Context(), "cm", types.MergePatchType, []byte(body), metav1.PatchOptions{FieldManager: "operator"}); err != nil {
							return nil, err
						}
					}
					return next.RoundTrip(req)
				})
			})
			w.client = w.open(config, plaintext.NewKey([]byte("key of the test")))
			p := w.plan(w.objects("apiVersion: v1\nkind: ConfigMap\nmetadata: {name: cm}\ndata: {k: v}\n"))
			_, err := w.client.Apply(t.Context(), w.grant, p, noop)
			if want != 0 {
				kindOf(t, err, want)
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			cm, err := maps.Get(t.Context(), "cm", metav1.GetOptions{})
			if err != nil || len(cm.Data) != 1 || cm.Annotations["status"] == "" || int(patches.Load()) != attempts {
				t.Errorf("%v after %d patches: %v", cm, patches.Load(), err)
			}
		})
	}
}
