package decrypt

import (
	"bytes"
	"encoding/json"
	"path"
	"strings"

	"github.com/getsops/sops/v3"
	"go.yaml.in/yaml/v3"

	"sealock.dev/sealock/fault"
	"sealock.dev/sealock/plaintext"
)

// documents writes the documents as JSON, each beginning on the line where it stands in the file, so that later errors
// name lines that exist. Values that were decrypted are tokens; the metadata is gone.
func (s *sopsFile) documents(tokens *plaintext.Tokens) ([]byte, error) {
	var out bytes.Buffer
	w := &weaver{file: s, tokens: tokens}
	line, next := 1, 0
	for i, node := range s.nodes {
		if i >= len(s.tree.Branches) {
			return nil, s.fail(fault.Invalid, "the encrypted file is damaged").Fix("encrypt it again with sops")
		}
		if isEmpty(node) {
			continue
		}
		doc := s.docs[next]
		next++
		delete(doc.Body, "sops")
		w.secret = doc.Body["apiVersion"] == "v1" && doc.Body["kind"] == "Secret"
		w.object = doc.Body["apiVersion"] != nil || doc.Body["kind"] != nil
		body, err := w.weave(doc.Body, s.tree.Branches[i], nil)
		if err != nil {
			return nil, err
		}
		text, err := json.Marshal(body)
		if err != nil {
			return nil, s.fail(fault.Invalid, "a document is not JSON after it was opened").Fix("use values that JSON knows")
		}
		if next > 1 {
			for line < doc.Line-1 {
				out.WriteByte('\n')
				line++
			}
			out.WriteString("---\n")
			line++
		}
		for line < doc.Line {
			out.WriteByte('\n')
			line++
		}
		out.Write(text)
		out.WriteByte('\n')
		line++
	}
	return out.Bytes(), nil
}

// isEmpty tells which documents manifest.Decode leaves out.
func isEmpty(n *yaml.Node) bool {
	return n.Kind != yaml.MappingNode || len(n.Content) == 0
}

// weaver puts tokens into a body where the tree of the library has decrypted values. It walks in the order of the
// library, so that the types that the cipher noted down fall to their values.
type weaver struct {
	file   *sopsFile
	tokens *plaintext.Tokens
	typ    int
	secret bool // the document is a Secret
	object bool // the document is a Kubernetes object or a patch of one
}

func (w *weaver) weave(body, tree any, path []string) (any, error) {
	switch t := tree.(type) {
	case sops.TreeBranch:
		m, ok := body.(map[string]any)
		if !ok {
			return nil, w.damaged(path)
		}
		for _, item := range t {
			key, ok := item.Key.(string)
			if !ok {
				continue // a comment
			}
			v, err := w.weave(m[key], item.Value, append(path[:len(path):len(path)], key))
			if err != nil {
				return nil, err
			}
			m[key] = v
		}
		return m, nil
	case []any:
		list, ok := body.([]any)
		if !ok {
			return nil, w.damaged(path)
		}
		i := 0
		for _, item := range t {
			if _, comment := item.(sops.Comment); comment {
				continue
			}
			if i >= len(list) {
				return nil, w.damaged(path)
			}
			v, err := w.weave(list[i], item, path)
			if err != nil {
				return nil, err
			}
			list[i] = v
			i++
		}
		return list, nil
	case []byte:
		return w.token(t, path)
	case sops.Comment:
		return nil, w.damaged(path)
	case string:
		// sops leaves empty strings as they are. Here they are opened ones too, or the Secret would count as plain.
		if t == "" && w.inPayload(path) {
			return w.tokens.Issue(plaintext.Value{}), nil
		}
	}
	return body, nil
}

func (w *weaver) damaged(path []string) error {
	return w.file.fail(fault.Denied, "the file was changed after it was encrypted").At(strings.Join(path, ".")).Fix("restore the file")
}

func (w *weaver) inPayload(path []string) bool {
	return w.secret && (path[0] == "data" || path[0] == "stringData")
}

