package cluster

import (
	"context"
	"errors"
	"strings"

	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"sealock.dev/sealock/fault"
	"sealock.dev/sealock/manifest"
	"sealock.dev/sealock/tenants"
)

// Unready returns those of the objects that are not healthy: from the view where they were applied from the grant's own
// namespace, else as the identity may see them. It does not wait.
func (c *Client) Unready(ctx context.Context, grant tenants.Grant, _ manifest.Owner, ids []manifest.ID) ([]manifest.Unready, error) {
	as, err := c.as(grant)
	if err != nil {
		return nil, err
	}
	var out []manifest.Unready
	var errs []error
	for _, id := range ids {
		u, err := c.unready(ctx, as, grant, id)
		if err != nil {
			errs = append(errs, clean(fault.StageHealth, err, id.Ref()))
			continue
		}
		if u != nil {
			out = append(out, *u)
		}
	}
	return out, join(errs)
}

func (c *Client) unready(ctx context.Context, as conn, grant tenants.Grant, id manifest.ID) (*manifest.Unready, error) {
	if w, live := c.view.peek(id.GVK()); live {
		// The view sees with the controller's rights: it answers only about what the asking namespace applied.
		if e, ok := w.lookup(nsName{id.Namespace, id.Name}); ok && strings.HasPrefix(e.owner, grant.Namespace+"/") {
			return verdict(id, e.health, e.message), nil
		}
	}
	info, err := c.kinds.lookup(ctx, id.GVK(), true)
	if errors.Is(err, errNoKind) {
		return &manifest.Unready{ID: id, Status: "NotFound", Message: "the cluster does not know the kind"}, nil
	}
	if err != nil {
		return nil, err
	}
	ans, err := as.get(ctx, place{kind: info, namespace: id.Namespace, name: id.Name})
	if apierrors.IsNotFound(err) {
		return &manifest.Unready{ID: id, Status: "NotFound"}, nil
	}
	if err != nil {
		return nil, err
	}
	h, message := healthOf(ans.body)
	return verdict(id, h, message), nil
}

func verdict(id manifest.ID, h health, message string) *manifest.Unready {
	if h == healthCurrent {
		return nil
	}
	return &manifest.Unready{ID: id, Status: h.String(), Message: message}
}
