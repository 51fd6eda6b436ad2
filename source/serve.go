package source

import (
	"context"
	"errors"
	"net/http"
	"path"
	"regexp"
	"strconv"
	"strings"

	"sealock.dev/sealock/fault"
)

// ErrUnauthenticated is what an Authorizer returns for a request without valid credentials.
var ErrUnauthenticated = errors.New("authentication required")

// Authorizer decides who may read the artifacts of a GitRepository. A nil error allows, ErrUnauthenticated asks for
// credentials, a fault of kind Denied refuses, anything else is our trouble.
type Authorizer func(r *http.Request, namespace, name string) error

// Handler serves the artifacts under /gitrepository/<ns>/<name>/<commit>.tar.gz, the newest one as latest.tar.gz, too. Without an authorizer it refuses all.
// Whether an artifact exists is told to nobody who may not read it.
func (s *Storage) Handler(allow Authorizer) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Cache-Control", "private, no-store")
		w.Header().Set("X-Content-Type-Options", "nosniff")
		if r.Method != http.MethodGet && r.Method != http.MethodHead {
			w.Header().Set("Allow", "GET, HEAD")
			http.Error(w, "method not allowed", http.StatusMethodNotAllowed)
			return
		}
		owner, name, ok := parseArtifactPath(r.URL.Path)
		if !ok {
			http.Error(w, "not found", http.StatusNotFound)
			return
		}
		if allow == nil {
			http.Error(w, "forbidden", http.StatusForbidden)
			return
		}
		if err := allow(r, owner.Namespace, owner.Name); err != nil {
			refuse(w, err)
			return
		}
		if s.leads != nil && !s.leads() {
			later(w)
			return
		}
		s.serve(w, r, owner, name)
	})
}

// Serve says what is only not here yet: everything while this process does not lead, since what it has may be old, and what
// named finds in a status. For that, a client is told to come back. It is called before the storage is used.
func (s *Storage) Serve(leads func() bool, named func(ctx context.Context, o Owner, name string) bool) {
	s.leads, s.named = leads, named
}

// retryAfter is the seconds after which a client may ask again for what is not here yet.
const retryAfter = "5"

func later(w http.ResponseWriter) {
	w.Header().Set("Retry-After", retryAfter)
	http.Error(w, "not here yet", http.StatusServiceUnavailable)
}

// missing answers a request for what is not here.
func (s *Storage) missing(w http.ResponseWriter, r *http.Request, o Owner, name string) {
	if s.named != nil && s.named(r.Context(), o, name) {
		later(w)
		return
	}
	http.Error(w, "not found", http.StatusNotFound)
}

func refuse(w http.ResponseWriter, err error) {
	switch {
	case errors.Is(err, ErrUnauthenticated):
		w.Header().Set("WWW-Authenticate", "Bearer")
		http.Error(w, "authentication required", http.StatusUnauthorized)
	case fault.KindOf(err) == fault.Denied:
		http.Error(w, "forbidden", http.StatusForbidden)
	default:
		http.Error(w, "the request cannot be authorized now", http.StatusServiceUnavailable)
	}
}

func (s *Storage) serve(w http.ResponseWriter, r *http.Request, o Owner, name string) {
	if path.Base(name) == latestName {
		to, err := s.root.Readlink(name)
		if err != nil || !artifactName.MatchString(to) {
			s.missing(w, r, o, name)
			return
		}
		name = path.Join(path.Dir(name), to)
	}
	info, err := s.root.Lstat(name)
	if err != nil || !info.Mode().IsRegular() {
		s.missing(w, r, o, name)
		return
	}
	f, err := s.root.Open(name)
	if err != nil {
		s.missing(w, r, o, name)
		return
	}
	defer func() { _ = f.Close() }()
	w.Header().Set("Content-Type", "application/gzip")
	s.mu.Lock()
	if known, ok := s.verified[name]; ok && known.Size == info.Size() {
		w.Header().Set("ETag", strconv.Quote(known.Digest))
	}
	s.mu.Unlock()
	http.ServeContent(w, r, "", info.ModTime(), f)
}

var artifactName = regexp.MustCompile(`^[0-9a-f]{40}\.tar\.gz$`)

// parseArtifactPath takes a request path apart. What does not have exactly the shape of an artifact's path is no path.
func parseArtifactPath(p string) (o Owner, name string, ok bool) {
	parts := strings.Split(p, "/")
	if len(parts) != 5 || parts[0] != "" || parts[1] != artifactFolder || parts[4] != latestName && !artifactName.MatchString(parts[4]) {
		return Owner{}, "", false
	}
	o = Owner{Namespace: parts[2], Name: parts[3]}
	if !o.valid() {
		return Owner{}, "", false
	}
	return o, strings.TrimPrefix(p, "/"), true
}
