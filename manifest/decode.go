// Package manifest holds Kubernetes objects on their way through the pipeline.
//
// It exists so that there is one YAML decoder and one type of object, and so that an object can be printed: the payloads
// of Secrets, and everything that was decrypted, are lifted out of the body into plaintext.Values when the object is
// made. The package must not talk to a cluster, read files or keep anything between calls.
package manifest

import (
	"errors"
	"fmt"
	"io"
	"math"
	"strconv"
	"strings"
	"unicode/utf8"

	"go.yaml.in/yaml/v3"

	"sealock.dev/sealock/fault"
)

// Limits bound what a file may make the decoder do.
type Limits struct {
	Bytes int // size of one file
	Nodes int // values in one file after aliases are followed
	Depth int // nesting
}

// DefaultLimits are far above what honest manifests need.
var DefaultLimits = Limits{Bytes: 5 << 20, Nodes: 500_000, Depth: 200} //nolint:gochecknoglobals // a constant

// Document is one YAML document: a mapping, and where it began.
type Document struct {
	Body map[string]any
	Line int
}

// Decode reads all documents of a YAML or JSON file; empty ones are left out. Errors are fault.Errors of kind Invalid
// that name file and line, and never the text that could not be read.
func Decode(file string, data []byte, limits Limits) ([]Document, error) {
	if len(data) > limits.Bytes {
		return nil, fault.New(fault.StageRender, fault.Invalid, fault.Ref{File: file},
			"the file has %d bytes, more than the limit of %d", len(data), limits.Bytes).Fix("split it")
	}
	var out []Document
	dec := yaml.NewDecoder(strings.NewReader(string(data)))
	budget := limits.Nodes
	for {
		var node yaml.Node
		err := safeDecode(dec, &node)
		if errors.Is(err, io.EOF) {
			return out, nil
		}
		if err != nil {
			return nil, fault.New(fault.StageRender, fault.Invalid, fault.Ref{File: file, Line: lineOf(err)}, "invalid YAML: %s", syntaxOf(err)).
				Fix("correct the syntax")
		}
		c := converter{file: file, budget: &budget, depth: limits.Depth}
		v, err := c.convert(&node, 0)
		if err != nil {
			return nil, err
		}
		switch body := v.(type) {
		case nil:
		case map[string]any:
			if len(body) > 0 {
				out = append(out, Document{Body: body, Line: firstLine(&node)})
			}
		default:
			return nil, fault.New(fault.StageRender, fault.Invalid, fault.Ref{File: file, Line: firstLine(&node)}, "the document is not a mapping").
				Fix("a manifest begins with apiVersion and kind")
		}
	}
}

// FromNode returns what Decode would return for a node that is parsed already: who holds one need not print and parse it.
func FromNode(file string, node *yaml.Node, limits Limits) (any, error) {
	budget := limits.Nodes
	return converter{file: file, budget: &budget, depth: limits.Depth}.convert(node, 0)
}

// safeDecode turns a panic of the parser, which hostile input has caused before, into an error.
func safeDecode(dec *yaml.Decoder, node *yaml.Node) (err error) {
	defer func() {
		if recover() != nil {
			err = errors.New("yaml: the parser gave up")
		}
	}()
	return dec.Decode(node)
}

func firstLine(n *yaml.Node) int {
	if n.Kind == yaml.DocumentNode && len(n.Content) > 0 {
		return n.Content[0].Line
	}
	return n.Line
}

// lineOf finds N in "yaml: line N: text".
func lineOf(err error) int {
	_, rest, ok := strings.Cut(err.Error(), "line ")
	if !ok {
		return 0
	}
	num, _, _ := strings.Cut(rest, ":")
	n, _ := strconv.Atoi(num)
	return n
}

// syntaxOf keeps the parser's own words, which name tokens and never content, and drops anything quoted with backticks.
func syntaxOf(err error) string {
	s := strings.TrimPrefix(err.Error(), "yaml: ")
	if _, rest, ok := strings.Cut(s, ": "); ok && strings.HasPrefix(s, "line ") {
		s = rest
	}
	if i := strings.IndexByte(s, '`'); i >= 0 {
		s = s[:i] + "(text left out)"
	}
	if i := strings.IndexByte(s, '\''); i >= 0 {
		s = strings.TrimSpace(s[:i])
	}
	return s
}

type converter struct {
	file   string
	budget *int
	depth  int
}

func (c converter) fail(n *yaml.Node, remedy, format string, args ...any) error {
	return fault.New(fault.StageRender, fault.Invalid, fault.Ref{File: c.file, Line: n.Line}, format, args...).Fix("%s", remedy)
}

