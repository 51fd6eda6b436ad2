package render

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/google/go-cmp/cmp"

	"sealock.dev/sealock/fault"
)

// No URL form may reach kustomize, which would start git or fetch it.
func TestT21_RemoteBasesAreRefused(t *testing.T) {
	t.Setenv("PATH", t.TempDir()) // had git been started, that would be another error
	fields := map[string]string{
		"resources": "resources: [%q]\n", "bases": "bases: [%q]\n", "components": "components: [%q]\n",
		"patches": "patches: [{path: %q}]\n", "patchesStrategicMerge": "patchesStrategicMerge: [%q]\n", "patchesJson6902": "patchesJson6902: [{path: %q, target: {version: v1, kind: X, name: x}}]\n",
		"configurations": "configurations: [%q]\n", "replacements": "replacements: [{path: %q}]\n",
		"files": "configMapGenerator: [{name: x, files: [%q]}]\n", "envs": "configMapGenerator: [{name: x, envs: [%q]}]\n", "secret files": "secretGenerator: [{name: x, files: [\"k=%s\"]}]\n",
	}
	urls := []string{
		"https://github.com/org/repo", "http://127.0.0.1:1/x.yaml", "git::https://example.com/org/repo", "github.com/org/repo//path?ref=v1", "GitHub.com/org/repo",
		"github.com:org/repo", "git@github.com:org/repo.git", "ssh://git@example.com/org/repo", "user@example.com:org/repo", "file:///etc", "git::github.com/org/repo", "HTTPS://example.com/x",
	}
	for field, form := range fields {
		for _, url := range urls {
			if field == "files" && strings.Contains(url, "=") {
				url = "k=" + url
			}
			files := repo(map[string]string{"kustomization.yaml": fmt.Sprintf(form, url)})
			for dir, fsys := range map[string]fstest.MapFS{".": files, "over": repo(map[string]string{"over/kustomization.yaml": "resources: [../x]\n", "x/kustomization.yaml": fmt.Sprintf(form, url)})} {
				_, _, err := build(fsys, Options{Dir: dir}, nil)
				if fault.KindOf(err) != fault.Denied || !strings.Contains(err.Error(), "outside of the repository") {
					t.Errorf("%s %s: got %v", field, url, err)
				}
			}
		}
	}
	for _, url := range urls {
		_, _, err := build(repo(map[string]string{"a.yaml": configMap("a")}), Options{Components: []string{url}, IgnoreMissingComponents: true}, nil)
		if fault.KindOf(err) != fault.Denied {
			t.Errorf("component %s: got %v", url, err)
		}
	}
}

// A folder that is called like a host is a folder.
func TestT21_AFolderCalledLikeAHostIsNotFetched(t *testing.T) {
	t.Setenv("PATH", t.TempDir())
	files := repo(map[string]string{
		"kustomization.yaml":                     "resources: [github.com/org/repo, \"user@host:x/y\"]\n",
		"github.com/org/repo/kustomization.yaml": "resources: [a.yaml]\n",
		"github.com/org/repo/a.yaml":             configMap("a"),
		"user@host:x/y/kustomization.yaml":       "resources: [b.yaml]\n",
		"user@host:x/y/b.yaml":                   configMap("b"),
	})
	if d := cmp.Diff([]string{"ConfigMap/a (github.com/org/repo/a.yaml:1)", "ConfigMap/b (user@host:x/y/b.yaml:1)"}, refs(mustBuild(t, files, Options{}, nil))); d != "" {
		t.Error(d)
	}
}

func TestT21_NothingLeavesTheRepository(t *testing.T) {
	for name, text := range map[string]string{
		"parent": "resources: [../../x]\n", "absolute": "resources: [/etc/passwd]\n", "file": "configMapGenerator: [{name: x, files: [\"../../etc/passwd\"]}]\n",
		"env": "secretGenerator: [{name: x, envs: [/proc/self/environ]}]\n", "patch": "patches: [{path: ../../../p.yaml}]\n",
	} {
		_, _, err := build(repo(map[string]string{"app/kustomization.yaml": text}), Options{Dir: "app"}, nil)
		if fault.KindOf(err) != fault.Denied {
			t.Errorf("%s: got %v", name, err)
		}
	}
}

