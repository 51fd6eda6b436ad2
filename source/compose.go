package source

import (
	"context"
	"io/fs"
	"path"
	"slices"
	"sort"
	"strings"

	"github.com/go-git/go-git/v5/plumbing"
	"github.com/go-git/go-git/v5/plumbing/filemode"
	"github.com/go-git/go-git/v5/plumbing/object"

	"sealock.dev/sealock/fault"
)

// What a source adds to its commit, or leaves out of it, is made as Git objects in the owner's own repository: a new root,
// new folders on the way, and copies of foreign files. So everything that reads a tree knows of nothing but trees.

// compose returns the root that a request makes of a commit.
func (f *fetching) compose(repo *repository, c *object.Commit, q Request) (plumbing.Hash, error) {
	root := c.TreeHash
	var err error
	if len(q.Sparse) > 0 {
		if root, err = repo.sparse(root, q.Sparse); err != nil {
			return plumbing.ZeroHash, err
		}
	}
	if q.Submodules {
		if root, err = f.submodules(repo, root, c); err != nil {
			return plumbing.ZeroHash, err
		}
	}
	if len(q.Sparse) > 0 || len(q.Includes) > 0 {
		repo.grow()
	}
	budget := f.entry.all.limits
	for _, i := range q.Includes {
		if root, err = repo.include(f.ctx, root, i, &budget); err != nil {
			return plumbing.ZeroHash, err
		}
	}
	return root, nil
}

// putTree stores a folder and returns its hash.
func (r *repository) putTree(entries []node) (plumbing.Hash, error) {
	t := object.Tree{Entries: make([]object.TreeEntry, 0, len(entries))}
	for _, e := range entries {
		t.Entries = append(t.Entries, object.TreeEntry{Name: e.name, Mode: e.mode, Hash: e.hash})
	}
	sort.Sort(object.TreeEntrySorter(t.Entries))
	o := &plumbing.MemoryObject{}
	if err := t.Encode(o); err != nil {
		return plumbing.ZeroHash, cacheFailure("a folder cannot be written to the cache", err)
	}
	return r.put(o)
}

func (r *repository) put(o *plumbing.MemoryObject) (plumbing.Hash, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.store.HasEncodedObject(o.Hash()) == nil {
		return o.Hash(), nil
	}
	h, err := r.store.SetEncodedObject(o)
	if err != nil {
		return plumbing.ZeroHash, cacheFailure("a file cannot be written to the cache", err)
	}
	return h, nil
}

// graft returns the folder with the entry put at the path; occupied is the error when something is there.
func (r *repository) graft(folder plumbing.Hash, at []string, n node, occupied error) (plumbing.Hash, error) {
	entries, err := r.folder(folder)
	if err != nil {
		return plumbing.ZeroHash, err
	}
	i, found := slices.BinarySearchFunc(entries, at[0], func(n node, name string) int { return strings.Compare(n.name, name) })
	switch {
	case found && (len(at) == 1 || entries[i].mode != filemode.Dir):
		return plumbing.ZeroHash, occupied
	case len(at) == 1:
		n.name = at[0]
		entries = slices.Insert(entries, i, n)
	case found:
		if entries[i].hash, err = r.graft(entries[i].hash, at[1:], n, occupied); err != nil {
			return plumbing.ZeroHash, err
		}
	default:
		below, err := r.putTree(nil)
		if err != nil {
			return plumbing.ZeroHash, err
		}
		if below, err = r.graft(below, at[1:], n, occupied); err != nil {
			return plumbing.ZeroHash, err
		}
		entries = slices.Insert(entries, i, node{name: at[0], mode: filemode.Dir, hash: below})
	}
	return r.putTree(entries)
}

// cleanFolders returns the folders of a sparse checkout without "./" and a last "/".
func cleanFolders(list []string) ([]string, error) {
	out := make([]string, 0, len(list))
	for _, each := range list {
		clean, ok := cleanPath(each)
		if !ok {
			return nil, fail(fault.Invalid, ReasonInvalid, "a folder of spec.sparseCheckout leaves the repository, or is no path").At("spec.sparseCheckout").
				Fix("name folders relative to the root of the repository")
		}
		out = append(out, clean)
	}
	return out, nil
}

// cleanPath returns a path inside a tree as io/fs wants it; "" is ".".
func cleanPath(p string) (string, bool) {
	if strings.ContainsAny(p, "\x00\\") || strings.HasPrefix(p, "/") || slices.Contains(strings.Split(p, "/"), "..") {
		return "", false
	}
	clean := path.Clean(p)
	for _, part := range strings.Split(clean, "/") {
		if strings.EqualFold(part, ".git") {
			return "", false
		}
	}
	return clean, fs.ValidPath(clean)
}

// sparse returns the tree without all but the folders.
func (r *repository) sparse(root plumbing.Hash, list []string) (plumbing.Hash, error) {
	folders, err := cleanFolders(list)
	if err != nil || slices.Contains(folders, ".") {
		return root, err
	}
	wanted := map[string]bool{} // false until it is found
	for _, each := range folders {
		wanted[each] = false
	}
	out, err := r.keepOnly(root, "", wanted)
	if err != nil {
		return plumbing.ZeroHash, err
	}
	for _, each := range folders {
		if !wanted[each] && !slices.ContainsFunc(folders, func(other string) bool { return wanted[other] && strings.HasPrefix(each, other+"/") }) {
			return plumbing.ZeroHash, fail(fault.NotFound, ReasonOperation, "the commit has no folder '"+each+"'").At("spec.sparseCheckout").Fix("push it, or leave it out")
		}
	}
	return out, nil
}

