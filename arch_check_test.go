package sealock_test

import (
	"bytes"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"testing/fstest"
)

const module = "sealock.dev/sealock"

// TestArchitecture holds the rules against the tree. Files are parsed here, not by a program that is started: then the
// test cache notices when one changes.
func TestArchitecture(t *testing.T) {
	h, err := readHouse(os.DirFS("."))
	if err != nil {
		t.Fatal(err)
	}
	for _, finding := range h.check() {
		t.Error(finding)
	}
}

// TestArchitectureNotices proves that the rules bite: each file, in an otherwise sound place, gives the finding.
func TestArchitectureNotices(t *testing.T) {
	const doc = "// Package x exists so that there is one place for y, which otherwise would stand in many. It must not do z,\n// whatever happens, and it knows nothing of the rest.\n"
	for _, tc := range []struct{ name, file, text, want string }{
		{"a sibling stage", "render/a.go", doc + "package render\nimport _ \"sealock.dev/sealock/sealing\"", "may not import sealing"},
		{"an upward import", "plaintext/a.go", doc + "package plaintext\nimport _ \"sealock.dev/sealock/fault\"", "may not import fault"},
		{"flux in the engine", "cluster/a.go", doc + "package cluster\nimport _ \"github.com/fluxcd/pkg/apis/meta\"", "front end"},
		{"another program", "source/a.go", doc + "package source\nimport _ \"os/exec\"", "program"},
		{"the testkit in the product", "webhook/a.go", doc + "package webhook\nimport _ \"sealock.dev/sealock/internal/testkit\"", "only tests may"},
		{"disk in a stage", "decrypt/a.go", doc + "package decrypt\nimport _ \"os\"", "no disk"},
		{"network in a template", "template/a.go", doc + "package template\nimport _ \"net/http\"", "network"},
		{"environment", "source/a.go", doc + "package source\nimport \"os\"\nvar _ = os.Getenv(\"HOME\")", "os.Getenv"},
		{"e2e using the main module", "e2e/a/a_test.go", "package a\nimport _ \"sealock.dev/sealock/fault\"", "another Kubernetes"},
		{"testify", "fault/a_test.go", "package fault\nimport _ \"github.com/stretchr/testify/assert\"", "standard library"},
		{"a revealed value", "cluster/a.go", doc + "package cluster\nfunc f(v interface{ Reveal() []byte }) { v.Reveal() }", "reveals"},
		{"a method value", "cluster/a.go", doc + "package cluster\nfunc f(v interface{ Reveal() []byte }) any { return v.Reveal }", "reveals"},
		{"an object on the wire", "cluster/a.go", doc + "package cluster\nfunc f(v interface{ Wire() []byte }) { v.Wire() }", "Wire"},
		{"no package doc", "fault/a.go", "package fault", "no package doc"},
		{"an empty package doc", "fault/a.go", "// Package fault is great.\npackage fault", "why it exists"},
		{"a vague name", "internal/util/a.go", doc + "package util", "says nothing"},
		{"a package without a rule", "stash/a.go", doc + "package stash", "no rule"},
		{"a long file", "fault/a.go", doc + "package fault\n" + strings.Repeat("// line\n", 500), "lines"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			h, err := readHouse(fstest.MapFS{tc.file: {Data: []byte(tc.text)}})
			if err != nil {
				t.Fatal(err)
			}
			findings := h.checkFiles()
			if !slices.ContainsFunc(findings, func(f string) bool { return strings.Contains(f, tc.want) }) {
				t.Errorf("no finding says %q; found %q", tc.want, findings)
			}
		})
	}
	empty, err := readHouse(fstest.MapFS{})
	if err != nil {
		t.Fatal(err)
	}
	if findings := empty.checkRules(); len(findings) < len(importRules) {
		t.Errorf("rules for packages that are gone give %d findings, want one each of %d", len(findings), len(importRules))
	}
}

// house is the parsed tree.
type house struct{ files []file }

type file struct {
	path      string // slash-separated, from the root
	dir       string
	lines     int
	generated bool
	tree      *ast.File
}

