package source

import (
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
		s.serve(w, r, name)
	})
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

func (s *Storage) serve(w http.ResponseWriter, r *http.Request, name string) {
	if path.Base(name) == latestName {
		to, err := s.root.Readlink(name)
		if err != nil || !artifactName.MatchString(to) {
			http.Error(w, "not found", http.StatusNotFound)
			return
		}
		name = path.Join(path.Dir(name), to)
	}
	info, err := s.root.Lstat(name)
	if err != nil || !info.Mode().IsRegular() {
		http.Error(w, "not found", http.StatusNotFound)
		return
	}
	f, err := s.root.Open(name)
	if err != nil {
		http.Error(w, "not found", http.StatusNotFound)
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