func (w *weaver) token(text []byte, path []string) (any, error) {
	typ := w.file.cipher.types[w.typ]
	w.typ++
	field := strings.Join(path, ".")
	if w.object && (path[0] == "apiVersion" || path[0] == "kind" || path[0] == "metadata") {
		return nil, w.file.fail(fault.Invalid, "what identifies an object is encrypted").At(field).
			Fix("encrypt with encrypted_regex: ^(data|stringData)$")
	}
	if w.inPayload(path) && typ != "str" {
		return nil, w.file.fail(fault.Invalid, "the encrypted value is of type %s; a Secret holds strings", typ).At(field).
			Fix("quote it and encrypt the file again")
	}
	switch typ {
	case "int", "float":
		return w.tokens.IssueJSON(plaintext.New(text)), nil
	case "bool":
		return w.tokens.IssueJSON(plaintext.New(bytes.ToLower(text))), nil
	}
	return w.tokens.Issue(plaintext.New(text)), nil
}

// formatOfKey is the format that a file is wanted in by the name that it has in a Secret, as Flux takes it.
func formatOfKey(key string) format {
	switch ext := strings.ToLower(path.Ext(key)); ext {
	case ".yaml", ".yml":
		return yamlFormat
	case ".json", ".dockerconfigjson":
		return jsonFormat
	case ".env":
		return dotenvFormat
	case ".ini":
		return iniFormat
	}
	return binaryFormat
}

// whole returns the file as the sops program would print it in the format. What was not encrypted as bytes cannot be
// printed so; it keeps the format that it has.
func (s *sopsFile) whole(to format) ([]byte, error) {
	if to == binaryFormat && (s.format != jsonFormat || !s.envelope()) {
		to = s.format
	}
	if len(s.tree.Branches) != 1 && to != yamlFormat {
		return nil, s.fail(fault.Invalid, "the encrypted file has several documents, which only YAML can hold").Fix("use one file for each, or a key that ends in .yaml")
	}
	out, err := storeFor(to).EmitPlainFile(s.tree.Branches)
	if err != nil {
		return nil, s.fail(fault.Invalid, "the opened file cannot be written in the format that its key asks for").
			Fix("use a key that ends as the name of the file before it was encrypted")
	}
	return out, nil
}

// envelope reports whether the tree has what sops writes for a file of bytes.
func (s *sopsFile) envelope() bool {
	for _, item := range s.tree.Branches[0] {
		if _, text := item.Value.(string); text && item.Key == "data" {
			return true
		}
	}
	return false
}

// retype gives decrypted values the types that the file claims, for a store that writes the file out.
func (s *sopsFile) retype() {
	next := 0
	for i := range s.tree.Branches {
		s.tree.Branches[i], _ = s.typed(s.tree.Branches[i], &next).(sops.TreeBranch)
	}
}

func (s *sopsFile) typed(v any, next *int) any {
	switch t := v.(type) {
	case sops.TreeBranch:
		for i := range t {
			t[i].Value = s.typed(t[i].Value, next)
		}
		return t
	case []any:
		for i := range t {
			t[i] = s.typed(t[i], next)
		}
		return t
	case []byte:
		typ := s.cipher.types[*next]
		*next++
		return typed(string(t), typ)
	}
	return v
}

// lines makes the value of every KEY=value line a token. What is no such line may be part of a value: it is not passed on
// for kustomize to judge, which would quote it.
func (s *sopsFile) lines(tokens *plaintext.Tokens) ([]byte, error) {
	s.retype()
	whole, err := s.whole(binaryFormat)
	if err != nil {
		return nil, err
	}
	var out bytes.Buffer
	for i, line := range strings.Split(strings.TrimPrefix(string(whole), "\ufeff"), "\n") {
		line = strings.TrimSuffix(line, "\r")
		trimmed := strings.TrimSpace(line)
		if trimmed == "" || trimmed[0] == '#' {
			out.WriteByte('\n')
			continue
		}
		key, value, _ := strings.Cut(strings.TrimLeft(line, " \t"), "=")
		if !isVariable(key) {
			return nil, s.fail(fault.Invalid, "line %d of the opened file is not KEY=value, and the file is used by envs of a generator", i+1).
				Fix("encrypt a file of such lines, or take it by files")
		}
		out.WriteString(key + "=" + tokens.Issue(plaintext.FromString(value)) + "\n")
	}
	return out.Bytes(), nil
}

func isVariable(s string) bool {
	for i, r := range s {
		if r != '_' && r != '-' && r != '.' && (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && (i == 0 || r < '0' || r > '9') {
			return false
		}
	}
	return s != ""
}
