package template

import (
	"bytes"
	"crypto/sha1" //nolint:gosec // templates of the field call it; not a signature of ours
	"crypto/sha256"
	"crypto/sha512"
	"encoding/base32"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"io"
	"strconv"
	"strings"

	"sigs.k8s.io/yaml"

	"sealock.dev/sealock/manifest"
)

func b64enc(_ *meter, a []any) (any, error) {
	return base64.StdEncoding.EncodeToString([]byte(str(a[0]))), nil
}

func b32enc(_ *meter, a []any) (any, error) {
	return base32.StdEncoding.EncodeToString([]byte(str(a[0]))), nil
}
func hexenc(_ *meter, a []any) (any, error) { return hex.EncodeToString([]byte(str(a[0]))), nil }

func b64dec(_ *meter, a []any) (any, error) {
	out, err := base64.StdEncoding.DecodeString(str(a[0]))
	if err != nil {
		return nil, refuse("the text is not base64")
	}
	return string(out), nil
}

func b32dec(_ *meter, a []any) (any, error) {
	out, err := base32.StdEncoding.DecodeString(str(a[0]))
	if err != nil {
		return nil, refuse("the text is not base32")
	}
	return string(out), nil
}

func hexdec(_ *meter, a []any) (any, error) {
	out, err := hex.DecodeString(str(a[0]))
	if err != nil {
		return nil, refuse("the text is not hexadecimal")
	}
	return string(out), nil
}

func sha1sum(_ *meter, a []any) (any, error) {
	sum := sha1.Sum([]byte(str(a[0]))) //nolint:gosec // as above
	return hex.EncodeToString(sum[:]), nil
}

func sha256sum(_ *meter, a []any) (any, error) {
	sum := sha256.Sum256([]byte(str(a[0])))
	return hex.EncodeToString(sum[:]), nil
}

func sha512sum(_ *meter, a []any) (any, error) {
	sum := sha512.Sum512([]byte(str(a[0])))
	return hex.EncodeToString(sum[:]), nil
}

// fromJSON reads numbers as float64, as templates expect, but keeps those that float64 cannot hold as they are written.
func fromJSON(_ *meter, a []any) (any, error) {
	dec := json.NewDecoder(strings.NewReader(str(a[0])))
	dec.UseNumber()
	var v any
	if dec.Decode(&v) != nil {
		return nil, refuse("the text is not JSON")
	}
	if _, err := dec.Token(); err != io.EOF {
		return nil, refuse("the text is not JSON")
	}
	return numbers(v), nil
}

func numbers(v any) any {
	switch node := v.(type) {
	case json.Number:
		f, err := node.Float64()
		if err != nil {
			return node
		}
		if i, err := strconv.ParseInt(node.String(), 10, 64); err == nil && int64(f) == i && i > -1<<53 && i < 1<<53 {
			return f
		}
		if strings.ContainsAny(node.String(), ".eE") {
			return f
		}
		return node
	case map[string]any:
		for k := range node {
			node[k] = numbers(node[k])
		}
	case []any:
		for i := range node {
			node[i] = numbers(node[i])
		}
	}
	return v
}

func fromYAML(m *meter, a []any) (any, error) {
	docs, err := manifest.Decode("", []byte(str(a[0])), manifest.Limits{Bytes: m.limits.Output, Nodes: 50_000, Depth: maxDepth})
	if err != nil || len(docs) > 1 {
		return nil, refuse("the text is not one YAML mapping")
	}
	if len(docs) == 0 {
		return map[string]any{}, nil
	}
	return docs[0].Body, nil
}

func encode(v any, escape bool, indent string) (any, error) {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(escape)
	enc.SetIndent("", indent)
	if enc.Encode(v) != nil {
		return nil, refuse("the value has no JSON form")
	}
	return strings.TrimSuffix(b.String(), "\n"), nil
}

func toJSON(_ *meter, a []any) (any, error)       { return encode(a[0], true, "") }
func toRawJSON(_ *meter, a []any) (any, error)    { return encode(a[0], false, "") }
func toPrettyJSON(_ *meter, a []any) (any, error) { return encode(a[0], true, "  ") }

func toYAML(_ *meter, a []any) (any, error) {
	out, err := yaml.Marshal(a[0])
	if err != nil {
		return nil, refuse("the value has no YAML form")
	}
	return strings.TrimSuffix(string(out), "\n"), nil
}
