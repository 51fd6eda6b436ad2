package source

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"sealock.dev/sealock/fault"
	"sealock.dev/sealock/plaintext"
)

func pemBlock(kind string, der []byte) string {
	return string(pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}))
}

// clientPair returns a certificate for a client, in PEM, and the pool that trusts it.
func clientPair(t testing.TB) (cert, key string, pool *x509.CertPool) {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "robot"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}, IsCA: true, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &private.PublicKey, private)
	if err != nil {
		t.Fatal(err)
	}
	raw, err := x509.MarshalECPrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	made, _ := x509.ParseCertificate(der)
	pool = x509.NewCertPool()
	pool.AddCert(made)
	return pemBlock("CERTIFICATE", der), pemBlock("EC PRIVATE KEY", raw), pool
}

// TestClientCertificate: tls.crt and tls.key log in at a server that asks for a certificate, and at no other one.
// contract: GitRepository key tls.crt, key tls.key
func TestClientCertificate(t *testing.T) {
	root := t.TempDir()
	g := newGitRepo(t, root, "app.git")
	g.write("a.yaml", "one")
	g.push("first")
	cert, key, pool := clientPair(t)
	otherCert, otherKey, _ := clientPair(t)
	backend := startHTTP(t, root, false).Config.Handler
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		r.SetBasicAuth(testUser, testPassword) // the certificate is the login
		backend.ServeHTTP(w, r)
	}))
	s.TLS = &tls.Config{ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: pool}
	s.StartTLS()
	t.Cleanup(s.Close)
	ca := pemBlock("CERTIFICATE", s.Certificate().Raw)
	for name, tc := range map[string]struct {
		auth map[string]plaintext.Value
		ok   bool
	}{
		"right":    {auth("tls.crt", cert, "tls.key", key, "ca.crt", ca), true},
		"none":     {auth("ca.crt", ca), false},
		"another":  {auth("tls.crt", otherCert, "tls.key", otherKey, "ca.crt", ca), false},
		"no key":   {auth("tls.crt", cert, "ca.crt", ca), false},
		"no match": {auth("tls.crt", cert, "tls.key", otherKey, "ca.crt", ca), false},
	} {
		_, err := openCache(t, t.TempDir(), DefaultLimits()).Fetch(t.Context(), alice, Request{Remote: Remote{URL: s.URL + "/app.git", Auth: tc.auth}, Ref: Ref{Branch: "main"}})
		if (err == nil) != tc.ok {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// httpProxy is a forward proxy that asks for basic auth.
func httpProxy(t testing.TB, used *atomic.Int64) *httptest.Server {
	t.Helper()
	want := "Basic " + base64.StdEncoding.EncodeToString([]byte("pat:"+testPassword))
	return newServer(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Proxy-Authorization") != want {
			w.WriteHeader(http.StatusProxyAuthRequired)
			return
		}
		used.Add(1)
		if r.Method != http.MethodConnect {
			r.RequestURI = ""
			r.Header.Del("Proxy-Authorization")
			res, err := http.DefaultTransport.RoundTrip(r)
			if err != nil {
				w.WriteHeader(http.StatusBadGateway)
				return
			}
			defer res.Body.Close()
			for k, v := range res.Header {
				w.Header()[k] = v
			}
			w.WriteHeader(res.StatusCode)
			_, _ = io.Copy(w, res.Body)
			return
		}
		to, err := net.Dial("tcp", r.Host)
		if err != nil {
			w.WriteHeader(http.StatusBadGateway)
			return
		}
		from, _, err := w.(http.Hijacker).Hijack()
		if err != nil {
			return
		}
		_, _ = io.WriteString(from, "HTTP/1.1 200 OK\r\n\r\n")
		join(from, to)
	}))
}

func join(a, b net.Conn) {
	go func() {
		_, _ = io.Copy(a, b)
		_ = a.Close()
	}()
	_, _ = io.Copy(b, a)
	_ = b.Close()
}

