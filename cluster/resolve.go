package cluster

import (
	"context"
	"errors"

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
