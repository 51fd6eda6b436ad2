package main

import (
	"bytes"
	"slices"
	"strings"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/structured-merge-diff/v6/fieldpath"
	"sigs.k8s.io/structured-merge-diff/v6/value"
)

// manager is who wrote fields of an object, by metadata.managedFields.
type manager struct {
	Name      string    `json:"manager"`
	Operation string    `json:"operation"`
	At        time.Time `json:"at,omitzero"`
	Fields    []string  `json:"fields"`
	// Overridden says that the next apply takes the fields back.
	Overridden bool `json:"overridden,omitempty"`
}

// managersOf returns who wrote the object, the latest first. Subresources are left out: a status is nobody's manifest.
func managersOf(obj metav1.Object) (applied time.Time, others []manager) {
	for _, entry := range obj.GetManagedFields() {
		if entry.Subresource != "" {
			continue
		}
		var at time.Time
		if entry.Time != nil {
			at = entry.Time.Time
		}
		if entry.Manager == applyManager && entry.Operation == metav1.ManagedFieldsOperationApply {
			applied = at
			continue
		}
		fields := fieldsIn(entry)
		if len(fields) == 0 {
			continue // a controller that wrote its status before there were subresources
		}
		others = append(others, manager{
			Name: entry.Manager, Operation: string(entry.Operation), At: at, Fields: fields,
			Overridden: overridden(entry),
		})
	}
	slices.SortStableFunc(others, func(a, b manager) int { return b.At.Compare(a.At) })
	return applied, others
}

// overridden reports an entry whose fields the next apply takes over (reference/flux.md, section 1.7): what people write
// with kubectl, and what the manager of applies itself once wrote by Update.
func overridden(entry metav1.ManagedFieldsEntry) bool {
	update := entry.Operation == metav1.ManagedFieldsOperationUpdate
	return entry.Subresource == "" && (strings.HasPrefix(entry.Manager, "kubectl") || update && (entry.Manager == "before-first-apply" || entry.Manager == applyManager))
}

func setOf(entry metav1.ManagedFieldsEntry) *fieldpath.Set {
	set := fieldpath.NewSet()
	if entry.FieldsV1 == nil || set.FromJSON(bytes.NewReader(entry.FieldsV1.GetRawBytes())) != nil {
		return fieldpath.NewSet()
	}
	return set
}

// takenBack removes from body, what a dry run says of an object, the fields that only a manager whom the apply overrides
// has written: a dry run leaves them, the apply does not.
func takenBack(body map[string]any, live, after metav1.Object, ours string) {
	theirs, kept := fieldpath.NewSet(), fieldpath.NewSet()
	for _, entry := range live.GetManagedFields() {
		if overridden(entry) {
			theirs = theirs.Union(setOf(entry))
		} else if entry.Manager != ours {
			kept = kept.Union(setOf(entry))
		}
	}
	for _, entry := range after.GetManagedFields() {
		if entry.Manager == ours && entry.Operation == metav1.ManagedFieldsOperationApply {
			kept = kept.Union(setOf(entry))
		}
	}
	gone := theirs.Difference(kept)
	// Items of lists first: without its key a field of one is not found any more.
	for path := range gone.All() {
		if path[len(path)-1].FieldName == nil {
			without(body, path)
		}
	}
	for path := range gone.Leaves().All() {
		without(body, path)
	}
}

// without returns v less what is at the path, and less the mappings and lists that are empty then.
func without(v any, path fieldpath.Path) any {
	step, rest := path[0], path[1:]
	switch node := v.(type) {
	case map[string]any:
		if step.FieldName == nil {
			return v
		}
		child, ok := node[*step.FieldName]
		if ok && len(rest) > 0 {
			child = without(child, rest)
			node[*step.FieldName] = child
		}
		if ok && (len(rest) == 0 || isEmpty(child)) {
			delete(node, *step.FieldName)
		}
		return node
	case []any:
		var kept []any
		for _, item := range node {
			if !isItem(item, step) {
				kept = append(kept, item)
			} else if len(rest) > 0 {
				kept = append(kept, without(item, rest))
			}
		}
		return kept
	}
	return v
}

func isEmpty(v any) bool {
	switch node := v.(type) {
	case map[string]any:
		return len(node) == 0
	case []any:
		return len(node) == 0
	}
	return false
}

// isItem reports whether a path means this item of a list, by its keys or by its value.
func isItem(item any, step fieldpath.PathElement) bool {
	if step.Value != nil {
		return value.Equals(value.NewValueInterface(item), *step.Value)
	}
	m, ok := item.(map[string]any)
	if !ok || step.Key == nil {
		return false
	}
	for _, k := range *step.Key {
		v, ok := m[k.Name]
		if !ok || !value.Equals(value.NewValueInterface(v), k.Value) {
			return false
		}
	}
	return true
}

// fieldsIn returns the fields of an entry as paths, without those of its status and of the bookkeeping of others.
func fieldsIn(entry metav1.ManagedFieldsEntry) []string {
	var out []string
	for path := range setOf(entry).Leaves().All() {
		text := strings.TrimPrefix(path.String(), ".")
		if text != "" && !strings.HasPrefix(text, "status") && text != `metadata.annotations.kubectl.kubernetes.io/last-applied-configuration` {
			out = append(out, text)
		}
	}
	slices.Sort(out)
	return out
}
