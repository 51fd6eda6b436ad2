package stories

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
)

// front is the API server with one difference: its service proxy reaches the controller, which listens on loopback, where
// the real one refuses to go. It also has the Service that a cluster has.
func front(tm *team) string {
	tm.Helper()
	target, err := url.Parse(tm.Config.Host)
	tm.ok(err)
	transport, err := rest.TransportFor(tm.Config)
	tm.ok(err)
	api := &httputil.ReverseProxy{Transport: transport, Rewrite: func(r *httputil.ProxyRequest) { r.SetURL(target); r.Out.Header.Del("Authorization") }}
	sealing, err := url.Parse(fmt.Sprintf("http://127.0.0.1:%d", tm.Ports.Sealing))
	tm.ok(err)
	prefix := "/api/v1/namespaces/sealock-system/services/http:sealed-secrets-controller:http/proxy"
	proxied := http.StripPrefix(prefix, &httputil.ReverseProxy{Rewrite: func(r *httputil.ProxyRequest) { r.SetURL(sealing) }})
	mux := http.NewServeMux()
	mux.Handle("/", api)
	mux.Handle(prefix+"/", proxied)
	mux.HandleFunc("GET /api/v1/namespaces/sealock-system/services/sealed-secrets-controller", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		_, _ = io.WriteString(w, `{"apiVersion":"v1","kind":"Service","metadata":{"name":"sealed-secrets-controller","namespace":"sealock-system"},"spec":{"ports":[{"name":"http","port":8080}]}}`)
	})
	server := httptest.NewServer(mux)
	tm.Cleanup(server.Close)
	cfg := clientcmdapi.NewConfig()
	cfg.Clusters["front"] = &clientcmdapi.Cluster{Server: server.URL}
	cfg.Contexts["front"] = &clientcmdapi.Context{Cluster: "front", Namespace: tm.name}
	cfg.CurrentContext = "front"
	path := filepath.Join(tm.TempDir(), "front.kubeconfig")
	tm.ok(clientcmd.WriteToFile(*cfg, path))
	return path
}

// TestKubeseal: the real kubeseal seals, and what it makes unseals here; with each scope, through the API server, with a
// file and with a URL.
func TestKubeseal(t *testing.T) {
	t.Parallel()
	tm := newTeam(t, "kubeseal", "  sealedSecretScopes: [strict, namespace-wide, cluster-wide]")
	kubeconfig := front(tm)
	secret := canary()
	input := secretYAML("kubeseal", "NAME", map[string]string{"password": secret})
	seal := func(name string, args ...string) string {
		out, err := tm.World.Run(tm.ctx, []byte(strings.Replace(input, "NAME", name, 1)), "kubeseal", append([]string{"--format", "yaml"}, args...)...)
		tm.ok(err)
		return out
	}
	viaServer := []string{"--kubeconfig", kubeconfig, "--controller-namespace", "sealock-system"}
	files := map[string]string{
		"strict.yaml":    seal("strict", viaServer...),
		"namespace.yaml": strings.ReplaceAll(seal("namespace", append(viaServer, "--scope", "namespace-wide")...), "name: namespace", "name: renamed"),
		"cluster.yaml":   seal("cluster", append(viaServer, "--scope", "cluster-wide")...),
		"url.yaml":       seal("url", "--cert", tm.CertURL()),
	}
	cert, err := tm.World.Run(tm.ctx, nil, "kubeseal", append([]string{"--fetch-cert"}, viaServer...)...)
	tm.ok(err)
	certFile := filepath.Join(t.TempDir(), "cert.pem")
	tm.ok(os.WriteFile(certFile, []byte(cert), 0o600))
	files["file.yaml"] = seal("file", "--cert", certFile)
	// sealock seal has the same three ways.
	ours := func(name string, args ...string) string {
		out, err := tm.World.Run(tm.ctx, []byte(strings.Replace(input, "NAME", name, 1)), "sealock", append([]string{"seal", "--format", "yaml"}, args...)...)
		tm.ok(err)
		return out
	}
	files["ours-server.yaml"] = ours("ours-server", "--kubeconfig", kubeconfig)
	files["ours-configmap.yaml"] = ours("ours-configmap", "--kubeconfig", tm.Kubeconfig)
	files["ours-url.yaml"] = ours("ours-url", "--cert", tm.CertURL())
	files["ours-file.yaml"] = ours("ours-file", "--cert", certFile)

	tm.push(files)
	tm.apply(tm.source("  ref: {branch: main}") + tm.sync())
	tm.ok(tm.WaitReady(tm.ctx, patience, "kubeseal", "app", ""))
	for _, name := range []string{"strict", "renamed", "cluster", "url", "file", "ours-server", "ours-configmap", "ours-url", "ours-file"} {
		if tm.data(name)["password"] != secret {
			t.Errorf("%s does not hold what was sealed", name)
		}
	}
	if _, err := tm.World.Run(tm.ctx, []byte(files["strict.yaml"]), "kubeseal", append([]string{"--validate"}, viaServer...)...); err != nil {
		t.Errorf("kubeseal --validate: %v", err)
	}
	if _, err := tm.World.Run(tm.ctx, []byte(strings.ReplaceAll(files["strict.yaml"], "name: strict", "name: other")), "kubeseal", append([]string{"--validate"}, viaServer...)...); err == nil {
		t.Error("kubeseal --validate accepts a SealedSecret of another name")
	}
}