func (r *repository) keepOnly(folder plumbing.Hash, at string, wanted map[string]bool) (plumbing.Hash, error) {
	entries, err := r.folder(folder)
	if err != nil {
		return plumbing.ZeroHash, err
	}
	var kept []node
	for _, e := range entries {
		name := path.Join(at, e.name)
		if !e.isDir() {
			continue
		}
		if _, ok := wanted[name]; ok {
			wanted[name] = true
			kept = append(kept, e)
			continue
		}
		below := false
		for each := range wanted {
			below = below || strings.HasPrefix(each, name+"/")
		}
		if !below || e.mode != filemode.Dir {
			continue
		}
		if e.hash, err = r.keepOnly(e.hash, name, wanted); err != nil {
			return plumbing.ZeroHash, err
		}
		kept = append(kept, e)
	}
	return r.putTree(kept)
}

// cleanInclude returns the include with clean paths.
func cleanInclude(i Include) (Include, error) {
	from, okFrom := cleanPath(i.From)
	to, okTo := cleanPath(i.To)
	if !okFrom {
		return i, fail(fault.Invalid, ReasonInvalid, "fromPath leaves the included repository, or is no path").At("spec.include.fromPath").Fix("name a folder relative to its root")
	}
	if !okTo || to == "." {
		return i, fail(fault.Invalid, ReasonInvalid, "toPath leaves the repository, or is no path below its root").At("spec.include.toPath").Fix("name a folder that the repository does not have")
	}
	i.From, i.To = from, to
	return i, nil
}

// include copies what is included into the tree. budget is what may be copied in all.
func (r *repository) include(ctx context.Context, root plumbing.Hash, i Include, budget *Limits) (plumbing.Hash, error) {
	i, err := cleanInclude(i)
	if err != nil {
		return plumbing.ZeroHash, err
	}
	n, where, err := i.Tree.resolve(i.From, false)
	if err != nil || n.mode == filemode.Symlink {
		return plumbing.ZeroHash, fail(fault.NotFound, ReasonCopy, "the included repository has no folder or file '"+i.From+"' (links are not part of an artifact)").
			At("spec.include.fromPath").Fix("push it, or correct the path")
	}
	c := copying{ctx: ctx, from: i.Tree, to: r, budget: budget}
	if n, err = c.copy(n, where); err != nil {
		return plumbing.ZeroHash, err
	}
	occupied := fail(fault.Invalid, ReasonCopy, "the repository itself has a file or folder where '"+i.To+"' is to be put").At("spec.include.toPath").
		Fix("choose a path that the repository does not have")
	return r.graft(root, strings.Split(i.To, "/"), n, occupied)
}

// copying copies what is visible of one tree into another repository.
type copying struct {
	ctx    context.Context //nolint:containedctx // it lives for one call
	from   *Tree
	to     *repository
	budget *Limits // what is left of it
}

func (c *copying) copy(n node, where []string) (node, error) {
	if err := c.ctx.Err(); err != nil {
		return node{}, err
	}
	if c.budget.Files--; c.budget.Files < 0 {
		return node{}, fail(fault.Invalid, ReasonCopy, "the included repositories have more files than the limit").At("spec.include").Fix("include less of them, with fromPath")
	}
	if !n.isDir() {
		n.mode = n.copied()
		return n, c.blob(n, where)
	}
	list, err := c.from.list(n, where)
	if err != nil {
		return node{}, err
	}
	var kept []node
	for _, each := range list {
		e, ok := each.(entry)
		if !ok || e.node.mode == filemode.Symlink {
			continue
		}
		below, err := c.copy(e.node, append(slices.Clone(where), e.node.name))
		if err != nil {
			return node{}, err
		}
		kept = append(kept, below)
	}
	h, err := c.to.putTree(kept)
	return node{name: n.name, mode: filemode.Dir, hash: h}, err
}

// copied returns the mode of a copy of a file.
func (n node) copied() filemode.FileMode {
	if n.mode == filemode.Executable {
		return filemode.Executable
	}
	return filemode.Regular
}

func (c *copying) blob(n node, where []string) error {
	size, err := c.from.repo.blobSize(n.hash)
	if err != nil {
		return c.from.readFault(path.Join(where...), err)
	}
	if c.budget.Artifact -= size; c.budget.Artifact < 0 {
		return fail(fault.Invalid, ReasonCopy, "the included files are larger than the limit of an artifact").At("spec.include").Fix("include less of them, with fromPath")
	}
	if c.to.has(n.hash) {
		return nil
	}
	release, err := c.to.memory.hold(c.ctx, timesObject*min(size, c.from.limits.Blob))
	if err != nil {
		return err
	}
	defer release()
	body, err := c.from.repo.blob(n.hash, c.from.limits.Blob)
	if err != nil {
		return c.from.readFault(path.Join(where...), err)
	}
	o := &plumbing.MemoryObject{}
	o.SetType(plumbing.BlobObject)
	_, _ = o.Write(body) // to memory
	_, err = c.to.put(o)
	return err
}
