package template

import (
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"text/template"
	"unicode"
	"unicode/utf8"
)

// str is the text of any value, as printing would give it.
func str(v any) string {
	switch s := v.(type) {
	case nil:
		return ""
	case string:
		return s
	}
	return fmt.Sprint(v)
}

func contains(_ *meter, a []any) (any, error) { return strings.Contains(str(a[1]), str(a[0])), nil }

func hasPrefix(_ *meter, a []any) (any, error) { return strings.HasPrefix(str(a[1]), str(a[0])), nil }

func hasSuffix(_ *meter, a []any) (any, error) { return strings.HasSuffix(str(a[1]), str(a[0])), nil }
func lower(_ *meter, a []any) (any, error)     { return strings.ToLower(str(a[0])), nil }
func upper(_ *meter, a []any) (any, error)     { return strings.ToUpper(str(a[0])), nil }
func toString(_ *meter, a []any) (any, error)  { return str(a[0]), nil }
func trim(_ *meter, a []any) (any, error)      { return strings.TrimSpace(str(a[0])), nil }
func trimAll(_ *meter, a []any) (any, error)   { return strings.Trim(str(a[1]), str(a[0])), nil }
func trimPrefix(_ *meter, a []any) (any, error) {
	return strings.TrimPrefix(str(a[1]), str(a[0])), nil
}

func trimSuffix(_ *meter, a []any) (any, error) {
	return strings.TrimSuffix(str(a[1]), str(a[0])), nil
}

func title(_ *meter, a []any) (any, error) { return mapHeads(str(a[0]), unicode.ToTitle), nil }

func untitle(_ *meter, a []any) (any, error) { return mapHeads(str(a[0]), unicode.ToLower), nil }

// mapHeads changes the first letter of every word.
func mapHeads(s string, change func(rune) rune) string {
	before := ' '
	return strings.Map(func(r rune) rune {
		head := unicode.IsSpace(before)
		before = r
		if head {
			return change(r)
		}
		return r
	}, s)
}

func nospace(_ *meter, a []any) (any, error) { return strings.Join(strings.Fields(str(a[0])), ""), nil }

func plural(_ *meter, a []any) (any, error) {
	n, err := integer(a[2])
	if err != nil {
		return nil, err
	}
	if n == 1 {
		return str(a[0]), nil
	}
	return str(a[1]), nil
}

func cat(_ *meter, a []any) (any, error) {
	var parts []string
	for _, v := range a {
		if v != nil {
			parts = append(parts, str(v))
		}
	}
	return strings.Join(parts, " "), nil
}

func quote(_ *meter, a []any) (any, error) {
	var out []string
	for _, v := range a {
		if v != nil {
			out = append(out, strconv.Quote(str(v)))
		}
	}
	return strings.Join(out, " "), nil
}

func squote(_ *meter, a []any) (any, error) {
	var out []string
	for _, v := range a {
		if v != nil {
			out = append(out, "'"+str(v)+"'")
		}
	}
	return strings.Join(out, " "), nil
}

func repeat(m *meter, a []any) (any, error) {
	n, err := integer(a[0])
	if err != nil {
		return nil, err
	}
	s := str(a[1])
	if n < 0 {
		n = 0
	}
	if len(s) > 0 && n > int64(m.limits.Output/len(s)) {
		return nil, refuse(tooMuch)
	}
	if len(s) == 0 {
		return "", nil
	}
	return strings.Repeat(s, int(n)), nil
}

func replace(m *meter, a []any) (any, error) {
	from, to, s := str(a[0]), str(a[1]), str(a[2])
	if err := m.pay(len(s) + strings.Count(s, from)*len(to)); err != nil {
		return nil, err
	}
	return strings.ReplaceAll(s, from, to), nil
}

