package render

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"

	"sealock.dev/sealock/plaintext"
)

// maxExpanded bounds the text of one object after substitution, maxMatch the work of one pattern.
const (
	maxExpanded = 5 << 20
	maxMatch    = 16 << 20
	maxNesting  = 20
)

// operand is the value of a variable. derive is set for a secret: a function is applied to it unseen.
type operand struct {
	text   string
	empty  bool
	derive func(fn func(string) (string, error)) (string, error)
}

func (o operand) apply(fn func(string) (string, error)) (string, error) {
	if o.derive != nil {
		return o.derive(fn)
	}
	return fn(o.text)
}

var (
	errBrace   = errors.New("an expression ${ has no closing brace")
	errName    = errors.New("an expression ${ has no variable name")
	errTooLong = errors.New("the text is too long after substitution")
	errPattern = errors.New("a pattern needs too much work")
	errNested  = errors.New("expressions are nested too deep")
	errReplace = errors.New("an expression ${name/old/new} has no old text, or no slash after it")
	errNumbers = errors.New("a substring needs a position")
	errSecret  = errors.New("a secret variable stands in the argument of a function")
)

// escapes says what stands for something else in a part of the text.
type escapes int

const (
	noEscapes escapes = iota // arguments: only ${ begins something
	verbatim                 // decrypted values: $$ stays, and begins nothing
	dollars                  // the text itself: $$ is a literal $
	slashes                  // arguments of replace: so are \/ and \\ a slash and a backslash
)

// expand replaces ${name} and its functions in the dialect of Flux: $$ is a literal $, $name and $(name) are text, and
// a variable that is not set and has no default is an error.
func expand(text string, lookup func(string) (operand, bool)) (string, error) {
	e := &expander{in: text, lookup: lookup}
	out, _, err := e.until("", dollars, 0)
	return out, err
}

// expandVerbatim is expand for a text that may be no template: $$ stays as it is.
func expandVerbatim(text string, lookup func(string) (operand, bool)) (string, error) {
	e := &expander{in: text, lookup: lookup}
	out, _, err := e.until("", verbatim, 0)
	return out, err
}

type expander struct {
	in     string
	at     int
	spent  int
	lookup func(string) (operand, bool)
}

func (e *expander) peek() byte {
	if e.at < len(e.in) {
		return e.in[e.at]
	}
	return 0
}

func (e *expander) take(s string) bool {
	if strings.HasPrefix(e.in[e.at:], s) {
		e.at += len(s)
		return true
	}
	return false
}

