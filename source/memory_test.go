package source

import (
	"bytes"
	"context"
	"fmt"
	"net/http"
	"path/filepath"
	"sync"
	"testing"

	"sealock.dev/sealock/fault"
)

// longListing is a listing of references of so many bytes, the last of them a branch that is asked for.
func longListing(size int) []byte {
	var body bytes.Buffer
	line := func(s string) { fmt.Fprintf(&body, "%04x%s", len(s)+4, s) }
	line("# service=git-upload-pack\n")
	body.WriteString("0000")
	line(fmt.Sprintf("%040x refs/heads/a\x00ofs-delta side-band-64k agent=git/2\n", 1))
	for i := 2; body.Len() < size; i++ {
		line(fmt.Sprintf("%040x refs/tags/%x\n", i, i))
	}
	body.WriteString("0000")
	return body.Bytes()
}

// TestFourHostileRepositoriesAtOnce: files that are nothing on the wire and large in memory, and endless listings, of four
// repositories at the same time hold no more than one limit together; an ordinary one does not wait for them.
func TestFourHostileRepositoriesAtOnce(t *testing.T) {
	root, dir := t.TempDir(), t.TempDir()
	limits := DefaultLimits()
	if 3*limits.Object > limits.Memory || timesListing*maxListing > limits.Memory || limits.Memory > 256<<20 {
		t.Errorf("the defaults do not fit each other: %+v", limits)
	}
	limits.Memory, limits.Object = 64<<20, 20<<20
	web := startHTTP(t, root, false)
	g := newGitRepo(t, root, "zeros.git")
	g.write("zeros.bin", string(make([]byte, 16<<20)))
	g.push("one")
	small := newGitRepo(t, root, "small.git")
	small.write("a.yaml", "one")
	small.push("one")
	text := longListing(3 << 20)
	lists := newServer(t, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(text) }))
	r := openCache(t, filepath.Join(dir, "git"), limits)
	s := newStorage(t, filepath.Join(dir, "artifacts"))
	var wg sync.WaitGroup
	for i := range 4 {
		owner := Owner{"team-x", fmt.Sprintf("app-%d", i)}
		wg.Go(func() {
			got, err := r.Fetch(t.Context(), owner, Request{Remote: web.remote("zeros.git"), Ref: Ref{Branch: "main"}})
			if err != nil {
				t.Error(err)
				return
			}
			if _, err := s.Store(t.Context(), owner, got.Tree); err != nil {
				t.Error(err)
			}
		})
		wg.Go(func() {
			_, err := r.Fetch(t.Context(), Owner{"team-y", owner.Name}, Request{Remote: Remote{URL: lists.URL + "/x.git"}, Ref: Ref{Branch: "main"}})
			if fault.KindOf(err) != fault.NotFound {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if top := r.memory.top.Load(); top > limits.Memory || top < timesObject*16<<20 || r.memory.held.Load() != 0 {
		t.Errorf("%d MiB were held at most, %d bytes are held", top>>20, r.memory.held.Load())
	}

	all, err := r.memory.hold(t.Context(), limits.Memory)
	if err != nil {
		t.Fatal(err)
	}
	fetch(t, r, web.remote("small.git"), Ref{Branch: "main"})
	// Who is large waits, until the time is over.
	ctx, cancel := context.WithCancel(t.Context())
	lists.Config.Handler = http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		_, _ = w.Write(text[:2<<20])
		cancel()
	})
	_, err = r.Fetch(ctx, Owner{"team-z", "listing"}, Request{Remote: Remote{URL: lists.URL + "/x.git"}, Ref: Ref{Branch: "main"}})
	if fault.KindOf(err) != fault.Transient || r.memory.top.Load() > limits.Memory {
		t.Errorf("%v", err)
	}
	all()
	if r.memory.held.Load() != 0 {
		t.Errorf("%d bytes are held", r.memory.held.Load())
	}
}
