package expressions

import (
	"context"

	"sealock.dev/sealock/fault"
)

// Status is what a Health says of an object, in the words of kstatus.
type Status string

// The statuses.
const (
	InProgress Status = "InProgress"
	Failed     Status = "Failed"
	Current    Status = "Current"
)

// Health is the rule of one kind by which its objects are judged. It is immutable and safe for concurrent use.
type Health struct {
	current, inProgress, failed *Expression
}

// NewHealth parses the expressions of a rule; inProgress and failed may be empty. The error is Invalid and names the field.
func NewHealth(current, inProgress, failed string) (*Health, error) {
	h := &Health{}
	for _, e := range []struct {
		field, text string
		to          **Expression
	}{{"current", current, &h.current}, {"inProgress", inProgress, &h.inProgress}, {"failed", failed, &h.failed}} {
		if e.text == "" && e.field != "current" {
			continue
		}
		parsed, err := Parse(e.text)
		if err != nil {
			return nil, at(err, e.field)
		}
		*e.to = parsed
	}
	return h, nil
}

func at(err error, field string) error {
	for _, f := range fault.All(err) {
		return f.At(field)
	}
	return err
}

// Judge says how an object is: in progress while its controller has not seen its newest generation, else what the first
// expression that holds says, of inProgress, failed, current; in progress when none does. object is as JSON decodes it,
// without the payload of a Secret. An error names the field, and means that nobody knows.
func (h *Health) Judge(ctx context.Context, object map[string]any) (Status, error) {
	if behind(object) {
		return InProgress, nil
	}
	for _, e := range []struct {
		expression *Expression
		field      string
		status     Status
	}{{h.inProgress, "inProgress", InProgress}, {h.failed, "failed", Failed}, {h.current, "current", Current}} {
		if e.expression == nil {
			continue
		}
		yes, err := e.expression.Eval(ctx, object)
		if err != nil {
			return "", at(err, e.field)
		}
		if yes {
			return e.status, nil
		}
	}
	return InProgress, nil
}

// behind reports that status speaks of another generation than the newest. An object without either is never behind.
func behind(object map[string]any) bool {
	metadata, _ := object["metadata"].(map[string]any)
	status, _ := object["status"].(map[string]any)
	want, a := integer(metadata["generation"])
	seen, b := integer(status["observedGeneration"])
	return a && b && want != seen
}

// integer reads a number as decoders of JSON yield it.
func integer(v any) (int64, bool) {
	switch n := v.(type) {
	case int64:
		return n, true
	case int:
		return int64(n), true
	case float64:
		return int64(n), true
	}
	return 0, false
}
