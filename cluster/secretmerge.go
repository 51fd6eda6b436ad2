package cluster

import (
	"maps"

	"sealock.dev/sealock/fault"
	"sealock.dev/sealock/manifest"
	"sealock.dev/sealock/plaintext"
)

const (
	sealedManaged   = "sealedsecrets.bitnami.com/managed"
	sealedPatch     = "sealedsecrets.bitnami.com/patch"
	externalManaged = "reconcile.external-secrets.io/managed"
)

// claim is what may be done with an existing Secret.
type claim struct {
	allowed   bool
	merge     bool // what is not ours stays
	reference bool // the owner becomes its controller
}

// claimOf decides whether the producer may write to an existing Secret. It is pure.
// Rules: reference/sealing-sops.md 1.5 and 1.7, reference/external-secrets.md 1.3.
func claimOf(p manifest.Produced, uid string, live liveSecret) claim {
	c := claim{merge: p.Merge, reference: p.OwnerReference}
	annotations, labels := live.object.Annotations(), live.object.Labels()
	managed, patch := annotations[sealedManaged] == "true", annotations[sealedPatch] == "true"
	controller := live.controller()
	controlled := controller != nil && uid != "" && controller["uid"] == uid
	if p.Adopt == manifest.AdoptOwned && patch {
		c.merge, c.reference = true, p.OwnerReference && (managed || controlled)
	}
	switch {
	case controlled:
		c.allowed = true
	case p.Adopt == manifest.AdoptOwned && (managed || patch):
		c.allowed = true
	case p.Adopt == manifest.AdoptOwned:
		// One that the same producer made without a reference to itself, as its template asked.
		c.allowed = controller == nil && !p.OwnerReference && len(ownedKeys(live.owners, p.FieldManager, "data")) > 0
	case controller != nil:
		// Completing a Secret of another kind's controller is what Merge is for; another owner of our kind is a conflict.
		c.allowed = p.Merge && controller["kind"] != p.Owner.Kind
	default:
		c.allowed = p.Merge || labels[externalManaged] == "true"
	}
	return c
}

// merge makes of the existing Secret what is to be written. It is pure; nothing is revealed.
func merge(stage fault.Stage, p manifest.Produced, uid string, live liveSecret) (manifest.Object, manifest.Action, error) {
	ref := p.Secret.Ref()
	may := claimOf(p, uid, live)
	if !may.allowed {
		return manifest.Object{}, "", unclaimed(stage, p, live)
	}
	typ, _ := p.Secret.Peek("type").(string)
	if typ == "" || may.merge && typ == "Opaque" {
		typ = live.typ // completing a Secret does not say of which type it is
	}
	if typ != live.typ {
		return manifest.Object{}, "", fault.New(stage, fault.Invalid, ref, "the existing Secret has type %q, and the type cannot be changed to %q", live.typ, typ).
			At("type").Fix("delete the Secret so that it is created anew, or keep the type")
	}
	had, data := live.object.SecretData(), p.Secret.SecretData()
	labels, annotations := p.Secret.Labels(), p.Secret.Annotations()
	if may.merge {
		data = overlay(had, data, ownedKeys(live.owners, p.FieldManager, "data"))
		labels = overlay(live.object.Labels(), labels, ownedKeys(live.owners, p.FieldManager, "metadata", "labels"))
		annotations = overlay(live.object.Annotations(), annotations, ownedKeys(live.owners, p.FieldManager, "metadata", "annotations"))
	}
	sameData := maps.EqualFunc(had, data, plaintext.Value.Equal)
	if live.immutable && !sameData {
		return manifest.Object{}, "", fault.New(stage, fault.Conflict, ref, "the existing Secret is immutable and its data would change").
			At("immutable").Fix("delete the Secret so that it is created anew")
	}
	references, sameRefs := references(p, uid, live, may)
	if sameData && sameRefs && maps.Equal(labels, live.object.Labels()) && maps.Equal(annotations, live.object.Annotations()) {
		return manifest.Object{}, manifest.Unchanged, nil
	}
	next := manifest.NewSecret(ref.Namespace, ref.Name, typ, data, p.Secret.Origin, p.Secret.Source).WithMeta(labels, annotations)
	return next.Edit(func(body map[string]any) {
		meta, _ := body["metadata"].(map[string]any)
		meta["resourceVersion"] = live.version
		if f := live.object.Peek("metadata", "finalizers"); f != nil {
			meta["finalizers"] = f
		}
		if len(references) > 0 {
			meta["ownerReferences"] = references
		}
		if live.immutable {
			body["immutable"] = true
		}
	}), manifest.Configured, nil
}

// overlay sets the new entries over the old ones, without those that were ours and are no longer produced.
func overlay[V any](old, fresh map[string]V, ours map[string]bool) map[string]V {
	out := make(map[string]V, len(old)+len(fresh))
	for k, v := range old {
		if !ours[k] {
			out[k] = v
		}
	}
	maps.Copy(out, fresh)
	return out
}

// references returns the owner references to write, and whether they are those that are there.
func references(p manifest.Produced, uid string, live liveSecret, may claim) ([]any, bool) {
	is := func(v any) bool { m, _ := v.(map[string]any); return uid != "" && m["uid"] == uid }
	var kept []any
	mine := false
	for _, r := range live.references {
		switch m, _ := r.(map[string]any); {
		case is(r):
			mine = m["controller"] == true
			if may.reference || may.merge && !p.OwnerReference {
				kept = append(kept, r)
			}
		case may.merge, m["controller"] != true:
			kept = append(kept, r)
		}
	}
	if may.reference && !mine && uid != "" {
		kept = append(kept, reference(p, uid))
	}
	if may.reference && uid == "" { // a dry-run before the owner exists: the references cannot be known
		return kept, true
	}
	same := len(kept) == len(live.references) && (mine || !may.reference)
	return kept, same
}

// unclaimed says why an existing Secret is not taken over, in the peer's words where it has some.
func unclaimed(stage fault.Stage, p manifest.Produced, live liveSecret) error {
	ref := p.Secret.Ref()
	if c := live.controller(); c != nil && p.Adopt != manifest.AdoptOwned {
		kind, _ := c["kind"].(string)
		name, _ := c["name"].(string)
		return fault.New(stage, fault.Conflict, ref, "the Secret is owned by %s %q", kind, name).Fix("choose another target name, or delete the other owner")
	}
	err := fault.New(stage, fault.Conflict, ref, "Resource %q already exists and is not managed by %s", ref.Name, p.Owner.Kind)
	if p.Adopt == manifest.AdoptOwned {
		return err.Fix("delete the Secret, or annotate it with %s=true to have it taken over, or %s=true to have it completed", sealedManaged, sealedPatch)
	}
	return err.Fix("delete the Secret, label it with %s=true, or use creationPolicy Merge", externalManaged)
}
