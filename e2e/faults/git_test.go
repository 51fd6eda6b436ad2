package faults

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
)

// gitFront stands before the Git server.
type gitFront struct {
	mode atomic.Int32
	*httptest.Server
}

const (
	gitServes int32 = iota
	gitGone
	gitHangs
	gitCutsOff // in the middle of a pack
)

func (tm *team) gitFront() *gitFront {
	tm.Helper()
	target, err := url.Parse(tm.Env["GIT_HTTP_URL"])
	tm.ok(err)
	pass := httputil.NewSingleHostReverseProxy(target)
	f := &gitFront{}
	f.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch f.mode.Load() {
		case gitGone:
			panic(http.ErrAbortHandler)
		case gitHangs:
			<-r.Context().Done()
		case gitCutsOff:
			if r.Method != http.MethodPost {
				pass.ServeHTTP(w, r)
				return
			}
			rec := httptest.NewRecorder()
			pass.ServeHTTP(rec, r)
			w.Header().Set("Content-Type", rec.Header().Get("Content-Type"))
			_, _ = w.Write(rec.Body.Bytes()[:rec.Body.Len()/2])
			_ = http.NewResponseController(w).Flush()
			panic(http.ErrAbortHandler)
		default:
			pass.ServeHTTP(w, r)
		}
	}))
	tm.Cleanup(f.Close)
	return f
}

// artifact returns what the source advertises.
func (tm *team) artifact() string {
	tm.Helper()
	o, err := tm.Get(tm.ctx, srcAPI, "GitRepository", tm.name, "app")
	tm.ok(err)
	return str(o.Object, "status", "artifact", "revision")
}

// untouched fails when a broken source changed anything: its artifact, what runs, or that the Kustomization is ready.
func (tm *team) untouched(commit string, want set) {
	tm.Helper()
	if a := tm.artifact(); !strings.HasSuffix(a, commit) {
		tm.Errorf("the last artifact did not stay: %s", a)
	}
	tm.ready("app", commit)
	tm.sound("app", want)
}

// TestGitServerGone: a Git server that is away, does not answer, or breaks off in the middle of a pack leaves everything as
// it is, and says so. When it is back, the next commit arrives.
func TestGitServerGone(t *testing.T) {
	t.Parallel()
	tm := newTeam(t, "gitgone")
	front := tm.gitFront()
	now := set{"ConfigMap/a": "0", "ConfigMap/b": "0"}
	commit := tm.push(now.files("app"))
	source := strings.NewReplacer(tm.Env["GIT_HTTP_URL"], front.URL, "timeout: 20s", "timeout: 2s").Replace(tm.source())
	tm.apply(source + tm.sync("app"))
	tm.ready("app", commit)
	for i, mode := range []int32{gitGone, gitHangs, gitCutsOff} {
		front.mode.Store(mode)
		next := set{"ConfigMap/a": fmt.Sprint(i + 1), fmt.Sprintf("ConfigMap/new-%d", i): "x"}
		later := tm.push(next.change("app", now))
		tm.fetch()
		if message := tm.condition(srcAPI, "GitRepository", "app", "False", "GitOperationFailed"); message == "" {
			t.Errorf("mode %d: no message", mode)
		}
		tm.untouched(commit, now)
		front.mode.Store(gitServes)
		tm.fetch()
		tm.ready("app", later)
		tm.sound("app", next)
		now, commit = next, later
	}
}

// TestGitHistoryRewritten: a branch that was forced to a commit without common history is followed, and what the new
// history lacks is pruned, as with any commit.
func TestGitHistoryRewritten(t *testing.T) {
	t.Parallel()
	first := set{"ConfigMap/a": "1", "ConfigMap/b": "1"}
	tm := begin(t, "rewritten", first)
	for _, args := range [][]string{{"checkout", "-q", "--orphan", "other"}, {"branch", "-q", "-D", "main"}, {"branch", "-q", "-m", "main"}} {
		_, err := tm.Git(tm.ctx, tm.name, args...)
		tm.ok(err)
	}
	tm.deliver(first, set{"ConfigMap/a": "2", "ConfigMap/c": "2"})
}

// TestGitBranchEmptied: a commit without any file, and a repository that was replaced by an empty one, are failures and no
// request to delete everything.
func TestGitBranchEmptied(t *testing.T) {
	t.Parallel()
	first := set{"ConfigMap/a": "1", "ConfigMap/b": "1"}
	tm := begin(t, "emptied", first)
	nothing := map[string]string{}
	for name := range first.files("app") {
		nothing[name] = ""
	}
	commit := tm.push(nothing)
	tm.fetch()
	if message := tm.failed("app", commit); message == "" {
		t.Error("no message")
	}
	tm.sound("app", first)

	repository := filepath.Join(tm.Env["GIT_ROOT"], tm.name+".git")
	tm.ok(os.RemoveAll(repository))
	tm.fetch()
	_ = tm.condition(srcAPI, "GitRepository", "app", "False", "")
	tm.sound("app", first)
	_, err := tm.GitIn(tm.ctx, tm.Dir, "init", "-q", "--bare", "--initial-branch=main", repository)
	tm.ok(err)
	tm.fetch()
	_ = tm.condition(srcAPI, "GitRepository", "app", "False", "")
	tm.sound("app", first)
	if a := tm.artifact(); !strings.HasSuffix(a, commit) {
		t.Errorf("the last artifact did not stay: %s", a)
	}
	tm.deliver(first, set{"ConfigMap/a": "1", "ConfigMap/c": "2"})
}
