package vault

import (
	"context"
	"errors"
	"strings"
	"sync"
	"testing"
	"time"

	"sealock.dev/sealock/fault"
	"sealock.dev/sealock/plaintext"
)

func login(identity string) Login {
	return Login{
		Identity: identity, Method: Kubernetes, Mount: "kubernetes", Role: "app",
		Secret: func(context.Context) (plaintext.Value, error) { return plaintext.FromString("jwt-of-" + identity), nil },
	}
}

func tokenLogin(token string) Login {
	return Login{Identity: token, Method: Token, Secret: func(context.Context) (plaintext.Value, error) { return plaintext.FromString(token), nil }}
}

const hello = `{"data":{"data":{"a":"b"},"metadata":{"version":7}}}`

func TestReadsOfOnePathAreOneRequest(t *testing.T) {
	f := newFake(t)
	f.secrets["secret/data/app"] = hello
	c := New(Options{})
	var wg sync.WaitGroup
	f.hold = make(chan struct{})
	for range 20 {
		wg.Go(func() {
			d, err := c.Read(t.Context(), f.target(), login("a"), mustPath(t, "app"), time.Second)
			if err != nil || reveal(d) != `{"a":"b"}` || d.Version != 7 {
				t.Errorf("got version %d, error %v", d.Version, err)
			}
		})
	}
	close(f.hold)
	wg.Wait()
	if n, l := f.count("GET /v1/secret/data/app"), f.count("/login"); n != 1 || l != 1 {
		t.Errorf("%d reads and %d logins, want 1 and 1: %q", n, l, f.requests)
	}
	if got := f.bodies[0]; got != `{"jwt":"jwt-of-a","role":"app"}` {
		t.Errorf("the login sends %s", got)
	}
}

func TestAnswersAreFreshAndLeaveMemory(t *testing.T) {
	f := newFake(t)
	f.secrets["secret/data/app"] = hello
	k := &clock{now: time.Unix(1000, 0)}
	c := New(Options{Now: k.Now, Freshness: 5 * time.Millisecond})
	read := func(maxAge time.Duration) {
		if _, err := c.Read(t.Context(), f.target(), login("a"), mustPath(t, "app"), maxAge); err != nil {
			t.Fatal(err)
		}
	}
	read(time.Hour)
	read(0) // always asks
	if n := f.count("GET /v1/secret"); n != 2 {
		t.Errorf("%d reads, want 2", n)
	}
	k.add(time.Second)
	read(time.Hour)
	if n := f.count("GET /v1/secret"); n != 3 {
		t.Errorf("%d reads after the window, want 3", n)
	}
	deadline := time.Now().Add(10 * time.Second)
	for left := 1; left > 0; {
		c.mu.Lock()
		left = len(c.answers)
		c.mu.Unlock()
		if time.Now().After(deadline) {
			t.Fatal("answers stay in memory")
		}
	}
}

func TestIdentitiesShareNothing(t *testing.T) {
	f := newFake(t)
	f.secrets["secret/data/app"] = hello
	c := New(Options{})
	other := login("a")
	other.Role = "other"
	namespaced := f.target()
	namespaced.Namespace = "team"
	for _, each := range []struct {
		target Target
		login  Login
	}{{f.target(), login("a")}, {f.target(), login("b")}, {f.target(), other}, {namespaced, login("a")}, {f.target(), login("a")}} {
		if _, err := c.Read(t.Context(), each.target, each.login, mustPath(t, "app"), time.Minute); err != nil {
			t.Fatal(err)
		}
	}
	if n, l := f.count("GET /v1/secret/data/app"), f.count("/login"); n != 4 || l != 4 {
		t.Errorf("%d reads and %d logins, want 4 and 4: %q", n, l, f.requests)
	}
	if _, err := c.Read(t.Context(), f.target(), Login{Method: Token}, mustPath(t, "app"), time.Minute); fault.KindOf(err) != fault.Internal {
		t.Errorf("a login without identity: %v", err)
	}
}

func TestTokensServeMostOfTheirLife(t *testing.T) {
	f := newFake(t)
	f.secrets["secret/data/app"] = hello
	f.lease = 100
	k := &clock{now: time.Unix(1000, 0)}
	c := New(Options{Now: k.Now})
	for _, step := range []struct {
		after  time.Duration
		logins int
	}{{0, 1}, {79 * time.Second, 1}, {2 * time.Second, 2}, {60 * time.Second, 2}} {
		k.add(step.after)
		if _, err := c.Read(t.Context(), f.target(), login("a"), mustPath(t, "app"), 0); err != nil {
			t.Fatal(err)
		}
		if n := f.count("/login"); n != step.logins {
			t.Errorf("%d logins after another %s, want %d", n, step.after, step.logins)
		}
	}
}

