// Package pipeline is the straight line that every commit takes into a cluster.
//
// It exists so that a newcomer reads in one minute what happens to a commit, in which order, and what stops it. It
// declares the stages as small interfaces and knows none of their packages, no front end and no Kubernetes client. It
// must not hold state between runs, wait for anything, or decide what a stage decides.
package pipeline

import (
	"context"
	"errors"
	"io/fs"

	"sealock.dev/sealock/fault"
	"sealock.dev/sealock/manifest"
	"sealock.dev/sealock/plaintext"
	"sealock.dev/sealock/tenants"
)

// Source yields the files of one revision.
type Source interface {
	Tree(ctx context.Context) (files fs.FS, revision string, err error)
}

// FileOpener decrypts the files of one commit.
type FileOpener interface {
	// OpenFiles decrypts files that the build will read; each decrypted value becomes a token.
	OpenFiles(ctx context.Context, files fs.FS, tokens *plaintext.Tokens) (fs.FS, error)
	// OpenSecrets decrypts encrypted files that stand in Secrets which the build made. A set together with an error has
	// those opened that could be.
	OpenSecrets(ctx context.Context, set []manifest.Object) ([]manifest.Object, error)
}

// Renderer makes objects of files. digest identifies the rendered text, tokens included. A set together with an error
// holds the objects that do not depend on what failed.
type Renderer interface {
	Render(ctx context.Context, files fs.FS, tokens *plaintext.Tokens) (set []manifest.Object, digest string, err error)
}

// Opener makes Secrets of one kind of object: SealedSecret, ExternalSecret.
type Opener interface {
	// Opens reports whether the object is of the opener's kind.
	Opens(o manifest.Object) bool
	// Prerequisites returns the indexes of the objects of the set that must be in the cluster before o can be opened.
	Prerequisites(o manifest.Object, set []manifest.Object) []int
	// Open returns the Secret that o yields. set is where it looks, before the cluster, for what o refers to.
	Open(ctx context.Context, grant tenants.Grant, o manifest.Object, set []manifest.Object) (manifest.Produced, error)
}

// Judge evaluates the policies on a whole set, and returns all violations. revision is where the set comes from.
type Judge interface {
	Judge(ctx context.Context, grant tenants.Grant, set []manifest.Object, revision string) ([]fault.Violation, error)
}

// Cluster compares with, and writes to, one cluster, as the identity of the grant.
type Cluster interface {
	// Resolve sets the namespace of namespaced objects that have none, and refuses what the grant does not allow.
	Resolve(ctx context.Context, grant tenants.Grant, set []manifest.Object) ([]manifest.Object, error)
	// Plan decides what the set needs, and dry-runs it. It writes nothing.
	Plan(ctx context.Context, grant tenants.Grant, owner manifest.Owner, set []manifest.Object, old []manifest.ID) (manifest.Plan, error)
	// Apply writes the changed objects of the plan, stage by stage. after is called when a stage is done.
	Apply(ctx context.Context, grant tenants.Grant, plan manifest.Plan, after func(ctx context.Context, stage int) error) ([]manifest.Change, error)
	// WriteSecret writes a Secret that an opener made, with the controller's rights. With dryRun it only asks.
	WriteSecret(ctx context.Context, p manifest.Produced, dryRun bool) (manifest.Change, error)
	// Prune deletes what the plan says, and returns what it deleted and what is still there.
	Prune(ctx context.Context, grant tenants.Grant, plan manifest.Plan) (deleted []manifest.Change, survivors []manifest.ID, err error)
	// Settled reports whether every object is live just as it was applied, by what is known without asking about any. False
	// says only that a plan has to tell.
	Settled(ctx context.Context, grant tenants.Grant, owner manifest.Owner, ids []manifest.ID) (bool, error)
	// Unready returns those of the objects that are not healthy by the owner's rules. It does not wait.
	Unready(ctx context.Context, grant tenants.Grant, owner manifest.Owner, ids []manifest.ID) ([]manifest.Unready, error)
}

// StageOwners is the stage of a plan after which the Secrets that openers made are written: their owners exist then,
// and no workload of the same commit does yet.
const StageOwners = 3

// Engine runs commits. One Engine serves all front ends.
type Engine struct {
	Openers []Opener
	Judge   Judge
	Cluster Cluster
	Key     plaintext.Key // of this installation; tokens are derived with it
}

