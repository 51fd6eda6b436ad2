package testkit

import (
	"crypto/rand"
	"encoding/hex"
	"strings"

	"sealock.dev/sealock/plaintext"
)

// Canary is a made-up secret that can be recognised wherever it gets to. Since it protects nothing it is an ordinary
// string, unlike plaintext.Value.
type Canary struct {
	text string
	core string
}

// NewCanary returns a Canary that nobody has seen before. It holds characters that quoting, URL-escaping and base64's two
// alphabets treat differently.
func NewCanary() Canary {
	random := make([]byte, 12)
	_, _ = rand.Read(random) // never fails
	core := "canary" + hex.EncodeToString(random)
	return Canary{text: core + `?>/+&"end`, core: core}
}

// String returns the secret.
func (c Canary) String() string { return c.text }

// Value returns the secret as the pipeline holds it.
func (c Canary) Value() plaintext.Value { return plaintext.FromString(c.text) }

// FindIn returns the forms (raw, quoted, base64, hex, URL-escaped) in which the secret, or its random part alone, stands
// in text. None is what a test wants.
func (c Canary) FindIn(text string) []string {
	var found []string
	for _, raw := range []string{c.text, c.core} {
		for _, form := range plaintext.Encodings([]byte(raw)) {
			if strings.Contains(text, form) {
				found = append(found, form)
			}
		}
	}
	return found
}
