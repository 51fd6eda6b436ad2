package cluster

import (
	"context"
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/wait"

	"sealock.dev/sealock/manifest"
	"sealock.dev/sealock/tenants"
)

// departures remembers what was pruned, so that a create which was under way then, and lands afterwards, does not leave an
// orphan: a leader that was deposed may have sent one, and nothing in the API server can refuse it (ADR 10). What returns
// with the labels of its owner, and applied by our field manager, is pruned again.
type departures struct {
	mu sync.Mutex
	of map[string]map[manifest.ID]departure // by owner
	n  int
}

// departure is one object that was pruned.
type departure struct {
	at       time.Time
	uid      string // that it had, "" when it was not there
	released bool   // the owner is gone: nobody runs for it any more
	plan     manifest.Plan
	grant    tenants.Grant // that pruned it
}

// What is remembered: as long as a request may be late, and no more objects than a few megabytes.
const (
	departureKept = 5 * time.Minute
	maxDepartures = 20_000
)

// note remembers an object that is about to be pruned.
func (d *departures) note(owner string, id manifest.ID, dep departure) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if _, known := d.of[owner][id]; !known {
		if d.n >= maxDepartures {
			d.expire()
		}
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
	dep.at, dep.released = time.Now(), d.of[owner][id].released
	d.of[owner][id] = dep
}

// forget drops an object that is wanted again, or that was left alone.
func (d *departures) forget(owner string, id manifest.ID) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.drop(owner, id)
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

func (d *departures) expire() {
	for owner, ids := range d.of {
		for id, dep := range ids {
			if time.Since(dep.at) > departureKept {
				d.drop(owner, id)
			}
		}
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
	dep, known := d.of[e.owner][id]
	return dep, known && dep.uid != e.uid && time.Since(dep.at) <= departureKept && e.owned != (digest{}) && !e.marks.has(markTerminating)
}

// ids returns what was pruned for an owner.
func (d *departures) ids(owner string) []manifest.ID {
	d.mu.Lock()
	defer d.mu.Unlock()
	out := make([]manifest.ID, 0, len(d.of[owner]))
	for id := range d.of[owner] {
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
	id := w.id(key)
	dep, again := w.view.departed.returned(id, e)
	switch {
	case !again:
	case dep.released:
		go w.view.reap(id, dep)
	default:
		w.emit(e.owner, key, Returned, e.by)
	}
}

// reap deletes for an owner that is gone, and tries again for a while.
func (v *View) reap(id manifest.ID, dep departure) {
	plan := dep.plan
	plan.Prune = []manifest.ID{id}
	again := wait.Backoff{Duration: time.Second, Factor: 2, Steps: 8}
	_ = wait.ExponentialBackoffWithContext(v.ctx, again, func(ctx context.Context) (bool, error) {
		_, left, err := v.prune(ctx, dep.grant, plan)
		return err == nil && len(left) == 0, nil
	})
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
