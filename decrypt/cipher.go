package decrypt

import (
	"errors"
	"math"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/getsops/sops/v3"
	"github.com/getsops/sops/v3/aes"
)

// shape is what an encrypted value looks like. It is stricter than the library's own: nothing may follow the bracket.
var shape = regexp.MustCompile(`^ENC\[AES256_GCM,data:([A-Za-z0-9+/=]*),iv:([A-Za-z0-9+/=]+),tag:([A-Za-z0-9+/=]+),type:([a-z]+)\]$`)

// cipher opens the values of one file for sops.Tree.Decrypt.
//
// The type that an encrypted value claims is authenticated by nothing, and the library quotes the decrypted text when
// it does not parse as that type. So every value is opened as a string, and its type is looked at here, in silence.
// What was decrypted is returned as []byte, which no store ever puts into a tree: that tells it from what was plain.
type cipher struct {
	aes      aes.Cipher
	comments bool // open comments too
	types    []string
	at       string // path of the value that failed
	why      string
}

func newCipher(comments bool) *cipher { return &cipher{aes: aes.NewCipher(), comments: comments} }

var errValue = errors.New("a value does not open")

func (c *cipher) fail(at, why string) error {
	if c.why == "" {
		c.at, c.why = strings.ReplaceAll(strings.TrimSuffix(at, ":"), ":", "."), why
	}
	return errValue
}

// Encrypt is never used.
func (c *cipher) Encrypt(any, []byte, string) (string, error) { return "", errValue }

// Decrypt opens one value. Its errors are fixed words.
func (c *cipher) Decrypt(text string, key []byte, at string) (any, error) {
	if text == "" {
		return "", nil // sops leaves empty strings as they are
	}
	m := shape.FindStringSubmatch(text)
	if m == nil {
		return nil, c.fail(at, "the value should be encrypted and is not")
	}
	typ := m[4]
	if typ == "comment" {
		return c.comment(text, key, at)
	}
	opened, ok := c.open(text, typ, key, at)
	if !ok {
		return nil, c.fail(at, "the value does not decrypt; it was changed or moved here after it was encrypted")
	}
	canonical, ok := canonicalText(opened, typ)
	if !ok {
		return nil, c.fail(at, "the value is not of the type that the file claims; the file was changed after it was encrypted")
	}
	c.types = append(c.types, typ)
	return []byte(canonical), nil
}

func (c *cipher) comment(text string, key []byte, at string) (any, error) {
	if !c.comments {
		return sops.Comment{}, nil
	}
	opened, ok := c.open(text, "comment", key, at)
	if !ok {
		return nil, errValue // not recorded: the library keeps such a comment as it is
	}
	return sops.Comment{Value: opened}, nil
}

func (c *cipher) open(text, typ string, key []byte, at string) (string, bool) {
	v, err := c.aes.Decrypt(strings.TrimSuffix(text, typ+"]")+"str]", key, at)
	opened, isText := v.(string)
	return opened, err == nil && isText
}

// canonicalText returns the text that the MAC is made of, and whether the value is of the type.
func canonicalText(text, typ string) (string, bool) {
	switch typ {
	case "str":
		return text, true
	case "int":
		n, err := strconv.Atoi(text)
		return strconv.Itoa(n), err == nil
	case "float":
		f, err := strconv.ParseFloat(text, 64)
		return strconv.FormatFloat(f, 'f', -1, 64), err == nil && !math.IsNaN(f) && !math.IsInf(f, 0)
	case "bool":
		b, err := strconv.ParseBool(text)
		if b {
			return "True", err == nil
		}
		return "False", err == nil
	case "time":
		t, err := time.Parse(time.RFC3339, text)
		return t.Format(time.RFC3339Nano), err == nil
	}
	return "", false
}

// typed returns the Go value of canonical text, for a store that writes the file out whole.
func typed(text, typ string) any {
	switch typ {
	case "int":
		n, _ := strconv.Atoi(text)
		return n
	case "float":
		f, _ := strconv.ParseFloat(text, 64)
		return f
	case "bool":
		return text == "True"
	case "time":
		t, _ := time.Parse(time.RFC3339, text)
		return t
	}
	return text
}
