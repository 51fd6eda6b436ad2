package source

import (
	"context"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/go-git/go-git/v5/plumbing"
	"github.com/go-git/go-git/v5/plumbing/object"
	"github.com/go-git/go-git/v5/plumbing/protocol/packp"
	"github.com/go-git/go-git/v5/plumbing/protocol/packp/capability"
	"github.com/go-git/go-git/v5/plumbing/transport"

	"sealock.dev/sealock/fault"
)

// fetch runs while the entry is held.
func (e *entryOf) fetch(ctx context.Context, q Request) (*Fetched, error) {
	remote, err := e.all.authorized(ctx, q.Remote)
	if err != nil {
		return nil, err
	}
	f := &fetching{entry: e, ctx: ctx, remote: remote, id: q.Remote.identity(e.all.key)}
	if err := f.connect(); err != nil {
		return nil, err
	}
	defer f.close()
	sel, err := f.choose(q.Ref)
	if err != nil {
		return nil, err
	}
	repo := e.current(f.id)
	if len(sel.history) > 0 && e.absent == f.id+sel.digest() {
		return nil, noCommit(sel) // no reference has moved since it was looked for
	}
	if repo != nil {
		commit, here := repo.commit(sel.commit)
		if here && (q.Verify == nil || repo.has(sel.want)) && repo.onBranch(sel) && !repo.overgrown() {
			got, err := f.finish(repo, sel, commit, q)
			if err == nil || fault.KindOf(err) != fault.Transient || !isBroken(err) {
				return got, err
			}
			repo = nil // the cache is damaged: it is fetched anew
		}
	}
	if q.Began != nil {
		q.Began(sel.revision(sel.commit))
	}
	c, repo, err := f.transfer(repo, sel)
	if err != nil {
		return nil, err
	}
	if err := e.keep(repo); err != nil {
		return nil, err
	}
	got, err := f.finish(repo, sel, c.Hash, q)
	if got != nil {
		got.Transferred = true
	}
	return got, err
}

// finish verifies a commit that is here, and makes its tree. Only then can it be opened.
func (f *fetching) finish(repo *repository, sel selection, commit plumbing.Hash, q Request) (*Fetched, error) {
	e := f.entry
	c, err := repo.peel(commit)
	if err != nil {
		return nil, err
	}
	got := &Fetched{}
	token := ""
	if q.Verify != nil {
		// The label, too: the name of a tag is part of what was signed.
		token = string(q.Verify.Mode) + " " + sel.want.String() + " " + commit.String() + " " + sel.label
		if q.Verify.Again || !e.passed(token) {
			if got.Verified, err = q.Verify.verify(f.ctx, repo, sel, c); err != nil {
				if rejects(err, sel.revision(commit)) {
					_ = e.refuse(sel.revision(commit), err) // a state that is not saved is found out at the next fetch
				}
				return nil, err
			}
		}
	}
	revision := sel.revision(commit)
	if got.Tree = e.tree(repo, commit, revision, q); got.Tree == nil {
		root, err := f.compose(repo, c, q)
		if err != nil {
			return nil, err
		}
		if got.Tree, err = newTree(repo, c, root, revision, q.Ignore, e.all.limits); err != nil {
			return nil, err
		}
		got.Tree.shape = q.shape()
	}
	return got, e.adopt(got.Tree, repo, token)
}

// fetching is one conversation with a server.
type fetching struct {
	entry   *entryOf
	ctx     context.Context //nolint:containedctx // it lives for one call
	remote  Remote
	id      string
	limit   int64 // of a transfer; 0 is that of the entry
	session transport.UploadPackSession
	done    func()
	refs    *packp.AdvRefs
	list    *listing
}

