package sealing

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"strings"
	"sync"
	"testing"
	"time"

	"sealock.dev/sealock/fault"
	"sealock.dev/sealock/plaintext"
)

func TestOnlyActiveKeysAndTheLegacyName(t *testing.T) {
	const label = "sealedsecrets.bitnami.com/sealed-secrets-key"
	for name, c := range map[string]struct {
		secret string
		labels map[string]string
		want   bool
	}{
		"active":              {"any", map[string]string{label: "active"}, true},
		"compromised":         {"any", map[string]string{label: "compromised"}, false},
		"capital":             {"any", map[string]string{label: "Active"}, false},
		"legacy":              {"sealed-secrets-key", nil, true},
		"legacy, compromised": {"sealed-secrets-key", map[string]string{label: "compromised"}, false},
		"only the prefix":     {"sealed-secrets-keyx2f", nil, false},
	} {
		if got := IsKeySecret(c.secret, c.labels, "sealed-secrets-key"); got != c.want {
			t.Errorf("%s: got %v", name, got)
		}
	}
}

func TestMalformedKeySecretLeavesTheOthersWorking(t *testing.T) {
	good := keySecret(t, "rsa2048")
	ec, _ := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	ecDER, _ := x509.MarshalPKCS8PrivateKey(ec)
	bad := map[string]KeySecret{
		"empty":             {},
		"no certificate":    {PrivateKey: keySecret(t, "rsa4096").PrivateKey},
		"junk certificate":  {PrivateKey: keySecret(t, "rsa4096").PrivateKey, Certificate: []byte("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n")},
		"other certificate": {PrivateKey: keySecret(t, "rsa4096").PrivateKey, Certificate: keySecret(t, "other2048").Certificate},
		"junk key":          {PrivateKey: plaintext.FromString("-----BEGIN RSA PRIVATE KEY-----\nAAAA\n-----END RSA PRIVATE KEY-----\n")},
		"no RSA":            {PrivateKey: plaintext.New(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: ecDER}))},
		"not PEM":           {PrivateKey: plaintext.FromString("canary-key-material")},
	}
	for name, b := range bad {
		t.Run(name, func(t *testing.T) {
			b.Namespace, b.Name = "sealock-system", "junk"
			r := NewKeyRing(plaintext.RandomKey())
			_, err := r.Load([]KeySecret{b, good})
			if fault.KindOf(err) != fault.Invalid || !strings.Contains(err.Error(), "Secret/sealock-system/junk: data.tls.") {
				t.Errorf("the report does not name it: %v", err)
			}
			if strings.Contains(err.Error(), "canary") {
				t.Errorf("key material in %v", err)
			}
			if c := r.Newest(); c == nil || c.fingerprint != privateKey(t, "rsa2048").fingerprint {
				t.Error("the good key is not in use")
			}
			raw, _ := base64.StdEncoding.DecodeString(sealText(t, "x", Strict))
			if _, err := r.Open(context.Background(), raw, Strict.Label("team-a", "db")); err != nil {
				t.Error(err)
			}
		})
	}
}

