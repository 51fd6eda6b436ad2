package source

import (
	"bytes"
	"compress/zlib"
	"crypto/sha1"
	"encoding/binary"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"

	"sealock.dev/sealock/fault"
)

// countBytes counts what the server sends.
func countBytes(h *httpServer) *atomic.Int64 {
	var sent atomic.Int64
	next := h.Config.Handler
	h.Config.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		next.ServeHTTP(&countingWriter{w, &sent}, r)
	})
	return &sent
}

type countingWriter struct {
	http.ResponseWriter
	sent *atomic.Int64
}

func (c *countingWriter) Write(p []byte) (int, error) {
	c.sent.Add(int64(len(p)))
	return c.ResponseWriter.Write(p)
}

// importFiles makes a first commit on main of the bare repository, of many files, without a working folder.
func (g *gitRepo) importFiles(n int, file func(i int) (name, content string)) {
	g.t.Helper()
	var in bytes.Buffer
	in.WriteString("commit refs/heads/main\ncommitter t <t@example.com> 1704067200 +0000\ndata 5\nfiles\n")
	for i := range n {
		name, content := file(i)
		fmt.Fprintf(&in, "M 100644 inline %s\ndata %d\n%s\n", name, len(content), content)
	}
	cmd := exec.Command("git", "fast-import", "--quiet")
	cmd.Dir, cmd.Stdin = g.bare, &in
	if out, err := cmd.CombinedOutput(); err != nil {
		g.t.Fatalf("%v: %s", err, out)
	}
}

// TestSmallCommitIsASmallTransfer: ten thousand files of several MB; one of them changes, and a few kB come, over a
// restart, too. Rewritten history costs what is new in it.
func TestSmallCommitIsASmallTransfer(t *testing.T) {
	root, dir := t.TempDir(), t.TempDir()
	g := newGitRepo(t, root, "big.git")
	body := noise(4 << 20)
	g.importFiles(10_000, func(i int) (string, string) { return fmt.Sprintf("d%02d/f%04d.yaml", i%50, i), body[i*400 : i*400+400] })
	g.git("pull", "-q", "origin", "main")
	h := startHTTP(t, root, false)
	sent := countBytes(h)
	r := openCache(t, dir, DefaultLimits())
	first := fetch(t, r, h.remote("big.git"), Ref{Branch: "main"})
	all := sent.Swap(0)
	if all < 4<<20 {
		t.Fatalf("the first transfer has %d bytes", all)
	}
	if n := len(files(t, first.Tree)); n != 10_000 {
		t.Errorf("%d files", n)
	}
	small := func(what string) {
		t.Helper()
		if got := sent.Swap(0); got > all/200 {
			t.Errorf("%s: %d bytes, the whole has %d", what, got, all)
		}
	}
	fetch(t, r, h.remote("big.git"), Ref{Branch: "main"})
	small("nothing")
	g.write("d07/f0007.yaml", "changed")
	g.push("one file")
	if got := read(t, fetch(t, r, h.remote("big.git"), Ref{Branch: "main"}).Tree, "d07/f0007.yaml"); got != "changed" {
		t.Error(got)
	}
	small("one file")
	r = openCache(t, dir, DefaultLimits())
	g.git("commit", "-q", "--amend", "-m", "rewritten")
	g.write("d08/f0008.yaml", "changed")
	g.push("after the restart")
	if got := read(t, fetch(t, r, h.remote("big.git"), Ref{Branch: "main"}).Tree, "d08/f0008.yaml"); got != "changed" {
		t.Error(got)
	}
	small("rewritten, after a restart")
}

// TestMemoryIsBounded: what a transfer allocates in all does not follow the size of the repository, which is on disk.
func TestMemoryIsBounded(t *testing.T) {
	root := t.TempDir()
	g := newGitRepo(t, root, "big.git")
	body := noise(24 << 20)
	g.importFiles(24, func(i int) (string, string) { return fmt.Sprintf("f%02d.bin", i), body[i<<20 : (i+1)<<20] })
	remote := startHTTP(t, root, false).remote("big.git")
	r := openCache(t, t.TempDir(), DefaultLimits())
	body = ""
	runtime.GC()
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	got := fetch(t, r, remote, Ref{Branch: "main"})
	runtime.GC()
	runtime.ReadMemStats(&after)
	if held := int64(after.HeapAlloc) - int64(before.HeapAlloc); held > 8<<20 {
		t.Errorf("%d MB stay in memory for 24 MB of files", held>>20)
	}
	runtime.KeepAlive(got)
}

