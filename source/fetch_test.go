package source

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"sealock.dev/sealock/fault"
	"sealock.dev/sealock/plaintext"
)

var alice = Owner{"team-a", "app"}

func openCache(t testing.TB, dir string, limits Limits) *Repositories {
	t.Helper()
	r, err := NewRepositories(dir, plaintext.NewKey([]byte("installation")), limits)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func fetch(t testing.TB, r *Repositories, remote Remote, ref Ref) *Fetched {
	t.Helper()
	got, err := r.Fetch(t.Context(), alice, Request{Remote: remote, Ref: ref})
	if err != nil {
		t.Fatalf("fetch %+v: %v", ref, err)
	}
	return got
}

func read(t testing.TB, tree fs.FS, name string) string {
	t.Helper()
	body, err := fs.ReadFile(tree, name)
	if err != nil {
		t.Fatalf("read %s: %v", name, err)
	}
	return string(body)
}

// TestS0Y01Refs: a push moves the branch; a tag and a commit stay where they are.
func TestS0Y01Refs(t *testing.T) {
	root := t.TempDir()
	g := newGitRepo(t, root, "app.git")
	g.write("a.yaml", "one")
	first := g.push("first")
	g.git("tag", "v1.0.0")
	g.git("tag", "-a", "-m", "annotated", "v1.1.0")
	g.git("push", "-q", "--tags", "origin")
	g.write("a.yaml", "two")
	second := g.push("second\n\nbody")
	g.git("tag", "v2.0.0-rc.1")
	g.git("push", "-q", "--tags", "origin")

	for name, remote := range map[string]Remote{"http": startHTTP(t, root, false).remote("app.git"), "ssh": startSSH(t, root).remote("app.git")} {
		t.Run(name, func(t *testing.T) {
			for _, tc := range []struct {
				ref            Ref
				revision, text string
			}{
				{Ref{Branch: "main"}, "main@sha1:" + second, "two"},
				{Ref{Tag: "v1.0.0"}, "v1.0.0@sha1:" + first, "one"},
				{Ref{Tag: "v1.1.0", Branch: "main"}, "v1.1.0@sha1:" + first, "one"},
				{Ref{Commit: first}, "sha1:" + first, "one"},
				{Ref{Commit: first, Branch: "main", Tag: "v2"}, "main@sha1:" + first, "one"},
				{Ref{Commit: second}, "sha1:" + second, "two"},
				{Ref{Name: "refs/heads/main", SemVer: "1.x"}, "refs/heads/main@sha1:" + second, "two"},
				{Ref{SemVer: ">=1.0.0", Tag: "v2.0.0-rc.1"}, "v1.1.0@sha1:" + first, "one"},
				{Ref{SemVer: ">=1.0.0-0"}, "v2.0.0-rc.1@sha1:" + second, "two"},
			} {
				r := openCache(t, t.TempDir(), DefaultLimits())
				got := fetch(t, r, remote, tc.ref)
				if got.Tree.Revision() != tc.revision || read(t, got.Tree, "a.yaml") != tc.text || !got.Transferred {
					t.Errorf("%+v: %s %q transferred=%v, want %s %q", tc.ref, got.Tree.Revision(), read(t, got.Tree, "a.yaml"), got.Transferred, tc.revision, tc.text)
				}
				if hash, ok := CommitOf(tc.revision); !ok || hash != got.Tree.Commit() {
					t.Errorf("CommitOf(%q) = %q, %v", tc.revision, hash, ok)
				}
			}
		})
	}
	r := openCache(t, t.TempDir(), DefaultLimits())
	if got := fetch(t, r, startHTTP(t, root, false).remote("app.git"), Ref{Branch: "main"}).Tree.Subject(); got != "second" {
		t.Errorf("subject %q", got)
	}
}

// TestRefForms: the forms of spec.ref that are not branches and plain tags, and their revisions.
// contract: GitRepository spec.ref.branch, spec.ref.tag, spec.ref.semver, spec.ref.name, spec.ref.commit
func TestRefForms(t *testing.T) {
	root := t.TempDir()
	g := newGitRepo(t, root, "app.git")
	commits := map[string]string{}
	for _, name := range []string{"1.0.0", "v1.2.0", "v1.2.0+build.7", "v1.3.0-beta.2", "v2.0.0", "not-a-version", "v1.10.0"} {
		g.write("a.yaml", name)
		commits[name] = g.push(name)
		g.git("tag", name)
	}
	g.git("push", "-q", "--tags", "origin", "HEAD:refs/pull/7/head", "HEAD~1:refs/heads/feature/x", "HEAD~2:refs/heads/master")
	remote := startHTTP(t, root, false).remote("app.git")
	r := openCache(t, t.TempDir(), DefaultLimits())
	for _, tc := range []struct {
		ref      Ref
		revision string
	}{
		{Ref{}, "master@sha1:" + commits["v2.0.0"]},
		{Ref{Branch: "feature/x"}, "feature/x@sha1:" + commits["not-a-version"]},
		{Ref{Name: "refs/pull/7/head"}, "refs/pull/7/head@sha1:" + commits["v1.10.0"]},
		{Ref{Name: "refs/tags/v2.0.0", Branch: "main"}, "refs/tags/v2.0.0@sha1:" + commits["v2.0.0"]},
		{Ref{SemVer: "1.x"}, "v1.10.0@sha1:" + commits["v1.10.0"]},
		{Ref{SemVer: "~1.2"}, ""}, // one of two tags of the same version, always the same one
		{Ref{SemVer: "<1.1"}, "1.0.0@sha1:" + commits["1.0.0"]},
		{Ref{SemVer: "~1.3.0-0"}, "v1.3.0-beta.2@sha1:" + commits["v1.3.0-beta.2"]},
		{Ref{SemVer: "*", Tag: "1.0.0", Branch: "main"}, "v2.0.0@sha1:" + commits["v2.0.0"]},
		{Ref{Tag: "not-a-version", Branch: "main"}, "not-a-version@sha1:" + commits["not-a-version"]},
		{Ref{Commit: commits["1.0.0"]}, "sha1:" + commits["1.0.0"]},
		{Ref{Commit: commits["1.0.0"], Branch: "feature/x", Name: "refs/heads/main"}, "feature/x@sha1:" + commits["1.0.0"]},
	} {
		got := fetch(t, r, remote, tc.ref).Tree.Revision()
		if tc.revision == "" {
			tc.revision = fetch(t, openCache(t, t.TempDir(), DefaultLimits()), remote, tc.ref).Tree.Revision()
		}
		if got != tc.revision {
			t.Errorf("%+v: %s, want %s", tc.ref, got, tc.revision)
		}
	}
}

// TestUnchangedRemoteCostsOneListing also shows that a change transfers once, and only what changed.
func TestUnchangedRemoteCostsOneListing(t *testing.T) {
	root := t.TempDir()
	g := newGitRepo(t, root, "app.git")
	g.write("a.yaml", "one")
	g.write("big.bin", noise(1<<20))
	g.push("first")
	h := startHTTP(t, root, false)
	s := startSSH(t, root)
	for name, remote := range map[string]Remote{"http": h.remote("app.git"), "ssh": s.remote("app.git")} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			r := openCache(t, dir, DefaultLimits())
			fetch(t, r, remote, Ref{Branch: "main"})
			one := diskSize(t, dir)
			if got := r.Counts(); got != (Counts{1, 1}) {
				t.Fatalf("first fetch: %+v", got)
			}
			before := h.requests.Load()
			again := fetch(t, r, remote, Ref{Branch: "main"})
			if got := r.Counts(); got != (Counts{2, 1}) || again.Transferred {
				t.Errorf("unchanged: %+v", got)
			}
			if name == "http" && h.requests.Load() != before+1 {
				t.Errorf("the server saw %d requests", h.requests.Load()-before)
			}
			g.write("a.yaml", "changed for "+name)
			g.push("next")
			next := fetch(t, r, remote, Ref{Branch: "main"})
			if got := r.Counts(); got != (Counts{3, 2}) || !next.Transferred {
				t.Errorf("changed: %+v", got)
			}
			if got := read(t, next.Tree, "a.yaml"); got != "changed for "+name || len(read(t, next.Tree, "big.bin")) != 1<<20 {
				t.Errorf("a.yaml %q", got)
			}
			if read(t, again.Tree, "a.yaml") == "changed for "+name {
				t.Error("an older tree changed")
			}
			if more := diskSize(t, dir) - one; more > 4096 {
				t.Errorf("the second transfer brought %d bytes", more)
			}

			// A new process finds the cache: no transfer, and Open works before any fetch.
			r2 := openCache(t, dir, DefaultLimits())
			tree, err := r2.Open(t.Context(), "team-a", "app", next.Tree.Revision())
			if err != nil || read(t, tree, "a.yaml") != "changed for "+name {
				t.Fatalf("after a restart: %v", err)
			}
			fetch(t, r2, remote, Ref{Branch: "main"})
			if got := r2.Counts(); got != (Counts{1, 0}) {
				t.Errorf("after a restart: %+v", got)
			}
		})
	}
}

