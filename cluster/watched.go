package cluster

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/client-go/tools/cache"

	"sealock.dev/sealock/manifest"
)

// watchState says how much the view of one kind is worth.
type watchState int

const (
	watchStarting  watchState = iota // the first list is under way
	watchLive                        // what is known is what is there
	watchForbidden                   // the controller may not list or watch the kind
	watchMissing                     // the API server does not serve the kind
	watchFailed                      // the first list failed; it is tried again
)

// nsName is the key of an object inside its kind.
type nsName struct{ namespace, name string }

// watched is the view of one kind. It is the store that its reflector fills.
type watched struct {
	view      *View
	info      kindInfo
	stop      context.CancelFunc
	idleSince time.Time // guarded by view.mu

	mu      sync.Mutex
	state   watchState
	err     error
	synced  bool // there was a list
	changed chan struct{}
	objects map[nsName]entry
	held    map[nsName]int    // being written by us: what happens to them is no event
	lost    map[nsName]uint64 // of the held: the version at which it was deleted
	listed  uint64            // version of the last list
}

// arrival is an object reduced while a list is still streaming.
type arrival struct {
	metav1.ObjectMeta
	entry entry
}

var _ cache.TransformingStore = (*watched)(nil)

func newWatched(v *View, info kindInfo) *watched {
	return &watched{view: v, info: info, changed: make(chan struct{}), objects: map[nsName]entry{}, held: map[nsName]int{}, lost: map[nsName]uint64{}}
}

func (w *watched) len() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return len(w.objects)
}

func (w *watched) now() (watchState, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.state, w.err
}

// announce wakes whoever waits. The caller holds the lock.
func (w *watched) announce() {
	close(w.changed)
	w.changed = make(chan struct{})
}

// settled waits until the first list is there or has failed.
func (w *watched) settled(ctx context.Context) (watchState, error) {
	for {
		w.mu.Lock()
		state, err, changed := w.state, w.err, w.changed
		w.mu.Unlock()
		if state != watchStarting {
			return state, err
		}
		select {
		case <-ctx.Done():
			return watchFailed, ctx.Err()
		case <-changed:
		}
	}
}

// wait returns when the object fulfils the condition, or with the context's error.
func (w *watched) wait(ctx context.Context, key nsName, fulfilled func(entry) bool) error {
	for {
		w.mu.Lock()
		e, there := w.objects[key]
		changed := w.changed
		w.mu.Unlock()
		if there && fulfilled(e) {
			return nil
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-changed:
		}
	}
}

// left returns when no object with the uid has the name any more.
func (w *watched) left(ctx context.Context, key nsName, uid string) error {
	for {
		w.mu.Lock()
		e, there := w.objects[key]
		changed := w.changed
		w.mu.Unlock()
		if !there || e.uid != uid {
			return nil
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-changed:
		}
	}
}

// reread replaces what is known of an object by what was just read of it.
func (w *watched) reread(key nsName, e entry) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if seen, ok := w.objects[key]; ok && seen.version <= e.version {
		w.objects[key] = e
	}
}

// failed notes why listing or watching failed. Once there was a list, an API server that does not answer changes
// nothing: the view is as old as the connection.
func (w *watched) failed(err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	switch {
	case apierrors.IsForbidden(err):
		w.state = watchForbidden
	case apierrors.IsNotFound(err):
		w.state = watchMissing
	case !w.synced:
		w.state = watchFailed
	default:
		return
	}
	w.err = err
	w.announce()
}

// onlyUnsupported reports an error after which the reflector falls back from streaming to a plain list.
func onlyUnsupported(err error) bool {
	return apierrors.IsInvalid(err) || apierrors.IsBadRequest(err) || apierrors.IsMethodNotSupported(err) || apierrors.IsNotAcceptable(err)
}

// lookup returns what is known of an object.
func (w *watched) lookup(key nsName) (entry, bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	e, ok := w.objects[key]
	return e, ok
}

// hold says that we are about to write the object; the returned function ends that. after is what the write left, nil
// when it failed.
func (w *watched) hold(key nsName) func(after *entry) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.held[key]++
	return func(after *entry) {
		w.mu.Lock()
		defer w.mu.Unlock()
		deleted := w.lost[key]
		if w.held[key]--; w.held[key] <= 0 {
			delete(w.held, key)
			delete(w.lost, key)
		}
		if after == nil {
			return
		}
		seen, ok := w.objects[key]
		switch {
		case ok && seen.version > after.version:
			if seen.owned != after.owned { // somebody else was faster than our answer
				w.drifted(after.owner, key, seen)
			}
			return
		case !ok && max(deleted, w.listed) > after.version: // what we wrote is gone before we heard that it was written
			w.gone(after.owner, key)
			return
		}
		w.objects[key] = *after
		w.announce()
	}
}

// leave says that we are about to delete the object: that it goes is no event. The returned function takes that back.
func (w *watched) leave(key nsName) (stays func()) {
	w.mu.Lock()
	defer w.mu.Unlock()
	e, ok := w.objects[key]
	if !ok {
		return func() {}
	}
	owner := e.owner
	e.owner = ""
	w.objects[key] = e
	return func() {
		w.mu.Lock()
		defer w.mu.Unlock()
		if now, ok := w.objects[key]; ok && now.uid == e.uid && now.owner == "" {
			now.owner = owner
			w.objects[key] = now
		}
	}
}

