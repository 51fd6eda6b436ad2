package main

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	vaultapi "github.com/hashicorp/vault/api"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/client-go/discovery"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"
	"sigs.k8s.io/yaml"

	"sealock.dev/sealock/internal/testkit"
	"sealock.dev/sealock/manifest"
	"sealock.dev/sealock/plaintext"
	"sealock.dev/sealock/sealing"
	"sealock.dev/sealock/tenants"
)

// leakFaults are injected in every combination, one namespace for each.
var leakFaults = []string{"bad-key", "wrong-scope", "vault-down", "denied", "timeout", "panic"}

// TestT41_NothingLeaksWhateverFails runs the whole controller against real servers with canaries in place of secrets, in
// one namespace for each subset of faults, and then reads everything that anybody can read: logs, standard output, events,
// conditions and all other API objects, metrics, temporary files. The canaries may stand in the Secrets that they were
// meant for, and nowhere else, in no encoding.
func TestT41_NothingLeaksWhateverFails(t *testing.T) {
	w := newLeakWorld(t)
	output := capture(t, func() {
		stop := w.start()
		defer stop()
		for mask := range 1 << len(leakFaults) {
			w.namespace(mask)
		}
		w.push()
		w.apply(w.sources.String())
		for mask := range 1 << len(leakFaults) {
			w.settle(mask)
		}
		w.metrics = w.get("http://" + w.options.metricsAddr + "/metrics")
	})
	if len(output) < 1000 {
		t.Fatalf("the controller's output was not captured: %q", output)
	}
	for _, proof := range []string{"[prints-everything]", "[prints-secrets]", "the open stage panicked", "hostile.example.com"} {
		if !strings.Contains(output, proof) {
			t.Errorf("%q never happened: the search proves nothing", proof)
		}
	}
	w.search("logs and standard output", output)
	w.search("metrics", w.metrics)
	w.searchFiles(w.tmp)
	w.searchFiles(w.options.cacheDir)
	w.searchCluster()
}

// leakWorld is one run of the controller and everything around it.
type leakWorld struct {
	*testing.T
	ctx     context.Context
	dc      *testkit.Devcluster
	kube    kubernetes.Interface
	dynamic dynamic.Interface
	vault   *vaultapi.Client
	options controllerOptions
	tmp     string
	clone   string
	ring    *sealing.KeyRing
	ages    [2][2]string // identity and recipient, ours and a stranger's
	hostile *httptest.Server

	sources  strings.Builder
	canaries map[string]testkit.Canary // by namespace and what it protects
	metrics  string
	last     string // what was seen last while waiting
}

func newLeakWorld(t *testing.T) *leakWorld {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 8*time.Minute)
	t.Cleanup(cancel)
	w := &leakWorld{T: t, ctx: ctx, dc: testkit.Cluster(t), canaries: map[string]testkit.Canary{}, tmp: t.TempDir(), clone: t.TempDir()}
	t.Setenv("TMPDIR", w.tmp)
	var err error
	w.kube, err = kubernetes.NewForConfig(w.dc.Config)
	w.must(err)
	w.dynamic, err = dynamic.NewForConfig(w.dc.Config)
	w.must(err)
	cfg := vaultapi.DefaultConfig()
	cfg.Address = w.dc.Env["VAULT_ADDR"]
	w.vault, err = vaultapi.NewClient(cfg)
	w.must(err)
	w.vault.SetToken(w.dc.Env["VAULT_TOKEN"])
	for i := range w.ages {
		out := w.tool("age-keygen")
		w.ages[i][0] = out
		_, rest, _ := strings.Cut(out, "# public key: ")
		w.ages[i][1], _, _ = strings.Cut(rest, "\n")
	}
	w.options = controllerOptions{
		kubeconfig: w.dc.Kubeconfig, namespace: "sealock-system", platformNamespaces: []string{"flux-system"}, cacheDir: t.TempDir(),
		cacheSize:  resource.QuantityValue{Quantity: resource.MustParse("1Gi")},
		concurrent: 4, logLevel: "debug", keyBits: 2048,
		webhookAddr: freeAddr(t), healthAddr: freeAddr(t), metricsAddr: freeAddr(t), sealingAddr: freeAddr(t), artifactAddr: freeAddr(t),
	}
	w.options.webhookURL = "https://" + w.options.webhookAddr
	if code, _, stderr := sealock(t, "install", "--apply", "--kubeconfig", w.dc.Kubeconfig, "--webhook-url", w.options.webhookURL); code != 0 {
		t.Fatal(stderr)
	}
	w.hostile = w.hostileWebhook()
	w.apply(leakPolicy)
	w.apply(leakSecretOf("sealock-system", "leak-age", "keys.agekey", w.ages[0][0]))
	return w
}

