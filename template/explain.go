package template

import (
	"errors"
	"regexp"
	"strconv"
	"strings"
	"text/template"

	"sealock.dev/sealock/fault"
)

// place is where in a template something is wrong; zero where unknown.
type place struct{ line, column int }

// The shapes of text/template's own messages. What they capture is a number, a name on our list, or an identifier that
// stands in the template itself; all else of the message is dropped.
var (
	position        = regexp.MustCompile(`^template: ` + source + `:(\d+)(?::(\d+))?: `)
	calling         = regexp.MustCompile(`error calling (\w{1,40}):`)
	unknownFunction = regexp.MustCompile(`^template: ` + source + `:\d+: function "(\w{1,40})" not defined$`)
	missingKey      = regexp.MustCompile(`map has no entry for key "([A-Za-z_][A-Za-z0-9_]{0,62})"$`)
)

func invalid(name string, at place, words string) *fault.Error {
	switch {
	case at.line > 0 && at.column > 0:
		return fault.New(fault.StageOpen, fault.Invalid, fault.Ref{}, "template %q, line %d, column %d: %s", name, at.line, at.column+1, words)
	case at.line > 0:
		return fault.New(fault.StageOpen, fault.Invalid, fault.Ref{}, "template %q, line %d: %s", name, at.line, words)
	}
	return fault.New(fault.StageOpen, fault.Invalid, fault.Ref{}, "template %q: %s", name, words)
}

// explain makes an error of our own words out of err, whose text may quote values.
func explain(name, text string, err error) error {
	message := err.Error()
	at := placeOf(message)
	if m := unknownFunction.FindStringSubmatch(message); m != nil && strings.Contains(text, m[1]) {
		return invalid(name, at, "the function "+m[1]+" is not served").Fix("see the list of functions in the documentation of templates")
	}
	words, ours := asRefusal(err)
	if m := calling.FindStringSubmatch(message); m != nil && known(m[1]) {
		if ours {
			return invalid(name, at, "function "+m[1]+": "+string(words)).Fix("correct the template or the value that it reads")
		}
		return invalid(name, at, "the function "+m[1]+" failed").Fix("correct the template or the value that it reads")
	}
	if ours {
		return invalid(name, at, string(words)).Fix("make the template smaller")
	}
	if m := missingKey.FindStringSubmatch(message); m != nil && strings.Contains(text, "."+m[1]) {
		return invalid(name, at, "there is no value "+m[1]).Fix("use a key that the object yields")
	}
	var failed template.ExecError
	if errors.As(err, &failed) {
		return invalid(name, at, "the template cannot be executed").Fix("correct it")
	}
	return invalid(name, at, "the template cannot be read").Fix("correct its syntax")
}

func placeOf(message string) place {
	m := position.FindStringSubmatch(message)
	if m == nil {
		return place{}
	}
	line, _ := strconv.Atoi(m[1])
	column, _ := strconv.Atoi(m[2])
	return place{line: line, column: column}
}

func known(name string) bool {
	if _, ok := functions()[name]; ok {
		return true
	}
	switch name {
	case "and", "call", "eq", "ge", "gt", "index", "le", "len", "lt", "ne", "not", "or", "slice":
		return true
	}
	return false
}
