package cluster

import (
	"context"
	"sync"
	"time"

	"k8s.io/client-go/rest"
)

// remoteIdle is how long a remote cluster that nobody asked for is kept connected and watched.
const remoteIdle = 30 * time.Minute

// Remotes are the Clients of other clusters, one for each configuration and user. They are safe for concurrent use.
type Remotes struct {
	ctx    context.Context //nolint:containedctx // the life of all watches, which outlive every call
	opts   Options
	events func(Event)

	mu      sync.Mutex
	clients map[string]*remote
}

type remote struct {
	client *Client
	stop   context.CancelFunc
	used   time.Time
}

// NewRemotes returns Remotes whose watches end with ctx. opts is what their Clients have in common; its Config and ActAs
// are replaced. events is told what happens to live objects, whichever cluster they are in.
func NewRemotes(ctx context.Context, opts Options, events func(Event)) *Remotes {
	return &Remotes{ctx: ctx, opts: opts, events: events, clients: map[string]*remote{}}
}

// Get returns the Client of a cluster. id must differ where config or user do: a keyed digest of both, since config holds
// credentials. user is impersonated there, "" acts as whoever config is.
func (r *Remotes) Get(id string, config *rest.Config, user string) (*Client, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.expire(id)
	if known, ok := r.clients[id]; ok {
		known.used = time.Now()
		return known.client, nil
	}
	ctx, cancel := context.WithCancel(r.ctx)
	opts := r.opts
	opts.Config, opts.ActAs = config, &user
	opts.SecretVersion = nil // that is of this cluster
	client, err := New(ctx, opts)
	if err != nil {
		cancel()
		return nil, err
	}
	go func() {
		for {
			select {
			case <-ctx.Done():
				return
			case e := <-client.View().Events():
				r.events(e)
			}
		}
	}()
	r.clients[id] = &remote{client: client, stop: cancel, used: time.Now()}
	return client, nil
}

// Release forgets an owner in every cluster.
func (r *Remotes) Release(namespace, name string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, each := range r.clients {
		each.client.view.release(namespace + "/" + name)
	}
}

// expire ends what was not asked for in a while. The caller holds the lock.
func (r *Remotes) expire(wanted string) {
	for id, each := range r.clients {
		if id != wanted && time.Since(each.used) > remoteIdle {
			each.stop()
			delete(r.clients, id)
		}
	}
}
