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
func (c *Client) Unready(ctx context.Context, grant tenants.Grant, owner manifest.Owner, ids []manifest.ID) ([]manifest.Unready, error) {
	as, by, err := c.enter(ctx, grant, owner)
	if err != nil {
		return nil, err
	}
	key := c.ownerKey(owner)
	h := healthReader{Client: c, as: as, rules: by, grant: grant, owner: key, foreign: map[manifest.ID]struct{}{}}
	defer func() { c.view.unfollow(key, h.foreign) }()
	var out []manifest.Unready
	var errs []error
	for _, id := range ids {
		u, err := h.unready(ctx, id)
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

// healthReader is the state of one Unready.
type healthReader struct {
	*Client
	as      conn
	rules   *rules
	grant   tenants.Grant
	owner   string
	foreign map[manifest.ID]struct{} // not in the view, and not healthy: followed one by one
}

func (c *healthReader) unready(ctx context.Context, id manifest.ID) (*manifest.Unready, error) {
	if w, live := c.view.peek(id.GVK()); live {
		// The view sees with the controller's rights: it answers only about what the asking namespace applied.
		if e, ok := w.lookup(nsName{id.Namespace, id.Name}); ok && strings.HasPrefix(e.owner, c.grant.Namespace+"/") && (e.rules == c.rules.print || e.rules == 0 && len(c.rules.health) == 0) {
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
	to := place{kind: info, namespace: id.Namespace, name: id.Name}
	ans, err := c.as.get(ctx, to)
	if apierrors.IsNotFound(err) && c.view.jobs.mayBeMissing(c.owner, id) {
		return nil, nil
	}
	if apierrors.IsNotFound(err) {
		c.follow(id, to)
		return &manifest.Unready{ID: id, Status: "NotFound"}, nil
	}
	if err != nil {
		return nil, err
	}
	if w, live := c.view.peek(id.GVK()); live { // it was read by other rules than its owner has now
		if e := c.view.reduce.reduceAs(ans.body, c.opts.FieldManager, c.rules); e.owner == c.owner {
			w.reread(nsName{id.Namespace, id.Name}, e)
			return verdict(id, e.health, e.message), nil
		}
	}
	h, message := c.rules.healthOf(ctx, ans.body)
	if h != healthCurrent {
		c.follow(id, to)
	}
	return verdict(id, h, message), nil
}

// follow watches one object that the view does not show, until it is no longer waited for.
func (c *healthReader) follow(id manifest.ID, at place) {
	c.foreign[id] = struct{}{}
	c.view.follow(c.owner, id, c.as, at)
}

func verdict(id manifest.ID, h health, message string) *manifest.Unready {
	if h == healthCurrent {
		return nil
	}
	return &manifest.Unready{ID: id, Status: h.String(), Message: message}
}
