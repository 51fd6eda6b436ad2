package stories

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"sealock.dev/sealock/e2e/harness"
)

// badCommits: each is refused as a whole with a reason and a remedy, and what runs keeps running.
func badCommits(tm *team, secret string) map[string]struct {
	files  map[string]string
	reason string
	want   []string
} {
	_, stranger, err := tm.AgeKey(tm.ctx)
	tm.ok(err)
	foreign, err := tm.Sops(tm.ctx, "s.yaml", secretYAML(tm.name, "x", map[string]string{"password": secret}), stranger, "--encrypted-regex", "^(data|stringData)$")
	tm.ok(err)
	good := tm.sops("s.yaml", secretYAML(tm.name, "x", map[string]string{"password": secret}))
	sealed := tm.seal(secretYAML(tm.name, "x", map[string]string{"password": secret}))
	cut := strings.Index(sealed, "password: ") + 200
	type bad = struct {
		files  map[string]string
		reason string
		want   []string
	}
	one := func(text, reason string, want ...string) bad {
		return bad{map[string]string{"bad.yaml": text}, reason, append(want, "bad.yaml")}
	}
	return map[string]bad{
		"wrong key":          one(foreign, "BuildFailed", "no identity", tm.name+"-age"),
		"tampered":           one(strings.Replace(good, "name: x", "name: y", 1), "BuildFailed", "MAC"),
		"truncated sealed":   one(sealed[:cut]+"\n  template:\n    metadata: {name: x, namespace: "+tm.name+"}\n", "BuildFailed", "password"),
		"wrong scope":        one(strings.ReplaceAll(sealed, "name: x", "name: z"), "BuildFailed", "SealedSecret", "password"),
		"missing Vault path": one(tm.vaultSecret("v1", "x", "nothing-here"), "BuildFailed", "nothing-here", "ExternalSecret"),
		"fence":              one(strings.ReplaceAll(tm.vaultSecret("v1", "x", "db"), "tenants/"+tm.name, "tenants/somebody"), "BuildFailed", "somebody"),
		"invalid YAML":       one("apiVersion: v1\nkind: [\n", "BuildFailed", "YAML"),
		"no kind":            one("apiVersion: v1\nmetadata: {name: x}\n", "BuildFailed", "kind"),
		"alias bomb":         one(bomb(), "BuildFailed", "alias"),
		"oversized":          one("apiVersion: v1\nkind: ConfigMap\nmetadata: {name: x}\ndata: {a: \""+strings.Repeat("x", 6<<20)+"\"}\n", "BuildFailed", "limit"),
		"plain Secret":       one(secretYAML(tm.name, "x", map[string]string{"password": secret}), "PolicyDenied", "Secret"),
		"unknown kind":       one("apiVersion: example.com/v1\nkind: Thing\nmetadata: {name: x}\n", "ReconciliationFailed", "Thing"),
		"API refuses":        one("apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: x}\nspec: {replicas: 1}\n", "ReconciliationFailed", "spec.selector"),
		"remote base":        {map[string]string{"kustomization.yaml": "resources: ['https://github.com/example/base?ref=v1', good.yaml]\n"}, "BuildFailed", []string{"kustomization.yaml", "github.com"}},
		"outside":            {map[string]string{"kustomization.yaml": "resources: [../../etc, good.yaml]\n"}, "BuildFailed", []string{"kustomization.yaml"}},
		"missing file":       {map[string]string{"kustomization.yaml": "resources: [missing.yaml, good.yaml]\n"}, "BuildFailed", []string{"missing.yaml"}},
		"twice":              {map[string]string{"bad.yaml": configMap("good", "2")}, "BuildFailed", []string{"also stands in", "good.yaml"}},
	}
}

func bomb() string {
	text := "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: x}\na: &a [x,x,x,x,x,x,x,x,x,x]\n"
	for i := range 9 {
		text += fmt.Sprintf("%c: &%c [%s]\n", 'b'+i, 'b'+i, strings.TrimSuffix(strings.Repeat(fmt.Sprintf("*%c,", 'a'+i), 10), ","))
	}
	return text
}

