package gitrepository

import (
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"

	sourcev1 "github.com/fluxcd/source-controller/api/v1"
)

// TestThroughAProxy: what spec.proxySecretRef names is asked for everything, with its own credentials, and nothing else is: the
// URL is that of a host which only the proxy knows.
// contract: GitRepository spec.proxySecretRef.name
func TestThroughAProxy(t *testing.T) {
	b := newBench(t)
	b.secret("git-credentials", b.dc.Env["GIT_PASSWORD"])
	commit := b.push("a.yaml", "one", "one")
	var passed atomic.Int64
	proxy := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Proxy-Authorization") != "Basic cHJveHk6c2VjcmV0" { // proxy:secret
			w.WriteHeader(http.StatusProxyAuthRequired)
			return
		}
		passed.Add(1)
		target := strings.Replace(r.URL.String(), "http://git.invalid", strings.TrimSuffix(b.dc.Env["GIT_HTTP_URL"], "/"), 1)
		out, err := http.NewRequestWithContext(r.Context(), r.Method, target, r.Body)
		if err != nil {
			w.WriteHeader(http.StatusBadGateway)
			return
		}
		out.Header = r.Header.Clone()
		out.Header.Del("Proxy-Authorization")
		res, err := http.DefaultTransport.RoundTrip(out)
		if err != nil {
			w.WriteHeader(http.StatusBadGateway)
			return
		}
		defer func() { _ = res.Body.Close() }()
		for k, v := range res.Header {
			w.Header()[k] = v
		}
		w.WriteHeader(res.StatusCode)
		_, _ = io.Copy(w, res.Body)
	}))
	t.Cleanup(proxy.Close)
	b.data("proxy", "address", proxy.URL, "username", "proxy", "password", "secret")
	b.create("app", func(r *sourcev1.GitRepository) {
		r.Spec.URL = "http://git.invalid/" + b.name
		r.Spec.ProxySecretRef = &secretRef{Name: "proxy"}
	})
	repo, _, _, _, err := b.reconcile("app")
	if err != nil || repo.Status.Artifact == nil || repo.Status.Artifact.Revision != "main@sha1:"+commit || passed.Load() < 2 {
		t.Fatalf("%v, %d requests, %+v", err, passed.Load(), repo.Status.Conditions)
	}
	// The Secret changes, and with it what is used.
	b.data("proxy", "address", proxy.URL, "username", "proxy", "password", "wrong")
	before := passed.Load()
	if repo, _, _, _, _ = b.reconcile("app"); passed.Load() != before || condition(repo, "FetchFailed") == "" || repo.Status.Artifact == nil {
		t.Errorf("%d requests, %+v", passed.Load()-before, repo.Status.Conditions)
	}
}
