package main

import (
	"crypto/rand"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestGitOverHTTP(t *testing.T) {
	d := sharedCluster(t)
	url := d.gitURL("http/app", d.env["GIT_PASSWORD"])
	d.roundTrip(t, url, []byte("hello"))

	// More than git sends in one piece: the request is chunked and the answer streams.
	big := make([]byte, 3<<20)
	_, _ = rand.Read(big)
	d.roundTrip(t, d.gitURL("http/big", d.env["GIT_PASSWORD"]), big)

	clone := t.TempDir()
	for _, args := range [][]string{
		{"clone", "-q", "--depth=1", url, "shallow"},
		{"clone", "-q", "--filter=blob:none", url, "partial"},
		{"-c", "protocol.version=0", "clone", "-q", url, "old"},
	} {
		if _, err := d.git(clone, nil, args...); err != nil {
			t.Error(err)
		}
	}
	old := filepath.Join(clone, "old")
	commit, err := d.git(old, nil, "rev-parse", "HEAD")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := d.git(old, nil, "fetch", "-q", url, commit); err != nil {
		t.Errorf("fetching a commit by its id: %v", err)
	}

	// A long negotiation, which git compresses: the clone has 60 commits of its own when it fetches.
	for range 60 {
		if _, err := d.git(old, nil, "commit", "-q", "--allow-empty", "-m", "own"); err != nil {
			t.Fatal(err)
		}
	}
	d.roundTrip(t, d.gitURL("http/other", d.env["GIT_PASSWORD"]), []byte("other"))
	if _, err := d.git(old, nil, "fetch", "-q", d.gitURL("http/other", d.env["GIT_PASSWORD"]), "main"); err != nil {
		t.Error(err)
	}

	// A repository that somebody removes is gone; one that was never there is not found.
	if err := os.RemoveAll(filepath.Join(d.env["GIT_ROOT"], "http", "app.git")); err != nil {
		t.Fatal(err)
	}
	if out, err := d.git(clone, nil, "ls-remote", url); err == nil || !strings.Contains(out, "not found") {
		t.Errorf("a removed repository is served: %s", out)
	}
}

func TestGitOverHTTPRefuses(t *testing.T) {
	d := sharedCluster(t)
	tree := d.commit(t, []byte("x"))
	for _, args := range [][]string{{"push", d.gitURL("refused", "wrong"), "main"}, {"ls-remote", d.gitURL("refused", "wrong")}} {
		if out, err := d.git(tree, nil, args...); err == nil || !strings.Contains(out, "Authentication failed") {
			t.Errorf("git %s with a wrong password: %s", args[0], out)
		}
	}
	if _, err := os.Stat(filepath.Join(d.env["GIT_ROOT"], "refused.git")); err == nil {
		t.Error("a refused push made a repository")
	}
	for path, want := range map[string]int{
		"/../x.git/info/refs?service=git-receive-pack":        http.StatusNotFound,
		"/a..b.git/info/refs?service=git-receive-pack":        http.StatusNotFound,
		"/a.git/hooks.git/info/refs?service=git-receive-pack": http.StatusNotFound,
		"/none.git/info/refs?service=git-upload-pack":         http.StatusNotFound,
		"/none.git/info/refs":                                 http.StatusForbidden,
		"/none.git/HEAD":                                      http.StatusNotFound,
	} {
		request, err := http.NewRequest("GET", d.env["GIT_HTTP_URL"], nil)
		if err != nil {
			t.Fatal(err)
		}
		request.URL.Path, request.URL.RawQuery, _ = strings.Cut(path, "?")
		for _, password := range []string{d.env["GIT_PASSWORD"], ""} {
			request.SetBasicAuth(d.env["GIT_USERNAME"], password)
			response, err := http.DefaultTransport.RoundTrip(request)
			if err != nil {
				t.Fatal(err)
			}
			response.Body.Close()
			if password == "" {
				want = http.StatusUnauthorized
			}
			if response.StatusCode != want {
				t.Errorf("GET %s with password %q: %s, not %d", path, password, response.Status, want)
			}
		}
	}
}

func TestGitOverSSH(t *testing.T) {
	d := sharedCluster(t)
	url := d.env["GIT_SSH_URL"] + "/ssh/app.git"
	d.roundTrip(t, url, []byte("hello"))
	// Both doors lead to the same repository.
	d.mustClone(t, d.gitURL("ssh/app", d.env["GIT_PASSWORD"]), []byte("hello"))

	if out, err := d.git(t.TempDir(), nil, "clone", d.env["GIT_SSH_URL"]+"/none.git"); err == nil || !strings.Contains(out, "not found") {
		t.Errorf("cloning a missing repository: %s", out)
	}
	other := filepath.Join(t.TempDir(), "other")
	if _, err := keptKey(other); err != nil {
		t.Fatal(err)
	}
	ssh := "GIT_SSH_COMMAND=ssh -F /dev/null -i " + other + " -o IdentitiesOnly=yes -o BatchMode=yes -o UserKnownHostsFile=" + d.env["GIT_KNOWN_HOSTS"]
	if out, err := d.git(t.TempDir(), []string{ssh}, "ls-remote", url); err == nil || !strings.Contains(out, "Permission denied") {
		t.Errorf("another key: %s", out)
	}
}
