// Package expressions evaluates the CEL expressions that people write into Kustomizations: readyExpr of a dependency and
// the health check expressions of a kind (reference/flux.md, sections 1.8 and 1.9).
//
// It exists so that an expression of a tenant is one more bounded input: its size, its cost, the text that it can make
// and the time that it takes have limits, and no error that leaves the package shows a value that it looked at. It must
// not know what an answer is used for, read anything, or be handed the payload of a Secret: a yes or no about a value,
// asked often enough, is the value.
package expressions

import (
	"context"
	"errors"
	"strings"
	"sync"

	"github.com/google/cel-go/cel"
	"github.com/google/cel-go/common/types"
	"github.com/google/cel-go/ext"

	"sealock.dev/sealock/fault"
)

// The limits. Cost is counted in units of CEL: about one for each call and one for ten bytes of text.
const (
	maxBytes     = 16 << 10  // of an expression
	maxDepth     = 100       // of its nesting
	maxCost      = 1_000_000 // of one evaluation
	maxText      = 1 << 20   // bytes of text that a single call may make, and values that it may walk through
	maxPattern   = 1000      // bytes of a regular expression
	checkEvery   = 100       // steps of a loop between two looks at the context
	maxIssueText = 200
)

// Expression is a compiled expression that answers yes or no. It is immutable and safe for concurrent use.
type Expression struct {
	program cel.Program
}

// Compile type-checks an expression over the named variables, each an object as JSON decodes it. The error is Invalid
// and says where the expression is wrong.
func Compile(expr string, vars ...string) (*Expression, error) {
	env, err := base()
	if err != nil {
		return nil, err
	}
	options := make([]cel.EnvOption, 0, len(vars))
	for _, v := range vars {
		options = append(options, cel.Variable(v, cel.MapType(cel.StringType, cel.DynType)))
	}
	if env, err = env.Extend(options...); err != nil {
		return nil, fault.New("", fault.Internal, fault.Ref{}, "the variables of the expression are not valid")
	}
	if err := bounded(expr); err != nil {
		return nil, err
	}
	ast, issues := env.Compile(expr)
	if issues.Err() != nil {
		return nil, wrong(issues)
	}
	if t := ast.OutputType(); !t.IsExactType(types.BoolType) && !t.IsExactType(types.DynType) {
		return nil, fault.New("", fault.Invalid, fault.Ref{}, "the expression yields %s, not true or false", t)
	}
	return program(env, ast)
}

// Parse prepares an expression whose variables are the top-level fields of what it is evaluated on. Nothing is known of
// their types, so only its grammar is checked.
func Parse(expr string) (*Expression, error) {
	env, err := base()
	if err != nil {
		return nil, err
	}
	if err := bounded(expr); err != nil {
		return nil, err
	}
	ast, issues := env.Parse(expr)
	if issues.Err() != nil {
		return nil, wrong(issues)
	}
	return program(env, ast)
}

func bounded(expr string) error {
	if strings.TrimSpace(expr) == "" {
		return fault.New("", fault.Invalid, fault.Ref{}, "the expression is empty")
	}
	if len(expr) > maxBytes {
		return fault.New("", fault.Invalid, fault.Ref{}, "the expression is longer than %d bytes", maxBytes)
	}
	return nil
}

// wrong tells the first thing that is wrong with an expression. The text is that of the expression, not of data.
func wrong(issues *cel.Issues) error {
	list := issues.Errors()
	if len(list) == 0 {
		return fault.New("", fault.Invalid, fault.Ref{}, "the expression is not valid")
	}
	e := list[0]
	message := strings.ToValidUTF8(strings.Join(strings.Fields(e.Message), " "), "?")
	if len(message) > maxIssueText {
		message = strings.ToValidUTF8(message[:maxIssueText], "") + "..."
	}
	return fault.New("", fault.Invalid, fault.Ref{}, "the expression is wrong at %d:%d: %s", e.Location.Line(), e.Location.Column()+1, message)
}

func program(env *cel.Env, ast *cel.Ast) (*Expression, error) {
	p, err := env.Program(ast, cel.CostLimit(maxCost), cel.CostTracking(prices{}), cel.InterruptCheckFrequency(checkEvery),
		cel.CustomDecoratorV2(boundComparison))
	if err != nil {
		return nil, fault.New("", fault.Invalid, fault.Ref{}, "the expression uses a function that does not exist")
	}
	return &Expression{program: p}, nil
}

// Eval evaluates the expression. The error is Invalid, or Transient when ctx ended first, and holds none of the input.
func (e *Expression) Eval(ctx context.Context, input map[string]any) (answer bool, err error) {
	defer func() {
		if recover() != nil { // the value of the panic may hold anything
			answer, err = false, failed("it cannot be evaluated")
		}
	}()
	out, _, err := e.program.ContextEval(ctx, input)
	if err != nil {
		return false, reason(ctx, err)
	}
	yes, ok := out.Value().(bool)
	if !ok {
		return false, failed("it yields something else than true or false")
	}
	return yes, nil
}

// reason puts an error of the evaluator into fixed words: its own may quote what was looked at.
func reason(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return fault.New("", fault.Transient, fault.Ref{}, "the expression was interrupted")
	}
	if errors.Is(err, errTooMuch) {
		return failed("it makes or compares more than %d bytes, or uses too long a pattern", maxText)
	}
	for _, c := range []struct{ sign, words string }{
		{"cost limit exceeded", "it costs too much"},
		{"no such key", "a field that it reads does not exist"},
		{"no such attribute", "a field that it reads does not exist"},
		{"no such overload", "a value has another type than it expects"},
		{"index out of", "an index is out of range"},
	} {
		if strings.Contains(err.Error(), c.sign) {
			return failed("%s", c.words)
		}
	}
	return failed("it cannot be evaluated")
}

func failed(format string, args ...any) error {
	return fault.New("", fault.Invalid, fault.Ref{}, "the expression failed: "+format, args...).Fix("ask for optional fields with has() or the operator .?")
}

// base is the environment that Flux documents, with the functions that multiply text bounded. It is made once and never
// changed.
var base = sync.OnceValues(func() (*cel.Env, error) { //nolint:gochecknoglobals // a constant that is expensive to make
	options := []cel.EnvOption{
		cel.HomogeneousAggregateLiterals(),
		cel.EagerlyValidateDeclarations(true),
		cel.DefaultUTCTimeZone(true),
		cel.CrossTypeNumericComparisons(true),
		cel.OptionalTypes(),
		cel.ParserRecursionLimit(maxDepth),
		cel.ParserExpressionSizeLimit(maxBytes),
		ext.Strings(), ext.Sets(), ext.Encoders(),
	}
	env, err := cel.NewEnv(options...)
	if err == nil {
		var bounds []cel.EnvOption
		if bounds, err = boundedFunctions(env); err == nil {
			env, err = env.Extend(bounds...)
		}
	}
	if err != nil {
		return nil, fault.New("", fault.Internal, fault.Ref{}, "the expression environment cannot be made: %w", err)
	}
	return env, nil
})
