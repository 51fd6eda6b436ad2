package cluster

import (
	"sync"

	"sealock.dev/sealock/manifest"
)

// Baseline is what one apply left: what was wanted, and what the API server showed as ours in its answer. Both are
// keyed digests.
type Baseline struct {
	Desired [16]byte
	Owned   [16]byte
	UID     string
}

// Baselines remembers baselines by owner ("namespace/name") and object. Implementations are safe for concurrent use
// and must not block on a network: one that persists writes behind.
type Baselines interface {
	Get(owner string, id manifest.ID) (Baseline, bool)
	Put(owner string, id manifest.ID, b Baseline)
	// Forget drops one object, Drop a whole owner.
	Forget(owner string, id manifest.ID)
	Drop(owner string)
}

// Memory keeps baselines until the process ends. After a restart an object that has none is compared by one dry-run.
type Memory struct {
	mu     sync.RWMutex
	owners map[string]map[manifest.ID]Baseline
}

// NewMemory returns an empty Memory.
func NewMemory() *Memory { return &Memory{owners: map[string]map[manifest.ID]Baseline{}} }

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

// Drop forgets an owner.
func (m *Memory) Drop(owner string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.owners, owner)
}
