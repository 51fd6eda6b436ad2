package main

import (
	"encoding/base64"
	"encoding/json"
	"reflect"
	"slices"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	utiljson "k8s.io/apimachinery/pkg/util/json"

	"sealock.dev/sealock/cluster"
	"sealock.dev/sealock/manifest"
	"sealock.dev/sealock/plaintext"
)

// changes returns the fields that the apply would change. Values of secrets stand as digests.
func (j *comparer) changes(o manifest.Object, live, after *unstructured.Unstructured) ([]change, error) {
	a, b := shown(live), shown(after)
	if !marked(live, "ssa", "Merge") {
		takenBack(b, live, after, j.want.owner.FieldManager)
	}
	if err := cluster.Ignored(j.want.owner, o, a, b); err != nil {
		return nil, err
	}
	if j.hides(o, a) {
		a, b = j.masked(a, o.Body()).(map[string]any), j.masked(b, o.Body()).(map[string]any) //nolint:forcetypeassert // a mapping stays one
	}
	out := fieldsOf("", a, b)
	for i := range out {
		out[i].From, out[i].To = j.scrubbed(out[i].From), j.scrubbed(out[i].To)
	}
	return out, nil
}

// stale annotations are left by other tools and quote the object, Secrets included.
var stale = []string{ //nolint:gochecknoglobals // a constant table
	"kubectl.kubernetes.io/last-applied-configuration", kustomizeGroup + "/checksum", "fluxcd.io/sync-checksum",
}

// shown is what is compared of an object: everything but its status and what the API server keeps for itself.
func shown(obj *unstructured.Unstructured) map[string]any {
	body := obj.DeepCopy().Object
	delete(body, "status")
	for _, f := range serverFields {
		unstructured.RemoveNestedField(body, "metadata", f)
	}
	for _, a := range stale {
		unstructured.RemoveNestedField(body, "metadata", "annotations", a)
	}
	if empty, ok, _ := unstructured.NestedMap(body, "metadata", "annotations"); ok && len(empty) == 0 {
		unstructured.RemoveNestedField(body, "metadata", "annotations")
	}
	return body
}

// hides reports whether the object may hold a secret that an earlier commit brought: it is a Secret, the new set puts one
// into it, or what is live quotes one that is known.
func (j *comparer) hides(o manifest.Object, live map[string]any) bool {
	return o.IsSecret() || len(o.Values()) > 0 || j.quotes(live)
}

func (j *comparer) quotes(v any) bool {
	switch node := v.(type) {
	case string:
		return j.want.known.Scrub(node) != node
	case map[string]any:
		for _, each := range node {
			if j.quotes(each) {
				return true
			}
		}
	case []any:
		return slices.ContainsFunc(node, j.quotes)
	}
	return false
}

// masked returns v with a digest in place of each text and number that does not stand, in the clear, in the same place of
// what is in Git. Where an old secret stood is not known any more: nothing else is taken for harmless.
func (j *comparer) masked(v, git any) any {
	switch node := v.(type) {
	case nil, bool:
		return v
	case map[string]any:
		fields, _ := git.(map[string]any)
		out := make(map[string]any, len(node))
		for k, each := range node {
			out[k] = j.masked(each, fields[k])
		}
		return out
	case []any:
		items, _ := git.([]any)
		out := make([]any, len(node))
		for i, each := range node {
			out[i] = j.masked(each, counterpart(each, i, items))
		}
		return out
	}
	if v != plaintext.Mask && reflect.DeepEqual(v, git) {
		return v
	}
	return j.digest(v)
}

// itemKeys are the fields by which items of lists are told apart, the first that an item has.
var itemKeys = []string{"name", "key", "mountPath", "containerPort", "port", "ip", "type"} //nolint:gochecknoglobals // a constant table

// counterpart returns the item of a list that stands for this one: the one with the same key, the same value, or, where
// neither tells, the one in the same position. nil: there is none.
func counterpart(item any, position int, list []any) any {
	fields, isMap := item.(map[string]any)
	_, isList := item.([]any)
	same := func(other any) bool { return reflect.DeepEqual(item, other) }
	if isMap {
		i := slices.IndexFunc(itemKeys, func(k string) bool { return fields[k] != nil })
		if isList = i < 0; !isList {
			same = func(other any) bool {
				m, _ := other.(map[string]any)
				return reflect.DeepEqual(fields[itemKeys[i]], m[itemKeys[i]])
			}
		}
	}
	if isList { // it has no key
		if position < len(list) {
			return list[position]
		}
		return nil
	}
	if i := slices.IndexFunc(list, same); i >= 0 {
		return list[i]
	}
	return nil
}

// digest tells values apart without showing them.
func (j *comparer) digest(v any) string {
	text, err := json.Marshal(v)
	if err != nil {
		return plaintext.Mask
	}
	return "[secret " + j.key.Digest(text)[:8] + "]"
}

// scrubbed removes known secret values from whatever is printed.
func (j *comparer) scrubbed(v any) any {
	switch node := v.(type) {
	case string:
		return j.want.scrub.Scrub(node)
	case map[string]any, []any:
		text, err := json.Marshal(node)
		if err != nil {
			return plaintext.Mask
		}
		var out any
		if utiljson.Unmarshal([]byte(j.want.scrub.Scrub(string(text))), &out) != nil {
			return plaintext.Mask
		}
		return out
	}
	return v
}

// valuesOf returns what a Secret of the cluster holds.
func valuesOf(secret *unstructured.Unstructured) []plaintext.Value {
	data, _, _ := unstructured.NestedStringMap(secret.Object, "data")
	out := make([]plaintext.Value, 0, len(data))
	for _, text := range data {
		if raw, err := base64.StdEncoding.DecodeString(text); err == nil {
			out = append(out, plaintext.New(raw))
		}
	}
	return out
}
