package policies

import (
	"context"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"github.com/open-policy-agent/opa/v1/ast"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"sealock.dev/sealock/fault"
	"sealock.dev/sealock/manifest"
	"sealock.dev/sealock/plaintext"
	"sealock.dev/sealock/tenants"
)

// Point is a place where policies are judged.
type Point string

// The points.
const (
	Commit    Point = "commit"    // sealock verify, on a laptop and in CI
	Reconcile Point = "reconcile" // the whole set of a commit, before its first write
	Admission Point = "admission" // the webhook
)

// Options of an Engine.
type Options struct {
	// Key makes the digests as which policies see the payloads of Secrets. Required: it must be the same at all points
	// of an installation for policies that compare digests.
	Key plaintext.Key
	// Now returns the time that policies see, for one set or one request. nil: the Unix epoch.
	Now func() time.Time
}

// Engine judges under one snapshot at a time. It is safe for any number of goroutines.
type Engine struct {
	options  Options
	snapshot atomic.Pointer[Snapshot]
}

// NewEngine returns an Engine without policies. Until Use it refuses everything, since it cannot know.
func NewEngine(o Options) *Engine { return &Engine{options: o} }

// Use makes s the snapshot of everything that begins from now on.
func (e *Engine) Use(s *Snapshot) { e.snapshot.Store(s) }

// Snapshot returns the snapshot in use, nil before the first Use.
func (e *Engine) Snapshot() *Snapshot { return e.snapshot.Load() }

func (e *Engine) now() time.Time {
	if e.options.Now == nil {
		return time.Unix(0, 0).UTC()
	}
	return e.options.Now()
}

// Judge judges a set at the point Reconcile. It is the Judge of the pipeline.
func (e *Engine) Judge(ctx context.Context, grant tenants.Grant, set []manifest.Object, revision string) ([]fault.Violation, error) {
	return e.JudgeAt(ctx, Reconcile, grant, set, revision)
}

// JudgeAt judges a set at the point Commit or Reconcile and returns all violations, sorted. It fails as Transient when
// the policies are not loaded or ctx ends; what it returned then is no verdict.
//
// Before apply nobody knows whether an object will be created or updated: it is judged as a CREATE, and by policies that
// look at UPDATE alone as an UPDATE without an old object.
func (e *Engine) JudgeAt(ctx context.Context, point Point, grant tenants.Grant, set []manifest.Object, revision string) ([]fault.Violation, error) {
	snap := e.Snapshot()
	if snap == nil {
		return nil, fault.New(fault.StageJudge, fault.Transient, fault.Ref{}, "the policies are not loaded yet")
	}
	facts, err := factsOf(grant)
	if err != nil {
		return nil, fault.New(fault.StageJudge, fault.Internal, fault.Ref{}, "the facts of the tenant are not JSON")
	}
	at := e.now()
	found := make([][]fault.Violation, len(set))
	work := make(chan int)
	var wait sync.WaitGroup
	for range min(runtime.GOMAXPROCS(0), len(set)) {
		wait.Go(func() {
			for i := range work {
				found[i] = e.judgeObject(ctx, snap, point, grant, facts, &set[i], revision, at)
			}
		})
	}
	for i := range set {
		work <- i
	}
	close(work)
	wait.Wait()
	if ctx.Err() != nil {
		return nil, fault.New(fault.StageJudge, fault.Transient, fault.Ref{}, "the policies were not all asked in time")
	}
	var out []fault.Violation
	for _, list := range found {
		out = append(out, list...)
	}
	fault.SortViolations(out)
	return out, nil
}

func (e *Engine) judgeObject(ctx context.Context, snap *Snapshot, point Point, grant tenants.Grant, facts *ast.Term, o *manifest.Object, revision string, at time.Time) []fault.Violation {
	s := &subject{
		point: point, gvk: o.GVK(), name: o.Name(), namespace: o.Namespace(), object: o, origin: o.Origin, revision: revision,
		tenant: grant.Tenant, facts: facts, ref: o.Ref(),
	}
	if grant.User != "" {
		s.user = &User{Username: grant.User}
	}
	return judge(ctx, snap, s, func() (*document, error) { return newDocument(s, e.options.Key) }, at)
}

// User is who asks, as the API server knows them.
type User struct {
	Username string
	UID      string
	Groups   []string
	Extra    map[string][]string
}

func (u *User) term() (*ast.Term, error) {
	fields := map[string]any{"username": u.Username}
	if u.UID != "" {
		fields["uid"] = u.UID
	}
	if len(u.Groups) > 0 {
		fields["groups"] = u.Groups
	}
	if len(u.Extra) > 0 {
		extra := map[string]any{}
		for k, v := range u.Extra {
			extra[k] = v
		}
		fields["extra"] = extra
	}
	v, err := ast.InterfaceToValue(fields)
	if err != nil {
		return nil, err
	}
	return ast.NewTerm(v), nil
}

// Review is one admission request. Objects come from manifest.New, so that the payloads of Secrets are lifted.
type Review struct {
	Kind        schema.GroupVersionKind
	Resource    schema.GroupVersionResource
	SubResource string
	Name        string // may be empty when the API server will make one
	Namespace   string // empty for cluster-scoped kinds
	Operation   string // CREATE, UPDATE, DELETE or CONNECT
	Object      *manifest.Object
	OldObject   *manifest.Object
	User        User
	DryRun      bool
	Grant       tenants.Grant
}

// Admit judges a request at the point Admission and returns all violations, sorted. What cannot be judged is denied.
func (e *Engine) Admit(ctx context.Context, r Review) []fault.Violation {
	s := &subject{
		point: Admission, operation: r.Operation, gvk: r.Kind, resource: r.Resource, sub: r.SubResource, name: r.Name, namespace: r.Namespace,
		object: r.Object, old: r.OldObject, user: &r.User, dryRun: r.DryRun, tenant: r.Grant.Tenant,
		ref: fault.Ref{APIVersion: r.Kind.GroupVersion().String(), Kind: r.Kind.Kind, Namespace: r.Namespace, Name: r.Name},
	}
	if s.operation == opDelete && s.object == nil {
		s.object = s.old
	}
	refuse := func(message string) []fault.Violation {
		return []fault.Violation{{Policy: "sealock", Ref: s.ref, Message: message, Errored: true}}
	}
	snap := e.Snapshot()
	switch {
	case snap == nil:
		return refuse("the policies are not loaded yet")
	case s.operation == "":
		return refuse("the request names no operation")
	case s.object == nil && s.operation != opConnect:
		return refuse("the request brings no object")
	}
	facts, err := factsOf(r.Grant)
	if err != nil {
		return refuse("the facts of the tenant are not JSON")
	}
	s.facts = facts
	out := judge(ctx, snap, s, func() (*document, error) { return newDocument(s, e.options.Key) }, e.now())
	fault.SortViolations(out)
	return out
}
