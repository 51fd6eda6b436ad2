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
