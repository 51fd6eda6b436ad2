package source

import (
	"errors"
	"io/fs"
	"path"
	"slices"
	"strings"
	"sync"
	"unicode/utf8"

	"github.com/go-git/go-git/v5/plumbing"
	"github.com/go-git/go-git/v5/plumbing/filemode"
	"github.com/go-git/go-git/v5/plumbing/object"

	"sealock.dev/sealock/fault"
)

// Tree is the files of one commit, less what the ignore rules leave out. Nothing is read before it is asked for, and no
// file is kept. It implements fs.FS, fs.ReadDirFS, fs.ReadFileFS, fs.StatFS and fs.ReadLinkFS, is safe for concurrent
// use, and stays readable while its repository is cached: at least until two newer commits have been fetched.
//
// Symlinks are followed inside the tree only. A submodule that was not asked for is an empty folder.
type Tree struct {
	repo     *repository
	commit   plumbing.Hash
	root     plumbing.Hash // of the commit, or of what was composed from it
	shape    string        // what tells compositions of one commit apart
	revision string
	subject  string
	ignore   *string
	rules    *rules
	limits   Limits

	mu   sync.Mutex
	dirs map[plumbing.Hash][]node // decoded, a few
}

// node is an entry of a folder.
type node struct {
	name string
	mode filemode.FileMode
	hash plumbing.Hash
}

func (n node) isDir() bool { return n.mode == filemode.Dir || n.mode == filemode.Submodule }

// maxDirs is how many decoded folders a Tree remembers.
const maxDirs = 512

// maxLink bounds the target of a symlink, maxHops how many are followed, maxDepth how deep folders are nested.
const (
	maxLink  = 4096
	maxHops  = 40
	maxDepth = 100
)

// Revision returns the revision that the tree was opened for, such as main@sha1:<hex>.
func (t *Tree) Revision() string { return t.revision }

// Commit returns the hash of the commit in hex.
func (t *Tree) Commit() string { return t.commit.String() }

// Subject returns the first line of the commit's message, at most 200 bytes of printable text.
func (t *Tree) Subject() string { return t.subject }

// Hash returns a string that is equal while what the path resolves to is equal: for a file of its content, for a folder
// of everything below it and of the ignore rules. It follows symlinks; what a symlink below the folder points to
// outside of it is not part of the folder's hash. It is false when there is no such path.
func (t *Tree) Hash(name string) (string, bool) {
	if !fs.ValidPath(name) {
		return "", false
	}
	n, _, err := t.resolve(name, true)
	if err != nil {
		return "", false
	}
	if n.isDir() {
		return n.hash.String() + "+" + t.rules.digest, true
	}
	return n.hash.String(), true
}

// resolve walks to a path. The result is the entry and its real path in the tree, with symlinks followed.
func (t *Tree) resolve(name string, followLast bool) (node, []string, error) {
	type step struct {
		node
		name string
	}
	at := []step{{node: node{mode: filemode.Dir, hash: t.root}}}
	real := func() []string {
		out := make([]string, 0, len(at))
		for _, s := range at[1:] {
			out = append(out, s.name)
		}
		return out
	}
	rest := strings.Split(name, "/")
	for hops := 0; len(rest) > 0; {
		part := rest[0]
		rest = rest[1:]
		switch part {
		case "", ".":
			continue
		case "..":
			if len(at) == 1 {
				return node{}, nil, escapes(name)
			}
			at = at[:len(at)-1]
			continue
		}
		child, err := t.child(at[len(at)-1].node, part)
		if err != nil {
			return node{}, nil, err
		}
		if child.mode == filemode.Symlink && (followLast || len(rest) > 0) {
			if t.rules.hides(append(real(), part), false) {
				return node{}, nil, fs.ErrNotExist
			}
			target, err := t.link(name, child.hash)
			if err != nil {
				return node{}, nil, err
			}
			if hops++; hops > maxHops {
				return node{}, nil, inFile(fault.Invalid, name, "too many symlinks follow each other").Fix("remove the loop")
			}
			rest = append(strings.Split(target, "/"), rest...)
			continue
		}
		at = append(at, step{node: child, name: part})
	}
	n, where := at[len(at)-1].node, real()
	if !t.visible(n, where) {
		return node{}, nil, fs.ErrNotExist
	}
	return n, where, nil
}

