package render

import (
	"fmt"
	"sync"
	"testing"
	"testing/fstest"

	"sealock.dev/sealock/fault"
)

// rendered is all that a build yields, as text.
func rendered(files fstest.MapFS, o Options) string {
	set, digest, err := build(files, o, newTokens())
	out := fmt.Sprint(digest, err)
	for _, each := range set {
		wire, err := each.Wire()
		out += fmt.Sprint("\n", each.Ref(), string(wire), err)
	}
	return out
}

// many is a tree that uses maps wherever they could give away their order.
func many() fstest.MapFS {
	files := map[string]string{
		"base/kustomization.yaml": "resources: [foo.yaml, app.yaml]\nconfigMapGenerator: [{name: g, literals: [a=1, b=2, c=3]}]\nlabels: [{pairs: {x: y, z: w}}]\n",
		"base/foo.yaml":           "apiVersion: example.com/v1\nkind: Foo\nmetadata: {name: foo}\nspec: {list: [{name: a, v: 1}], host: 'x.${domain:=d}'}\n",
		"base/app.yaml":           deployment,
		"kustomization.yaml":      "resources: [base]\nnamePrefix: p-\npatches: [{path: patch.yaml}]\ntransformers: [t.yaml]\n",
		"patch.yaml":              "apiVersion: example.com/v1\nkind: Foo\nmetadata: {name: foo}\nspec: {list: [{name: b}]}\n",
		"t.yaml":                  "apiVersion: builtin\nkind: AnnotationsTransformer\nmetadata: {name: t}\nannotations: {a: b, c: d, e: f}\nfieldSpecs: [{path: metadata/annotations, create: true}]\n",
	}
	for i := range 20 {
		files[fmt.Sprintf("plain/%d.yaml", i)] = configMap(fmt.Sprintf("c%d", i)) + "data: {a: '${domain}', b: '${other:-x}'}\n"
	}
	return repo(files)
}

// One tree is rendered to the same bytes every time, and by several at once.
func TestTheSameTreeIsTheSameBytes(t *testing.T) {
	for _, o := range []Options{
		{Substitute: map[string]string{"domain": "example.com", "unused": "x"}, Labels: map[string]string{"l": "m", "n": "o"}},
		{Dir: "plain", Substitute: map[string]string{"domain": "example.com"}},
		{Dir: "plain", NamePrefix: "q-", Substitute: map[string]string{"domain": "example.com"}},
	} {
		want := rendered(many(), o)
		for range 20 {
			if got := rendered(many(), o); got != want {
				t.Fatalf("not the same:\n%s\n%s", want, got)
			}
		}
		var wg sync.WaitGroup
		for range 8 {
			wg.Go(func() {
				if got := rendered(many(), o); got != want {
					t.Errorf("not the same at once:\n%s\n%s", want, got)
				}
			})
		}
		wg.Wait()
	}
}

// TestHazard_SchemaOfAnotherBuild: kyaml keeps one OpenAPI schema for the process. One that came with a repository merged
// lists in everybody's builds, silently (fluxcd/pkg#1237); here none gets in, by whatever way it comes.
func TestHazard_SchemaOfAnotherBuild(t *testing.T) {
	schema := `{"definitions": {"v1.Foo": {"type": "object", "x-kubernetes-group-version-kind": [{"group": "example.com", "kind": "Foo", "version": "v1"}],
  "properties": {"spec": {"type": "object", "properties": {"list": {"type": "array", "items": {"type": "object"}, "x-kubernetes-patch-merge-key": "name", "x-kubernetes-patch-strategy": "merge"}}}}}}}`
	hostile := repo(map[string]string{
		"root/kustomization.yaml": "resources: [../base/foo.yaml]\nopenapi: {path: s.json}\n", "root/s.json": schema,
		"over/kustomization.yaml":      "resources: [../root]\n",
		"version/kustomization.yaml":   "resources: [../base/foo.yaml]\nopenapi: {version: v1.20.4}\n",
		"part/kustomization.yaml":      "resources: [../base/foo.yaml]\ncomponents: [../component]\n",
		"component/kustomization.yaml": "apiVersion: kustomize.config.k8s.io/v1alpha1\nkind: Component\ncrds: [../root/s.json]\n",
		"base/foo.yaml":                "apiVersion: example.com/v1\nkind: Foo\nmetadata: {name: foo}\n",
	})
	o := Options{Substitute: map[string]string{"domain": "example.com"}}
	want := rendered(many(), o)
	var wg sync.WaitGroup
	for _, dir := range []string{"root", "over", "version", "part"} {
		wg.Go(func() {
			for range 5 {
				if _, _, err := build(hostile, Options{Dir: dir}, nil); fault.KindOf(err) != fault.Denied {
					t.Errorf("%s: %v", dir, err)
				}
			}
		})
		wg.Go(func() {
			for range 5 {
				if got := rendered(many(), o); got != want {
					t.Errorf("beside %s:\n%s\n%s", dir, want, got)
				}
			}
		})
	}
	wg.Wait()
}
