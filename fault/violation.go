package fault

import (
	"errors"
	"fmt"
	"sort"
	"strings"
)

// Violation is one finding of a policy on one object. It is the same value, and prints as the same words, on a laptop,
// in the reconciler, in the webhook and in the audit.
type Violation struct {
	Policy  string // name of the Policy object
	Ref     Ref
	Message string // what the rule said; scrubbed
	Warn    bool   // reported, does not deny
	Errored bool   // the policy could not be evaluated; denies unless the policy says otherwise
}

// String returns "[policy] message". The object is named by the caller, which knows how.
func (v Violation) String() string { return fmt.Sprintf("[%s] %s", v.Policy, v.Message) }

// Denials returns the violations that deny, in a stable order.
func Denials(all []Violation) []Violation {
	var out []Violation
	for _, v := range all {
		if !v.Warn {
			out = append(out, v)
		}
	}
	SortViolations(out)
	return out
}

// SortViolations orders by object, policy and message.
func SortViolations(all []Violation) {
	sort.SliceStable(all, func(i, j int) bool {
		a, b := all[i], all[j]
		if x, y := a.Ref.String(), b.Ref.String(); x != y {
			return x < y
		}
		if a.Policy != b.Policy {
			return a.Policy < b.Policy
		}
		return a.Message < b.Message
	})
}

// Denial returns one Denied error for each violation that denies, joined, or nil when none does.
func Denial(all []Violation) error {
	var errs []error
	for _, v := range Denials(all) {
		errs = append(errs, &Error{Stage: StageJudge, Kind: Denied, Ref: v.Ref, Err: errors.New(v.String())})
	}
	return errors.Join(errs...)
}

// Lines joins the texts of an error tree into lines, at most max of them, and says how many more there are.
func Lines(err error, limit int) string {
	if err == nil {
		return ""
	}
	lines := strings.Split(err.Error(), "\n")
	if len(lines) <= limit {
		return strings.Join(lines, "\n")
	}
	return strings.Join(lines[:limit], "\n") + fmt.Sprintf("\n(and %d more)", len(lines)-limit)
}
