package source

import (
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"sync"

	"github.com/go-git/go-billy/v5/osfs"
	"github.com/go-git/go-git/v5/plumbing"
	"github.com/go-git/go-git/v5/plumbing/cache"
	"github.com/go-git/go-git/v5/plumbing/format/objfile"
	"github.com/go-git/go-git/v5/plumbing/format/packfile"
	"github.com/go-git/go-git/v5/plumbing/object"
	"github.com/go-git/go-git/v5/plumbing/protocol/packp"
	"github.com/go-git/go-git/v5/plumbing/protocol/packp/capability"
	"github.com/go-git/go-git/v5/plumbing/protocol/packp/sideband"
	"github.com/go-git/go-git/v5/plumbing/transport"
	"github.com/go-git/go-git/v5/storage/filesystem"

	"sealock.dev/sealock/fault"
)

const (
	// objectCache is small and per repository: one for all would hand an object of one owner to a tree of another
	// that only names its hash.
	objectCache = 2 * cache.MiByte
	// maxGrowth is after how many incremental transfers a repository is fetched anew, which drops what nobody needs.
	maxGrowth = 24
	// maxSummaries bounds what is remembered of trees that were found complete.
	maxSummaries = 100_000
	// openPacks is how many packs of a repository stay open between reads. There is one, and one more for each submodule;
	// there can be thousands of repositories, and what a process may have open is limited.
	openPacks = 2
)

// repository is one generation of a bare repository on disk. It is grown by transfers and never rewritten.
type repository struct {
	name string // of its folder
	dir  string
	id   string // the remote and the credentials that it was fetched with

	memory *memory // what all repositories may hold at once

	mu    sync.Mutex // the library's storage is not safe for use by several at once
	store *filesystem.Storage
	known map[plumbing.Hash]summary // trees that are complete
	heads map[plumbing.Hash]plumbing.Hash
	parts map[plumbing.Hash]string // commits of submodules that are complete, and the URL that each came from
	on    map[branchCommit]bool    // commits that were seen to be in the history of a branch
	grown int                      // how many transfers were added, or tried to
}

type branchCommit struct {
	branch string
	commit plumbing.Hash
}

// summary is what is known of a tree object and all below it.
type summary struct {
	entries int
	depth   int
	ignores bool // there is a .sourceignore
}

func (e *entryOf) openRepository(name, id string) *repository {
	r := &repository{name: name, dir: filepath.Join(e.dir, name), id: id, memory: e.all.memory, known: map[plumbing.Hash]summary{}, heads: map[plumbing.Hash]plumbing.Hash{}, parts: map[plumbing.Hash]string{}, on: map[branchCommit]bool{}}
	r.store = r.storage()
	return r
}

// storage opens the folder. What one sees that another one writes is seen after a new call.
//
// It must not have exclusive access, in the words of the library: then it would remember which objects there are, and not
// find those that come later.
func (r *repository) storage() *filesystem.Storage {
	return filesystem.NewStorageWithOptions(osfs.New(r.dir, osfs.WithBoundOS()), cache.NewObjectLRU(objectCache),
		filesystem.Options{MaxOpenDescriptors: openPacks})
}

// close gives back what is open. Who reads on all the same opens it again, or is told that it is gone.
func (r *repository) close() {
	r.mu.Lock()
	defer r.mu.Unlock()
	_ = r.store.Close() // it was only read from
}

// commit returns the commit that a wanted hash (a commit or an annotated tag) stands for, if all of it is here.
func (r *repository) commit(want plumbing.Hash) (plumbing.Hash, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	h, ok := r.heads[want]
	return h, ok
}

// settle records that the commit, and what it was wanted as, is here completely.
func (r *repository) settle(want, commit plumbing.Hash) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.heads[want], r.heads[commit] = commit, commit
}

// onBranch reports whether the selected commit is in the history of its branch, as far as is known here.
func (r *repository) onBranch(s selection) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return s.branch == "" || len(s.history) == 0 || r.on[branchCommit{s.branch, s.want}]
}

func (r *repository) settleBranch(s selection) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if s.branch != "" {
		r.on[branchCommit{s.branch, s.want}] = true
	}
}

// grow reports whether one more transfer may be added.
func (r *repository) grow() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.grown++
	return r.grown <= maxGrowth && len(r.heads) <= 2*maxGrowth
}

// overgrown reports whether so much was added that a new repository is better.
func (r *repository) overgrown() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.grown > maxGrowth
}

// tips returns the commits that are here completely.
func (r *repository) tips() []plumbing.Hash {
	r.mu.Lock()
	defer r.mu.Unlock()
	var out []plumbing.Hash
	for want, commit := range r.heads {
		if want == commit {
			out = append(out, commit)
		}
	}
	plumbing.HashesSort(out)
	return out
}

// peel follows annotated tags to the commit.
func (r *repository) peel(want plumbing.Hash) (*object.Commit, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for range 8 {
		o, err := object.GetObject(r.store, want)
		if err != nil {
			return nil, broken("an object that the Git server was asked for is missing in what it sent")
		}
		switch o := o.(type) {
		case *object.Commit:
			return o, nil
		case *object.Tag:
			want = o.Target
		default:
			return nil, fail(fault.Invalid, ReasonOperation, "the reference names no commit").At("spec.ref").Fix("name a branch, tag or commit")
		}
	}
	return nil, fail(fault.Invalid, ReasonOperation, "the tag points to a tag too many times").At("spec.ref")
}

func broken(text string) *fault.Error {
	return (&fault.Error{Stage: fault.StageSource, Kind: fault.Transient, Err: &failure{reason: ReasonOperation, text: text, broken: true}}).
		Fix("it is tried again; if it stays, check the repository with git fsck")
}

