package manifest

import (
	"fmt"
	"strings"

	"k8s.io/apimachinery/pkg/runtime/schema"

	"sealock.dev/sealock/fault"
)

// ID names an object in an inventory. Its text form "namespace_name_group_kind" is the contract of Flux's inventories
// (reference/flux.md, section 1.4).
type ID struct {
	Namespace string
	Name      string
	Group     string
	Kind      string
	Version   string // not part of the text form
}

// ID returns the inventory id of the object.
func (o Object) ID() ID {
	gvk := o.GVK()
	return ID{Namespace: o.Namespace(), Name: o.Name(), Group: gvk.Group, Kind: gvk.Kind, Version: gvk.Version}
}

// String returns the id as it stands in an inventory. In names of RBAC kinds ":" is written "__".
func (id ID) String() string {
	name := id.Name
	if id.Group == "rbac.authorization.k8s.io" {
		name = strings.ReplaceAll(name, ":", "__")
	}
	return strings.Join([]string{id.Namespace, name, id.Group, id.Kind}, "_")
}

// GVK returns group, version and kind.
func (id ID) GVK() schema.GroupVersionKind {
	return schema.GroupVersionKind{Group: id.Group, Version: id.Version, Kind: id.Kind}
}

// Ref names the object for errors.
func (id ID) Ref() fault.Ref {
	return fault.Ref{APIVersion: schema.GroupVersion{Group: id.Group, Version: id.Version}.String(), Kind: id.Kind, Namespace: id.Namespace, Name: id.Name}
}

// ParseID reads an inventory entry.
func ParseID(text, version string) (ID, error) {
	bad := fmt.Errorf("inventory id %q is not namespace_name_group_kind", text)
	ns, rest, ok := strings.Cut(text, "_")
	if !ok {
		return ID{}, bad
	}
	rest, kind, ok := cutLast(rest)
	if !ok || kind == "" {
		return ID{}, bad
	}
	name, group, ok := cutLast(rest)
	if !ok || name == "" {
		return ID{}, bad
	}
	if group == "rbac.authorization.k8s.io" {
		name = strings.ReplaceAll(name, "__", ":")
	}
	return ID{Namespace: ns, Name: name, Group: group, Kind: kind, Version: version}, nil
}

func cutLast(s string) (string, string, bool) {
	i := strings.LastIndexByte(s, '_')
	if i < 0 {
		return "", "", false
	}
	return s[:i], s[i+1:], true
}

// Action is what happens to an object. The words are those that users of Flux know.
type Action string

// The actions.
const (
	Created    Action = "created"
	Configured Action = "configured"
	Unchanged  Action = "unchanged"
	Skipped    Action = "skipped"
	Deleted    Action = "deleted"
)

// Change is one action on one object.
type Change struct {
	ID     ID
	Action Action
	// Version is the resource version of a produced Secret as the call left it, "" when it is not known.
	Version string
}

// String returns "Kind/namespace/name action".
func (c Change) String() string { return c.ID.Ref().String() + " " + string(c.Action) }

// Owner is the front end's object on whose behalf a set is applied.
type Owner struct {
	Ref fault.Ref
	UID string
	// Labels go on every applied object and gate its deletion.
	Labels map[string]string
	// FieldManager of the applied objects.
	FieldManager string
	// Revision of the commit, as status shows it; "" when nothing is applied.
	Revision string
	// Force deletes and makes anew an object whose immutable fields change.
	Force bool
	// Partial goes on with the other objects when one cannot be planned or written; the errors are still returned.
	Partial bool
	// Ignore are fields that others may keep.
	Ignore []IgnoreRule
	// Health says how the owner wants kinds judged, the first rule that fits; without one by kstatus.
	Health []HealthRule
}

// IgnoreRule names fields of live objects that are no drift: whoever else manages one keeps it. New objects get the
// values of the manifest (reference/flux.md, section 1.2).
type IgnoreRule struct {
	Paths  []string // JSON pointers
	Target *Selector
}

// Selector selects objects; an empty field selects all. Group to Namespace are anchored regular expressions.
type Selector struct {
	Group, Version, Kind, Name, Namespace string
	LabelSelector, AnnotationSelector     string
}

// HealthRule judges the live objects of a group and kind by CEL expressions over their fields (reference/flux.md,
// section 1.9).
type HealthRule struct {
	Group, Kind                 string // an empty Kind fits the whole group
	Current, InProgress, Failed string // InProgress and Failed may be empty
}

// Step is one object of a plan.
type Step struct {
	Object Object
	Action Action // Created, Configured, Unchanged or Skipped; "" when it could not be planned
	// Recreate says that the live object is deleted first: the API server takes the new one, and not the change.
	Recreate bool
	Stage    int // objects of a lower stage are written, and ready, before those of a higher one
}

// Plan is what a set of objects needs, decided before the first write.
type Plan struct {
	Owner Owner
	Steps []Step // in the order of writing
	Prune []ID   // in the order of deletion
	// Union is the inventory that must be recorded before the first write: everything that was or will be there.
	Union []ID
}

// Changed reports whether applying the plan would write or delete anything.
func (p Plan) Changed() bool {
	for _, s := range p.Steps {
		if s.Action == Created || s.Action == Configured {
			return true
		}
	}
	return len(p.Prune) > 0
}

// Produced is a Secret that an opener made, and how it is to be written. There is one writer, in cluster.
type Produced struct {
	// Owner is the SealedSecret or ExternalSecret. It exists before the Secret is written.
	Owner fault.Ref
	// OwnerUID is the uid of the live owner, "" when it is not known. It is never what a commit says of itself.
	OwnerUID string
	// Secret is what to write. Its Name is set even when Keep is.
	Secret Object
	// Keep says that the live Secret is valid and nothing is to be written.
	Keep bool
	// FieldManager is the one that the peer uses, so that keys which the peer once wrote and that are gone are removed.
	FieldManager string
	// OwnerReference makes the owner the controller of the Secret.
	OwnerReference bool
	// CreateIfAbsent is false where a Secret is only completed.
	CreateIfAbsent bool
	// Merge keeps keys, labels and annotations that are not ours.
	Merge bool
	// Adopt says which existing Secret may be taken over.
	Adopt Adoption
	// Immutable makes a created Secret immutable.
	Immutable bool
}

// Adoption says which existing Secret a writer may take over.
type Adoption int

// The adoptions.
const (
	// AdoptOwned takes over only a Secret that the same owner controls already, or that carries the peer's annotation
	// sealedsecrets.bitnami.com/managed or /patch.
	AdoptOwned Adoption = iota
	// AdoptManaged takes over, besides, a Secret with the label reconcile.external-secrets.io/managed that no other owner controls.
	AdoptManaged
)

// Unready is one object that is not healthy yet.
type Unready struct {
	ID      ID
	Status  string // InProgress, Failed, Terminating, NotFound, Unknown
	Message string
}

// String returns "Kind/namespace/name status: 'Status'", and the message when there is one.
func (u Unready) String() string {
	s := fmt.Sprintf("%s status: '%s'", u.ID.Ref(), u.Status)
	if u.Message != "" {
		s += ": " + u.Message
	}
	return s
}
