package cluster

import (
	"context"
	"maps"
	"sync"
	"time"

	"sealock.dev/sealock/manifest"
)

// Baseline is what one apply left: what was wanted, and what the API server showed as ours in its answer. Both are
// keyed digests.
type Baseline struct {
	Desired [16]byte
	Owned   [16]byte
	UID     string
	Once    bool // ssa: IfNotPresent: it has to be there, whatever it looks like
	Origin  Origin
}

// Origin is where an object came from and what became of it, for people who ask why it is there.
type Origin struct {
	File     string // in the repository
	Line     int
	Revision string    // of the commit that last changed it
	Applied  time.Time // when
	Drift    Drift     // the last one
}

// Drift is a change that somebody else made to a live object.
type Drift struct {
	At time.Time // zero: there was none
	By string    // the field manager, "" when the object was deleted or it is not known
}

// Baselines remembers baselines by owner ("namespace/name") and object. Implementations are safe for concurrent use
// and, but for Load, must not block on a network: one that persists writes behind.
type Baselines interface {
	// Load returns when everything that was persisted is known. It is called before each use and cheap after the first.
	Load(ctx context.Context) error
	Get(owner string, id manifest.ID) (Baseline, bool)
	Put(owner string, id manifest.ID, b Baseline)
	// Forget drops one object, ForgetIf those of an owner that gone names, Drop the whole owner.
	Forget(owner string, id manifest.ID)
	ForgetIf(owner string, gone func(manifest.ID) bool)
	Drop(owner string)
}

// Memory keeps baselines until the process ends. After a restart an object that has none is compared by one dry-run.
type Memory struct {
	mu     sync.RWMutex
	owners map[string]map[manifest.ID]Baseline
}

// NewMemory returns an empty Memory.
func NewMemory() *Memory { return &Memory{owners: map[string]map[manifest.ID]Baseline{}} }

// Load has nothing to wait for.
func (m *Memory) Load(context.Context) error { return nil }

// Get returns the baseline of an object.
func (m *Memory) Get(owner string, id manifest.ID) (Baseline, bool) {
	m.mu.RLock()
	defer m.mu.RUnlock()
	b, ok := m.owners[owner][id]
	return b, ok
}

// Put remembers it.
func (m *Memory) Put(owner string, id manifest.ID, b Baseline) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.owners[owner] == nil {
		m.owners[owner] = map[manifest.ID]Baseline{}
	}
	m.owners[owner][id] = b
}

// Forget drops one object.
func (m *Memory) Forget(owner string, id manifest.ID) {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.owners[owner], id)
	if len(m.owners[owner]) == 0 {
		delete(m.owners, owner)
	}
}

// ForgetIf drops the objects of an owner that gone names.
func (m *Memory) ForgetIf(owner string, gone func(manifest.ID) bool) { m.forgetIf(owner, gone) }

// forgetIf reports whether anything was dropped.
func (m *Memory) forgetIf(owner string, gone func(manifest.ID) bool) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	had := len(m.owners[owner])
	maps.DeleteFunc(m.owners[owner], func(id manifest.ID, _ Baseline) bool { return gone(id) })
	left := len(m.owners[owner])
	if left == 0 {
		delete(m.owners, owner)
	}
	return left != had
}

// Drop forgets an owner.
func (m *Memory) Drop(owner string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.owners, owner)
}

// baselineOf is the baseline of an object that was just applied, or found to be in place. old is what was known before.
func baselineOf(o manifest.Object, owner manifest.Owner, desired digest, live entry, old *Baseline) Baseline {
	ref := o.Ref()
	b := Baseline{Desired: desired, Owned: live.owned, UID: live.uid, Once: marksOf(o.Labels(), o.Annotations()).has(markAbsentOnly), Origin: Origin{File: ref.File, Line: ref.Line}}
	if old != nil {
		b.Origin.Drift = old.Origin.Drift
	}
	if old != nil && old.Desired == desired && old.UID == live.uid { // a repair: the commit that it comes from is the same
		b.Origin.Revision, b.Origin.Applied = old.Origin.Revision, old.Origin.Applied
		return b
	}
	b.Origin.Revision, b.Origin.Applied = owner.Revision, time.Now().UTC().Truncate(time.Second)
	return b
}
