package main

import (
	"bytes"
	"slices"
	"strings"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/structured-merge-diff/v6/fieldpath"
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
			Overridden: strings.HasPrefix(entry.Manager, "kubectl") || entry.Operation == metav1.ManagedFieldsOperationUpdate && (entry.Manager == "before-first-apply" || entry.Manager == applyManager),
		})
	}
	slices.SortStableFunc(others, func(a, b manager) int { return b.At.Compare(a.At) })
	return applied, others
}

// fieldsIn returns the fields of an entry as paths, without those of its status and of the bookkeeping of others.
func fieldsIn(entry metav1.ManagedFieldsEntry) []string {
	set := fieldpath.NewSet()
	if entry.FieldsV1 == nil || set.FromJSON(bytes.NewReader(entry.FieldsV1.GetRawBytes())) != nil {
		return nil
	}
	var out []string
	for path := range set.Leaves().All() {
		text := strings.TrimPrefix(path.String(), ".")
		if text != "" && !strings.HasPrefix(text, "status") && text != `metadata.annotations.kubectl.kubernetes.io/last-applied-configuration` {
			out = append(out, text)
		}
	}
	slices.Sort(out)
	return out
}
