package source

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"sealock.dev/sealock/fault"
)

// headers lists what is in an artifact: type, mode, name and content.
func headers(t testing.TB, artifact []byte) (out []string) {
	t.Helper()
	zip, err := gzip.NewReader(bytes.NewReader(artifact))
	if err != nil {
		t.Fatal(err)
	}
	for r := tar.NewReader(zip); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return out
		}
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(r)
		if err != nil {
			t.Fatal(err)
		}
		if h.Uid != 0 || h.Gid != 0 || h.Uname != "" || h.Gname != "" || h.ModTime.Unix() != 0 {
			t.Errorf("%s carries who and when: %+v", h.Name, h)
		}
		out = append(out, fmt.Sprintf("%c %o %s %s", h.Typeflag, h.Mode, h.Name, body))
	}
}

func sampleTree(t testing.TB) *Tree {
	t.Helper()
	return mustTree(t, nil, func(g *gitRepo) {
		g.write("b.yaml", "b")
		g.write("a/z.yaml", "z")
		g.write("a.yaml", "a")
		g.write("run.sh", "#!")
		g.link("link", "a.yaml")
		g.write("pic.png", "ignored")
		if err := os.Chmod(filepath.Join(g.work, "run.sh"), 0o755); err != nil {
			t.Fatal(err)
		}
	})
}

// contract: GitRepository artifact archive
func TestArtifactIsDeterministicAndLikeFlux(t *testing.T) {
	tree := sampleTree(t)
	var one, two bytes.Buffer
	digest, size, err := WriteArtifact(t.Context(), &one, tree)
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := WriteArtifact(t.Context(), &two, sampleTree(t)); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(one.Bytes(), two.Bytes()) {
		t.Error("equal trees, other bytes")
	}
	sum := sha256.Sum256(one.Bytes())
	if digest != "sha256:"+hex.EncodeToString(sum[:]) || size != int64(one.Len()) {
		t.Errorf("%s %d", digest, size)
	}
	want := []string{"5 750 . ", "5 750 a ", "0 600 a/z.yaml z", "0 600 a.yaml a", "0 600 b.yaml b", "0 700 run.sh #!"}
	if diff := cmp.Diff(want, headers(t, one.Bytes())); diff != "" {
		t.Error(diff)
	}
}