// Request is one commit to bring into the cluster.
type Request struct {
	Cluster   Cluster // nil: that of the engine
	Grant     tenants.Grant
	Owner     manifest.Owner
	Source    Source
	Decrypter FileOpener // nil: files stay as they are
	Renderer  Renderer
	Inventory []manifest.ID // what the last run left
	Prune     bool
	// Health returns, of the applied objects, those to wait for. nil: none.
	Health func(applied []manifest.ID) []manifest.ID
	// Progress is told when a stage begins. It may be nil.
	Progress func(stage fault.Stage, revision string)
	// Record persists the inventory before the first write of an object; without a write it is not called. An error stops
	// the run.
	Record func(ctx context.Context, union []manifest.ID) error
}

// Result is what came of a Request.
type Result struct {
	Revision  string
	Digest    string        // of the rendered text, tokens included
	Inventory []manifest.ID // valid unless Untouched
	Applied   []manifest.ID // what is in place, without what is skipped on purpose; valid without Err
	Untouched bool          // the inventory of the Request still holds
	Changes   []manifest.Change
	Warnings  []fault.Violation
	Unready   []manifest.Unready
	Secrets   []manifest.Change
	Err       error // safe to show
	Partial   bool  // Err tells all that failed; everything else of the set is in place
}

// Run brings one commit into the cluster, or says why not. Up to the plan nothing is written.
func (e *Engine) Run(ctx context.Context, req Request) (res Result) {
	run := &run{Engine: e, cluster: e.Cluster, req: req, tokens: plaintext.NewTokens(e.Key), scrub: plaintext.NewScrubber(), stage: fault.StageSource, spared: newSpared()}
	if req.Cluster != nil {
		run.cluster = req.Cluster
	}
	res.Untouched = true
	defer func() {
		if p := recover(); p != nil {
			// The value of the panic may hold anything: it is not shown.
			res.Err = fault.New(run.stage, fault.Internal, req.Owner.Ref, "the %s stage panicked", run.stage).Fix("report it; the commit is retried")
		}
		res.Err = run.safe(res.Err)
	}()

	files, revision, err := run.source(ctx)
	if res.Revision = revision; err != nil {
		return fail(res, err)
	}
	if files, err = run.openFiles(ctx, files); err != nil {
		return fail(res, err)
	}
	set, digest, err := run.render(ctx, files)
	if res.Digest = digest; err != nil {
		return fail(res, err)
	}
	if set, err = run.openSecrets(ctx, set); err != nil {
		return fail(res, err)
	}
	set, produced, err := run.openObjects(ctx, set, &res)
	if err != nil {
		return fail(res, err)
	}
	if set, produced, err = run.judgeSet(ctx, set, produced, &res); err != nil {
		return fail(res, err)
	}
	plan, produced, err := run.plan(ctx, set, produced)
	if err != nil {
		return fail(res, err)
	}
	if err = run.apply(ctx, plan, produced, &res); err != nil {
		return fail(res, err)
	}
	if err = run.prune(ctx, plan, &res); err != nil {
		return fail(res, err)
	}
	if err := run.spared.err(); err != nil {
		res.Partial = true
		return fail(res, err)
	}
	return fail(res, run.health(ctx, &res))
}

func fail(res Result, err error) Result { res.Err = err; return res }

// run is the state of one Run.
type run struct {
	*Engine
	cluster  Cluster
	req      Request
	tokens   *plaintext.Tokens
	scrub    *plaintext.Scrubber
	stage    fault.Stage
	revision string
	spared   spared
}

func (r *run) enter(stage fault.Stage) {
	r.stage = stage
	if r.req.Progress != nil {
		r.req.Progress(stage, r.revision)
	}
}

func (r *run) source(ctx context.Context) (fs.FS, string, error) {
	r.enter(fault.StageSource)
	files, revision, err := r.req.Source.Tree(ctx)
	r.revision = revision
	return files, revision, err
}

func (r *run) openFiles(ctx context.Context, files fs.FS) (fs.FS, error) {
	if r.req.Decrypter == nil {
		return files, nil
	}
	r.enter(fault.StageDecrypt)
	opened, err := r.req.Decrypter.OpenFiles(ctx, files, r.tokens)
	r.scrub.Add(r.tokens.Values()...)
	if err != nil && opened != nil && r.req.Owner.Partial {
		r.spared.files(r.safe(err)) // what reads one of these files will fail again, alone
		return opened, nil
	}
	return opened, err
}