func indent(m *meter, a []any) (any, error) {
	n, err := integer(a[0])
	if err != nil {
		return nil, err
	}
	s := str(a[1])
	if n < 0 || n > 1000 {
		return nil, refuse("an indentation is between 0 and 1000")
	}
	if err := m.pay(len(s) + int(n)*(strings.Count(s, "\n")+1)); err != nil {
		return nil, err
	}
	pad := strings.Repeat(" ", int(n))
	return pad + strings.ReplaceAll(s, "\n", "\n"+pad), nil
}

func nindent(m *meter, a []any) (any, error) {
	s, err := indent(m, a)
	if err != nil {
		return nil, err
	}
	return "\n" + str(s), nil
}

func substr(_ *meter, a []any) (any, error) {
	from, err := integer(a[0])
	if err != nil {
		return nil, err
	}
	to, err := integer(a[1])
	if err != nil {
		return nil, err
	}
	s := str(a[2])
	from = max(from, 0)
	if to < 0 || to > int64(len(s)) {
		to = int64(len(s))
	}
	if from > to {
		return nil, refuse("the text is shorter than the start")
	}
	return s[from:to], nil
}

func trunc(_ *meter, a []any) (any, error) {
	n, err := integer(a[0])
	if err != nil {
		return nil, err
	}
	s := str(a[1])
	switch {
	case n < 0 && int64(len(s))+n > 0:
		return s[int64(len(s))+n:], nil
	case n >= 0 && int64(len(s)) > n:
		return s[:n], nil
	}
	return s, nil
}

func abbrev(_ *meter, a []any) (any, error) {
	n, err := integer(a[0])
	if err != nil {
		return nil, err
	}
	s := str(a[1])
	if n < 4 || int64(len(s)) <= n {
		return s, nil
	}
	return s[:n-3] + "...", nil
}

// words makes a function that takes a text apart at spaces, punctuation and changes of case.
func words(join func(parts []string) string) func(*meter, []any) (any, error) {
	return func(_ *meter, a []any) (any, error) {
		var parts []string
		var cur strings.Builder
		before := rune(0)
		flush := func() {
			if cur.Len() > 0 {
				parts = append(parts, cur.String())
				cur.Reset()
			}
		}
		for _, r := range str(a[0]) {
			switch {
			case !unicode.IsLetter(r) && !unicode.IsDigit(r):
				flush()
			case unicode.IsUpper(r) && unicode.IsLower(before):
				flush()
				cur.WriteRune(r)
			default:
				cur.WriteRune(r)
			}
			before = r
		}
		flush()
		return join(parts), nil
	}
}

func snake(parts []string) string { return strings.ToLower(strings.Join(parts, "_")) }
func kebab(parts []string) string { return strings.ToLower(strings.Join(parts, "-")) }

func camel(parts []string) string {
	var b strings.Builder
	for _, p := range parts {
		b.WriteString(mapHeads(strings.ToLower(p), unicode.ToUpper))
	}
	return b.String()
}

func initials(parts []string) string {
	var b strings.Builder
	for _, p := range parts {
		r, _ := utf8.DecodeRuneInString(p)
		b.WriteRune(r)
	}
	return b.String()
}

func html(_ *meter, a []any) (any, error)       { return template.HTMLEscaper(a...), nil }
func js(_ *meter, a []any) (any, error)         { return template.JSEscaper(a...), nil }
func urlquery(_ *meter, a []any) (any, error)   { return template.URLQueryEscaper(a...), nil }
func printPlain(_ *meter, a []any) (any, error) { return fmt.Sprint(a...), nil }
func printLine(_ *meter, a []any) (any, error)  { return fmt.Sprintln(a...), nil }

// unbounded finds what lets a short format make a long text: widths of four digits, widths from arguments, and
// arguments that are named again.
var unbounded = regexp.MustCompile(`%[-+# 0]*(\d{4,}|\d*\.\d{4,}|[\d.]*[*\[])`)

func printFormat(_ *meter, a []any) (any, error) {
	format := str(a[0])
	if unbounded.MatchString(format) {
		return nil, refuse("formats have a width of at most 999, and no * or [n]")
	}
	return fmt.Sprintf(format, a[1:]...), nil
}
