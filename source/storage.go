package source

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io"
	"io/fs"
	"net/http"
	"os"
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"

	"sealock.dev/sealock/fault"
)

const (
	keptArtifacts  = 2
	artifactFolder = "gitrepository"
	artifactSuffix = ".tar.gz"
)

// Artifact is a stored tar.gz of a tree.
type Artifact struct {
	Path   string // gitrepository/<ns>/<name>/<commit>.tar.gz
	Digest string // sha256:<hex> of the file
	Size   int64  // of the file
}

// Storage keeps the last two artifacts of each owner on disk. It holds what Git holds: ciphertext, no plaintext.
type Storage struct {
	root *os.Root

	mu       sync.Mutex
	verified map[string]Artifact // by path: the digest was computed from the file by this process
	next     int
}

// NewStorage opens the storage in the folder, which it owns.
func NewStorage(dir string) (*Storage, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, cacheFailure("the artifact folder cannot be made", err)
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, cacheFailure("the artifact folder cannot be opened", err)
	}
	s := &Storage{root: root, verified: map[string]Artifact{}}
	s.sweep()
	return s, nil
}

const partPrefix = ".part-"

// sweep removes what an earlier process was writing when it ended.
func (s *Storage) sweep() {
	_ = fs.WalkDir(s.root.FS(), ".", func(name string, d fs.DirEntry, err error) error {
		if err == nil && strings.HasPrefix(d.Name(), partPrefix) {
			_ = s.root.Remove(name)
		}
		return nil
	})
}

// ArtifactPath returns where the artifact of a commit is stored and served.
func ArtifactPath(o Owner, commit string) string {
	return path.Join(artifactFolder, o.Namespace, o.Name, commit+artifactSuffix)
}

// Store writes the artifact of a tree, and removes all of the owner but this one and the one before it. A reader never
// sees a part of it.
func (s *Storage) Store(ctx context.Context, o Owner, t *Tree) (Artifact, error) {
	if !o.valid() {
		return Artifact{}, fail(fault.Invalid, ReasonInvalid, "the owner's name cannot be used as a path")
	}
	a := Artifact{Path: ArtifactPath(o, t.Commit())}
	folder := path.Dir(a.Path)
	if err := s.root.MkdirAll(folder, 0o700); err != nil {
		return Artifact{}, cacheFailure("the artifact folder cannot be written", err)
	}
	part := s.partName(folder)
	defer func() { _ = s.root.Remove(part) }() // gone already when all went well
	f, err := s.root.OpenFile(part, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return Artifact{}, cacheFailure("the artifact cannot be written", err)
	}
	a.Digest, a.Size, err = WriteArtifact(ctx, f, t)
	if closed := f.Close(); err == nil && closed != nil {
		err = cacheFailure("the artifact cannot be written", closed)
	}
	if err != nil {
		return Artifact{}, err
	}
	if err := s.root.Rename(part, a.Path); err != nil {
		return Artifact{}, cacheFailure("the artifact cannot be written", err)
	}
	s.mu.Lock()
	s.verified[a.Path] = a
	s.mu.Unlock()
	s.prune(folder, path.Base(a.Path))
	return a, nil
}

// partName returns a name that no artifact has and no other writer uses.
func (s *Storage) partName(folder string) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.next++
	return path.Join(folder, partPrefix+strconv.Itoa(s.next))
}

// prune keeps the newest files of a folder, the given one among them.
func (s *Storage) prune(folder, just string) {
	d, err := s.root.Open(folder)
	if err != nil {
		return
	}
	defer func() { _ = d.Close() }()
	list, _ := d.ReadDir(-1)
	var infos []fs.FileInfo
	for _, e := range list {
		if info, err := e.Info(); err == nil && e.Name() != just && strings.HasSuffix(e.Name(), artifactSuffix) {
			infos = append(infos, info)
		}
	}
	slices.SortFunc(infos, func(a, b fs.FileInfo) int {
		return cmp.Or(b.ModTime().Compare(a.ModTime()), cmp.Compare(a.Name(), b.Name()))
	})
	for i, info := range infos {
		if i < keptArtifacts-1 {
			continue
		}
		name := path.Join(folder, info.Name())
		_ = s.root.Remove(name)
		s.mu.Lock()
		delete(s.verified, name)
		s.mu.Unlock()
	}
}

