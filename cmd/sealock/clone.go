package main

import (
	"bytes"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/go-git/go-billy/v5"
	"github.com/go-git/go-billy/v5/osfs"
	"github.com/go-git/go-git/v5/plumbing"
	"github.com/go-git/go-git/v5/plumbing/cache"
	"github.com/go-git/go-git/v5/plumbing/filemode"
	"github.com/go-git/go-git/v5/plumbing/object"
	"github.com/go-git/go-git/v5/plumbing/storer"
	"github.com/go-git/go-git/v5/storage/filesystem"
	"github.com/go-git/go-git/v5/storage/filesystem/dotgit"

	"sealock.dev/sealock/fault"
	"sealock.dev/sealock/source"
)

// clone is a folder of a Git repository on this machine: as it is checked out, or as a commit has it.
type clone struct {
	root     string // of the repository
	below    string // the folder, relative to root
	shown    string // how people see it
	revision string // "" is what is checked out
}

// cloneAt returns the clone around a folder that exists.
func cloneAt(dir, revision string) (clone, error) {
	root, below, err := repositoryOf(dir)
	return clone{root: root, below: below, shown: dir, revision: revision}, err
}

// cloneHere returns the folder at a path of the repository around the working directory.
func cloneHere(below, revision string) (clone, error) {
	root, _, err := repositoryOf(".")
	if err != nil {
		return clone{}, err
	}
	below = path.Join(".", path.Clean("/" + below)[1:])
	c := clone{root: root, below: below, shown: below, revision: revision}
	if revision != "" {
		return c, nil
	}
	dir := filepath.Join(root, filepath.FromSlash(below))
	if info, err := os.Stat(dir); err != nil || !info.IsDir() {
		return clone{}, wrongUse("there is no folder %q here", below).At("--path").Fix("name the folder that stands for spec.path with --path")
	}
	if here, err := filepath.Abs("."); err == nil {
		if rel, err := filepath.Rel(here, dir); err == nil {
			c.shown = rel
		}
	}
	return c, nil
}

// open returns the files of the repository, less what its ignore files leave out. A link that leads out of it is not
// followed, as in the controller.
func (c clone) open() (files fs.FS, closer func(), err error) {
	all, closer, err := c.all()
	if err != nil {
		return nil, nil, err
	}
	if files, err = source.NewFolder(all); err != nil {
		closer()
		return nil, nil, err
	}
	return files, closer, nil
}

func (c clone) all() (files fs.FS, closer func(), err error) {
	if c.revision == "" {
		disk, err := os.OpenRoot(c.root)
		if err != nil {
			return nil, nil, noFolder(c.shown)
		}
		return disk.FS(), func() { _ = disk.Close() }, nil
	}
	tree, err := treeOf(c.root, c.revision)
	if err != nil {
		return nil, nil, fault.New("", fault.NotFound, fault.Ref{}, "the clone has no branch, tag or commit %q", c.revision).At("--revision").
			Fix("fetch it, and run this inside the clone")
	}
	return committed{tree}, func() {}, nil
}

// treeOf finds the files of a branch, a tag, a commit or its beginning, or a revision as Flux writes it.
func treeOf(root, revision string) (*object.Tree, error) {
	dir := filepath.Join(root, ".git")
	if text, err := os.ReadFile(dir); err == nil { // a linked worktree
		dir = absolute(root, strings.TrimPrefix(string(text), "gitdir:"))
	}
	var common billy.Filesystem
	if text, err := os.ReadFile(filepath.Join(dir, "commondir")); err == nil { //nolint:gosec // below the clone that the person named
		common = osfs.New(absolute(dir, string(text)))
	}
	store := filesystem.NewStorage(dotgit.NewRepositoryFilesystem(osfs.New(dir), common), cache.NewObjectLRUDefault())
	if _, digest, ok := strings.Cut(revision, "sha1:"); ok {
		revision = digest
	}
	hash, err := hashOf(store, revision)
	if err != nil {
		return nil, err
	}
	if tag, err := object.GetTag(store, hash); err == nil {
		hash = tag.Target
	}
	commit, err := object.GetCommit(store, hash)
	if err != nil {
		return nil, err
	}
	return commit.Tree()
}

func absolute(from, to string) string {
	to = strings.TrimSpace(to)
	if filepath.IsAbs(to) {
		return to
	}
	return filepath.Join(from, to)
}

func hashOf(store *filesystem.Storage, name string) (plumbing.Hash, error) {
	for _, rule := range plumbing.RefRevParseRules {
		if ref, err := storer.ResolveReference(store, plumbing.ReferenceName(fmt.Sprintf(rule, name))); err == nil {
			return ref.Hash(), nil
		}
	}
	if plumbing.IsHash(name) {
		return plumbing.NewHash(name), nil
	}
	prefix, err := hex.DecodeString(name[:len(name)/2*2])
	if err != nil || len(prefix) < 2 {
		return plumbing.ZeroHash, plumbing.ErrReferenceNotFound
	}
	found, err := store.HashesWithPrefix(prefix)
	found = slices.DeleteFunc(found, func(h plumbing.Hash) bool { return !strings.HasPrefix(h.String(), name) })
	if err != nil || len(found) != 1 {
		return plumbing.ZeroHash, plumbing.ErrReferenceNotFound
	}
	return found[0], nil
}

