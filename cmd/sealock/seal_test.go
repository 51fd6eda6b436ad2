package main

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"sealock.dev/sealock/fault"
	"sealock.dev/sealock/internal/testkit"
	"sealock.dev/sealock/manifest"
	"sealock.dev/sealock/plaintext"
	"sealock.dev/sealock/sealing"
	"sealock.dev/sealock/template"
	"sealock.dev/sealock/tenants"
)

const sealKeys = "../../sealing/testdata/keys/"

// sealVerb runs `sealock seal` without any cluster unless args name one.
func sealVerb(t *testing.T, stdin string, args ...string) (stdout, stderr string, err error) {
	t.Helper()
	t.Setenv("KUBECONFIG", filepath.Join(t.TempDir(), "none"))
	t.Setenv("HOME", t.TempDir())
	cmd := newSealCommand()
	cmd.SilenceErrors, cmd.SilenceUsage = true, true
	var out, errs bytes.Buffer
	cmd.SetIn(strings.NewReader(stdin))
	cmd.SetOut(&out)
	cmd.SetErr(&errs)
	cmd.SetArgs(args)
	err = cmd.ExecuteContext(context.Background())
	return out.String(), errs.String(), err
}

// opened opens everything in text with the key of rsa2048.
func opened(t *testing.T, text string) []manifest.Object {
	t.Helper()
	ring := sealing.NewKeyRing(plaintext.RandomKey())
	key, err := os.ReadFile(sealKeys + "rsa2048.key")
	if err != nil {
		t.Fatal(err)
	}
	cert, err := os.ReadFile(sealKeys + "rsa2048.crt")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := ring.Load([]sealing.KeySecret{{Certificate: cert, PrivateKey: plaintext.New(key)}}); err != nil {
		t.Fatal(err)
	}
	docs, _, err := documents("out", []byte(text))
	if err != nil {
		t.Fatal(err)
	}
	var out []manifest.Object
	for _, d := range docs {
		o, err := manifest.New(d.Body, manifest.Source{}, nil)
		if err != nil {
			t.Fatal(err)
		}
		p, err := sealing.NewOpener(ring, template.Engine{}).Open(context.Background(), tenants.Grant{Namespace: "team-a"}, o, nil)
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, p.Secret)
	}
	return out
}

func TestSealDocumentsAndFormats(t *testing.T) {
	const one = "apiVersion: v1\nkind: Secret\nmetadata: {name: a, namespace: x}\nstringData: {k: v}\n"
	const two = one + "---\napiVersion: v1\nkind: Secret\nmetadata: {name: b}\nstringData: {k: v}\n"
	asJSON := `{"apiVersion":"v1","kind":"Secret","metadata":{"name":"a","namespace":"x"},"data":{"k":"dg=="}}`
	for name, c := range map[string]struct {
		in   string
		args []string
		docs int
		json bool
	}{
		"yaml stays yaml":      {one, nil, 1, false},
		"json stays json":      {asJSON, nil, 1, true},
		"asked for json":       {one, []string{"-o", "json"}, 1, true},
		"asked for yaml":       {asJSON, []string{"-o", "yaml"}, 1, false},
		"two documents":        {two, nil, 2, false},
		"two values of JSON":   {asJSON + "\n" + strings.Replace(asJSON, `"a"`, `"b"`, 1), nil, 2, true},
		"flow style is YAML":   {`{apiVersion: v1, kind: Secret, metadata: {name: a, namespace: x}, stringData: {k: v}}`, nil, 1, false},
		"the name is replaced": {one, []string{"--name", "z"}, 1, false},
	} {
		t.Run(name, func(t *testing.T) {
			out, _, err := sealVerb(t, c.in, append(c.args, "--cert", sealKeys+"rsa2048.crt")...)
			if err != nil {
				t.Fatal(err)
			}
			secrets := opened(t, out)
			if len(secrets) != c.docs || json.Valid([]byte(out)) != (c.json && c.docs == 1) || strings.HasPrefix(out, "---\n") == c.json {
				t.Errorf("%d documents in %q", len(secrets), out)
			}
			for _, s := range secrets {
				if string(s.SecretData()["k"].Reveal()) != "v" {
					t.Errorf("%s does not open to what was sealed", s.Ref())
				}
			}
			if name == "the name is replaced" && secrets[0].Name() != "z" {
				t.Errorf("it is called %s", secrets[0].Name())
			}
			if c.docs == 2 && !c.json && secrets[1].Namespace() != "default" {
				t.Errorf("namespace %q", secrets[1].Namespace())
			}
		})
	}
}

