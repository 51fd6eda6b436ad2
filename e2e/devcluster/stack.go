package main

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"
)

const (
	// startTimeout bounds each wait while starting; generous, for a machine that also builds something.
	startTimeout = 2 * time.Minute
	// stopTimeout bounds the wait for one part to stop.
	stopTimeout = 10 * time.Second
)

// stack is the running parts in the order in which they were started. It stops them in the opposite order, so that no
// part loses what it depends on first.
type stack struct {
	mu     sync.Mutex
	parts  []*part
	failed chan error // the first part that stopped unasked
}

type part struct {
	name   string
	cancel context.CancelFunc
	done   chan struct{}
}

func newStack() *stack { return &stack{failed: make(chan error, 1)} }

// run starts a part. Its context ends only in stop, never by the signal that leads there. A part that returns earlier
// has failed, with or without an error.
func (s *stack) run(name, logFile string, fn func(context.Context) error) {
	ctx, cancel := context.WithCancel(context.Background())
	p := &part{name: name, cancel: cancel, done: make(chan struct{})}
	s.mu.Lock()
	s.parts = append(s.parts, p)
	s.mu.Unlock()
	go func() {
		defer close(p.done)
		err := fn(ctx)
		if ctx.Err() != nil {
			return
		}
		if err == nil {
			err = errors.New("stopped by itself")
		}
		select {
		case s.failed <- fmt.Errorf("%s: %w (see %s)", name, err, logFile):
		default:
		}
	}()
}

// stop stops every part, the last started first, and names those that would not.
func (s *stack) stop() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	var errs []error
	for i := len(s.parts) - 1; i >= 0; i-- {
		p := s.parts[i]
		p.cancel()
		select {
		case <-p.done:
		case <-time.After(stopTimeout):
			errs = append(errs, fmt.Errorf("%s did not stop in %s and was abandoned", p.name, stopTimeout))
		}
	}
	s.parts = nil
	return errors.Join(errs...)
}

// poll calls check until it returns nil. It ends early when a part has failed: waiting for the rest is in vain.
func (s *stack) poll(ctx context.Context, check func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	for {
		err := check(ctx)
		if err == nil {
			return nil
		}
		select {
		case failure := <-s.failed:
			s.failed <- failure // runUp reads it again
			return failure
		case <-ctx.Done():
			if errors.Is(ctx.Err(), context.DeadlineExceeded) {
				return fmt.Errorf("not within %s: %w", startTimeout, err)
			}
			return ctx.Err()
		case <-time.After(pollInterval):
		}
	}
}
