package cluster

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"sealock.dev/sealock/fault"
	"sealock.dev/sealock/manifest"
	"sealock.dev/sealock/tenants"
)

// Plan compares a resolved set with the live view and dry-runs, as the grant's identity, what is new or changed. An
// object that is in place costs no request. All failures are returned, joined; the plan is then not to be applied.
// An object whose kind or namespace comes with the same set cannot be dry-run: it is planned as created.
func (c *Client) Plan(ctx context.Context, grant tenants.Grant, owner manifest.Owner, set []manifest.Object, old []manifest.ID) (manifest.Plan, error) {
	as, by, err := c.enter(ctx, grant, owner)
	if err != nil {
		return manifest.Plan{}, err
	}
	prepared := make([]manifest.Object, len(set))
	fresh := make([]manifest.ID, len(set))
	for i, o := range set {
		prepared[i] = prepare(o, owner)
	}
	ranks := order(c.opts.StageKinds)
	ranks.sort(prepared)
	for i, o := range prepared {
		fresh[i] = o.ID()
	}
	p := &planner{Client: c, as: as, rules: by, owner: owner, key: c.ownerKey(owner), known: c.kinds.scopesOf(prepared), made: map[manifest.ID]bool{}, changed: map[manifest.ID]bool{}}
	old = slices.Concat(old, c.view.returned(p.key))
	c.view.use(p.key, kindsOf(fresh, old))
	c.view.jobs.planned(p.key, prepared)
	plan := manifest.Plan{Owner: owner, Steps: make([]manifest.Step, len(prepared))}
	plan.Prune, plan.Union = ranks.inventories(fresh, old)
	for i, o := range prepared {
		plan.Steps[i] = manifest.Step{Object: o, Stage: ranks.stageOf(o.GVK().GroupKind())}
	}
	p.all = plan.Steps
	// What the first stage makes decides what of the rest can be asked about.
	first := slices.IndexFunc(plan.Steps, func(s manifest.Step) bool { return s.Stage != stageDefinitions })
	if first < 0 {
		first = len(plan.Steps)
	}
	errs := p.steps(ctx, plan.Steps[:first])
	p.note(plan.Steps[:first])
	errs = append(errs, p.steps(ctx, plan.Steps[first:])...)
	return plan, join(errs)
}

func kindsOf(lists ...[]manifest.ID) map[schema.GroupVersionKind]struct{} {
	out := map[schema.GroupVersionKind]struct{}{}
	for _, list := range lists {
		for _, id := range list {
			out[id.GVK()] = struct{}{}
		}
	}
	return out
}

// planner is the state of one Plan.
type planner struct {
	*Client
	as    conn
	rules *rules
	owner manifest.Owner
	key   string
	known scopes

	all     []manifest.Step
	made    map[manifest.ID]bool // does not exist yet
	changed map[manifest.ID]bool // exists and will change
}

func (p *planner) note(steps []manifest.Step) {
	for _, s := range steps {
		p.made[s.Object.ID()] = s.Action == manifest.Created
		p.changed[s.Object.ID()] = s.Action == manifest.Configured
	}
}

// steps decides the action of each step, some at a time, and returns the errors in the order of the steps.
func (p *planner) steps(ctx context.Context, steps []manifest.Step) []error {
	errs := make([]error, len(steps))
	each(len(steps), func(i int) {
		errs[i] = p.step(ctx, &steps[i])
	})
	// A reference to something that the same set makes cannot be checked before it is made.
	for i := range errs {
		if errs[i] != nil && p.awaits(errs[i]) {
			steps[i].Action, errs[i] = manifest.Created, nil
		}
	}
	return slices.DeleteFunc(errs, func(err error) bool { return err == nil })
}

// each calls fn for 0..n-1, some at a time.
func each(n int, fn func(i int)) {
	var wg sync.WaitGroup
	slots := make(chan struct{}, parallel)
	for i := range n {
		slots <- struct{}{}
		wg.Go(func() {
			defer func() { <-slots }()
			fn(i)
		})
	}
	wg.Wait()
}