// dated returns the pair of a key with a certificate from the given time.
func dated(t *testing.T, name string, notBefore, created time.Time) KeySecret {
	t.Helper()
	s := keySecret(t, "rsa2048")
	key, err := parseRSA(s.PrivateKey.Reveal())
	if err != nil {
		t.Fatal(err)
	}
	tmpl := &x509.Certificate{SerialNumber: big.NewInt(int64(name[0])), NotBefore: notBefore, NotAfter: notBefore.Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	s.Name, s.Created, s.Certificate = name, created, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	return s
}

func TestNewestCertificateIsDeterministic(t *testing.T) {
	t0 := time.Unix(1_700_000_000, 0)
	for name, c := range map[string]struct {
		list []KeySecret
		want string
	}{
		"certificate first": {[]KeySecret{dated(t, "a", t0, t0.Add(time.Hour)), dated(t, "b", t0.Add(time.Minute), t0)}, "b"},
		"then creation":     {[]KeySecret{dated(t, "a", t0, t0), dated(t, "b", t0, t0.Add(time.Minute))}, "b"},
		"then name":         {[]KeySecret{dated(t, "b", t0, t0), dated(t, "a", t0, t0)}, "a"},
	} {
		var want []byte
		for _, s := range c.list {
			if s.Name == c.want {
				want = s.Certificate
			}
		}
		for _, list := range [][]KeySecret{c.list, {c.list[1], c.list[0]}} {
			r := NewKeyRing(plaintext.RandomKey())
			if _, err := r.Load(list); err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(r.Newest().PEM(), want) {
				t.Errorf("%s: not %s", name, c.want)
			}
		}
	}
}

// counting replaces the private operations of a ring by counted ones.
func counting(r *KeyRing) *int {
	n := new(int)
	for _, keys := range r.snapshot.Load().bySize {
		for _, k := range keys {
			inner := k.unwrap
			k.unwrap = func(w, l []byte) ([]byte, error) { *n++; return inner(w, l) }
		}
	}
	return n
}

func TestPrivateOperationsAreNotRepeated(t *testing.T) {
	ctx := context.Background()
	raw, _ := base64.StdEncoding.DecodeString(sealText(t, "x", Strict))
	label := Strict.Label("team-a", "db")
	r := ring(t, "rsa2048", "rsa4096")
	n := counting(r)
	for range 3 {
		if _, err := r.Open(ctx, raw, label); err != nil {
			t.Fatal(err)
		}
	}
	if *n != 1 {
		t.Errorf("opening three times took %d private operations, want 1: keys of another size are not tried", *n)
	}
	*n = 0
	for range 3 {
		if _, err := r.Open(ctx, raw, []byte("elsewhere")); !errors.Is(err, errNoKey) {
			t.Fatal(err)
		}
	}
	if *n != 1 {
		t.Errorf("failing three times took %d private operations, want 1", *n)
	}
}

func TestANewKeyOpensWhatFailedAndARemovedOneDoesNot(t *testing.T) {
	ctx := context.Background()
	raw, _ := base64.StdEncoding.DecodeString(sealText(t, "x", Strict))
	label := Strict.Label("team-a", "db")
	r := ring(t, "other2048")
	if _, err := r.Open(ctx, raw, label); !errors.Is(err, errNoKey) {
		t.Fatal(err)
	}
	before := r.Generation()
	changed, _ := r.Load([]KeySecret{keySecret(t, "other2048"), keySecret(t, "rsa2048")})
	if !changed || r.Generation() == before {
		t.Error("the new key went unnoticed")
	}
	if _, err := r.Open(ctx, raw, label); err != nil {
		t.Errorf("after the key arrived: %v", err)
	}
	if changed, _ := r.Load([]KeySecret{keySecret(t, "rsa2048"), keySecret(t, "other2048")}); changed {
		t.Error("the same keys in another order count as changed")
	}
	if _, err := r.Load([]KeySecret{keySecret(t, "other2048")}); err != nil {
		t.Fatal(err)
	}
	if _, err := r.Open(ctx, raw, label); !errors.Is(err, errNoKey) {
		t.Errorf("after the key was removed: %v", err)
	}
}

func TestRingBeforeItsFirstLoad(t *testing.T) {
	r := NewKeyRing(plaintext.RandomKey())
	if r.Ready() || r.Newest() != nil || r.Generation() != "" {
		t.Error("an unloaded ring says it has something")
	}
	if _, err := r.Open(context.Background(), make([]byte, 400), nil); !errors.Is(err, errNotLoaded) {
		t.Errorf("got %v", err)
	}
}

func TestKeyRingUnderLoad(t *testing.T) {
	ctx := context.Background()
	raw, _ := base64.StdEncoding.DecodeString(sealText(t, "x", Strict))
	r := ring(t, "rsa2048")
	both := []KeySecret{keySecret(t, "rsa2048"), keySecret(t, "other2048")}
	var wg sync.WaitGroup
	for range 4 {
		wg.Add(2)
		go func() {
			defer wg.Done()
			for i := range 20 {
				if _, err := r.Load(both[:1+i%2]); err != nil {
					t.Error(err)
				}
			}
		}()
		go func() {
			defer wg.Done()
			for i := range 20 {
				if _, err := r.Open(ctx, raw, Strict.Label("team-a", "db")); err != nil {
					t.Error(err)
				}
				_, _ = r.Open(ctx, raw, fmt.Append(nil, i))
				_ = r.Newest().PEM()
			}
		}()
	}
	wg.Wait()
}

func TestGenerateMakesThePeersFormat(t *testing.T) {
	now := time.Now()
	made, err := Generate(now, 2048)
	if err != nil {
		t.Fatal(err)
	}
	block, rest := pem.Decode(made.Certificate)
	if block == nil || len(rest) != 0 {
		t.Fatal("not exactly one certificate")
	}
	cert, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	if cert.KeyUsage != x509.KeyUsageEncipherOnly || !cert.IsCA || !cert.BasicConstraintsValid || cert.Subject.String() != "" ||
		cert.NotAfter.Sub(cert.NotBefore) != DefaultKeyLifetime || cert.NotBefore.After(now) {
		t.Errorf("certificate: usage %v, CA %v, subject %q, %s to %s", cert.KeyUsage, cert.IsCA, cert.Subject, cert.NotBefore, cert.NotAfter)
	}
	if !strings.HasPrefix(string(made.PrivateKey.Reveal()), "-----BEGIN RSA PRIVATE KEY-----") {
		t.Error("the key is not PKCS#1")
	}
	r := NewKeyRing(plaintext.RandomKey())
	if _, err := r.Load([]KeySecret{{Certificate: made.Certificate, PrivateKey: made.PrivateKey}}); err != nil {
		t.Fatal(err)
	}
	if text := fmt.Sprintf("%v %+v %#v", made, r, r.snapshot.Load().bySize[256][0]); strings.Contains(text, "PRIVATE") {
		t.Error("a key can be printed")
	}
}

func FuzzKeySecret(f *testing.F) {
	f.Add(read(f, "keys", "rsa2048.key"), read(f, "keys", "rsa2048.crt"))
	f.Add([]byte("-----BEGIN RSA PRIVATE KEY-----\nAAAA\n-----END RSA PRIVATE KEY-----\n"), []byte("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"))
	f.Fuzz(func(_ *testing.T, key, cert []byte) {
		r := NewKeyRing(plaintext.RandomKey())
		_, _ = r.Load([]KeySecret{{PrivateKey: plaintext.New(key), Certificate: cert}})
	})
}
