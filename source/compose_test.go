package source

import (
	"bytes"
	"io"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"

	"sealock.dev/sealock/fault"
)

// fetchAs fetches for an owner of team-a, or fails the test.
func fetchAs(t testing.TB, r *Repositories, name string, q Request) *Fetched {
	t.Helper()
	if q.Ref == (Ref{}) {
		q.Ref = Ref{Branch: "main"}
	}
	got, err := r.Fetch(t.Context(), Owner{"team-a", name}, q)
	if err != nil {
		t.Fatalf("fetch for %s: %v", name, err)
	}
	return got
}

// sameInArtifact compares what a walk of the tree finds with what is in the artifact: consumers of both see the same.
func sameInArtifact(t testing.TB, tree *Tree, want []string) {
	t.Helper()
	got := files(t, tree)
	slices.Sort(got)
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("tree: %s", diff)
	}
	var artifact bytes.Buffer
	if _, _, err := WriteArtifact(t.Context(), &artifact, tree); err != nil {
		t.Fatal(err)
	}
	var packed []string
	for _, h := range headers(t, artifact.Bytes()) {
		if parts := strings.SplitN(h, " ", 4); parts[0] == "0" {
			packed = append(packed, parts[2])
		}
	}
	slices.Sort(packed)
	if diff := cmp.Diff(want, packed); diff != "" {
		t.Errorf("artifact: %s", diff)
	}
}

func TestSparseCheckout(t *testing.T) {
	root, dir := t.TempDir(), t.TempDir()
	g := newGitRepo(t, root, "app.git")
	writeAll("a.yaml", "deploy/a.yaml", "deploy/base/b.yaml", "deploy-old/c.yaml", "charts/x/d.yaml", "charts/y/e.yaml")(g)
	g.push("files")
	remote := startHTTP(t, root, false).remote("app.git")
	r := openCache(t, dir, DefaultLimits())
	all := []string{"a.yaml", "charts/x/d.yaml", "charts/y/e.yaml", "deploy-old/c.yaml", "deploy/a.yaml", "deploy/base/b.yaml"}
	for _, tc := range []struct{ sparse, want []string }{
		{[]string{"deploy"}, []string{"deploy/a.yaml", "deploy/base/b.yaml"}},
		{[]string{"./deploy/"}, []string{"deploy/a.yaml", "deploy/base/b.yaml"}},
		{[]string{"charts/y", "deploy/base"}, []string{"charts/y/e.yaml", "deploy/base/b.yaml"}},
		{[]string{"deploy", "deploy/base"}, []string{"deploy/a.yaml", "deploy/base/b.yaml"}},
		{[]string{"."}, all},
		{nil, all},
	} {
		got := fetchAs(t, r, "app", Request{Remote: remote, Sparse: tc.sparse})
		sameInArtifact(t, got.Tree, tc.want)
		// The same is opened after a restart.
		again, err := openCache(t, dir, DefaultLimits()).Open(t.Context(), "team-a", "app", got.Tree.Revision())
		if err != nil {
			t.Fatal(err)
		}
		sameInArtifact(t, again, tc.want)
	}
	if got := r.Counts(); got.Transfers != 1 {
		t.Errorf("%d transfers for one commit", got.Transfers)
	}
	for sparse, reason := range map[string]Reason{"../x": ReasonInvalid, "/etc": ReasonInvalid, "a/../../b": ReasonInvalid, ".git": ReasonInvalid, "gone": ReasonOperation, "a.yaml": ReasonOperation} {
		_, err := r.Fetch(t.Context(), alice, Request{Remote: remote, Ref: Ref{Branch: "main"}, Sparse: []string{"deploy", sparse}})
		if err == nil || ReasonOf(err) != reason || fault.All(err)[0].Field != "spec.sparseCheckout" {
			t.Errorf("%s: %v", sparse, err)
		}
	}
}

