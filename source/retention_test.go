package source

import (
	"bytes"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// storeThree stores three commits and returns their artifacts, oldest first.
func storeThree(t testing.TB, s *Storage) []Artifact {
	t.Helper()
	root := t.TempDir()
	g := newGitRepo(t, root, "app.git")
	remote := startHTTP(t, root, false).remote("app.git")
	r := openCache(t, t.TempDir(), DefaultLimits())
	var out []Artifact
	for i := range 3 {
		g.write("a.yaml", fmt.Sprint(i))
		g.push("next")
		a, err := s.Store(t.Context(), alice, fetch(t, r, remote, Ref{Branch: "main"}).Tree)
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, a)
	}
	return out
}

// TestRetention: two records; the one before the current stays for a minute after it was followed.
// contract: GitRepository artifact retention
func TestRetention(t *testing.T) {
	dir := t.TempDir()
	s := newStorage(t, dir)
	stored := storeThree(t, s)
	now := time.Now()
	s.now = func() time.Time { return now }
	for _, step := range []struct {
		later   time.Duration
		removed int
		before  bool
	}{{-24 * time.Hour, 0, true}, {30 * time.Second, 0, true}, {61 * time.Second, 1, false}, {time.Hour, 0, false}, {365 * 24 * time.Hour, 0, false}} {
		now = time.Now().Add(step.later)
		n, err := s.Collect(alice, stored[2])
		if err != nil || n != step.removed || s.Has(stored[1]) != step.before || !s.Has(stored[2]) {
			t.Errorf("after %s: %d removed, %v", step.later, n, err)
		}
	}
	if n, err := s.Collect(Owner{"team-b", "none"}, Artifact{}); n != 0 || err != nil {
		t.Errorf("an owner without artifacts: %d %v", n, err)
	}
}

// TestRetain: the flags of source-controller set how many records there are, and for how long.
func TestRetain(t *testing.T) {
	s := newStorage(t, t.TempDir())
	s.Retain(3, time.Hour)
	stored := storeThree(t, s)
	now := time.Now()
	s.now = func() time.Time { return now }
	for _, step := range []struct {
		later time.Duration
		left  int
	}{{59 * time.Minute, 3}, {61 * time.Minute, 1}} {
		now = time.Now().Add(step.later)
		_, err := s.Collect(alice, stored[2])
		left := 0
		for _, a := range stored {
			if s.Has(a) {
				left++
			}
		}
		if err != nil || left != step.left {
			t.Errorf("after %s: %d left, %v", step.later, left, err)
		}
	}
}

// TestLatest: latest.tar.gz is the newest artifact, over restarts, and nothing when that was withdrawn.
// contract: GitRepository artifact latest.tar.gz
func TestLatest(t *testing.T) {
	dir := t.TempDir()
	s := newStorage(t, dir)
	stored := storeThree(t, s)
	get := func(s *Storage, name string, headers ...string) *httptest.ResponseRecorder {
		req := httptest.NewRequest(http.MethodGet, "/gitrepository/team-a/app/"+name, nil)
		for i := 0; i < len(headers); i += 2 {
			req.Header.Set(headers[i], headers[i+1])
		}
		w := httptest.NewRecorder()
		s.Handler(func(*http.Request, string, string) error { return nil }).ServeHTTP(w, req)
		return w
	}
	want, err := os.ReadFile(filepath.Join(dir, stored[2].Path))
	if err != nil {
		t.Fatal(err)
	}
	for _, each := range []*Storage{s, newStorage(t, dir)} {
		if w := get(each, latestName); w.Code != http.StatusOK || !bytes.Equal(w.Body.Bytes(), want) {
			t.Errorf("%d", w.Code)
		}
	}
	// Range, If-None-Match and the digest as ETag.
	w := get(s, latestName)
	etag := w.Header().Get("ETag")
	if etag != `"`+stored[2].Digest+`"` || w.Header().Get("Content-Type") != "application/gzip" {
		t.Errorf("%q", etag)
	}
	if w := get(s, latestName, "If-None-Match", etag); w.Code != http.StatusNotModified {
		t.Errorf("%d", w.Code)
	}
	if w := get(s, latestName, "Range", "bytes=10-19"); w.Code != http.StatusPartialContent || !bytes.Equal(w.Body.Bytes(), want[10:20]) {
		t.Errorf("%d", w.Code)
	}
	// What a crash left half written has no name that is served.
	folder := filepath.Join(dir, "gitrepository/team-a/app")
	if err := os.WriteFile(filepath.Join(folder, partPrefix+"70"), want[:20], 0o600); err != nil {
		t.Fatal(err)
	}
	if w := get(s, partPrefix+"70"); w.Code != http.StatusNotFound {
		t.Errorf("a part: %d", w.Code)
	}
	// A link that leads elsewhere is not followed.
	outside := filepath.Join(dir, "outside")
	if err := os.WriteFile(outside, []byte("outside"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, target := range []string{outside, "../../../outside", partPrefix + "7", latestName} {
		_ = os.Remove(filepath.Join(folder, latestName))
		if err := os.Symlink(target, filepath.Join(folder, latestName)); err != nil {
			t.Fatal(err)
		}
		if w := get(s, latestName); w.Code != http.StatusNotFound || strings.Contains(w.Body.String(), "outside") {
			t.Errorf("%s: %d", target, w.Code)
		}
	}
	if err := s.point("gitrepository/team-a/app", filepath.Base(stored[2].Path)); err != nil {
		t.Fatal(err)
	}
	_, commit, _ := strings.Cut(strings.TrimSuffix(stored[2].Path, artifactSuffix), "app/")
	if err := s.Withdraw(alice, commit); err != nil || s.Has(stored[2]) || !s.Has(stored[1]) {
		t.Errorf("%v", err)
	}
	if w := get(s, latestName); w.Code != http.StatusNotFound {
		t.Errorf("withdrawn: %d", w.Code)
	}
}