func (f *fetching) connect() error {
	limit := f.limit
	if limit == 0 {
		limit = f.entry.all.limits.Transfer
	}
	f.list = &listing{ctx: f.ctx, memory: f.entry.all.memory}
	session, done, err := f.remote.open(f.ctx, limit, f.list)
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

// choose finds out what is meant, and lets go of the references: there can be many, and nothing else is held together with them.
func (f *fetching) choose(ref Ref) (selection, error) {
	sel, err := ref.choose(f.refs)
	f.forgetReferences()
	return sel, err
}

func (f *fetching) forgetReferences() {
	if f.refs != nil {
		f.refs.References, f.refs.Peeled, f.refs.Shallows = nil, nil, nil
	}
	f.list.done()
}

func (f *fetching) close() {
	f.forgetReferences()
	if f.session != nil {
		_ = f.session.Close()
		f.done()
		f.session = nil
	}
}

// request says what to ask the server for.
func (f *fetching) request(sel selection) request {
	byHash := f.refs.Capabilities.Supports(capability.AllowReachableSHA1InWant) || f.refs.Capabilities.Supports("allow-any-sha1-in-want")
	// By hash a server hands out what is on another branch, too.
	if len(sel.history) > 0 && (!byHash || sel.branch != "") {
		return request{wants: sel.history}
	}
	return request{wants: []plumbing.Hash{sel.want}, shallow: true}
}

// negotiates reports whether the server may be told what is here. Those that want multi_ack for it, Azure DevOps and AWS
// CodeCommit, do not say what program they are, which git and all that follows it do.
func (f *fetching) negotiates() bool {
	return f.refs.Capabilities.Supports(capability.Agent) || !f.refs.Capabilities.Supports(capability.MultiACK) && !f.refs.Capabilities.Supports(capability.MultiACKDetailed)
}

// transfer gets the commit: as an addition to repo when that works, into a new repository otherwise.
func (f *fetching) transfer(repo *repository, sel selection) (*object.Commit, *repository, error) {
	ask := f.request(sel)
	if repo != nil && ask.shallow && f.negotiates() && repo.grow() {
		more := ask
		more.haves = repo.tips()
		c, err := f.receive(repo, more, sel)
		if err == nil {
			return c, repo, nil
		}
		// A server that does not take what we say we have gets asked for everything; an answer about the commit stands.
		if f.ctx.Err() != nil || fault.KindOf(classify(f.ctx, err)) != fault.Transient {
			return nil, nil, err
		}
		f.close()
		if err := f.connect(); err != nil {
			return nil, nil, err
		}
		f.forgetReferences()
	}
	fresh, err := f.entry.create(f.id)
	if err != nil {
		return nil, nil, err
	}
	c, err := f.receive(fresh, ask, sel)
	if err != nil {
		_ = os.RemoveAll(fresh.dir)
		fresh.close()
		return nil, nil, err
	}
	return c, fresh, nil
}

// receive asks for objects, and checks that the commit is complete with them.
func (f *fetching) receive(repo *repository, ask request, sel selection) (*object.Commit, error) {
	if err := f.ask(repo, ask, sel); err != nil {
		return nil, err
	}
	c, err := f.check(repo, sel)
	if err != nil {
		return nil, err
	}
	repo.settle(sel.want, c.Hash)
	repo.settleBranch(sel)
	return c, nil
}

// ask asks for objects.
func (f *fetching) ask(repo *repository, ask request, sel selection) error {
	f.entry.all.transfers.Add(1)
	err := repo.receive(f.ctx, f.session, f.refs, ask, f.entry)
	// The library passes on only the text of what the server says.
	if err != nil && len(sel.history) > 0 && strings.Contains(err.Error(), "not our ref") {
		return noCommit(sel)
	}
	return err
}

func noCommit(sel selection) error {
	return fail(fault.NotFound, ReasonOperation, "the Git repository has no commit '"+sel.want.String()+"', or not in the history that was asked for").
		At("spec.ref.commit").Fix("push it, or correct spec.ref")
}

func (f *fetching) check(repo *repository, sel selection) (*object.Commit, error) {
	if len(sel.history) > 0 && !repo.has(sel.want) {
		f.entry.absent = f.id + sel.digest()
		return nil, noCommit(sel)
	}
	c, err := repo.peel(sel.want)
	if err != nil {
		return nil, err
	}
	if _, err := complete(repo, c.TreeHash, f.entry.all.limits); err != nil {
		return nil, err
	}
	return c, nil
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
		repo := e.openRepository(name, id)
		if err := repo.store.Init(); err != nil {
			return nil, cacheFailure("the cache folder cannot be written", err)
		}
		return repo, nil
	}
}
