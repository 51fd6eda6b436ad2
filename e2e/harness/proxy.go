package harness

import (
	"bufio"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"strings"
	"sync"

	"k8s.io/client-go/rest"
)

// Proxy stands between a controller and the API server, so that a test can count, delay, refuse and lose requests, and
// silence or end watches. It passes the caller's credentials through and has none of its own.
type Proxy struct {
	URL string
	CA  []byte // of its certificate, PEM

	server *httptest.Server
	pass   *httputil.ReverseProxy

	mu      sync.Mutex
	rules   []*Rule
	streams map[*stream]struct{}
}

// Rule stands in the way of requests: it answers itself, or lets next answer. The rule that was added last is asked first.
type Rule func(w http.ResponseWriter, r *http.Request, next http.Handler)

// NewProxy starts a proxy to the API server of the config, which serves HTTPS on loopback.
func NewProxy(config *rest.Config) (*Proxy, error) {
	target, err := url.Parse(config.Host)
	if err != nil {
		return nil, err
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(config.CAData) {
		return nil, errors.New("the config has no usable CA")
	}
	p := &Proxy{streams: map[*stream]struct{}{}}
	p.pass = &httputil.ReverseProxy{
		Rewrite:       func(r *httputil.ProxyRequest) { r.SetURL(target) },
		Transport:     &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12}, ForceAttemptHTTP2: true, DisableCompression: true},
		FlushInterval: -1,
		ErrorLog:      log.New(io.Discard, "", 0),
		ErrorHandler:  func(http.ResponseWriter, *http.Request, error) { panic(http.ErrAbortHandler) },
		ModifyResponse: func(r *http.Response) error {
			if r.StatusCode == http.StatusOK && Ask(r.Request).Verb == "watch" {
				r.Body = p.follow(r)
			}
			return nil
		},
	}
	p.server = httptest.NewUnstartedServer(p)
	p.server.EnableHTTP2 = true // as the API server itself
	p.server.Config.ErrorLog = log.New(io.Discard, "", 0)
	p.server.StartTLS()
	p.URL = p.server.URL
	p.CA = pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: p.server.Certificate().Raw})
	return p, nil
}

// Close ends the proxy and every connection through it.
func (p *Proxy) Close() {
	p.Cut()
	p.server.Close()
}

// Cut ends every connection. New ones are taken.
func (p *Proxy) Cut() { p.server.CloseClientConnections() }

// Add puts a rule in the way; the returned function takes it away.
func (p *Proxy) Add(rule Rule) (remove func()) {
	own := &rule
	p.mu.Lock()
	defer p.mu.Unlock()
	p.rules = append(p.rules, own)
	return func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		for i, each := range p.rules {
			if each == own {
				p.rules = append(p.rules[:i:i], p.rules[i+1:]...)
				return
			}
		}
	}
}

func (p *Proxy) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	p.mu.Lock()
	rules := p.rules
	p.mu.Unlock()
	var handler http.Handler = p.pass
	for _, rule := range rules {
		next := handler
		handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { (*rule)(w, r, next) })
	}
	handler.ServeHTTP(w, r)
}

// Asked is what a request to the API server is about.
type Asked struct {
	Verb      string // get, list, watch, create, update, patch, delete
	Resource  string // with group, as "deployments.apps"; "" for discovery and probes
	Namespace string
	Name      string
	Sub       string
	DryRun    bool
	Selector  string // of labels
}

// Writes reports a request that changes something.
func (a Asked) Writes() bool {
	return !a.DryRun && (a.Verb == "create" || a.Verb == "update" || a.Verb == "patch" || a.Verb == "delete")
}

// Ask reads a request.
func Ask(r *http.Request) Asked {
	parts := strings.Split(strings.Trim(r.URL.Path, "/"), "/")
	query := r.URL.Query()
	a := Asked{DryRun: query.Get("dryRun") != "", Selector: query.Get("labelSelector")}
	group := ""
	switch {
	case len(parts) > 2 && parts[0] == "api":
		parts = parts[2:]
	case len(parts) > 3 && parts[0] == "apis":
		group, parts = "."+parts[1], parts[3:]
	default:
		return a
	}
	if len(parts) > 2 && parts[0] == "namespaces" {
		a.Namespace, parts = parts[1], parts[2:]
	}
	a.Resource = parts[0] + group
	if len(parts) > 1 {
		a.Name = parts[1]
	}
	if len(parts) > 2 {
		a.Sub = parts[2]
	}
	a.Verb = map[string]string{http.MethodPost: "create", http.MethodPut: "update", http.MethodPatch: "patch", http.MethodDelete: "delete"}[r.Method]
	if a.Verb == "" {
		a.Verb = "get"
		if a.Name == "" {
			a.Verb = "list"
		}
		if watch := query.Get("watch"); watch == "true" || watch == "1" {
			a.Verb = "watch"
		}
	}
	return a
}