// Has reports whether the artifact is here, whole: the digest is compared once in a process, the size always.
func (s *Storage) Has(a Artifact) bool {
	if _, _, ok := parseArtifactPath("/" + a.Path); !ok {
		return false
	}
	info, err := s.root.Lstat(a.Path)
	if err != nil || !info.Mode().IsRegular() || info.Size() != a.Size {
		return false
	}
	s.mu.Lock()
	known, ok := s.verified[a.Path]
	s.mu.Unlock()
	if ok {
		return known == a
	}
	f, err := s.root.Open(a.Path)
	if err != nil {
		return false
	}
	defer func() { _ = f.Close() }()
	sum := sha256.New()
	if _, err := io.Copy(sum, f); err != nil || "sha256:"+hex.EncodeToString(sum.Sum(nil)) != a.Digest {
		return false
	}
	s.mu.Lock()
	s.verified[a.Path] = a
	s.mu.Unlock()
	return true
}

// Remove deletes all artifacts of the owner.
func (s *Storage) Remove(o Owner) error {
	if !o.valid() {
		return nil
	}
	folder := path.Join(artifactFolder, o.Namespace, o.Name)
	s.mu.Lock()
	for name := range s.verified {
		if path.Dir(name) == folder {
			delete(s.verified, name)
		}
	}
	s.mu.Unlock()
	if err := s.root.RemoveAll(folder); err != nil {
		return cacheFailure("the artifacts cannot be removed", err)
	}
	_ = s.root.Remove(path.Dir(folder)) // when it is empty
	return nil
}

// ErrUnauthenticated is what an Authorizer returns for a request without valid credentials.
var ErrUnauthenticated = errors.New("authentication required")

// Authorizer decides who may read the artifacts of a GitRepository. A nil error allows, ErrUnauthenticated asks for
// credentials, a fault of kind Denied refuses, anything else is our trouble.
type Authorizer func(r *http.Request, namespace, name string) error

// Handler serves the artifacts under /gitrepository/<ns>/<name>/<commit>.tar.gz. Without an authorizer it refuses all.
// Whether an artifact exists is told to nobody who may not read it.
func (s *Storage) Handler(allow Authorizer) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Cache-Control", "private, no-store")
		w.Header().Set("X-Content-Type-Options", "nosniff")
		if r.Method != http.MethodGet && r.Method != http.MethodHead {
			w.Header().Set("Allow", "GET, HEAD")
			http.Error(w, "method not allowed", http.StatusMethodNotAllowed)
			return
		}
		owner, name, ok := parseArtifactPath(r.URL.Path)
		if !ok {
			http.Error(w, "not found", http.StatusNotFound)
			return
		}
		if allow == nil {
			http.Error(w, "forbidden", http.StatusForbidden)
			return
		}
		if err := allow(r, owner.Namespace, owner.Name); err != nil {
			refuse(w, err)
			return
		}
		s.serve(w, r, name)
	})
}

func refuse(w http.ResponseWriter, err error) {
	switch {
	case errors.Is(err, ErrUnauthenticated):
		w.Header().Set("WWW-Authenticate", "Bearer")
		http.Error(w, "authentication required", http.StatusUnauthorized)
	case fault.KindOf(err) == fault.Denied:
		http.Error(w, "forbidden", http.StatusForbidden)
	default:
		http.Error(w, "the request cannot be authorized now", http.StatusServiceUnavailable)
	}
}

func (s *Storage) serve(w http.ResponseWriter, r *http.Request, name string) {
	info, err := s.root.Lstat(name)
	if err != nil || !info.Mode().IsRegular() {
		http.Error(w, "not found", http.StatusNotFound)
		return
	}
	f, err := s.root.Open(name)
	if err != nil {
		http.Error(w, "not found", http.StatusNotFound)
		return
	}
	defer func() { _ = f.Close() }()
	w.Header().Set("Content-Type", "application/gzip")
	http.ServeContent(w, r, "", info.ModTime(), f)
}

var artifactName = regexp.MustCompile(`^[0-9a-f]{40}\.tar\.gz$`)

// parseArtifactPath takes a request path apart. What does not have exactly the shape of an artifact's path is no path.
func parseArtifactPath(p string) (o Owner, name string, ok bool) {
	parts := strings.Split(p, "/")
	if len(parts) != 5 || parts[0] != "" || parts[1] != artifactFolder || !artifactName.MatchString(parts[4]) {
		return Owner{}, "", false
	}
	o = Owner{Namespace: parts[2], Name: parts[3]}
	if !o.valid() {
		return Owner{}, "", false
	}
	return o, strings.TrimPrefix(p, "/"), true
}
