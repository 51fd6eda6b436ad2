// Package vault is the client of HashiCorp Vault and OpenBao that external secrets and transit keys share.
//
// It exists so that logins and reads are shared without mixing identities: one token for each identity, kept for most of
// its life, and one read for everybody who asks for the same path as the same identity at the same time. It speaks the
// few calls of the HTTP API by itself, since the API module of Vault takes address, token, namespace and TLS settings from
// the environment, where they would change what a tenant's object does. It must not use any credential that it was not
// handed, follow a redirect, or put a body of the server into an error.
package vault

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/singleflight"

	"sealock.dev/sealock/fault"
	"sealock.dev/sealock/plaintext"
)

// Options of a Client. The zero value is what the controller uses.
type Options struct {
	// Freshness is how long an answer may serve further readers; it is dropped from memory then. Default: 2 seconds.
	Freshness time.Duration
	// Timeout of one request. Default: 15 seconds.
	Timeout time.Duration
	// Now is the clock. Default: time.Now.
	Now func() time.Time
}

// Client talks to any number of servers. It is safe for concurrent use and holds tokens in memory only.
type Client struct {
	opts    Options
	flights singleflight.Group

	mu      sync.Mutex
	tokens  map[string]session // by identity
	answers map[string]answer  // by identity and path
	pools   map[string]pool    // by CA
}

type session struct {
	token   plaintext.Value
	renewAt time.Time
}

type answer struct {
	data Data
	at   time.Time
}

// maxEntries bounds each of the tables; a full one is emptied of what is over, or altogether.
const maxEntries = 4096

// maxTokenAge is how long a token that does not expire is used before the next login.
const maxTokenAge = time.Hour

// New returns a Client without tokens.
func New(opts Options) *Client {
	if opts.Freshness == 0 {
		opts.Freshness = 2 * time.Second
	}
	if opts.Timeout == 0 {
		opts.Timeout = 15 * time.Second
	}
	if opts.Now == nil {
		opts.Now = time.Now
	}
	return &Client{opts: opts, tokens: map[string]session{}, answers: map[string]answer{}, pools: map[string]pool{}}
}

// Target is a server, and how to reach it.
type Target struct {
	Server    string // https://host:port, checked by CheckServer
	Namespace string // of Vault Enterprise, "" for the root
	CABundle  []byte // PEM; nil: the roots of the system
	Headers   map[string]string
}

// Method is an auth method.
type Method string

// The auth methods.
const (
	Token      Method = "token"      // Secret is the token
	Kubernetes Method = "kubernetes" // Secret is a ServiceAccount token
	AppRole    Method = "approle"    // Secret is the secret id
)

// Login is who reads. Two Logins with the same Identity must stand for the same credential objects.
type Login struct {
	// Identity names the resolved credential: namespace, name, uid and resource version of every object that it is made
	// of. Tokens and answers are shared between equal identities only.
	Identity  string
	Method    Method
	Mount     string // of the auth method, without auth/
	Role      string // Kubernetes: the role to log in as
	RoleID    plaintext.Value
	Namespace string // where to log in, when it is not the Target's
	// Secret returns the credential. It is called for a login only, not for every read.
	Secret func(ctx context.Context) (plaintext.Value, error)
}

// Who says whose rights were used, for errors.
func (l Login) Who() string {
	if l.Role != "" {
		return fmt.Sprintf("the role %q", l.Role)
	}
	if l.Method == AppRole {
		return "the AppRole"
	}
	return "the token"
}

// Data is one secret of a KV engine.
type Data struct {
	// JSON is the object of its fields, as Vault sent it.
	JSON plaintext.Value
	// Version of KV v2, 0 for v1.
	Version int
}

// Read returns a secret, for everybody who asks for it as the same identity with one request. An answer that is older
// than maxAge, or than Freshness, is read again; maxAge 0 always asks the server. Errors are fault.Errors without Stage and
// Ref: NotFound, Denied, Invalid or Transient.
func (c *Client) Read(ctx context.Context, t Target, l Login, p Path, maxAge time.Duration) (Data, error) {
	if l.Identity == "" {
		return Data{}, fault.New("", fault.Internal, fault.Ref{}, "a login without identity")
	}
	who := c.identity(t, l)
	key := digest(who, p.Wire, p.Version)
	if d, ok := c.fresh(key, maxAge); ok {
		return d, nil
	}
	if maxAge <= 0 {
		// A request that is under way may have been answered before what the caller wants to see was written.
		return c.readAndKeep(ctx, key, who, t, l, p)
	}
	v, err := c.share(ctx, "read "+key, func(ctx context.Context) (any, error) {
		if d, ok := c.fresh(key, maxAge); ok {
			return d, nil
		}
		return c.readAndKeep(ctx, key, who, t, l, p)
	})
	if err != nil {
		return Data{}, err
	}
	d, _ := v.(Data)
	return d, nil
}

// Verify logs in, and reports what the server says to that. It reads nothing.
func (c *Client) Verify(ctx context.Context, t Target, l Login) error {
	who := c.identity(t, l)
	token, err := c.token(ctx, who, t, l)
	if err != nil {
		return err
	}
	alive, err := c.alive(ctx, t, token)
	if err != nil || alive {
		return err
	}
	if l.Method == Token {
		return deadToken(t)
	}
	c.forget(who, token)
	_, err = c.token(ctx, who, t, l)
	return err
}

func deadToken(t Target) error {
	return fault.New("", fault.Denied, fault.Ref{}, "Vault at %s does not know the token (HTTP 403)", t.Server).
		Fix("put a valid token into the Secret that the store names")
}

