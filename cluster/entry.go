package cluster

import (
	"strconv"

	"sealock.dev/sealock/plaintext"
)

// entry is what is kept of a live object: a few hundred bytes, and nothing that could tell a value.
type entry struct {
	uid     string
	owner   string // "namespace/name" of the owner labels
	message string // why it is not healthy, "" when it is
	version uint64 // resource version
	owned   digest // of the fields that our manager applied
	marks   marks
	health  health
}

// reducer makes entries of decoded objects.
type reducer struct {
	key                             plaintext.Key
	manager                         string
	ownerLabel, ownerNamespaceLabel string
}

func (r reducer) reduce(body map[string]any) entry {
	return r.reduceAs(body, r.manager)
}

// reduceAs is reduce for a field manager of the caller's.
func (r reducer) reduceAs(body map[string]any, manager string) entry {
	labels := stringMap(body, "metadata", "labels")
	e := entry{
		uid:   text(body, "metadata", "uid"),
		owner: r.ownerOf(labels),
		marks: marksOf(labels, stringMap(body, "metadata", "annotations")),
	}
	// A version that is no number counts as older than every other.
	e.version, _ = strconv.ParseUint(text(body, "metadata", "resourceVersion"), 10, 64)
	if text(body, "metadata", "deletionTimestamp") != "" {
		e.marks |= markTerminating
	}
	owners := ownersOf(body)
	e.owned = ownedDigest(r.key, body, owners, manager)
	for _, o := range owners {
		if o.overridden(manager) && !e.marks.has(markMerge) {
			e.marks |= markOverridden
		}
	}
	e.health, e.message = healthOf(body)
	return e
}

func (r reducer) ownerOf(labels map[string]string) string {
	name := labels[r.ownerLabel]
	if name == "" {
		return ""
	}
	return labels[r.ownerNamespaceLabel] + "/" + name
}