func TestRewrittenHistory(t *testing.T) {
	root := t.TempDir()
	g := newGitRepo(t, root, "app.git")
	g.write("a.yaml", "one")
	g.push("first")
	g.write("a.yaml", "two")
	g.push("second")
	r := openCache(t, t.TempDir(), DefaultLimits())
	remote := startHTTP(t, root, false).remote("app.git")
	old := fetch(t, r, remote, Ref{Branch: "main"})
	g.git("checkout", "-q", "--orphan", "other")
	g.write("a.yaml", "rewritten")
	g.git("add", "-A")
	g.git("commit", "-q", "-m", "all new")
	g.git("push", "-q", "-f", "origin", "other:main")
	run(t, g.bare, "reflog", "expire", "--expire=now", "--all")
	run(t, g.bare, "gc", "-q", "--prune=now")
	got := fetch(t, r, remote, Ref{Branch: "main"})
	if read(t, got.Tree, "a.yaml") != "rewritten" || read(t, old.Tree, "a.yaml") != "two" {
		t.Errorf("new %q, old %q", read(t, got.Tree, "a.yaml"), read(t, old.Tree, "a.yaml"))
	}
	if got := r.Counts(); got.Transfers != 2 {
		t.Errorf("%+v", got)
	}
}

// TestManyPushesStayBounded: old packs go when a repository has been grown often enough.
func TestManyPushesStayBounded(t *testing.T) {
	root, dir := t.TempDir(), t.TempDir()
	g := newGitRepo(t, root, "app.git")
	r := openCache(t, dir, DefaultLimits())
	remote := startHTTP(t, root, false).remote("app.git")
	for i := range maxGrowth + 5 {
		g.write("a.yaml", fmt.Sprint(i))
		g.push("next")
		if got := read(t, fetch(t, r, remote, Ref{Branch: "main"}).Tree, "a.yaml"); got != fmt.Sprint(i) {
			t.Fatalf("push %d: %q", i, got)
		}
	}
	generations, _ := filepath.Glob(filepath.Join(dir, "team-a/app/g*"))
	heads, _ := filepath.Glob(filepath.Join(dir, "team-a/app/*/objects/??"))
	if len(generations) != 1 || len(heads) > 20 || r.Counts().Transfers != maxGrowth+5 {
		t.Errorf("%v, %d objects, %+v", generations, len(heads), r.Counts())
	}
}

