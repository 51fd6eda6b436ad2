package source

import (
	"errors"
	"io"
	"io/fs"
	"path"
	"slices"
	"strings"

	"sealock.dev/sealock/fault"
)

// Folder is a folder of this machine as the tree of a commit would show it: without what the ignore files in it leave
// out. What the spec of a GitRepository leaves out besides is not known here.
type Folder struct {
	fs.FS
	rules *rules
}

// NewFolder reads the ignore files.
func NewFolder(files fs.FS) (*Folder, error) {
	var b rulesBuilder
	err := fs.WalkDir(files, ".", func(name string, e fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return fs.SkipDir // who asks for what is in it learns why
		case e.IsDir() && e.Name() == ".git":
			return fs.SkipDir
		case e.Name() != ignoreFile || !e.Type().IsRegular():
			return nil
		}
		text, err := readIgnore(files, name)
		if err != nil {
			return err
		}
		var domain []string
		if dir := path.Dir(name); dir != "." {
			domain = strings.Split(dir, "/")
		}
		return b.add(text, domain)
	})
	if err != nil {
		return nil, err
	}
	r, err := b.rules(nil)
	return &Folder{FS: files, rules: r}, err
}

func readIgnore(files fs.FS, name string) (string, error) {
	f, err := files.Open(name)
	if err != nil {
		return "", err
	}
	text, err := io.ReadAll(io.LimitReader(f, maxIgnoreFile+1))
	if err = errors.Join(err, f.Close()); err != nil || len(text) > maxIgnoreFile {
		return "", inFile(fault.Invalid, name, "the ignore file cannot be read, or is too large").Fix("keep it under %d KiB", maxIgnoreFile>>10)
	}
	return string(text), nil
}

func (f *Folder) hides(name string, isDir bool) bool {
	if isDir { // a file below may be shown all the same
		return path.Base(name) == ".git"
	}
	return f.rules.hides(strings.Split(name, "/"), false)
}

// Open opens a file or folder that is shown.
func (f *Folder) Open(name string) (fs.File, error) {
	file, err := f.FS.Open(name)
	if err != nil {
		return nil, err
	}
	info, err := file.Stat()
	if err == nil && name != "." && f.hides(name, info.IsDir()) {
		err = pathError("open", name, fs.ErrNotExist)
	}
	if err != nil {
		return nil, errors.Join(err, file.Close())
	}
	return file, nil
}

// ReadDir lists what is shown of a folder.
func (f *Folder) ReadDir(name string) ([]fs.DirEntry, error) {
	entries, err := fs.ReadDir(f.FS, name)
	return slices.DeleteFunc(entries, func(e fs.DirEntry) bool { return f.hides(path.Join(name, e.Name()), e.IsDir()) }), err
}

// ReadLink and Lstat keep links what they are.
func (f *Folder) ReadLink(name string) (string, error) { return fs.ReadLink(f.FS, name) }

// Lstat describes a link, not what it leads to.
func (f *Folder) Lstat(name string) (fs.FileInfo, error) { return fs.Lstat(f.FS, name) }