// socksProxy is a SOCKS5 proxy that asks for a password (RFC 1928 and 1929), as small as can be.
func socksProxy(t testing.TB, used *atomic.Int64) string {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = listener.Close() })
	serve := func(c net.Conn) {
		defer c.Close()
		read := func(n int) []byte {
			b := make([]byte, n)
			_, _ = io.ReadFull(c, b)
			return b
		}
		read(int(read(2)[1]))
		_, _ = c.Write([]byte{5, 2})
		user := string(read(int(read(2)[1])))
		password := string(read(int(read(1)[0])))
		if user != "pat" || password != testPassword {
			_, _ = c.Write([]byte{1, 1})
			return
		}
		_, _ = c.Write([]byte{1, 0})
		head := read(4)
		host := ""
		switch head[3] {
		case 1:
			host = net.IP(read(4)).String()
		case 3:
			host = string(read(int(read(1)[0])))
		}
		to, err := net.Dial("tcp", net.JoinHostPort(host, strconv.Itoa(int(binary.BigEndian.Uint16(read(2))))))
		if err != nil {
			return
		}
		used.Add(1)
		_, _ = c.Write([]byte{5, 0, 0, 1, 0, 0, 0, 0, 0, 0})
		join(c, to)
	}
	go func() {
		for {
			c, err := listener.Accept()
			if err != nil {
				return
			}
			go serve(c)
		}
	}()
	return "socks5://" + listener.Addr().String()
}

// TestProxySecret: address, username and password of spec.proxySecretRef, for http, https and ssh.
// contract: GitRepository key address
func TestProxySecret(t *testing.T) {
	root := t.TempDir()
	g := newGitRepo(t, root, "app.git")
	g.write("a.yaml", "one")
	g.push("first")
	plain, secure, shell := startHTTP(t, root, false), startHTTP(t, root, true), startSSH(t, root)
	secured := secure.remote("app.git")
	secured.Auth["ca.crt"] = plaintext.FromString(pemBlock("CERTIFICATE", secure.Certificate().Raw))
	var used atomic.Int64
	web, socks := httpProxy(t, &used).URL, socksProxy(t, &used)
	closed := newServer(t, nil)
	closed.Close()
	for _, tc := range []struct {
		name   string
		remote Remote
		proxy  map[string]plaintext.Value
		allows func(string) bool
		text   string // "" works
	}{
		{"http through http", plain.remote("app.git"), auth("address", web, "username", "pat", "password", testPassword), nil, ""},
		{"https through http", secured, auth("address", web+"/", "username", "pat", "password", testPassword), nil, ""},
		{"http through socks5", plain.remote("app.git"), auth("address", socks, "username", "pat", "password", testPassword), nil, ""},
		{"ssh through socks5", shell.remote("app.git"), auth("address", socks, "username", "pat", "password", testPassword), nil, ""},
		{"inside the fence", plain.remote("app.git"), auth("address", web, "username", "pat", "password", testPassword), func(u string) bool { return u == web }, ""},
		{"outside of the fence", plain.remote("app.git"), auth("address", web, "username", "pat", "password", testPassword), func(u string) bool { return u != web }, "can answer as any server"},
		{"wrong password", plain.remote("app.git"), auth("address", web, "username", "pat", "password", "no"), nil, "not understood"},
		{"wrong password socks5", shell.remote("app.git"), auth("address", socks, "username", "pat", "password", "no"), nil, "the proxy cannot be reached, or refuses"},
		{"away", plain.remote("app.git"), auth("address", closed.URL), nil, "the proxy cannot be reached"},
		{"ssh through http", shell.remote("app.git"), auth("address", web), nil, "socks5 only"},
		{"no address", plain.remote("app.git"), auth("username", "pat"), nil, "address of the proxy is missing"},
		{"another kind", plain.remote("app.git"), auth("address", "ftp://x"), nil, "kind that is served"},
		{"junk", plain.remote("app.git"), auth("address", "::x"), nil, "cannot be read"},
	} {
		before := used.Load()
		remote := tc.remote
		remote.Proxy, remote.Allows = tc.proxy, tc.allows
		_, err := openCache(t, t.TempDir(), DefaultLimits()).Fetch(t.Context(), alice, Request{Remote: remote, Ref: Ref{Branch: "main"}})
		switch {
		case tc.text == "" && (err != nil || used.Load() == before):
			t.Errorf("%s: %v, used %d times", tc.name, err, used.Load()-before)
		case tc.text != "" && (err == nil || !strings.Contains(err.Error(), tc.text) || used.Load() != before):
			t.Errorf("%s: %v, used %d times", tc.name, err, used.Load()-before)
		case err != nil && (strings.Contains(err.Error(), testPassword) || strings.Contains(err.Error(), "127.0.0.1")):
			t.Errorf("%s: %v", tc.name, err)
		}
	}
}