func (f file) test() bool { return strings.HasSuffix(f.path, "_test.go") }

func readHouse(root fs.FS) (*house, error) {
	h := &house{}
	err := fs.WalkDir(root, ".", func(name string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if entry.IsDir() {
			base := path.Base(name)
			if name != "." && (strings.HasPrefix(base, ".") || base == "testdata" || base == "bin") {
				return fs.SkipDir
			}
			return nil
		}
		if !strings.HasSuffix(name, ".go") {
			return nil
		}
		text, err := fs.ReadFile(root, name)
		if err != nil {
			return err
		}
		tree, err := parser.ParseFile(token.NewFileSet(), name, text, parser.ParseComments)
		if err != nil {
			return err
		}
		h.files = append(h.files, file{path: name, dir: path.Dir(name), lines: bytes.Count(text, []byte("\n")), generated: ast.IsGenerated(tree), tree: tree})
		return nil
	})
	return h, err
}

func (h *house) check() []string { return append(h.checkFiles(), h.checkRules()...) }

func (h *house) checkFiles() []string {
	var found []string
	for _, f := range h.files {
		found = append(found, checkImports(f)...)
		found = append(found, checkSelectors(f)...)
		if f.lines > maxLines && !f.generated && !allowed(longFiles, f.path) {
			found = append(found, fmt.Sprintf("%s has %d lines, more than %d: split it by reason, or list it in longFiles with one", f.path, f.lines, maxLines))
		}
	}
	return append(found, h.checkPackages()...)
}

func checkImports(f file) []string {
	var found []string
	for _, spec := range f.tree.Imports {
		imported, err := strconv.Unquote(spec.Path.Value)
		if err != nil {
			continue
		}
		for _, b := range importBans {
			if b.bans(f, imported) {
				found = append(found, fmt.Sprintf("%s may not import %s: %s", f.path, imported, b.why))
			}
		}
		ours, isOurs := strings.CutPrefix(imported, module+"/")
		if r, ok := ruleOf(f.dir); ok && isOurs && !f.test() && !matches(r.may, ours) && !below(ours, f.dir) {
			found = append(found, fmt.Sprintf("%s may not import %s: %s", f.path, ours, r.why))
		}
	}
	return found
}

func (b ban) bans(f file, imported string) bool {
	if f.test() && !b.tests {
		return false
	}
	if len(b.in) > 0 && !slices.ContainsFunc(b.in, func(in string) bool { return below(f.dir, in) }) {
		return false
	}
	if slices.ContainsFunc(b.except, func(in string) bool { return below(f.dir, in) }) {
		return false
	}
	return slices.ContainsFunc(b.imports, func(banned string) bool {
		if banned == module+"/" && below(imported, module+"/e2e") {
			return false
		}
		return imported == banned || strings.HasSuffix(banned, "/") && strings.HasPrefix(imported, banned)
	})
}

// checkSelectors finds uses by the name of the method or function alone, which needs no type checking and cannot be
// talked out of by an interface.
func checkSelectors(f file) []string {
	if f.test() || below(f.dir, "e2e") {
		return nil
	}
	var found []string
	knowsObjects := slices.ContainsFunc(f.tree.Imports, func(i *ast.ImportSpec) bool { return i.Path.Value == strconv.Quote(module+"/manifest") })
	ast.Inspect(f.tree, func(n ast.Node) bool {
		// vault has a field named Wire: outside of files that know objects only calls count.
		if call, ok := n.(*ast.CallExpr); ok && !knowsObjects {
			if sel, ok := call.Fun.(*ast.SelectorExpr); ok && sel.Sel.Name == "Wire" && len(call.Args) == 0 && !allowed(wirers, f.path) {
				found = append(found, wires(f))
			}
		}
		sel, ok := n.(*ast.SelectorExpr)
		if !ok {
			return true
		}
		pkg, _ := sel.X.(*ast.Ident)
		switch {
		case sel.Sel.Name == "Reveal" && f.dir != "plaintext" && !allowed(revealers, f.path):
			found = append(found, f.path+" reveals a secret: pass the plaintext.Value on, or list the file in revealers with the reason")
		case sel.Sel.Name == "Wire" && knowsObjects && !allowed(wirers, f.path):
			found = append(found, wires(f))
		case pkg != nil && pkg.Name == "os" && slices.Contains(environment, sel.Sel.Name) && !slices.ContainsFunc(environmentUsers, func(in string) bool { return below(f.dir, in) }):
			found = append(found, f.path+" calls os."+sel.Sel.Name+": the environment must not change what an object does")
		}
		return true
	})
	return found
}

