package render

import (
	"encoding/json"
	"slices"
	"strings"

	"sigs.k8s.io/kustomize/api/provider"
	"sigs.k8s.io/kustomize/api/resmap"
	"sigs.k8s.io/kustomize/api/types"
	"sigs.k8s.io/yaml"

	"sealock.dev/sealock/manifest"
)

// The generators and transformers that are part of kustomize, less the one that starts helm. None of them has a program,
// a network or a file beyond those that plugin rewrites.
var (
	builtinGenerators   = []string{"ConfigMapGenerator", "SecretGenerator", "IAMPolicyGenerator"} //nolint:gochecknoglobals // a constant
	builtinTransformers = []string{                                                               //nolint:gochecknoglobals // a constant
		"AnnotationsTransformer", "HashTransformer", "ImageTagTransformer", "LabelTransformer", "NamespaceTransformer", "PatchJson6902Transformer",
		"PatchStrategicMergeTransformer", "PatchTransformer", "PrefixSuffixTransformer", "PrefixTransformer", "SuffixTransformer",
		"ReplacementTransformer", "ReplicaCountTransformer", "ValueAddTransformer",
	}
)

// pathKeys are those under which a plugin names files. kustomize reads keys whatever their case.
var pathKeys = []string{"path", "paths", "files", "envs", "env", "targetFilePath", "apiVersion", "kind", "replacements", "literals", "patch", "jsonOp"} //nolint:gochecknoglobals // a constant

// plugins returns the entries of generators, transformers or validators with the files that they name put in their
// place, checked: kustomize gets no path from there, and nothing that could be taken for one.
func (c *checker) plugins(field string, entries, kinds []string) []string {
	for i, entry := range entries {
		name, data := c.name, []byte(entry)
		if !strings.Contains(entry, "\n") && !strings.HasPrefix(entry, "{") {
			if name, data = c.pluginFile(field, entry); c.err != nil {
				return nil
			}
		}
		docs, err := manifest.Decode(name, data, manifest.DefaultLimits)
		if c.keep(err); err != nil {
			return nil
		}
		var texts []string
		for _, d := range docs {
			c.plugin(field, name, d, kinds)
			text, err := yaml.Marshal(d.Body)
			if err != nil {
				c.keep(invalid(name, "the configuration is not JSON").At(field).Fix("use values that JSON knows"))
			}
			texts = append(texts, string(text))
		}
		entries[i] = strings.Join(texts, "---\n")
		if c.err == nil && !isInline(entries[i]) {
			c.keep(invalid(name, "not a configuration of a builtin plugin").At(field).Fix("correct it"))
		}
	}
	return entries
}

// pluginFile reads the file of an entry.
func (c *checker) pluginFile(field, entry string) (string, []byte) {
	rel := c.path(field, entry, asOther)
	if c.err != nil {
		return "", nil
	}
	name, _ := inside(mount + "/" + c.dir + "/" + rel)
	data, err := c.f.tree.read(name)
	if err != nil {
		err = c.f.tree.wrap(name, err)
	}
	c.keep(err)
	return name, data
}

// isInline reports whether kustomize takes the text for a configuration. What it does not, it would take for a URL.
func isInline(text string) bool {
	m, err := resmap.NewFactory(provider.NewDefaultDepProvider().GetResourceFactory()).NewResMapFromBytes([]byte(text))
	return err == nil && m.Size() > 0
}

// plugin checks one configuration and rewrites its paths, which are relative to the kustomization that lists it.
func (c *checker) plugin(field, name string, d manifest.Document, kinds []string) {
	kind := text(d.Body["kind"])
	switch {
	case text(d.Body["apiVersion"]) != "builtin" || !slices.Contains(kinds, kind):
		c.keep(denied(name, "the plugin is not served: only builtin ones that start no program are").At(field).Fix("use one of %s", strings.Join(kinds, ", ")))
	case !exactKeys(d.Body):
		c.keep(denied(name, "a field differs from one of the plugin in upper and lower case only").At(field).Fix("spell it as the plugin does"))
	}
	if c.err != nil {
		return
	}
	field += "." + kind
	for _, key := range []string{"path", "targetFilePath"} {
		if p := text(d.Body[key]); p != "" {
			d.Body[key] = c.path(field, p, asOther)
		}
	}
	for _, key := range []string{"patch", "jsonOp", "patches"} {
		c.keep(bounded(name, []byte(text(d.Body[key]))))
	}
	paths, _ := d.Body["paths"].([]any)
	for i := range paths {
		if p := text(paths[i]); strings.Contains(p, "\n") {
			c.keep(bounded(name, []byte(p)))
		} else {
			paths[i] = c.path(field, p, asOther)
		}
	}
	replacements, _ := d.Body["replacements"].([]any)
	for _, each := range replacements {
		if r, _ := each.(map[string]any); text(r["path"]) != "" {
			r["path"] = c.path(field, text(r["path"]), asOther)
		}
	}
	c.generator(d.Body, kind)
}

// generator rewrites the sources of a generator as those of the fields of a kustomization.
func (c *checker) generator(body map[string]any, kind string) {
	field, known := map[string]string{"ConfigMapGenerator": "configMapGenerator", "SecretGenerator": "secretGenerator"}[kind]
	if !known {
		return
	}
	var s types.KvPairSources
	raw, err := json.Marshal(body)
	if err == nil {
		err = json.Unmarshal(raw, &s)
	}
	if err != nil {
		c.keep(invalid(c.name, "not a configuration of a generator").At(field).Fix("write lists of texts under files, envs and literals"))
		return
	}
	c.sources(field, &s)
	for key, list := range map[string][]string{"files": s.FileSources, "envs": s.EnvSources} {
		if list != nil {
			body[key] = list
		}
	}
	if s.EnvSource != "" {
		body["env"] = s.EnvSource
	}
}

// exactKeys reports whether no key can be taken for one of pathKeys that it is not.
func exactKeys(v any) bool {
	switch node := v.(type) {
	case map[string]any:
		for k, child := range node {
			if slices.ContainsFunc(pathKeys, func(p string) bool { return k != p && strings.EqualFold(k, p) }) || !exactKeys(child) {
				return false
			}
		}
	case []any:
		return !slices.ContainsFunc(node, func(each any) bool { return !exactKeys(each) })
	}
	return true
}