// hub stands in for the API of GitHub, and for its Git server.
type hub struct {
	api, git *httptest.Server
	key      *rsa.PrivateKey
	private  string
	minted   atomic.Int64
	revoked  atomic.Bool
	until    atomic.Pointer[time.Time]
	asked    atomic.Pointer[string]
}

func startHub(t testing.TB, root string) *hub {
	t.Helper()
	h := &hub{}
	var err error
	if h.key, err = rsa.GenerateKey(rand.Reader, 2048); err != nil {
		t.Fatal(err)
	}
	h.private = pemBlock("RSA PRIVATE KEY", x509.MarshalPKCS1PrivateKey(h.key))
	end := time.Now().Add(time.Hour)
	h.until.Store(&end)
	mux := http.NewServeMux()
	mux.HandleFunc("POST /api/v3/app/installations/77/access_tokens", h.signed(func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(http.StatusCreated)
		_ = json.NewEncoder(w).Encode(map[string]any{"token": fmt.Sprintf("ghs_%d", h.minted.Add(1)), "expires_at": h.until.Load().UTC().Format(time.RFC3339)})
	}))
	mux.HandleFunc("GET /api/v3/orgs/acme/installation", h.signed(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, `{"id": 77}`) }))
	mux.HandleFunc("GET /api/v3/users/ada/installation", h.signed(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, `{"id": 77}`) }))
	mux.HandleFunc("POST /moved/", func(w http.ResponseWriter, r *http.Request) {
		http.Redirect(w, r, "/api/v3"+strings.TrimPrefix(r.URL.Path, "/moved"), http.StatusTemporaryRedirect)
	})
	h.api = newServer(t, mux)
	backend := startHTTP(t, root, false).Config.Handler
	h.git = newServer(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		user, password, _ := r.BasicAuth()
		if user != "x-access-token" || password != fmt.Sprintf("ghs_%d", h.minted.Load()) || h.revoked.Load() {
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		r.SetBasicAuth(testUser, testPassword)
		backend.ServeHTTP(w, r)
	}))
	return h
}

