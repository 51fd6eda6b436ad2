package plaintext

import (
	"bytes"
	"encoding/base64"
	"encoding/gob"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

const canary = "hunter2-canary-value"

type holder struct {
	Public  Value
	private Value
	list    []Value
	dict    map[string]Value
	ptr     *Value
}

func hold(v Value) holder {
	return holder{Public: v, private: v, list: []Value{v}, dict: map[string]Value{"k": v}, ptr: &v}
}

// found reports a form of the canary in text.
func found(text string) bool {
	for _, form := range Encodings([]byte(canary)) {
		if strings.Contains(text, form) {
			return true
		}
	}
	// %d of bytes
	return strings.Contains(text, strings.Trim(fmt.Sprint([]byte(canary)), "[]"))
}

func TestT41_ValueIsNeverPrinted(t *testing.T) {
	v := FromString(canary)
	h := hold(v)
	for _, verb := range strings.Split("v +v #v s q d x X c b o U t e f g p T w", " ") {
		for name, arg := range map[string]any{"value": v, "pointer": &v, "holder": h, "holder pointer": &h, "slice": []Value{v}, "any": []any{v, h}} {
			if text := fmt.Sprintf("%"+verb, arg); found(text) {
				t.Errorf("%%%s of %s prints the value: %s", verb, name, text)
			}
		}
	}
	if err := fmt.Errorf("wrapped: %v %w", h, errors.New(fmt.Sprint(v))); found(err.Error()) {
		t.Error("an error prints the value")
	}
	if b, _ := json.Marshal(h); found(string(b)) || !strings.Contains(string(b), Mask) {
		t.Errorf("JSON: %s", b)
	}
	var out bytes.Buffer
	slog.New(slog.NewJSONHandler(&out, nil)).Info("x", "v", v, "h", h)
	slog.New(slog.NewTextHandler(&out, nil)).Info("x", "v", v, "h", h)
	if found(out.String()) {
		t.Errorf("slog: %s", out.String())
	}
	out.Reset()
	_ = gob.NewEncoder(&out).Encode(h)
	if found(out.String()) {
		t.Error("gob writes the value")
	}
	if diff := cmp.Diff(h.Public, FromString("other")); found(diff) || diff == "" {
		t.Errorf("go-cmp: %s", diff)
	}
}

func TestValue(t *testing.T) {
	src := []byte(canary)
	v := New(src)
	src[0] = 'X'
	if string(v.Reveal()) != canary {
		t.Error("a Value shares memory with what it was made of")
	}
	v.Reveal()[0] = 'X'
	if string(v.Reveal()) != canary {
		t.Error("Reveal gives the memory away")
	}
	if !v.Equal(FromString(canary)) || v.Equal(FromString("hunter3")) || !(Value{}).Equal(New(nil)) {
		t.Error("Equal")
	}
	k := NewKey([]byte("k"))
	if v.Digest(k) != FromString(canary).Digest(k) || v.Digest(k) == v.Digest(NewKey([]byte("j"))) {
		t.Error("Digest depends on value and key")
	}
	if k.Digest([]byte("a"), []byte("bc")) == k.Digest([]byte("ab"), []byte("c")) {
		t.Error("Digest does not tell parts apart")
	}
	d, err := Derive(func(p ...[]byte) ([]byte, error) { return bytes.Join(p, []byte("-")), nil }, v, FromString("x"))
	if err != nil || string(d.Reveal()) != canary+"-x" {
		t.Error("Derive")
	}
}

func TestTokens(t *testing.T) {
	key := NewKey([]byte("installation"))
	a, b := NewTokens(key), NewTokens(key)
	s := a.Issue(FromString(canary))
	if s != b.Issue(FromString(canary)) {
		t.Error("a token is not stable between runs: names made of it would change")
	}
	if found(s) || !Contains(s) {
		t.Errorf("token %q", s)
	}
	n := a.IssueJSON(FromString("42"))
	for _, c := range []struct {
		text, want string
		json, ok   bool
	}{
		{s, canary, false, true},
		{n, "42", true, true},
		{"http://u:" + s + "@h/" + n, "http://u:" + canary + "@h/42", false, true},
		{"plain", "", false, false},
		{"sealock-token-00000000000000000000000000000000-end", "", false, false},
		{s + "sealock-token-00000000000000000000000000000000-end", "", false, false},
	} {
		v, isJSON, ok := a.Resolve(c.text)
		if ok != c.ok || isJSON != c.json || string(v.Reveal()) != c.want {
			t.Errorf("Resolve(%q) = %q, %v, %v", c.text, v.Reveal(), isJSON, ok)
		}
	}
	if _, _, ok := NewTokens(key).Resolve(s); ok {
		t.Error("a token of another run resolves")
	}
	var none *Tokens
	if _, _, ok := none.Resolve(s); ok {
		t.Error("a nil table resolves")
	}
}

func TestT41_ScrubberKnowsEveryForm(t *testing.T) {
	s := NewScrubber(FromString(canary), FromString("line one is long\nline two is long\n"), FromString("ab"))
	for name, text := range map[string]string{
		"raw":         "dial " + canary + ": refused",
		"base64":      base64.StdEncoding.EncodeToString([]byte(canary)),
		"base64 in 1": base64.StdEncoding.EncodeToString([]byte("x" + canary + "yy")),
		"base64 in 2": base64.StdEncoding.EncodeToString([]byte("xy" + canary + "z")),
		"base64 in 3": base64.URLEncoding.EncodeToString([]byte("xyz" + canary)),
		"hex":         hex.EncodeToString([]byte(canary)),
		"url":         "https://h/?q=" + url.QueryEscape(canary),
	} {
		if got := s.Scrub(text); found(got) || !strings.Contains(got, Mask) {
			t.Errorf("%s: %s", name, got)
		}
	}
	if got := s.Scrub("bad: line two is long"); strings.Contains(got, "two") {
		t.Errorf("a line of a value: %s", got)
	}
	if got := s.Scrub("about"); got != "about" {
		t.Errorf("a value of two bytes must not be replaced, which would tell what it is: %s", got)
	}
	quoted := NewScrubber(FromString("a\"b\\c\nd"))
	if got := quoted.Scrub(`invalid value "a\"b\\c\nd"`); got != `invalid value "`+Mask+`"` {
		t.Errorf("quoted: %s", got)
	}
}
