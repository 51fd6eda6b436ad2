package render

import (
	"bytes"
	"encoding/base64"
	"errors"
	"io/fs"
	"path"
	"path/filepath"
	"regexp"
	"strings"

	"sigs.k8s.io/kustomize/kyaml/filesys"

	"sealock.dev/sealock/manifest"
	"sealock.dev/sealock/plaintext"
)

// mount is where the repository stands in the paths that kustomize sees. Nothing stands beside it.
const mount = "/repository"

// ciphertext is the MAC of a SOPS file in any of its formats.
var ciphertext = regexp.MustCompile(`(?m)^\s*(sops_)?"?mac"?\s*[:=]\s*"?ENC\[AES256_GCM,|"mac":\s*"ENC\[AES256_GCM,`)

// role says how kustomize reads a file.
type role int

// The roles, the stricter the later. A file in several roles is held to the strictest.
const (
	asUnknown  role = iota
	asData          // a generator takes it as it is
	asOther         // kustomize parses it
	asResource      // it holds objects
)

// fileSystem is the repository as kustomize sees it: read only, ending at the root of the repository, and with
// kustomization files that were checked and rewritten.
type fileSystem struct {
	tree *tree
	opts Options
	dir  string // what is built

	rootFile   string // its kustomization file, or the one made for it
	keepOrigin bool   // the user wants the annotation
	sorted     bool   // it says how objects are sorted
	anonymous  bool   // objects do not note where they come from
	readOrigin bool   // something in the build may read that note

	kustomizations map[string][]byte // checked, by name of the file
	roles          map[string]role
	confidential   map[string]bool // files of a secretGenerator
	docs           map[string][]manifest.Document
	private        []plaintext.Value // secret values that stand in Git in the clear, to keep them out of errors
	included       int
	refused        error
}

var _ filesys.FileSystem = (*fileSystem)(nil)

func newFileSystem(t *tree, opts Options, dir string) *fileSystem {
	return &fileSystem{tree: t, opts: opts, dir: dir, kustomizations: map[string][]byte{}, roles: map[string]role{}, confidential: map[string]bool{}, docs: map[string][]manifest.Document{}}
}

// inside returns the name in the repository of a path that kustomize asks for.
func inside(p string) (string, bool) {
	p = path.Clean(p)
	if p == mount {
		return ".", true
	}
	name, ok := strings.CutPrefix(p, mount+"/")
	return name, ok && fs.ValidPath(name)
}

func isKustomization(name string) bool {
	for _, k := range kustomizationNames {
		if path.Base(name) == k {
			return true
		}
	}
	return false
}

// ReadFile returns a file. What is wrong with it is kept, since kustomize does not keep error types.
func (f *fileSystem) ReadFile(p string) ([]byte, error) {
	name, ok := inside(p)
	if !ok {
		return nil, f.refuse(denied(p, "the path leaves the repository").Fix("refer to files inside the repository"))
	}
	if isKustomization(name) {
		return f.readKustomization(name)
	}
	if info, err := f.tree.stat(name); err == nil && info.IsDir() {
		return nil, errors.New("is a directory") // kustomize tries a resource as a file first
	}
	data, err := f.tree.read(name)
	if err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			return nil, err
		}
		return nil, f.refuse(f.tree.wrap(name, err))
	}
	if err := f.inspect(name, data); err != nil {
		return nil, f.refuse(err)
	}
	return data, nil
}

// noteOrigin looks for the annotation in which kustomize notes files. We ask for it to learn them, and nothing that a
// selector or a replacement can see may be there only because of that.
func (f *fileSystem) noteOrigin(text []byte) {
	f.readOrigin = f.readOrigin || bytes.Contains(text, []byte(originAnnotation))
}