// signed lets requests of the App 4711 pass, as GitHub does.
func (h *hub) signed(next http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		token := strings.TrimPrefix(r.Header.Get("Authorization"), "Bearer ")
		parts := strings.Split(token, ".")
		h.asked.Store(&token)
		if len(parts) != 3 {
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		sum := sha256.Sum256([]byte(parts[0] + "." + parts[1]))
		sig, _ := base64.RawURLEncoding.DecodeString(parts[2])
		var claims struct {
			Iat, Exp int64
			Iss      string
		}
		raw, _ := base64.RawURLEncoding.DecodeString(parts[1])
		now := time.Now().Unix()
		if json.Unmarshal(raw, &claims) != nil || rsa.VerifyPKCS1v15(&h.key.PublicKey, crypto.SHA256, sum[:], sig) != nil ||
			claims.Iss != "4711" || claims.Iat > now || claims.Exp <= now || claims.Exp-now > 600 {
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		next(w, r)
	}
}

func (h *hub) remote(pairs ...string) Remote {
	all := append([]string{"githubAppID", "4711", "githubAppPrivateKey", h.private, "githubAppBaseURL", h.api.URL + "/api/v3"}, pairs...)
	return Remote{URL: h.git.URL + "/app.git", GitHubApp: true, Auth: auth(all...)}
}

// TestGitHubApp: githubAppID, githubAppPrivateKey, githubAppInstallationID or githubAppInstallationOwner, githubAppBaseURL.
// contract: GitRepository key githubAppID, key githubAppInstallationID, key githubAppInstallationOwner, key githubAppPrivateKey, key githubAppBaseURL
func TestGitHubApp(t *testing.T) {
	root := t.TempDir()
	g := newGitRepo(t, root, "app.git")
	g.write("a.yaml", "one")
	g.push("first")
	h := startHub(t, root)
	for _, pairs := range [][]string{{"githubAppInstallationID", "77"}, {"githubAppInstallationOwner", "acme"}, {"githubAppInstallationOwner", "ada"}} {
		got, err := openCache(t, t.TempDir(), DefaultLimits()).Fetch(t.Context(), alice, Request{Remote: h.remote(pairs...), Ref: Ref{Branch: "main"}})
		if err != nil || read(t, got.Tree, "a.yaml") != "one" {
			t.Fatalf("%v: %v", pairs, err)
		}
	}
	dir := t.TempDir()
	r := openCache(t, dir, DefaultLimits())
	now := time.Now()
	r.now = func() time.Time { return now }
	q := Request{Remote: h.remote("githubAppInstallationID", "77"), Ref: Ref{Branch: "main"}}
	for _, step := range []struct {
		later  time.Duration
		minted int64
	}{{0, 1}, {time.Minute, 0}, {50 * time.Minute, 0}, {56 * time.Minute, 1}} {
		before := h.minted.Load()
		now = time.Now().Add(step.later)
		if step.later > 55*time.Minute { // the stand-in's clock is the real one
			now = h.until.Load().Add(-4 * time.Minute)
			later := h.until.Load().Add(time.Hour)
			h.until.Store(&later)
			if _, err := r.authorized(t.Context(), q.Remote); fault.KindOf(err) != fault.Denied {
				t.Errorf("a claim of the future passes: %v", err)
			}
			r.tokens.drop(q.Remote.appIdentity(r.key))
			now = time.Now()
		}
		if _, err := r.Fetch(t.Context(), alice, q); err != nil {
			t.Fatalf("after %s: %v", step.later, err)
		}
		if until := r.tokens.list[q.Remote.appIdentity(r.key)].until; until == until.Round(0) { //nolint:staticcheck // with or without the monotonic clock
			t.Error("the end of a token is told by the wall clock, which may be moved")
		}
		if got := h.minted.Load() - before; got != step.minted {
			t.Errorf("after %s %d tokens were asked for, want %d", step.later, got, step.minted)
		}
	}
	if got := r.Counts().Transfers; got != 1 {
		t.Errorf("a new token cost %d transfers", got-1)
	}
	// A token that is revoked is asked for anew, at the next try.
	h.revoked.Store(true)
	if _, err := r.Fetch(t.Context(), alice, q); ReasonOf(err) != ReasonAuth {
		t.Errorf("%v", err)
	}
	h.revoked.Store(false)
	before := h.minted.Load()
	if _, err := r.Fetch(t.Context(), alice, q); err != nil || h.minted.Load() != before+1 {
		t.Errorf("%v", err)
	}
	if left := diskText(t, dir); strings.Contains(left, "ghs_") || strings.Contains(left, "PRIVATE KEY") {
		t.Error("a token or key is on disk")
	}
}

func TestGitHubAppThatDoesNotWork(t *testing.T) {
	root := t.TempDir()
	newGitRepo(t, root, "app.git").push("first")
	h := startHub(t, root)
	other, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	set := func(key, value string) Remote {
		r := h.remote("githubAppInstallationID", "77")
		r.Auth[key] = plaintext.FromString(value)
		return r
	}
	generic := h.remote("githubAppInstallationID", "77")
	generic.GitHubApp = false
	shell := h.remote("githubAppInstallationID", "77")
	shell.URL = "ssh://git@127.0.0.1/app.git"
	for name, tc := range map[string]struct {
		remote Remote
		kind   fault.Kind
		reason Reason
	}{
		"no ID":                    {set("githubAppID", ""), fault.Invalid, ReasonProvider},
		"no key":                   {set("githubAppPrivateKey", ""), fault.Invalid, ReasonProvider},
		"junk key":                 {set("githubAppPrivateKey", "junk"), fault.Invalid, ReasonProvider},
		"neither ID nor owner":     {h.remote(), fault.Invalid, ReasonProvider},
		"ID and owner":             {set("githubAppInstallationOwner", "acme"), fault.Invalid, ReasonProvider},
		"a password, too":          {set("password", "x"), fault.Invalid, ReasonProvider},
		"a token, too":             {set("bearerToken", "x"), fault.Invalid, ReasonProvider},
		"an ssh key, too":          {set("identity", "x"), fault.Invalid, ReasonProvider},
		"junk URL":                 {set("githubAppBaseURL", "ftp://x"), fault.Invalid, ReasonProvider},
		"another provider":         {generic, fault.Invalid, ReasonProvider},
		"over ssh":                 {shell, fault.Invalid, ReasonProvider},
		"no Secret":                {Remote{URL: h.git.URL + "/app.git", GitHubApp: true}, fault.Invalid, ReasonProvider},
		"another key":              {set("githubAppPrivateKey", pemBlock("RSA PRIVATE KEY", x509.MarshalPKCS1PrivateKey(other))), fault.Denied, ReasonAuth},
		"another App":              {set("githubAppID", "1"), fault.Denied, ReasonAuth},
		"not installed":            {set("githubAppInstallationID", "78"), fault.NotFound, ReasonAuth},
		"not installed at owner":   {h.remote("githubAppInstallationOwner", "nobody"), fault.NotFound, ReasonAuth},
		"path in the installation": {set("githubAppInstallationID", "77/../77"), fault.NotFound, ReasonAuth},
		"an API that redirects":    {set("githubAppBaseURL", h.api.URL+"/moved"), fault.Transient, ReasonAuth},
	} {
		_, err := openCache(t, t.TempDir(), DefaultLimits()).Fetch(t.Context(), alice, Request{Remote: tc.remote, Ref: Ref{Branch: "main"}})
		if fault.KindOf(err) != tc.kind || ReasonOf(err) != tc.reason {
			t.Errorf("%s: %v %v %v", name, fault.KindOf(err), ReasonOf(err), err)
		}
		if err != nil && (strings.Contains(err.Error(), "PRIVATE") || strings.Contains(err.Error(), "127.0.0.1")) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if h.minted.Load() != 0 {
		t.Errorf("%d tokens", h.minted.Load())
	}
}

// TestT20AppAPIStaysInTheFence: the API of a GitHub App, which gets a claim signed with its key, is one of the places that the
// tenant may name; that of github.com everybody may.
func TestT20AppAPIStaysInTheFence(t *testing.T) {
	root := t.TempDir()
	newGitRepo(t, root, "app.git").push("first")
	h := startHub(t, root)
	try := func(allows func(string) bool) error {
		remote := h.remote("githubAppInstallationID", "77")
		remote.Allows = allows
		_, err := openCache(t, t.TempDir(), DefaultLimits()).Fetch(t.Context(), alice, Request{Remote: remote, Ref: Ref{Branch: "main"}})
		return err
	}
	err := try(func(u string) bool { return strings.HasPrefix(u, h.git.URL+"/") })
	if fault.KindOf(err) != fault.Denied || !strings.Contains(err.Error(), "githubAppBaseURL") || h.asked.Load() != nil {
		t.Errorf("outside of the fence: %v, asked %v", err, h.asked.Load() != nil)
	}
	if err := try(func(u string) bool { return strings.HasPrefix(u, h.git.URL+"/") || u == h.api.URL+"/api/v3" }); err != nil {
		t.Errorf("inside: %v", err)
	}
	hosted := h.remote("githubAppInstallationID", "77")
	delete(hosted.Auth, "githubAppBaseURL")
	hosted.Allows = func(string) bool { return false }
	for _, base := range []string{"", "https://api.github.com", "https://api.github.com/"} {
		if base != "" {
			hosted.Auth["githubAppBaseURL"] = plaintext.FromString(base)
		}
		if _, err := hosted.app(); err != nil {
			t.Errorf("github.com as %q: %v", base, err)
		}
	}
}