func TestSealWritesAFileWhole(t *testing.T) {
	dir := t.TempDir()
	in, out := filepath.Join(dir, "in.json"), filepath.Join(dir, "out.yaml")
	if err := os.WriteFile(in, []byte(`{"apiVersion":"v1","kind":"Secret","metadata":{"name":"a","namespace":"x"},"data":{"k":"dg=="}}`), 0o600); err != nil {
		t.Fatal(err)
	}
	stdout, _, err := sealVerb(t, "", "-f", in, "-w", out, "--cert", "file://"+mustAbs(t, sealKeys+"rsa2048.crt"))
	if err != nil || stdout != "" {
		t.Fatalf("%v, stdout %q", err, stdout)
	}
	text, err := os.ReadFile(out)
	if err != nil || !bytes.HasPrefix(text, []byte("---\napiVersion")) {
		t.Errorf("%v: %s", err, text)
	}
	if _, _, err := sealVerb(t, "kind: ConfigMap", "-w", out, "--cert", sealKeys+"rsa2048.crt"); err == nil {
		t.Fatal("sealed nonsense")
	}
	after, _ := os.ReadFile(out)
	entries, _ := os.ReadDir(dir)
	if !bytes.Equal(text, after) || len(entries) != 2 {
		t.Errorf("a failure touched the file, or left one: %v", entries)
	}
}

func mustAbs(t *testing.T, path string) string {
	t.Helper()
	abs, err := filepath.Abs(path)
	if err != nil {
		t.Fatal(err)
	}
	return abs
}

func TestSealRaw(t *testing.T) {
	file := filepath.Join(t.TempDir(), "value")
	if err := os.WriteFile(file, []byte("raw value"), 0o600); err != nil {
		t.Fatal(err)
	}
	key, err := os.ReadFile(sealKeys + "rsa2048.key")
	if err != nil {
		t.Fatal(err)
	}
	private, err := sealing.ParsePrivateKey(plaintext.New(key))
	if err != nil {
		t.Fatal(err)
	}
	cert := []string{"--raw", "--cert", sealKeys + "rsa2048.crt", "--from-file"}
	for name, c := range map[string]struct {
		args  []string
		scope sealing.Scope
	}{
		"strict":             {[]string{file, "--name", "db", "-n", "a"}, sealing.Strict},
		"stdin":              {[]string{"/dev/stdin", "--name", "db", "-n", "a"}, sealing.Strict},
		"named like kubectl": {[]string{"k=" + file, "--scope", "namespace-wide", "-n", "a"}, sealing.NamespaceWide},
		"cluster-wide":       {[]string{file, "--scope", "cluster-wide"}, sealing.ClusterWide},
	} {
		out, _, err := sealVerb(t, "raw value", append(cert, c.args...)...)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		raw, err := base64.StdEncoding.Strict().DecodeString(out) // so no line break either
		if err != nil {
			t.Errorf("%s: %v", name, err)
		}
		v, err := sealing.Open(raw, c.scope.Label("a", "db"), private)
		if err != nil || string(v.Reveal()) != "raw value" {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestSealMistakes(t *testing.T) {
	canary := testkit.NewCanary()
	secret := "apiVersion: v1\nkind: Secret\nmetadata: {name: a, namespace: x}\nstringData: {k: '" + canary.String() + "'}\n"
	cert := []string{"--cert", sealKeys + "rsa2048.crt"}
	junk := filepath.Join(t.TempDir(), "junk")
	if err := os.WriteFile(junk, []byte("junk"), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		in   string
		args []string
		kind fault.Kind
		want string
	}{
		"namespace mismatch":  {secret, append(cert, "-n", "y"), fault.Invalid, "namespace mismatch"},
		"empty":               {"apiVersion: v1\nkind: Secret\nmetadata: {name: a, namespace: x}\n", cert, fault.Invalid, "--allow-empty-data"},
		"nothing":             {"", cert, fault.Invalid, "no Secret in the input"},
		"a list":              {"apiVersion: v1\nkind: List\nmetadata: {name: l, namespace: x}\nitems: []\n", cert, fault.Invalid, "not a v1 Secret"},
		"no name":             {"apiVersion: v1\nkind: Secret\nstringData: {k: v}\n", cert, fault.Invalid, "metadata.name"},
		"bad base64":          {strings.Replace(secret, "stringData", "data", 1), cert, fault.Invalid, "not base64"},
		"bad yaml":            {secret + " : [", cert, fault.Invalid, "invalid YAML"},
		"cut json":            {`{"apiVersion":"v1","kind":"Secret","stringData":{"k":"` + canary.String()[:30], cert, fault.Invalid, "invalid YAML"},
		"scope":               {secret, append(cert, "--scope", "wide"), fault.Invalid, "unknown scope"},
		"format":              {secret, append(cert, "-o", "toml"), fault.Invalid, "json or yaml"},
		"from-file alone":     {secret, append(cert, "--from-file", "x"), fault.Invalid, "--from-file requires --raw"},
		"raw without name":    {"x", append(cert, "--raw", "--from-file", "-", "-n", "x"), fault.Invalid, "--name"},
		"raw, no namespace":   {"x", append(cert, "--raw", "--from-file", "-", "--name", "x"), fault.Invalid, "--namespace"},
		"missing file":        {"", append(cert, "-f", "nowhere.yaml"), fault.NotFound, "nowhere.yaml"},
		"missing certificate": {secret, []string{"--cert", "nowhere.pem"}, fault.NotFound, "nowhere.pem"},
		"junk certificate":    {secret, []string{"--cert", junk}, fault.Invalid, "--fetch-cert"},
		"no cluster":          {secret, nil, fault.NotFound, "--cert"},
	} {
		stdout, stderr, err := sealVerb(t, c.in, c.args...)
		if err == nil || fault.KindOf(err) != c.kind || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v", name, err)
		}
		if found := canary.FindIn(stdout + stderr + fmt.Sprint(err)); found != nil || stdout != "" {
			t.Errorf("%s: %q in stdout %q, stderr %q, %v", name, found, stdout, stderr, err)
		}
	}
}

// apiServer answers as an API server would: with the Service and its proxy, or with the ConfigMap alone.
func apiServer(t *testing.T, cert string, proxy, configMap bool) (kubeconfig string) {
	t.Helper()
	mux := http.NewServeMux()
	const ns = "/api/v1/namespaces/sealock-system/"
	answer := func(path string, body any) {
		mux.HandleFunc("GET "+path, func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "application/json")
			_ = json.NewEncoder(w).Encode(body)
		})
	}
	answer(ns+"services/sealed-secrets-controller", map[string]any{"apiVersion": "v1", "kind": "Service", "spec": map[string]any{"ports": []any{map[string]any{"name": "http", "port": 8080}}}})
	if proxy {
		mux.HandleFunc("GET "+ns+"services/http:sealed-secrets-controller:http/proxy/v1/cert.pem", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, cert) })
	} else {
		mux.HandleFunc("GET "+ns+"services/", func(w http.ResponseWriter, _ *http.Request) {
			http.Error(w, "<html>503 of a proxy</html>", http.StatusServiceUnavailable)
		})
	}
	if configMap {
		answer(ns+"configmaps/sealed-secrets-cert", map[string]any{"apiVersion": "v1", "kind": "ConfigMap", "data": map[string]any{"cert.pem": cert}})
	}
	server := httptest.NewServer(mux)
	t.Cleanup(server.Close)
	file := filepath.Join(t.TempDir(), "kubeconfig")
	text := fmt.Sprintf(`{apiVersion: v1, kind: Config, current-context: c, clusters: [{name: c, cluster: {server: %q}}], users: [{name: u, user: {}}],
contexts: [{name: c, context: {cluster: c, user: u, namespace: of-the-context}}]}`, server.URL)
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

