package cluster

import (
	"context"
	"errors"
	"slices"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/util/wait"

	"sealock.dev/sealock/fault"
	"sealock.dev/sealock/manifest"
	"sealock.dev/sealock/tenants"
)

// settleTime is how long a worker waits for what it just wrote of the first two stages. Flux waits a minute there; nearly
// everything is ready within a second, and what is not may take any time. So the worker is given back early and the rest of
// the commit retried: at the latest when the view tells that the health of one of these objects changed.
const settleTime = 10 * time.Second

// Apply writes the created and configured objects of a plan as the grant's identity, and calls after when a stage is
// done, also when nothing of it was written. It returns what it wrote, also with an error.
func (c *Client) Apply(ctx context.Context, grant tenants.Grant, plan manifest.Plan, after func(ctx context.Context, stage int) error) ([]manifest.Change, error) {
	as, by, err := c.enter(ctx, grant, plan.Owner)
	if err != nil {
		return nil, err
	}
	set := make([]manifest.Object, len(plan.Steps))
	key := c.ownerKey(plan.Owner)
	for i, s := range plan.Steps {
		if set[i] = s.Object; s.Action != "" {
			c.view.departed.forget(key, s.Object.ID()) // it is wanted again, also if nothing has to be written
		}
	}
	a := &applier{Client: c, as: as, rules: by, owner: plan.Owner, key: key, known: c.kinds.scopesOf(set)}
	var done []manifest.Change
	var errs []error
	for stage := range stages {
		todo := slices.DeleteFunc(slices.Clone(plan.Steps), func(s manifest.Step) bool { return s.Stage != stage || !writes(s) })
		changes, err := a.stage(ctx, todo)
		done = append(done, changes...)
		if err == nil && (stage == stageDefinitions || stage == stageClasses) {
			err = a.ready(ctx, plan.Steps, stage)
		}
		if err == nil || plan.Owner.Partial {
			err = join([]error{err, after(ctx, stage)})
		}
		if err != nil {
			if errs = append(errs, err); !plan.Owner.Partial {
				break
			}
		}
	}
	if len(errs) == 0 && !plan.Owner.Partial { // of what fails alone the plan does not say whether it is kept
		c.opts.Baselines.ForgetIf(key, letGo(plan))
	}
	return done, join(errs)
}

func writes(s manifest.Step) bool {
	return s.Action == manifest.Created || s.Action == manifest.Configured
}

// letGo names what an owner had before the plan and will not have after it, though it stays: by prune: false, or as another
// version of an object. Nothing is said of what the plan is not about.
func letGo(plan manifest.Plan) func(manifest.ID) bool {
	known, kept := map[manifest.ID]bool{}, map[manifest.ID]bool{}
	for _, id := range plan.Union {
		known[bare(id)] = true
	}
	for _, s := range plan.Steps {
		kept[s.Object.ID()] = true
	}
	for _, id := range plan.Prune {
		kept[id] = true
	}
	return func(id manifest.ID) bool { return known[bare(id)] && !kept[id] }
}

// applier is the state of one Apply.
type applier struct {
	*Client
	as    conn
	rules *rules
	owner manifest.Owner
	key   string
	known scopes
}

// stage writes objects of one stage: those of the same rank some at a time, the ranks one after another.
func (a *applier) stage(ctx context.Context, todo []manifest.Step) ([]manifest.Change, error) {
	var done []manifest.Change
	var failed []error
	for from := 0; from < len(todo); {
		to := from
		for to < len(todo) && rankOf(todo[to].Object.GVK().GroupKind()) == rankOf(todo[from].Object.GVK().GroupKind()) {
			to++
		}
		errs := make([]error, to-from)
		each(to-from, func(i int) { errs[i] = a.write(ctx, todo[from+i]) })
		for i := range errs {
			if errs[i] == nil {
				done = append(done, manifest.Change{ID: todo[from+i].Object.ID(), Action: todo[from+i].Action})
			}
		}
		if err := join(errs); err != nil {
			if failed = append(failed, err); !a.owner.Partial {
				break
			}
		}
		from = to
	}
	return done, join(failed)
}

// write applies one object, takes over what kubectl wrote into it, and remembers the answer as the baseline.
func (a *applier) write(ctx context.Context, s manifest.Step) error {
	o := s.Object
	info, future, err := a.known.lookup(ctx, o.GVK())
	if errors.Is(err, errNoKind) {
		return unknownKind(o)
	}
	if err != nil {
		return clean(fault.StageApply, err, o.Ref(), o)
	}
	if future { // the plan could not watch a kind that did not exist
		a.kinds.forget(ctx)
		_, _, _ = a.view.watch(ctx, info) //nolint:dogsled // a view that fails is seen by the next plan
	}
	release := func(*entry) {}
	if w, live := a.view.peek(info.gvk); live {
		release = w.hold(nsName{o.Namespace(), o.Name()})
	}
	if s.Recreate {
		err = a.makeWay(ctx, o, info)
	}
	var body map[string]any
	if err == nil {
		body, err = a.send(ctx, o, info)
	}
	if err != nil {
		release(nil)
		return clean(fault.StageApply, err, o.Ref(), o)
	}
	now := a.view.reduce.reduceAs(body, a.owner.FieldManager, a.rules)
	var old *Baseline
	if b, ok := a.opts.Baselines.Get(a.key, o.ID()); ok {
		old = &b
	}
	a.opts.Baselines.Put(a.key, o.ID(), baselineOf(o, a.owner, digestOf(a.opts.Key, []byte(o.Digest(a.opts.Key))), now, old))
	release(&now)
	return nil
}

