package source

import (
	"bytes"
	"errors"
	"io"
	"io/fs"
	"time"

	"github.com/go-git/go-git/v5/plumbing/filemode"
)

// info describes an entry. It is fs.FileInfo.
type info struct {
	tree *Tree
	node node
	name string
}

func (i info) Name() string       { return i.name }
func (i info) IsDir() bool        { return i.node.isDir() }
func (i info) ModTime() time.Time { return time.Time{} }
func (i info) Sys() any           { return nil }

// Size is looked up when it is asked for: that costs a read, and hardly anybody asks. It is 0 when the repository left the
// cache meanwhile; who reads the file is told.
func (i info) Size() int64 {
	if i.node.isDir() {
		return 0
	}
	size, err := i.tree.repo.blobSize(i.node.hash)
	if err != nil {
		return 0
	}
	return size
}

// Mode is what the artifact says, too: no more than the owner may do.
func (i info) Mode() fs.FileMode {
	switch {
	case i.node.isDir():
		return fs.ModeDir | 0o750
	case i.node.mode == filemode.Symlink:
		return fs.ModeSymlink | 0o777
	case i.node.mode == filemode.Executable:
		return 0o700
	}
	return 0o600
}

// entry is an fs.DirEntry.
type entry struct{ info }

func (e entry) Type() fs.FileMode { return e.Mode().Type() }

func (e entry) Info() (fs.FileInfo, error) { return e.info, nil }

// file is an open file or folder.
type file struct {
	info    info
	path    string
	where   []string
	content *bytes.Reader
	list    []fs.DirEntry
	listed  bool
	closed  bool
}

func (f *file) Stat() (fs.FileInfo, error) { return f.info, nil }

func (f *file) Read(p []byte) (int, error) {
	switch {
	case f.closed:
		return 0, pathError("read", f.path, fs.ErrClosed)
	case f.info.IsDir():
		return 0, pathError("read", f.path, errors.New("is a directory"))
	case f.content == nil:
		body, err := f.info.tree.repo.blob(f.info.node.hash, f.info.tree.limits.Blob)
		if err != nil {
			return 0, pathError("read", f.path, f.info.tree.readFault(f.path, err))
		}
		f.content = bytes.NewReader(body)
	}
	return f.content.Read(p)
}

func (f *file) ReadDir(n int) ([]fs.DirEntry, error) {
	if f.closed {
		return nil, pathError("readdir", f.path, fs.ErrClosed)
	}
	if !f.listed {
		list, err := f.info.tree.list(f.info.node, f.where)
		if err != nil {
			return nil, pathError("readdir", f.path, err)
		}
		f.list, f.listed = list, true
	}
	if n <= 0 {
		out := f.list
		f.list = nil
		return out, nil
	}
	if len(f.list) == 0 {
		return nil, io.EOF
	}
	n = min(n, len(f.list))
	out := f.list[:n:n]
	f.list = f.list[n:]
	return out, nil
}

func (f *file) Close() error {
	if f.closed {
		return pathError("close", f.path, fs.ErrClosed)
	}
	f.closed, f.content, f.list = true, nil, nil
	return nil
}
