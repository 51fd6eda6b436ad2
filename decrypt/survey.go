package decrypt

import (
	"errors"
	"io/fs"
	"iter"
	"path"
	"sort"
	"strings"

	"sealock.dev/sealock/fault"
	"sealock.dev/sealock/manifest"
)

// use is how a build takes a file.
type use int

const (
	asDocuments use = 1 << iota // manifests and patches: each value becomes a token
	asWhole                     // files of a generator: the content becomes one token
	asLines                     // envs of a generator: each value of a line becomes a token
)

// maxDirs bounds the survey; the build has its own limits.
const maxDirs = 1000

// kustomizationNames are the names under which kustomize looks for its file.
var kustomizationNames = []string{"kustomization.yaml", "kustomization.yml", "Kustomization"} //nolint:gochecknoglobals // a constant

// surveyed is what a build will read, as far as its kustomization files tell. What is wrong with them is for the build
// to say: here it is passed over.
type surveyed struct {
	files fs.FS
	uses  map[string]use
	keys  map[string]string // of a file that a generator takes whole, the name that it has there first
	kept  map[string]bool   // what a ConfigMap is made of stays as it is, unless it has another use
	order []string
	dirs  map[string]bool
}

func survey(files fs.FS, dir string, components []string) *surveyed {
	s := &surveyed{files: files, uses: map[string]use{}, keys: map[string]string{}, kept: map[string]bool{}, dirs: map[string]bool{}}
	dir = path.Clean(dir)
	s.directory(dir)
	for _, c := range components {
		s.directory(path.Join(dir, c))
	}
	return s
}

func (s *surveyed) add(name string, u use) {
	if !fs.ValidPath(name) {
		return
	}
	if s.uses[name] == 0 {
		s.order = append(s.order, name)
	}
	s.uses[name] |= u
}

// conflict reports encrypted files that would have to be tokens in two ways at once.
func (s *surveyed) conflict() error {
	var errs []error
	for _, name := range s.order {
		u := s.uses[name]
		if u&(u-1) == 0 {
			continue
		}
		data, err := fs.ReadFile(s.files, name)
		if err != nil || !Encrypted(name, data) {
			continue
		}
		errs = append(errs, fault.New(fault.StageDecrypt, fault.Invalid, fault.Ref{File: name},
			"the encrypted file is used in two ways: as a manifest, by files or by envs of a generator").Fix("encrypt one file for each use"))
	}
	return errors.Join(errs...)
}

func (s *surveyed) directory(dir string) {
	if !fs.ValidPath(dir) || s.dirs[dir] || len(s.dirs) >= maxDirs {
		return
	}
	s.dirs[dir] = true
	if k := s.kustomization(dir); k != nil {
		s.kustomize(dir, k)
		return
	}
	entries, err := fs.ReadDir(s.files, dir)
	if err != nil {
		return
	}
	for _, e := range entries {
		name := path.Join(dir, e.Name())
		switch {
		case e.IsDir():
			s.directory(name)
		case path.Ext(name) == ".yaml" || path.Ext(name) == ".yml": // exactly, as the build has it
			s.add(name, asDocuments)
		}
	}
}

func isManifest(name string) bool {
	switch strings.ToLower(path.Ext(name)) {
	case ".yaml", ".yml", ".json":
		return true
	}
	return false
}

// kustomization returns the content of the kustomization file of dir, nil when there is none; an empty mapping when it
// cannot be read.
func (s *surveyed) kustomization(dir string) map[string]any {
	for _, name := range kustomizationNames {
		file := path.Join(dir, name)
		data, err := fs.ReadFile(s.files, file)
		if err != nil {
			continue
		}
		docs, err := manifest.Decode(file, data, manifest.DefaultLimits)
		if err != nil || len(docs) == 0 {
			return map[string]any{}
		}
		return docs[0].Body
	}
	return nil
}

func (s *surveyed) kustomize(dir string, k map[string]any) {
	for _, field := range []string{"resources", "bases", "components"} {
		for _, entry := range texts(k[field]) {
			name := path.Join(dir, entry)
			if info, err := fs.Stat(s.files, validOrDot(name)); err == nil && info.IsDir() {
				s.directory(name)
			} else {
				s.add(name, asDocuments)
			}
		}
	}
	for _, entry := range append(texts(k["patchesStrategicMerge"]), texts(k["configurations"])...) {
		s.add(path.Join(dir, entry), asDocuments) // an inline patch is no file and is passed over when it is not found
	}
	for _, field := range []string{"patches", "patchesJson6902", "replacements"} {
		for _, m := range mappings(k[field]) {
			if p, _ := m["path"].(string); p != "" {
				s.add(path.Join(dir, p), asDocuments)
			}
		}
	}
	for _, g := range mappings(k["secretGenerator"]) {
		for key, file := range generated(dir, g) {
			s.add(file, asWhole)
			if s.keys[file] == "" {
				s.keys[file] = key
			}
		}
		for _, file := range lined(dir, g) {
			s.add(file, asLines)
		}
	}
	for _, g := range mappings(k["configMapGenerator"]) {
		for _, file := range generated(dir, g) {
			s.kept[file] = true
		}
		for _, file := range lined(dir, g) {
			s.kept[file] = true
		}
	}
	sort.Strings(s.order)
}

// generated yields the files that a generator takes whole, each with the key that it becomes.
func generated(dir string, g map[string]any) iter.Seq2[string, string] {
	return func(yield func(key, file string) bool) {
		for _, entry := range texts(g["files"]) {
			key, file, named := strings.Cut(entry, "=")
			if !named {
				key, file = path.Base(entry), entry
			}
			if !yield(key, path.Join(dir, file)) {
				return
			}
		}
	}
}

// lined returns the files of which a generator takes each line.
func lined(dir string, g map[string]any) []string {
	var out []string
	for _, entry := range append(texts(g["envs"]), texts([]any{g["env"]})...) {
		out = append(out, path.Join(dir, entry))
	}
	return out
}

func validOrDot(name string) string {
	if fs.ValidPath(name) {
		return name
	}
	return "."
}

func texts(v any) []string {
	list, _ := v.([]any)
	var out []string
	for _, each := range list {
		if s, ok := each.(string); ok && s != "" {
			out = append(out, s)
		}
	}
	return out
}

func mappings(v any) []map[string]any {
	list, _ := v.([]any)
	var out []map[string]any
	for _, each := range list {
		if m, ok := each.(map[string]any); ok {
			out = append(out, m)
		}
	}
	return out
}
