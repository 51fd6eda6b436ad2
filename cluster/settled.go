package cluster

import (
	"context"
	"errors"

	"sealock.dev/sealock/fault"
	"sealock.dev/sealock/manifest"
	"sealock.dev/sealock/tenants"
)

// Settled reports whether every object of an inventory is live just as it was applied, by what was persisted of the last
// apply. It starts the watches that the owner needs, so that later changes are events. It costs one list for each kind
// that is not watched yet, and nothing else. False means only that a plan has to tell.
func (c *Client) Settled(ctx context.Context, grant tenants.Grant, owner manifest.Owner, ids []manifest.ID) (bool, error) {
	_, by, err := c.enter(ctx, grant, owner)
	if err != nil {
		return false, err
	}
	key := c.ownerKey(owner)
	if len(c.view.returned(key)) > 0 {
		return false, nil
	}
	c.view.use(key, kindsOf(ids))
	for _, id := range ids {
		info, err := c.kinds.lookup(ctx, id.GVK(), false)
		if errors.Is(err, errNoKind) {
			return false, nil
		}
		if err != nil {
			return false, clean(fault.StagePlan, err, id.Ref())
		}
		w, state, err := c.view.watch(ctx, info)
		if state != watchLive {
			if state == watchForbidden || state == watchMissing {
				return false, nil
			}
			return false, clean(fault.StagePlan, err, id.Ref())
		}
		live, there := w.lookup(nsName{id.Namespace, id.Name})
		if there && live.marks.has(markDisabled) {
			continue
		}
		base, known := c.opts.Baselines.Get(key, id)
		if there && known && base.Once && live.owner == key && !live.marks.has(markTerminating) {
			continue
		}
		if !there || !known || live.owner != key || live.rules != by.print || live.marks.has(markTerminating) || base.UID != live.uid ||
			base.Owned != live.owned || live.owned == (digest{}) || live.marks.has(markOverridden) {
			return false, nil
		}
	}
	return true, nil
}