// pack makes a pack of objects: a type, the length that is claimed, and the content.
func pack(objects ...packed) []byte {
	var out bytes.Buffer
	out.WriteString("PACK")
	_ = binary.Write(&out, binary.BigEndian, []uint32{2, uint32(len(objects))})
	for _, o := range objects {
		first, rest := byte(o.kind<<4)|byte(o.claims&15), o.claims>>4
		for rest > 0 {
			out.WriteByte(first | 0x80)
			first, rest = byte(rest&0x7f), rest>>7
		}
		out.WriteByte(first)
		if o.kind == 7 {
			out.Write(make([]byte, 20))
		}
		z := zlib.NewWriter(&out)
		_, _ = z.Write(o.body)
		_ = z.Close()
	}
	sum := sha1.Sum(out.Bytes())
	out.Write(sum[:])
	return out.Bytes()
}

type packed struct {
	kind   int
	claims uint64
	body   []byte
}

// TestPackBombs: packs that would inflate beyond every bound are refused before anything of them is held in memory.
func TestPackBombs(t *testing.T) {
	limits := DefaultLimits()
	limits.Object, limits.Files = 1<<20, 10
	delta := binary.AppendUvarint(binary.AppendUvarint(nil, 100), 5<<30)
	zeros := make([]byte, 2<<20)
	var many []packed
	for range 101 {
		many = append(many, packed{3, 1, []byte("x")})
	}
	for name, tc := range map[string]struct {
		raw  []byte
		kind fault.Kind
		text string
	}{
		"fits":                   {pack(packed{3, 1 << 20, zeros[:1<<20]}), fault.Internal, ""},
		"a large file":           {pack(packed{3, 2 << 20, zeros}), fault.Invalid, "larger than can be handled"},
		"a claim beyond reason":  {pack(packed{3, 1 << 40, []byte("x")}), fault.Invalid, "larger than can be handled"},
		"a delta that makes 5GB": {pack(packed{7, uint64(len(delta)), delta}), fault.Invalid, "larger than can be handled"},
		"more than it claims":    {pack(packed{3, 10, zeros}), fault.Transient, "cannot be read"},
		"many objects":           {pack(many...), fault.Invalid, "more objects than the limit"},
		"cut off":                {pack(packed{3, 100, zeros[:100]})[:20], fault.Transient, "cannot be read"},
		"nothing":                {nil, fault.Transient, "cannot be read"},
	} {
		_, err := checkPack(t.Context(), bytes.NewReader(tc.raw), limits)
		if (err == nil) != (tc.text == "") || err != nil && (fault.KindOf(err) != tc.kind || !strings.Contains(err.Error(), tc.text)) {
			t.Errorf("%s: %v", name, err)
		}
	}
	// Through a real server; nothing is left on disk.
	root, dir := t.TempDir(), t.TempDir()
	g := newGitRepo(t, root, "app.git")
	g.write("zeros.bin", string(zeros))
	g.push("a small pack with a large file")
	_, err := openCache(t, dir, limits).Fetch(t.Context(), alice, Request{Remote: startHTTP(t, root, false).remote("app.git"), Ref: Ref{Branch: "main"}})
	if fault.KindOf(err) != fault.Invalid || !strings.Contains(err.Error(), "larger than can be handled") {
		t.Errorf("%v", err)
	}
	if left, _ := filepath.Glob(filepath.Join(dir, "team-a/app/*")); len(left) != 0 {
		t.Errorf("left: %v", left)
	}
	if _, err := os.Stat(dir); err != nil {
		t.Error(err)
	}
}

func FuzzPack(f *testing.F) {
	f.Add(pack(packed{3, 5, []byte("hello")}))
	f.Add(pack(packed{7, 4, []byte{1, 2, 3, 4}}))
	f.Add(pack(packed{6, 4, []byte{1, 2, 3, 4}}))
	limits := DefaultLimits()
	limits.Object, limits.Files = 1<<16, 100
	f.Fuzz(func(t *testing.T, raw []byte) {
		if _, err := checkPack(t.Context(), bytes.NewReader(raw), limits); err != nil && fault.StageOf(err) != fault.StageSource {
			t.Errorf("%v", err)
		}
	})
}
