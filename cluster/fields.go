package cluster

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"slices"
	"strings"

	"sigs.k8s.io/structured-merge-diff/v6/fieldpath"
	"sigs.k8s.io/structured-merge-diff/v6/value"

	"sealock.dev/sealock/plaintext"
)

// digest is a keyed digest, short enough to keep by the ten thousand. The zero digest is "unknown".
type digest [16]byte

func digestOf(key plaintext.Key, text []byte) digest {
	var d digest
	_, _ = hex.Decode(d[:], []byte(key.Digest(text))[:2*len(d)])
	return d
}

// owner is one entry of metadata.managedFields.
type owner struct {
	Manager     string          `json:"manager"`
	Operation   string          `json:"operation"`
	APIVersion  string          `json:"apiVersion"`
	Time        string          `json:"time,omitempty"`
	FieldsType  string          `json:"fieldsType"`
	FieldsV1    json.RawMessage `json:"fieldsV1"`
	Subresource string          `json:"subresource,omitempty"`
}

func ownersOf(body map[string]any) []owner {
	raw, err := json.Marshal(dig(body, "metadata", "managedFields"))
	if err != nil {
		return nil
	}
	var out []owner
	if json.Unmarshal(raw, &out) != nil {
		return nil
	}
	return out
}

func (o owner) isOurs(manager string) bool {
	return o.Manager == manager && o.Operation == "Apply" && o.Subresource == ""
}

// overridden reports an entry whose fields become ours: what people write with kubectl, and what this manager itself
// once wrote with Update, and what the managers of also wrote. Subresources are left alone: a scale or a status is nobody's
// manifest.
func (o owner) overridden(manager string, also ...string) bool {
	if o.Subresource != "" {
		return false
	}
	return strings.HasPrefix(o.Manager, "kubectl") || o.Manager != manager && slices.Contains(also, o.Manager) || o.Operation == "Update" && (o.Manager == "before-first-apply" || o.Manager == manager)
}

func (o owner) fields() (*fieldpath.Set, bool) {
	set := fieldpath.NewSet()
	if len(o.FieldsV1) == 0 || set.FromJSON(bytes.NewReader(o.FieldsV1)) != nil {
		return nil, false
	}
	return set, true
}

// ownedDigest returns the keyed digest of every field that the manager applied, paths and values, zero when it applied
// none. Defaults and canonical quantities are those of the API server, since it is made of its answers. What is ignored
// does not enter, whether the manager still owns it or lost it to whoever manages it.
func ownedDigest(key plaintext.Key, body map[string]any, owners []owner, manager string, ignored []pointer) digest {
	shown := without(body, ignored)
	for _, o := range owners {
		if !o.isOurs(manager) {
			continue
		}
		set, ok := o.fields()
		if !ok {
			return digest{}
		}
		var text bytes.Buffer
		for path := range set.Leaves().All() {
			if len(ignored) > 0 && isIgnored(body, path, ignored) {
				continue
			}
			text.WriteString(path.String())
			v, found := at(shown, path)
			if !found {
				text.WriteString("\x00absent\n")
				continue
			}
			encoded, err := json.Marshal(v) // keys are sorted
			if err != nil {
				return digest{}
			}
			text.WriteByte(0)
			text.Write(encoded)
			text.WriteByte('\n')
		}
		return digestOf(key, text.Bytes())
	}
	return digest{}
}

// at follows a field path through a decoded body.
func at(body any, path fieldpath.Path) (any, bool) {
	v := body
	for _, pe := range path {
		switch {
		case pe.FieldName != nil:
			m, ok := v.(map[string]any)
			if !ok {
				return nil, false
			}
			if v, ok = m[*pe.FieldName]; !ok {
				return nil, false
			}
		default:
			list, ok := v.([]any)
			if !ok {
				return nil, false
			}
			i := slices.IndexFunc(list, func(item any) bool { return matches(item, pe) })
			if pe.Index != nil {
				i = *pe.Index
			}
			if i < 0 || i >= len(list) {
				return nil, false
			}
			v = list[i]
		}
	}
	return v, true
}