// until expands up to one of the stop bytes, which it consumes and returns; "" stops at the end of the text.
func (e *expander) until(stops string, esc escapes, depth int) (string, byte, error) {
	if depth > maxNesting {
		return "", 0, errNested
	}
	special := "$" + stops
	if esc == slashes {
		special += `\`
	}
	var out strings.Builder
	for e.at < len(e.in) {
		if next := strings.IndexAny(e.in[e.at:], special); next != 0 {
			if next < 0 {
				next = len(e.in) - e.at
			}
			out.WriteString(e.in[e.at : e.at+next])
			e.at += next
			continue
		}
		switch {
		case esc == verbatim && e.take("$$"):
			out.WriteString("$$")
		case e.escaped(esc):
			out.WriteByte(e.in[e.at-1])
		case e.take("${"):
			v, err := e.expression(depth + 1)
			if err != nil {
				return "", 0, err
			}
			if e.spent += len(v); e.spent > maxExpanded {
				return "", 0, errTooLong
			}
			out.WriteString(v)
		case e.take("$"), e.take(`\`):
			out.WriteByte(e.in[e.at-1])
		default:
			stop := e.in[e.at]
			e.at++
			return out.String(), stop, nil
		}
	}
	if stops != "" {
		return "", 0, errBrace
	}
	return out.String(), 0, nil
}

// escaped takes two bytes that stand for the second of them.
func (e *expander) escaped(esc escapes) bool {
	return esc >= dollars && e.take("$$") || esc == slashes && (e.take(`\/`) || e.take(`\\`))
}

func (e *expander) name() string {
	from := e.at
	for c := e.peek(); c == '_' || c >= '0' && c <= '9' || c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z'; c = e.peek() {
		e.at++
	}
	return e.in[from:e.at]
}

func (e *expander) expression(depth int) (string, error) {
	length := e.take("#")
	name := e.name()
	if name == "" {
		return "", errName
	}
	v, set := e.lookup(name)
	if length {
		if !e.take("}") {
			return "", errBrace
		}
		return e.result(name, v, set, func(s string) (string, error) { return fmt.Sprint(utf8.RuneCountInString(s)), nil })
	}
	for _, op := range []string{":-", ":=", ":+", ":?", "="} {
		if e.take(op) {
			fallback, _, err := e.until("}", noEscapes, depth)
			if err != nil || set && !v.empty {
				return v.text, err
			}
			return fallback, nil
		}
	}
	fn, err := e.function(depth)
	if err != nil {
		return "", err
	}
	return e.result(name, v, set, fn)
}

func (e *expander) result(name string, v operand, set bool, fn func(string) (string, error)) (string, error) {
	if !set {
		return "", fmt.Errorf("the variable %q is not set", name)
	}
	if fn == nil {
		return v.text, nil
	}
	return v.apply(fn)
}

// function parses what follows the name up to the closing brace; nil for nothing.
func (e *expander) function(depth int) (func(string) (string, error), error) {
	switch {
	case e.take("}"):
		return nil, nil
	case e.take("^^}"):
		return plainly(strings.ToUpper), nil
	case e.take("^}"):
		return plainly(func(s string) string { return first(s, unicode.ToUpper) }), nil
	case e.take(",,}"):
		return plainly(strings.ToLower), nil
	case e.take(",}"):
		return plainly(func(s string) string { return first(s, unicode.ToLower) }), nil
	case e.take("##"):
		return e.trim(depth, true, true)
	case e.take("#"):
		return e.trim(depth, true, false)
	case e.take("%%"):
		return e.trim(depth, false, true)
	case e.take("%"):
		return e.trim(depth, false, false)
	case e.take("//"):
		return e.replace(depth, func(s, old, with string) string { return strings.ReplaceAll(s, old, with) })
	case e.take("/#"):
		return e.replace(depth, func(s, old, with string) string {
			if rest, ok := strings.CutPrefix(s, old); ok && with != "" { // as there: nothing is put in the place of an end
				return with + rest
			}
			return s
		})
	case e.take("/%"):
		return e.replace(depth, func(s, old, with string) string {
			if rest, ok := strings.CutSuffix(s, old); ok && with != "" {
				return rest + with
			}
			return s
		})
	case e.take("/"):
		return e.replace(depth, func(s, old, with string) string { return strings.Replace(s, old, with, 1) })
	case e.take(":"):
		return e.substring(depth)
	}
	return nil, errBrace
}

func plainly(fn func(string) string) func(string) (string, error) {
	return func(s string) (string, error) { return fn(s), nil }
}

func first(s string, fn func(rune) rune) string {
	r, n := utf8.DecodeRuneInString(s)
	if n == 0 || r == utf8.RuneError {
		return s
	}
	return string(fn(r)) + s[n:]
}

// argument expands an argument. A secret in it would be a token where the text is meant.
func (e *expander) argument(stops string, esc escapes, depth int) (string, byte, error) {
	arg, stop, err := e.until(stops, esc, depth)
	if err == nil && plaintext.Contains(arg) {
		err = errSecret
	}
	return arg, stop, err
}

func (e *expander) replace(depth int, fn func(s, old, with string) string) (func(string) (string, error), error) {
	if e.peek() == '/' {
		return nil, errReplace
	}
	old, stop, err := e.argument("/}", slashes, depth)
	if err != nil {
		return nil, err
	}
	if stop != '/' {
		return nil, errReplace
	}
	with, _, err := e.argument("}", slashes, depth)
	if err != nil {
		return nil, err
	}
	return func(s string) (string, error) {
		if old == "" {
			return s, nil
		}
		if len(s)/len(old)*len(with) > maxExpanded {
			return "", errTooLong
		}
		return fn(s, old, with), nil
	}, nil
}

// substring takes whole numbers; for anything else the text stays whole, as in Flux.
func (e *expander) substring(depth int) (func(string) (string, error), error) {
	arg, _, err := e.argument("}", noEscapes, depth)
	if err != nil {
		return nil, err
	}
	from, length, bounded := strings.Cut(arg, ":")
	if from == "" || bounded && length == "" {
		return nil, errNumbers
	}
	offset, err := strconv.Atoi(from)
	count := 0
	if bounded && err == nil {
		count, err = strconv.Atoi(length)
	}
	if err != nil {
		return plainly(strings.Clone), nil
	}
	return func(s string) (string, error) {
		runes := []rune(s)
		start := clamp(offset, len(runes))
		end := len(runes)
		if bounded && count >= 0 {
			end = min(end, start+min(count, end))
		} else if bounded {
			end = clamp(count, len(runes))
		}
		return string(runes[start:max(start, end)]), nil
	}, nil
}

// clamp returns a position in a text of n characters; a negative one counts from the end.
func clamp(at, n int) int {
	if at < 0 {
		at += n
	}
	return max(0, min(at, n))
}
