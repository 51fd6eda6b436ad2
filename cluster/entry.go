package cluster

import (
	"context"
	"strconv"
	"unique"

	"k8s.io/apimachinery/pkg/runtime/schema"

	"sealock.dev/sealock/plaintext"
)

// entry is what is kept of a live object: a few hundred bytes, and nothing that could tell a value.
type entry struct {
	uid     string
	owner   string // "namespace/name" of the owner labels
	message string // why it is not healthy, "" when it is
	by      string // the manager other than ours that wrote last, "" when there is none
	version uint64 // resource version
	owned   digest // of the fields that our manager applied
	rules   uint32 // the owner's rules by which it was read
	marks   marks
	health  health
}

// reducer makes entries of decoded objects.
type reducer struct {
	key                             plaintext.Key
	manager                         string
	override                        []string
	ownerLabel, ownerNamespaceLabel string
	rulesOf                         func(owner string) *rules // nil: nobody has any
}

// reduce reads a body as the owner that its labels name wants it read.
func (r reducer) reduce(body map[string]any) entry {
	owner := r.ownerOf(stringMap(body, "metadata", "labels"))
	if r.rulesOf == nil {
		return r.reduceAs(body, r.manager, nil)
	}
	return r.reduceAs(body, r.manager, r.rulesOf(owner))
}

// reduceAs is reduce for a field manager and rules of the caller's.
func (r reducer) reduceAs(body map[string]any, manager string, by *rules) entry {
	labels, annotations := stringMap(body, "metadata", "labels"), stringMap(body, "metadata", "annotations")
	e := entry{
		uid:   text(body, "metadata", "uid"),
		owner: r.ownerOf(labels),
		marks: marksOf(labels, annotations),
	}
	// A version that is no number counts as older than every other.
	e.version, _ = strconv.ParseUint(text(body, "metadata", "resourceVersion"), 10, 64)
	if text(body, "metadata", "deletionTimestamp") != "" {
		e.marks |= markTerminating
	}
	owners := ownersOf(body)
	var ignored []pointer
	if by != nil && by.print != 0 {
		e.rules = by.print
		gvk := schema.FromAPIVersionAndKind(text(body, "apiVersion"), text(body, "kind"))
		name := [3]string{text(body, "metadata", "name"), text(body, "metadata", "namespace")}
		ignored = by.ignored([3]string{gvk.Group, gvk.Version, gvk.Kind}, name, labels, annotations)
	}
	e.owned = ownedDigest(r.key, body, owners, manager, ignored)
	for _, o := range owners {
		if o.overridden(manager, r.override...) && !e.marks.has(markMerge) {
			e.marks |= markOverridden
		}
	}
	e.by = lastWriter(owners, manager)
	e.health, e.message = by.healthOf(context.Background(), body) // bounded by the cost of its expressions
	return e
}

// lastWriter returns the manager other than ours that wrote the object itself last.
func lastWriter(owners []owner, manager string) string {
	name, latest := "", ""
	for _, o := range owners {
		if o.Manager != manager && o.Subresource == "" && o.Time >= latest { // RFC 3339 in UTC sorts as text
			name, latest = o.Manager, o.Time
		}
	}
	return unique.Make(name).Value()
}

func (r reducer) ownerOf(labels map[string]string) string {
	name := labels[r.ownerLabel]
	if name == "" {
		return ""
	}
	return labels[r.ownerNamespaceLabel] + "/" + name
}
