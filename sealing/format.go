// Package sealing opens and makes SealedSecrets.
//
// It exists so that the wire format of bitnami.com SealedSecrets, the keys that open it and the rules of what may come
// out stand in one place, used by the commit, by the kind's controller and by the CLI. It must not write to a cluster,
// hand out a private key, surface what a template says about a value, or tell a wrong key from a wrong scope: every
// failure of cryptography is one error with one text.
package sealing

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"

	"sealock.dev/sealock/api/sealing/v1alpha1"
	"sealock.dev/sealock/plaintext"
)

// Scope says under which names a ciphertext opens. The contract is reference/sealing-sops.md, section 1.1.
type Scope string

// The scopes.
const (
	Strict        Scope = "strict"         // one name in one namespace
	NamespaceWide Scope = "namespace-wide" // any name in one namespace
	ClusterWide   Scope = "cluster-wide"   // anywhere
)

// ParseScope reads a scope as users write it.
func ParseScope(text string) (Scope, error) {
	switch s := Scope(text); s {
	case Strict, NamespaceWide, ClusterWide:
		return s, nil
	}
	return "", fmt.Errorf("unknown scope %q: it is strict, namespace-wide or cluster-wide", text)
}

// ScopeOf returns the scope that annotations ask for: those of the SealedSecret itself when it is opened, never those of
// its template (CVE-2026-22728). Only the exact value "true" counts, and the wider scope wins.
func ScopeOf(annotations map[string]string) Scope {
	switch {
	case annotations[v1alpha1.AnnotationClusterWide] == "true":
		return ClusterWide
	case annotations[v1alpha1.AnnotationNamespaceWide] == "true":
		return NamespaceWide
	}
	return Strict
}

// annotation returns the annotation that asks for the scope, "" for Strict.
func (s Scope) annotation() string {
	switch s {
	case ClusterWide:
		return v1alpha1.AnnotationClusterWide
	case NamespaceWide:
		return v1alpha1.AnnotationNamespaceWide
	case Strict:
	}
	return ""
}

// Label returns what binds a ciphertext to its place. A namespace has no slash, so labels of two scopes never meet.
func (s Scope) Label(namespace, name string) []byte {
	switch s {
	case ClusterWide:
		return nil
	case NamespaceWide:
		return []byte(namespace)
	case Strict:
	}
	return []byte(namespace + "/" + name)
}

// errNoKey is the one answer to everything that does not open, in the words that users of SealedSecret know.
var errNoKey = errors.New("no key could decrypt secret")

const (
	sessionBytes = 32
	tagBytes     = 16
	maxValue     = 1 << 20 // the API server takes no larger Secret
	maxModulus   = 2048    // bytes: RSA-16384
	maxSealed    = 2 + maxModulus + maxValue + tagBytes
)

// sealed is one ciphertext taken apart: a session key wrapped with RSA, and the value under it.
type sealed struct {
	wrapped []byte // as long as the modulus of the key
	body    []byte // AES-256-GCM ciphertext and tag
}

// split checks all lengths. What passes costs at most one private operation for each key of its size.
func split(ciphertext []byte) (sealed, error) {
	if len(ciphertext) < 2 || len(ciphertext) > maxSealed {
		return sealed{}, errNoKey
	}
	n := int(binary.BigEndian.Uint16(ciphertext))
	if n == 0 || n > maxModulus || len(ciphertext) < 2+n+tagBytes {
		return sealed{}, errNoKey
	}
	return sealed{wrapped: ciphertext[2 : 2+n], body: ciphertext[2+n:]}, nil
}

// Open returns the value that ciphertext holds for the label. Every failure is the same error.
func Open(ciphertext, label []byte, key *PrivateKey) (plaintext.Value, error) {
	parts, err := split(ciphertext)
	if err != nil {
		return plaintext.Value{}, err
	}
	session, err := key.session(parts, label)
	if err != nil {
		return plaintext.Value{}, err
	}
	return openBody(session, parts.body)
}

// openBody opens what stands under the session key. A session key seals one value, so the nonce is all zero.
func openBody(session plaintext.Value, body []byte) (plaintext.Value, error) {
	v, err := plaintext.Derive(func(p ...[]byte) ([]byte, error) {
		gcm, err := newGCM(p[0])
		if err != nil {
			return nil, err
		}
		return gcm.Open(nil, make([]byte, gcm.NonceSize()), body, nil)
	}, session)
	if err != nil {
		return plaintext.Value{}, errNoKey
	}
	return v, nil
}

func newGCM(session []byte) (cipher.AEAD, error) {
	if len(session) != sessionBytes {
		return nil, errNoKey
	}
	block, err := aes.NewCipher(session)
	if err != nil {
		return nil, err
	}
	return cipher.NewGCM(block)
}

// Seal returns the text that stands in spec.encryptedData: standard base64 with padding.
func Seal(value plaintext.Value, label []byte, public *rsa.PublicKey) (string, error) {
	n := public.Size()
	if value.Len() > maxValue {
		return "", fmt.Errorf("the value has %d bytes, more than the %d that a Secret can hold", value.Len(), maxValue)
	}
	if n > maxModulus {
		return "", fmt.Errorf("the key has %d bits, more than the %d that are supported", n*8, maxModulus*8)
	}
	session := make([]byte, sessionBytes)
	defer clear(session)
	_, _ = rand.Read(session) // never fails since Go 1.24
	wrapped, err := rsa.EncryptOAEP(sha256.New(), rand.Reader, public, session, label)
	if err != nil {
		return "", errors.New("the RSA key of the certificate cannot seal")
	}
	gcm, err := newGCM(session)
	if err != nil {
		return "", err
	}
	out := make([]byte, 2, 2+n+value.Len()+tagBytes)
	binary.BigEndian.PutUint16(out, uint16(n))
	out = append(out, wrapped...)
	out = gcm.Seal(out, make([]byte, gcm.NonceSize()), value.Reveal(), nil) //nolint:gosec // the format: each key is used once
	return base64.StdEncoding.EncodeToString(out), nil
}