func (r *run) render(ctx context.Context, files fs.FS) ([]manifest.Object, string, error) {
	r.enter(fault.StageRender)
	set, digest, err := r.req.Renderer.Render(ctx, files, r.tokens)
	r.scrub.Add(r.tokens.Values()...)
	if err != nil && (!r.req.Owner.Partial || len(set) == 0) {
		return nil, digest, err
	}
	if err != nil {
		r.spared.files(r.safe(err))
	}
	for _, o := range set {
		r.scrub.Add(o.Values()...)
	}
	if set, err = r.resolve(ctx, set); err != nil {
		return nil, digest, err
	}
	set, err = r.spare(set, unique(set))
	return set, digest, err
}

// openSecrets opens what only the finished Secrets show to be encrypted files.
func (r *run) openSecrets(ctx context.Context, set []manifest.Object) ([]manifest.Object, error) {
	if r.req.Decrypter == nil {
		return set, nil
	}
	r.enter(fault.StageDecrypt)
	opened, err := r.req.Decrypter.OpenSecrets(ctx, set)
	for _, o := range opened {
		r.scrub.Add(o.Values()...)
	}
	return r.spare(opened, err)
}

// resolve asks the cluster where the objects belong.
func (r *run) resolve(ctx context.Context, set []manifest.Object) ([]manifest.Object, error) {
	resolved, err := r.cluster.Resolve(ctx, r.req.Grant, set)
	if err == nil {
		return resolved, nil
	}
	if set, err = r.spare(set, err); err != nil {
		return nil, err
	}
	r.spared.all = true // without a namespace nobody knows which entries of the inventory they are
	return r.cluster.Resolve(ctx, r.req.Grant, set)
}

// unique refuses a set in which one object stands twice: which of them would win depends on the order of files. The same
// object in two versions of its kind is one entry of the inventory, and one object.
func unique(set []manifest.Object) error {
	seen := map[string]fault.Ref{}
	var errs []error
	for _, o := range set {
		id := o.ID().String()
		if first, twice := seen[id]; twice {
			errs = append(errs, fault.New(fault.StageRender, fault.Invalid, o.Ref(), "the object also stands in %s:%d", first.File, first.Line).Fix("remove one of them"))
			continue
		}
		seen[id] = o.Ref()
	}
	return errors.Join(errs...)
}

func (r *run) record(ctx context.Context, union []manifest.ID, res *Result) error {
	seen := map[string]bool{}
	var ids []manifest.ID
	for _, id := range union {
		if !seen[id.String()] {
			seen[id.String()] = true
			ids = append(ids, id)
		}
	}
	res.Inventory, res.Untouched = ids, false
	if r.req.Record == nil {
		return nil
	}
	return r.req.Record(ctx, ids)
}

// judgeSet judges what would be applied. Where the others may go on, what is denied is taken out and the rest judged
// again: a policy may have counted on it.
func (r *run) judgeSet(ctx context.Context, set []manifest.Object, opened []opening, res *Result) ([]manifest.Object, []opening, error) {
	for {
		warnings, err := r.judge(ctx, set, opened)
		res.Warnings = warnings
		if err == nil {
			return set, opened, nil
		}
		rest, err := r.spare(set, onOwners(err, opened))
		if err != nil {
			return nil, nil, err
		}
		set, opened = rest, of(rest, opened)
	}
}

func (r *run) judge(ctx context.Context, set []manifest.Object, opened []opening) ([]fault.Violation, error) {
	r.enter(fault.StageJudge)
	all := append([]manifest.Object(nil), set...)
	for _, o := range opened {
		if !o.produced.Keep {
			all = append(all, o.produced.Secret)
		}
	}
	if err := r.fence(set); err != nil {
		return nil, err
	}
	violations, err := r.Judge.Judge(ctx, r.req.Grant, all, r.revision)
	if err != nil {
		return nil, err
	}
	var warnings []fault.Violation
	for i := range violations {
		violations[i].Message = r.scrub.Scrub(violations[i].Message)
		if violations[i].Warn {
			warnings = append(warnings, violations[i])
		}
	}
	return warnings, fault.Denial(violations)
}