// leakPolicy prints every object that it sees, as a careless author would.
const leakPolicy = `
apiVersion: sealock.dev/v1alpha1
kind: Policy
metadata: {name: prints-everything}
spec:
  match: {labelSelector: {matchLabels: {leak: denied}}}
  rego: |
    package sealock
    deny contains msg if { msg := sprintf("object %v of %v", [input.review.object, input]) }
---
apiVersion: sealock.dev/v1alpha1
kind: Policy
metadata: {name: prints-secrets}
spec:
  match: {kinds: [{apiGroups: [""], kinds: [Secret]}], namespaces: [leak-*]}
  enforcement: {reconcile: warn, admission: warn}
  rego: |
    package sealock
    deny contains msg if { msg := sprintf("secret %v", [input.review.object]) }
`

func (w *leakWorld) must(err error) {
	w.Helper()
	if err != nil {
		w.Fatal(err)
	}
}

func freeAddr(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

// tool runs one of the real clients that `make tools` builds.
func (w *leakWorld) tool(name string, args ...string) string {
	w.Helper()
	root, err := testkit.Root()
	w.must(err)
	cmd := exec.CommandContext(w.ctx, filepath.Join(root, "bin", name), args...)
	out, err := cmd.Output()
	if err != nil {
		w.Fatalf("%s: %v; run `make tools` first", name, err)
	}
	return string(out)
}

// hostileWebhook is an admission webhook of somebody else: it denies with everything that it was sent in its message, or
// does not answer in time.
func (w *leakWorld) hostileWebhook() *httptest.Server {
	server := httptest.NewTLSServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		var review struct {
			Request struct {
				UID    string
				Object json.RawMessage
			} `json:"request"`
		}
		_ = json.Unmarshal(body, &review)
		if bytes.Contains(review.Request.Object, []byte(`"kind":"Deployment"`)) {
			select { // too late for timeoutSeconds: 1
			case <-time.After(2 * time.Second):
			case <-r.Context().Done():
			}
		}
		answer := map[string]any{"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "response": map[string]any{
			"uid": review.Request.UID, "allowed": false, "status": map[string]any{"code": 403, "message": "no: " + string(review.Request.Object)},
		}}
		_ = json.NewEncoder(rw).Encode(answer)
	}))
	w.Cleanup(server.Close)
	ca := base64.StdEncoding.EncodeToString(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw}))
	w.apply(fmt.Sprintf(`
apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingWebhookConfiguration
metadata: {name: hostile}
webhooks:
- name: hostile.example.com
  admissionReviewVersions: [v1]
  sideEffects: None
  timeoutSeconds: 1
  failurePolicy: Fail
  clientConfig: {url: %q, caBundle: %s}
  namespaceSelector: {matchLabels: {leak: timeout}}
  matchConditions: [{name: not-of-the-test, expression: "!(request.name in ['git', 'vault-token'])"}]
  rules:
  - {apiGroups: ["", apps], apiVersions: ["*"], operations: [CREATE, UPDATE], resources: [secrets, deployments]}
`, server.URL+"/", ca))
	return server
}

// start runs the controller in this process, with one more opener that panics where a namespace asks for it.
func (w *leakWorld) start() (stop func()) {
	ctx, cancel := context.WithCancel(w.ctx)
	done := make(chan error, 1)
	p, err := w.options.parts(ctx, panicking{w})
	w.must(err)
	w.ring = p.ring
	go func() { done <- p.run(ctx) }()
	w.eventually("the controller to be ready", func() bool {
		select {
		case err := <-done:
			w.Fatalf("the controller ended: %v", err)
		default:
		}
		// It is ready with an empty ring; the leader makes the first key a moment later.
		return w.status("http://"+w.options.healthAddr+"/readyz") == http.StatusOK && p.ring.Newest() != nil
	})
	return func() {
		cancel()
		if err := <-done; err != nil {
			w.Errorf("the controller ended with %v", err)
		}
	}
}

// panicking panics with a secret where a namespace asks for it.
type panicking struct{ w *leakWorld }

func (p panicking) Opens(o manifest.Object) bool { return o.Labels()["leak"] == "panic" }

func (p panicking) Prerequisites(manifest.Object, []manifest.Object) []int { return nil }

func (p panicking) Open(_ context.Context, _ tenants.Grant, o manifest.Object, _ []manifest.Object) (manifest.Produced, error) {
	panic("opening " + p.w.canaries[o.Namespace()+"/sops"].String())
}

func leakNamespace(mask int) string { return fmt.Sprintf("leak-%02d", mask) }

func (w *leakWorld) has(mask int, fault string) bool {
	for i, f := range leakFaults {
		if f == fault {
			return mask&(1<<i) != 0
		}
	}
	w.Fatalf("no fault %q", fault)
	return false
}