// Refuse answers as an API server does that fails with a code.
func Refuse(w http.ResponseWriter, code int, reason string) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(code)
	_, _ = io.WriteString(w, statusJSON(code, reason))
}

func statusJSON(code int, reason string) string {
	number := []byte{byte('0' + code/100), byte('0' + code/10%10), byte('0' + code%10)}
	return `{"kind":"Status","apiVersion":"v1","metadata":{},"status":"Failure","message":"injected by a test","reason":"` + reason + `","code":` + string(number) + `}`
}

// Watches returns how many open watches are about what match accepts.
func (p *Proxy) Watches(match func(Asked) bool) int {
	return len(p.matching(match))
}

// Silence holds back what open watches deliver, as a connection does whose other end is gone unnoticed.
func (p *Proxy) Silence(match func(Asked) bool) {
	for _, s := range p.matching(match) {
		s.silence()
	}
}

// Expire ends open watches as the API server does when it no longer has what happened since: what was held back is lost.
func (p *Proxy) Expire(match func(Asked) bool) int {
	all := p.matching(match)
	for _, s := range all {
		s.expire()
	}
	return len(all)
}

func (p *Proxy) matching(match func(Asked) bool) []*stream {
	p.mu.Lock()
	defer p.mu.Unlock()
	var out []*stream
	for s := range p.streams {
		if match(s.asked) {
			out = append(out, s)
		}
	}
	return out
}

// stream is one open watch.
type stream struct {
	proxy *Proxy
	asked Asked
	json  bool
	from  io.ReadCloser

	chunks  chan []byte
	silent  chan struct{} // closed when nothing is to be delivered any more
	expired chan struct{}
	closed  chan struct{}
	once    [3]sync.Once

	pending []byte
	last    bool
}

func (p *Proxy) follow(r *http.Response) *stream {
	s := &stream{
		proxy: p, asked: Ask(r.Request), json: strings.HasPrefix(r.Header.Get("Content-Type"), "application/json"), from: r.Body,
		chunks: make(chan []byte), silent: make(chan struct{}), expired: make(chan struct{}), closed: make(chan struct{}),
	}
	p.mu.Lock()
	p.streams[s] = struct{}{}
	p.mu.Unlock()
	go s.pump()
	return s
}

// pump reads ahead, event by event where events are lines.
func (s *stream) pump() {
	defer close(s.chunks)
	lines := bufio.NewReader(s.from)
	for {
		var chunk []byte
		var err error
		if s.json {
			chunk, err = lines.ReadBytes('\n')
		} else {
			chunk = make([]byte, 32<<10)
			var n int
			n, err = lines.Read(chunk)
			chunk = chunk[:n]
		}
		if len(chunk) > 0 {
			select {
			case s.chunks <- chunk:
			case <-s.closed:
				return
			}
		}
		if err != nil {
			return
		}
	}
}

func (s *stream) Read(to []byte) (int, error) {
	for len(s.pending) == 0 {
		if s.last {
			return 0, io.EOF
		}
		chunks := s.chunks
		select {
		case <-s.silent:
			chunks = nil
		default:
		}
		silent := s.silent
		if chunks == nil {
			silent = nil
		}
		select {
		case chunk, ok := <-chunks:
			s.pending, s.last = chunk, !ok
		case <-silent:
		case <-s.expired:
			s.last = true
			if s.json {
				s.pending = []byte(`{"type":"ERROR","object":` + statusJSON(http.StatusGone, "Expired") + "}\n")
			}
		case <-s.closed:
			return 0, io.EOF
		}
	}
	n := copy(to, s.pending)
	s.pending = s.pending[n:]
	return n, nil
}

func (s *stream) Close() error {
	s.proxy.mu.Lock()
	delete(s.proxy.streams, s)
	s.proxy.mu.Unlock()
	s.once[0].Do(func() { close(s.closed) })
	return s.from.Close()
}

func (s *stream) silence() { s.once[1].Do(func() { close(s.silent) }) }
func (s *stream) expire()  { s.once[2].Do(func() { close(s.expired) }) }