// notFound is a dry-run's error about something else than the object.
type notFound struct {
	error
	resource, name string
}

func (n notFound) Unwrap() error { return n.error }

// awaits reports whether err says that something is missing which the set will create.
func (p *planner) awaits(err error) bool {
	var n notFound
	if !errors.As(err, &n) {
		return false
	}
	return slices.ContainsFunc(p.all, func(s manifest.Step) bool {
		kind := strings.ToLower(s.Object.Kind())
		return s.Action == manifest.Created && s.Object.Name() == n.name && slices.Contains([]string{kind, kind + "s", kind + "es"}, n.resource)
	})
}

func (p *planner) step(ctx context.Context, s *manifest.Step) error {
	o := s.Object
	seen := observed{wanted: marksOf(o.Labels(), o.Annotations()), ownerKey: p.key}
	if seen.wanted.has(markDisabled) {
		s.Action = manifest.Skipped
		return nil
	}
	info, future, err := p.known.lookup(ctx, o.GVK())
	if errors.Is(err, errNoKind) {
		return unknownKind(o)
	}
	if err != nil {
		return clean(fault.StagePlan, err, o.Ref(), o)
	}
	if !future {
		if seen.live, err = p.Client.look(ctx, p.as, p.rules, info, o.ID()); err != nil {
			return clean(fault.StagePlan, err, o.Ref(), o)
		}
	}
	seen.desired = digestOf(p.opts.Key, []byte(o.Digest(p.opts.Key)))
	if b, ok := p.opts.Baselines.Get(p.key, o.ID()); ok {
		seen.base = &b
	}
	seen.unasked = future || info.namespaced && p.made[manifest.ID{Name: o.Namespace(), Kind: "Namespace", Version: "v1"}]
	switch decide(seen) {
	case leaveAlone:
		s.Action = manifest.Skipped
		if seen.live != nil && seen.live.owner == p.key && seen.wanted.has(markAbsentOnly) { // so that it is missed when it goes
			p.opts.Baselines.Put(p.key, o.ID(), baselineOf(o, p.owner, seen.desired, *seen.live, seen.base))
		}
		return nil
	case inPlace:
		s.Action = manifest.Unchanged
		p.moved(o, *seen.base)
		return nil
	case trust:
		s.Action = manifest.Created
		return nil
	case dryRun:
	}
	return p.ask(ctx, s, info, seen)
}

// moved notes the file and line of an object that is unchanged but stands elsewhere now.
func (p *planner) moved(o manifest.Object, b Baseline) {
	if ref := o.Ref(); ref.File != b.Origin.File || ref.Line != b.Origin.Line {
		b.Origin.File, b.Origin.Line = ref.File, ref.Line
		p.opts.Baselines.Put(p.key, o.ID(), b)
	}
}

// ask dry-runs one object.
func (p *planner) ask(ctx context.Context, s *manifest.Step, info kindInfo, seen observed) error {
	o := s.Object
	body, err := p.payload(ctx, p.as, p.rules, o, info, p.owner.FieldManager)
	if err != nil {
		return clean(fault.StagePlan, err, o.Ref(), o)
	}
	ans, err := p.as.apply(ctx, placeOf(info, o), body, p.owner.FieldManager, true)
	if err != nil {
		return p.denied(ctx, s, info, seen, err)
	}
	after := p.view.reduce.reduceAs(ans.body, p.owner.FieldManager, p.rules)
	action, remember := settle(seen, ans.created(), after)
	if remember {
		p.opts.Baselines.Put(p.key, o.ID(), baselineOf(o, p.owner, seen.desired, after, seen.base))
	}
	s.Action = action
	return nil
}

