package cluster

import (
	"context"
	"errors"

	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"sealock.dev/sealock/fault"
	"sealock.dev/sealock/manifest"
	"sealock.dev/sealock/tenants"
)

// Prune deletes, as the grant's identity, what the plan says. It asks about each object first, and deletes only the
// very object whose owner labels it has seen. Survivors are those that could not be asked about or deleted, and belong
// in the inventory; objects that are somebody else's, or marked to stay, are forgotten.
func (c *Client) Prune(ctx context.Context, grant tenants.Grant, plan manifest.Plan) (deleted []manifest.Change, survivors []manifest.ID, err error) {
	as, err := c.as(grant)
	if err != nil {
		return nil, plan.Prune, err
	}
	key := c.ownerKey(plan.Owner)
	c.watchKinds(ctx, plan.Prune)
	p := pruner{Client: c, as: as, grant: grant, key: key, kept: c.uidsOf(plan)}
	var errs []error
	for _, id := range plan.Prune {
		was, err := p.one(ctx, id)
		if unserved(err) && c.kinds.stale() { // what is remembered of the kind is out of date
			c.kinds.forget(ctx)
			was, err = p.one(ctx, id)
		}
		if err != nil {
			c.view.departed.forget(key, id)
			errs = append(errs, clean(fault.StagePrune, err, id.Ref()))
			survivors = append(survivors, id)
			continue
		}
		c.opts.Baselines.Forget(key, id)
		if was {
			deleted = append(deleted, manifest.Change{ID: id, Action: manifest.Deleted})
		}
	}
	return deleted, survivors, join(errs)
}

// uidsOf returns the uids of what a plan has applied.
func (c *Client) uidsOf(plan manifest.Plan) map[string]bool {
	out := make(map[string]bool, len(plan.Steps))
	for _, s := range plan.Steps {
		if b, ok := c.opts.Baselines.Get(c.ownerKey(plan.Owner), s.Object.ID()); ok {
			out[b.UID] = true
		}
	}
	return out
}

// pruner is the state of one Prune.
type pruner struct {
	*Client
	as    conn
	grant tenants.Grant
	key   string
	kept  map[string]bool // by uid: an object may be served under two groups, and stand under the other one in the set
}

// one reports whether the object was deleted. Without an error it is done with.
func (c *pruner) one(ctx context.Context, id manifest.ID) (bool, error) {
	info, err := c.kinds.lookup(ctx, id.GVK(), true)
	if errors.Is(err, errNoKind) {
		if c.kinds.surelyGone(ctx, id.GVK().GroupKind()) {
			return false, nil // with the kind its objects went
		}
		return false, fault.New(fault.StagePrune, fault.Transient, id.Ref(), "the API server does not serve the kind at the moment").Fix("it is tried again")
	}
	if err != nil {
		return false, err
	}
	if info.namespaced && !c.grant.AllowsNamespace(id.Namespace) || !info.namespaced && !c.grant.AllowsClusterKind(id.Group, id.Kind) {
		return false, fault.New(fault.StagePrune, fault.Denied, id.Ref(), "the tenant may not delete it (any more)").
			Fix("let the platform team delete it, or give the tenant its namespace or kind back")
	}
	to := place{kind: info, namespace: id.Namespace, name: id.Name}
	gone := departure{kind: info, grant: c.grant}
	c.view.departed.note(c.key, id, gone) // before it is asked about: what is made between is seen
	ans, err := c.as.getMeta(ctx, to)
	if apierrors.IsNotFound(err) && !unserved(err) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	live := c.view.reduce.reduceAs(ans.body, c.opts.FieldManager, nil)
	fate := condemn(live, c.key)
	if c.kept[live.uid] {
		fate = forgetIt
	}
	switch fate {
	case forgetIt:
		c.view.departed.forget(c.key, id)
		return false, nil
	case goneIt:
		return false, nil
	case deleteIt:
	}
	gone.uid = live.uid
	c.view.departed.note(c.key, id, gone)
	stays := func() {}
	if w, watched := c.view.peek(info.gvk); watched {
		stays = w.leave(nsName{id.Namespace, id.Name})
	}
	if err := c.as.delete(ctx, to, live.uid); err != nil && (unserved(err) || !apierrors.IsNotFound(err)) {
		stays()
		return false, err
	}
	return true, nil
}
