package source

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"io"
	"io/fs"
	"os"
	"path"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"sealock.dev/sealock/fault"
)

const (
	// keptArtifacts is how many artifacts of an owner there are at most, keptFor how long one stays after it was followed
	// by another: who has read its URL gets it for that long. Both unless Retain says otherwise.
	keptArtifacts = 2
	keptFor       = time.Minute

	artifactFolder = "gitrepository"
	artifactSuffix = ".tar.gz"
	latestName     = "latest" + artifactSuffix
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
	now  func() time.Time

	records int           // see keptArtifacts
	ttl     time.Duration // see keptFor

	mu       sync.Mutex
	verified map[string]Artifact // by path: the digest was computed from the file by this process
	next     int

	leads func() bool                                          // see Serve
	named func(ctx context.Context, o Owner, name string) bool // see Serve

	bytes  atomic.Int64  // on disk
	beside *Repositories // with which the disk is shared; nil when it is not
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
	s := &Storage{root: root, now: time.Now, records: keptArtifacts, ttl: keptFor, verified: map[string]Artifact{}}
	s.sweep()
	s.count()
	return s, nil
}

// Retain sets how many artifacts of an owner there are at most, the current one among them, and how long one stays after it
// was followed by another. No records leave both as they are. It is called before the storage is used.
func (s *Storage) Retain(records int, ttl time.Duration) {
	if records > 0 {
		s.records, s.ttl = records, ttl
	}
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
	defer s.count()
	to, done := s.account(f)
	defer done()
	a.Digest, a.Size, err = WriteArtifact(ctx, to, t)
	if err == nil {
		// Before it gets its name: a crash must not leave the name of an artifact on a part of it.
		if err = f.Sync(); err != nil {
			err = cacheFailure("the artifact cannot be written", err)
		}
	}
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
	if err := s.point(folder, path.Base(a.Path)); err != nil {
		return Artifact{}, err
	}
	_, err = s.collect(folder, path.Base(a.Path), false)
	return a, err
}

// partName returns a name that no artifact has and no other writer uses.
func (s *Storage) partName(folder string) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.next++
	return path.Join(folder, partPrefix+strconv.Itoa(s.next))
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
	defer s.count()
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