// denied decides about an object whose dry-run failed. One that the view does not show may be there without our labels, and
// marked to be left alone: it is looked at first, and where that is not possible nothing is made anew.
func (p *planner) denied(ctx context.Context, s *manifest.Step, info kindInfo, seen observed, err error) error {
	var unread error
	if seen.live == nil {
		seen.live, unread = p.hidden(ctx, s.Object, info)
	}
	switch {
	case decide(seen) == leaveAlone:
		s.Action = manifest.Skipped
		return nil
	case unread == nil && p.replaceable(ctx, s.Object, info, seen, err):
		s.Action, s.Recreate = manifest.Created, true
		return nil
	}
	s.Action, err = p.refused(s.Object, info, seen, err)
	return err
}

// hidden returns the metadata of an object that the view does not show, nil when it does not exist.
func (p *planner) hidden(ctx context.Context, o manifest.Object, info kindInfo) (*entry, error) {
	ans, err := p.as.getMeta(ctx, placeOf(info, o))
	if apierrors.IsNotFound(err) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	e := p.view.reduce.reduceAs(ans.body, p.owner.FieldManager, p.rules)
	return &e, nil
}

// refused turns the failure of a dry-run into an error, unless it says nothing about the object.
func (p *planner) refused(o manifest.Object, info kindInfo, seen observed, err error) (manifest.Action, error) {
	unknown := manifest.Created
	if seen.live != nil {
		unknown = manifest.Configured
	}
	if crd, ours := p.known.crd[info.gvk.GroupKind()]; ours && (p.made[crd] || p.changed[crd]) && !apierrors.IsForbidden(err) {
		return unknown, nil // judged by the definition that is about to be replaced
	}
	if apierrors.IsBadRequest(err) && strings.Contains(err.Error(), "does not support dry run") {
		return unknown, nil // a webhook with side effects: only the write can tell
	}
	cleaned := clean(fault.StagePlan, err, o.Ref(), o)
	var status apierrors.APIStatus
	if apierrors.IsNotFound(err) && errors.As(err, &status) && status.Status().Details != nil {
		d := status.Status().Details
		if role, _ := o.Peek("roleRef", "name").(string); role == d.Name && strings.HasSuffix(o.Kind(), "RoleBinding") {
			// The authorizer that looks the role up names it as if it were the binding.
			kind, _ := o.Peek("roleRef", "kind").(string)
			missing := fault.New(fault.StagePlan, fault.NotFound, o.Ref(), "the %s %q does not exist", kind, role).At("roleRef").Fix("add it to the commit, or have it created")
			return "", notFound{error: missing, resource: strings.ToLower(kind) + "s", name: role}
		}
		return "", notFound{error: cleaned, resource: d.Kind, name: d.Name}
	}
	return "", cleaned
}

// look returns what is live of an object, nil when the view shows nothing. A kind that the controller may not watch is
// read object by object as the identity. An error is never taken for absence.
func (c *Client) look(ctx context.Context, as conn, by *rules, info kindInfo, id manifest.ID) (*entry, error) {
	w, state, err := c.view.watch(ctx, info)
	switch state {
	case watchLive:
		e, ok := w.lookup(nsName{id.Namespace, id.Name})
		if !ok {
			return nil, nil
		}
		if e.rules == by.print {
			return &e, nil
		}
		fallthrough // it was read by other rules than its owner has now
	case watchForbidden:
		ans, err := as.get(ctx, place{kind: info, namespace: id.Namespace, name: id.Name})
		if apierrors.IsNotFound(err) {
			return nil, nil
		}
		if err != nil {
			return nil, err
		}
		e := c.view.reduce.reduceAs(ans.body, c.opts.FieldManager, by)
		if w != nil && state == watchLive {
			w.reread(nsName{id.Namespace, id.Name}, e)
		}
		return &e, nil
	case watchMissing:
		c.kinds.forget(ctx)
		return nil, err
	case watchStarting, watchFailed:
	}
	return nil, err
}
