package sealing

import (
	"context"
	"os"
	"path/filepath"
	"testing"
	"time"

	"sealock.dev/sealock/manifest"
	"sealock.dev/sealock/plaintext"
	"sealock.dev/sealock/template"
	"sealock.dev/sealock/tenants"
)

func read(t testing.TB, path ...string) []byte {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(append([]string{"testdata"}, path...)...))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func keySecret(t testing.TB, name string) KeySecret {
	t.Helper()
	return KeySecret{
		Namespace: "sealock-system", Name: "sealed-secrets-key" + name, Created: time.Unix(1_700_000_000, 0),
		Certificate: read(t, "keys", name+".crt"), PrivateKey: plaintext.New(read(t, "keys", name+".key")),
	}
}

func privateKey(t testing.TB, name string) *PrivateKey {
	t.Helper()
	k, err := ParsePrivateKey(keySecret(t, name).PrivateKey)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func certificate(t testing.TB, name string) *Certificate {
	t.Helper()
	c, err := ParseCertificate(read(t, "keys", name+".crt"))
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func ring(t testing.TB, names ...string) *KeyRing {
	t.Helper()
	r := NewKeyRing(plaintext.RandomKey())
	secrets := make([]KeySecret, 0, len(names))
	for _, n := range names {
		secrets = append(secrets, keySecret(t, n))
	}
	if _, err := r.Load(secrets); err != nil {
		t.Fatal(err)
	}
	return r
}

func objects(t testing.TB, text []byte) []manifest.Object {
	t.Helper()
	docs, err := manifest.Decode("team-a/sealed.yaml", text, manifest.DefaultLimits)
	if err != nil {
		t.Fatal(err)
	}
	out := make([]manifest.Object, 0, len(docs))
	for _, d := range docs {
		o, err := manifest.New(d.Body, manifest.Source{File: "team-a/sealed.yaml", Line: d.Line}, nil)
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, o)
	}
	return out
}

// object makes a SealedSecret team-a/db of a spec, with metadata changed by each edit.
func object(t testing.TB, spec map[string]any, edit ...func(meta map[string]any)) manifest.Object {
	t.Helper()
	meta := map[string]any{"name": "db", "namespace": "team-a"}
	for _, e := range edit {
		e(meta)
	}
	o, err := manifest.New(map[string]any{"apiVersion": "bitnami.com/v1alpha1", "kind": "SealedSecret", "metadata": meta, "spec": spec},
		manifest.Source{File: "team-a/sealed.yaml", Line: 3}, nil)
	if err != nil {
		t.Fatal(err)
	}
	return o
}

func annotate(scope Scope) func(map[string]any) {
	return func(meta map[string]any) {
		if a := scope.annotation(); a != "" {
			meta["annotations"] = map[string]any{a: "true"}
		}
	}
}

// sealText seals for team-a/db with the certificate of rsa2048.
func sealText(t testing.TB, value string, scope Scope) string {
	t.Helper()
	text, err := Seal(plaintext.FromString(value), scope.Label("team-a", "db"), certificate(t, "rsa2048").public)
	if err != nil {
		t.Fatal(err)
	}
	return text
}

func open(t testing.TB, r *KeyRing, o manifest.Object) (manifest.Produced, error) {
	t.Helper()
	return NewOpener(r, template.Engine{}).Open(context.Background(), tenants.Grant{Namespace: "team-a"}, o, nil)
}

// data reveals what a produced Secret holds.
func data(o manifest.Object) map[string]string {
	out := map[string]string{}
	for k, v := range o.SecretData() {
		out[k] = string(v.Reveal())
	}
	return out
}