// Transformer reduces objects while the first list is streaming, so that it is never in memory as a whole.
func (w *watched) Transformer() cache.TransformFunc {
	return func(obj any) (any, error) {
		u, ok := obj.(*unstructured.Unstructured)
		if !ok {
			return obj, nil
		}
		return &arrival{ObjectMeta: metav1.ObjectMeta{Namespace: u.GetNamespace(), Name: u.GetName()}, entry: w.view.reduce.reduce(u.Object)}, nil
	}
}

func (w *watched) arrive(obj any) (nsName, entry, error) {
	switch o := obj.(type) {
	case *arrival:
		return nsName{strings.Clone(o.Namespace), strings.Clone(o.Name)}, o.entry, nil
	case *unstructured.Unstructured:
		return nsName{strings.Clone(o.GetNamespace()), strings.Clone(o.GetName())}, w.view.reduce.reduce(o.Object), nil
	}
	return nsName{}, entry{}, fmt.Errorf("unexpected %T in a watch", obj)
}

// Add takes an object from the watch.
func (w *watched) Add(obj any) error {
	key, e, err := w.arrive(obj)
	if err != nil {
		return err
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.put(key, e)
	w.announce()
	return nil
}

// Update takes a changed object from the watch.
func (w *watched) Update(obj any) error { return w.Add(obj) }

// Delete takes the deletion of an object, or the loss of its owner label, from the watch.
func (w *watched) Delete(obj any) error {
	key, e, err := w.arrive(obj)
	if err != nil {
		return err
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.remove(key, e.version)
	w.announce()
	return nil
}

// Replace takes a whole list.
func (w *watched) Replace(list []any, version string) error {
	at, _ := strconv.ParseUint(version, 10, 64)
	fresh := make(map[nsName]entry, len(list))
	for _, obj := range list {
		key, e, err := w.arrive(obj)
		if err != nil {
			return err
		}
		fresh[key] = e
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	for key := range w.objects {
		if _, there := fresh[key]; !there {
			w.remove(key, at)
		}
	}
	for key, e := range fresh {
		w.put(key, e)
	}
	w.state, w.err, w.synced, w.listed = watchLive, nil, true, at
	w.announce()
	return nil
}

// Resync does nothing: nothing is derived from the store.
func (w *watched) Resync() error { return nil }

// put stores an entry unless a newer one is known, and tells the owner what it means. The caller holds the lock.
func (w *watched) put(key nsName, e entry) {
	old, known := w.objects[key]
	if known && old.uid == e.uid && old.version > e.version {
		return // the answer to our own write was faster than the watch
	}
	w.objects[key] = e
	if w.held[key] > 0 {
		return
	}
	if known && old.owner != e.owner {
		w.drifted(old.owner, key, e)
	}
	if !known || old.uid != e.uid {
		w.comeBack(key, e)
	}
	touched := !known || old.owned != e.owned || old.uid != e.uid || old.marks != e.marks || old.owner != e.owner
	if base, ok := w.view.baselines.Get(e.owner, w.id(key)); ok && touched && (base.Owned != e.owned || base.UID != e.uid || e.marks.has(markOverridden)) {
		w.drifted(e.owner, key, e)
	}
	if known && old.health != e.health {
		w.emit(e.owner, key, Health, "")
	}
}

// remove forgets an object that was deleted at the version. The caller holds the lock.
func (w *watched) remove(key nsName, version uint64) {
	old, known := w.objects[key]
	if !known || old.version > version {
		return // it was made anew since
	}
	delete(w.objects, key)
	if w.held[key] > 0 {
		w.lost[key] = max(version, old.version)
		return
	}
	if w.finished(old) {
		w.view.jobs.done(old.owner, w.id(key))
		return
	}
	w.gone(old.owner, key)
}

// drifted tells the owner of a change, unless it leaves the object to others: it has let it go, or somebody marked it, or it
// is to be there only. The caller holds the lock.
func (w *watched) drifted(owner string, key nsName, now entry) {
	if base, applied := w.view.baselines.Get(owner, w.id(key)); applied && !base.Once && !now.marks.has(markDisabled) {
		w.emit(owner, key, Drifted, now.by)
	}
}

// gone tells the owner that an object is missing, unless it has let it go. The caller holds the lock.
func (w *watched) gone(owner string, key nsName) {
	if _, applied := w.view.baselines.Get(owner, w.id(key)); applied {
		w.emit(owner, key, Gone, "")
	}
}

// finished reports an object that is expected to go: a completed Job, by its time to live. It is made anew at the interval,
// as Flux does, and not at once.
func (w *watched) finished(e entry) bool {
	return isJob(w.info.gvk.GroupKind()) && e.health == healthCurrent
}

func (w *watched) id(key nsName) manifest.ID {
	return manifest.ID{Namespace: key.namespace, Name: key.name, Group: w.info.gvk.Group, Kind: w.info.gvk.Kind, Version: w.info.gvk.Version}
}

// emit tells the owner, and notes a drift with what is remembered of the object. What is not told is not noted: a fight that
// was given up must not go on as writes of records. The caller holds the lock.
func (w *watched) emit(owner string, key nsName, kind EventKind, by string) {
	ns, name, ok := strings.Cut(owner, "/")
	if !ok {
		return
	}
	id := w.id(key)
	told := w.view.events.put(Event{OwnerNamespace: ns, OwnerName: name, ID: id, Kind: kind, By: by})
	if base, known := w.view.baselines.Get(owner, id); told && known && kind != Health {
		base.Origin.Drift = Drift{At: time.Now().UTC().Truncate(time.Second), By: by}
		w.view.baselines.Put(owner, id, base)
	}
}