func TestT21_ProgramsAndSharedSchemasAreRefused(t *testing.T) {
	t.Setenv("PATH", t.TempDir())
	inline := func(kind, more string) string {
		return "apiVersion: builtin\nkind: " + kind + "\nmetadata: {name: x}\n" + more
	}
	for name, c := range map[string]struct{ kustomization, file string }{
		"generators of a program":   {"generators: [g.yaml]\n", "apiVersion: v1\nkind: Gen\nmetadata: {name: x, annotations: {config.kubernetes.io/function: \"exec: {path: ./x}\"}}\n"},
		"generators that run helm":  {"generators: [g.yaml]\n", inline("HelmChartInflationGenerator", "releaseName: x\nrepo: https://example.com\n")},
		"transformers of a program": {"transformers: [g.yaml]\n", "apiVersion: someteam.example.com/v1\nkind: PrefixTransformer\nmetadata: {name: x}\n"},
		"transformers of nothing":   {"transformers: [g.yaml]\n", "x: y\n"},
		"transformers no name":      {"transformers: [g.yaml]\n", "apiVersion: builtin\nkind: PrefixTransformer\nprefix: x\n"},
		"transformers of a URL":     {"transformers: [\"https://example.com/x.yaml\"]\n", ""},
		"transformers text":         {"transformers: [\"https://example.com/x.yaml\\n\"]\n", ""},
		"transformers of a folder":  {"transformers: [d]\n", ""},
		"transformers patch":        {"transformers: [g.yaml]\n", inline("PatchTransformer", "path: https://example.com/x.yaml\n")},
		"transformers Patch":        {"transformers: [g.yaml]\n", inline("PatchTransformer", "Path: https://example.com/x.yaml\n")},
		"transformers paths":        {"transformers: [g.yaml]\n", inline("PatchStrategicMergeTransformer", "paths: [https://example.com/x.yaml]\n")},
		"transformers 6902":         {"transformers: [g.yaml]\n", inline("PatchJson6902Transformer", "path: ../../etc/passwd\n")},
		"transformers replacement":  {"transformers: [g.yaml]\n", inline("ReplacementTransformer", "replacements: [{path: https://example.com/x}]\n")},
		"transformers target":       {"transformers: [g.yaml]\n", inline("ValueAddTransformer", "targetFilePath: /etc/passwd\n")},
		"generators files":          {"generators: [g.yaml]\n", inline("ConfigMapGenerator", "files: [\"k=/etc/passwd\"]\n")},
		"generators env":            {"generators: [g.yaml]\n", inline("SecretGenerator", "env: https://example.com/env\n")},
		"generators envs":           {"generators: [g.yaml]\n", inline("SecretGenerator", "ENVS: [/proc/self/environ]\n")},
		"validators of a program":   {"validators: [\"apiVersion: v1\\nkind: X\\nmetadata: {name: x}\"]\n", ""},
		"helmCharts":                {"helmCharts: [{name: x, repo: \"https://example.com\"}]\n", ""},
		"openapi":                   {"openapi: {path: g.yaml}\n", ""},
		"crds":                      {"crds: [g.yaml]\n", ""},
	} {
		files := repo(map[string]string{"kustomization.yaml": c.kustomization + "resources: [a.yaml]\n", "a.yaml": configMap("a"), "g.yaml": c.file, "d/kustomization.yaml": "resources: []\n"})
		_, _, err := build(files, Options{}, nil)
		if kind := fault.KindOf(err); kind != fault.Denied && kind != fault.Invalid || strings.Contains(err.Error(), "kustomize:") {
			t.Errorf("%s: got %v", name, err)
		}
	}
}

