package source

import (
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"sealock.dev/sealock/fault"
)

// module puts a commit of another repository at the path, as git submodule add does without fetching.
func (g *gitRepo) module(at, from, commit string) {
	g.t.Helper()
	f, err := os.OpenFile(filepath.Join(g.work, modulesFile), os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o644)
	if err != nil {
		g.t.Fatal(err)
	}
	defer f.Close()
	fmt.Fprintf(f, "[submodule %q]\n\tpath = %s\n\turl = %s\n", at, at, from)
	if commit != "" {
		g.gitlink(at, commit)
	}
}

func (g *gitRepo) gitlink(at, commit string) {
	g.t.Helper()
	g.git("update-index", "--add", "--cacheinfo", "160000,"+commit+","+at)
}

// commit commits .gitmodules and what is in the index, and pushes.
func (g *gitRepo) commit(message string) string {
	g.t.Helper()
	g.git("add", "-f", modulesFile)
	g.git("commit", "-q", "--allow-empty", "-m", message)
	g.git("push", "-q", "-f", "origin", "HEAD")
	return g.git("rev-parse", "HEAD")
}

func allowAnyCommit(g *gitRepo) { run(g.t, g.bare, "config", "uploadpack.allowAnySHA1InWant", "true") }

func TestSubmodules(t *testing.T) {
	root, dir := t.TempDir(), t.TempDir()
	inner := newGitRepo(t, root, "inner.git")
	inner.write("inner.yaml", "inner")
	innerOld := inner.push("inner")
	inner.write("inner.yaml", "newer than what is wanted")
	inner.push("newer")
	lib := newGitRepo(t, root, "lib.git")
	writeAll("lib.yaml", "pic.png")(lib)
	lib.git("add", "-A")
	lib.module("deep/inner", "../inner.git", innerOld)
	libCommit := lib.commit("lib")
	app := newGitRepo(t, root, "app.git")
	writeAll("app.yaml")(app)
	app.git("add", "-A")
	app.module("libs/lib", "../lib.git", libCommit)
	app.gitlink("unknown", libCommit) // not in .gitmodules: an empty folder, as in Flux
	app.commit("app")
	want := []string{"app.yaml", "libs/lib/deep/inner/inner.yaml", "libs/lib/lib.yaml"}
	h, s := startHTTP(t, root, false), startSSH(t, root)
	for name, remote := range map[string]Remote{"http": h.remote("app.git"), "ssh": s.remote("app.git")} {
		t.Run(name, func(t *testing.T) {
			dir := filepath.Join(dir, name)
			r := openCache(t, dir, DefaultLimits())
			got := fetchAs(t, r, "app", Request{Remote: remote, Submodules: true})
			sameInArtifact(t, got.Tree, want)
			if body := read(t, got.Tree, "libs/lib/deep/inner/inner.yaml"); body != "inner" {
				t.Errorf("not the commit that is wanted: %q", body)
			}
			counts := r.Counts()
			if counts.Transfers != 3 {
				t.Errorf("%+v", counts)
			}
			if fetchAs(t, r, "app", Request{Remote: remote, Submodules: true}).Transferred || r.Counts() != (Counts{counts.Listings + 1, 3}) {
				t.Errorf("unchanged: %+v after %+v", r.Counts(), counts)
			}
			again := openCache(t, dir, DefaultLimits())
			sameInArtifact(t, fetchAs(t, again, "app", Request{Remote: remote, Submodules: true}).Tree, want)
			if again.Counts() != (Counts{1, 0}) {
				t.Errorf("after a restart: %+v", again.Counts())
			}
			sameInArtifact(t, fetchAs(t, r, "app", Request{Remote: remote, Submodules: true, Sparse: []string{"libs"}}).Tree, want[1:])
			sameInArtifact(t, fetchAs(t, r, "app", Request{Remote: remote}).Tree, want[:1])
		})
	}
	// Only what is new is transferred, of the submodule that changed.
	r := openCache(t, filepath.Join(dir, "http"), DefaultLimits())
	q := Request{Remote: h.remote("app.git"), Submodules: true}
	fetchAs(t, r, "app", q)
	lib.write("lib.yaml", "changed")
	lib.git("add", "lib.yaml")
	app.gitlink("libs/lib", lib.commit("changed"))
	app.commit("newer lib")
	before := r.Counts().Transfers
	if got := fetchAs(t, r, "app", q).Tree; read(t, got, "libs/lib/lib.yaml") != "changed" || r.Counts().Transfers != before+2 {
		t.Errorf("%q, %d transfers", read(t, got, "libs/lib/lib.yaml"), r.Counts().Transfers-before)
	}
}

