// Package fault is the one error type of Sealock.
//
// It exists so that a failure is classified once, at the place where it happens. Severity and exit code follow from the
// class here; condition reason and retry follow from stage and class in each front end. An Error names the object, the
// file and the field, and what to do about it; it must never carry a value of a secret, an object, or a body that a
// provider or the API server sent unscrubbed. The package imports nothing of ours and knows no Kubernetes client.
package fault

import (
	"errors"
	"fmt"
	"strings"
)

// Stage says where in the pipeline a failure happened. The names are those of DESIGN.md, section 4.
type Stage string

// The stages in the order in which a commit passes them.
const (
	StageGrant   Stage = "grant"
	StageSource  Stage = "source"
	StageDecrypt Stage = "decrypt"
	StageRender  Stage = "render"
	StageOpen    Stage = "open"
	StageJudge   Stage = "judge"
	StagePlan    Stage = "plan"
	StageApply   Stage = "apply"
	StageHealth  Stage = "health"
	StagePrune   Stage = "prune"
)

// Kind says what kind of failure it is, which decides what follows from it.
type Kind int

// The kinds. Internal is the zero Kind: an error that nobody classified is ours.
const (
	Internal  Kind = iota // a bug or a panic of ours: retried with back-off
	Invalid               // the input is wrong and stays wrong until it changes
	NotFound              // something that is referred to does not exist (yet)
	NoKey                 // no key at hand opens the ciphertext
	Denied                // an identity, a fence or a policy forbids it
	Conflict              // somebody else owns or changed it
	Transient             // Git, Vault or the API server failed in a way that heals
	Unhealthy             // it was applied and does not get healthy
)

var kindNames = [...]string{"Internal", "Invalid", "NotFound", "NoKey", "Denied", "Conflict", "Transient", "Unhealthy"} //nolint:gochecknoglobals // a constant

// String returns the name of the kind, as metrics and logs carry it.
func (k Kind) String() string {
	if k < 0 || int(k) >= len(kindNames) {
		return "Internal"
	}
	return kindNames[k]
}

// ExitCode returns the exit code of a command that ends with such a failure.
func (k Kind) ExitCode() int {
	switch k {
	case Invalid:
		return 2
	case NoKey:
		return 3
	case NotFound:
		return 4
	case Transient, Conflict, Unhealthy:
		return 5
	case Denied, Internal:
		return 1
	}
	return 1
}

// Ref names an object, and the file that brought it when there is one.
type Ref struct {
	APIVersion string
	Kind       string
	Namespace  string
	Name       string
	File       string // path in the repository, slash-separated
	Line       int    // first line of the document in File, from 1; 0 is unknown
}

// String returns "Kind/namespace/name (file:line)", leaving out what is unknown.
func (r Ref) String() string {
	s := r.Kind
	if r.Namespace != "" {
		s += "/" + r.Namespace
	}
	if r.Name != "" {
		s += "/" + r.Name
	}
	if r.File == "" {
		return s
	}
	at := r.File
	if r.Line > 0 {
		at = fmt.Sprintf("%s:%d", r.File, r.Line)
	}
	if s == "" {
		return at
	}
	return s + " (" + at + ")"
}

// Error is a classified failure. Its text is for people: what failed, where, why, and what to do.
type Error struct {
	Stage  Stage
	Kind   Kind
	Ref    Ref
	Field  string // dotted path in the object, or a key of a Secret
	Remedy string // what to do, as a short imperative sentence without a full stop
	Err    error  // the cause; its text must already be safe to show
}

// Error returns one line: object, field, cause, remedy.
func (e *Error) Error() string {
	var b strings.Builder
	if ref := e.Ref.String(); ref != "" {
		b.WriteString(ref + ": ")
	}
	if e.Field != "" {
		b.WriteString(e.Field + ": ")
	}
	if e.Err != nil {
		b.WriteString(e.Err.Error())
	} else {
		b.WriteString(strings.ToLower(e.Kind.String()))
	}
	if e.Remedy != "" {
		b.WriteString("; " + e.Remedy)
	}
	return b.String()
}

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.Err }

// New returns an Error with a formatted cause.
func New(stage Stage, kind Kind, ref Ref, format string, args ...any) *Error {
	return &Error{Stage: stage, Kind: kind, Ref: ref, Err: fmt.Errorf(format, args...)}
}

// At returns a copy of e that names the field.
func (e *Error) At(field string) *Error { c := *e; c.Field = field; return &c }

// Fix returns a copy of e that names the remedy.
func (e *Error) Fix(format string, args ...any) *Error {
	c := *e
	c.Remedy = fmt.Sprintf(format, args...)
	return &c
}

// KindOf returns the kind of err, Internal when nobody classified it. Of several joined errors the one that most
// needs a person counts: a Denied or Invalid among Transient ones would still be there after the retry.
func KindOf(err error) Kind {
	worst, found := Internal, false
	for _, e := range All(err) {
		if !found || severity(e.Kind) > severity(worst) {
			worst, found = e.Kind, true
		}
	}
	return worst
}

func severity(k Kind) int {
	switch k {
	case Denied:
		return 7
	case Invalid:
		return 6
	case NoKey:
		return 5
	case Internal:
		return 4
	case NotFound:
		return 3
	case Conflict:
		return 2
	case Unhealthy:
		return 1
	case Transient:
		return 0
	}
	return 0
}

// StageOf returns the stage of the first classified error in err, or "".
func StageOf(err error) Stage {
	for _, e := range All(err) {
		if e.Stage != "" {
			return e.Stage
		}
	}
	return ""
}

// All returns the classified errors in err, through wrapping and joining, in order.
func All(err error) []*Error {
	if err == nil {
		return nil
	}
	if e, ok := err.(*Error); ok { //nolint:errorlint // the tree is walked by hand to find all of them
		return []*Error{e}
	}
	switch w := err.(type) { //nolint:errorlint // as above
	case interface{ Unwrap() []error }:
		var out []*Error
		for _, each := range w.Unwrap() {
			out = append(out, All(each)...)
		}
		return out
	case interface{ Unwrap() error }:
		return All(w.Unwrap())
	}
	return nil
}

// Join returns the errors as one, nil when there is none. Its text is one line for each.
func Join(errs ...error) error { return errors.Join(errs...) }