func TestT21_SymbolicLinks(t *testing.T) {
	outside, dir := t.TempDir(), t.TempDir()
	write := func(name, data string) {
		if err := os.WriteFile(name, []byte(data), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write(filepath.Join(outside, "canary.yaml"), configMap("canary"))
	write(filepath.Join(outside, "kustomization.yaml"), "resources: [canary.yaml]\n")
	for _, c := range []struct {
		name, link, target, kustomization string
		denied                            bool
	}{
		{"file", "a.yaml", filepath.Join(outside, "canary.yaml"), "", true},
		{"relative file", "a.yaml", "../../../../../../../../etc/hostname", "", true},
		{"resource", "a.yaml", filepath.Join(outside, "canary.yaml"), "resources: [a.yaml]\n", true},
		{"base", "base", outside, "resources: [base]\n", true},
		{"generator", "secret", "/proc/self/environ", "configMapGenerator: [{name: x, files: [secret]}]\n", true},
		{"loop", "a.yaml", "a.yaml", "", true},
		{"inside", "a.yaml", "real/b.yaml", "", false},
	} {
		t.Run(c.name, func(t *testing.T) {
			root := filepath.Join(dir, c.name)
			if err := os.MkdirAll(filepath.Join(root, "real"), 0o700); err != nil {
				t.Fatal(err)
			}
			write(filepath.Join(root, "real", "b.yaml"), configMap("b"))
			if err := os.Symlink(c.target, filepath.Join(root, c.link)); err != nil {
				t.Fatal(err)
			}
			if c.kustomization != "" {
				write(filepath.Join(root, "kustomization.yaml"), c.kustomization)
			}
			_, _, err := build(os.DirFS(root), Options{}, nil)
			if (err != nil) != c.denied || strings.Contains(fmt.Sprint(err), "canary") || c.denied && !strings.Contains(fmt.Sprint(err), c.link) && !strings.Contains(fmt.Sprint(err), "secret") {
				t.Errorf("got %v", err)
			}
		})
	}
}

func TestBasesInBasesAreBounded(t *testing.T) {
	files := map[string]string{"leaf/kustomization.yaml": "configMapGenerator: [{name: x, options: {disableNameSuffixHash: true}, behavior: create}]\n"}
	next := "leaf"
	for i := range 24 {
		name := fmt.Sprintf("l%d", i)
		files[name+"/kustomization.yaml"] = "resources: [a, b]\n"
		for _, ab := range []string{"a", "b"} {
			files[name+"/"+ab+"/kustomization.yaml"] = fmt.Sprintf("namePrefix: %s\nresources: [../../%s]\n", ab, next)
		}
		next = name
	}
	_, _, err := build(repo(files), Options{Dir: next}, nil)
	if fault.KindOf(err) != fault.Invalid {
		t.Errorf("got %v", err)
	}
}

func TestErrorsOfKustomizeShowNoSecretOfGit(t *testing.T) {
	for name, files := range map[string]map[string]string{
		"literal":   {"kustomization.yaml": "secretGenerator: [{name: x, literals: [\"canary-literal\"]}]\n"},
		"duplicate": {"kustomization.yaml": "secretGenerator: [{name: x, literals: [\"a=canary\", \"a=canary\"]}]\n"},
		"patch":     {"kustomization.yaml": "resources: [a.yaml]\npatches: [{patch: \"canary: [\"}]\n", "a.yaml": configMap("a")},
		"env":       {"kustomization.yaml": "secretGenerator: [{name: x, envs: [e]}]\n", "e": "A=canary\nA=canary\n"},
		"resource":  {"kustomization.yaml": "resources: [a.yaml]\nnamespace: [canary]\n", "a.yaml": configMap("a")},
	} {
		_, _, err := build(repo(files), Options{}, nil)
		if err == nil || strings.Contains(err.Error(), "canary") {
			t.Errorf("%s: got %v", name, err)
		}
	}
}
