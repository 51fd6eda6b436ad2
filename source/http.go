package source

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/go-git/go-git/v5/plumbing/protocol/packp"
	"github.com/go-git/go-git/v5/plumbing/protocol/packp/capability"
	"github.com/go-git/go-git/v5/plumbing/transport"
	githttp "github.com/go-git/go-git/v5/plumbing/transport/http"

	"sealock.dev/sealock/fault"
)

// errTooMuch ends the reading of an answer that is larger than the limit.
var errTooMuch = errors.New("the answer is too large")

const (
	maxFirstLine = 8 << 10          // of a reference listing: the first reference, and what the server can do
	maxErrorBody = 4 << 10          // of an answer that is an error; its text is never shown
	maxListing   = 16 << 20         // of a reference listing, which is held in memory
	dialTimeout  = 10 * time.Second // for one address of a server; the whole is bound by the context
)

// openHTTP begins a session with an http(s) server. Nothing is sent yet. done frees its connections.
func (r Remote) openHTTP(u *url.URL, limit int64, list *listing) (session transport.UploadPackSession, done func(), err error) {
	auth, err := r.httpAuth(u)
	if err != nil {
		return nil, nil, err
	}
	pool, err := r.transport()
	if err != nil {
		return nil, nil, err
	}
	head := &firstBytes{limit: maxFirstLine}
	client := &http.Client{Transport: limitedBodies{next: pool, limit: limit, head: head, list: list}, CheckRedirect: r.redirect(u)}
	ep, err := transport.NewEndpoint((&url.URL{Scheme: u.Scheme, Host: u.Host, Path: strings.TrimSuffix(u.Path, "/")}).String())
	if err != nil {
		return nil, nil, badURL("it cannot be parsed")
	}
	var method transport.AuthMethod
	if auth != nil {
		method = auth
	}
	session, err = githttp.NewClientWithOptions(client, &githttp.ClientOptions{RedirectPolicy: githttp.FollowInitialRedirects}).NewUploadPackSession(ep, method)
	return httpSession{session, head}, pool.CloseIdleConnections, err
}

// httpSession is the library's, less that it hides from us that a server speaks of multi_ack. Some serve nobody who does not.
type httpSession struct {
	transport.UploadPackSession
	head *firstBytes // of the last listing
}

// AdvertisedReferencesContext reads the reference listing.
func (s httpSession) AdvertisedReferencesContext(ctx context.Context) (*packp.AdvRefs, error) {
	refs, err := s.UploadPackSession.AdvertisedReferencesContext(ctx)
	if err != nil {
		return nil, err
	}
	_, rest, _ := strings.Cut(s.head.String(), "\x00")
	line, _, whole := strings.Cut(rest, "\n")
	offered := capability.NewList()
	if !whole || offered.Decode([]byte(line)) != nil {
		return refs, nil
	}
	for _, c := range []capability.Capability{capability.MultiACK, capability.MultiACKDetailed} {
		if offered.Supports(c) {
			_ = refs.Capabilities.Set(c) // it takes no value
		}
	}
	return refs, nil
}

// transport returns the connections to an http(s) server.
func (r Remote) transport() (*http.Transport, error) {
	cfg, err := r.tlsConfig()
	if err != nil {
		return nil, err
	}
	through, err := r.proxyURL()
	if err != nil {
		return nil, err
	}
	pool := &http.Transport{
		DialContext:           (&net.Dialer{Timeout: dialTimeout}).DialContext,
		TLSClientConfig:       cfg,
		TLSHandshakeTimeout:   dialTimeout,
		ForceAttemptHTTP2:     true,
		MaxIdleConnsPerHost:   1,
		IdleConnTimeout:       time.Minute,
		ResponseHeaderTimeout: 5 * time.Minute,
	}
	// The zero Proxy is no proxy: variables of the environment must not decide where a tenant's credentials go.
	if through != nil {
		pool.Proxy = http.ProxyURL(through)
	}
	return pool, nil
}

// redirect lets a server move a repository within itself, inside the fence. Where else it points to is somebody
// else's network, which the URL was not checked for.
func (r Remote) redirect(from *url.URL) func(*http.Request, []*http.Request) error {
	return func(req *http.Request, _ []*http.Request) error {
		refused := fail(fault.Denied, ReasonURL, "the Git server redirects to a place that is not allowed").At("spec.url").Fix("name the place where the repository really is")
		upgrade := from.Scheme == "http" && req.URL.Scheme == "https" && from.Hostname() == req.URL.Hostname()
		if !upgrade && (req.URL.Scheme != from.Scheme || req.URL.Host != from.Host) {
			return refused
		}
		target := *req.URL
		target.RawQuery, target.User = "", nil
		target.Path = strings.TrimSuffix(target.Path, "/info/refs")
		if r.Allows != nil && !r.Allows(target.String()) {
			return refused
		}
		return nil
	}
}

// limitedBodies bounds what is read of a server's answers.
type limitedBodies struct {
	next  http.RoundTripper
	limit int64
	head  *firstBytes // gets the beginning of a listing
	list  *listing    // what one goes through
}

func (l limitedBodies) RoundTrip(req *http.Request) (*http.Response, error) {
	res, err := l.next.RoundTrip(req)
	if err != nil {
		return nil, err
	}
	if res.StatusCode >= http.StatusBadRequest {
		// The library reads it whole. What is cut off is never shown.
		res.Body = readCloser{io.LimitReader(res.Body, maxErrorBody), res.Body}
		return res, nil
	}
	if req.Method == http.MethodGet {
		l.head.reset() // an answer before was a redirect
		l.list.from = &bounded{from: res.Body, left: maxListing}
		res.Body = readCloser{io.TeeReader(l.list, l.head), res.Body}
		return res, nil
	}
	res.Body = readCloser{&bounded{from: res.Body, left: l.limit}, res.Body}
	return res, nil
}

type readCloser struct {
	io.Reader
	io.Closer
}

// bounded fails with errTooMuch instead of ending quietly, so that a cut is no valid answer.
type bounded struct {
	from io.Reader
	left int64
}

func (b *bounded) Read(p []byte) (int, error) {
	if b.left <= 0 {
		return 0, errTooMuch
	}
	if int64(len(p)) > b.left {
		p = p[:b.left]
	}
	n, err := b.from.Read(p)
	b.left -= int64(n)
	return n, err
}

// open begins a session with the server.
func (r Remote) open(ctx context.Context, limit int64, list *listing) (transport.UploadPackSession, func(), error) {
	u, err := r.parse()
	if err != nil {
		return nil, nil, err
	}
	if u.Scheme == "ssh" {
		return r.openSSH(ctx, u, limit, list)
	}
	return r.openHTTP(u, limit, list)
}
