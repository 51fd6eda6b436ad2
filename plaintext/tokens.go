package plaintext

import (
	"regexp"
	"strings"
	"sync"
)

// tokenShape is chosen to survive YAML, JSON, dotenv, shell and URL quoting, and kustomize's name and label rules never see it.
var tokenShape = regexp.MustCompile(`sealock-token-[0-9a-f]{32}-end`)

// Tokens stands in for secret values while text is rendered: a value goes in, a token comes out, and after render each
// token is turned back into the value at the place where it ended. A token is a keyed digest of its value, so that names
// made from content stay stable between runs and tell nobody anything. One Tokens serves one run of the pipeline.
type Tokens struct {
	key Key

	mu     sync.Mutex
	values map[string]typed
}

type typed struct {
	value Value
	json  bool
}

// NewTokens returns an empty table that derives its tokens with the key of this installation.
func NewTokens(key Key) *Tokens { return &Tokens{key: key, values: map[string]typed{}} }

// Issue returns the token of a string value.
func (t *Tokens) Issue(v Value) string { return t.issue(v, false) }

// IssueJSON returns the token of a scalar that is not a string (a number or a boolean, as JSON text).
// Where the token stands alone, Resolve reports json so that the type is restored.
func (t *Tokens) IssueJSON(v Value) string { return t.issue(v, true) }

func (t *Tokens) issue(v Value, json bool) string {
	kind := byte('s')
	if json {
		kind = 'j'
	}
	token := "sealock-token-" + t.key.Digest([]byte{kind}, v.Reveal())[:32] + "-end"
	t.mu.Lock()
	defer t.mu.Unlock()
	t.values[token] = typed{value: v, json: json}
	return token
}

// Len returns how many distinct values have a token.
func (t *Tokens) Len() int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return len(t.values)
}

// Contains reports whether text holds anything that has the shape of a token, known or not.
// A text that only looks like one was forged in the repository: callers refuse it.
func Contains(text string) bool {
	return strings.Contains(text, "sealock-token-") && tokenShape.MatchString(text)
}

// Resolve returns the value of text with every token in it replaced, and whether there was one.
// json is true when text is exactly one token of a scalar that is not a string.
// ok is false when there is no token, or when one is unknown to this table.
func (t *Tokens) Resolve(text string) (v Value, json, ok bool) {
	if t == nil || !Contains(text) {
		return Value{}, false, false
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if one, found := t.values[text]; found {
		return one.value, one.json, true
	}
	known := true
	out := tokenShape.ReplaceAllStringFunc(text, func(token string) string {
		one, found := t.values[token]
		if !found {
			known = false
			return token
		}
		return string(one.value.Reveal())
	})
	if !known {
		return Value{}, false, false
	}
	return FromString(out), false, true
}

// Values returns every value in the table, for a Scrubber.
func (t *Tokens) Values() []Value {
	t.mu.Lock()
	defer t.mu.Unlock()
	out := make([]Value, 0, len(t.values))
	for _, one := range t.values {
		out = append(out, one.value)
	}
	return out
}
