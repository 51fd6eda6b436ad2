package policies

import (
	"context"
	"errors"
	"fmt"
	"sort"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/open-policy-agent/opa/v1/ast"
	"github.com/open-policy-agent/opa/v1/rego"
	"github.com/open-policy-agent/opa/v1/topdown"

	"sealock.dev/sealock/api/sealock/v1alpha1"
	"sealock.dev/sealock/fault"
)

// Limits of what one policy may say about one object.
const (
	maxMessage  = 1 << 10 // bytes of one message
	maxMessages = 100
)

// judge asks every policy that matches. The result is sorted by policy and message.
func judge(ctx context.Context, snap *Snapshot, s *subject, build func() (*document, error), at time.Time) []fault.Violation {
	var out []fault.Violation
	var doc *document
	for _, c := range snap.forKind(s.gvk.GroupKind()) {
		action := c.actions[s.point]
		operation := c.match.operation(s.operation)
		if action == v1alpha1.ActionOff || operation == "" || !c.match.matches(s) {
			continue
		}
		if doc == nil {
			var err error
			if doc, err = build(); err != nil {
				return append(out, fault.Violation{Policy: c.name, Ref: s.ref, Errored: true, Message: "could not be evaluated: the object is not JSON"})
			}
		}
		messages, err := c.evaluate(ctx, doc.input(operation, c.parameters), at)
		warn := action == v1alpha1.ActionWarn // any other action, also an unknown one, denies
		for _, m := range messages {
			out = append(out, fault.Violation{Policy: c.name, Ref: s.ref, Message: m, Warn: warn})
		}
		if err != nil {
			out = append(out, fault.Violation{Policy: c.name, Ref: s.ref, Message: err.Error(), Errored: true, Warn: warn || c.onError == v1alpha1.ActionWarn})
		}
	}
	return out
}

// evaluate returns what the policy says, sorted, cut to its limits. The error has fixed words: OPA's own may quote input.
func (c *compiled) evaluate(ctx context.Context, input ast.Value, at time.Time) (messages []string, err error) {
	limited, cancel := context.WithTimeout(ctx, evalLimit)
	defer cancel()
	defer func() {
		if recover() != nil {
			messages, err = nil, errors.New("could not be evaluated: the engine gave up")
		}
	}()
	results, err := c.query.Eval(limited, rego.EvalParsedInput(input), rego.EvalTime(at))
	switch {
	case ctx.Err() != nil:
		return nil, errors.New("could not be evaluated: the request ran out of time")
	case limited.Err() != nil:
		return nil, fmt.Errorf("could not be evaluated within %s", evalLimit)
	case err != nil:
		return nil, evalError(err)
	}
	return read(results)
}

func evalError(err error) error {
	var e *topdown.Error
	if !errors.As(err, &e) {
		return errors.New("could not be evaluated")
	}
	if e.Location == nil {
		return fmt.Errorf("could not be evaluated: %s", e.Code)
	}
	return fmt.Errorf("could not be evaluated: %s in line %d", e.Code, e.Location.Row)
}

// read takes texts, and msg of objects, out of the set deny.
func read(results rego.ResultSet) ([]string, error) {
	var entries []any
	for _, r := range results {
		for _, e := range r.Expressions {
			list, _ := e.Value.([]any)
			entries = append(entries, list...)
		}
	}
	seen := map[string]bool{}
	messages := make([]string, 0, len(entries))
	var wrong error
	for _, entry := range entries {
		text, ok := entry.(string)
		if m, isMap := entry.(map[string]any); isMap {
			text, ok = m["msg"].(string)
		}
		if text = clean(text); !ok || text == "" {
			// An entry that says nothing still means no.
			wrong = errors.New("could not be evaluated: an entry of deny is neither a text nor an object with msg")
			continue
		}
		if !seen[text] {
			seen[text] = true
			messages = append(messages, text)
		}
	}
	sort.Strings(messages)
	if more := len(messages) - maxMessages; more > 0 {
		messages = append(messages[:maxMessages:maxMessages], fmt.Sprintf("(and %d more)", more))
	}
	return messages, wrong
}

// clean cuts a message, and keeps it on one line, so that none can pose as the line of another policy.
func clean(text string) string {
	text = strings.TrimSpace(strings.Map(func(r rune) rune {
		if unicode.IsControl(r) || r == '\u2028' || r == '\u2029' {
			return ' '
		}
		return r
	}, strings.ToValidUTF8(text, "?")))
	if len(text) <= maxMessage {
		return text
	}
	cut := maxMessage - len("…")
	for !utf8.RuneStart(text[cut]) {
		cut--
	}
	return text[:cut] + "…"
}