// namespace makes the tenant, the canaries and the files of one subset of faults.
func (w *leakWorld) namespace(mask int) {
	w.Helper()
	ns := leakNamespace(mask)
	value := func(kind string) string {
		c := testkit.NewCanary()
		w.canaries[ns+"/"+kind] = c
		return c.String()
	}
	labels := ""
	if w.has(mask, "timeout") {
		labels = ", labels: {leak: timeout}"
	}
	vaultAddr, readFrom := w.dc.Env["VAULT_ADDR"], w.dc.Env["VAULT_ADDR"]
	if w.has(mask, "vault-down") {
		readFrom = "http://127.0.0.1:1"
	}
	w.apply(fmt.Sprintf(`
apiVersion: sealock.dev/v1alpha1
kind: Tenant
metadata: {name: %[1]s}
spec:
  namespaces: [{name: %[1]s%[2]s}]
  decryption: {secretRef: {name: leak-age}}
  vault: {servers: [%[3]q, "http://127.0.0.1:1"], paths: ["secret/%[1]s"]}
`, ns, labels, vaultAddr))
	_, err := w.vault.KVv2("secret").Put(w.ctx, ns, map[string]any{"password": value("vault")})
	w.must(err)

	recipient := w.ages[0][1]
	if w.has(mask, "bad-key") {
		recipient = w.ages[1][1]
	}
	file := filepath.Join(w.clone, ns, "sops.yaml")
	w.write(file, leakSecret(ns, "sops", value("sops")))
	w.write(file, w.tool("sops", "--encrypt", "--age", recipient, "--encrypted-regex", "^(data|stringData)$", file))
	w.write(filepath.Join(w.clone, ns, "sealed.yaml"), w.seal(ns, value("sealed"), w.has(mask, "wrong-scope")))
	w.write(filepath.Join(w.clone, ns, "vault.yaml"), fmt.Sprintf(leakExternalSecret, readFrom, ns))
	app := leakDeployment
	if w.has(mask, "denied") {
		app += "---\napiVersion: v1\nkind: ConfigMap\nmetadata: {name: denied, labels: {leak: denied}}\ndata: {a: b}\n"
	}
	if w.has(mask, "panic") {
		app += "---\napiVersion: v1\nkind: ConfigMap\nmetadata: {name: panic, labels: {leak: panic}}\ndata: {a: b}\n"
	}
	w.write(filepath.Join(w.clone, ns, "app.yaml"), app)
	fmt.Fprintf(&w.sources, leakSource, ns, w.dc.Env["GIT_HTTP_URL"]+"/leak.git", w.dc.Env["GIT_USERNAME"], w.dc.Env["GIT_PASSWORD"], w.dc.Env["VAULT_TOKEN"])
}

func leakSecret(ns, name, value string) string { return leakSecretOf(ns, name, "password", value) }

func leakSecretOf(ns, name, key, value string) string {
	return fmt.Sprintf("apiVersion: v1\nkind: Secret\nmetadata: {name: %s, namespace: %s}\nstringData:\n  %s: %q\n", name, ns, key, value)
}

const leakExternalSecret = `apiVersion: external-secrets.io/v1
kind: SecretStore
metadata: {name: vault}
spec: {provider: {vault: {server: %q, path: secret, version: v2, auth: {tokenSecretRef: {name: vault-token, key: token}}}}}
---
apiVersion: external-secrets.io/v1
kind: ExternalSecret
metadata: {name: vault}
spec:
  secretStoreRef: {name: vault}
  target: {template: {data: {password: "{{ .password }}"}}}
  data: [{secretKey: password, remoteRef: {key: %s, property: password}}]
`

const leakDeployment = `apiVersion: apps/v1
kind: Deployment
metadata: {name: app}
spec:
  selector: {matchLabels: {app: app}}
  template:
    metadata: {labels: {app: app}}
    spec: {containers: [{name: c, image: i, envFrom: [{secretRef: {name: sops}}, {secretRef: {name: sealed}}, {secretRef: {name: vault}}]}]}
`

const leakSource = `
apiVersion: v1
kind: Secret
metadata: {name: git, namespace: %[1]s}
stringData: {username: %[3]q, password: %[4]q}
---
apiVersion: v1
kind: Secret
metadata: {name: vault-token, namespace: %[1]s}
stringData: {token: %[5]q}
---
apiVersion: source.toolkit.fluxcd.io/v1
kind: GitRepository
metadata: {name: leak, namespace: %[1]s}
spec: {interval: 1h, url: %[2]q, ref: {branch: main}, secretRef: {name: git}}
---
apiVersion: kustomize.toolkit.fluxcd.io/v1
kind: Kustomization
metadata: {name: leak, namespace: %[1]s}
spec: {interval: 1h, retryInterval: 1h, prune: true, wait: true, timeout: 30s, path: %[1]s, sourceRef: {kind: GitRepository, name: leak}, decryption: {provider: sops}}
---
`

