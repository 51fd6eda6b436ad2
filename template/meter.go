package template

import (
	"context"
	"encoding/json"
	"fmt"
	"text/template"
)

const (
	tooLong  = "the template runs for too long"
	tooMuch  = "the template makes more data than the limit"
	tooDeep  = "the data is nested too deeply"
	maxDepth = 64
)

// meter is the budget of one execution. Every function call pays for what it reads and what it makes, before it makes it.
type meter struct {
	ctx    context.Context //nolint:containedctx // text/template hands no context to functions
	limits Limits
	work   int
	steps  int
}

// pay takes n bytes from the budget.
func (m *meter) pay(n int) error {
	if n < 0 || n > m.limits.Work-m.work {
		return refuse(tooMuch)
	}
	m.work += n
	return nil
}

// tick prints nothing; it counts a turn of a loop.
func (m *meter) tick() (string, error) {
	m.steps++
	if m.steps > m.limits.Steps || m.ctx.Err() != nil {
		return "", refuse(tooLong)
	}
	return "", nil
}

// function is one entry of the allow-list.
type function struct {
	min, max int // number of arguments; max < 0: any
	call     func(m *meter, args []any) (any, error)
}

// funcs binds the allow-list to this budget.
func (m *meter) funcs() template.FuncMap {
	table := functions()
	out := make(template.FuncMap, len(table))
	for name, f := range table {
		out[name] = func(args ...any) (any, error) {
			if len(args) < f.min || f.max >= 0 && len(args) > f.max {
				return nil, refuse("wrong number of arguments")
			}
			if m.ctx.Err() != nil {
				return nil, refuse(tooLong)
			}
			before := m.work
			if err := m.payFor(args); err != nil {
				return nil, err
			}
			// No function makes more than a few times what it reads; the rest of the bound is in those that repeat.
			if m.work-before > 2*m.limits.Output {
				return nil, refuse(tooMuch)
			}
			v, err := f.call(m, args)
			if err != nil {
				return nil, err
			}
			return v, m.payFor([]any{v})
		}
	}
	return out
}

// payFor takes the size of the values from the budget. It also refuses depth, so that nothing which walks a value later
// (printing, encoding) exhausts the stack.
func (m *meter) payFor(values []any) error {
	for _, v := range values {
		if err := m.weigh(v, 0); err != nil {
			return err
		}
	}
	return nil
}

func (m *meter) weigh(v any, depth int) error {
	if depth > maxDepth {
		return refuse(tooDeep)
	}
	if err := m.pay(32); err != nil { // what an element of a list takes beside its text
		return err
	}
	switch node := v.(type) {
	case string:
		return m.pay(len(node))
	case json.Number:
		return m.pay(len(node))
	case map[string]any:
		for k, each := range node {
			if err := m.pay(len(k)); err != nil {
				return err
			}
			if err := m.weigh(each, depth+1); err != nil {
				return err
			}
		}
	case map[string]string:
		for k, each := range node {
			if err := m.pay(len(k) + len(each)); err != nil {
				return err
			}
		}
	case []any:
		for _, each := range node {
			if err := m.weigh(each, depth+1); err != nil {
				return err
			}
		}
	case nil, bool, int, int64, float64:
	default:
		// text/template makes further kinds, such as reflect values of ranges over integers; all of them are small.
		return m.pay(len(fmt.Sprintf("%T", v)))
	}
	return nil
}
