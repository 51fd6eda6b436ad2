package manifest

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"sort"
	"strings"

	"k8s.io/apimachinery/pkg/runtime/schema"

	"sealock.dev/sealock/fault"
	"sealock.dev/sealock/plaintext"
)

// Origin says where the secret content of an object comes from.
type Origin string

// The origins. Plain is an object as it stands in Git; a plain Secret is one that nobody encrypted.
const (
	Plain    Origin = "plain"
	SOPS     Origin = "sops"
	Sealed   Origin = "sealed"
	External Origin = "external"
)

// Source is where in the repository an object stands.
type Source struct {
	File string
	Line int
}

// Object is one Kubernetes object. Its body holds no secret: where one belongs it holds plaintext.Mask, and the value is
// kept beside it. Objects are values: the With methods return changed copies and never touch the original.
type Object struct {
	Source Source
	Origin Origin

	body   map[string]any
	lifted []lifted
}

// lifted is one value that belongs at path in the body. Inside Secret data it is the decoded payload.
type lifted struct {
	path  []string // map keys; a list index is decimal
	value plaintext.Value
	json  bool // value is the JSON text of a number or boolean, not a string
	b64   bool // the wire carries base64 of value
	// stands says how the payload of a Secret stands in Git.
	stands stands
}

// New makes an Object of a decoded document. It takes the body over. Payloads of a Secret are lifted, stringData is
// folded into data, and every token of the table is replaced by its value, wherever it stands. tokens may be nil.
func New(body map[string]any, src Source, tokens *plaintext.Tokens) (Object, error) {
	o := Object{Source: src, Origin: Plain, body: body}
	ref := fault.Ref{File: src.File, Line: src.Line}
	if err := RequireIdentity(body, ref); err != nil {
		return Object{}, err
	}
	if isSecret(body) {
		if err := o.liftSecret(tokens); err != nil {
			return Object{}, err
		}
	}
	if err := o.liftTokens(body, nil, tokens); err != nil {
		return Object{}, err
	}
	sort.Slice(o.lifted, func(i, j int) bool {
		return strings.Join(o.lifted[i].path, "\x00") < strings.Join(o.lifted[j].path, "\x00")
	})
	return o, nil
}

// NewSecret makes a Secret of opened values. typ "" is Opaque.
func NewSecret(namespace, name, typ string, data map[string]plaintext.Value, origin Origin, src Source) Object {
	if typ == "" {
		typ = "Opaque"
	}
	masked := map[string]any{}
	o := Object{Source: src, Origin: origin, body: map[string]any{
		"apiVersion": "v1", "kind": "Secret", "type": typ,
		"metadata": map[string]any{"name": name, "namespace": namespace},
	}}
	for _, k := range slicesSorted(data) {
		masked[k] = plaintext.Mask
		o.lifted = append(o.lifted, lifted{path: []string{"data", k}, value: data[k], b64: true})
	}
	if len(masked) > 0 {
		o.body["data"] = masked
	}
	return o
}

func slicesSorted[V any](m map[string]V) []string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	sort.Strings(keys)
	return keys
}

func isSecret(body map[string]any) bool {
	return body["apiVersion"] == "v1" && body["kind"] == "Secret"
}

// liftTokens walks the rest of the body. A key that holds a token is refused: a key is not a place for a secret.
func (o *Object) liftTokens(v any, path []string, tokens *plaintext.Tokens) error {
	switch node := v.(type) {
	case map[string]any:
		for _, k := range slicesSorted(node) {
			if plaintext.Contains(k) {
				return o.fail(strings.Join(path, "."), "decrypted values may stand in values only", "a decrypted value became a key")
			}
			repl, err := o.liftChild(node[k], append(path[:len(path):len(path)], k), tokens)
			if err != nil {
				return err
			}
			node[k] = repl
		}
	case []any:
		for i := range node {
			repl, err := o.liftChild(node[i], append(path[:len(path):len(path)], fmt.Sprint(i)), tokens)
			if err != nil {
				return err
			}
			node[i] = repl
		}
	}
	return nil
}

