package source

import (
	"cmp"
	"context"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"sealock.dev/sealock/fault"
	"sealock.dev/sealock/plaintext"
)

// Limits bound what a stranger's repository may cost.
type Limits struct {
	Repositories int   // cached at once; each keeps up to two files open
	Disk         int64 // bytes of all cached repositories, of what is arriving, and of artifacts
	Transfer     int64 // bytes of one transfer
	Object       int64 // bytes of one object in a transfer: it is held in memory
	Memory       int64 // bytes of such objects, and of long listings, that all fetches hold at once
	Blob         int64 // bytes of one file that is read
	Files        int   // files and folders of one commit
	Artifact     int64 // bytes of the files of one artifact, uncompressed
}

// DefaultLimits are generous for what a cluster's configuration is.
func DefaultLimits() Limits {
	return Limits{Repositories: 2_000, Disk: 3 << 30, Transfer: 1 << 30, Object: 64 << 20, Memory: 192 << 20, Blob: 50 << 20, Files: 100_000, Artifact: 1 << 30}
}

// Counts says what was asked of Git servers since the start.
type Counts struct {
	Listings  int64 // reference listings
	Transfers int64 // requests for objects
}

// Owner is the object that a repository is fetched for. Nothing is shared between owners.
type Owner struct{ Namespace, Name string }

// ownerShape is what Kubernetes allows as names; it also keeps them inside the cache folder.
var ownerShape = regexp.MustCompile(`^[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?$`)

func (o Owner) valid() bool {
	return ownerShape.MatchString(o.Namespace) && ownerShape.MatchString(o.Name) &&
		!strings.Contains(o.Namespace, "..") && !strings.Contains(o.Name, "..")
}

// Fetched is the outcome of a Fetch.
type Fetched struct {
	Tree *Tree
	// Transferred is true when objects were asked for, and false when the reference listing was enough.
	Transferred bool
	// Verified is what was verified now; nil when it was not asked for, or had been verified before.
	Verified *Verified
}

// Repositories is the cache of bare repositories: one for each owner, URL and credentials, the least recently used ones
// evicted beyond the limits. It is safe for concurrent use; fetches of one owner follow each other.
type Repositories struct {
	dir    string
	key    plaintext.Key
	limits Limits

	now    func() time.Time
	tokens appTokens

	listings, transfers atomic.Int64
	clock               atomic.Int64 // orders uses; it tells no time
	disk                disk
	memory              *memory

	mu      sync.Mutex
	entries map[Owner]*entryOf
	missed  func(Owner)
}

// NewRepositories opens the cache in the folder, which it owns. key is the key of the installation: with it, a cache that
// survives a restart is found again, and nobody can test a guess of a credential against the cache.
func NewRepositories(dir string, key plaintext.Key, limits Limits) (*Repositories, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, cacheFailure("the cache folder cannot be made", err)
	}
	r := &Repositories{dir: dir, key: key, limits: limits, now: time.Now, entries: map[Owner]*entryOf{}, memory: newMemory(limits.Memory)}
	namespaces, err := os.ReadDir(dir)
	if err != nil {
		return nil, cacheFailure("the cache folder cannot be read", err)
	}
	for _, ns := range namespaces {
		names, _ := os.ReadDir(filepath.Join(dir, ns.Name()))
		for _, name := range names {
			owner := Owner{ns.Name(), name.Name()}
			if !owner.valid() || !name.IsDir() {
				continue
			}
			e := newEntry(r, owner)
			e.restore()
			r.entries[owner] = e
		}
	}
	return r, nil
}

// Counts returns what was asked of Git servers so far.
func (r *Repositories) Counts() Counts {
	return Counts{Listings: r.listings.Load(), Transfers: r.transfers.Load()}
}

// OnMiss sets what is called when Open finds nothing, so that the owner is fetched again. It must not block.
func (r *Repositories) OnMiss(fn func(Owner)) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.missed = fn
}

// Fetch brings the cache of the owner to what the reference means on the server now, and returns its tree. An unchanged
// remote costs one reference listing. When it fails, what was there stays, but for a revision that verification refused.
func (r *Repositories) Fetch(ctx context.Context, owner Owner, q Request) (*Fetched, error) {
	if !owner.valid() {
		return nil, fail(fault.Invalid, ReasonInvalid, "the owner's name cannot be used as a path")
	}
	if err := q.validate(); err != nil {
		return nil, err
	}
	e, err := r.acquire(ctx, owner)
	if err != nil {
		return nil, err
	}
	got, err := e.fetch(ctx, q)
	e.release()
	r.evict(e) // a fetch that failed may have left something, too
	if err = classify(ctx, err); err != nil {
		if q.Remote.GitHubApp && ReasonOf(err) == ReasonAuth {
			r.tokens.drop(q.Remote.appIdentity(r.key)) // it may have been revoked
		}
		return nil, err
	}
	return got, nil
}

