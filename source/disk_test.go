package source

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"sealock.dev/sealock/fault"
)

// bytesBelow returns how much all files below the folder take.
func bytesBelow(t testing.TB, dir string) (sum int64) {
	t.Helper()
	err := filepath.WalkDir(dir, func(_ string, d fs.DirEntry, err error) error {
		if err == nil && d.Type().IsRegular() {
			info, err := d.Info()
			sum += info.Size()
			return err
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return sum
}

// TestDiskIsBounded: repositories and artifacts together stay within the limit, whatever comes, and whether it comes well.
func TestDiskIsBounded(t *testing.T) {
	root, dir := t.TempDir(), t.TempDir()
	limits := DefaultLimits()
	limits.Disk = 10 << 20
	r := openCache(t, filepath.Join(dir, "git"), limits)
	s := newStorage(t, filepath.Join(dir, "artifacts"))
	r.Share(s)
	web := startHTTP(t, root, false)
	remote := func(name string, size int) Remote {
		g := newGitRepo(t, root, name)
		g.write("a.bin", noise(size))
		g.push("one")
		return web.remote(name)
	}
	try := func(name string, remote Remote) (*Fetched, error) {
		return r.Fetch(t.Context(), Owner{"team-a", name}, Request{Remote: remote, Ref: Ref{Branch: "main"}})
	}
	small := remote("small.git", 2<<20)
	for i := range 8 {
		name := fmt.Sprintf("app-%d", i)
		got, err := try(name, small)
		if err != nil {
			t.Fatal(err)
		}
		if i < 2 {
			if _, err := s.Store(t.Context(), Owner{"team-a", name}, got.Tree); err != nil {
				t.Fatal(err)
			}
		}
		if there := bytesBelow(t, dir); there > limits.Disk {
			t.Fatalf("%d bytes on disk", there)
		}
	}
	if artifacts := bytesBelow(t, filepath.Join(dir, "artifacts")); artifacts < 4<<20 || s.bytes.Load() != artifacts {
		t.Errorf("%d bytes of artifacts, %d counted", artifacts, s.bytes.Load())
	}
	// What does not fit beside the artifacts is refused before it is there, and leaves nothing.
	if _, err := try("large", remote("large.git", 5<<20)); fault.KindOf(err) != fault.Transient || !strings.Contains(err.Error(), "--cache-size") {
		t.Errorf("%v", err)
	}
	if there := bytesBelow(t, dir); there > limits.Disk || r.disk.arriving.Load() != 0 {
		t.Errorf("%d bytes on disk, %d arriving", there, r.disk.arriving.Load())
	}
	// A fetch that fails after objects have come is followed by the same care.
	failing := Request{Remote: small, Ref: Ref{Branch: "main"}, Verify: &Verify{Mode: ModeHEAD, Keys: keyringOf(mustSigner(t)).keys}}
	for i := range 6 {
		if _, err := r.Fetch(t.Context(), Owner{"team-b", fmt.Sprintf("app-%d", i)}, failing); ReasonOf(err) != ReasonCommitSignature {
			t.Fatal(err)
		}
	}
	if there := bytesBelow(t, dir); there > limits.Disk {
		t.Errorf("%d bytes on disk after failures", there)
	}
	// An artifact is counted while it is written.
	r.limits.Disk = 5 << 20
	got := fetch(t, openCache(t, t.TempDir(), DefaultLimits()), small, Ref{Branch: "main"})
	if _, err := s.Store(t.Context(), Owner{"team-c", "app"}, got.Tree); err == nil {
		t.Error("an artifact beyond the limit is stored")
	}
	if left, _ := os.ReadDir(filepath.Join(dir, "artifacts/gitrepository/team-c/app")); len(left) != 0 {
		t.Errorf("left: %v", left)
	}
}