func wires(f file) string {
	return f.path + " calls Wire, which holds secrets in the clear: use Body or View, or list the file in wirers with the reason"
}

// refuses finds a word with which a doc says what the package leaves to others. What it says is for the reviewer.
var refuses = regexp.MustCompile(`(?i)\b(must|never|not|no|only|nothing)\b`)

func (h *house) checkPackages() []string {
	docs := map[string]string{}
	for _, f := range h.files {
		if f.test() && f.dir != "." {
			continue
		}
		docs[f.dir] += f.tree.Doc.Text()
	}
	var found []string
	for dir, doc := range docs {
		name := path.Base(dir)
		if slices.Contains(vagueNames, name) {
			found = append(found, fmt.Sprintf("package %s: the name says nothing; name what it is for", dir))
		}
		if _, ok := ruleOf(dir); !ok && dir != "." && !below(dir, "e2e") {
			found = append(found, fmt.Sprintf("package %s has no rule in importRules: say what it may import and why", dir))
		}
		switch {
		case doc == "":
			found = append(found, fmt.Sprintf("package %s has no package doc: say why it exists and what it must not do", dir))
		case len(doc) < 120 || !refuses.MatchString(doc):
			found = append(found, fmt.Sprintf("package %s: the doc does not say why it exists and what it must not do", dir))
		}
	}
	slices.Sort(found)
	return found
}

// checkRules finds rules and allowances that nothing needs any more: they would hide the next mistake.
func (h *house) checkRules() []string {
	var found []string
	for _, r := range importRules {
		if !slices.ContainsFunc(h.files, func(f file) bool { return below(f.dir, r.path) }) {
			found = append(found, "importRules names "+r.path+", which is gone: remove the rule")
		}
	}
	for list, each := range map[string][]allowance{"revealers": revealers, "wirers": wirers, "longFiles": longFiles} {
		for _, a := range each {
			at := slices.IndexFunc(h.files, func(f file) bool { return f.path == a.file })
			if a.why == "" || at < 0 || !needed(list, h.files[at]) {
				found = append(found, fmt.Sprintf("%s lists %s, which does not need it (any more) or has no reason", list, a.file))
			}
		}
	}
	if len(longFiles) > 5 {
		found = append(found, "longFiles has more than five entries")
	}
	return found
}

func needed(list string, f file) bool {
	if list == "longFiles" {
		return f.lines > maxLines
	}
	method := map[string]string{"revealers": "Reveal", "wirers": "Wire"}[list]
	used := false
	ast.Inspect(f.tree, func(n ast.Node) bool {
		if sel, ok := n.(*ast.SelectorExpr); ok && sel.Sel.Name == method {
			used = true
		}
		return true
	})
	return used
}

// ruleOf returns the most specific rule for a folder.
func ruleOf(dir string) (rule, bool) {
	best, ok := rule{}, false
	for _, r := range importRules {
		if below(dir, r.path) && (!ok || len(r.path) > len(best.path)) {
			best, ok = r, true
		}
	}
	return best, ok
}

// matches reports whether the package is in the list, where a trailing /... is everything below.
func matches(list []string, pkg string) bool {
	return slices.ContainsFunc(list, func(one string) bool {
		if one == "..." || one == pkg {
			return true
		}
		tree, ok := strings.CutSuffix(one, "/...")
		return ok && below(pkg, tree)
	})
}

func below(name, tree string) bool { return name == tree || strings.HasPrefix(name, tree+"/") }

func allowed(list []allowance, name string) bool {
	return slices.ContainsFunc(list, func(a allowance) bool { return a.file == name })
}
