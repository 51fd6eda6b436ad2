package render

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"path"
	"strings"

	"sealock.dev/sealock/fault"
	"sealock.dev/sealock/manifest"
)

// kustomizationNames are the names under which kustomize looks for its file.
var kustomizationNames = []string{"kustomization.yaml", "kustomization.yml", "Kustomization"} //nolint:gochecknoglobals // a constant

// maxLinks bounds how many symbolic links one path may follow.
const maxLinks = 20

// tree reads the repository, within the bounds of one build. A revision does not change: what a path is, is asked once.
type tree struct {
	ctx   context.Context //nolint:containedctx // one build; kustomize's file system has no context in its methods
	files fs.FS
	count int
	bytes int

	known map[string]described // by path, links followed
	real  map[string]bool      // paths without links of which the last part is no link
	safe  map[string]bool      // paths that do not leave the repository
}

// described is an answer of fs.Stat.
type described struct {
	info fs.FileInfo
	err  error
}

func newTree(ctx context.Context, files fs.FS) *tree {
	return &tree{ctx: ctx, files: files, known: map[string]described{}, real: map[string]bool{}, safe: map[string]bool{}}
}

// stat is fs.Stat.
func (t *tree) stat(name string) (fs.FileInfo, error) {
	d, ok := t.known[name]
	if !ok {
		d.info, d.err = fs.Stat(t.files, name)
		t.known[name] = d
	}
	return d.info, d.err
}

func invalid(file, format string, args ...any) *fault.Error {
	return fault.New(fault.StageRender, fault.Invalid, fault.Ref{File: file}, format, args...)
}

func (t *tree) requireDir(dir string) error {
	if !fs.ValidPath(dir) {
		return fault.New(fault.StageRender, fault.Denied, fault.Ref{File: dir}, "the path leaves the repository").At("spec.path").
			Fix("name a directory inside the repository")
	}
	if err := t.contained(dir); err != nil {
		return err
	}
	info, err := t.stat(dir)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return fault.New(fault.StageRender, fault.NotFound, fault.Ref{}, "path %q does not exist in this revision", dir).At("spec.path").
			Fix("correct the path, or push the directory")
	case err != nil:
		return t.wrap(dir, err)
	case !info.IsDir():
		return fault.New(fault.StageRender, fault.Invalid, fault.Ref{}, "path %q is not a directory", dir).At("spec.path").Fix("name its directory")
	}
	return nil
}

// wrap classifies an error of the file system. A classified one, such as of a decrypting file system, stays as it is.
func (t *tree) wrap(name string, err error) error {
	if f := new(fault.Error); errors.As(err, &f) {
		return err
	}
	if errors.Is(err, fs.ErrNotExist) {
		return invalid(name, "the file does not exist").Fix("add it, or remove the reference")
	}
	var p *fs.PathError
	if errors.As(err, &p) {
		return invalid(name, "the file cannot be read: %w", p.Err).Fix("a link or path must stay inside the repository")
	}
	return fault.New(fault.StageRender, fault.Transient, fault.Ref{File: name}, "the file cannot be read").Fix("the commit is retried")
}

// contained refuses a path that leaves the repository through a symbolic link. A file system without links passes.
func (t *tree) contained(name string) error {
	if _, ok := t.files.(fs.ReadLinkFS); !ok || t.safe[name] {
		return nil
	}
	rest := strings.Split(name, "/")
	at, links := ".", 0
	for len(rest) > 0 {
		next := path.Join(at, rest[0])
		rest = rest[1:]
		if t.real[next] {
			at = next
			continue
		}
		info, err := fs.Lstat(t.files, next)
		if err != nil || info.Mode()&fs.ModeSymlink == 0 {
			t.real[next] = true
			at = next
			continue
		}
		target, err := fs.ReadLink(t.files, next)
		if links++; err != nil || links > maxLinks {
			return invalid(name, "the path follows too many links").Fix("remove the links")
		}
		resolved := path.Join(at, target)
		if path.IsAbs(target) || !fs.ValidPath(resolved) {
			return fault.New(fault.StageRender, fault.Denied, fault.Ref{File: name}, "a symbolic link leaves the repository").Fix("replace the link by the file")
		}
		rest = append(strings.Split(resolved, "/"), rest...)
		at = "."
	}
	t.safe[name] = true
	return nil
}