func (w *leakWorld) seal(ns, value string, otherName bool) string {
	name := "sealed"
	if otherName {
		name = "another"
	}
	o := manifest.NewSecret(ns, name, "", map[string]plaintext.Value{"password": plaintext.FromString(value)}, manifest.Plain, manifest.Source{})
	body, err := sealing.SealSecret(o, w.ring.Newest(), sealing.SealOptions{Now: time.Now()})
	w.must(err)
	u := unstructured.Unstructured{Object: body}
	u.SetName("sealed")
	text, err := yaml.Marshal(u.Object)
	w.must(err)
	return string(text)
}

func (w *leakWorld) write(path, text string) {
	w.Helper()
	w.must(os.MkdirAll(filepath.Dir(path), 0o700))
	w.must(os.WriteFile(path, []byte(text), 0o600))
}

func (w *leakWorld) push() {
	w.Helper()
	url := strings.Replace(w.dc.Env["GIT_HTTP_URL"], "://", "://"+w.dc.Env["GIT_USERNAME"]+":"+w.dc.Env["GIT_PASSWORD"]+"@", 1) + "/leak.git"
	for _, args := range [][]string{
		{"init", "-q", "-b", "main"},
		{"add", "-A"},
		{"-c", "user.name=a", "-c", "user.email=a@example.com", "commit", "-q", "-m", "leak"},
		{"push", "-q", url, "main"},
	} {
		cmd := exec.CommandContext(w.ctx, "git", args...)
		cmd.Dir = w.clone
		if out, err := cmd.CombinedOutput(); err != nil {
			w.Fatalf("git %s: %v: %s", args[0], err, out)
		}
	}
}

// apply applies YAML as administrator.
func (w *leakWorld) apply(text string) {
	w.Helper()
	groups, err := discovery.NewDiscoveryClientForConfig(w.dc.Config)
	w.must(err)
	lists, err := groups.ServerPreferredResources()
	w.must(err)
	for _, doc := range strings.Split(text, "---\n") {
		u := &unstructured.Unstructured{}
		w.must(yaml.Unmarshal([]byte(doc), &u.Object))
		if len(u.Object) == 0 {
			continue
		}
		var api dynamic.ResourceInterface
		for _, list := range lists {
			for _, r := range list.APIResources {
				if list.GroupVersion == u.GetAPIVersion() && r.Kind == u.GetKind() {
					gv, _ := schema.ParseGroupVersion(list.GroupVersion)
					api = w.dynamic.Resource(gv.WithResource(r.Name))
					if r.Namespaced {
						api = w.dynamic.Resource(gv.WithResource(r.Name)).Namespace(u.GetNamespace())
					}
				}
			}
		}
		if api == nil {
			w.Fatalf("no resource for %s %s", u.GetAPIVersion(), u.GetKind())
		}
		data, err := u.MarshalJSON()
		w.must(err)
		force := true
		w.eventually(u.GetKind()+" "+u.GetName()+" to be applied", func() bool { // its namespace may be on the way
			_, err = api.Patch(w.ctx, u.GetName(), types.ApplyPatchType, data, metav1.PatchOptions{FieldManager: "leak", Force: &force})
			w.last = fmt.Sprint(err)
			return err == nil
		})
	}
}

// settle waits until the subset has come to its end: delivered where nothing fails, refused elsewhere.
func (w *leakWorld) settle(mask int) {
	w.Helper()
	ns := leakNamespace(mask)
	api := w.dynamic.Resource(schema.GroupVersionResource{Group: "kustomize.toolkit.fluxcd.io", Version: "v1", Resource: "kustomizations"}).Namespace(ns)
	want := "False"
	if mask == 0 {
		want = "True"
	}
	w.eventually(fmt.Sprintf("%s to be settled", ns), func() bool {
		o, err := api.Get(w.ctx, "leak", metav1.GetOptions{})
		if err != nil {
			w.last = err.Error()
			return false
		}
		list, _, _ := unstructured.NestedSlice(o.Object, "status", "conditions")
		w.last = fmt.Sprint(list)
		for _, each := range list {
			c, _ := each.(map[string]any)
			if c["type"] == "Ready" && c["status"] == want && c["reason"] != "ArtifactFailed" {
				return true
			}
		}
		return false
	})
}

func (w *leakWorld) eventually(what string, ok func() bool) {
	w.Helper()
	err := wait.PollUntilContextTimeout(w.ctx, 100*time.Millisecond, time.Minute, true, func(context.Context) (bool, error) { return ok(), nil })
	if err != nil {
		w.Fatalf("waited for %s: %v; last: %s", what, err, w.last)
	}
}
