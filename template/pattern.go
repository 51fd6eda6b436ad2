package template

import (
	"regexp"
	"regexp/syntax"
)

// maxSteps bounds (size of the compiled expression) x (length of the text), which is what matching costs at worst.
const maxSteps = 32 << 20

// compilePattern compiles a regular expression and pays for running it over the text.
func compilePattern(m *meter, pattern, text any) (*regexp.Regexp, string, error) {
	p, s := str(pattern), str(text)
	if len(p) > 4096 {
		return nil, "", refuse("the regular expression is too long")
	}
	tree, err := syntax.Parse(p, syntax.Perl)
	if err != nil {
		return nil, "", refuse("the regular expression is not valid")
	}
	prog, err := syntax.Compile(tree.Simplify())
	if err != nil {
		return nil, "", refuse("the regular expression is not valid")
	}
	steps := len(prog.Inst) * (len(s) + 1)
	if steps > maxSteps {
		return nil, "", refuse("the regular expression is too costly for this text")
	}
	if err := m.pay(steps / 8); err != nil {
		return nil, "", err
	}
	re, err := regexp.Compile(p)
	if err != nil {
		return nil, "", refuse("the regular expression is not valid")
	}
	return re, s, nil
}

func regexQuoteMeta(_ *meter, a []any) (any, error) { return regexp.QuoteMeta(str(a[0])), nil }

func regexMatch(m *meter, a []any) (any, error) {
	re, s, err := compilePattern(m, a[0], a[1])
	if err != nil {
		return nil, err
	}
	return re.MatchString(s), nil
}

func regexFind(m *meter, a []any) (any, error) {
	re, s, err := compilePattern(m, a[0], a[1])
	if err != nil {
		return nil, err
	}
	return re.FindString(s), nil
}

func regexFindAll(m *meter, a []any) (any, error) {
	re, s, err := compilePattern(m, a[0], a[1])
	if err != nil {
		return nil, err
	}
	n, err := integer(a[2])
	if err != nil {
		return nil, err
	}
	return texts(re.FindAllString(s, int(n))), nil
}

func regexSplit(m *meter, a []any) (any, error) {
	re, s, err := compilePattern(m, a[0], a[1])
	if err != nil {
		return nil, err
	}
	n, err := integer(a[2])
	if err != nil {
		return nil, err
	}
	return texts(re.Split(s, int(n))), nil
}

func regexReplaceAll(m *meter, a []any) (any, error) {
	return replacePattern(m, a, func(re *regexp.Regexp, dst []byte, to, s string, match []int) []byte {
		return re.ExpandString(dst, to, s, match)
	})
}

func regexReplaceAllLiteral(m *meter, a []any) (any, error) {
	return replacePattern(m, a, func(_ *regexp.Regexp, dst []byte, to, _ string, _ []int) []byte { return append(dst, to...) })
}

// replacePattern replaces match by match, so that a replacement which repeats groups is stopped by the budget.
func replacePattern(m *meter, a []any, expand func(re *regexp.Regexp, dst []byte, to, s string, match []int) []byte) (any, error) {
	re, s, err := compilePattern(m, a[0], a[1])
	if err != nil {
		return nil, err
	}
	to := str(a[2])
	if len(to) > 4096 {
		return nil, refuse("the replacement is too long")
	}
	var out []byte
	end := 0
	for _, match := range re.FindAllStringSubmatchIndex(s, -1) {
		before := len(out)
		// At worst each two bytes of the replacement name the whole match.
		if err := m.pay((len(to)/2 + 1) * (match[1] - match[0] + 2)); err != nil {
			return nil, err
		}
		out = append(out, s[end:match[0]]...)
		out = expand(re, out, to, s, match)
		end = match[1]
		if err := m.pay(len(out) - before); err != nil {
			return nil, err
		}
	}
	return string(append(out, s[end:]...)), nil
}
