package render

import (
	"encoding/base64"
	"errors"
	"regexp"
	"strings"

	"sigs.k8s.io/kustomize/api/hasher"
	kyaml "sigs.k8s.io/kustomize/kyaml/yaml"

	"sealock.dev/sealock/fault"
	"sealock.dev/sealock/plaintext"
)

// suffixShape is what kustomize puts behind the name of what it generates.
var suffixShape = regexp.MustCompile(`-[bcdfghkmt2456789]{10}$`)

// errHash stands for whatever made a hash impossible: the words of a library could quote a value.
var errHash = errors.New("no hash")

// kustomizeSuffixes gives generated Secrets and ConfigMaps the names that kustomize makes of the plaintext, and changes
// what refers to them. kustomize has hashed tokens: a name that ends in the hash of its own object, tokens included, is
// a generated one, and so no other text of the set can hold that name by chance.
func kustomizeSuffixes(items []item, tokens *plaintext.Tokens) error {
	var pairs []string
	seen := map[string]bool{}
	for _, it := range items {
		old, stem, ok := generated(it.body)
		if !ok || seen[old] {
			continue
		}
		suffix, secret, err := hashOfPlaintext(it.body, stem, tokens)
		if err != nil {
			return fault.New(fault.StageRender, fault.Invalid, it.ref(), "kustomize's suffix cannot be computed").
				Fix("remove the annotation sealock.dev/generator-suffix from the Kustomization")
		}
		if secret {
			seen[old] = true
			pairs = append(pairs, old, stem+"-"+suffix)
		}
	}
	if len(pairs) == 0 {
		return nil
	}
	names := strings.NewReplacer(pairs...)
	for _, it := range items {
		rename(it.body, names)
	}
	return nil
}

// generated returns the name of a Secret or ConfigMap that kustomize gave a suffix, and the name before it.
func generated(body map[string]any) (name, stem string, ok bool) {
	kind := text(body["kind"])
	if body["apiVersion"] != "v1" || kind != "Secret" && kind != "ConfigMap" {
		return "", "", false
	}
	meta, _ := body["metadata"].(map[string]any)
	name = text(meta["name"])
	at := suffixShape.FindStringIndex(name)
	if at == nil {
		return "", "", false
	}
	stem = name[:at[0]]
	node, err := hashable(body, stem, func(string) bool { return true })
	if err != nil {
		return "", "", false
	}
	hash, err := (&hasher.Hasher{}).Hash(node)
	return name, stem, err == nil && name == stem+"-"+hash
}

// hashable returns the fields that a hash is made of, with those keys of data that keep says.
func hashable(body map[string]any, stem string, keep func(key string) bool) (*kyaml.RNode, error) {
	out := map[string]any{"apiVersion": "v1", "kind": body["kind"], "metadata": map[string]any{"name": stem}}
	for _, field := range []string{"type", "data", "binaryData", "stringData"} {
		m, isMap := body[field].(map[string]any)
		if !isMap {
			if body[field] != nil {
				out[field] = body[field]
			}
			continue
		}
		left := map[string]any{}
		for k, v := range m {
			if field != "data" || keep(k) {
				left[k] = v
			}
		}
		out[field] = left
	}
	return kyaml.FromMap(out)
}

// hashOfPlaintext returns the hash that kustomize makes of the object with tokens resolved, and whether it holds any.
// The values are seen inside of Derive only; what is revealed is ten characters of their digest.
func hashOfPlaintext(body map[string]any, stem string, tokens *plaintext.Tokens) (suffix string, secret bool, err error) {
	data, _ := body["data"].(map[string]any)
	var keys []string
	var whole []bool // the value is the text of the field, not inside its base64
	var values []plaintext.Value
	for key, v := range data {
		raw := text(v)
		if value, _, ok := tokens.Resolve(raw); ok {
			keys, whole, values = append(keys, key), append(whole, true), append(values, value)
			continue
		}
		inner, err := base64.StdEncoding.DecodeString(strings.ReplaceAll(raw, "\n", ""))
		if body["kind"] != "Secret" || err != nil {
			continue
		}
		if value, _, ok := tokens.Resolve(string(inner)); ok {
			keys, whole, values = append(keys, key), append(whole, false), append(values, value)
		}
	}
	if len(keys) == 0 {
		return "", false, nil
	}
	hash, err := plaintext.Derive(func(parts ...[]byte) ([]byte, error) {
		opened := map[string]int{}
		for i, key := range keys {
			opened[key] = i
		}
		node, err := hashable(body, stem, func(key string) bool { _, is := opened[key]; return !is })
		if err != nil {
			return nil, errHash
		}
		for key, i := range opened {
			if err := place(node, key, string(parts[i]), whole[i]); err != nil {
				return nil, errHash
			}
		}
		sum, err := (&hasher.Hasher{}).Hash(node)
		if err != nil {
			return nil, errHash
		}
		return []byte(sum), nil
	}, values...)
	if err != nil {
		return "", true, err
	}
	return string(hash.Reveal()), true, nil
}

// place sets one opened value as kustomize's generators would.
func place(node *kyaml.RNode, key, value string, whole bool) error {
	one := map[string]string{key: value}
	switch {
	case !whole:
		return node.LoadMapIntoSecretData(one)
	case node.GetKind() == "Secret": // the text of the field was encrypted, base64 and all
		return node.PipeE(kyaml.LookupCreate(kyaml.MappingNode, "data"), kyaml.SetField(key, kyaml.NewStringRNode(value)))
	}
	return node.LoadMapIntoConfigMapData(one)
}

// rename replaces names in all text below v: kustomize has put them where names are referred to, and where a variable
// stands for one.
func rename(v any, names *strings.Replacer) {
	switch node := v.(type) {
	case map[string]any:
		for k, each := range node {
			if s, ok := each.(string); ok {
				node[k] = names.Replace(s)
				continue
			}
			rename(each, names)
		}
	case []any:
		for i, each := range node {
			if s, ok := each.(string); ok {
				node[i] = names.Replace(s)
				continue
			}
			rename(each, names)
		}
	}
}
