package source

import (
	"context"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"testing"
)

// TestNotHereYet: who does not lead serves nothing, however much is on its disk; what a status names and is not here is asked for
// again later, and what nobody names is not found. Who may not read learns nothing of it.
func TestNotHereYet(t *testing.T) {
	s := newStorage(t, t.TempDir())
	stored := storeThree(t, s)
	leads, allowed := true, true
	gone := ArtifactPath(alice, "0123456789012345678901234567890123456789")
	s.Serve(func() bool { return leads }, func(_ context.Context, o Owner, name string) bool {
		return o == alice && (name == gone || filepath.Base(name) == latestName)
	})
	get := func(path string, want int) {
		t.Helper()
		w := httptest.NewRecorder()
		s.Handler(func(*http.Request, string, string) error {
			if !allowed {
				return ErrUnauthenticated
			}
			return nil
		}).ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/"+path, nil))
		if w.Code != want || (w.Header().Get("Retry-After") != "") != (want == http.StatusServiceUnavailable) {
			t.Errorf("%s: %d %v, want %d", path, w.Code, w.Header(), want)
		}
	}
	latest := filepath.Dir(stored[2].Path) + "/" + latestName
	get(stored[2].Path, http.StatusOK)
	get(gone, http.StatusServiceUnavailable)
	get(ArtifactPath(alice, "abcdefabcdabcdefabcdabcdefabcdabcdefabcd"), http.StatusNotFound)
	get("gitrepository/team-b/app/"+latestName, http.StatusNotFound)
	leads = false
	for _, path := range []string{stored[2].Path, latest, gone} {
		get(path, http.StatusServiceUnavailable)
	}
	allowed = false
	get(stored[2].Path, http.StatusUnauthorized)
	allowed, leads = true, true
	if err := s.KeepOnly(alice, stored[1].Path); err != nil {
		t.Fatal(err)
	}
	get(stored[1].Path, http.StatusOK)
	get(stored[2].Path, http.StatusNotFound)
	get(latest, http.StatusServiceUnavailable) // it was that of the one that is gone
	if owners := s.Owners(); len(owners) != 1 || owners[0] != alice {
		t.Errorf("%v", owners)
	}
}
