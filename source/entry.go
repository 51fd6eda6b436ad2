package source

import (
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/go-git/go-git/v5/plumbing"
	"github.com/go-git/go-git/v5/plumbing/protocol/packp"
	"github.com/go-git/go-git/v5/plumbing/protocol/packp/capability"
	"github.com/go-git/go-git/v5/plumbing/transport"

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

	mu    sync.Mutex
	repos []*repository // newest first
	trees []*Tree
	saved []treeState // of an earlier process, not opened yet
	used  int64
	bytes int64
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

func (e *entryOf) forget() {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.repos, e.trees, e.saved, e.bytes = nil, nil, nil, 0
}

// open returns the tree of a revision, nil when it is not here.
func (e *entryOf) open(revision string) (*Tree, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.used = e.all.clock.Add(1)
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
			t, err := e.build(repo, plumbing.NewHash(s.Commit), s.Revision, s.Ignore)
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

// fetch runs while the entry is held.
func (e *entryOf) fetch(ctx context.Context, remote Remote, ref Ref, ignore *string) (*Fetched, error) {
	id := remote.identity(e.all.key)
	f := &fetching{entry: e, ctx: ctx, remote: remote, id: id}
	if err := f.connect(); err != nil {
		return nil, err
	}
	defer f.close()
	sel, err := ref.choose(f.refs)
	if err != nil {
		return nil, err
	}
	repo := e.current(id)
	if repo != nil {
		if commit, here := repo.commit(sel.commit); here {
			t, err := e.tree(repo, commit, sel.revision(commit), ignore)
			if err == nil {
				return &Fetched{Tree: t}, e.adopt(t, repo)
			}
			if fault.KindOf(err) != fault.Transient {
				return nil, err
			}
			repo = nil // the cache is damaged: it is fetched anew
		}
	}
	t, repo, err := f.transfer(repo, sel, ignore)
	if err != nil {
		return nil, err
	}
	return &Fetched{Tree: t, Transferred: true}, e.adopt(t, repo)
}

// tree returns the tree of a commit that is here, the one in use when it is the same.
func (e *entryOf) tree(repo *repository, commit plumbing.Hash, revision string, ignore *string) (*Tree, error) {
	e.mu.Lock()
	for _, t := range e.trees {
		if t.repo == repo && t.commit == commit && t.revision == revision && equalText(t.ignore, ignore) {
			e.mu.Unlock()
			return t, nil
		}
	}
	e.mu.Unlock()
	return e.build(repo, commit, revision, ignore)
}

func (e *entryOf) build(repo *repository, commit plumbing.Hash, revision string, ignore *string) (*Tree, error) {
	c, err := repo.peel(commit)
	if err != nil {
		return nil, err
	}
	return newTree(repo, c, revision, ignore, e.all.limits)
}

func equalText(a, b *string) bool { return a == b || a != nil && b != nil && *a == *b }

// adopt makes t the newest tree, and drops repositories that no tree needs.
func (e *entryOf) adopt(t *Tree, repo *repository) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.used = e.all.clock.Add(1)
	if len(e.trees) > 0 && e.trees[0] == t {
		return nil
	}
	trees := []*Tree{t}
	for _, old := range e.trees {
		if len(trees) < keptTrees && old.revision != t.revision {
			trees = append(trees, old)
		}
	}
	repos := []*repository{repo}
	for _, old := range e.repos {
		if old != repo && slices.ContainsFunc(trees, func(t *Tree) bool { return t.repo == old }) {
			repos = append(repos, old)
		}
	}
	gone := slices.DeleteFunc(slices.Clone(e.repos), func(r *repository) bool { return slices.Contains(repos, r) })
	e.trees, e.repos, e.saved, e.bytes = trees, repos, nil, 0
	for _, r := range repos {
		e.bytes += r.size()
	}
	if err := e.save(); err != nil {
		return err
	}
	for _, r := range gone {
		_ = os.RemoveAll(r.dir) // found and removed by restore otherwise
	}
	return nil
}

// fetching is one conversation with a server.
type fetching struct {
	entry   *entryOf
	ctx     context.Context //nolint:containedctx // it lives for one call
	remote  Remote
	id      string
	session transport.UploadPackSession
	done    func()
	refs    *packp.AdvRefs
}

func (f *fetching) connect() error {
	session, done, err := f.remote.open(f.ctx, f.entry.all.limits.Transfer)
	if err != nil {
		return err
	}
	f.session, f.done = session, done
	f.entry.all.listings.Add(1)
	if f.refs, err = session.AdvertisedReferencesContext(f.ctx); err != nil {
		f.close()
	}
	return err
}

func (f *fetching) close() {
	if f.session != nil {
		_ = f.session.Close()
		f.done()
		f.session = nil
	}
}

// transfer gets the commit: as an addition to repo when that works, into a new repository otherwise.
func (f *fetching) transfer(repo *repository, sel selection, ignore *string) (*Tree, *repository, error) {
	advertised := len(sel.history) == 0
	byHash := f.refs.Capabilities.Supports(capability.AllowReachableSHA1InWant) || f.refs.Capabilities.Supports("allow-any-sha1-in-want")
	ask := request{wants: []plumbing.Hash{sel.want}, shallow: true}
	if !advertised && !byHash {
		ask = request{wants: sel.history}
	}
	if repo != nil && ask.shallow && repo.grow() {
		more := ask
		more.haves = repo.tips()
		t, err := f.receive(repo, more, sel, ignore)
		if err == nil {
			return t, repo, nil
		}
		// A server that does not take what we say we have gets asked for everything; an answer about the commit stands.
		if f.ctx.Err() != nil || fault.KindOf(classify(f.ctx, err)) != fault.Transient {
			return nil, nil, err
		}
		f.close()
		if err := f.connect(); err != nil {
			return nil, nil, err
		}
	}
	fresh, err := f.entry.create(f.id)
	if err != nil {
		return nil, nil, err
	}
	t, err := f.receive(fresh, ask, sel, ignore)
	if err != nil {
		_ = os.RemoveAll(fresh.dir)
		return nil, nil, err
	}
	return t, fresh, nil
}

// receive asks for objects, and checks that the commit is complete with them.
func (f *fetching) receive(repo *repository, ask request, sel selection, ignore *string) (*Tree, error) {
	f.entry.all.transfers.Add(1)
	if err := repo.receive(f.ctx, f.session, f.refs, ask); err != nil {
		return nil, err
	}
	t, err := f.check(repo, sel, ignore)
	if err != nil {
		return nil, err
	}
	repo.settle(sel.want, t.commit)
	return t, nil
}

func (f *fetching) check(repo *repository, sel selection, ignore *string) (*Tree, error) {
	if len(sel.history) > 0 && !repo.has(sel.want) {
		return nil, fail(fault.NotFound, ReasonOperation, "the Git repository has no commit '"+sel.want.String()+"' in the history that was asked for").
			At("spec.ref.commit").Fix("push it, or correct spec.ref")
	}
	c, err := repo.peel(sel.want)
	if err != nil {
		return nil, err
	}
	return newTree(repo, c, sel.revision(c.Hash), ignore, f.entry.all.limits)
}

// create makes an empty repository in the entry's folder.
func (e *entryOf) create(id string) (*repository, error) {
	if err := os.MkdirAll(e.dir, 0o700); err != nil {
		return nil, cacheFailure("the cache folder cannot be written", err)
	}
	for n := 1; ; n++ {
		name := "g" + strconv.Itoa(n)
		err := os.Mkdir(filepath.Join(e.dir, name), 0o700)
		if os.IsExist(err) {
			continue
		}
		if err != nil {
			return nil, cacheFailure("the cache folder cannot be written", err)
		}
		repo := openRepository(e.dir, name, id)
		if err := repo.store.Init(); err != nil {
			return nil, cacheFailure("the cache folder cannot be written", err)
		}
		return repo, nil
	}
}

// state is what a restart needs. It holds a keyed digest of the credentials, and no credential.
type state struct {
	Repositories []repositoryState `json:"repositories"`
	Trees        []treeState       `json:"trees"`
}

type repositoryState struct {
	Name  string            `json:"name"`
	ID    string            `json:"id"`
	Heads map[string]string `json:"heads"`
}

type treeState struct {
	Repository string  `json:"repository"`
	Revision   string  `json:"revision"`
	Commit     string  `json:"commit"`
	Ignore     *string `json:"ignore,omitempty"`
}

const stateFile = "state.json"

// save writes the state. It is called with mu held.
func (e *entryOf) save() error {
	var s state
	for _, r := range e.repos {
		rs := repositoryState{Name: r.name, ID: r.id, Heads: map[string]string{}}
		r.mu.Lock()
		for want, commit := range r.heads {
			rs.Heads[want.String()] = commit.String()
		}
		r.mu.Unlock()
		s.Repositories = append(s.Repositories, rs)
	}
	for _, t := range e.trees {
		s.Trees = append(s.Trees, treeState{Repository: t.repo.name, Revision: t.revision, Commit: t.commit.String(), Ignore: t.ignore})
	}
	text, err := json.Marshal(s)
	if err != nil {
		return cacheFailure("the state of the cache cannot be written", err)
	}
	next := filepath.Join(e.dir, stateFile+".next")
	if err := os.WriteFile(next, text, 0o600); err != nil {
		return cacheFailure("the state of the cache cannot be written", err)
	}
	if err := os.Rename(next, filepath.Join(e.dir, stateFile)); err != nil {
		return cacheFailure("the state of the cache cannot be written", err)
	}
	return nil
}

// restore reads the state that an earlier process left. What does not fit together is left out, and fetched again.
func (e *entryOf) restore() {
	var s state
	text, err := os.ReadFile(filepath.Join(e.dir, stateFile))
	if err == nil {
		err = json.Unmarshal(text, &s)
	}
	if err != nil {
		s = state{}
	}
	byName := map[string]*repository{}
	for _, rs := range s.Repositories {
		if strings.ContainsAny(rs.Name, `/\.`) || rs.Name == "" {
			continue
		}
		repo := openRepository(e.dir, rs.Name, rs.ID)
		for want, commit := range rs.Heads {
			repo.heads[plumbing.NewHash(want)] = plumbing.NewHash(commit)
		}
		byName[rs.Name] = repo
		e.repos = append(e.repos, repo)
		e.bytes += repo.size()
	}
	e.saved = s.Trees
	e.sweep(byName)
}

// sweep removes what no state names: the rest of a fetch that a crash interrupted.
func (e *entryOf) sweep(keep map[string]*repository) {
	list, _ := os.ReadDir(e.dir)
	for _, each := range list {
		if each.IsDir() && keep[each.Name()] == nil {
			_ = os.RemoveAll(filepath.Join(e.dir, each.Name()))
		}
	}
}
