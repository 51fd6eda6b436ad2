package policies

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/rego"
	kjson "sigs.k8s.io/json"

	"sealock.dev/sealock/api/sealock/v1alpha1"
	"sealock.dev/sealock/fault"
)

// Limits of one policy. The API refuses a larger module as well; files do not pass there.
const (
	maxModule    = 64 << 10
	compileLimit = 5 * time.Second
	evalLimit    = 500 * time.Millisecond
)

// Reasons of a Problem, which are those of the Ready condition.
const (
	ReasonActive        = "Active"
	ReasonCompileFailed = "CompileFailed"
	ReasonTestsFailed   = "TestsFailed"
)

// Problem says why a Policy is not in force, or why an older version of it is.
type Problem struct {
	Policy string
	Reason string       // ReasonCompileFailed or ReasonTestsFailed
	Err    *fault.Error // Invalid; names the line of the module or the test
	Kept   bool         // the last good version, from the snapshot before, stays in force
}

// compiled is one policy, ready to be evaluated by any number of goroutines.
type compiled struct {
	name       string
	digest     string // of the spec
	match      matcher
	parameters *ast.Term
	actions    map[Point]v1alpha1.Action
	onError    v1alpha1.Action
	query      rego.PreparedEvalQuery
}

// compileBounded compiles one policy and runs its tests. It ends in bounded time and survives a panic of the compiler:
// both have happened with hostile modules.
func compileBounded(p *v1alpha1.Policy) (*compiled, *Problem) {
	type result struct {
		c       *compiled
		problem *Problem
	}
	ctx, cancel := context.WithTimeout(context.Background(), compileLimit)
	defer cancel()
	done := make(chan result, 1)
	go func() {
		defer func() {
			if recover() != nil {
				done <- result{nil, broken(p, "spec.rego", "the compiler gave up")}
			}
		}()
		c, problem := compileOne(ctx, p)
		if problem == nil {
			problem = runTests(c, p)
		}
		if problem != nil {
			c = nil
		}
		done <- result{c, problem}
	}()
	// Tests are bounded one by one, so that many of them do not look like a compiler that hangs.
	limit := time.NewTimer(compileLimit + time.Duration(len(p.Spec.Tests))*2*evalLimit)
	defer limit.Stop()
	select {
	case r := <-done:
		return r.c, r.problem
	case <-limit.C:
		return nil, broken(p, "spec.rego", "the compiler took longer than %s", compileLimit)
	}
}

func broken(p *v1alpha1.Policy, field, format string, args ...any) *Problem {
	ref := fault.Ref{APIVersion: v1alpha1.GroupVersion.String(), Kind: "Policy", Name: p.Name}
	return &Problem{Policy: p.Name, Reason: ReasonCompileFailed, Err: fault.New(fault.StageJudge, fault.Invalid, ref, format, args...).At(field)}
}

func (p *Problem) fix(remedy string) *Problem { p.Err = p.Err.Fix("%s", remedy); return p }

func compileOne(ctx context.Context, p *v1alpha1.Policy) (*compiled, *Problem) {
	c := &compiled{name: p.Name, digest: specDigest(p), onError: p.Spec.OnError}
	c.actions = map[Point]v1alpha1.Action{Commit: p.Spec.Enforcement.Commit, Reconcile: p.Spec.Enforcement.Reconcile, Admission: p.Spec.Enforcement.Admission}
	var err error
	if c.match, err = newMatcher(p.Spec.Match); err != nil {
		return nil, broken(p, "spec.match", "%w", err)
	}
	parameters := map[string]any{}
	if p.Spec.Parameters != nil && len(p.Spec.Parameters.Raw) > 0 {
		if err := decodeJSON(p.Spec.Parameters.Raw, &parameters); err != nil {
			return nil, broken(p, "spec.parameters", "not a mapping").fix("write the parameters as a mapping of names to values")
		}
	}
	value, err := ast.InterfaceToValue(parameters)
	if err != nil {
		return nil, broken(p, "spec.parameters", "not JSON")
	}
	c.parameters = ast.NewTerm(value)
	module, problem := parse(p)
	if problem != nil {
		return nil, problem
	}
	compiler := ast.NewCompiler().WithCapabilities(capabilities()).WithSchemas(inputSchema()).WithUseTypeCheckAnnotations(true).
		WithDefaultRegoVersion(ast.RegoV1)
	compiler.Compile(map[string]*ast.Module{"policy.rego": module})
	if compiler.Failed() {
		return nil, compilerProblem(p, compiler.Errors)
	}
	c.query, err = rego.New(
		rego.Compiler(compiler), rego.ParsedQuery(ast.NewBody(ast.NewExpr(ast.NewTerm(denyRef())))), rego.StrictBuiltinErrors(true),
		rego.Capabilities(capabilities()),
	).PrepareForEval(ctx)
	if err != nil {
		return nil, broken(p, "spec.rego", "the module cannot be prepared for evaluation")
	}
	return c, nil
}