// request says what is asked of a server.
type request struct {
	wants   []plumbing.Hash
	haves   []plumbing.Hash
	shallow bool
}

// receive asks for objects and stores them. What a failed transfer leaves is of no use and does no harm: what is here
// counts only once settle was called.
func (r *repository) receive(ctx context.Context, session transport.UploadPackSession, refs *packp.AdvRefs, ask request, e *entryOf) (err error) {
	req := packp.NewUploadPackRequestFromCapabilities(refs.Capabilities)
	req.Wants, req.Haves = ask.wants, ask.haves
	if refs.Capabilities.Supports(capability.NoProgress) {
		_ = req.Capabilities.Set(capability.NoProgress)
	}
	if ask.shallow && refs.Capabilities.Supports(capability.Shallow) {
		_ = req.Capabilities.Set(capability.Shallow)
		// All that is here is shallow: the server must not think that we have what is behind it.
		req.Depth, req.Shallows = packp.DepthCommits(1), ask.haves
	}
	thin := len(ask.haves) > 0
	if thin {
		// One acknowledgement is all that the library reads. Without haves there is none, whatever was agreed on.
		req.Capabilities.Delete(capability.MultiACK)
		req.Capabilities.Delete(capability.MultiACKDetailed)
		// Only with it does a server leave out what a shallow client has. All servers know it; one that does not is
		// asked again without.
		_ = req.Capabilities.Set(capability.ThinPack)
	}
	res, err := session.UploadPack(ctx, req)
	if err != nil {
		return err
	}
	defer func() { _ = res.Close() }()
	// An own storage writes, so that who reads the last tree does not wait for the network.
	next := r.storage()
	if err := r.storeIncoming(ctx, next, demux(req.Capabilities, &contextReader{ctx: ctx, from: res}), thin, e); err != nil {
		_ = next.Close()
		return err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	_ = r.store.Close()
	r.store = next
	return nil
}

// storePack stores a pack: a whole one as it is, a thin one, whose deltas refer to objects that are here already, as single
// objects. The parser is fed by strangers, and has panicked before.
func storePack(store *filesystem.Storage, pack io.Reader, file io.ReadSeeker, thin bool) (err error) {
	defer func() {
		if recover() != nil {
			err = broken("the pack that the Git server sent cannot be read")
		}
	}()
	if !thin {
		return packfile.UpdateObjectStorage(store, pack)
	}
	// The file, as what can be read again need not be held in memory.
	p, err := packfile.NewParserWithStorage(packfile.NewScanner(file), store)
	if err != nil {
		return err
	}
	_, err = p.Parse()
	return err
}

func demux(caps *capability.List, from io.Reader) io.Reader {
	switch {
	case caps.Supports(capability.Sideband64k):
		return sideband.NewDemuxer(sideband.Sideband64k, from)
	case caps.Supports(capability.Sideband):
		return sideband.NewDemuxer(sideband.Sideband, from)
	}
	return from
}

// contextReader ends reading when the context does.
type contextReader struct {
	ctx  context.Context //nolint:containedctx // a reader has no other way to learn of it
	from io.Reader
}

func (c *contextReader) Read(p []byte) (int, error) {
	if err := c.ctx.Err(); err != nil {
		return 0, err
	}
	return c.from.Read(p)
}

// size returns how many bytes the repository takes on disk.
func (r *repository) size() int64 {
	var sum int64
	_ = filepath.WalkDir(r.dir, func(_ string, d os.DirEntry, err error) error {
		if err == nil && d.Type().IsRegular() {
			if info, err := d.Info(); err == nil {
				sum += info.Size()
			}
		}
		return nil
	})
	return sum
}

// blobSize returns the size of a blob.
func (r *repository) blobSize(h plumbing.Hash) (int64, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.sizeOf(h)
}

// sizeOf returns the size of an object without reading it. The lock is held.
func (r *repository) sizeOf(h plumbing.Hash) (int64, error) {
	if size, loose, err := r.loose(h); loose {
		return size, err
	}
	return r.store.EncodedObjectSize(h)
}

// blob returns the content of a blob of at most limit bytes.
func (r *repository) blob(h plumbing.Hash, limit int64) ([]byte, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if size, loose, err := r.loose(h); err != nil {
		return nil, err
	} else if loose && size > limit {
		return nil, errTooLarge
	}
	o, err := r.store.EncodedObject(plumbing.BlobObject, h)
	if err != nil {
		return nil, err
	}
	if o.Size() > limit {
		return nil, errTooLarge
	}
	body, err := o.Reader()
	if err != nil {
		return nil, err
	}
	defer func() { _ = body.Close() }()
	out := make([]byte, o.Size())
	_, err = io.ReadFull(body, out)
	return out, err
}

// loose returns the size of an object that has a file of its own, and false when it has none. Such a one is read whole when
// it is asked for, while one of a pack that is not small tells its size first. The library's own question for the size leaves
// that file open.
func (r *repository) loose(h plumbing.Hash) (size int64, found bool, err error) {
	name := h.String()
	f, err := os.Open(filepath.Join(r.dir, "objects", name[:2], name[2:]))
	if err != nil {
		return 0, false, nil // if it is in no pack either, that is told
	}
	defer func() { _ = f.Close() }()
	o, err := objfile.NewReader(f)
	if err != nil {
		return 0, true, err
	}
	defer func() { _ = o.Close() }()
	_, size, err = o.Header()
	return size, true, err
}

var errTooLarge = errors.New("the file is too large")