func TestInclude(t *testing.T) {
	root, dir := t.TempDir(), t.TempDir()
	lib := newGitRepo(t, root, "lib.git")
	writeAll("README.md", "base/a.yaml", "base/sub/b.yaml", "pic.png", "base/run.sh")(lib)
	lib.link("base/link", "a.yaml")
	lib.push("lib")
	app := newGitRepo(t, root, "app.git")
	writeAll("app.yaml", "dir/c.yaml")(app)
	app.link("over", "dir")
	app.push("app")
	h := startHTTP(t, root, false)
	r := openCache(t, dir, DefaultLimits())
	digest := func(tree *Tree) string {
		d, _, err := WriteArtifact(t.Context(), io.Discard, tree)
		if err != nil {
			t.Fatal(err)
		}
		return d
	}
	included := fetchAs(t, r, "lib", Request{Remote: h.remote("lib.git")}).Tree
	with := func(from, to string) []Include {
		return []Include{{Tree: included, Digest: digest(included), From: from, To: to}}
	}
	own := []string{"app.yaml", "dir/c.yaml"}
	for _, tc := range []struct {
		from, to string
		more     []string
	}{
		{"", "lib", []string{"lib/README.md", "lib/base/a.yaml", "lib/base/run.sh", "lib/base/sub/b.yaml"}},
		{"./base/", "./x/y/", []string{"x/y/a.yaml", "x/y/run.sh", "x/y/sub/b.yaml"}},
		{"base/sub", "dir/sub", []string{"dir/sub/b.yaml"}},
		{"base/a.yaml", "one.yaml", []string{"one.yaml"}},
	} {
		got := fetchAs(t, r, "app", Request{Remote: h.remote("app.git"), Includes: with(tc.from, tc.to)}).Tree
		want := append(slices.Clone(own), tc.more...)
		slices.Sort(want)
		seen := slices.DeleteFunc(files(t, got), func(s string) bool { return s == "over" })
		slices.Sort(seen)
		if diff := cmp.Diff(want, seen); diff != "" {
			t.Errorf("%+v: %s", tc, diff)
		}
		if body := read(t, got, tc.more[0]); !strings.HasPrefix(body, "content of ") {
			t.Errorf("%q", body)
		}
		again, err := openCache(t, dir, DefaultLimits()).Open(t.Context(), "team-a", "app", got.Revision())
		if err != nil || digest(again) != digest(got) {
			t.Errorf("after a restart: %v", err)
		}
	}
	if got := r.Counts(); got.Transfers != 2 {
		t.Errorf("%d transfers", got.Transfers)
	}
	for name, tc := range map[string]struct {
		from, to string
		reason   Reason
	}{
		"up":                {"..", "x", ReasonInvalid},
		"up in the middle":  {"base/../../..", "x", ReasonInvalid},
		"absolute":          {"/etc", "x", ReasonInvalid},
		"to up":             {"", "../other", ReasonInvalid},
		"to absolute":       {"", "/etc", ReasonInvalid},
		"to the root":       {"", ".", ReasonInvalid},
		"to .git":           {"", "a/.git/hooks", ReasonInvalid},
		"to a file":         {"", "app.yaml", ReasonCopy},
		"to a folder":       {"", "dir", ReasonCopy},
		"below a file":      {"", "app.yaml/x", ReasonCopy},
		"over a symlink":    {"", "over/x", ReasonCopy},
		"missing":           {"gone", "x", ReasonCopy},
		"what is left out":  {"pic.png", "x", ReasonCopy},
		"a symlink":         {"base/link", "x", ReasonCopy},
		"through a symlink": {"base/link/x", "x", ReasonCopy},
		"backslash":         {"", `..\x`, ReasonInvalid},
	} {
		_, err := r.Fetch(t.Context(), alice, Request{Remote: h.remote("app.git"), Ref: Ref{Branch: "main"}, Includes: with(tc.from, tc.to)})
		if err == nil || ReasonOf(err) != tc.reason || !strings.HasPrefix(fault.All(err)[0].Field, "spec.include") {
			t.Errorf("%s: %v", name, err)
		}
	}

	// A change of what is included changes the tree, and the revision stays: it is the commit's.
	before := fetchAs(t, r, "app", Request{Remote: h.remote("app.git"), Includes: with("base", "lib")}).Tree
	lib.write("base/a.yaml", "new")
	lib.push("new")
	included = fetchAs(t, r, "lib", Request{Remote: h.remote("lib.git")}).Tree
	after := fetchAs(t, r, "app", Request{Remote: h.remote("app.git"), Includes: with("base", "lib")}).Tree
	if read(t, after, "lib/a.yaml") != "new" || after.Revision() != before.Revision() {
		t.Errorf("%q", read(t, after, "lib/a.yaml"))
	}
	if open, err := r.Open(t.Context(), "team-a", "app", before.Revision()); err != nil || read(t, open, "lib/a.yaml") != "new" {
		t.Errorf("what is opened is not the newest: %v", err)
	}
	one, _ := before.Hash("lib")
	two, _ := after.Hash("lib")
	same1, _ := before.Hash("dir")
	same2, _ := after.Hash("dir")
	if one == two || same1 != same2 {
		t.Error("the hashes do not follow what is included")
	}
	// An owner that goes away takes nothing with it that another one included.
	if err := r.Remove(t.Context(), "team-a", "lib"); err != nil {
		t.Fatal(err)
	}
	if read(t, after, "lib/a.yaml") != "new" {
		t.Error("the copy is gone")
	}
	small := DefaultLimits()
	small.Files = 4
	tight := openCache(t, t.TempDir(), small)
	_, err := tight.Fetch(t.Context(), alice, Request{Remote: h.remote("app.git"), Ref: Ref{Branch: "main"}, Includes: []Include{{Tree: after, Digest: "d", To: "x"}}})
	if ReasonOf(err) != ReasonCopy || !strings.Contains(err.Error(), "more files than the limit") {
		t.Errorf("%v", err)
	}
}