// diskSize returns the bytes of the objects under dir.
func diskSize(t testing.TB, dir string) (sum int64) {
	t.Helper()
	err := filepath.WalkDir(dir, func(name string, d fs.DirEntry, err error) error {
		if err == nil && d.Type().IsRegular() && strings.Contains(name, "/objects/") {
			info, err := d.Info()
			sum += info.Size()
			return err
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return sum
}

// TestFailedFetchKeepsWhatWasThere: wrong credentials, a broken server and a repository that is gone change nothing.
func TestFailedFetchKeepsWhatWasThere(t *testing.T) {
	root := t.TempDir()
	g := newGitRepo(t, root, "app.git")
	g.write("a.yaml", "one")
	g.push("first")
	h := startHTTP(t, root, false)
	r := openCache(t, t.TempDir(), DefaultLimits())
	revision := fetch(t, r, h.remote("app.git"), Ref{Branch: "main"}).Tree.Revision()
	g.write("a.yaml", "two")
	g.push("second")
	bad := h.remote("app.git")
	bad.Auth = auth("username", testUser, "password", "no")
	h.onRequest(func(req *http.Request) {
		if req.Method == http.MethodPost {
			panic(http.ErrAbortHandler)
		}
	})
	for _, remote := range []Remote{bad, h.remote("gone.git"), h.remote("app.git")} {
		if _, err := r.Fetch(t.Context(), alice, Request{Remote: remote, Ref: Ref{Branch: "main"}}); err == nil {
			t.Fatal("no error")
		}
		tree, err := r.Open(t.Context(), "team-a", "app", revision)
		if err != nil || read(t, tree, "a.yaml") != "one" {
			t.Fatalf("after a failed fetch: %v", err)
		}
	}
	h.onRequest(func(*http.Request) {})
	if got := read(t, fetch(t, r, h.remote("app.git"), Ref{Branch: "main"}).Tree, "a.yaml"); got != "two" {
		t.Error(got)
	}
}

func TestContextEndsAFetch(t *testing.T) {
	root := t.TempDir()
	g := newGitRepo(t, root, "app.git")
	g.write("a.yaml", "one")
	g.push("first")
	h := startHTTP(t, root, false)
	r := openCache(t, t.TempDir(), DefaultLimits())
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	h.onRequest(func(req *http.Request) { <-req.Context().Done() })
	_, err := r.Fetch(ctx, alice, Request{Remote: h.remote("app.git"), Ref: Ref{Branch: "main"}})
	if fault.KindOf(err) != fault.Transient || !strings.Contains(err.Error(), "in time") {
		t.Fatal(err)
	}
	// Another one of the same owner is not held up by it.
	h.onRequest(func(*http.Request) {})
	fetch(t, r, h.remote("app.git"), Ref{Branch: "main"})
}

// TestT20OwnersShareNothing: two owners of one URL have a cache each, and neither opens what the other fetched.
func TestT20OwnersShareNothing(t *testing.T) {
	root := t.TempDir()
	g := newGitRepo(t, root, "app.git")
	g.write("a.yaml", "one")
	g.push("first")
	remote := startHTTP(t, root, false).remote("app.git")
	r := openCache(t, t.TempDir(), DefaultLimits())
	revision := fetch(t, r, remote, Ref{Branch: "main"}).Tree.Revision()
	missed := []Owner{}
	r.OnMiss(func(o Owner) { missed = append(missed, o) })
	for _, o := range []Owner{{"team-b", "app"}, {"team-a", "other"}, {"team-a/app", ""}, {"..", "team-a"}} {
		if _, err := r.Open(t.Context(), o.Namespace, o.Name, revision); fault.KindOf(err) != fault.Transient {
			t.Errorf("%v: %v", o, err)
		}
	}
	if len(missed) != 4 {
		t.Errorf("missed %v", missed)
	}
	got, err := r.Fetch(t.Context(), Owner{"team-b", "app"}, Request{Remote: remote, Ref: Ref{Branch: "main"}})
	if err != nil || !got.Transferred {
		t.Errorf("the second owner got the first one's objects: %v", err)
	}
	for _, o := range []Owner{{"..", "x"}, {"a", "../b"}, {"a", ""}, {"A", "b"}, {"a", "b..c"}} {
		if _, err := r.Fetch(t.Context(), o, Request{Remote: remote, Ref: Ref{}}); fault.KindOf(err) != fault.Invalid {
			t.Errorf("%v: %v", o, err)
		}
	}
	// New credentials have to bring their own objects.
	remote.Auth = auth("bearerToken", testPassword)
	if !fetch(t, r, remote, Ref{Branch: "main"}).Transferred {
		t.Error("objects that other credentials fetched were reused")
	}
}

// TestT20RedirectStaysInTheFence: a server may move a repository within itself only, and inside the fence.
func TestT20RedirectStaysInTheFence(t *testing.T) {
	root := t.TempDir()
	g := newGitRepo(t, root, "app.git")
	g.write("a.yaml", "one")
	g.push("first")
	h, elsewhere := startHTTP(t, root, false), startHTTP(t, root, false)
	front := func(target string) Remote {
		mux := http.NewServeMux()
		mux.HandleFunc("/old.git/", func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, target+strings.TrimPrefix(r.URL.Path, "/old.git")+"?"+r.URL.RawQuery, http.StatusMovedPermanently)
		})
		mux.Handle("/", h.Config.Handler)
		s := &httpServer{Server: newServer(t, mux)}
		return s.remote("old.git")
	}
	inside := front("/app.git")
	inside.Allows = func(u string) bool { return strings.HasSuffix(u, "/app.git") || strings.HasSuffix(u, "/old.git") }
	if got := read(t, fetch(t, openCache(t, t.TempDir(), DefaultLimits()), inside, Ref{Branch: "main"}).Tree, "a.yaml"); got != "one" {
		t.Error(got)
	}
	outside := front("/app.git")
	outside.Allows = func(u string) bool { return strings.HasSuffix(u, "/old.git") }
	for _, remote := range []Remote{outside, front(elsewhere.URL + "/app.git")} {
		_, err := openCache(t, t.TempDir(), DefaultLimits()).Fetch(t.Context(), alice, Request{Remote: remote, Ref: Ref{Branch: "main"}})
		if fault.KindOf(err) != fault.Denied || ReasonOf(err) != ReasonURL {
			t.Errorf("%v", err)
		}
	}
	if elsewhere.requests.Load() != 0 {
		t.Error("the other host was asked")
	}
}

func TestEvictionAndRemoval(t *testing.T) {
	root, dir := t.TempDir(), t.TempDir()
	g := newGitRepo(t, root, "app.git")
	g.write("a.yaml", "one")
	g.push("first")
	remote := startHTTP(t, root, false).remote("app.git")
	limits := DefaultLimits()
	limits.Repositories = 2
	r := openCache(t, dir, limits)
	var revision string
	for _, name := range []string{"one", "two", "three"} {
		got, err := r.Fetch(t.Context(), Owner{"team-a", name}, Request{Remote: remote, Ref: Ref{Branch: "main"}})
		if err != nil {
			t.Fatal(err)
		}
		revision = got.Tree.Revision()
		if name == "two" { // "one" is used again: "two" is the one to go
			if _, err := r.Open(t.Context(), "team-a", "one", revision); err != nil {
				t.Fatal(err)
			}
		}
	}
	left, _ := os.ReadDir(filepath.Join(dir, "team-a"))
	var names []string
	for _, e := range left {
		names = append(names, e.Name())
	}
	if diff := cmp.Diff([]string{"one", "three"}, names); diff != "" {
		t.Error(diff)
	}
	if _, err := r.Open(t.Context(), "team-a", "two", revision); fault.KindOf(err) != fault.Transient {
		t.Errorf("evicted: %v", err)
	}
	for _, name := range []string{"one", "three"} {
		if err := r.Remove(t.Context(), "team-a", name); err != nil {
			t.Error(err)
		}
	}
	if left, _ := os.ReadDir(dir); len(left) != 0 {
		t.Errorf("left: %v", left)
	}
}

// TestConcurrentUse is for the race detector: fetches, reads and removals of the same owners at once.
func TestConcurrentUse(t *testing.T) {
	root := t.TempDir()
	g := newGitRepo(t, root, "app.git")
	g.write("d/a.yaml", "one")
	g.push("first")
	remote := startHTTP(t, root, false).remote("app.git")
	limits := DefaultLimits()
	limits.Repositories = 2
	r := openCache(t, t.TempDir(), limits)
	var wg sync.WaitGroup
	for i := range 9 {
		wg.Go(func() {
			owner := Owner{"team-a", fmt.Sprintf("app-%d", i%3)}
			got, err := r.Fetch(t.Context(), owner, Request{Remote: remote, Ref: Ref{Branch: "main"}})
			if err != nil {
				t.Error(err)
				return
			}
			body, err := got.Tree.ReadFile("d/a.yaml")
			var own *fault.Error
			if err == nil && string(body) != "one" || err != nil && (!errors.As(err, &own) || own.Kind != fault.Transient) {
				t.Errorf("%q %v", body, err)
			}
			if i == 8 {
				if err := r.Remove(t.Context(), owner.Namespace, owner.Name); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
}

func TestTransferIsBounded(t *testing.T) {
	root := t.TempDir()
	g := newGitRepo(t, root, "app.git")
	g.write("big.bin", noise(1<<20))
	g.push("first")
	limits := DefaultLimits()
	limits.Transfer = 256 << 10
	for name, remote := range map[string]Remote{"http": startHTTP(t, root, false).remote("app.git"), "ssh": startSSH(t, root).remote("app.git")} {
		dir := t.TempDir()
		_, err := openCache(t, dir, limits).Fetch(t.Context(), alice, Request{Remote: remote, Ref: Ref{Branch: "main"}})
		if fault.KindOf(err) != fault.Invalid || !strings.Contains(fmt.Sprint(err), "limit of a transfer") {
			t.Errorf("%s: %v", name, err)
		}
		if left, _ := filepath.Glob(filepath.Join(dir, "team-a/app/g*")); len(left) != 0 {
			t.Errorf("%s: left %v", name, left)
		}
	}
}

// noise returns n bytes that do not compress, the same ones each time.
func noise(n int) string {
	out := make([]byte, n)
	_, _ = rand.NewChaCha8([32]byte{}).Read(out)
	return string(out)
}
