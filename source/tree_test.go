package source

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/fstest"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"

	"sealock.dev/sealock/fault"
)

// treeOf returns the tree of what fill writes, fetched from a real server.
func treeOf(t testing.TB, limits Limits, ignore *string, fill func(g *gitRepo)) (*Tree, error) {
	t.Helper()
	root := t.TempDir()
	g := newGitRepo(t, root, "app.git")
	fill(g)
	g.push("files")
	got, err := openCache(t, t.TempDir(), limits).Fetch(t.Context(), alice, Request{Remote: startHTTP(t, root, false).remote("app.git"), Ref: Ref{Branch: "main"}, Ignore: ignore})
	if err != nil {
		return nil, err
	}
	return got.Tree, nil
}

func mustTree(t testing.TB, ignore *string, fill func(g *gitRepo)) *Tree {
	t.Helper()
	tree, err := treeOf(t, DefaultLimits(), ignore, fill)
	if err != nil {
		t.Fatal(err)
	}
	return tree
}

// files lists the files that a walk finds.
func files(t testing.TB, tree fs.FS) (out []string) {
	t.Helper()
	err := fs.WalkDir(tree, ".", func(name string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			out = append(out, name)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func writeAll(names ...string) func(g *gitRepo) {
	return func(g *gitRepo) {
		for _, name := range names {
			g.write(name, "content of "+name)
		}
	}
}

// TestIsAFileSystem is the standard library's own test of an fs.FS.
func TestIsAFileSystem(t *testing.T) {
	tree := mustTree(t, nil, writeAll("a.yaml", "deploy/base/b.yaml", "deploy/c.yaml", "z-last/d", "deploy.yaml"))
	if err := fstest.TestFS(tree, "a.yaml", "deploy/base/b.yaml", "deploy/c.yaml", "z-last/d", "deploy.yaml"); err != nil {
		t.Error(err)
	}
}

// TestS0Y01IgnoreAndS1Y07: the two spellings of "only deploy" in the seeds, and the default rules.
// contract: GitRepository spec.ignore, .sourceignore, default excludes
func TestS0Y01IgnoreAndS1Y07(t *testing.T) {
	all := []string{
		"README.md", "src/main.go", "deploy/a.yaml", "deploy/sub/b.yaml", "deploy.yaml", "x/deploy/no.yaml", ".github/w.yaml", "pic.png",
		"sub/.sops.yaml", ".sops.yaml", ".gitignore", "deploy/.gitattributes", ".travis.yml", "site.tar.gz",
	}
	text := func(s string) *string { return &s }
	for name, tc := range map[string]struct {
		ignore *string
		more   map[string]string
		want   []string
	}{
		"S0-Y01":  {ignore: text("# only deploy\n/*\n!/deploy/\n"), want: []string{"deploy/a.yaml", "deploy/sub/b.yaml"}},
		"S1-Y07":  {ignore: text("/*\r\n!/deploy\r\n"), want: []string{"deploy/a.yaml", "deploy/sub/b.yaml"}},
		"default": {want: []string{"README.md", "deploy.yaml", "deploy/a.yaml", "deploy/sub/b.yaml", "src/main.go", "x/deploy/no.yaml"}},
		"spec replaces the defaults, not VCS": {
			ignore: text("*.md"),
			want: []string{
				".github/w.yaml", ".sops.yaml", ".travis.yml", "deploy.yaml", "deploy/a.yaml", "deploy/sub/b.yaml", "pic.png",
				"site.tar.gz", "src/main.go", "sub/.sops.yaml", "x/deploy/no.yaml",
			},
		},
		"a file in the tree is for its folder": {
			more: map[string]string{"deploy/.sourceignore": "*.yaml\n!sub\n", ".sourceignore": "/*\n!/deploy\n!/x"},
			want: []string{"deploy/.sourceignore", "deploy/sub/b.yaml", "x/deploy/no.yaml"},
		},
		"the spec has the last word": {
			ignore: text("!/src"), more: map[string]string{".sourceignore": "/*\n"}, want: []string{"src/main.go"},
		},
		"one file in a folder that is left out": {ignore: text("/*\n!/deploy/sub/b.yaml"), want: []string{"deploy/sub/b.yaml"}},
		"everything":                            {ignore: text("*"), want: nil},
	} {
		t.Run(name, func(t *testing.T) {
			tree := mustTree(t, tc.ignore, func(g *gitRepo) {
				writeAll(all...)(g)
				for name, content := range tc.more {
					g.write(name, content)
				}
			})
			got := files(t, tree)
			slices.Sort(got)
			if diff := cmp.Diff(tc.want, got); diff != "" {
				t.Error(diff)
			}
			for _, name := range all {
				_, err := tree.Open(name)
				_, hashed := tree.Hash(name)
				if seen := slices.Contains(tc.want, name); (err == nil) != seen || hashed != seen || err != nil && !errors.Is(err, fs.ErrNotExist) {
					t.Errorf("%s: seen %v, opened %v, hashed %v", name, seen, err, hashed)
				}
			}
		})
	}
}

// TestT21SymlinksStayInside: a link is followed inside the tree only; what leaves it is named, and nothing of the machine is read.
func TestT21SymlinksStayInside(t *testing.T) {
	outside := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(outside, []byte("from the machine"), 0o600); err != nil {
		t.Fatal(err)
	}
	tree := mustTree(t, nil, func(g *gitRepo) {
		writeAll("base/a.yaml", "overlay/b.yaml", "pic.png")(g)
		g.link("overlay/base", "../base")
		g.link("overlay/a.yaml", "base/a.yaml")
		g.link("abs", outside)
		g.link("root", "/")
		g.link("up", "../../../../../../../../"+outside)
		g.link("deep/er/up", "../../../x")
		g.link("loop", "loop2")
		g.link("loop2", "loop")
		g.link("hidden", "pic.png")
		g.link("dangling", "nowhere")
		g.link("self", ".")
	})
	for name, want := range map[string]string{
		"overlay/a.yaml": "content of base/a.yaml", "overlay/base/a.yaml": "content of base/a.yaml", "self/self/base/a.yaml": "content of base/a.yaml",
	} {
		if got := read(t, tree, name); got != want {
			t.Errorf("%s: %q", name, got)
		}
	}
	for _, name := range []string{"abs", "root/etc/passwd", "up", "deep/er/up", "loop"} {
		_, err := tree.Open(name)
		faults := fault.All(err)
		if len(faults) != 1 || faults[0].Kind != fault.Invalid || faults[0].Ref.File != name || faults[0].Remedy == "" {
			t.Errorf("%s: %v", name, err)
		}
		if _, err := tree.ReadFile(name); fault.KindOf(err) != fault.Invalid {
			t.Errorf("read %s: %v", name, err)
		}
		if _, ok := tree.Hash(name); ok {
			t.Errorf("hash of %s", name)
		}
	}
	for _, name := range []string{"hidden", "dangling", "overlay/base/none", "base/a.yaml/x"} {
		if _, err := tree.Open(name); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s: %v", name, err)
		}
	}
	for _, name := range []string{"../x", "/etc/passwd", "a//b", "base/../base/a.yaml", ""} {
		if _, err := tree.Open(name); !errors.Is(err, fs.ErrInvalid) {
			t.Errorf("%q: %v", name, err)
		}
	}
	link, err := tree.ReadLink("overlay/base")
	info, err2 := tree.Lstat("overlay/base")
	if err != nil || err2 != nil || link != "../base" || info.Mode()&fs.ModeSymlink == 0 {
		t.Errorf("%q %v %v %v", link, err, info, err2)
	}
	for _, name := range files(t, tree) {
		if body, err := tree.ReadFile(name); err == nil && strings.Contains(string(body), "from the machine") {
			t.Errorf("%s read the machine", name)
		}
	}
}

func TestSubmodulesAreEmptyFolders(t *testing.T) {
	tree := mustTree(t, nil, func(g *gitRepo) {
		writeAll("a.yaml")(g)
		g.git("add", "-A")
		g.git("commit", "-q", "-m", "x")
		g.git("update-index", "--add", "--cacheinfo", "160000,"+g.git("rev-parse", "HEAD")+",sub")
		g.git("commit", "-q", "-m", "submodule")
		g.git("push", "-q", "origin", "HEAD")
		run(g.t, g.work, "update-index", "--skip-worktree", "sub")
		if err := os.Mkdir(filepath.Join(g.work, "sub"), 0o755); err != nil {
			g.t.Fatal(err)
		}
	})
	list, err := tree.ReadDir("sub")
	if err != nil || len(list) != 0 {
		t.Errorf("%v %v", list, err)
	}
	if _, err := tree.Open("sub/a.yaml"); !errors.Is(err, fs.ErrNotExist) {
		t.Error(err)
	}
}

func TestHashFollowsContent(t *testing.T) {
	root := t.TempDir()
	g := newGitRepo(t, root, "app.git")
	writeAll("app/a.yaml", "other/b.yaml")(g)
	g.link("link", "app/a.yaml")
	g.push("one")
	remote := startHTTP(t, root, false).remote("app.git")
	r := openCache(t, t.TempDir(), DefaultLimits())
	one := fetch(t, r, remote, Ref{Branch: "main"}).Tree
	g.write("other/b.yaml", "new")
	g.push("two")
	two := fetch(t, r, remote, Ref{Branch: "main"}).Tree
	for name, same := range map[string]bool{"app": true, "app/a.yaml": true, "link": true, "other": false, "other/b.yaml": false, ".": false} {
		a, okA := one.Hash(name)
		b, okB := two.Hash(name)
		if !okA || !okB || (a == b) != same {
			t.Errorf("%s: %s %s", name, a, b)
		}
	}
	ignore := "/nothing"
	got, err := r.Fetch(t.Context(), alice, Request{Remote: remote, Ref: Ref{Branch: "main"}, Ignore: &ignore})
	if err != nil || got.Transferred {
		t.Fatalf("%v %v", got, err)
	}
	a, _ := two.Hash("app")
	b, _ := got.Tree.Hash("app")
	if a == b {
		t.Error("other rules, same hash of a folder")
	}
}

func TestLimits(t *testing.T) {
	small := DefaultLimits()
	small.Blob, small.Files, small.Artifact = 1000, 20, 3000
	tree, err := treeOf(t, small, nil, func(g *gitRepo) {
		g.write("big.yaml", strings.Repeat("x", 1001))
		g.write("fits.yaml", strings.Repeat("x", 1000))
	})
	if err != nil {
		t.Fatal(err)
	}
	if got := read(t, tree, "fits.yaml"); len(got) != 1000 {
		t.Error(len(got))
	}
	_, err = tree.ReadFile("big.yaml")
	if faults := fault.All(err); len(faults) != 1 || faults[0].Kind != fault.Invalid || faults[0].Ref.File != "big.yaml" || !strings.Contains(err.Error(), "larger than the limit") {
		t.Errorf("%v", err)
	}
	f, err := tree.Open("big.yaml")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadAll(f); fault.KindOf(err) != fault.Invalid {
		t.Errorf("%v", err)
	}
	if _, _, err := WriteArtifact(t.Context(), io.Discard, tree); fault.KindOf(err) != fault.Invalid {
		t.Errorf("artifact with a huge file: %v", err)
	}
	for name, fill := range map[string]func(g *gitRepo){
		"more files than the limit": func(g *gitRepo) {
			for i := range 21 {
				g.write(fmt.Sprintf("d%d/f", i), "x")
			}
		},
		"nested too deeply":        func(g *gitRepo) { g.write(strings.Repeat("d/", maxDepth+2)+"f", "x") },
		"ignore patterns":          func(g *gitRepo) { g.write(".sourceignore", strings.Repeat("*.a\n", maxPatterns+1)) },
		"ignore file cannot":       func(g *gitRepo) { g.write("d/.sourceignore", strings.Repeat("#", maxIgnoreFile+1)) },
		"ignore patterns, or one ": func(g *gitRepo) { g.write(".sourceignore", strings.Repeat("a", maxPattern+1)) },
	} {
		limits := small
		limits.Files = max(20, 10*len(name)) // deep enough for the nesting
		if strings.HasPrefix(name, "more") {
			limits.Files = 20
		}
		if _, err := treeOf(t, limits, nil, fill); fault.KindOf(err) != fault.Invalid || !strings.Contains(fmt.Sprint(err), strings.TrimSpace(name)) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestTreeBomb: a few objects that name more files than fit anywhere. Each folder holds the one below it eight times, forty deep: more files than an int counts, and the sum modulo 2^64 is negative.
func TestTreeBomb(t *testing.T) {
	root := t.TempDir()
	g := newGitRepo(t, root, "bomb.git")
	g.write("a", "x")
	g.git("add", "-A")
	below := g.git("write-tree")
	for range 40 {
		var lines strings.Builder
		for i := range 8 {
			fmt.Fprintf(&lines, "040000 tree %s\td%d\n", below, i)
		}
		below = mktree(g, lines.String())
	}
	g.git("push", "-q", "origin", g.git("commit-tree", below, "-m", "bomb")+":refs/heads/main")
	_, err := openCache(t, t.TempDir(), DefaultLimits()).Fetch(t.Context(), alice, Request{Remote: startHTTP(t, root, false).remote("bomb.git"), Ref: Ref{Branch: "main"}})
	if fault.KindOf(err) != fault.Invalid || !strings.Contains(fmt.Sprint(err), "more files than the limit") {
		t.Error(err)
	}
}

func FuzzIgnore(f *testing.F) {
	for _, text := range []string{"/*\n!/deploy/\n", "/*\n!/deploy", "**/a/**", "!", "!/", "/", "a\\ ", "[", "[a-", "***", "a/**/b/", "#x\n\r\n", "\\#", "\x00", "!!a", " "} {
		f.Add(text, "deploy/sub/a.yaml", true)
	}
	f.Fuzz(func(t *testing.T, text, name string, isDir bool) {
		if !fs.ValidPath(name) || !utf8.ValidString(name) || len(text) > 4096 || len(name) > 512 {
			return // an input that cannot occur
		}
		var b rulesBuilder
		if err := b.add(text, []string{"deploy"}); err != nil {
			if fault.KindOf(err) != fault.Invalid {
				t.Fatal(err)
			}
			return
		}
		parts := strings.Split(name, "/")
		r, err := b.rules(&text)
		if err != nil {
			return
		}
		first := r.hides(parts, isDir)
		if r.hides(parts, isDir) != first || r.hides(nil, true) {
			t.Error("not stable")
		}
		// Rules for deploy/ say nothing about what is elsewhere, beyond what every tree leaves out.
		var only rulesBuilder
		_ = only.add(text, []string{"deploy"})
		mine, _ := only.rules(nil)
		if len(only.patterns) > 0 && parts[0] != "deploy" && mine.hides(parts, isDir) {
			var vcs rulesBuilder
			_ = vcs.add("never-there", nil)
			base, _ := vcs.rules(nil)
			if !base.hides(parts, isDir) {
				t.Errorf("%q hides %q", text, name)
			}
		}
	})
}

func FuzzKnownHosts(f *testing.F) {
	f.Add("example.com ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIOMqqnkVzrm0SdG6UOoqKLsabgH5C9okWi0dh2l9GKJl", "example.com:22")
	f.Add("|1|JfKTdBh7rNbXkVAQCRp4OQoPfmI=|USECr3SWf1JUPsms5AqfD5QfxkM= ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIOMqqnkVzrm0SdG6UOoqKLsabgH5C9okWi0dh2l9GKJl", "h:1")
	f.Add("*.x,!a.x,[b]:2 ssh-rsa AAAA", "b:2")
	f.Fuzz(func(t *testing.T, text, addr string) {
		hosts, err := parseKnownHosts([]byte(text))
		if err != nil {
			if fault.KindOf(err) != fault.Invalid {
				t.Fatal(err)
			}
			return
		}
		check := hosts.forAddress(addr)
		for _, k := range check.revoked {
			if check.verify("", nil, k) == nil {
				t.Error("a revoked key passed")
			}
		}
		signer, _ := keyPair(t)
		if check.verify("", nil, signer.PublicKey()) == nil {
			t.Error("an unknown key passed")
		}
	})
}

func TestKnownHostsPatterns(t *testing.T) {
	signer, _ := keyPair(t)
	key := strings.TrimSpace(string(marshalKey(signer)))
	for _, tc := range []struct {
		hosts, addr string
		ok          bool
	}{
		{"example.com", "example.com:22", true},
		{"example.com", "EXAMPLE.com:22", true},
		{"example.com", "example.com:2222", false},
		{"[example.com]:2222", "example.com:2222", true},
		{"[example.com]:2222", "example.com:22", false},
		{"a,example.com,192.0.2.1", "192.0.2.1:22", true},
		{"*.example.com", "git.example.com:22", true},
		{"*.example.com,!git.example.com", "git.example.com:22", false},
		{"*.example.com", "example.com.evil:22", false},
		{"|1|c2FsdHNhbHRzYWx0c2FsdHNhbHQ=|" + hashHost("saltsaltsaltsaltsalt", "example.com"), "example.com:22", true},
		{"|1|c2FsdHNhbHRzYWx0c2FsdHNhbHQ=|" + hashHost("saltsaltsaltsaltsalt", "example.com"), "example.org:22", false},
		{"@cert-authority example.com", "example.com:22", false},
	} {
		hosts, err := parseKnownHosts([]byte(tc.hosts + " " + key + "\n"))
		if err != nil {
			t.Fatalf("%s: %v", tc.hosts, err)
		}
		if err := hosts.forAddress(tc.addr).verify("", nil, signer.PublicKey()); (err == nil) != tc.ok {
			t.Errorf("%s %s: %v", tc.hosts, tc.addr, err)
		}
	}
}

// TestLargeFilesOfPacksAndAlone: a file is read as it was written, whether it came in a pack, as a delta, or alone with a
// later commit; and one above the limit is refused in each of these forms.
func TestLargeFilesOfPacksAndAlone(t *testing.T) {
	root, dir := t.TempDir(), t.TempDir()
	g := newGitRepo(t, root, "app.git")
	body := noise(3 << 20)
	want := map[string]string{"a.bin": body, "b.bin": body[:2<<20] + "changed" + body[2<<20:], "c.yaml": "small"}
	for name, text := range want {
		g.write(name, text)
	}
	g.push("first")
	remote := startHTTP(t, root, false).remote("app.git")
	small := DefaultLimits()
	small.Blob = 1 << 20
	for _, step := range []string{"in a pack", "with a later commit"} {
		r := openCache(t, dir, DefaultLimits())
		tree := fetch(t, r, remote, Ref{Branch: "main"}).Tree
		strict, err := openCache(t, dir, small).Open(t.Context(), alice.Namespace, alice.Name, tree.Revision())
		if err != nil {
			t.Fatal(err)
		}
		for name, text := range want {
			if got := read(t, tree, name); got != text {
				t.Errorf("%s: %s is not what was written: %d bytes", step, name, len(got))
			}
			info, err := fs.Stat(tree, name)
			if err != nil || info.Size() != int64(len(text)) {
				t.Errorf("%s: %s: size %v", step, name, err)
			}
			if _, err := fs.ReadFile(strict, name); (err == nil) != (len(text) <= 1<<20) {
				t.Errorf("%s: %s with a limit: %v", step, name, err)
			}
		}
		want["a.bin"] = "head" + want["a.bin"]
		want["d.bin"] = noise(2 << 20)
		g.write("a.bin", want["a.bin"])
		g.write("d.bin", want["d.bin"])
		g.push("second")
	}
}

// TestDescriptorsAreGivenBack: reading keeps packs open, and what is evicted, replaced or grown keeps none.
func TestDescriptorsAreGivenBack(t *testing.T) {
	root, dir := t.TempDir(), t.TempDir()
	g := newGitRepo(t, root, "app.git")
	remote := startHTTP(t, root, false).remote("app.git")
	r := openCache(t, dir, DefaultLimits())
	g.write("stays.yaml", "in the pack")
	for i := range 5 {
		g.write("a.yaml", strings.Repeat("x", i+1))
		g.push("next")
		tree := fetch(t, r, remote, Ref{Branch: "main"}).Tree
		if got := read(t, tree, "a.yaml") + read(t, tree, "stays.yaml"); len(got) != i+1+len("in the pack") {
			t.Errorf("%q", got)
		}
		if n := openBelow(t, dir); n != 1 {
			t.Errorf("after %d transfers %d files are open, and there is one pack", i+1, n)
		}
	}
	tree := fetch(t, r, remote, Ref{Branch: "main"}).Tree
	if err := r.Remove(t.Context(), alice.Namespace, alice.Name); err != nil {
		t.Fatal(err)
	}
	if n := openBelow(t, dir); n != 0 {
		t.Errorf("%d files are open of a repository that was removed", n)
	}
	if _, err := fs.ReadFile(tree, "a.yaml"); fault.KindOf(err) != fault.Transient {
		t.Errorf("who reads on is told %v", err)
	}
}

// openBelow counts the files in a folder that this process has open.
func openBelow(t *testing.T, dir string) int {
	t.Helper()
	list, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for _, e := range list {
		if to, err := os.Readlink("/proc/self/fd/" + e.Name()); err == nil && strings.HasPrefix(to, dir) {
			n++
		}
	}
	return n
}