// name returns a file of the repository as people find it.
func (c clone) name(file string) string {
	if c.revision != "" {
		return file
	}
	return relative(c.shown, file)
}

// committed are the files of a commit, read as they are asked for.
type committed struct{ root *object.Tree }

const (
	maxHops = 40
	maxFile = 64 << 20
)

// Open implements fs.FS. Symlinks are followed inside of the commit only.
func (c committed) Open(name string) (fs.File, error) {
	fail := func(err error) (fs.File, error) { return nil, &fs.PathError{Op: "open", Path: name, Err: err} }
	if !fs.ValidPath(name) {
		return fail(fs.ErrInvalid)
	}
	entry, tree, err := c.find(name, 0)
	if err != nil {
		return fail(err)
	}
	info := committedInfo{name: path.Base(name), mode: entry.Mode}
	if tree != nil {
		return &committedDir{info: info, tree: tree}, nil
	}
	blob, err := c.root.TreeEntryFile(entry)
	if err != nil || blob.Size > maxFile {
		return fail(fs.ErrNotExist) // a submodule, or too large for a manifest
	}
	text, err := content(blob)
	if err != nil {
		return fail(err)
	}
	info.size = int64(len(text))
	return &committedFile{Reader: bytes.NewReader(text), info: info}, nil
}

func content(blob *object.File) ([]byte, error) {
	r, err := blob.Reader()
	if err != nil {
		return nil, err
	}
	text, err := io.ReadAll(r)
	return text, errors.Join(err, r.Close())
}

// find follows a path, links included. tree is nil for a file.
func (c committed) find(name string, hops int) (*object.TreeEntry, *object.Tree, error) {
	at, tree := &object.TreeEntry{Mode: filemode.Dir}, c.root
	if name == "." {
		return at, tree, nil
	}
	steps := strings.Split(name, "/")
	for i, step := range steps {
		if tree == nil {
			return nil, nil, fs.ErrNotExist
		}
		n := slices.IndexFunc(tree.Entries, func(e object.TreeEntry) bool { return e.Name == step })
		if n < 0 {
			return nil, nil, fs.ErrNotExist
		}
		at = &tree.Entries[n]
		if at.Mode == filemode.Symlink {
			return c.follow(tree, at, steps, i, hops)
		}
		next := (*object.Tree)(nil)
		if at.Mode == filemode.Dir {
			var err error
			if next, err = tree.Tree(step); err != nil {
				return nil, nil, fs.ErrNotExist
			}
		}
		tree = next
	}
	return at, tree, nil
}

func (c committed) follow(tree *object.Tree, link *object.TreeEntry, steps []string, i, hops int) (*object.TreeEntry, *object.Tree, error) {
	blob, err := tree.TreeEntryFile(link)
	if err != nil || blob.Size > 4096 || hops > maxHops {
		return nil, nil, fs.ErrNotExist
	}
	target, err := content(blob)
	if err != nil {
		return nil, nil, err
	}
	to := path.Join(append([]string{path.Join(steps[:i]...), string(target)}, steps[i+1:]...)...)
	if path.IsAbs(string(target)) || !fs.ValidPath(to) {
		return nil, nil, fs.ErrPermission
	}
	return c.find(to, hops+1)
}

type committedInfo struct {
	name string
	mode filemode.FileMode
	size int64
}

func (i committedInfo) Name() string       { return i.name }
func (i committedInfo) Size() int64        { return i.size }
func (i committedInfo) ModTime() time.Time { return time.Time{} }
func (i committedInfo) IsDir() bool        { return i.Mode().IsDir() }
func (i committedInfo) Sys() any           { return nil }

// Mode returns the kind of the file; nobody may write it.
func (i committedInfo) Mode() fs.FileMode {
	switch i.mode { //nolint:exhaustive // the others are files
	case filemode.Dir, filemode.Submodule:
		return fs.ModeDir | 0o555
	case filemode.Symlink:
		return fs.ModeSymlink | 0o444
	}
	return 0o444
}

type committedFile struct {
	*bytes.Reader
	info committedInfo
}

func (f *committedFile) Stat() (fs.FileInfo, error) { return f.info, nil }
func (f *committedFile) Close() error               { return nil }

type committedDir struct {
	info committedInfo
	tree *object.Tree
	read int
}

func (d *committedDir) Stat() (fs.FileInfo, error) { return d.info, nil }
func (d *committedDir) Close() error               { return nil }
func (d *committedDir) Read([]byte) (int, error) {
	return 0, &fs.PathError{Op: "read", Path: d.info.name, Err: fs.ErrInvalid}
}

// ReadDir implements fs.ReadDirFile.
func (d *committedDir) ReadDir(n int) ([]fs.DirEntry, error) {
	var out []fs.DirEntry
	for _, e := range d.tree.Entries[d.read:] {
		if n > 0 && len(out) == n {
			break
		}
		out = append(out, fs.FileInfoToDirEntry(committedInfo{name: e.Name, mode: e.Mode}))
	}
	if d.read += len(out); n > 0 && len(out) == 0 {
		return nil, io.EOF
	}
	return out, nil
}