// TestSubmoduleCredentials: they go to the server that they were given for and to nobody else, and the fence of the tenant
// holds for submodules, too.
func TestSubmoduleCredentials(t *testing.T) {
	root := t.TempDir()
	lib := newGitRepo(t, root, "lib.git")
	lib.write("lib.yaml", "lib")
	commit := lib.push("lib")
	h, other := startHTTP(t, root, false), startHTTP(t, root, false)
	shell, otherShell := startSSH(t, root), startSSH(t, root)
	for i, tc := range []struct {
		name   string
		parent func(string) Remote
		from   string
		allows func(string) bool
		kind   fault.Kind
		text   string // "" works
	}{
		{"same server", h.remote, h.URL + "/lib.git", nil, 0, ""},
		{"another port", h.remote, other.URL + "/lib.git", nil, fault.Denied, "refused the credentials"},
		{"same ssh server", shell.remote, "ssh://git@" + shell.addr + "/lib.git", nil, 0, ""},
		{"another ssh server", shell.remote, "ssh://git@" + otherShell.addr + "/lib.git", nil, fault.Invalid, "another ssh server"},
		{"http below ssh", shell.remote, other.URL + "/lib.git", nil, fault.Denied, "refused the credentials"},
		{"inside the fence", h.remote, "../lib.git", func(string) bool { return true }, 0, ""},
		{"outside of it", h.remote, "../lib.git", func(u string) bool { return !strings.HasSuffix(u, "lib.git") }, fault.Denied, "place that is not allowed"},
	} {
		name := fmt.Sprintf("app%d.git", i)
		app := newGitRepo(t, root, name)
		app.module("lib", tc.from, commit)
		app.commit("app")
		seen := other.requests.Load()
		remote := tc.parent(name)
		remote.Allows = tc.allows
		got, err := openCache(t, t.TempDir(), DefaultLimits()).Fetch(t.Context(), alice, Request{Remote: remote, Ref: Ref{Branch: "main"}, Submodules: true})
		switch {
		case tc.text == "" && (err != nil || read(t, got.Tree, "lib/lib.yaml") != "lib"):
			t.Errorf("%s: %v", tc.name, err)
		case tc.text != "" && (fault.KindOf(err) != tc.kind || !strings.Contains(err.Error(), tc.text)):
			t.Errorf("%s: %v", tc.name, err)
		}
		if other.requests.Load() != seen { // it counts what came with valid credentials
			t.Errorf("%s: credentials reached another server", tc.name)
		}
	}
}

