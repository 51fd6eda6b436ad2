package kustomization

import (
	"context"
	"crypto/sha256"
	"errors"
	"io/fs"
	"slices"
	"sync"
)

// hasher is a tree of files that knows, without reading it, what a path resolves to.
type hasher interface {
	// Hash is equal while the content of the file is.
	Hash(name string) (string, bool)
}

// maxReads bounds what is remembered of one build, and maxAllReads of all of them, at about eighty bytes each. A build that
// asks more, or comes when there is no room, is always done again.
const (
	maxReads    = 4096
	maxAllReads = 400_000
)

// question is what a build asked of a tree of files.
type question struct {
	kind byte // one of the asked constants
	name string
}

// The kinds of questions.
const (
	askedContent byte = 'c' // of a file
	askedKind    byte = 'k' // what the path leads to, links followed
	askedLink    byte = 'l' // what stands at the path itself
	askedList    byte = 'd' // the names in a folder
)

// answer is a digest, so that what is remembered is small and holds nothing of the files.
type answer [16]byte

// reads is what a build asked, and what it was answered, also in vain. A build that asked a tree the same and would be
// answered the same yields the same.
type reads struct {
	mu    sync.Mutex
	asked map[question]answer
	lost  bool // something could not be noted: the record is worth nothing
}

// noted is a question and its answer, as they are kept.
type noted struct {
	question
	answer answer
}

// done returns what was noted, nil when that is worth nothing.
func (r *reads) done() []noted {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.lost {
		return nil
	}
	out := make([]noted, 0, len(r.asked))
	for q, a := range r.asked {
		out = append(out, noted{q, a})
	}
	return out
}

func newReads() *reads { return &reads{asked: map[question]answer{}} }

// note remembers what the tree says, and that it cannot say it.
func (r *reads) note(files fs.FS, kind byte, name string) {
	q := question{kind, name}
	r.mu.Lock()
	_, known := r.asked[q]
	r.mu.Unlock()
	if known {
		return
	}
	a, ok := ask(files, q)
	r.mu.Lock()
	defer r.mu.Unlock()
	if !ok || len(r.asked) >= maxReads {
		r.lost = true
		return
	}
	r.asked[q] = a
}

// holds reports whether a tree answers everything in the same way.
func holds(list []noted, files fs.FS) bool {
	for _, n := range list {
		if now, ok := ask(files, n.question); !ok || now != n.answer {
			return false
		}
	}
	return len(list) > 0
}

// keep puts a record in the place of the last one, as far as there is room.
func (r *Reconciler) keep(m *memory, list []noted) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.noted -= len(m.reads)
	if r.noted+len(list) > maxAllReads {
		list = nil
	}
	m.reads = list
	r.noted += len(list)
}

// untouched reports whether a build of the revision would yield what the last one did.
func (r *Reconciler) untouched(ctx context.Context, m *memory, in inputs) bool {
	if len(m.reads) == 0 {
		return false
	}
	files, err := in.open(ctx)
	return err == nil && holds(m.reads, files)
}

// ask returns the tree's answer; false means that it has none to rely on.
func ask(files fs.FS, q question) (answer, bool) {
	tree, ok := files.(hasher)
	if !ok {
		return answer{}, false
	}
	switch q.kind {
	case askedContent:
		if h, ok := tree.Hash(q.name); ok {
			return digest("content", h), true
		}
		_, err := fs.Stat(files, q.name)
		return digest("absent"), errors.Is(err, fs.ErrNotExist)
	case askedKind:
		info, err := fs.Stat(files, q.name)
		return described(files, q.name, info, err)
	case askedLink:
		info, err := fs.Lstat(files, q.name)
		return described(files, q.name, info, err)
	case askedList:
		return names(files, q.name)
	}
	return answer{}, false
}

func described(files fs.FS, name string, info fs.FileInfo, err error) (answer, bool) {
	if err != nil {
		return digest("absent"), errors.Is(err, fs.ErrNotExist)
	}
	mode := info.Mode().Type().String()
	if info.Mode()&fs.ModeSymlink == 0 {
		return digest(mode), true
	}
	target, err := fs.ReadLink(files, name)
	return digest(mode, target), err == nil
}

// names answers with the names and types in a folder: what is in the files is asked apart.
func names(files fs.FS, name string) (answer, bool) {
	entries, err := fs.ReadDir(files, name)
	if err != nil {
		return digest("absent"), errors.Is(err, fs.ErrNotExist)
	}
	parts := make([]string, 0, 1+2*len(entries))
	parts = append(parts, "list")
	for _, e := range entries {
		parts = append(parts, e.Name(), e.Type().String())
	}
	return digest(parts...), true
}

func digest(parts ...string) answer {
	sum := sha256.New()
	for _, p := range parts {
		sum.Write([]byte(p))
		sum.Write([]byte{0})
	}
	return answer(sum.Sum(nil)[:16])
}

// recorder passes everything through to a tree and notes what was asked.
type recorder struct {
	files fs.FS
	reads *reads
}

var (
	_ fs.ReadFileFS = recorder{}
	_ fs.ReadDirFS  = recorder{}
	_ fs.StatFS     = recorder{}
	_ fs.ReadLinkFS = recorder{}
)

// Open notes a question about the content: whoever opens a folder to list it is noted as listing it, too.
func (r recorder) Open(name string) (fs.File, error) {
	f, err := r.files.Open(name)
	r.reads.note(r.files, askedKind, name)
	if err != nil {
		return nil, err
	}
	if info, statErr := f.Stat(); statErr == nil && info.IsDir() {
		r.reads.note(r.files, askedList, name)
	} else {
		r.reads.note(r.files, askedContent, name)
	}
	return f, nil
}

// ReadFile notes a question about the content.
func (r recorder) ReadFile(name string) ([]byte, error) {
	r.reads.note(r.files, askedContent, name)
	r.reads.note(r.files, askedKind, name)
	return fs.ReadFile(r.files, name)
}

// ReadDir notes a question about the names.
func (r recorder) ReadDir(name string) ([]fs.DirEntry, error) {
	r.reads.note(r.files, askedList, name)
	list, err := fs.ReadDir(r.files, name)
	return slices.Clone(list), err
}

// Stat notes a question about what the path leads to. Nobody who builds asks for a size without reading the file.
func (r recorder) Stat(name string) (fs.FileInfo, error) {
	r.reads.note(r.files, askedKind, name)
	return fs.Stat(r.files, name)
}

// Lstat notes a question about what stands at the path.
func (r recorder) Lstat(name string) (fs.FileInfo, error) {
	r.reads.note(r.files, askedLink, name)
	return fs.Lstat(r.files, name)
}

// ReadLink notes a question about the target.
func (r recorder) ReadLink(name string) (string, error) {
	r.reads.note(r.files, askedLink, name)
	return fs.ReadLink(r.files, name)
}