// send is where the secrets of an object leave for the API server.
func (a *applier) send(ctx context.Context, o manifest.Object, info kindInfo) (map[string]any, error) {
	body, err := a.payload(ctx, a.as, a.rules, o, info, a.owner.FieldManager)
	if err != nil {
		return nil, err
	}
	to := placeOf(info, o)
	for try := 1; ; try++ {
		ans, err := a.as.apply(ctx, to, body, a.owner.FieldManager, false)
		if err != nil {
			return nil, err
		}
		ans, err = a.takeOver(ctx, o, to, ans, body)
		if apierrors.IsConflict(err) && try < attempts {
			continue // the write itself wakes who writes the status; applying once more shows what is there now, and changes nothing
		}
		return ans.body, err
	}
}

// takeOver makes the fields ours that managers which we override own in the answer to an apply, guarded by its version.
func (a *applier) takeOver(ctx context.Context, o manifest.Object, to place, ans answer, body []byte) (answer, error) {
	wanted := marksOf(o.Labels(), o.Annotations()) | marksOf(stringMap(ans.body, "metadata", "labels"), stringMap(ans.body, "metadata", "annotations"))
	if wanted.has(markMerge) {
		return ans, nil
	}
	owners, changed, leftover := takeOver(ownersOf(ans.body), a.owner.FieldManager, o.APIVersion(), a.opts.OverrideManagers...)
	if !changed {
		return ans, nil
	}
	patch, err := takeOverPatch(ans.body, owners)
	if err != nil {
		return ans, err
	}
	if ans, err = a.as.jsonPatch(ctx, to, patch, a.owner.FieldManager); err != nil || !leftover {
		return ans, err
	}
	return a.as.apply(ctx, to, body, a.owner.FieldManager, false) // now that they are ours, applying without them removes them
}

// ready waits, by the view, until what was just written of a stage can be used. What was there before, as in a retry, is not
// waited for: it is, or the rest has to come later.
func (a *applier) ready(ctx context.Context, steps []manifest.Step, stage int) error {
	ctx, cancel := context.WithTimeout(ctx, settleTime)
	defer cancel()
	needed := slices.ContainsFunc(steps, func(s manifest.Step) bool { return s.Stage > stage && writes(s) })
	defined := false
	var errs []error
	for _, s := range steps {
		o := s.Object
		gk := o.GVK().GroupKind()
		if s.Stage != stage || gk.Kind == "ClusterRole" || !writes(s) && !(needed && s.Action == manifest.Unchanged) {
			continue
		}
		defined = defined || writes(s) && isCRD(gk)
		info, _, err := a.known.lookup(ctx, o.GVK())
		if err == nil {
			err = a.current(ctx, info, o.ID(), writes(s))
		}
		if err != nil {
			errs = append(errs, fault.New(fault.StageApply, fault.Transient, o.Ref(), "it is not ready yet").Fix("the rest of the commit is tried again"))
		}
	}
	if !defined || len(errs) > 0 {
		return join(errs)
	}
	return a.served(ctx)
}

// current returns without an error if the object is healthy, or becomes so when it may be waited for.
func (a *applier) current(ctx context.Context, info kindInfo, id manifest.ID, wait bool) error {
	w, state, err := a.view.watch(ctx, info)
	key := nsName{id.Namespace, id.Name}
	switch {
	case state == watchLive && wait:
		return w.wait(ctx, key, func(e entry) bool { return e.health == healthCurrent })
	case state == watchLive:
		if e, there := w.lookup(key); !there || e.health != healthCurrent {
			return context.DeadlineExceeded
		}
		return nil
	case state != watchForbidden:
		return err
	}
	ans, err := a.as.get(ctx, place{kind: info, namespace: id.Namespace, name: id.Name})
	if err != nil {
		return err
	}
	if h, _ := healthOf(ans.body); h != healthCurrent {
		return context.DeadlineExceeded
	}
	return nil
}

// served waits until discovery lists the kinds that the set defines, which follows their establishment by a moment.
func (a *applier) served(ctx context.Context) error {
	err := wait.PollUntilContextCancel(ctx, 100*time.Millisecond, true, func(ctx context.Context) (bool, error) {
		a.kinds.forget(ctx)
		for gvk, info := range a.known.own {
			if _, err := a.kinds.find(ctx, gvk, false); err != nil {
				return false, nil //nolint:nilerr // it is asked again until the time is over
			}
			// Discovery may list a kind before its handler answers.
			_, err := a.self.getMeta(ctx, place{kind: info, namespace: "default", name: "sealock-probe"})
			if unserved(err) {
				return false, nil
			}
		}
		return true, nil
	})
	if err != nil {
		return fault.New(fault.StageApply, fault.Transient, a.owner.Ref, "a CustomResourceDefinition of the commit is not served yet").
			Fix("the rest of the commit is tried again")
	}
	return nil
}

// unserved reports a NotFound that names no object: the path itself is unknown.
func unserved(err error) bool {
	var status apierrors.APIStatus
	if !apierrors.IsNotFound(err) || !errors.As(err, &status) {
		return false
	}
	return status.Status().Details == nil || status.Status().Details.Name == ""
}