// TestHostileSubmodules: each trick is refused by name, and nothing is fetched for it.
func TestHostileSubmodules(t *testing.T) {
	root := t.TempDir()
	lib := newGitRepo(t, root, "lib.git")
	lib.write("lib.yaml", "lib")
	commit := lib.push("lib")
	allowAnyCommit(lib)
	h := startHTTP(t, root, false)
	for i, tc := range []struct {
		name, text string
		fill       func(g *gitRepo)
	}{
		{"path up", "leaves the repository", func(g *gitRepo) { g.module("../evil", "../lib.git", "") }},
		{"path absolute", "leaves the repository", func(g *gitRepo) { g.module("/etc/cron.d", "../lib.git", "") }},
		{"path in .git", "leaves the repository", func(g *gitRepo) { g.module("a/.GIT/hooks", "../lib.git", "") }},
		{"path that looks like an option", "looks like an option", func(g *gitRepo) { g.module("-upload-pack", "../lib.git", "") }},
		{"url that looks like an option", "looks like an option", func(g *gitRepo) { g.module("lib", "--upload-pack=touch /tmp/x", commit) }},
		{"file url", "not http, https or ssh", func(g *gitRepo) { g.module("lib", "file:///etc", commit) }},
		{"git url", "not http, https or ssh", func(g *gitRepo) { g.module("lib", "git://example.com/x.git", commit) }},
		{"a path of the machine", "path of a machine", func(g *gitRepo) { g.module("lib", "/srv/git/lib.git", commit) }},
		{"ext transport", "path of a machine", func(g *gitRepo) { g.module("lib", "ext::sh -c id", commit) }},
		{"a password in it", "holds more than it should", func(g *gitRepo) { g.module("lib", "https://u:hunter2@example.com/lib.git", commit) }},
		{"relative beyond the server", "leaves its server", func(g *gitRepo) { g.module("lib", "../../../../lib.git", commit) }},
		{"up after down", "leaves its server", func(g *gitRepo) { g.module("lib", "./x/../../../lib.git", commit) }},
		{"no url", "has no URL", func(g *gitRepo) { g.module("lib", "", commit) }},
		{"two with one path", "two submodules have one path", func(g *gitRepo) {
			g.write(modulesFile, "[submodule \"a\"]\n\tpath = lib\n\turl = ../lib.git\n[submodule \"b\"]\n\tpath = lib\n\turl = ../lib.git\n")
		}},
		{"name up", "name of a submodule leaves", func(g *gitRepo) {
			g.write(modulesFile, "[submodule \"../../evil\"]\n\tpath = lib\n\turl = ../lib.git\n")
		}},
		{"over a symlink", "over a symlink", func(g *gitRepo) {
			g.link("a", ".git")
			g.git("add", "a")
			g.module("a/hooks", "../lib.git", "")
		}},
		{"at a symlink", "over a symlink", func(g *gitRepo) {
			g.link("a", ".git")
			g.git("add", "a")
			g.module("a", "../lib.git", "")
		}},
		{"junk", "cannot be read", func(g *gitRepo) { g.write(modulesFile, "[submodule \"\n") }},
		{"huge", "too large", func(g *gitRepo) { g.write(modulesFile, strings.Repeat("#\n", maxModulesFile)) }},
		{"no such commit", "no commit", func(g *gitRepo) { g.module("lib", "../lib.git", strings.Repeat("ab", 20)) }},
		{"no such repository", "not found", func(g *gitRepo) { g.module("lib", "../gone.git", commit) }},
	} {
		t.Run(tc.name, func(t *testing.T) {
			name := fmt.Sprintf("hostile%d.git", i)
			g := newGitRepo(t, root, name)
			tc.fill(g)
			g.commit("hostile")
			r := openCache(t, t.TempDir(), DefaultLimits())
			_, err := r.Fetch(t.Context(), alice, Request{Remote: h.remote(name), Ref: Ref{Branch: "main"}, Submodules: true})
			faults := fault.All(err)
			if len(faults) != 1 || !strings.Contains(err.Error(), tc.text) || faults[0].Ref.File == "" || strings.Contains(err.Error(), "hunter2") {
				t.Errorf("%v", err)
			}
			// Without the field nothing of it is looked at.
			fetchAs(t, r, "app", Request{Remote: h.remote(name)})
		})
	}

	// .gitmodules that is a link to another file.
	g := newGitRepo(t, root, "linked.git")
	link := g.object("blob", []byte("other"))
	g.git("push", "-q", "origin", g.git("commit-tree", mktree(g, "120000 blob "+link+"\t"+modulesFile+"\n"), "-m", "linked")+":refs/heads/main")
	_, err := openCache(t, t.TempDir(), DefaultLimits()).Fetch(t.Context(), alice, Request{Remote: h.remote("linked.git"), Ref: Ref{Branch: "main"}, Submodules: true})
	if err == nil || !strings.Contains(err.Error(), "it is no file") {
		t.Errorf("a linked .gitmodules: %v", err)
	}
}