// fence refuses decrypted values, and those of variables that a Secret gave, outside Secrets: whoever writes to the
// repository, or only a Kustomization, could otherwise turn a Secret into a ConfigMap without having the key or a right to
// read it. The platform alone may, as its GitOps can read everything anyway.
func (r *run) fence(set []manifest.Object) error {
	if r.req.Grant.Platform {
		return nil
	}
	var errs []error
	for _, o := range set {
		if field, outside := o.OpenedOutsideSecret(); outside {
			errs = append(errs, fault.New(fault.StageJudge, fault.Denied, o.Ref(), "a decrypted value stands outside a Secret").At(field).
				Fix("keep decrypted values in Secrets"))
		}
	}
	return errors.Join(errs...)
}

func (r *run) plan(ctx context.Context, set []manifest.Object, opened []opening) (manifest.Plan, []opening, error) {
	r.enter(fault.StagePlan)
	plan, err := r.cluster.Plan(ctx, r.req.Grant, r.req.Owner, set, r.req.Inventory)
	errs := []error{err}
	for _, o := range opened {
		if o.produced.Keep {
			continue
		}
		if _, err := r.cluster.WriteSecret(ctx, o.produced, true); err != nil {
			errs = append(errs, about(err, o.owner))
		}
	}
	if !r.req.Prune || r.spared.all {
		plan.Prune = nil
	}
	rest, err := r.spare(set, onOwners(errors.Join(errs...), opened))
	if err != nil {
		return plan, nil, err
	}
	r.spared.takeOut(&plan)
	return plan, of(rest, opened), nil
}

func (r *run) apply(ctx context.Context, plan manifest.Plan, opened []opening, res *Result) error {
	r.enter(fault.StageApply)
	if plan.Changed() {
		if err := r.record(ctx, plan.Union, res); err != nil {
			return err
		}
	}
	changes, err := r.cluster.Apply(ctx, r.req.Grant, plan, func(ctx context.Context, stage int) error {
		if stage != StageOwners {
			return nil
		}
		return r.writeSecrets(ctx, opened, res)
	})
	res.Changes = append(res.Changes, changes...)
	return r.spareSteps(plan, err)
}

func (r *run) writeSecrets(ctx context.Context, opened []opening, res *Result) error {
	var errs []error
	for _, o := range opened {
		if o.produced.Keep {
			continue
		}
		change, err := r.cluster.WriteSecret(ctx, o.produced, false)
		if err != nil {
			errs = append(errs, about(err, o.owner))
			continue
		}
		if change.Action != manifest.Unchanged {
			res.Secrets = append(res.Secrets, change)
		}
	}
	err := errors.Join(errs...)
	if err != nil && r.req.Owner.Partial {
		r.spared.note(r.safe(err)) // the owners are applied, the rest goes on
		return nil
	}
	return err
}

// prune deletes what left the set, and says what is there now.
func (r *run) prune(ctx context.Context, plan manifest.Plan, res *Result) error {
	res.Inventory, res.Applied = r.spared.inventory(plan, r.req.Inventory)
	res.Untouched = false
	if len(plan.Prune) == 0 {
		return nil
	}
	r.enter(fault.StagePrune)
	deleted, survivors, err := r.cluster.Prune(ctx, r.req.Grant, plan)
	res.Changes = append(res.Changes, deleted...)
	res.Inventory = append(res.Inventory, survivors...)
	return err
}

func (r *run) health(ctx context.Context, res *Result) error {
	if r.req.Health == nil {
		return nil
	}
	ids := r.req.Health(res.Applied)
	if len(ids) > 0 {
		r.enter(fault.StageHealth)
	}
	// Asked about none as well: what an earlier run waited for is then watched no more.
	unready, err := r.cluster.Unready(ctx, r.req.Grant, r.req.Owner, ids)
	res.Unready = unready
	return err
}

// safe returns err with every known secret value removed from its text, keeping its classification.
func (r *run) safe(err error) error {
	if err == nil {
		return nil
	}
	if joined, ok := err.(interface{ Unwrap() []error }); ok {
		var out []error
		for _, each := range joined.Unwrap() {
			out = append(out, r.safe(each))
		}
		return errors.Join(out...)
	}
	var f *fault.Error
	if !errors.As(err, &f) {
		return fault.New(r.stage, fault.Internal, r.req.Owner.Ref, "%s", r.scrub.Scrub(err.Error()))
	}
	c := *f
	if c.Stage == "" {
		c.Stage = r.stage
	}
	if f.Err != nil {
		c.Err = errors.New(r.scrub.Scrub(f.Err.Error()))
	}
	c.Field, c.Remedy = r.scrub.Scrub(c.Field), r.scrub.Scrub(c.Remedy)
	return &c
}
