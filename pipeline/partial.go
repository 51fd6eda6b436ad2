package pipeline

import (
	"errors"

	"sealock.dev/sealock/fault"
	"sealock.dev/sealock/manifest"
)

// spared keeps account of what fails while the rest goes on, which the owner of a commit may choose (Owner.Partial). What
// fails stays as it is in the cluster: it is neither written nor pruned, and stays in the inventory if it was there.
type spared struct {
	errs  []error
	said  map[string]bool
	ids   map[string]bool // objects that failed, by inventory id
	wrote map[string]bool // those of them that failed while they were written
	all   bool            // nobody knows which objects failed: nothing is pruned
}

func newSpared() spared {
	return spared{said: map[string]bool{}, ids: map[string]bool{}, wrote: map[string]bool{}}
}

// note remembers failures, each once.
func (s *spared) note(err error) {
	for _, f := range fault.All(err) {
		if !s.said[f.Error()] {
			s.said[f.Error()] = true
			s.errs = append(s.errs, f)
		}
	}
}

// files remembers failures of files: which objects are missing cannot be known.
func (s *spared) files(err error) {
	s.note(err)
	s.all = true
}

func (s *spared) err() error { return errors.Join(s.errs...) }

// about makes sure that an error names the object that failed.
func about(err error, o manifest.Object) error {
	list := fault.All(err)
	if len(list) == 0 {
		return err
	}
	out := make([]error, len(list))
	for i, f := range list {
		c := *f
		if c.Ref.Kind == "" {
			c.Ref = o.Ref()
		}
		out[i] = &c
	}
	if len(out) == 1 {
		return out[0]
	}
	return errors.Join(out...)
}

// same reports whether the references name one object, wherever it stands.
func same(a, b fault.Ref) bool {
	return a.APIVersion == b.APIVersion && a.Kind == b.Kind && a.Namespace == b.Namespace && a.Name == b.Name
}

// onOwners turns errors about a Secret that an opener made into errors about the object that it comes from.
func onOwners(err error, opened []opening) error {
	list, ok := classified(err)
	if !ok || len(list) == 0 {
		return err
	}
	out := make([]error, len(list))
	for i, f := range list {
		c := *f
		for _, o := range opened {
			if same(f.Ref, o.produced.Secret.Ref()) {
				c.Ref = o.owner.Ref()
			}
		}
		out[i] = &c
	}
	return errors.Join(out...)
}

// classified returns the errors in err, and false when one of them says nothing of what it is about.
func classified(err error) ([]*fault.Error, bool) {
	if joined, ok := err.(interface{ Unwrap() []error }); ok { // the tree is walked by hand to find all of them
		var out []*fault.Error
		for _, each := range joined.Unwrap() {
			list, ok := classified(each)
			if !ok {
				return nil, false
			}
			out = append(out, list...)
		}
		return out, true
	}
	if err == nil {
		return nil, true
	}
	list := fault.All(err)
	return list, len(list) > 0
}

// of returns the openings whose owner is still in the set.
func of(set []manifest.Object, opened []opening) []opening {
	there := map[string]bool{}
	for _, o := range set {
		there[o.ID().String()] = true
	}
	var out []opening
	for _, o := range opened {
		if there[o.owner.ID().String()] {
			out = append(out, o)
		}
	}
	return out
}

// spare takes the objects that err is about out of the set when the owner wants the others to go on. An error that is
// about anything else is returned: it concerns all.
func (r *run) spare(set []manifest.Object, err error) ([]manifest.Object, error) {
	if err == nil {
		return set, nil
	}
	rest, bad, ok := r.divide(set, err)
	if !ok {
		return nil, err
	}
	r.spared.note(r.safe(err))
	for _, o := range bad {
		r.spared.ids[o.ID().String()] = true
	}
	if len(rest) == 0 {
		return nil, r.spared.err()
	}
	return rest, nil
}

// divide finds the objects that err is about; not ok means that it concerns all.
func (r *run) divide(set []manifest.Object, err error) (rest, bad []manifest.Object, ok bool) {
	failures, ok := classified(err)
	if !ok || !r.req.Owner.Partial {
		return nil, nil, false
	}
	failed := make([]bool, len(set))
	for _, f := range failures {
		found := false
		for i, o := range set {
			if same(f.Ref, o.Ref()) {
				failed[i], found = true, true
			}
		}
		if !found {
			return nil, nil, false
		}
	}
	for i, o := range set {
		if failed[i] {
			bad = append(bad, o)
		} else {
			rest = append(rest, o)
		}
	}
	return rest, bad, true
}

// spareSteps does for the writes of a plan what spare does for a set. A write that failed may have happened all the same:
// its object stays in the inventory.
func (r *run) spareSteps(plan manifest.Plan, err error) error {
	if err == nil {
		return nil
	}
	set := make([]manifest.Object, 0, len(plan.Steps))
	for _, s := range plan.Steps {
		set = append(set, s.Object)
	}
	_, bad, ok := r.divide(set, err)
	if !ok {
		return err
	}
	r.spared.note(r.safe(err))
	for _, o := range bad {
		id := o.ID().String()
		r.spared.ids[id], r.spared.wrote[id] = true, true
	}
	return nil
}

// takeOut leaves the steps of a plan that failed undone, and keeps them, and what failed before, from being pruned.
func (s *spared) takeOut(plan *manifest.Plan) {
	if len(s.ids) == 0 {
		return
	}
	for i := range plan.Steps {
		if s.ids[plan.Steps[i].Object.ID().String()] {
			plan.Steps[i].Action = ""
		}
	}
	var prune []manifest.ID
	for _, id := range plan.Prune {
		if !s.ids[id.String()] {
			prune = append(prune, id)
		}
	}
	plan.Prune = prune
}

// inventory returns what is in the cluster after a plan was applied, and what of it is in place as the set says.
func (s *spared) inventory(plan manifest.Plan, old []manifest.ID) (all, applied []manifest.ID) {
	had := map[string]bool{}
	for _, id := range old {
		had[id.String()] = true
	}
	there := map[string]bool{}
	for _, step := range plan.Steps {
		id := step.Object.ID()
		text := id.String()
		switch {
		case !s.ids[text]:
			if step.Action != manifest.Skipped {
				applied = append(applied, id)
			}
		case !had[text] && !s.wrote[text]:
			continue
		}
		there[text] = true
		all = append(all, id)
	}
	for _, id := range old {
		if text := id.String(); !there[text] && (s.all || s.ids[text]) {
			all = append(all, id)
		}
	}
	return all, applied
}