// TestSubmoduleLoop: repositories that name each other, as often as their history goes back, end.
func TestSubmoduleLoop(t *testing.T) {
	root := t.TempDir()
	a, b := newGitRepo(t, root, "a.git"), newGitRepo(t, root, "b.git")
	allowAnyCommit(a)
	allowAnyCommit(b)
	a.write("a.yaml", "a")
	commit := a.push("a")
	for range 6 {
		b.write(modulesFile, "[submodule \"a\"]\n\tpath = a\n\turl = ../a.git\n")
		b.gitlink("a", commit)
		a.write(modulesFile, "[submodule \"b\"]\n\tpath = b\n\turl = ../b.git\n")
		a.gitlink("b", b.commit("b"))
		commit = a.commit("a")
	}
	h := startHTTP(t, root, false)
	_, err := openCache(t, t.TempDir(), DefaultLimits()).Fetch(t.Context(), alice, Request{Remote: h.remote("a.git"), Ref: Ref{Branch: "main"}, Submodules: true})
	if fault.KindOf(err) != fault.Invalid || !strings.Contains(err.Error(), "lead into a loop") {
		t.Errorf("%v", err)
	}
	// More than may come.
	many := newGitRepo(t, root, "many.git")
	for i := range maxSubmodules + 1 {
		many.module(fmt.Sprintf("m%03d", i), "../b.git", b.git("rev-parse", "HEAD~5"))
	}
	many.commit("many")
	_, err = openCache(t, t.TempDir(), DefaultLimits()).Fetch(t.Context(), alice, Request{Remote: h.remote("many.git"), Ref: Ref{Branch: "main"}, Submodules: true})
	if fault.KindOf(err) != fault.Invalid || !strings.Contains(err.Error(), "too many submodules") {
		t.Errorf("%v", err)
	}
	// A repository may hold an older state of itself.
	self := newGitRepo(t, root, "self.git")
	allowAnyCommit(self)
	self.write("page.html", "old")
	old := self.push("old")
	self.module("pages", "./", old)
	self.commit("self")
	got := fetchAs(t, openCache(t, t.TempDir(), DefaultLimits()), "app", Request{Remote: h.remote("self.git"), Submodules: true})
	if read(t, got.Tree, "pages/page.html") != "old" {
		t.Error("its own older state is missing")
	}
}

func TestResolveModule(t *testing.T) {
	for _, tc := range []struct{ parent, from, want string }{
		{"https://h/org/app.git", "../lib.git", "https://h/org/lib.git"},
		{"https://h/org/app", "./lib", "https://h/org/app/lib"},
		{"https://h/org/app/", "../../x/lib", "https://h/x/lib"},
		{"ssh://git@h:2222/org/app.git", "../lib.git", "ssh://git@h:2222/org/lib.git"},
		{"https://h/org/app.git", "git@other:org/lib.git", "ssh://git@other/org/lib.git"},
		{"https://h/org/app.git", "https://x.y/lib.git", "https://x.y/lib.git"},
	} {
		if got, err := resolveModule(tc.parent, tc.from); err != nil || got != tc.want {
			t.Errorf("%s %s: %q %v", tc.parent, tc.from, got, err)
		}
	}
}

func FuzzModules(f *testing.F) {
	for _, text := range []string{"[submodule \"a\"]\n\tpath = a\n\turl = ../b\n", "[submodule \"a\"]\npath=../x\nurl=-x\n", "[submodule \"a\" \"b\"]", "[include]\npath=/etc/passwd\n", "[submodule \"\x00\"]\npath=a\nurl=file:///x", "[submodule \"a\"]\npath = \"a b\\t\"\nurl = a:b\n"} {
		f.Add(text, "https://example.com/org/app.git")
	}
	f.Fuzz(func(t *testing.T, text, parent string) {
		if _, err := (Remote{URL: parent}).parse(); err != nil {
			return
		}
		known, err := parseModules([]byte(text))
		if err != nil {
			if fault.KindOf(err) != fault.Invalid {
				t.Fatal(err)
			}
			return
		}
		for at, from := range known {
			if !filepath.IsLocal(at) || slices.Contains(strings.Split(at, "/"), "..") || strings.HasPrefix(at, "-") {
				t.Errorf("path %q", at)
			}
			to, err := resolveModule(parent, from)
			if err != nil {
				continue
			}
			u, err := url.Parse(to)
			if err != nil || !slices.Contains([]string{"http", "https", "ssh"}, u.Scheme) || u.Hostname() == "" {
				t.Errorf("%q -> %q", from, to)
			}
			if p, _ := url.Parse(parent); strings.HasPrefix(from, ".") && (p.Host != u.Host || p.Scheme != u.Scheme) {
				t.Errorf("relative %q leaves %q: %q", from, parent, to)
			}
		}
	})
}