func TestSealFetchesTheCertificate(t *testing.T) {
	cert, err := os.ReadFile(sealKeys + "rsa2048.crt")
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		proxy, configMap bool
		from             string
	}{
		"service proxy": {true, false, "the Service sealock-system/sealed-secrets-controller"},
		"ConfigMap":     {false, true, "the ConfigMap sealock-system/sealed-secrets-cert"},
	} {
		config := apiServer(t, string(cert), c.proxy, c.configMap)
		out, stderr, err := sealVerb(t, "", "--fetch-cert", "--kubeconfig", config)
		if err != nil || out != string(cert) || !strings.Contains(stderr, c.from) {
			t.Errorf("%s: %v, %q, %q", name, err, out, stderr)
		}
		out, _, err = sealVerb(t, "apiVersion: v1\nkind: Secret\nmetadata: {name: a}\nstringData: {k: v}\n", "--kubeconfig", config)
		if err != nil {
			t.Fatal(err)
		}
		if got := opened(t, out)[0].Namespace(); got != "of-the-context" {
			t.Errorf("%s: namespace %q", name, got)
		}
	}
	_, _, err = sealVerb(t, "", "--fetch-cert", "--kubeconfig", apiServer(t, string(cert), false, false))
	if fault.KindOf(err) != fault.NotFound || !strings.Contains(err.Error(), "--controller-namespace") || strings.Contains(err.Error(), "html") {
		t.Errorf("neither: %v", err)
	}
}

func TestSealTakesTheCertificateFromURLAndEnvironment(t *testing.T) {
	cert, err := os.ReadFile(sealKeys + "rsa2048.crt")
	if err != nil {
		t.Fatal(err)
	}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/v1/cert.pem" {
			http.NotFound(w, r)
			return
		}
		_, _ = w.Write(cert)
	}))
	t.Cleanup(server.Close)
	out, stderr, err := sealVerb(t, "", "--fetch-cert", "--cert", server.URL+"/v1/cert.pem")
	if err != nil || out != string(cert) || !strings.Contains(stderr, "plain http") {
		t.Errorf("%v, %q, %q", err, out, stderr)
	}
	if _, _, err := sealVerb(t, "", "--fetch-cert", "--cert", server.URL+"/else"); fault.KindOf(err) != fault.NotFound {
		t.Errorf("404: %v", err)
	}
	t.Setenv("SEALED_SECRETS_CERT", sealKeys+"rsa2048.crt")
	if out, _, err := sealVerb(t, "", "--fetch-cert"); err != nil || out != string(cert) {
		t.Errorf("environment: %v", err)
	}
	if _, _, err := sealVerb(t, "", "--fetch-cert", "--cert", "nowhere.pem"); fault.KindOf(err) != fault.NotFound {
		t.Errorf("the flag does not win: %v", err)
	}
}
