package expressions

import (
	"errors"
	"slices"
	"strings"

	"github.com/google/cel-go/cel"
	"github.com/google/cel-go/common/functions"
	"github.com/google/cel-go/common/operators"
	"github.com/google/cel-go/common/types"
	"github.com/google/cel-go/common/types/ref"
	"github.com/google/cel-go/common/types/traits"
	"github.com/google/cel-go/interpreter"
)

// errTooMuch is what a bounded function answers instead of doing the work.
var errTooMuch = errors.New("more than is allowed")

// prices charges every call by the text that goes in and comes out. Without it an expression whose types are unknown
// would pay one unit for each call.
type prices struct{}

// CallCost implements interpreter.ActualCostEstimator.
func (prices) CallCost(function, _ string, args []ref.Val, result ref.Val) *uint64 {
	total := size(result)
	for _, a := range args {
		total += size(a)
	}
	cost := 1 + total/10
	if function == "contains" && len(args) == 2 {
		cost *= 1 + size(args[1])/10
	}
	return &cost
}

// size returns the bytes of a text, 0 of anything else.
func size(v ref.Val) uint64 {
	switch t := v.(type) {
	case types.String:
		return uint64(len(t))
	case types.Bytes:
		return uint64(len(t))
	}
	return 0
}

// weigh counts the values below v and the bytes of their texts, and gives up, with false, when more than limit is left
// over. What is shared counts each time: ten lists of two can hold a thousand values.
func weigh(v ref.Val, limit int) (int, bool) {
	limit -= 1 + int(size(v)) // a text in memory is no longer than an int
	if limit < 0 {
		return limit, false
	}
	each, ok := v.(traits.Iterable)
	if !ok {
		return limit, true
	}
	m, isMap := v.(traits.Mapper)
	for it := each.Iterator(); it.HasNext() == types.True; {
		item := it.Next()
		if limit, ok = weigh(item, limit); !ok {
			return limit, false
		}
		if isMap {
			if limit, ok = weigh(m.Get(item), limit); !ok {
				return limit, false
			}
		}
	}
	return limit, true
}

// tooMuch says, before the work is done, that a call would make or walk through too much.
func tooMuch(function string, args []ref.Val) bool {
	switch function {
	case "matches":
		return len(args) == 2 && size(args[1]) > maxPattern
	case "replace":
		if len(args) < 3 {
			return false
		}
		text, _ := args[0].(types.String)
		before, _ := args[1].(types.String)
		after, _ := args[2].(types.String)
		return len(text)+strings.Count(string(text), string(before))*len(after) > maxText
	case "join":
		limit, ok := weigh(args[0], maxText)
		if l, sized := args[0].(traits.Sizer); ok && sized && len(args) == 2 {
			n, _ := l.Size().(types.Int)
			return int64(n)*int64(size(args[1])) > int64(limit)
		}
		return !ok
	}
	limit := maxText
	for _, a := range args {
		left, ok := weigh(a, limit)
		if !ok {
			return true
		}
		limit = left
	}
	return false
}

// boundedFunctions declares anew, with a bound in front, the functions whose work can be out of proportion to what they
// cost: those that multiply text, and those that walk through nested values at once.
func boundedFunctions(env *cel.Env) ([]cel.EnvOption, error) {
	var out []cel.EnvOption
	for _, name := range []string{"replace", "join", "format", "sets.contains", "sets.equivalent", "sets.intersects"} {
		f := env.Functions()[name]
		if f == nil {
			return nil, errors.New("the function " + name + " does not exist")
		}
		bindings, err := f.Bindings()
		if err != nil {
			return nil, err
		}
		for _, o := range f.OverloadDecls() {
			i := slices.IndexFunc(bindings, func(b *functions.Overload) bool { return b.Operator == o.ID() })
			if i < 0 {
				return nil, errors.New("the function " + name + " has no implementation")
			}
			declare := cel.Overload
			if o.IsMemberFunction() {
				declare = cel.MemberOverload
			}
			out = append(out, cel.Function(name, declare(o.ID(), o.ArgTypes(), o.ResultType(), bind(name, bindings[i], len(o.ArgTypes())))))
		}
	}
	return out, nil
}

func bind(name string, to *functions.Overload, args int) cel.OverloadOpt {
	call := func(args ...ref.Val) ref.Val {
		if tooMuch(name, args) {
			return types.WrapErr(errTooMuch)
		}
		switch {
		case len(args) == 1 && to.Unary != nil:
			return to.Unary(args[0])
		case len(args) == 2 && to.Binary != nil:
			return to.Binary(args[0], args[1])
		}
		return to.Function(args...)
	}
	switch args {
	case 1:
		return cel.UnaryBinding(func(v ref.Val) ref.Val { return call(v) })
	case 2:
		return cel.BinaryBinding(func(a, b ref.Val) ref.Val { return call(a, b) })
	}
	return cel.FunctionBinding(call)
}

// boundComparison replaces the comparisons, which CEL plans in its own way and cannot interrupt.
func boundComparison(i interpreter.InterpretableV2) (interpreter.InterpretableV2, error) {
	call, ok := i.(interpreter.InterpretableCall)
	if !ok || len(call.Args()) != 2 {
		return i, nil
	}
	switch call.Function() {
	case operators.Equals, operators.NotEquals, operators.In, "matches":
		return comparison{call}, nil
	}
	return i, nil
}

// comparison is one of ==, !=, in and matches.
type comparison struct{ interpreter.InterpretableCall }

// Eval implements interpreter.Interpretable.
func (c comparison) Eval(a interpreter.Activation) ref.Val { return c.Exec(interpreter.AsFrame(a)) }

// Exec implements interpreter.InterpretableV2.
func (c comparison) Exec(frame *interpreter.ExecutionFrame) ref.Val {
	args := c.Args()
	a := args[0].Exec(frame)
	if types.IsUnknownOrError(a) {
		return a
	}
	b := args[1].Exec(frame)
	if types.IsUnknownOrError(b) {
		return b
	}
	if tooMuch(c.Function(), []ref.Val{a, b}) {
		return types.WrapErr(errTooMuch)
	}
	switch c.Function() {
	case operators.Equals:
		return types.Equal(a, b)
	case operators.NotEquals:
		return types.Bool(types.Equal(a, b) != types.True)
	}
	if text, ok := a.(traits.Matcher); ok && c.Function() == "matches" {
		return text.Match(b)
	}
	if container, ok := b.(traits.Container); ok && c.Function() == operators.In {
		return container.Contains(a)
	}
	return types.NewErr("no such overload")
}
