package source

import (
	"os"
	"path/filepath"
	"slices"
	"sync"

	"github.com/go-git/go-git/v5/plumbing"

	"sealock.dev/sealock/fault"
)

// keptTrees is how many revisions of an owner stay readable: the last, and the one before it for who still reads it.
const keptTrees = 2

// entryOf is the cache of one owner: the last trees, newest first, and the repositories that they are in.
type entryOf struct {
	all   *Repositories
	owner Owner
	dir   string
	turn  chan struct{} // held by who fetches or removes

	absent string // the commit that is not in the history that a reference has; changed by who holds the turn

	mu    sync.Mutex
	repos []*repository // newest first
	trees []*Tree
	saved []treeState // of an earlier process, not opened yet
	used  int64
	bytes int64
	// verified tells what passed verification last, refused the revision that did not.
	verified string
	refused  error
	bad      string
}

func newEntry(r *Repositories, owner Owner) *entryOf {
	return &entryOf{all: r, owner: owner, dir: filepath.Join(r.dir, owner.Namespace, owner.Name), turn: make(chan struct{}, 1)}
}

func (e *entryOf) release() { <-e.turn }

func (e *entryOf) tryHold() bool {
	select {
	case e.turn <- struct{}{}:
		return true
	default:
		return false
	}
}

func (e *entryOf) weight() (used, bytes int64) {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.used, e.bytes
}

// forget returns the repositories that there were.
func (e *entryOf) forget() []*repository {
	e.mu.Lock()
	defer e.mu.Unlock()
	repos := e.repos
	e.repos, e.trees, e.saved, e.bytes = nil, nil, nil, 0
	return repos
}

// open returns the tree of a revision, nil when it is not here.
func (e *entryOf) open(revision string) (*Tree, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.used = e.all.clock.Add(1)
	if e.bad != "" && e.bad == revision {
		return nil, e.refused
	}
	for _, t := range e.trees {
		if t.revision == revision {
			return t, nil
		}
	}
	for _, s := range e.saved {
		if s.Revision != revision {
			continue
		}
		for _, repo := range e.repos {
			if repo.name != s.Repository {
				continue
			}
			t, err := e.rebuild(repo, s)
			if err != nil && fault.KindOf(err) != fault.Transient {
				return nil, err
			}
			if err == nil {
				e.trees = append(e.trees, t)
			}
			return t, nil // a damaged cache counts as an empty one
		}
	}
	return nil, nil //nolint:nilnil // not here is an answer
}

// current returns the repository that a fetch may grow: the newest one of the same remote and credentials.
func (e *entryOf) current(id string) *repository {
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, r := range e.repos {
		if r.id == id {
			return r
		}
	}
	return nil
}

// tree returns the tree in use when it is the same as the one that is asked for, else nil.
func (e *entryOf) tree(repo *repository, commit plumbing.Hash, revision string, q Request) *Tree {
	e.mu.Lock()
	defer e.mu.Unlock()
	shape := q.shape()
	for _, t := range e.trees {
		if t.repo == repo && t.commit == commit && t.revision == revision && t.shape == shape && equalText(t.ignore, q.Ignore) {
			return t
		}
	}
	for _, s := range e.saved {
		if s.Repository == repo.name && s.Commit == commit.String() && s.Revision == revision && s.Shape == shape && equalText(s.Ignore, q.Ignore) {
			if t, err := e.rebuild(repo, s); err == nil {
				return t
			}
		}
	}
	return nil
}

// rebuild makes a tree of what an earlier process left.
func (e *entryOf) rebuild(repo *repository, s treeState) (*Tree, error) {
	c, err := repo.peel(plumbing.NewHash(s.Commit))
	if err != nil {
		return nil, err
	}
	t, err := newTree(repo, c, plumbing.NewHash(s.Root), s.Revision, s.Ignore, e.all.limits)
	if err == nil {
		t.shape = s.Shape
	}
	return t, err
}

func equalText(a, b *string) bool { return a == b || a != nil && b != nil && *a == *b }

// adopt makes t the newest tree, and drops repositories that no tree needs.
func (e *entryOf) adopt(t *Tree, repo *repository, verified string) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.used = e.all.clock.Add(1)
	e.refused, e.bad = nil, ""
	if len(e.trees) > 0 && e.trees[0] == t && e.verified == verified {
		return nil
	}
	e.verified = verified
	trees := []*Tree{t}
	for _, old := range e.trees {
		if len(trees) < keptTrees && old.revision != t.revision {
			trees = append(trees, old)
		}
	}
	e.trees, e.saved = trees, nil
	return e.reduce(repo)
}

// keep lets the next fetch build on a repository although no tree is made of it now.
func (e *entryOf) keep(repo *repository) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.reduce(repo)
}

// reduce puts the repository first, drops those that no tree needs, counts what is left and saves it. mu is held.
func (e *entryOf) reduce(first *repository) error {
	repos, gone := []*repository{first}, []*repository(nil)
	for _, r := range e.repos {
		switch {
		case r == first:
		case e.needs(r):
			repos = append(repos, r)
		default:
			gone = append(gone, r)
		}
	}
	e.repos, e.bytes = repos, 0
	for _, r := range repos {
		e.bytes += r.size()
	}
	if err := e.save(); err != nil {
		return err
	}
	for _, r := range gone {
		_ = os.RemoveAll(r.dir) // found and removed by restore otherwise
		r.close()
	}
	return nil
}

// needs reports whether a tree is in the repository.
func (e *entryOf) needs(r *repository) bool {
	return slices.ContainsFunc(e.trees, func(t *Tree) bool { return t.repo == r }) ||
		slices.ContainsFunc(e.saved, func(s treeState) bool { return s.Repository == r.name })
}

// passed reports whether what the token stands for is the last that passed verification.
func (e *entryOf) passed(token string) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	return token == e.verified
}

// refuse makes sure that the revision is not opened any more.
func (e *entryOf) refuse(revision string, why error) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.refused, e.bad, e.verified = why, revision, ""
	e.trees = slices.DeleteFunc(e.trees, func(t *Tree) bool { return t.revision == revision })
	e.saved = slices.DeleteFunc(e.saved, func(s treeState) bool { return s.Revision == revision })
	return e.save()
}