// Open returns the tree of a revision that was fetched for the owner before. It asks no server. One that is not in the
// cache is Transient: the owner is fetched again.
func (r *Repositories) Open(_ context.Context, namespace, name, revision string) (*Tree, error) {
	owner := Owner{namespace, name}
	r.mu.Lock()
	e, missed := r.entries[owner], r.missed
	r.mu.Unlock()
	if e != nil {
		if t, err := e.open(revision); t != nil || err != nil {
			return t, err
		}
	}
	if missed != nil {
		missed(owner)
	}
	err := fail(fault.Transient, ReasonCacheStale, "the files of this revision are not in the cache").Fix("they are fetched again; nothing needs to be done")
	err.Ref = fault.Ref{Kind: "GitRepository", Namespace: namespace, Name: name}
	return nil, err
}

// Owners returns who has repositories here.
func (r *Repositories) Owners() []Owner {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Collect(maps.Keys(r.entries))
}

// Has reports whether Open would find the revision.
func (r *Repositories) Has(namespace, name, revision string) bool {
	r.mu.Lock()
	e := r.entries[Owner{namespace, name}]
	r.mu.Unlock()
	if e == nil {
		return false
	}
	t, err := e.open(revision)
	return t != nil && err == nil
}

// Remove forgets the owner and deletes its files. It waits for a fetch under way.
func (r *Repositories) Remove(ctx context.Context, namespace, name string) error {
	owner := Owner{namespace, name}
	if !owner.valid() {
		return nil
	}
	e, err := r.acquire(ctx, owner)
	if err != nil {
		return err
	}
	defer e.release()
	return r.drop(e)
}

// acquire returns the owner's entry, held for the caller alone.
func (r *Repositories) acquire(ctx context.Context, owner Owner) (*entryOf, error) {
	for {
		r.mu.Lock()
		e, ok := r.entries[owner]
		if !ok {
			e = newEntry(r, owner)
			r.entries[owner] = e
		}
		r.mu.Unlock()
		select {
		case e.turn <- struct{}{}:
		case <-ctx.Done():
			return nil, classify(ctx, ctx.Err())
		}
		r.mu.Lock()
		current := r.entries[owner] == e
		r.mu.Unlock()
		if current {
			return e, nil
		}
		e.release() // it was evicted meanwhile
	}
}

// drop deletes a held entry. It leaves the map last: a new entry would write into the folder that is being removed.
func (r *Repositories) drop(e *entryOf) error {
	r.mu.Lock()
	current := r.entries[e.owner] == e
	r.mu.Unlock()
	if !current {
		return nil // it was dropped before, and the folder may be a new one's
	}
	repos := e.forget()
	err := os.RemoveAll(e.dir)
	for _, repo := range repos {
		repo.close()
	}
	if err != nil {
		return cacheFailure("a cached repository cannot be removed", err)
	}
	_ = os.Remove(filepath.Dir(e.dir)) // the namespace's folder, when it is empty
	r.mu.Lock()
	delete(r.entries, e.owner)
	r.mu.Unlock()
	return nil
}

// evict drops the least recently used entries beyond the limits, never the one just fetched nor one that is fetched now. It
// reports whether all is within the bound of the disk then.
func (r *Repositories) evict(just *entryOf) bool {
	type candidate struct {
		e     *entryOf
		used  int64
		bytes int64
	}
	r.mu.Lock()
	var list []candidate
	total := r.disk.beside()
	count := len(r.entries)
	for _, e := range r.entries {
		used, bytes := e.weight()
		total += bytes
		if e != just {
			list = append(list, candidate{e, used, bytes})
		}
	}
	r.mu.Unlock()
	slices.SortFunc(list, func(a, b candidate) int { return cmp.Compare(a.used, b.used) })
	for _, c := range list {
		if count <= r.limits.Repositories && total <= r.limits.Disk {
			break
		}
		if !c.e.tryHold() {
			continue
		}
		_ = r.drop(c.e) // what cannot be removed now is found at the next start
		c.e.release()
		count--
		total -= c.bytes
	}
	return total <= r.limits.Disk
}
