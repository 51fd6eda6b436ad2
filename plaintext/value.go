// Package plaintext holds the only type that may carry secret bytes.
//
// It exists so that a secret cannot be printed, logged, marshalled or compared by accident: the bytes live behind a
// closure, which no formatter, encoder or reflection walk follows. Whoever calls Value.Reveal is on a short list in
// arch_test.go. The package must not import anything of ours, write anywhere, or keep a value longer than its caller.
// It stops accidents, not memory inspection: Go cannot reliably zero memory.
package plaintext

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/hex"
	"fmt"
	"io"
)

// Mask is what a Value prints as, whatever the verb or encoder.
const Mask = "[plaintext]"

// Value is one secret. The zero Value is empty.
// It has no Unmarshal method, so that it cannot live in an API type, and it must be compared with Equal.
type Value struct {
	reveal func() []byte
}

// New returns a Value of a copy of b.
func New(b []byte) Value {
	own := append([]byte(nil), b...)
	return Value{reveal: func() []byte { return append([]byte(nil), own...) }}
}

// FromString returns a Value of s.
func FromString(s string) Value { return New([]byte(s)) }

// Reveal returns a copy of the secret bytes. Callers are listed in arch_test.go, each with its reason.
func (v Value) Reveal() []byte {
	if v.reveal == nil {
		return nil
	}
	return v.reveal()
}

// Len returns the length in bytes.
func (v Value) Len() int { return len(v.Reveal()) }

// Equal compares in constant time for values of the same length.
func (v Value) Equal(o Value) bool { return subtle.ConstantTimeCompare(v.Reveal(), o.Reveal()) == 1 }

// Format prints Mask for every verb.
func (v Value) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, Mask) }

// MarshalText writes Mask, which is also what JSON and YAML encoders print.
func (v Value) MarshalText() ([]byte, error) { return []byte(Mask), nil }

// Key makes digests of values that nobody without the key can test guesses against.
type Key struct {
	mac func(parts ...[]byte) []byte
}

// NewKey returns the Key of the given secret.
func NewKey(secret []byte) Key {
	own := append([]byte(nil), secret...)
	return Key{mac: func(parts ...[]byte) []byte {
		h := hmac.New(sha256.New, own)
		for _, p := range parts {
			// Lengths keep ("a","bc") and ("ab","c") apart.
			fmt.Fprintf(h, "%d:", len(p))
			h.Write(p)
		}
		return h.Sum(nil)
	}}
}

// RandomKey returns a Key that no other process has.
func RandomKey() Key {
	secret := make([]byte, 32)
	_, _ = rand.Read(secret) // crypto/rand.Read never fails since Go 1.24
	return NewKey(secret)
}

// Format prints Mask for every verb.
func (k Key) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, Mask) }

// Digest returns 64 hex digits: the HMAC-SHA-256 of the parts. Two equal inputs have equal digests under one Key.
func (k Key) Digest(parts ...[]byte) string {
	if k.mac == nil {
		panic("plaintext: Digest of the zero Key") // an unkeyed digest would be an oracle
	}
	return hex.EncodeToString(k.mac(parts...))
}

// Digest returns the keyed digest of the value.
func (v Value) Digest(k Key) string { return k.Digest(v.Reveal()) }

// Derive returns the Value that fn makes of the given values. What fn returns as error text must not carry a value.
func Derive(fn func(parts ...[]byte) ([]byte, error), from ...Value) (Value, error) {
	parts := make([][]byte, len(from))
	for i, v := range from {
		parts[i] = v.Reveal()
	}
	out, err := fn(parts...)
	if err != nil {
		return Value{}, err
	}
	return New(out), nil
}
