// Package template is the one template engine of sealing and externalsecrets: Go text/template over secret values, with
// a hand-picked list of functions and a budget.
//
// It exists because a template is a program that somebody else wrote and that runs beside everybody's secrets. So it must
// not reach network, environment, disk, clock or randomness (the same input gives the same bytes), must not take more
// memory or time than its budget, and its error texts, which in text/template quote values, never leave the package:
// an error names the template, the place and the function, in words that stand in this source.
package template

import (
	"bytes"
	"context"
	"errors"
	"maps"
	"slices"
	"text/template"
	"text/template/parse"
	"time"

	"sealock.dev/sealock/fault"
	"sealock.dev/sealock/plaintext"
)

// Limits bound one execution. They are far above what honest templates of Secrets need.
type Limits struct {
	Source int           // bytes of the template
	Output int           // bytes of the result; a Secret as a whole may have 1 MiB
	Work   int           // bytes that all function calls together may read and make
	Steps  int           // turns of loops, and templates entered
	Time   time.Duration // wall clock
}

// DefaultLimits are those of the controller.
func DefaultLimits() Limits {
	return Limits{Source: 128 << 10, Output: 1 << 20, Work: 32 << 20, Steps: 50_000, Time: 2 * time.Second}
}

// Engine executes templates. It holds no state and is safe for concurrent use. The zero Engine has the DefaultLimits.
type Engine struct {
	Limits Limits
}

// source is the name that a template has inside text/template: the caller's name could imitate an error text.
const source = "t"

// Execute renders text with each value as a string under its key, and returns what it makes. A key that is not among the
// values is an error. Errors are fault.Errors without a Ref, of kind Invalid, or Transient when ctx is done; they name the
// template by name and never carry a value or text of text/template.
func (e Engine) Execute(ctx context.Context, name, text string, values map[string]plaintext.Value) (plaintext.Value, error) {
	limits := e.Limits
	if limits == (Limits{}) {
		limits = DefaultLimits()
	}
	if len(text) > limits.Source {
		return plaintext.Value{}, invalid(name, place{}, "the template is larger than the limit").Fix("keep it under %d bytes", limits.Source)
	}
	within, cancel := context.WithTimeout(ctx, limits.Time)
	defer cancel()
	m := &meter{ctx: within, limits: limits}
	t, err := compile(text, m)
	if err != nil {
		return plaintext.Value{}, explain(name, text, err)
	}
	keys := slices.Sorted(maps.Keys(values))
	list := make([]plaintext.Value, len(keys))
	for i, k := range keys {
		list[i] = values[k]
	}
	out, err := plaintext.Derive(func(parts ...[]byte) ([]byte, error) {
		dot := make(map[string]string, len(keys))
		for i, k := range keys {
			dot[k] = string(parts[i])
		}
		w := &bounded{meter: m, limit: limits.Output}
		if err := run(t, w, dot); err != nil {
			return nil, explain(name, text, err)
		}
		return w.buf.Bytes(), nil
	}, list...)
	if err != nil && ctx.Err() != nil {
		return plaintext.Value{}, fault.New(fault.StageOpen, fault.Transient, fault.Ref{}, "template %q: interrupted", name)
	}
	return out, err
}

// run turns a panic of text/template, or of a function, into an error that says nothing.
func run(t *template.Template, w *bounded, dot map[string]string) (err error) {
	defer func() {
		if recover() != nil {
			err = refuse("the template cannot be executed")
		}
	}()
	return t.Execute(w, dot)
}

// tick is called at every turn of a loop. Its name is added after parsing, so that no template can name it.
const tick = "tick"

func compile(text string, m *meter) (t *template.Template, err error) {
	defer func() {
		if recover() != nil {
			err = refuse("the template cannot be read")
		}
	}()
	t, err = template.New(source).Option("missingkey=error").Funcs(m.funcs()).Parse(text)
	if err != nil {
		return nil, err
	}
	t.Funcs(template.FuncMap{tick: m.tick})
	calls := map[string][]string{}
	for _, each := range t.Templates() {
		if each.Tree == nil {
			continue
		}
		w := walker{tree: each.Tree}
		w.list(each.Root)
		w.meter(each.Root)
		calls[each.Name()] = w.calls
	}
	if recursive(calls, source, map[string]bool{}) {
		return nil, refuse("a template includes itself")
	}
	return t, nil
}

// recursive reports whether a chain of includes from name comes back to itself.
func recursive(calls map[string][]string, name string, open map[string]bool) bool {
	if open[name] {
		return true
	}
	open[name] = true
	for _, next := range calls[name] {
		if recursive(calls, next, open) {
			return true
		}
	}
	delete(calls, name) // known to be harmless
	open[name] = false
	return false
}

// walker puts a tick at the head of every loop and template, since text/template itself cannot be interrupted.
type walker struct {
	tree  *parse.Tree
	calls []string
}

func (w *walker) list(l *parse.ListNode) {
	if l == nil {
		return
	}
	for _, n := range l.Nodes {
		switch node := n.(type) {
		case *parse.IfNode:
			w.list(node.List)
			w.list(node.ElseList)
		case *parse.WithNode:
			w.list(node.List)
			w.list(node.ElseList)
		case *parse.RangeNode:
			w.list(node.List)
			w.list(node.ElseList)
			w.meter(node.List)
		case *parse.TemplateNode:
			w.calls = append(w.calls, node.Name)
		}
	}
}

func (w *walker) meter(l *parse.ListNode) {
	if l == nil {
		return
	}
	pos := l.Position()
	id := parse.NewIdentifier(tick).SetPos(pos).SetTree(w.tree)
	call := &parse.CommandNode{NodeType: parse.NodeCommand, Pos: pos, Args: []parse.Node{id}}
	pipe := &parse.PipeNode{NodeType: parse.NodePipe, Pos: pos, Cmds: []*parse.CommandNode{call}}
	l.Nodes = append([]parse.Node{&parse.ActionNode{NodeType: parse.NodeAction, Pos: pos, Pipe: pipe}}, l.Nodes...)
}

// bounded collects the output up to the limit.
type bounded struct {
	meter *meter
	limit int
	buf   bytes.Buffer
}

func (b *bounded) Write(p []byte) (int, error) {
	if b.buf.Len()+len(p) > b.limit {
		return 0, refuse("the result is larger than the limit")
	}
	if b.meter.ctx.Err() != nil {
		return 0, refuse(tooLong)
	}
	return b.buf.Write(p)
}

// refusal is an error whose words are written in this package.
type refusal string

func (r refusal) Error() string { return string(r) }

func refuse(words string) error { return refusal(words) }

func asRefusal(err error) (refusal, bool) {
	var r refusal
	ok := errors.As(err, &r)
	return r, ok
}