func escapes(name string) error {
	return inFile(fault.Invalid, name, "a symlink in this path leaves the repository").Fix("copy what it points to into the repository")
}

// link returns the target of a symlink.
func (t *Tree) link(name string, h plumbing.Hash) (string, error) {
	raw, err := t.repo.blob(h, maxLink)
	if err != nil {
		return "", t.readFault(name, err)
	}
	target := string(raw)
	if target == "" || strings.ContainsRune(target, 0) {
		return "", inFile(fault.Invalid, name, "a symlink in this path has no valid target").Fix("remove it")
	}
	if strings.HasPrefix(target, "/") {
		return "", escapes(name)
	}
	return target, nil
}

// child finds an entry of a folder.
func (t *Tree) child(dir node, name string) (node, error) {
	if dir.mode != filemode.Dir {
		return node{}, fs.ErrNotExist
	}
	entries, err := t.entries(dir.hash)
	if err != nil {
		return node{}, err
	}
	i, found := slices.BinarySearchFunc(entries, name, func(n node, name string) int { return strings.Compare(n.name, name) })
	if !found {
		return node{}, fs.ErrNotExist
	}
	return entries[i], nil
}

// entries returns a folder's entries by name, ignored ones included. The result must not be changed.
func (t *Tree) entries(h plumbing.Hash) ([]node, error) {
	t.mu.Lock()
	list, ok := t.dirs[h]
	t.mu.Unlock()
	if ok {
		return list, nil
	}
	list, err := t.repo.folder(h)
	if err != nil {
		return nil, err
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.dirs == nil || len(t.dirs) >= maxDirs {
		t.dirs = map[plumbing.Hash][]node{}
	}
	t.dirs[h] = list
	return list, nil
}

// folder decodes a tree object. Names that no file system takes are refused: they come from crafted packs only. Names that
// are not UTF-8 are left out, since io/fs cannot ask for them.
func (r *repository) folder(h plumbing.Hash) ([]node, error) {
	r.mu.Lock()
	tree, err := object.GetTree(r.store, h)
	r.mu.Unlock()
	if err != nil {
		return nil, goneOr(err, "a folder of the repository is missing in what the Git server sent")
	}
	out := make([]node, 0, len(tree.Entries))
	for _, e := range tree.Entries {
		if e.Name == "" || e.Name == "." || e.Name == ".." || strings.EqualFold(e.Name, ".git") || strings.ContainsAny(e.Name, "/\x00") {
			return nil, fail(fault.Invalid, ReasonInvalid, "the repository holds a file name that is not allowed").Fix("check it with git fsck")
		}
		if !utf8.ValidString(e.Name) {
			continue
		}
		out = append(out, node{name: e.Name, mode: e.Mode, hash: e.Hash})
	}
	slices.SortFunc(out, func(a, b node) int { return strings.Compare(a.name, b.name) })
	for i := 1; i < len(out); i++ {
		if out[i].name == out[i-1].name {
			return nil, fail(fault.Invalid, ReasonInvalid, "the repository holds a file name twice in one folder").Fix("check it with git fsck")
		}
	}
	return out, nil
}

// goneOr tells a cache that was emptied under a reader from a repository that is not whole.
func goneOr(err error, text string) error {
	if errors.Is(err, fs.ErrNotExist) {
		return fail(fault.Transient, ReasonCacheStale, "the repository left the cache while it was read").Fix("it is tried again")
	}
	return broken(text)
}

func (t *Tree) readFault(name string, err error) error {
	if errors.Is(err, errTooLarge) {
		return inFile(fault.Invalid, name, "the file is larger than the limit").Fix("keep files under %d MiB, or leave it out with spec.ignore", t.limits.Blob>>20)
	}
	var own *fault.Error
	if errors.As(err, &own) {
		return err
	}
	f := goneOr(err, "a file of the repository is missing in what the Git server sent")
	for _, each := range fault.All(f) {
		each.Ref.File = name
	}
	return f
}

// visible reports whether an entry is part of the tree.
func (t *Tree) visible(n node, where []string) bool {
	if len(where) == 0 || !t.rules.hides(where, n.isDir()) {
		return true
	}
	// A folder that is left out is there all the same when a file below it is not.
	return n.mode == filemode.Dir && t.anyVisible(n.hash, where)
}

func (t *Tree) anyVisible(dir plumbing.Hash, where []string) bool {
	entries, err := t.entries(dir)
	if err != nil {
		return false
	}
	for _, e := range entries {
		below := append(slices.Clone(where), e.name)
		if !e.isDir() && !t.rules.hides(below, false) || e.mode == filemode.Dir && t.anyVisible(e.hash, below) {
			return true
		}
	}
	return false
}

// pathError wraps err as io/fs wants it.
func pathError(op, name string, err error) error { return &fs.PathError{Op: op, Path: name, Err: err} }

// Open opens a file or folder. Files are read when they are first read from.
func (t *Tree) Open(name string) (fs.File, error) {
	n, where, err := t.find("open", name, true)
	if err != nil {
		return nil, err
	}
	return &file{info: info{tree: t, node: n, name: path.Base(name)}, path: name, where: where}, nil
}

func (t *Tree) find(op, name string, follow bool) (node, []string, error) {
	if !fs.ValidPath(name) {
		return node{}, nil, pathError(op, name, fs.ErrInvalid)
	}
	n, where, err := t.resolve(name, follow)
	if err != nil {
		return node{}, nil, pathError(op, name, err)
	}
	return n, where, nil
}

// ReadFile returns the content of a file.
func (t *Tree) ReadFile(name string) ([]byte, error) {
	n, _, err := t.find("read", name, true)
	if err != nil {
		return nil, err
	}
	if n.isDir() {
		return nil, pathError("read", name, errors.New("is a directory"))
	}
	body, err := t.repo.blob(n.hash, t.limits.Blob)
	if err != nil {
		return nil, pathError("read", name, t.readFault(name, err))
	}
	return body, nil
}

// ReadDir lists a folder by name.
func (t *Tree) ReadDir(name string) ([]fs.DirEntry, error) {
	n, where, err := t.find("readdir", name, true)
	if err != nil {
		return nil, err
	}
	list, err := t.list(n, where)
	if err != nil {
		return nil, pathError("readdir", name, err)
	}
	return list, nil
}

func (t *Tree) list(n node, where []string) ([]fs.DirEntry, error) {
	if !n.isDir() {
		return nil, errors.New("not a directory")
	}
	if n.mode == filemode.Submodule {
		return nil, nil
	}
	entries, err := t.entries(n.hash)
	if err != nil {
		return nil, err
	}
	out := make([]fs.DirEntry, 0, len(entries))
	for _, e := range entries {
		if t.visible(e, append(slices.Clone(where), e.name)) {
			out = append(out, entry{info{tree: t, node: e, name: e.name}})
		}
	}
	return out, nil
}

// Stat describes what the path resolves to.
func (t *Tree) Stat(name string) (fs.FileInfo, error) { return t.stat("stat", name, true) }

// Lstat describes the path itself, a symlink not followed.
func (t *Tree) Lstat(name string) (fs.FileInfo, error) { return t.stat("lstat", name, false) }

func (t *Tree) stat(op, name string, follow bool) (fs.FileInfo, error) {
	n, _, err := t.find(op, name, follow)
	if err != nil {
		return nil, err
	}
	return info{tree: t, node: n, name: path.Base(name)}, nil
}

// ReadLink returns the target of a symlink, as it is written.
func (t *Tree) ReadLink(name string) (string, error) {
	n, _, err := t.find("readlink", name, false)
	if err != nil {
		return "", err
	}
	if n.mode != filemode.Symlink {
		return "", pathError("readlink", name, fs.ErrInvalid)
	}
	raw, err := t.repo.blob(n.hash, maxLink)
	if err != nil {
		return "", pathError("readlink", name, t.readFault(name, err))
	}
	return string(raw), nil
}