func newStorage(t testing.TB, dir string) *Storage {
	t.Helper()
	s, err := NewStorage(dir)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestStorageKeepsTwo(t *testing.T) {
	root, dir := t.TempDir(), t.TempDir()
	g := newGitRepo(t, root, "app.git")
	remote := startHTTP(t, root, false).remote("app.git")
	r := openCache(t, t.TempDir(), DefaultLimits())
	s := newStorage(t, dir)
	var stored []Artifact
	for i := range 3 {
		g.write("a.yaml", fmt.Sprint(i))
		g.push("next")
		a, err := s.Store(t.Context(), alice, fetch(t, r, remote, Ref{Branch: "main"}).Tree)
		if err != nil {
			t.Fatal(err)
		}
		stored = append(stored, a)
	}
	if s.Has(stored[0]) || !s.Has(stored[1]) || !s.Has(stored[2]) {
		t.Error("not the last two are kept")
	}
	other := stored[2]
	other.Digest = stored[1].Digest
	if s.Has(other) || s.Has(Artifact{Path: "../x"}) {
		t.Error("a digest that is not the file's, or a strange path")
	}
	// After a restart the digest is read from the file; a damaged or half written file does not count.
	if err := os.WriteFile(filepath.Join(dir, filepath.Dir(stored[2].Path), ".part-1"), []byte("half"), 0o600); err != nil {
		t.Fatal(err)
	}
	again := newStorage(t, dir)
	if !again.Has(stored[1]) || !again.Has(stored[2]) {
		t.Error("lost after a restart")
	}
	body, err := os.ReadFile(filepath.Join(dir, stored[2].Path))
	if err != nil {
		t.Fatal(err)
	}
	body[len(body)/2] ^= 1
	if err := os.WriteFile(filepath.Join(dir, stored[2].Path), body, 0o600); err != nil {
		t.Fatal(err)
	}
	if newStorage(t, dir).Has(stored[2]) {
		t.Error("a damaged file counts")
	}
	if left, _ := filepath.Glob(filepath.Join(dir, "gitrepository/*/*/.part*")); len(left) != 0 {
		t.Errorf("left: %v", left)
	}
	if err := again.Remove(alice); err != nil || again.Has(stored[1]) {
		t.Errorf("after removal: %v", err)
	}
	if left, _ := os.ReadDir(filepath.Join(dir, "gitrepository")); len(left) != 0 {
		t.Errorf("left: %v", left)
	}
}

// TestFailedStoreShowsNothing: an artifact that cannot be finished is not there at all.
// contract: GitRepository reason ArchiveOperationFailed
func TestFailedStoreShowsNothing(t *testing.T) {
	limits := DefaultLimits()
	limits.Artifact = 10
	tree, err := treeOf(t, limits, nil, writeAll("a.yaml", "b.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	if _, err := newStorage(t, dir).Store(t.Context(), alice, tree); fault.KindOf(err) != fault.Invalid || ReasonOf(err) != ReasonArchive {
		t.Error(err)
	}
	if left, _ := filepath.Glob(filepath.Join(dir, "gitrepository/*/*/*")); len(left) != 0 {
		t.Errorf("left: %v", left)
	}
}

// TestArtifactsNeedAuthorization: nobody reads an artifact, or learns that it exists, without being allowed to.
func TestArtifactsNeedAuthorization(t *testing.T) {
	tree := sampleTree(t)
	dir := t.TempDir()
	s := newStorage(t, dir)
	a, err := s.Store(t.Context(), alice, tree)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "outside"), []byte("outside"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(filepath.Join(dir, "outside"), filepath.Join(dir, "gitrepository/team-a/app", strings.Repeat("a", 40)+".tar.gz")); err != nil {
		t.Fatal(err)
	}
	var asked []string
	allow := func(_ *http.Request, ns, name string) error { asked = append(asked, ns+"/"+name); return nil }
	deny := func(err error) Authorizer { return func(*http.Request, string, string) error { return err } }
	for _, tc := range []struct {
		name, method, path string
		allow              Authorizer
		status             int
	}{
		{"allowed", "GET", "/" + a.Path, allow, 200},
		{"head", "HEAD", "/" + a.Path, allow, 200},
		{"no authorizer", "GET", "/" + a.Path, nil, 403},
		{"no token", "GET", "/" + a.Path, deny(ErrUnauthenticated), 401},
		{"refused", "GET", "/" + a.Path, deny(fault.New(fault.StageGrant, fault.Denied, fault.Ref{}, "no")), 403},
		{"cannot tell", "GET", "/" + a.Path, deny(errors.New("API server away: secret detail")), 503},
		{"refused and absent look alike", "GET", "/gitrepository/team-a/app/" + strings.Repeat("b", 40) + ".tar.gz", deny(fault.New(fault.StageGrant, fault.Denied, fault.Ref{}, "no")), 403},
		{"absent", "GET", "/gitrepository/team-a/app/" + strings.Repeat("b", 40) + ".tar.gz", allow, 404},
		{"write", "PUT", "/" + a.Path, allow, 405},
		{"folder", "GET", "/gitrepository/team-a/app/", allow, 404},
		{"up", "GET", "/gitrepository/team-a/../../outside", allow, 404},
		{"up encoded", "GET", "/gitrepository/team-a/%2e%2e/%2e%2e%2foutside", allow, 404},
		{"dots as namespace", "GET", "/gitrepository/../app/" + strings.Repeat("b", 40) + ".tar.gz", allow, 404},
		{"slash in the name", "GET", "/gitrepository/team-a/app%2f" + strings.Repeat("b", 40) + ".tar.gz", allow, 404},
		{"a symlink in the storage", "GET", "/gitrepository/team-a/app/" + strings.Repeat("a", 40) + ".tar.gz", allow, 404},
		{"part", "GET", "/gitrepository/team-a/app/.part-1", allow, 404},
	} {
		t.Run(tc.name, func(t *testing.T) {
			asked = nil
			w := httptest.NewRecorder()
			s.Handler(tc.allow).ServeHTTP(w, httptest.NewRequest(tc.method, tc.path, nil))
			if w.Code != tc.status || strings.Contains(w.Body.String(), "outside") || strings.Contains(w.Body.String(), "secret detail") {
				t.Errorf("%d %q", w.Code, w.Body)
			}
			if tc.name == "allowed" && (w.Body.Len() != int(a.Size) || asked[0] != "team-a/app") {
				t.Errorf("%d bytes, asked %v", w.Body.Len(), asked)
			}
		})
	}
}

func FuzzArtifactPath(f *testing.F) {
	sha := strings.Repeat("0a", 20)
	for _, p := range []string{"/gitrepository/a/b/" + sha + ".tar.gz", "/gitrepository/../b/" + sha + ".tar.gz", "//a/b/c", "/gitrepository/a/b\x00/" + sha + ".tar.gz", "/gitrepository/a/b/../" + sha + ".tar.gz", ""} {
		f.Add(p)
	}
	f.Fuzz(func(t *testing.T, p string) {
		o, name, ok := parseArtifactPath(p)
		if !ok {
			return
		}
		if "/"+name != p || !filepath.IsLocal(name) || filepath.Clean(name) != name || ArtifactPath(o, strings.TrimSuffix(filepath.Base(name), ".tar.gz")) != name {
			t.Errorf("%q -> %v %q", p, o, name)
		}
	})
}

func FuzzCommitOf(f *testing.F) {
	sha := strings.Repeat("0a", 20)
	for _, r := range []string{"main@sha1:" + sha, "sha1:" + sha, "refs/heads/x@sha1:" + sha, "@sha1:" + sha, "a@b@sha1:" + sha, "main@sha256:" + sha, "main/" + sha} {
		f.Add(r)
	}
	f.Fuzz(func(t *testing.T, r string) {
		hash, ok := CommitOf(r)
		if ok && (!commitShape.MatchString(hash) || !strings.HasSuffix(r, "sha1:"+hash)) {
			t.Errorf("%q -> %q", r, hash)
		}
	})
}
