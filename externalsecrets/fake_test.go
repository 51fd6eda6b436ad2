package externalsecrets

import (
	"context"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"sealock.dev/sealock/api/sealock/v1alpha1"
	"sealock.dev/sealock/fault"
	"sealock.dev/sealock/manifest"
	"sealock.dev/sealock/plaintext"
	"sealock.dev/sealock/tenants"
	"sealock.dev/sealock/vault"
)

const canary = "cAnArY-es-9911/+="

// fakeVault answers reads of KV and logins, counts them and fails on demand. What a real Vault says is tested in
// real_test.go.
type fakeVault struct {
	*httptest.Server
	mu       sync.Mutex
	requests []string
	data     map[string]string // wire path -> body
	status   int               // of every answer, when not 0
}

func newVault(t *testing.T) *fakeVault {
	t.Helper()
	f := &fakeVault{data: map[string]string{}}
	f.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		f.mu.Lock()
		defer f.mu.Unlock()
		path := strings.TrimPrefix(r.URL.Path, "/v1/")
		f.requests = append(f.requests, r.Method+" "+path+" "+r.Header.Get("X-Vault-Token"))
		switch {
		case f.status != 0:
			w.WriteHeader(f.status)
			_, _ = io.WriteString(w, `{"errors":["`+canary+`"]}`)
		case strings.HasSuffix(path, "/login"):
			raw, _ := io.ReadAll(r.Body)
			var in struct{ JWT string }
			_ = json.Unmarshal(raw, &in)
			_, _ = io.WriteString(w, `{"auth":{"client_token":"for-`+in.JWT+`","lease_duration":3600}}`)
		case path == "auth/token/lookup-self":
			_, _ = io.WriteString(w, `{"data":{}}`)
		case f.data[path] == "":
			w.WriteHeader(http.StatusNotFound)
		default:
			_, _ = io.WriteString(w, f.data[path])
		}
	}))
	t.Cleanup(f.Close)
	return f
}

func (f *fakeVault) count(part string) int {
	f.mu.Lock()
	defer f.mu.Unlock()
	n := 0
	for _, r := range f.requests {
		if strings.Contains(r, part) {
			n++
		}
	}
	return n
}

// put stores an object of KV v2 under secret/.
func (f *fakeVault) put(path, object string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.data["secret/data/"+path] = `{"data":{"data":` + object + `,"metadata":{"version":1}}}`
}

// objects is a Lookup over objects, and Tokens over names.
type objects struct {
	list []manifest.Object
	err  error
}

func (o *objects) Get(_ context.Context, gvk schema.GroupVersionKind, namespace, name string) (manifest.Object, error) {
	if o.err != nil {
		return manifest.Object{}, o.err
	}
	if i := in(o.list, gvk, namespace, name); i >= 0 {
		return o.list[i], nil
	}
	return manifest.Object{}, fault.New("", fault.NotFound, fault.Ref{}, "absent")
}

func (o *objects) UID(ctx context.Context, gvk schema.GroupVersionKind, namespace, name string, _ bool) (string, error) {
	obj, err := o.Get(ctx, gvk, namespace, name)
	if err != nil {
		return "", err
	}
	return uid(obj), nil
}

func (o *objects) ServiceAccountToken(_ context.Context, namespace, name string, _ []string) (plaintext.Value, error) {
	return plaintext.FromString("jwt-" + namespace + "-" + name), nil
}

// parse reads manifests.
func parse(t *testing.T, text string) []manifest.Object {
	t.Helper()
	docs, err := manifest.Decode("app.yaml", []byte(text), manifest.DefaultLimits)
	if err != nil {
		t.Fatal(err)
	}
	var out []manifest.Object
	for _, d := range docs {
		o, err := manifest.New(d.Body, manifest.Source{File: "app.yaml", Line: d.Line}, nil)
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, o)
	}
	return out
}

func one(t *testing.T, text string) manifest.Object { t.Helper(); return parse(t, text)[0] }

// store is a SecretStore with token auth, and its Secret.
func storeYAML(server string) string {
	return `
apiVersion: external-secrets.io/v1
kind: SecretStore
metadata: {name: vault, namespace: team-a}
spec:
  provider:
    vault:
      server: ` + server + `
      path: secret
      auth: {tokenSecretRef: {name: vault-token, key: token}}
---
apiVersion: v1
kind: Secret
metadata: {name: vault-token, namespace: team-a, uid: u1, resourceVersion: "5"}
stringData: {token: root-of-team-a}
`
}

func esYAML(spec string) string {
	return `
apiVersion: external-secrets.io/v1
kind: ExternalSecret
metadata: {name: db, namespace: team-a, labels: {app: x, kustomize.toolkit.fluxcd.io/name: k}, annotations: {note: y, kubectl.kubernetes.io/last-applied-configuration: z}}
spec:
  secretStoreRef: {name: vault}
` + spec
}

const passwordData = `  data:
  - {secretKey: password, remoteRef: {key: app, property: password}}
`

func opener(in *objects) *Opener {
	return &Opener{Providers: []Provider{NewVault(vault.New(vault.Options{}))}, Lookup: in, Tokens: in}
}

// tenant is the grant of team-a with a fence around secret/team-a.
func tenant(server string) tenants.Grant {
	index := tenants.NewIndex([]v1alpha1.Tenant{{
		ObjectMeta: metav1.ObjectMeta{Name: "a"},
		Spec: v1alpha1.TenantSpec{
			Namespaces: []v1alpha1.TenantNamespace{{Name: "team-a"}},
			Vault:      &v1alpha1.TenantVault{Servers: []string{server}, Paths: []string{"secret/team-a/*", "secret/app"}, Roles: []string{"team-a"}},
		},
	}}, tenants.DefaultSettings())
	return index.GrantFor("team-a")
}

func data(p manifest.Produced) map[string]string {
	out := map[string]string{}
	for k, v := range p.Secret.SecretData() {
		out[k] = string(v.Reveal())
	}
	return out
}

// silent fails the test when the text shows the canary in any form.
func silent(t *testing.T, text string) {
	t.Helper()
	for _, part := range []string{canary, "cAnArY"} {
		for _, form := range plaintext.Encodings([]byte(part)) {
			if strings.Contains(text, form) {
				t.Errorf("a value is shown as %q in: %s", form, text)
			}
		}
	}
}
