package sealing

import (
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"testing"

	"sealock.dev/sealock/plaintext"
)

func TestScopesRoundTrip(t *testing.T) {
	key, public := privateKey(t, "rsa2048"), certificate(t, "rsa2048").public
	scopes := []Scope{Strict, NamespaceWide, ClusterWide}
	for _, sealedAs := range scopes {
		for _, openedAs := range scopes {
			t.Run(fmt.Sprintf("%s opened as %s", sealedAs, openedAs), func(t *testing.T) {
				text, err := Seal(plaintext.FromString("s3cret"), sealedAs.Label("team-a", "db"), public)
				if err != nil {
					t.Fatal(err)
				}
				raw, err := base64.StdEncoding.DecodeString(text)
				if err != nil {
					t.Fatal(err)
				}
				v, err := Open(raw, openedAs.Label("team-a", "db"), key)
				if sealedAs != openedAs {
					if !errors.Is(err, errNoKey) {
						t.Fatalf("got %v, want the fixed error", err)
					}
					return
				}
				if err != nil || string(v.Reveal()) != "s3cret" {
					t.Fatalf("got %v", err)
				}
			})
		}
	}
}

func TestStrictIsBoundToNameAndNamespace(t *testing.T) {
	key, public := privateKey(t, "rsa2048"), certificate(t, "rsa2048").public
	text, _ := Seal(plaintext.FromString("x"), Strict.Label("team-a", "db"), public)
	raw, _ := base64.StdEncoding.DecodeString(text)
	for _, label := range [][]byte{Strict.Label("team-a", "other"), Strict.Label("team-b", "db"), NamespaceWide.Label("team-a", ""), nil} {
		if _, err := Open(raw, label, key); !errors.Is(err, errNoKey) {
			t.Errorf("label %q: got %v", label, err)
		}
	}
}

func TestEveryFailureIsTheSameError(t *testing.T) {
	key := privateKey(t, "rsa2048")
	text := sealText(t, "s3cret", Strict)
	good, _ := base64.StdEncoding.DecodeString(text)
	label := Strict.Label("team-a", "db")
	alter := func(i int) []byte { b := append([]byte(nil), good...); b[i] ^= 1; return b }
	cases := map[string][]byte{
		"empty": nil, "one byte": {1}, "header only": good[:2], "no body": good[:2+256], "tag cut": good[:len(good)-1],
		"wrapped key altered": alter(40), "body altered": alter(2 + 256), "tag altered": alter(len(good) - 1),
		"length altered": alter(1), "modulus of zero": append([]byte{0, 0}, good[2:]...), "too large": make([]byte, maxSealed+1),
	}
	// A session key that is not of AES-256, wrapped properly.
	wrapped, err := rsa.EncryptOAEP(sha256.New(), rand.Reader, certificate(t, "rsa2048").public, make([]byte, 16), label)
	if err == nil {
		short := binary.BigEndian.AppendUint16(nil, 256)
		cases["short session key"] = append(append(short, wrapped...), make([]byte, 32)...)
	}
	for name, ct := range cases {
		if _, err := Open(ct, label, key); err != errNoKey { //nolint:errorlint // the very same error
			t.Errorf("%s: got %v", name, err)
		}
	}
	if _, err := Open(good, label, privateKey(t, "other2048")); err != errNoKey { //nolint:errorlint // as above
		t.Errorf("another key: got %v", err)
	}
}

func TestGoldenRawOfKubeseal(t *testing.T) {
	for _, scope := range []Scope{Strict, NamespaceWide, ClusterWide} {
		raw, err := base64.StdEncoding.DecodeString(string(read(t, "golden", "raw-"+string(scope)+".txt")))
		if err != nil {
			t.Fatal(err)
		}
		v, err := Open(raw, scope.Label("team-a", "db"), privateKey(t, "rsa2048"))
		if err != nil || string(v.Reveal()) != "golden-raw-value" {
			t.Errorf("%s: %v", scope, err)
		}
	}
}

func TestScopeOf(t *testing.T) {
	const ns, cluster = "sealedsecrets.bitnami.com/namespace-wide", "sealedsecrets.bitnami.com/cluster-wide"
	for name, c := range map[string]struct {
		annotations map[string]string
		want        Scope
	}{
		"none":           {nil, Strict},
		"namespace":      {map[string]string{ns: "true"}, NamespaceWide},
		"cluster wins":   {map[string]string{ns: "true", cluster: "true"}, ClusterWide},
		"only true":      {map[string]string{cluster: "yes", ns: "True"}, Strict},
		"empty is false": {map[string]string{cluster: ""}, Strict},
	} {
		if got := ScopeOf(c.annotations); got != c.want {
			t.Errorf("%s: got %s, want %s", name, got, c.want)
		}
	}
}

func TestSealRefusesWhatNoSecretHolds(t *testing.T) {
	public := certificate(t, "rsa2048").public
	if _, err := Seal(plaintext.New(make([]byte, maxValue)), nil, public); err != nil {
		t.Errorf("the largest value: %v", err)
	}
	if _, err := Seal(plaintext.New(make([]byte, maxValue+1)), nil, public); err == nil {
		t.Error("a larger value was sealed")
	}
}

func FuzzOpen(f *testing.F) {
	key := privateKey(f, "rsa2048")
	good, _ := base64.StdEncoding.DecodeString(sealText(f, "s3cret", Strict))
	f.Add(good, []byte("team-a/db"))
	f.Add(good[:100], []byte("team-a/db"))
	f.Add([]byte{1, 0}, []byte{})
	f.Add([]byte{0xff, 0xff, 0}, []byte{})
	f.Fuzz(func(t *testing.T, ct, label []byte) {
		v, err := Open(ct, label, key)
		if err != nil && !errors.Is(err, errNoKey) {
			t.Fatalf("another error: %v", err)
		}
		if err == nil && string(v.Reveal()) != "s3cret" {
			t.Fatal("opened what nobody sealed")
		}
	})
}

func BenchmarkRawOAEP(b *testing.B) {
	raw, _ := base64.StdEncoding.DecodeString(objects(b, read(b, "golden", "basic-auth-4096.yaml"))[0].Peek("spec", "encryptedData", "password").(string))
	parts, _ := split(raw)
	key, label := privateKey(b, "rsa4096"), Strict.Label("team-a", "git")
	for b.Loop() {
		if _, err := key.unwrap(parts.wrapped, label); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkOpen(b *testing.B) {
	raw, _ := base64.StdEncoding.DecodeString(objects(b, read(b, "golden", "basic-auth-4096.yaml"))[0].Peek("spec", "encryptedData", "password").(string))
	key, label := privateKey(b, "rsa4096"), Strict.Label("team-a", "git")
	for b.Loop() {
		if _, err := Open(raw, label, key); err != nil {
			b.Fatal(err)
		}
	}
}