func TestARevokedTokenIsReplacedOnce(t *testing.T) {
	f := newFake(t)
	f.secrets["secret/data/app"] = hello
	c := New(Options{})
	read := func() error {
		_, err := c.Read(t.Context(), f.target(), login("a"), mustPath(t, "app"), 0)
		return err
	}
	if err := read(); err != nil {
		t.Fatal(err)
	}
	f.mu.Lock()
	f.tokens = map[string]bool{} // revoked
	f.mu.Unlock()
	if err := read(); err != nil {
		t.Errorf("after a revocation: %v", err)
	}
	f.mu.Lock()
	for k := range f.tokens {
		f.denied[k] = true // alive, and not allowed
	}
	f.mu.Unlock()
	if err := read(); fault.KindOf(err) != fault.Denied || !strings.Contains(err.Error(), `the role "app" may not read secret/data/app`) {
		t.Errorf("a denied path: %v", err)
	}
	if n := f.count("/login"); n != 2 {
		t.Errorf("%d logins, want 2: a live token is no reason to log in", n)
	}
}

func TestT41_FailuresAreClassifiedAndSayNothing(t *testing.T) {
	path := "secret/data/app"
	cases := map[string]struct {
		break_ func(f *fake)
		login  Login
		kind   fault.Kind
		words  string
	}{
		"absent":         {func(*fake) {}, login("a"), fault.NotFound, "there is no secret at secret/app"},
		"deleted":        {func(f *fake) { f.secrets[path] = `{"data":{"data":null,"metadata":{"version":3}}}` }, login("a"), fault.NotFound, "no secret"},
		"not v2":         {func(f *fake) { f.secrets[path] = `{"data":{"x":"` + canary + `"}}` }, login("a"), fault.Invalid, "not KV version 2"},
		"not json":       {func(f *fake) { f.secrets[path] = canary }, login("a"), fault.Transient, "not that of a Vault"},
		"internal":       {func(f *fake) { f.status[path] = 500 }, login("a"), fault.Transient, "HTTP 500"},
		"quota":          {func(f *fake) { f.status[path] = 429 }, login("a"), fault.Transient, "HTTP 429"},
		"redirect":       {func(f *fake) { f.status[path] = 307 }, login("a"), fault.Transient, "not followed"},
		"bad request":    {func(f *fake) { f.status[path] = 400 }, login("a"), fault.Transient, "HTTP 400"},
		"login denied":   {func(f *fake) { f.status["auth/kubernetes/login"] = 403 }, login("a"), fault.Denied, `the login at auth/kubernetes as the role "app" was refused`},
		"login bad":      {func(f *fake) { f.status["auth/kubernetes/login"] = 400 }, login("a"), fault.Denied, "HTTP 400"},
		"login no mount": {func(f *fake) { f.status["auth/kubernetes/login"] = 404 }, login("a"), fault.NotFound, "nothing is mounted"},
		"login down":     {func(f *fake) { f.status["auth/kubernetes/login"] = 503 }, login("a"), fault.Transient, "HTTP 503"},
		"dead token":     {func(*fake) {}, tokenLogin("dead"), fault.Denied, "does not know the token"},
		"odd token":      {func(*fake) {}, tokenLogin("a b" + canary), fault.Invalid, "characters that no token has"},
		"gone":           {func(f *fake) { f.Close() }, login("a"), fault.Transient, "cannot be reached"},
		"bad mount":      {func(*fake) {}, Login{Identity: "x", Method: Kubernetes, Mount: "../../sys", Secret: tokenLogin(canary).Secret}, fault.Invalid, "segment"},
		"bad supplier":   {func(*fake) {}, Login{Identity: "x", Method: Kubernetes, Mount: "k", Secret: func(context.Context) (plaintext.Value, error) { panic(canary) }}, fault.Internal, "panicked"},
		"failed supplier": {func(*fake) {}, Login{Identity: "x", Method: Kubernetes, Mount: "k", Secret: func(context.Context) (plaintext.Value, error) {
			return plaintext.Value{}, fault.New("", fault.NotFound, fault.Ref{}, "no such account")
		}}, fault.NotFound, "no such account"},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			f := newFake(t)
			c.break_(f)
			_, err := New(Options{}).Read(t.Context(), f.target(), c.login, mustPath(t, "app"), time.Second)
			if fault.KindOf(err) != c.kind || !strings.Contains(err.Error(), c.words) {
				t.Errorf("got %s %v, want %s with %q", fault.KindOf(err), err, c.kind, c.words)
			}
			var fe *fault.Error
			if !errors.As(err, &fe) || fe.Remedy == "" && c.kind != fault.Internal && name != "failed supplier" {
				t.Errorf("%v: no remedy", err)
			}
			for _, form := range append(plaintext.Encodings([]byte(canary)), "cAnArY") {
				if strings.Contains(err.Error(), form) {
					t.Errorf("the error shows what the server sent: %v", err)
				}
			}
			if f.count(canary) > 0 {
				t.Error("the client went where it was sent")
			}
		})
	}
}

