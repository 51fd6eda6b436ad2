package vault

import (
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"
)

// fake speaks the few calls that the client makes. It exists to count requests and to fail in ways that a real Vault
// cannot be made to fail; what Vault itself answers is tested against a real one in real_test.go.
type fake struct {
	*httptest.Server
	mu       sync.Mutex
	requests []string          // "METHOD path namespace token"
	bodies   []string          // of logins
	tokens   map[string]bool   // valid ones
	denied   map[string]bool   // tokens that may not read
	secrets  map[string]string // wire path -> answer
	status   map[string]int    // path -> status, with a body that quotes a secret
	lease    int
	issued   int
	hold     chan struct{} // when set, reads wait for it
}

const canary = "cAnArY-vault-77/+="

func newFake(t *testing.T) *fake {
	t.Helper()
	f := &fake{tokens: map[string]bool{"static": true}, denied: map[string]bool{}, secrets: map[string]string{}, status: map[string]int{}, lease: 3600}
	f.Server = httptest.NewServer(http.HandlerFunc(f.serve))
	t.Cleanup(f.Close)
	return f
}

func (f *fake) serve(w http.ResponseWriter, r *http.Request) {
	path := strings.TrimPrefix(r.URL.Path, "/v1/")
	token := r.Header.Get("X-Vault-Token")
	f.mu.Lock()
	f.requests = append(f.requests, strings.TrimSpace(strings.Join([]string{r.Method, r.URL.RequestURI(), r.Header.Get("X-Vault-Namespace"), token}, " ")))
	hold, status := f.hold, f.status[path]
	f.mu.Unlock()
	if hold != nil && r.Method == http.MethodGet {
		<-hold
	}
	answer := func(code int, body string) { w.WriteHeader(code); _, _ = io.WriteString(w, body) }
	f.mu.Lock()
	defer f.mu.Unlock()
	switch {
	case status >= 300 && status < 400:
		w.Header().Set("Location", "http://127.0.0.1:1/"+canary)
		answer(status, "")
	case status != 0:
		answer(status, `{"errors":["`+canary+`"]}`)
	case strings.HasSuffix(path, "/login"):
		raw, _ := io.ReadAll(r.Body)
		f.bodies = append(f.bodies, string(raw))
		f.issued++
		issued := "issued-" + string(rune('0'+f.issued))
		f.tokens[issued] = true
		out, _ := json.Marshal(map[string]any{"auth": map[string]any{"client_token": issued, "lease_duration": f.lease}})
		answer(200, string(out))
	case !f.tokens[token]:
		answer(403, `{"errors":["permission denied `+canary+`"]}`)
	case path == "auth/token/lookup-self":
		answer(200, `{"data":{"id":"`+canary+`"}}`)
	case f.denied[token]:
		answer(403, `{"errors":["permission denied `+canary+`"]}`)
	case f.secrets[path] == "":
		answer(404, `{"errors":[]}`)
	default:
		answer(200, f.secrets[path])
	}
}

func (f *fake) count(part string) int {
	f.mu.Lock()
	defer f.mu.Unlock()
	n := 0
	for _, r := range f.requests {
		if strings.Contains(r, part) {
			n++
		}
	}
	return n
}

func (f *fake) target() Target { return Target{Server: f.URL} }

type clock struct {
	mu  sync.Mutex
	now time.Time
}

func (c *clock) Now() time.Time { c.mu.Lock(); defer c.mu.Unlock(); return c.now }

func (c *clock) add(d time.Duration) { c.mu.Lock(); defer c.mu.Unlock(); c.now = c.now.Add(d) }

func mustPath(t *testing.T, key string) Path {
	t.Helper()
	mount := "secret"
	p, err := KVPath(&mount, true, "", key, "")
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func reveal(d Data) string { return string(d.JSON.Reveal()) }
