package cluster

import (
	"context"
	"errors"
	"slices"

	"sealock.dev/sealock/fault"
	"sealock.dev/sealock/manifest"
	"sealock.dev/sealock/tenants"
)

// Resolve gives every namespaced object a namespace, removes it from cluster-scoped ones, and refuses what the grant
// does not allow. Which is which comes from discovery and the definitions of the set, never from the object. All
// refusals are returned, joined.
func (c *Client) Resolve(ctx context.Context, grant tenants.Grant, set []manifest.Object) ([]manifest.Object, error) {
	known := c.kinds.scopesOf(set)
	out := make([]manifest.Object, 0, len(set))
	var errs []error
	for _, o := range set {
		resolved, err := resolve(ctx, known, grant, o)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		out = append(out, resolved)
	}
	if len(errs) > 0 {
		return nil, join(errs)
	}
	return out, nil
}

func resolve(ctx context.Context, known scopes, grant tenants.Grant, o manifest.Object) (manifest.Object, error) {
	info, _, err := known.lookup(ctx, o.GVK())
	if errors.Is(err, errNoKind) {
		return o, unknownKind(o)
	}
	if err != nil {
		return o, clean(fault.StagePlan, err, o.Ref())
	}
	if !info.namespaced {
		if !grant.AllowsClusterKind(info.gvk.Group, info.gvk.Kind) {
			return o, fault.New(fault.StagePlan, fault.Denied, o.Ref(), "%s is cluster-scoped, and tenant %q may not have it", info.gvk.Kind, grant.Tenant).
				Fix("take it out, or let the platform team list it in spec.clusterKinds of the Tenant")
		}
		if o.Namespace() != "" {
			o = o.WithNamespace("")
		}
		return o, nil
	}
	if o.Namespace() == "" {
		o = o.WithNamespace(grant.Namespace)
	}
	if !grant.AllowsNamespace(o.Namespace()) {
		return o, fault.New(fault.StagePlan, fault.Denied, o.Ref(), "the namespace %q is not one of tenant %q", o.Namespace(), grant.Tenant).
			At("metadata.namespace").Fix("use one of the tenant's namespaces, or let the platform team add it to the Tenant")
	}
	return o, nil
}

func unknownKind(o manifest.Object) error {
	return fault.New(fault.StagePlan, fault.NotFound, o.Ref(), "the cluster does not know %s %s", o.APIVersion(), o.Kind()).
		At("kind").Fix("install its CustomResourceDefinition, or add it to the commit")
}

// prepare makes of a resolved object what is applied: with the owner's labels, and without the fields that only the API
// server writes.
func prepare(o manifest.Object, owner manifest.Owner) manifest.Object {
	o = o.WithMeta(owner.Labels, nil)
	serverOnly := []string{"creationTimestamp", "managedFields", "resourceVersion", "uid", "generation", "selfLink", "deletionTimestamp", "deletionGracePeriodSeconds"}
	has := func(field string) bool { m, _ := o.Peek("metadata").(map[string]any); _, ok := m[field]; return ok }
	if o.Peek("status") == nil && !slices.ContainsFunc(serverOnly, has) {
		return o
	}
	return o.Edit(func(body map[string]any) {
		if !isCRD(o.GVK().GroupKind()) {
			delete(body, "status")
		}
		meta, _ := body["metadata"].(map[string]any)
		for _, f := range serverOnly {
			delete(meta, f)
		}
	})
}