// inspect bounds a file and, for resources, checks it in the words that a plain folder gets.
func (f *fileSystem) inspect(name string, data []byte) error {
	if f.confidential[name] {
		if ciphertext.Match(data) {
			return invalid(name, "the file of a secretGenerator is SOPS encrypted").Fix("set spec.decryption of the Kustomization")
		}
		f.private = append(f.private, plaintext.New(data))
	}
	switch f.roles[name] {
	case asData:
		return nil
	case asUnknown, asOther:
		f.noteOrigin(data)
		return bounded(name, data)
	case asResource:
	}
	if _, done := f.docs[name]; done {
		return nil
	}
	docs, err := manifest.Decode(name, data, manifest.DefaultLimits)
	if err != nil {
		return err
	}
	for _, d := range docs {
		it := item{body: d.Body, src: manifest.Source{File: name, Line: d.Line}}
		if _, isList := d.Body["items"].([]any); !isList {
			if err := manifest.RequireIdentity(d.Body, it.ref()); err != nil {
				return err
			}
		}
		f.keepPrivate(d.Body)
	}
	f.docs[name] = docs
	return bounded(name, data)
}

func (f *fileSystem) keepPrivate(body map[string]any) {
	if body["kind"] != "Secret" {
		return
	}
	for _, field := range []string{"data", "stringData"} {
		m, _ := body[field].(map[string]any)
		for _, v := range m {
			s, _ := v.(string)
			f.private = append(f.private, plaintext.FromString(s))
			if raw, err := base64.StdEncoding.DecodeString(s); err == nil && field == "data" {
				f.private = append(f.private, plaintext.New(raw))
			}
		}
	}
}

// maxWords bounds an error of kustomize.
const maxWords = 400

// words returns the text of an error of kustomize that may be shown: without the contents of files and patches that it
// quotes at length, without secrets that stand in Git, and with paths as they are in the repository.
func (f *fileSystem) words(err error) string {
	s := err.Error()
	for _, from := range []string{"`", "[patch:", "\n", "{\"", "invalid literal source"} {
		if i := strings.Index(s, from); i >= 0 {
			s = s[:i] + "(text left out)"
		}
	}
	s = plaintext.NewScrubber(f.private...).Scrub(s)
	s = strings.ReplaceAll(strings.ReplaceAll(s, mount+"/", ""), mount, ".")
	if len(s) > maxWords {
		s = strings.ToValidUTF8(s[:maxWords], "") + "..."
	}
	return s
}

// CleanedAbs returns the directory and the file of a path that exists.
func (f *fileSystem) CleanedAbs(p string) (filesys.ConfirmedDir, string, error) {
	name, ok := inside(p)
	if !ok {
		return "", "", f.refuse(denied(p, "the path leaves the repository").Fix("refer to files inside the repository"))
	}
	if err := f.tree.contained(name); err != nil {
		return "", "", f.refuse(err)
	}
	info, err := f.tree.stat(name)
	if err != nil {
		return "", "", err
	}
	full := path.Join(mount, name)
	if info.IsDir() {
		return filesys.ConfirmedDir(full), "", nil
	}
	return filesys.ConfirmedDir(path.Dir(full)), path.Base(full), nil
}

// IsDir reports whether the path is a directory.
func (f *fileSystem) IsDir(p string) bool {
	name, ok := inside(p)
	if !ok {
		return false
	}
	info, err := f.tree.stat(name)
	return err == nil && info.IsDir()
}

// Exists reports whether the path exists.
func (f *fileSystem) Exists(p string) bool {
	name, ok := inside(p)
	if !ok {
		return false
	}
	_, err := f.tree.stat(name)
	return err == nil
}

// errReadOnly answers everything that a build does not need.
var errReadOnly = errors.New("the repository is read only")

// Create is refused.
func (f *fileSystem) Create(string) (filesys.File, error) { return nil, errReadOnly }

// Mkdir is refused.
func (f *fileSystem) Mkdir(string) error { return errReadOnly }

// MkdirAll is refused.
func (f *fileSystem) MkdirAll(string) error { return errReadOnly }

// RemoveAll is refused.
func (f *fileSystem) RemoveAll(string) error { return errReadOnly }

// WriteFile is refused.
func (f *fileSystem) WriteFile(string, []byte) error { return errReadOnly }

// Open is refused: a build reads whole files.
func (f *fileSystem) Open(string) (filesys.File, error) { return nil, errReadOnly }

// ReadDir is refused: a kustomization names its files.
func (f *fileSystem) ReadDir(string) ([]string, error) { return nil, errReadOnly }

// Glob is refused, as ReadDir.
func (f *fileSystem) Glob(string) ([]string, error) { return nil, errReadOnly }

// Walk is refused, as ReadDir.
func (f *fileSystem) Walk(string, filepath.WalkFunc) error { return errReadOnly }