func (c *Client) fresh(key string, maxAge time.Duration) (Data, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	a, ok := c.answers[key]
	if age := c.opts.Now().Sub(a.at); !ok || age > min(maxAge, c.opts.Freshness) || maxAge <= 0 {
		return Data{}, false
	}
	return a.data, true
}

func (c *Client) readAndKeep(ctx context.Context, key, who string, t Target, l Login, p Path) (Data, error) {
	at := c.opts.Now() // before the request: an answer is as old as the question
	d, err := c.read(ctx, who, t, l, p)
	if err != nil {
		return Data{}, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.answers) >= maxEntries {
		clear(c.answers)
	}
	c.answers[key] = answer{data: d, at: at}
	time.AfterFunc(c.opts.Freshness, func() { c.drop(key, at) })
	return d, nil
}

// drop removes an answer when it is of no use any more, so that no secret stays in memory.
func (c *Client) drop(key string, at time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.answers[key].at.Equal(at) {
		delete(c.answers, key)
	}
}

func (c *Client) read(ctx context.Context, who string, t Target, l Login, p Path) (Data, error) {
	token, err := c.token(ctx, who, t, l)
	if err != nil {
		return Data{}, err
	}
	reply, err := c.get(ctx, t, p, token)
	if err != nil {
		return Data{}, err
	}
	if reply.status != 403 {
		return dataOf(t, l, p, reply)
	}
	alive, err := c.alive(ctx, t, token)
	switch {
	case err != nil:
		return Data{}, err
	case alive:
		return dataOf(t, l, p, reply)
	case l.Method == Token:
		return Data{}, deadToken(t)
	}
	// The token was revoked before its time: log in again, once.
	c.forget(who, token)
	if token, err = c.token(ctx, who, t, l); err != nil {
		return Data{}, err
	}
	if reply, err = c.get(ctx, t, p, token); err != nil {
		return Data{}, err
	}
	return dataOf(t, l, p, reply)
}

// token returns the token of the identity, and logs in when there is none, or when its life is nearly over.
func (c *Client) token(ctx context.Context, who string, t Target, l Login) (plaintext.Value, error) {
	if l.Method == Token {
		return c.credential(ctx, l)
	}
	if s, ok := c.session(who); ok {
		return s, nil
	}
	v, err := c.share(ctx, "login "+who, func(ctx context.Context) (any, error) {
		if s, ok := c.session(who); ok {
			return s, nil
		}
		s, err := c.login(ctx, t, l)
		if err != nil {
			return nil, err
		}
		c.mu.Lock()
		defer c.mu.Unlock()
		if len(c.tokens) >= maxEntries {
			maps.DeleteFunc(c.tokens, func(_ string, s session) bool { return !c.opts.Now().Before(s.renewAt) })
		}
		if len(c.tokens) >= maxEntries {
			clear(c.tokens)
		}
		c.tokens[who] = s
		return s.token, nil
	})
	if err != nil {
		return plaintext.Value{}, err
	}
	token, _ := v.(plaintext.Value)
	return token, nil
}

func (c *Client) session(who string) (plaintext.Value, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	s, ok := c.tokens[who]
	if !ok || !c.opts.Now().Before(s.renewAt) {
		return plaintext.Value{}, false
	}
	return s.token, true
}

// forget drops the token, unless somebody has replaced it meanwhile.
func (c *Client) forget(who string, token plaintext.Value) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.tokens[who].token.Equal(token) {
		delete(c.tokens, who)
	}
}

// share runs fn once for all callers with the key. Whoever stops waiting does not stop it for the others.
func (c *Client) share(ctx context.Context, key string, fn func(ctx context.Context) (any, error)) (any, error) {
	done := c.flights.DoChan(key, func() (v any, err error) {
		defer func() {
			if recover() != nil { // in its own goroutine a panic would end the process
				err = fault.New("", fault.Internal, fault.Ref{}, "the call to Vault panicked").Fix("report it")
			}
		}()
		within, cancel := context.WithTimeout(context.WithoutCancel(ctx), 3*c.opts.Timeout)
		defer cancel()
		return fn(within)
	})
	select {
	case r := <-done:
		return r.Val, r.Err
	case <-ctx.Done():
		return nil, fault.New("", fault.Transient, fault.Ref{}, "no answer from Vault in time").Fix("see whether Vault is reachable from the controller")
	}
}

// identity tells logins apart: the same credential at another server, namespace or role is another one.
func (c *Client) identity(t Target, l Login) string {
	parts := []string{t.Server, t.Namespace, string(t.CABundle), l.Namespace, string(l.Method), l.Mount, l.Role, l.Identity}
	for _, k := range slices.Sorted(maps.Keys(t.Headers)) {
		parts = append(parts, k, t.Headers[k])
	}
	return digest(parts...)
}

func digest(parts ...string) string {
	h := sha256.New()
	for _, p := range parts {
		fmt.Fprintf(h, "%d:%s", len(p), p)
	}
	return hex.EncodeToString(h.Sum(nil))
}

func (c *Client) credential(ctx context.Context, l Login) (plaintext.Value, error) {
	if l.Secret == nil {
		return plaintext.Value{}, fault.New("", fault.Internal, fault.Ref{}, "a login without credential")
	}
	v, err := l.Secret(ctx)
	if err != nil {
		return plaintext.Value{}, err
	}
	// A Secret that was made with echo ends in a line break, which no header may hold.
	v, err = plaintext.Derive(func(p ...[]byte) ([]byte, error) { return []byte(strings.TrimSpace(string(p[0]))), nil }, v)
	if err == nil && v.Len() == 0 {
		return plaintext.Value{}, fault.New("", fault.NotFound, fault.Ref{}, "the credential is empty").Fix("put the credential into the Secret that the store names")
	}
	return v, err
}