// read returns one file.
func (t *tree) read(name string) ([]byte, error) {
	if err := t.ctx.Err(); err != nil {
		return nil, fault.New(fault.StageRender, fault.Transient, fault.Ref{}, "stopped before the build was done")
	}
	if err := t.contained(name); err != nil {
		return nil, err
	}
	f, err := t.files.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close() //nolint:errcheck // read only
	data, err := io.ReadAll(io.LimitReader(f, int64(maxBytes-t.bytes)+1))
	if err != nil {
		return nil, err
	}
	t.count++
	t.bytes += len(data)
	if t.count > maxFiles || t.bytes > maxBytes {
		return nil, invalid(name, "the build reads more than %d files or %d bytes", maxFiles, maxBytes).Fix("split the Kustomization")
	}
	return data, nil
}

// kustomization returns the name of the kustomization file of dir, "" when there is none.
func (t *tree) kustomization(dir string) (string, error) {
	found := ""
	for _, name := range kustomizationNames {
		file := path.Join(dir, name)
		if info, err := t.stat(file); err != nil || info.IsDir() {
			continue
		}
		if found != "" {
			return "", invalid(file, "the directory has two kustomization files").Fix("remove one of them")
		}
		found = file
	}
	return found, nil
}

// plain decodes the manifests of a folder in the order of their names. A folder below with a kustomization file of its
// own is built as one unit. What holds no manifests was left out by the ignore rules of the source, also by a leading dot.
func (t *tree) plain(dir string) ([]item, error) {
	var out []item
	var errs []error
	err := t.walk(dir, func(name string, unit bool) error {
		var items []item
		var err error
		if unit {
			items, err = New(Options{}).kustomize(t, name)
		} else {
			items, err = t.decode(name)
		}
		out = append(out, items...)
		errs = append(errs, err)
		return nil
	})
	return out, errors.Join(append(errs, err)...)
}

// walk calls fn for every manifest, and for every folder that is a unit.
func (t *tree) walk(dir string, fn func(name string, unit bool) error) error {
	entries, err := fs.ReadDir(t.files, dir)
	if err != nil {
		return t.wrap(dir, err)
	}
	for _, e := range entries {
		name := path.Join(dir, e.Name())
		skip, err := t.leads(name, e)
		if err != nil {
			return err
		}
		if skip {
			continue
		}
		if !e.IsDir() {
			if isManifest(name) {
				if err := fn(name, false); err != nil {
					return err
				}
			}
			continue
		}
		unit, err := t.kustomization(name)
		if err != nil {
			return err
		}
		if unit != "" {
			err = fn(name, true)
		} else {
			err = t.walk(name, fn)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// leads checks where an entry of a safe folder leads to. A link to a folder is not followed, as in other walks; one to a
// file is read if it stays inside.
func (t *tree) leads(name string, e fs.DirEntry) (skip bool, err error) {
	if e.Type()&fs.ModeSymlink == 0 {
		t.safe[name] = true // its folder is, and this leads nowhere else
		return false, nil
	}
	if err := t.contained(name); err != nil {
		return false, err
	}
	info, err := t.stat(name)
	return err == nil && info.IsDir(), nil
}

// isManifest is exact, as Flux is: JSON and .YAML are read where a kustomization lists them.
func isManifest(name string) bool {
	ext := path.Ext(name)
	return ext == ".yaml" || ext == ".yml"
}

// decode reads one file of manifests.
func (t *tree) decode(name string) ([]item, error) {
	data, err := t.read(name)
	if err != nil {
		return nil, t.wrap(name, err)
	}
	docs, err := manifest.Decode(name, data, manifest.DefaultLimits)
	if err != nil {
		return nil, err
	}
	out := make([]item, 0, len(docs))
	for _, d := range docs {
		out = append(out, item{body: d.Body, src: manifest.Source{File: name, Line: d.Line}})
	}
	return out, nil
}
