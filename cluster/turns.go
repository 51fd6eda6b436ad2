package cluster

import (
	"context"
	"sync"
)

// turns lets one at a time at what has a key: a commit and the controller of the kind come to the same new Secret at the
// same moment, and who comes second has less to ask.
type turns struct {
	mu    sync.Mutex
	taken map[string]chan struct{} // closed when the turn is over
}

// take waits for the turn; the caller ends it with done.
func (t *turns) take(ctx context.Context, key string) (done func(), err error) {
	for {
		before, mine := t.enter(key)
		if mine != nil {
			return func() { t.leave(key, mine) }, nil
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-before:
		}
	}
}

// enter takes the turn as mine, or returns that of somebody else.
func (t *turns) enter(key string) (before, mine chan struct{}) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if before := t.taken[key]; before != nil {
		return before, nil
	}
	if t.taken == nil {
		t.taken = map[string]chan struct{}{}
	}
	mine = make(chan struct{})
	t.taken[key] = mine
	return nil, mine
}

func (t *turns) leave(key string, mine chan struct{}) {
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.taken, key)
	close(mine)
}
