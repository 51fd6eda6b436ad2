package cluster

import (
	"context"
	"sync"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/util/workqueue"

	"sealock.dev/sealock/manifest"
	"sealock.dev/sealock/tenants"
)

// departures remembers what was pruned, so that a create which was under way then, and lands afterwards, does not leave an
// orphan: a leader that was deposed may have sent one, and nothing in the API server can refuse it (ADR 10). What returns
// with the labels of its owner, and applied by our field manager, is pruned again.
type departures struct {
	mu    sync.Mutex
	of    map[string]map[manifest.ID]departure // by owner; the ids without a version, which may be another one when it returns
	n     int
	timed bool // an expiry is on its way
}

// departure is one object that was pruned.
type departure struct {
	at       time.Time
	kind     kindInfo
	uid      string        // that it had, "" when it was not there
	grant    tenants.Grant // that pruned it
	released bool          // the owner is gone: nobody runs for it any more
}

// What is remembered: as long as a request may be late, and no more objects than a few megabytes.
const (
	departureKept = 5 * time.Minute
	maxDepartures = 20_000
)

// bare is an id without its version: a kind that is served in several has each object once.
func bare(id manifest.ID) manifest.ID {
	id.Version = ""
	return id
}

// note remembers an object that is about to be pruned.
func (d *departures) note(owner string, id manifest.ID, dep departure) {
	d.mu.Lock()
	defer d.mu.Unlock()
	id = bare(id)
	was, known := d.of[owner][id]
	if !known {
		if d.n >= maxDepartures {
			return
		}
		d.n++
	}
	if d.of == nil {
		d.of = map[string]map[manifest.ID]departure{}
	}
	if d.of[owner] == nil {
		d.of[owner] = map[manifest.ID]departure{}
	}
	dep.at, dep.released = time.Now(), was.released
	d.of[owner][id] = dep
	d.expireLater()
}

// expireLater forgets what is too old in a while, though nobody prunes any more. The caller holds the lock.
func (d *departures) expireLater() {
	if d.timed || d.n == 0 {
		return
	}
	d.timed = true
	time.AfterFunc(departureKept, func() {
		d.mu.Lock()
		defer d.mu.Unlock()
		d.timed = false
		d.expire()
		d.expireLater()
	})
}

func (d *departures) expire() {
	for owner, ids := range d.of {
		for id, dep := range ids {
			if time.Since(dep.at) >= departureKept {
				d.drop(owner, id)
			}
		}
	}
}

// forget drops an object that is wanted again, or that was left alone.
func (d *departures) forget(owner string, id manifest.ID) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.drop(owner, bare(id))
}

func (d *departures) drop(owner string, id manifest.ID) {
	if _, known := d.of[owner][id]; !known {
		return
	}
	d.n--
	if delete(d.of[owner], id); len(d.of[owner]) == 0 {
		delete(d.of, owner)
	}
}

// release notes that the owner is gone.
func (d *departures) release(owner string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for id, dep := range d.of[owner] {
		dep.released = true
		d.of[owner][id] = dep
	}
}

// returned reports whether an entry is that of an object which was pruned and written again by us.
func (d *departures) returned(id manifest.ID, e entry) (departure, bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	dep, known := d.of[e.owner][bare(id)]
	return dep, known && dep.uid != e.uid && time.Since(dep.at) < departureKept && e.owned != (digest{}) && condemn(e, e.owner) == deleteIt
}

// ids returns what was pruned for an owner, in the versions that are watched.
func (d *departures) ids(owner string) []manifest.ID {
	d.mu.Lock()
	defer d.mu.Unlock()
	out := make([]manifest.ID, 0, len(d.of[owner]))
	for id, dep := range d.of[owner] {
		id.Version = dep.kind.gvk.Version
		out = append(out, id)
	}
	return out
}

// returned returns what was pruned for an owner and is there again.
func (v *View) returned(owner string) []manifest.ID {
	var out []manifest.ID
	for _, id := range v.departed.ids(owner) {
		w, live := v.peek(id.GVK())
		if !live {
			continue
		}
		if e, there := w.lookup(nsName{id.Namespace, id.Name}); there && e.owner == owner {
			if _, again := v.departed.returned(id, e); again {
				out = append(out, id)
			}
		}
	}
	return out
}

// comeBack tells the owner of an object that it had pruned, and that is there again. Where the owner is gone, the object is
// deleted by the grant that pruned it. The caller holds the lock of the kind.
func (w *watched) comeBack(key nsName, e entry) {
	dep, again := w.view.departed.returned(w.id(key), e)
	switch {
	case !again:
	case dep.released:
		w.view.reaper.add(late{w: w, key: key})
	default:
		w.emit(e.owner, key, Returned, e.by)
	}
}

// late is an object that returned after its owner had gone.
type late struct {
	w   *watched
	key nsName
}

// A deletion that fails is tried again after these times.
const (
	reapFirst = time.Second
	reapLast  = time.Minute
)

// reaper deletes for owners that are gone: each object once at a time, one after another, for as long as it is there and
// remembered.
type reaper struct {
	ctx   context.Context //nolint:containedctx // the life of the view
	erase func(context.Context, departure, place, string) error

	once  sync.Once
	queue workqueue.TypedRateLimitingInterface[late]
}

func (r *reaper) add(l late) {
	r.once.Do(func() {
		r.queue = workqueue.NewTypedRateLimitingQueue(workqueue.NewTypedItemExponentialFailureRateLimiter[late](reapFirst, reapLast))
		context.AfterFunc(r.ctx, r.queue.ShutDown)
		go r.run()
	})
	r.queue.Add(l)
}

func (r *reaper) run() {
	for {
		l, ended := r.queue.Get()
		if ended {
			return
		}
		if r.reap(l) {
			r.queue.Forget(l)
		} else {
			r.queue.AddRateLimited(l)
		}
		r.queue.Done(l)
	}
}

// reap reports whether there is nothing left to do. It looks again each time: the object may have gone, or be wanted again.
func (r *reaper) reap(l late) bool {
	e, there := l.w.lookup(l.key)
	if !there {
		return true
	}
	dep, again := l.w.view.departed.returned(l.w.id(l.key), e)
	if !again || !dep.released {
		return true
	}
	err := r.erase(r.ctx, dep, place{kind: l.w.info, namespace: l.key.namespace, name: l.key.name}, e.uid)
	return err == nil || apierrors.IsNotFound(err)
}

// erase deletes exactly the object with the uid, as the grant that pruned it before.
func (c *Client) erase(ctx context.Context, dep departure, at place, uid string) error {
	as, err := c.as(dep.grant)
	if err != nil {
		return err
	}
	return as.delete(ctx, at, uid)
}

// watchKinds starts the watches of what is about to be pruned, so that it is seen when it returns.
func (c *Client) watchKinds(ctx context.Context, ids []manifest.ID) {
	seen := map[schema.GroupVersionKind]bool{}
	for _, id := range ids {
		if gvk := id.GVK(); !seen[gvk] {
			seen[gvk] = true
			if info, err := c.kinds.lookup(ctx, gvk, true); err == nil {
				_, _, _ = c.view.watch(ctx, info) //nolint:dogsled // what cannot be watched is pruned all the same
			}
		}
	}
}
