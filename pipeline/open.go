package pipeline

import (
	"context"
	"errors"

	"sealock.dev/sealock/fault"
	"sealock.dev/sealock/manifest"
)

// opening is a Secret that will be written, and the object that it comes from.
type opening struct {
	owner    manifest.Object
	produced manifest.Produced
}

// openObjects opens all sealed and external secrets, and reports every one that fails. Where one only waits for an
// object that the same commit brings (the service account that it logs in as), a judged first wave makes that object.
func (r *run) openObjects(ctx context.Context, set []manifest.Object, res *Result) ([]manifest.Object, []opening, error) {
	r.enter(fault.StageOpen)
	out, waiting, err := r.openEach(ctx, set, set)
	if set, err = r.spare(set, err); err != nil || len(waiting) == 0 {
		return set, out, err
	}
	if err := r.firstWave(ctx, set, waiting, res); err != nil {
		return set, nil, err
	}
	r.enter(fault.StageOpen)
	var owners []manifest.Object
	for _, w := range waiting {
		owners = append(owners, w.owner)
	}
	rest, waiting, err := r.openEach(ctx, owners, set)
	errs := []error{err}
	for _, w := range waiting {
		errs = append(errs, w.err)
	}
	set, err = r.spare(set, errors.Join(errs...))
	return set, append(out, rest...), err
}

// waiting is an object that cannot be opened before its prerequisites are in the cluster.
type waiting struct {
	owner manifest.Object
	needs []manifest.ID
	err   error
}

// openEach opens what can be opened. A NotFound of an object with prerequisites in the set is not final.
func (r *run) openEach(ctx context.Context, objects, set []manifest.Object) (out []opening, later []waiting, err error) {
	var errs []error
	for _, o := range objects {
		for _, opener := range r.Openers {
			if !opener.Opens(o) {
				continue
			}
			p, err := opener.Open(ctx, r.req.Grant, o, set)
			if err == nil {
				r.scrub.Add(p.Secret.Values()...)
				out = append(out, opening{owner: o, produced: p})
				break
			}
			if needs := opener.Prerequisites(o, set); len(needs) > 0 && fault.KindOf(err) == fault.NotFound {
				w := waiting{owner: o, err: err}
				for _, i := range needs {
					w.needs = append(w.needs, set[i].ID())
				}
				later = append(later, w)
				break
			}
			errs = append(errs, about(err, o))
			break
		}
	}
	return out, later, errors.Join(errs...)
}

// firstWave applies the prerequisites that the set brings along and that the cluster does not have yet. The whole set is
// judged before; the opened Secrets follow with the rest. It is never partial: what fails in it fails alone afterwards.
func (r *run) firstWave(ctx context.Context, set []manifest.Object, later []waiting, res *Result) error {
	wave := needed(set, later)
	if _, err := r.judge(ctx, set, nil); err != nil {
		if r.req.Owner.Partial {
			return nil // the owners that wait fail as such; the set is judged again without them
		}
		return err
	}
	r.enter(fault.StagePlan)
	owner := r.req.Owner
	owner.Partial = false
	plan, err := r.cluster.Plan(ctx, r.req.Grant, owner, wave, nil)
	if err != nil || !plan.Changed() {
		return r.unlessPartial(err)
	}
	if err := r.record(ctx, append(plan.Union, r.req.Inventory...), res); err != nil {
		return err
	}
	r.enter(fault.StageApply)
	changes, err := r.cluster.Apply(ctx, r.req.Grant, plan, func(context.Context, int) error { return nil })
	res.Changes = append(res.Changes, changes...)
	return r.unlessPartial(err)
}

func (r *run) unlessPartial(err error) error {
	if r.req.Owner.Partial {
		return nil
	}
	return err
}

// needed returns the objects of the set that those who wait need.
func needed(set []manifest.Object, later []waiting) []manifest.Object {
	names := map[string]bool{}
	for _, w := range later {
		for _, id := range w.needs {
			names[id.String()] = true
		}
	}
	var out []manifest.Object
	for _, o := range set {
		if names[o.ID().String()] {
			out = append(out, o)
		}
	}
	return out
}
