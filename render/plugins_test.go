package render

import (
	"testing"

	"github.com/google/go-cmp/cmp"
)

// Generators and transformers that are part of kustomize are served, in files and inline, with the files that they name.
func TestBuiltinPlugins(t *testing.T) {
	files := repo(map[string]string{
		"over/kustomization.yaml": `resources: [a.yaml]
generators: [../plugins/generators.yaml]
transformers:
- transformers.yaml
- |-
  apiVersion: builtin
  kind: PatchTransformer
  metadata: {name: inline}
  target: {kind: ConfigMap, name: a}
  patch: '[{"op": "add", "path": "/data", "value": {"patched": "inline"}}]'
- '{"apiVersion": "builtin", "kind": "PatchStrategicMergeTransformer", "metadata": {"name": "sm"}, "paths": ["sm.yaml"]}'
`,
		"over/a.yaml":  configMap("a"),
		"over/sm.yaml": "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a, annotations: {merged: x}}\n",
		"over/k.txt":   "text",
		"over/e.env":   "A=1\n",
		"over/transformers.yaml": "apiVersion: builtin\nkind: PrefixTransformer\nmetadata: {name: p}\nprefix: p-\nfieldSpecs: [{path: metadata/name}]\n---\n" +
			"apiVersion: builtin\nkind: LabelTransformer\nmetadata: {name: l}\nlabels: {team: red}\nfieldSpecs: [{path: metadata/labels, create: true}]\n",
		"plugins/generators.yaml": "apiVersion: builtin\nkind: ConfigMapGenerator\nmetadata: {name: made}\nname: made\nfiles: [k.txt, n=k.txt]\nenvs: [e.env]\noptions: {disableNameSuffixHash: true}\n",
	})
	set := mustBuild(t, files, Options{Dir: "over"}, nil)
	if d := cmp.Diff([]string{"ConfigMap/p-a (over/a.yaml:1)", "ConfigMap/p-made (over/kustomization.yaml)"}, refs(set)); d != "" {
		t.Error(d)
	}
	want := []any{map[string]any{"patched": "inline"}, map[string]any{"A": "1", "k.txt": "text", "n": "text"}}
	for i, o := range set {
		if d := cmp.Diff(want[i], o.Peek("data")); d != "" || o.Labels()["team"] != "red" {
			t.Errorf("%s: %s %v", o.Ref(), d, o.Labels())
		}
	}
	if set[0].Annotations()["merged"] != "x" {
		t.Error(set[0].Annotations())
	}
}

// Objects carry where they come from while kustomize works, for our messages. What selects by that sees what it would see
// without us.
func TestTheNoteOfFilesIsSeenByNobody(t *testing.T) {
	add := `[{"op": "add", "path": "/metadata/labels", "value": {"seen": "x"}}]`
	patch := "patches: [{target: {annotationSelector: config.kubernetes.io/origin}, patch: '" + add + "'}]\n"
	files := map[string]string{"base/a.yaml": configMap("a"), "base/kustomization.yaml": "resources: [a.yaml]\n", "over/kustomization.yaml": "resources: [../base]\n" + patch, "top/kustomization.yaml": "resources: [../over]\n"}
	for name, c := range map[string]struct {
		opts Options
		seen bool
	}{
		"spec":     {Options{Dir: "base", Patches: []Patch{{Patch: add, Target: &Target{AnnotationSelector: originAnnotation}}}}, false},
		"overlay":  {Options{Dir: "over"}, false},
		"base":     {Options{Dir: "top"}, false},
		"asked":    {Options{Dir: "over", BuildMetadata: []string{"originAnnotations"}}, true},
		"no patch": {Options{Dir: "base"}, false},
	} {
		o := mustBuild(t, repo(files), c.opts, nil)[0]
		if o.Labels()["seen"] != "" != c.seen || (o.Annotations()[originAnnotation] != "") != c.seen {
			t.Errorf("%s: %v %v", name, o.Labels(), o.Annotations())
		}
		if name == "no patch" && o.Source.File != "base/a.yaml" {
			t.Errorf("%s: %v", name, o.Source)
		}
	}
}

// Deprecated fields of which kustomize prints warnings past every logger work as before.
func TestOldFieldsAreMovedInTheirOrder(t *testing.T) {
	set := func(v string) string {
		return "apiVersion: v1\n  kind: ConfigMap\n  metadata: {name: a}\n  data: {k: " + v + "}\n"
	}
	files := repo(map[string]string{
		"kustomization.yaml": "resources: [a.yaml, b.yaml]\nsortOptions: {order: fifo}\npatches: [{path: last.yaml}]\npatchesStrategicMerge:\n- first.yaml\n- |-\n  " + set("second") +
			"- |-\n  apiVersion: v1\n  kind: ConfigMap\n  metadata: {name: b}\n  $patch: delete\n",
		"a.yaml": configMap("a"), "b.yaml": configMap("b"),
		"first.yaml": "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a}\ndata: {k: first, one: x}\n",
		"last.yaml":  "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a}\ndata: {k: last, two: y}\n",
	})
	got := mustBuild(t, files, Options{}, nil)
	if d := cmp.Diff(map[string]any{"k": "last", "one": "x", "two": "y"}, got[0].Peek("data")); d != "" || len(got) != 1 {
		t.Error(d, refs(got))
	}
}