func TestBadCommits(t *testing.T) {
	t.Parallel()
	tm := newTeam(t, "badinput")
	secret := canary()
	tm.ok(tm.VaultPut(tm.ctx, "tenants/badinput/db", map[string]any{"user": "u", "password": secret}))
	tm.push(map[string]string{"good.yaml": configMap("good", "1")})
	tm.apply(tm.source("  ref: {branch: main}") + tm.sync())
	tm.ok(tm.WaitReady(tm.ctx, patience, "badinput", "app", ""))

	for name, bad := range badCommits(tm, secret) {
		t.Run(name, func(t *testing.T) {
			sub := *tm
			sub.T = t
			bad.files["innocent.yaml"] = configMap("innocent", name)
			message := sub.refused(bad.files, bad.reason)
			for _, want := range bad.want {
				if !strings.Contains(message, want) {
					t.Errorf("the condition does not name %q: %s", want, message)
				}
			}
			if !strings.Contains(message, "; ") {
				t.Errorf("no remedy: %s", message)
			}
			if strings.Contains(message, secret) {
				t.Error("the condition shows the secret")
			}
			if sub.exists("v1", "ConfigMap", "innocent") != nil || sub.exists("v1", "Secret", "x") != nil {
				t.Error("something of the refused commit was written")
			}
			if str(sub.exists("v1", "ConfigMap", "good"), "data", "value") != "1" {
				t.Error("what ran does not run any more")
			}
			gone := map[string]string{}
			for f := range bad.files {
				gone[f] = ""
			}
			sub.push(gone)
		})
	}
	tm.deliver(map[string]string{"good.yaml": configMap("good", "healed")})
}

// TestSymlinksStayInside: a link that leaves the repository is refused, whatever it points at.
func TestT21_SymlinksStayInside(t *testing.T) {
	t.Parallel()
	tm := newTeam(t, "symlink")
	tm.push(map[string]string{"good.yaml": configMap("good", "1")})
	tm.apply(tm.source("  ref: {branch: main}") + tm.sync())
	tm.ok(tm.WaitReady(tm.ctx, patience, "symlink", "app", ""))
	link := filepath.Join(tm.Dir, "clones", "symlink", "evil.yaml")
	for _, target := range []string{"/etc/passwd", "../../../../../../etc/passwd"} {
		_ = os.Remove(link)
		tm.ok(os.Symlink(target, link))
		commit, err := tm.CommitAndPush(tm.ctx, "symlink", "link")
		tm.ok(err)
		tm.fetch()
		if message := tm.refusedAt(commit, "ArtifactFailed"); !strings.Contains(message, "evil.yaml") || strings.Contains(message, "root:") {
			t.Errorf("%s: %s", target, message)
		}
	}
	if tm.exists("v1", "ConfigMap", "good") == nil {
		t.Error("pruned")
	}
}

// TestSourcesThatFail: a repository that is empty, gone or needs other credentials gets a reason, and nothing is pruned.
func TestSourcesThatFail(t *testing.T) {
	t.Parallel()
	tm := newTeam(t, "sources")
	first := tm.push(map[string]string{"good.yaml": configMap("good", "1")})
	tm.apply(tm.source("  ref: {branch: main}") + tm.sync())
	tm.ok(tm.WaitReady(tm.ctx, patience, "sources", "app", first))
	bare := filepath.Join(tm.Env["GIT_ROOT"], "sources.git")

	expect := func(reason string, words ...string) {
		t.Helper()
		tm.fetch()
		var last string
		err := tm.Wait(tm.ctx, patience, "the source to fail with "+reason, func(ctx context.Context) (bool, error) {
			o, err := tm.Get(ctx, srcAPI, "GitRepository", "sources", "app")
			if err != nil {
				return false, err
			}
			status, r, m := harness.Condition(o, "FetchFailed")
			last = r + ": " + m
			return status == "True" && r == reason, nil
		})
		if err != nil {
			t.Fatalf("%v; last: %s", err, last)
		}
		for _, w := range words {
			if !strings.Contains(last, w) {
				t.Errorf("message without %q: %s", w, last)
			}
		}
		if strings.Contains(last, tm.Env["GIT_PASSWORD"]) {
			t.Errorf("the message shows the password: %s", last)
		}
		if tm.exists("v1", "ConfigMap", "good") == nil {
			t.Fatal("pruned")
		}
	}
	recover := func() {
		t.Helper()
		tm.fetch()
		_, err := tm.WaitCondition(tm.ctx, patience, srcAPI, "GitRepository", "sources", "app", "Ready", "True", "")
		tm.ok(err)
	}
	tm.apply(secretYAML("sources", "git-credentials", map[string]string{"username": "git", "password": "wrong-password"}))
	expect("AuthenticationFailed")
	tm.apply(secretYAML("sources", "git-credentials", map[string]string{"username": tm.Env["GIT_USERNAME"], "password": tm.Env["GIT_PASSWORD"]}))
	recover()

	tm.ok(os.Rename(bare, bare+".away"))
	expect("GitOperationFailed")
	tm.ok(os.Rename(bare+".away", bare))
	recover()

	_, err := tm.Git(tm.ctx, "sources", "push", "-q", "origin", "--delete", "main")
	if err == nil {
		expect("EmptyGitRepository")
	} else { // the server keeps its default branch: an empty repository takes the place of this one
		tm.ok(os.Rename(bare, bare+".away"))
		empty := filepath.Join(tm.Dir, "empty")
		tm.ok(os.MkdirAll(empty, 0o700))
		_, err := tm.GitIn(tm.ctx, empty, "init", "-q", "--bare", "-b", "main", bare)
		tm.ok(err)
		expect("EmptyGitRepository")
		tm.ok(os.RemoveAll(bare))
		tm.ok(os.Rename(bare+".away", bare))
	}
	tm.deliver(map[string]string{"good.yaml": configMap("good", "2")})
}

