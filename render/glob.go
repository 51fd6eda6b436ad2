package render

import "slices"

// trim cuts off what a pattern matches at the beginning or the end, as little or as much as possible but something. A
// pattern that is none, such as a class that is not closed, matches nothing.
func (e *expander) trim(depth int, front, longest bool) (func(string) (string, error), error) {
	pattern, _, err := e.argument("}", noEscapes, depth)
	if err != nil {
		return nil, err
	}
	return func(s string) (string, error) {
		text, pat := []rune(s), []rune(pattern)
		if (len(text)+1)*(len(pat)+1) > maxMatch {
			return "", errPattern
		}
		if !front { // as in Flux, where a class is no class from behind
			slices.Reverse(text)
			slices.Reverse(pat)
		}
		glob, ok := parseGlob(pat)
		if !ok {
			return s, nil
		}
		text = text[matched(text, glob, longest):]
		if !front {
			slices.Reverse(text)
		}
		return string(text), nil
	}, nil
}

// part matches one character, or any number of them.
type part struct {
	star   bool
	not    bool
	ranges [][2]rune // none: every character
}

func (p part) matches(r rune) bool {
	in := slices.ContainsFunc(p.ranges, func(each [2]rune) bool { return each[0] <= r && r <= each[1] })
	return len(p.ranges) == 0 || in != p.not
}

// parseGlob reads a pattern: * and ?, classes such as [a-z] and [^0-9], and \\ before what stands for itself.
func parseGlob(pattern []rune) ([]part, bool) {
	var out []part
	for len(pattern) > 0 {
		r := pattern[0]
		switch pattern = pattern[1:]; r {
		case '*':
			out = append(out, part{star: true})
			continue
		case '?':
			out = append(out, part{})
			continue
		case '[':
			class, rest, ok := parseClass(pattern)
			if !ok {
				return nil, false
			}
			out, pattern = append(out, class), rest
			continue
		case '\\':
			if len(pattern) == 0 {
				return nil, false
			}
			r, pattern = pattern[0], pattern[1:]
		}
		out = append(out, part{ranges: [][2]rune{{r, r}}})
	}
	return out, true
}

// parseClass reads what follows a bracket, up to and with the closing one.
func parseClass(pattern []rune) (class part, rest []rune, ok bool) {
	if len(pattern) > 0 && pattern[0] == '^' {
		class.not, pattern = true, pattern[1:]
	}
	for {
		if len(pattern) > 0 && pattern[0] == ']' && len(class.ranges) > 0 {
			return class, pattern[1:], true
		}
		var low, high rune
		if low, pattern, ok = classRune(pattern); !ok {
			return part{}, nil, false
		}
		high = low
		if pattern[0] == '-' {
			if high, pattern, ok = classRune(pattern[1:]); !ok {
				return part{}, nil, false
			}
		}
		class.ranges = append(class.ranges, [2]rune{low, high})
	}
}

// classRune reads one character of a class, after which the class must go on.
func classRune(pattern []rune) (r rune, rest []rune, ok bool) {
	if len(pattern) > 0 && (pattern[0] == '-' || pattern[0] == ']') {
		return 0, nil, false
	}
	if len(pattern) > 0 && pattern[0] == '\\' {
		pattern = pattern[1:]
	}
	if len(pattern) < 2 {
		return 0, nil, false
	}
	return pattern[0], pattern[1:], true
}

// matched returns how much of the beginning of text the pattern matches, 0 when it does not.
func matched(text []rune, pattern []part, longest bool) int {
	ends := make([]bool, len(text)+1) // ends[i]: the pattern so far matches text[:i]
	ends[0] = true
	for _, p := range pattern {
		next := make([]bool, len(text)+1)
		for i := range next {
			switch {
			case p.star:
				next[i] = ends[i] || i > 0 && next[i-1]
			case i > 0:
				next[i] = ends[i-1] && p.matches(text[i-1])
			}
		}
		ends = next
	}
	n := 0
	for i, ok := range ends {
		if ok && i > 0 {
			n = i
			if !longest {
				break
			}
		}
	}
	return n
}