// TestT17_SealedSecretScopes: a tenant's SealedSecret is strict unless the platform allows more.
func TestT17_SealedSecretScopes(t *testing.T) {
	t.Parallel()
	tm := newTeam(t, "scopes")
	tm.push(map[string]string{"a.yaml": configMap("a", "1")})
	tm.apply(tm.source("  ref: {branch: main}") + tm.sync())
	tm.ok(tm.WaitReady(tm.ctx, patience, "scopes", "app", ""))
	sealed := tm.seal(secretYAML("scopes", "s", map[string]string{"password": canary()}), "--scope", "cluster-wide")
	if message := tm.refused(map[string]string{"s.yaml": sealed}, "BuildFailed"); !strings.Contains(message, "cluster-wide") {
		t.Errorf("message: %s", message)
	}
}

// TestSealedSecretByKubectl: what kubectl applies is served like what Git brings, a Secret that is edited or deleted comes
// back, and one that cannot be opened says why.
func TestSealedSecretByKubectl(t *testing.T) {
	t.Parallel()
	tm := newTeam(t, "byhand")
	secret := canary()
	tm.apply(strings.TrimPrefix(tm.seal(secretYAML("byhand", "s", map[string]string{"password": secret})), "---\n"))
	_, err := tm.WaitCondition(tm.ctx, patience, "bitnami.com/v1alpha1", "SealedSecret", "byhand", "s", "Synced", "True", "")
	tm.ok(err)
	for _, args := range [][]string{
		{"delete", "secret", "s"},
		{"patch", "secret", "s", "--type=merge", "-p", `{"data":{"password":"eA=="}}`},
	} {
		_, err := tm.Kubectl(tm.ctx, "", append([]string{"-n", "byhand"}, args...)...)
		tm.ok(err)
		tm.ok(tm.eventually("the Secret to be repaired after "+args[0], func() bool { return tm.data("s")["password"] == secret }))
	}
	tm.apply(`
apiVersion: bitnami.com/v1alpha1
kind: SealedSecret
metadata: {name: placeholder, namespace: byhand}
spec:
  encryptedData: {username: "AgB1k2j3l4m5n6o7p8...", password: "AgC9d0e1f2g3h4i5j6..."}
  template: {metadata: {name: placeholder, namespace: byhand}, type: Opaque}
`)
	message, err := tm.WaitCondition(tm.ctx, patience, "bitnami.com/v1alpha1", "SealedSecret", "byhand", "placeholder", "Synced", "False", "")
	tm.ok(err)
	if !strings.Contains(message, "username") || !strings.Contains(message, "password") {
		t.Errorf("the status does not name the keys: %s", message)
	}
}

// TestRender: what would be applied, without a cluster and without a secret.
func TestRender(t *testing.T) {
	t.Parallel()
	tm := newTeam(t, "render")
	secret := canary()
	tm.push(map[string]string{"kustomization.yaml": "namePrefix: x-\nresources: [s.yaml, a.yaml]\n", "s.yaml": secretYAML("render", "s", map[string]string{"password": secret}), "a.yaml": configMap("a", "1")})
	out, err := tm.World.Run(tm.ctx, nil, "sealock", "render", filepath.Join(tm.Dir, "clones", "render"))
	tm.ok(err)
	if strings.Contains(out, secret) || !strings.Contains(out, "x-s") || !strings.Contains(out, "x-a") {
		t.Errorf("render:\n%s", out)
	}
}

// TestVerifyForMachines: the verdict as JSON, and exit code 0 where nothing is denied.
func TestVerifyForMachines(t *testing.T) {
	t.Parallel()
	tm := newTeam(t, "verify")
	tm.push(map[string]string{"a.yaml": configMap("a", "1")})
	out, err := tm.World.Run(tm.ctx, nil, "sealock", "verify", filepath.Join(tm.Dir, "clones", "verify"), "-n", "verify", "-o", "json", "--kubeconfig", tm.Kubeconfig)
	tm.ok(err)
	var verdict any
	if err := json.Unmarshal([]byte(out), &verdict); err != nil {
		t.Errorf("not JSON: %v\n%s", err, out)
	}
}