// TestOneBrokenTenantDoesNotHarmAnother: while one tenant's commit cannot be opened, another's is delivered.
func TestOneBrokenTenantDoesNotHarmAnother(t *testing.T) {
	t.Parallel()
	broken, fine := newTeam(t, "broken"), newTeam(t, "fine")
	broken.push(map[string]string{"a.yaml": bomb()})
	broken.apply(broken.source("  ref: {branch: main}") + broken.sync())
	fine.push(map[string]string{"a.yaml": configMap("a", "1")})
	fine.apply(fine.source("  ref: {branch: main}") + fine.sync())
	fine.ok(fine.WaitReady(fine.ctx, patience, "fine", "app", ""))
	_, err := broken.WaitCondition(broken.ctx, patience, ksAPI, "Kustomization", "broken", "app", "Ready", "False", "BuildFailed")
	broken.ok(err)
}

// TestBrokenPolicy: a policy that does not compile says where, and the others stay in force.
func TestBrokenPolicy(t *testing.T) {
	t.Parallel()
	tm := newTeam(t, "brokenpolicy")
	tm.apply(`
apiVersion: sealock.dev/v1alpha1
kind: Policy
metadata: {name: broken}
spec:
  match: {namespaces: [brokenpolicy]}
  rego: |
    package sealock
    deny contains msg if { msg := undefined_function(1) }
---
apiVersion: sealock.dev/v1alpha1
kind: Policy
metadata: {name: wrong-about-itself}
spec:
  match: {namespaces: [brokenpolicy]}
  rego: |
    package sealock
    deny contains "always" if { true }
  tests:
  - name: says nothing of a ConfigMap
    object: {apiVersion: v1, kind: ConfigMap, metadata: {name: x, namespace: brokenpolicy}}
---
apiVersion: sealock.dev/v1alpha1
kind: Policy
metadata: {name: networked}
spec:
  match: {namespaces: [brokenpolicy]}
  rego: |
    package sealock
    deny contains "x" if { http.send({"method": "get", "url": "http://127.0.0.1"}) }
`)
	for name, want := range map[string]string{"broken": "undefined_function", "wrong-about-itself": "says nothing of a ConfigMap", "networked": "http.send"} {
		message, err := tm.WaitCondition(tm.ctx, patience, "sealock.dev/v1alpha1", "Policy", "", name, "Ready", "False", "")
		tm.ok(err)
		if !strings.Contains(message, want) {
			t.Errorf("%s: %s", name, message)
		}
	}
	tm.push(map[string]string{"a.yaml": configMap("a", "1")})
	tm.apply(tm.source("  ref: {branch: main}") + tm.sync())
	tm.ok(tm.WaitReady(tm.ctx, patience, "brokenpolicy", "app", ""))
	if message := tm.refused(map[string]string{"s.yaml": secretYAML("brokenpolicy", "s", map[string]string{"a": "b"})}, "PolicyDenied"); !strings.Contains(message, "s.yaml") {
		t.Errorf("message: %s", message)
	}
}