func (c converter) convert(n *yaml.Node, depth int) (any, error) {
	*c.budget--
	if *c.budget < 0 {
		return nil, c.fail(n, "remove aliases or split the file", "too many values after following aliases")
	}
	if depth > c.depth {
		return nil, c.fail(n, "remove the cycle of aliases or flatten the document", "nested deeper than %d levels", c.depth)
	}
	switch n.Kind {
	case 0:
		return nil, nil
	case yaml.DocumentNode:
		if len(n.Content) == 0 {
			return nil, nil
		}
		return c.convert(n.Content[0], depth)
	case yaml.AliasNode:
		return c.convert(n.Alias, depth+1)
	case yaml.SequenceNode:
		list := make([]any, 0, len(n.Content))
		for _, item := range n.Content {
			v, err := c.convert(item, depth+1)
			if err != nil {
				return nil, err
			}
			list = append(list, v)
		}
		return list, nil
	case yaml.MappingNode:
		return c.mapping(n, depth)
	case yaml.ScalarNode:
		return c.scalar(n)
	}
	return nil, c.fail(n, "use plain YAML", "unknown YAML construct")
}

func (c converter) mapping(n *yaml.Node, depth int) (any, error) {
	out := make(map[string]any, len(n.Content)/2)
	var merges []*yaml.Node
	for i := 0; i+1 < len(n.Content); i += 2 {
		key, val := n.Content[i], n.Content[i+1]
		if key.Kind == yaml.AliasNode {
			key = key.Alias
		}
		if key.Kind != yaml.ScalarNode {
			return nil, c.fail(key, "use a string as key", "a key is not a string")
		}
		if key.ShortTag() == "!!merge" {
			merges = append(merges, val)
			continue
		}
		if _, twice := out[key.Value]; twice {
			return nil, c.fail(key, "remove one of them", "a key stands twice in one mapping")
		}
		v, err := c.convert(val, depth+1)
		if err != nil {
			return nil, err
		}
		out[key.Value] = v
	}
	for _, m := range merges {
		if err := c.merge(out, m, depth); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// merge follows "<<": keys that the mapping has itself win.
func (c converter) merge(into map[string]any, from *yaml.Node, depth int) error {
	v, err := c.convert(from, depth+1)
	if err != nil {
		return err
	}
	list, ok := v.([]any)
	if !ok {
		list = []any{v}
	}
	for _, each := range list {
		m, ok := each.(map[string]any)
		if !ok {
			return c.fail(from, "merge mappings only", "<< does not refer to a mapping")
		}
		for k, val := range m {
			if _, own := into[k]; !own {
				into[k] = val
			}
		}
	}
	return nil
}

// scalar returns what JSON knows: nil, bool, int64, float64 or string. Timestamps stay strings.
func (c converter) scalar(n *yaml.Node) (any, error) {
	switch n.ShortTag() {
	case "!!null":
		return nil, nil
	case "!!bool":
		var b bool
		if n.Decode(&b) != nil {
			return nil, c.fail(n, "write true or false", "the value is not a boolean")
		}
		return b, nil
	case "!!int":
		var i int64
		if n.Decode(&i) == nil {
			return i, nil
		}
		var u uint64
		if n.Decode(&u) == nil {
			return float64(u), nil
		}
		return nil, c.fail(n, "quote it if it is a string", "the value is not an integer of 64 bits")
	case "!!float":
		var f float64
		if n.Decode(&f) != nil || math.IsNaN(f) || math.IsInf(f, 0) {
			return nil, c.fail(n, "quote it if it is a string", "the value is not a number that JSON knows")
		}
		return f, nil
	case "!!str", "!!timestamp":
		return n.Value, nil
	case "!!binary": // base64 of a text
		var text string
		if n.Decode(&text) != nil || !utf8.ValidString(text) {
			return nil, c.fail(n, "write it as text, or under data of a Secret or binaryData", "the value is not base64 of a text")
		}
		return text, nil
	}
	return nil, c.fail(n, "use strings, numbers, booleans, lists and mappings only", "unsupported YAML tag")
}

// RequireIdentity returns an error unless the document has apiVersion, kind and a name.
func RequireIdentity(body map[string]any, ref fault.Ref) error {
	for _, f := range []string{"apiVersion", "kind"} {
		if s, ok := body[f].(string); !ok || s == "" {
			return (&fault.Error{Stage: fault.StageRender, Kind: fault.Invalid, Ref: ref, Field: f, Err: errors.New("missing")}).
				Fix("every object needs apiVersion, kind and metadata.name")
		}
	}
	meta, _ := body["metadata"].(map[string]any)
	if s, ok := meta["name"].(string); !ok || s == "" {
		ref.Kind = fmt.Sprint(body["kind"])
		return (&fault.Error{Stage: fault.StageRender, Kind: fault.Invalid, Ref: ref, Field: "metadata.name", Err: errors.New("missing")}).
			Fix("every object in Git needs a fixed name; generateName cannot be reconciled")
	}
	return nil
}