func (o *Object) liftChild(v any, path []string, tokens *plaintext.Tokens) (any, error) {
	text, ok := v.(string)
	if !ok {
		return v, o.liftTokens(v, path, tokens)
	}
	if !plaintext.Contains(text) {
		return v, nil
	}
	val, isJSON, ok := tokens.Resolve(text)
	if !ok {
		return nil, o.fail(strings.Join(path, "."), "remove the text that imitates a decrypted value", "unknown token")
	}
	if settled(path) {
		return nil, o.fail(strings.Join(path, "."), "write it in Git, use a variable of a ConfigMap, or encrypt with encrypted_regex: ^(data|stringData)$",
			"a secret value may not stand here")
	}
	o.lifted = append(o.lifted, lifted{path: path, value: val, json: isJSON && path[0] != "metadata"}) // a label is a string
	return plaintext.Mask, nil
}

func (o *Object) fail(field, remedy, format string, args ...any) error {
	return fault.New(fault.StageRender, fault.Invalid, o.Ref(), format, args...).At(field).Fix("%s", remedy)
}

// GVK returns group, version and kind.
func (o Object) GVK() schema.GroupVersionKind {
	return schema.FromAPIVersionAndKind(str(o.body["apiVersion"]), str(o.body["kind"]))
}

// APIVersion returns apiVersion as written.
func (o Object) APIVersion() string { return str(o.body["apiVersion"]) }

// Kind returns the kind.
func (o Object) Kind() string { return str(o.body["kind"]) }

// Name returns metadata.name.
func (o Object) Name() string { return str(o.meta()["name"]) }

// Namespace returns metadata.namespace, "" when there is none.
func (o Object) Namespace() string { return str(o.meta()["namespace"]) }

// Labels returns a copy of the labels.
func (o Object) Labels() map[string]string { return strMap(o.meta()["labels"]) }

// Annotations returns a copy of the annotations.
func (o Object) Annotations() map[string]string { return strMap(o.meta()["annotations"]) }

// IsSecret reports whether the object is a core Secret.
func (o Object) IsSecret() bool { return isSecret(o.body) }

// Ref names the object for errors.
func (o Object) Ref() fault.Ref {
	return fault.Ref{APIVersion: o.APIVersion(), Kind: o.Kind(), Namespace: o.Namespace(), Name: o.Name(), File: o.Source.File, Line: o.Source.Line}
}

func (o Object) meta() map[string]any { m, _ := o.body["metadata"].(map[string]any); return m }

func str(v any) string { s, _ := v.(string); return s }

func strMap(v any) map[string]string {
	m, _ := v.(map[string]any)
	out := make(map[string]string, len(m))
	for k, each := range m {
		if s, ok := each.(string); ok {
			out[k] = s
		}
	}
	return out
}

// Body returns a deep copy of the masked body, which is safe to print.
func (o Object) Body() map[string]any { return deepCopy(o.body).(map[string]any) } //nolint:forcetypeassert // a map copies to a map

// Peek returns the value at the path of the masked body, nil when there is none. The result must not be changed.
func (o Object) Peek(path ...string) any {
	var v any = o.body
	for _, p := range path {
		m, ok := v.(map[string]any)
		if !ok {
			return nil
		}
		v = m[p]
	}
	return v
}

// View returns the body with each lifted value replaced by what show makes of it: a digest, a length, a mask.
func (o Object) View(show func(path []string, v plaintext.Value) any) map[string]any {
	body := o.Body()
	for _, l := range o.lifted {
		set(body, l.path, show(l.path, l.value))
	}
	return body
}

// Values returns every lifted value, for a Scrubber.
func (o Object) Values() []plaintext.Value {
	out := make([]plaintext.Value, 0, len(o.lifted))
	for _, l := range o.lifted {
		out = append(out, l.value)
	}
	return out
}