// TestManyIncludesStayBounded: what compositions leave behind goes as what transfers leave behind does.
func TestManyIncludesStayBounded(t *testing.T) {
	root, dir := t.TempDir(), t.TempDir()
	lib, app := newGitRepo(t, root, "lib.git"), newGitRepo(t, root, "app.git")
	app.write("app.yaml", "app")
	app.push("app")
	h := startHTTP(t, root, false)
	r := openCache(t, dir, DefaultLimits())
	for i := range maxGrowth + 5 {
		lib.write("a.yaml", noise(64<<10)+string(rune('a'+i)))
		lib.push("next")
		included := fetchAs(t, r, "lib", Request{Remote: h.remote("lib.git")}).Tree
		fetchAs(t, r, "app", Request{Remote: h.remote("app.git"), Includes: []Include{{Tree: included, Digest: included.Revision(), To: "lib"}}})
	}
	if got := diskSize(t, dir+"/team-a/app"); got > 10*64<<10 {
		t.Errorf("%d bytes are left", got)
	}
}

func FuzzCleanPath(f *testing.F) {
	for _, p := range []string{"", ".", "./a/", "../x", "a/../b", "a//b", "/x", ".GIT/x", "a\\..\\b", "a\x00b", "...", "a/."} {
		f.Add(p)
	}
	f.Fuzz(func(t *testing.T, p string) {
		clean, ok := cleanPath(p)
		if !ok {
			return
		}
		if !utf8.ValidString(clean) || strings.HasPrefix(clean, "/") || slices.Contains(strings.Split(clean, "/"), "..") || strings.ContainsAny(clean, "\x00\\") {
			t.Errorf("%q -> %q", p, clean)
		}
		if again, ok := cleanPath(clean); !ok || again != clean {
			t.Errorf("%q -> %q -> %q", p, clean, again)
		}
	})
}