func TestSealedVaultIsTransient(t *testing.T) {
	err := failure(Target{Server: "https://v"}, "reading x failed", reply{status: 503, sealed: true}, fault.Denied)
	if fault.KindOf(err) != fault.Transient || !strings.Contains(err.Error(), "is sealed") {
		t.Error(err)
	}
}

// The environment of the controller must have no say in what a tenant's store does.
func TestT18_EnvironmentIsNotRead(t *testing.T) {
	f, trap := newFake(t), newFake(t)
	f.secrets["secret/data/app"] = hello
	for k, v := range map[string]string{
		"VAULT_ADDR": trap.URL, "VAULT_AGENT_ADDR": trap.URL, "VAULT_TOKEN": "static", "VAULT_NAMESPACE": "ambient", "VAULT_HEADERS": `{"x":"y"}`,
		"VAULT_SKIP_VERIFY": "nonsense", "VAULT_CACERT": "/nonexistent", "HTTP_PROXY": trap.URL, "http_proxy": trap.URL, "VAULT_HTTP_PROXY": trap.URL, "VAULT_PROXY_ADDR": trap.URL,
	} {
		t.Setenv(k, v)
	}
	if _, err := New(Options{}).Read(t.Context(), f.target(), login("a"), mustPath(t, "app"), 0); err != nil {
		t.Fatal(err)
	}
	none := tokenLogin("")
	none.Identity = "none"
	_, err := New(Options{}).Read(t.Context(), f.target(), none, mustPath(t, "app"), 0)
	if fault.KindOf(err) != fault.NotFound || !strings.Contains(err.Error(), "the credential is empty") {
		t.Errorf("without a token: %v, want NotFound", err)
	}
	if len(trap.requests) > 0 || f.count("ambient") > 0 || f.count("static") > 0 {
		t.Errorf("ambient settings were used: %q %q", trap.requests, f.requests)
	}
}

func TestWaitingEndsWithTheContext(t *testing.T) {
	f := newFake(t)
	f.secrets["secret/data/app"] = hello
	f.hold = make(chan struct{})
	c := New(Options{})
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	other := make(chan error, 1)
	go func() {
		_, err := c.Read(t.Context(), f.target(), tokenLogin("static"), mustPath(t, "app"), time.Second)
		other <- err
	}()
	go func() {
		_, err := c.Read(ctx, f.target(), tokenLogin("static"), mustPath(t, "app"), time.Second)
		done <- err
	}()
	cancel()
	if err := <-done; fault.KindOf(err) != fault.Transient {
		t.Errorf("got %v, want Transient", err)
	}
	close(f.hold)
	if err := <-other; err != nil {
		t.Errorf("the other reader: %v", err)
	}
}

func TestVerify(t *testing.T) {
	f := newFake(t)
	c := New(Options{})
	for name, each := range map[string]struct {
		login Login
		kind  fault.Kind
		ok    bool
	}{"kubernetes": {login("a"), 0, true}, "token": {tokenLogin("static"), 0, true}, "dead token": {tokenLogin("dead"), fault.Denied, false}} {
		if err := c.Verify(t.Context(), f.target(), each.login); (err == nil) != each.ok || err != nil && fault.KindOf(err) != each.kind {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestCABundle(t *testing.T) {
	_, err := New(Options{}).Read(t.Context(), Target{Server: "https://127.0.0.1:1", CABundle: []byte(canary)}, tokenLogin("static"), mustPath(t, "app"), 0)
	if fault.KindOf(err) != fault.Invalid || strings.Contains(err.Error(), canary) {
		t.Errorf("got %v, want Invalid", err)
	}
}