// OpenedOutsideSecret returns the dotted path of the first decrypted value that does not stand in the data of a Secret.
func (o Object) OpenedOutsideSecret() (string, bool) {
	for _, l := range o.lifted {
		if !o.IsSecret() || l.path[0] != "data" {
			return strings.Join(l.path, "."), true
		}
	}
	return "", false
}

// Edit returns a copy whose body was changed by fn. fn must not touch places of lifted values except to remove them
// whole: a lifted value whose place is gone afterwards is dropped.
func (o Object) Edit(fn func(body map[string]any)) Object {
	c := o
	c.body = o.Body()
	fn(c.body)
	c.lifted = nil
	for _, l := range o.lifted {
		if get(c.body, l.path) == plaintext.Mask {
			c.lifted = append(c.lifted, l)
		}
	}
	return c
}

// WithMeta returns a copy with the given labels and annotations set over its own.
func (o Object) WithMeta(labels, annotations map[string]string) Object {
	return o.Edit(func(body map[string]any) {
		meta, _ := body["metadata"].(map[string]any)
		if meta == nil {
			meta = map[string]any{}
			body["metadata"] = meta
		}
		merge := func(field string, add map[string]string) {
			if len(add) == 0 {
				return
			}
			m, _ := meta[field].(map[string]any)
			if m == nil {
				m = map[string]any{}
			}
			for k, v := range add {
				m[k] = v
			}
			meta[field] = m
		}
		merge("labels", labels)
		merge("annotations", annotations)
	})
}

// WithNamespace returns a copy in the given namespace; "" removes it.
func (o Object) WithNamespace(ns string) Object {
	return o.Edit(func(body map[string]any) {
		meta, _ := body["metadata"].(map[string]any)
		if ns == "" {
			delete(meta, "namespace")
			return
		}
		meta["namespace"] = ns
	})
}

// Digest identifies the object and its secrets under the key of this installation.
func (o Object) Digest(key plaintext.Key) string {
	body := o.View(func(_ []string, v plaintext.Value) any { return v.Digest(key) })
	text, err := json.Marshal(body) // keys are sorted
	if err != nil {
		panic("manifest: a decoded body that is not JSON: " + err.Error()) // Decode only makes JSON values
	}
	return key.Digest(text)
}

// Wire returns the JSON that is sent to the API server, secrets revealed. Who may call it is in arch_test.go.
func (o Object) Wire() ([]byte, error) {
	body := o.Body()
	for _, l := range o.lifted {
		raw := l.value.Reveal()
		var v any = string(raw)
		switch {
		case l.b64:
			v = base64.StdEncoding.EncodeToString(raw)
		case l.json:
			v = json.RawMessage(raw)
		}
		set(body, l.path, v)
	}
	out, err := json.Marshal(body)
	if err != nil {
		return nil, fault.New(fault.StageApply, fault.Invalid, o.Ref(), "%w", errors.New("the object is not JSON after its secrets are put back"))
	}
	return out, nil
}

func get(v any, path []string) any {
	for _, p := range path {
		switch node := v.(type) {
		case map[string]any:
			v = node[p]
		case []any:
			i := index(p, len(node))
			if i < 0 {
				return nil
			}
			v = node[i]
		default:
			return nil
		}
	}
	return v
}

func set(v any, path []string, to any) {
	parent := get(v, path[:len(path)-1])
	last := path[len(path)-1]
	switch node := parent.(type) {
	case map[string]any:
		node[last] = to
	case []any:
		if i := index(last, len(node)); i >= 0 {
			node[i] = to
		}
	}
}

func index(text string, n int) int {
	i := 0
	if _, err := fmt.Sscanf(text, "%d", &i); err != nil || i < 0 || i >= n {
		return -1
	}
	return i
}

func deepCopy(v any) any {
	switch node := v.(type) {
	case map[string]any:
		out := maps.Clone(node)
		for k := range out {
			out[k] = deepCopy(out[k])
		}
		return out
	case []any:
		out := make([]any, len(node))
		for i := range node {
			out[i] = deepCopy(node[i])
		}
		return out
	}
	return v
}
