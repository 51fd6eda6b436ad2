package cluster

import (
	"context"
	"sync"
	"time"

	"sealock.dev/sealock/manifest"
)

// What happened to a live object.
const (
	Drifted   EventKind = "Drifted"   // its fields are no longer what was applied
	Gone      EventKind = "Gone"      // it was deleted, or its owner labels were removed
	Health    EventKind = "Health"    // it became healthy, or ceased to be
	Contested EventKind = "Contested" // it drifts again and again, and is left to the interval
	Returned  EventKind = "Returned"  // it was pruned, and a write of ours that came late made it anew
)

// EventKind says what happened.
type EventKind string

// Mend reports whether a run has to put something right.
func (k EventKind) Mend() bool { return k == Drifted || k == Gone || k == Returned }

// Event tells an owner that one of its objects changed.
type Event struct {
	OwnerNamespace string
	OwnerName      string
	ID             manifest.ID
	Kind           EventKind
	By             string // the field manager that changed it, "" when it is not known
}

// A field that somebody keeps taking back is reported so often in this time, then left to the interval.
const (
	repairs       = 3
	repairsWindow = 10 * time.Minute
	repairsKept   = 10_000 // objects whose repairs are counted at once
)

// queue holds each event once until it is taken, so that a watch never waits for a reader.
type queue struct {
	out  chan Event
	wake chan struct{}

	mu      sync.Mutex
	waiting map[Event]struct{}
	order   []Event
	drifts  map[manifest.ID]drift
}

type drift struct {
	since time.Time
	count int
	owner string // "namespace/name"
	by    string
}

func newQueue(ctx context.Context) *queue {
	q := &queue{out: make(chan Event), wake: make(chan struct{}, 1), waiting: map[Event]struct{}{}, drifts: map[manifest.ID]drift{}}
	go q.pump(ctx)
	return q
}

// put reports whether the event will be told.
func (q *queue) put(e Event) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	if _, twice := q.waiting[e]; twice {
		return false
	}
	if e.Kind == Drifted || e.Kind == Gone {
		switch n := q.count(e); {
		case n == repairs+1:
			e.Kind = Contested
		case n > repairs:
			return false
		}
	}
	if _, twice := q.waiting[e]; twice { // that it is contested, from an earlier window
		return false
	}
	q.waiting[e] = struct{}{}
	q.order = append(q.order, e)
	select {
	case q.wake <- struct{}{}:
	default:
	}
	return true
}

// count returns how often the object drifted in the window. The caller holds the lock.
func (q *queue) count(e Event) int {
	id, now := e.ID, time.Now()
	d := q.drifts[id]
	if now.Sub(d.since) > repairsWindow {
		d = drift{since: now}
	}
	d.count++
	d.owner, d.by = e.OwnerNamespace+"/"+e.OwnerName, e.By
	if len(q.drifts) >= repairsKept {
		for old, each := range q.drifts {
			if now.Sub(each.since) > repairsWindow {
				delete(q.drifts, old)
			}
		}
		if _, counted := q.drifts[id]; !counted && len(q.drifts) >= repairsKept {
			return d.count
		}
	}
	q.drifts[id] = d
	return d.count
}

// contested returns the objects of an owner that drifted too often, each with the manager that changes it.
func (q *queue) contested(owner string) map[manifest.ID]string {
	q.mu.Lock()
	defer q.mu.Unlock()
	var out map[manifest.ID]string
	for id, d := range q.drifts {
		if d.owner != owner || d.count <= repairs || time.Since(d.since) > repairsWindow {
			continue
		}
		if out == nil {
			out = map[manifest.ID]string{}
		}
		out[id] = d.by
	}
	return out
}

func (q *queue) take() (Event, bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if len(q.order) == 0 {
		return Event{}, false
	}
	e := q.order[0]
	q.order = q.order[1:]
	delete(q.waiting, e)
	return e, true
}

func (q *queue) pump(ctx context.Context) {
	for {
		e, ok := q.take()
		if !ok {
			select {
			case <-ctx.Done():
				return
			case <-q.wake:
			}
			continue
		}
		select {
		case <-ctx.Done():
			return
		case q.out <- e:
		}
	}
}
