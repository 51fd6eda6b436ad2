package source

import (
	"context"
	"io"
	"sync/atomic"

	"golang.org/x/sync/semaphore"

	"sealock.dev/sealock/fault"
)

const (
	// freely is how much one may hold without asking: who has ordinary repositories does not wait for who has not.
	freely = 4 << 20
	// timesObject, timesListing and perObject say what is held while the library works: an object, what it is made of, and a
	// copy; references as text, in maps and as they grow; what it notes of each object of a pack.
	timesObject  = 3
	timesListing = 3
	perObject    = 400
)

// memory bounds what all fetches hold at once because strangers sent it.
type memory struct {
	limit     int64
	left      *semaphore.Weighted
	held, top atomic.Int64 // now, and at most
}

func newMemory(limit int64) *memory {
	return &memory{limit: limit, left: semaphore.NewWeighted(limit)}
}

// hold waits until n bytes may be held. More than there is means all of it. Who holds some must not ask for more.
func (m *memory) hold(ctx context.Context, n int64) (release func(), err error) {
	if n <= freely && n < m.limit/4 {
		return func() {}, nil
	}
	n = min(n, m.limit)
	if m.left.Acquire(ctx, n) != nil {
		return nil, fail(fault.Transient, ReasonOperation, "other repositories with large files or many references are in the way, and the time is over").
			Fix("it is tried again; raise spec.timeout if it stays")
	}
	now := m.held.Add(n)
	for top := m.top.Load(); now > top && !m.top.CompareAndSwap(top, now); top = m.top.Load() {
	}
	return func() {
		m.held.Add(-n)
		m.left.Release(n)
	}, nil
}

// listing lets a reference listing through, and waits for room once it turns out to be a large one.
type listing struct {
	ctx     context.Context //nolint:containedctx // it lives for one call
	from    io.Reader
	memory  *memory
	read    int64
	release func()
}

func (l *listing) Read(p []byte) (int, error) {
	if l.release == nil && timesListing*(l.read+int64(len(p))) > freely {
		release, err := l.memory.hold(l.ctx, timesListing*maxListing)
		if err != nil {
			return 0, err
		}
		l.release = release
	}
	n, err := l.from.Read(p)
	l.read += int64(n)
	return n, err
}

// done is called when the references are not held any more.
func (l *listing) done() {
	if l.release != nil {
		l.release()
		l.release = nil
	}
}
