package sealing

import (
	"crypto/rand"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"math/big"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"sealock.dev/sealock/fault"
	"sealock.dev/sealock/internal/testkit"
	"sealock.dev/sealock/manifest"
)

// TestSealSecretIsWhatKubesealMakes compares everything but the ciphertexts with the output of the real one.
func TestSealSecretIsWhatKubesealMakes(t *testing.T) {
	for _, scope := range []Scope{Strict, NamespaceWide, ClusterWide} {
		t.Run(string(scope), func(t *testing.T) {
			got, err := SealSecret(objects(t, read(t, "input", "opaque.yaml"))[0], certificate(t, "rsa2048"), SealOptions{Scope: scope, Now: time.Now()})
			if err != nil {
				t.Fatal(err)
			}
			want := objects(t, read(t, "golden", "opaque-"+string(scope)+".yaml"))[0].Body()
			ignore := cmpopts.IgnoreMapEntries(func(k string, _ any) bool { return k == "encryptedData" })
			if diff := cmp.Diff(want, got, ignore); diff != "" {
				t.Error(diff)
			}
			o, err := manifest.New(got, manifest.Source{}, nil)
			if err != nil {
				t.Fatal(err)
			}
			p, err := open(t, ring(t, "rsa2048"), o)
			if err != nil {
				t.Fatal(err)
			}
			golden, err := open(t, ring(t, "rsa2048"), objects(t, read(t, "golden", "opaque-"+string(scope)+".yaml"))[0])
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(data(golden.Secret), data(p.Secret)); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestSealOutputHoldsNothingOfTheCluster(t *testing.T) {
	canary := testkit.NewCanary()
	secret := map[string]any{
		"apiVersion": "v1", "kind": "Secret", "type": "Opaque",
		"metadata": map[string]any{
			"name": "db", "namespace": "team-a", "uid": "u", "resourceVersion": "1", "generation": int64(1), "creationTimestamp": "2026-01-01T00:00:00Z",
			"deletionTimestamp": "2026-01-01T00:00:00Z", "selfLink": "x", "finalizers": []any{"x"},
			"ownerReferences": []any{map[string]any{"name": "x"}}, "managedFields": []any{map[string]any{"manager": "x"}},
			"annotations": map[string]any{"kubectl.kubernetes.io/last-applied-configuration": canary.String(), "kubecfg.ksonnet.io/last-applied-configuration": canary.String()},
		},
		"stringData": map[string]any{"password": canary.String()},
	}
	o, err := manifest.New(secret, manifest.Source{}, nil)
	if err != nil {
		t.Fatal(err)
	}
	got, err := SealSecret(o, certificate(t, "rsa2048"), SealOptions{Now: time.Now()})
	if err != nil {
		t.Fatal(err)
	}
	text, err := json.Marshal(got)
	if err != nil {
		t.Fatal(err)
	}
	if found := canary.FindIn(string(text)); found != nil {
		t.Errorf("plaintext: %q", found)
	}
	meta := map[string]any{"name": "db", "namespace": "team-a"}
	if diff := cmp.Diff(meta, got["metadata"]); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff(map[string]any{"metadata": meta, "type": "Opaque"}, mapOf(got["spec"])["template"]); diff != "" {
		t.Error(diff)
	}
}

func TestScopeOfAnnotationsAndItsOverride(t *testing.T) {
	for name, c := range map[string]struct {
		have, flag, want Scope
	}{
		"annotation counts":          {NamespaceWide, "", NamespaceWide},
		"flag narrows":               {ClusterWide, Strict, Strict},
		"flag widens":                {Strict, ClusterWide, ClusterWide},
		"flag replaces":              {ClusterWide, NamespaceWide, NamespaceWide},
		"strict without any of both": {Strict, "", Strict},
	} {
		meta := map[string]any{"name": "db", "namespace": "team-a"}
		annotate(c.have)(meta)
		o, err := manifest.New(map[string]any{"apiVersion": "v1", "kind": "Secret", "metadata": meta, "stringData": map[string]any{"a": "b"}}, manifest.Source{}, nil)
		if err != nil {
			t.Fatal(err)
		}
		got, err := SealSecret(o, certificate(t, "rsa2048"), SealOptions{Scope: c.flag, Now: time.Now()})
		if err != nil {
			t.Fatal(err)
		}
		sealedSecret, err := manifest.New(got, manifest.Source{}, nil)
		if err != nil {
			t.Fatal(err)
		}
		if ScopeOf(sealedSecret.Annotations()) != c.want {
			t.Errorf("%s: annotations %v", name, sealedSecret.Annotations())
		}
		p, err := open(t, ring(t, "rsa2048"), sealedSecret)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if diff := cmp.Diff(sealedSecret.Annotations(), p.Secret.Annotations()); diff != "" {
			t.Errorf("%s: the template says another scope: %s", name, diff)
		}
	}
}

func TestSealRefusals(t *testing.T) {
	key, err := parseRSA(keySecret(t, "rsa2048").PrivateKey.Reveal())
	if err != nil {
		t.Fatal(err)
	}
	tmpl := &x509.Certificate{SerialNumber: big.NewInt(1), NotBefore: time.Now().Add(-2 * time.Hour), NotAfter: time.Now().Add(-time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	expired, err := ParseCertificate(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
	if err != nil {
		t.Fatal(err)
	}
	good := certificate(t, "rsa2048")
	secret := func(kind, ns string, data map[string]any) manifest.Object {
		meta := map[string]any{"name": "db"}
		if ns != "" {
			meta["namespace"] = ns
		}
		o, err := manifest.New(map[string]any{"apiVersion": "v1", "kind": kind, "metadata": meta, "stringData": data}, manifest.Source{}, nil)
		if err != nil {
			t.Fatal(err)
		}
		return o
	}
	some := map[string]any{"a": "b"}
	for name, c := range map[string]struct {
		o    manifest.Object
		cert *Certificate
		opts SealOptions
		ok   bool
	}{
		"expired":                  {secret("Secret", "team-a", some), expired, SealOptions{}, false},
		"not a Secret":             {secret("ConfigMap", "team-a", some), good, SealOptions{}, false},
		"no namespace":             {secret("Secret", "", some), good, SealOptions{}, false},
		"no namespace is needed":   {secret("Secret", "", some), good, SealOptions{Scope: ClusterWide}, true},
		"empty":                    {secret("Secret", "team-a", nil), good, SealOptions{}, false},
		"empty on purpose":         {secret("Secret", "team-a", nil), good, SealOptions{AllowEmpty: true}, true},
		"larger than a Secret can": {secret("Secret", "team-a", map[string]any{"a": string(make([]byte, maxValue+1))}), good, SealOptions{}, false},
	} {
		c.opts.Now = time.Now()
		_, err := SealSecret(c.o, c.cert, c.opts)
		if (err == nil) != c.ok || err != nil && fault.KindOf(err) != fault.Invalid {
			t.Errorf("%s: %v", name, err)
		}
	}
}
