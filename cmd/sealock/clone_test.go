package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// TestDiffOfACommit takes branches, commits and Flux's revisions of a clone, links included, whatever is checked out.
func TestDiffOfACommit(t *testing.T) {
	p := newPeople(t)
	p.kustomization("app")
	configMap := func(name, value string) string {
		return "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: " + name + "}\ndata: {v: " + value + "}\n"
	}
	dir := folder(t, map[string]string{"deploy/kustomization.yaml": "resources: [a.yaml, link.yaml]\n", "deploy/a.yaml": configMap("a", "one"), "base/b.yaml": configMap("b", "one")})
	if err := os.Symlink("../base/b.yaml", filepath.Join(dir, "deploy", "link.yaml")); err != nil {
		t.Fatal(err)
	}
	git := func(args ...string) string {
		t.Helper()
		cmd := exec.CommandContext(t.Context(), "git", append([]string{"-C", dir, "-c", "user.name=x", "-c", "user.email=x@example.com", "-c", "commit.gpgsign=false"}, args...)...)
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("git %s: %v\n%s", args[0], err, out)
		}
		return strings.TrimSpace(string(out))
	}
	git("init", "-q", "-b", "main")
	git("add", "-A")
	git("commit", "-q", "-m", "one")
	commit := git("rev-parse", "HEAD")
	git("tag", "-a", "-m", "annotated", "v1")
	git("gc", "-q")
	if err := os.WriteFile(filepath.Join(dir, "deploy", "a.yaml"), []byte(configMap("a", "two")), 0o600); err != nil {
		t.Fatal(err)
	}
	p.apply(configMap("a", "one")+"---\n"+configMap("b", "one"), applyManager, "app")
	t.Chdir(dir)
	for _, revision := range []string{"main", "v1", commit, commit[:7], "main@sha1:" + commit, "HEAD"} {
		out := p.ok("diff", "ks", "app", "--revision", revision)
		if !strings.Contains(out, "with deploy at "+revision+": 0 created, 0 changed, 0 pruned, 0 skipped, 2 unchanged") {
			t.Errorf("%s: %s", revision, out)
		}
	}
	if code, out, _ := p.sealock("diff", "ks", "app"); code != 1 || !strings.Contains(out, "(deploy/a.yaml:1)") || !strings.Contains(out, "+ data.v: two") {
		t.Errorf("what is checked out: exit code %d\n%s", code, out)
	}
	// A linked worktree keeps its history elsewhere.
	linked := filepath.Join(t.TempDir(), "linked")
	git("worktree", "add", "-q", linked, "v1")
	t.Chdir(linked)
	if out := p.ok("diff", "ks", "app", "--revision", "main"); !strings.Contains(out, "2 unchanged") {
		t.Errorf("in a linked worktree: %s", out)
	}
	if code, _, errs := p.sealock("diff", "ks", "app", "--revision", "nowhere"); code != 4 || !strings.Contains(errs, "--revision") {
		t.Errorf("a revision that is not there: exit code %d: %s", code, errs)
	}
}