// matches reports whether a list item is the one that the path element names, by its keys or by its value.
func matches(item any, pe fieldpath.PathElement) bool {
	switch {
	case pe.Value != nil:
		return value.Equals(value.NewValueInterface(item), *pe.Value)
	case pe.Key != nil:
		m, ok := item.(map[string]any)
		if !ok {
			return false
		}
		for _, f := range *pe.Key {
			v, ok := m[f.Name]
			if !ok || !value.Equals(value.NewValueInterface(v), f.Value) {
				return false
			}
		}
		return true
	}
	return false
}

// takeOver moves the fields of overridden managers into our Apply entry, so that the next apply removes those that the
// manifest does not have. leftover is true when there are such fields; changed is false when there is nothing to do.
func takeOver(owners []owner, manager, apiVersion string, also ...string) (out []owner, changed, leftover bool) {
	ours := owner{Manager: manager, Operation: "Apply", APIVersion: apiVersion, FieldsType: "FieldsV1"}
	set := fieldpath.NewSet()
	theirs := fieldpath.NewSet()
	for _, o := range owners {
		fields, ok := o.fields()
		switch {
		case o.isOurs(manager):
			if ours = o; ok {
				set = fields
			}
		case o.overridden(manager, also...):
			changed = true
			if ok {
				theirs = theirs.Union(fields)
			}
		default:
			out = append(out, o)
		}
	}
	if !changed {
		return owners, false, false
	}
	leftover = !theirs.Leaves().Difference(set).Empty()
	encoded, err := set.Union(theirs).ToJSON()
	if err != nil {
		return owners, false, false
	}
	ours.FieldsV1 = encoded
	return append(out, ours), true, leftover
}

// staleAnnotations are left behind by tools whose place we take.
var staleAnnotations = []string{ //nolint:gochecknoglobals // a constant table
	"kubectl.kubernetes.io/last-applied-configuration", markerPrefix + "checksum", "fluxcd.io/sync-checksum",
}

// takeOverPatch is the JSON patch that writes the owners, guarded by the resource version that they were read at.
func takeOverPatch(body map[string]any, owners []owner) ([]byte, error) {
	type op struct {
		Op    string `json:"op"`
		Path  string `json:"path"`
		Value any    `json:"value,omitempty"`
	}
	ops := []op{
		{"replace", "/metadata/managedFields", owners},
		{"replace", "/metadata/resourceVersion", text(body, "metadata", "resourceVersion")},
	}
	escape := strings.NewReplacer("~", "~0", "/", "~1")
	annotations := stringMap(body, "metadata", "annotations")
	for _, a := range staleAnnotations {
		if _, there := annotations[a]; there {
			ops = append(ops, op{Op: "remove", Path: "/metadata/annotations/" + escape.Replace(a)})
		}
	}
	if _, there := stringMap(body, "metadata", "labels")["fluxcd.io/sync-gc-mark"]; there {
		ops = append(ops, op{Op: "remove", Path: "/metadata/labels/" + escape.Replace("fluxcd.io/sync-gc-mark")})
	}
	return json.Marshal(ops)
}

// ownedKeys returns the keys directly below the path that the manager owns, by whatever operation: the keys of a
// Secret's data that a peer once wrote.
func ownedKeys(owners []owner, manager string, below ...string) map[string]bool {
	out := map[string]bool{}
	for _, o := range owners {
		set, ok := o.fields()
		if o.Manager != manager || o.Subresource != "" || !ok {
			continue
		}
		for path := range set.All() {
			if len(path) != len(below)+1 || path[len(path)-1].FieldName == nil {
				continue
			}
			same := true
			for i, name := range below {
				same = same && path[i].FieldName != nil && *path[i].FieldName == name
			}
			if same {
				out[*path[len(path)-1].FieldName] = true
			}
		}
	}
	return out
}