func denyRef() ast.Ref {
	return ast.Ref{ast.DefaultRootDocument, ast.StringTerm("sealock"), ast.StringTerm("deny")}
}

// parse returns the module after the checks that the compiler does not do.
func parse(p *v1alpha1.Policy) (*ast.Module, *Problem) {
	if len(p.Spec.Rego) > maxModule {
		return nil, broken(p, "spec.rego", "the module has %d bytes, more than the limit of %d", len(p.Spec.Rego), maxModule)
	}
	module, err := ast.ParseModuleWithOpts("policy.rego", p.Spec.Rego, ast.ParserOptions{
		Capabilities: capabilities(), RegoVersion: ast.RegoV1, ProcessAnnotation: true,
	})
	if err != nil {
		var list ast.Errors
		if errors.As(err, &list) {
			return nil, compilerProblem(p, list)
		}
		return nil, broken(p, "spec.rego", "the module cannot be parsed")
	}
	if module == nil || module.Package.Path.String() != "data.sealock" {
		return nil, broken(p, "spec.rego", "the package is not sealock").fix("begin the module with: package sealock")
	}
	sets := 0
	for _, rule := range module.Rules {
		ref := rule.Head.Ref()
		if len(ref) == 0 || ref[0].Value.String() != "deny" {
			continue
		}
		if rule.Head.RuleKind() != ast.MultiValue || len(ref) != 1 {
			return nil, broken(p, "spec.rego", "line %d: deny is not a set", rule.Location.Row).fix("write: deny contains msg if { ... }")
		}
		sets++
	}
	if sets == 0 {
		return nil, broken(p, "spec.rego", "there is no rule deny").fix("write: deny contains msg if { ... }")
	}
	if row, found := foreignData(module); found {
		return nil, broken(p, "spec.rego", "line %d: data holds nothing but the package itself", row).fix("use input only")
	}
	return module, nil
}

// foreignData finds a reference to data outside the policy's own package, also inside another reference.
func foreignData(module *ast.Module) (row int, found bool) {
	own := func(r ast.Ref) bool { return len(r) > 1 && r[1].Equal(ast.StringTerm("sealock")) }
	check := func(r ast.Ref) bool {
		if len(r) > 0 && r[0].Equal(ast.DefaultRootDocument) && !own(r) && !found {
			found = true
			if loc := r[0].Location; loc != nil {
				row = loc.Row
			}
		}
		return false // descend
	}
	for _, rule := range module.Rules {
		ast.WalkRefs(rule, check)
	}
	for _, i := range module.Imports {
		if r, ok := i.Path.Value.(ast.Ref); ok {
			check(r)
		}
	}
	return row, found
}

// compilerProblem keeps the first errors, each on a line of its own. They hold words of the module, which is no secret.
func compilerProblem(p *v1alpha1.Policy, list ast.Errors) *Problem {
	const show = 5
	var lines []string
	for i, e := range list {
		if i == show {
			lines = append(lines, fmt.Sprintf("and %d more", len(list)-show))
			break
		}
		text := e.Message
		if name, refused := refusedBuiltin(text); refused {
			text = fmt.Sprintf("the built-in %s is not available to policies", name)
		}
		if e.Location != nil {
			text = fmt.Sprintf("line %d: %s", e.Location.Row, text)
		}
		lines = append(lines, text)
	}
	return broken(p, "spec.rego", "%s", strings.Join(lines, "; "))
}

// decodeJSON keeps integers whole, as the YAML decoder does.
func decodeJSON(raw []byte, into any) error {
	return kjson.UnmarshalCaseSensitivePreserveInts(raw, into)
}

// decodeKnown is decodeJSON that refuses fields which into does not have.
func decodeKnown(raw []byte, into any) error {
	strict, err := kjson.UnmarshalStrict(raw, into)
	return errors.Join(append(strict, err)...)
}

// specDigest identifies everything that decides what a policy says.
func specDigest(p *v1alpha1.Policy) string {
	text, err := json.Marshal(p.Spec)
	if err != nil {
		return "" // never equal, see Snapshot.Next
	}
	sum := sha256.Sum256(text)
	return hex.EncodeToString(sum[:])
}
