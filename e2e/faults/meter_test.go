package faults

import (
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"path"
	"sync"
)

// meter stands before Vault and counts what it is asked.
type meter struct {
	*httptest.Server
	mu     sync.Mutex
	counts map[string]int64
}

func newMeter(tm *team) *meter {
	tm.Helper()
	target, err := url.Parse(tm.Env["VAULT_ADDR"])
	tm.ok(err)
	m := &meter{counts: map[string]int64{}}
	pass := &httputil.ReverseProxy{Rewrite: func(r *httputil.ProxyRequest) { r.SetURL(target) }}
	m.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		m.mu.Lock()
		m.counts[path.Base(r.URL.Path)]++
		m.mu.Unlock()
		pass.ServeHTTP(w, r)
	}))
	tm.Cleanup(m.Close)
	return m
}

// count returns how many requests there were for the last part of a path: a secret's name, or login.
func (m *meter) count(name string) int64 {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.counts[name]
}
