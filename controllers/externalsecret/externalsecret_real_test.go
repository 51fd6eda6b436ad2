package externalsecret

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/wait"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/config"
	"sigs.k8s.io/controller-runtime/pkg/manager"
	metricsserver "sigs.k8s.io/controller-runtime/pkg/metrics/server"
	"sigs.k8s.io/yaml"

	v1 "sealock.dev/sealock/api/externalsecrets/v1"
	"sealock.dev/sealock/cluster"
	"sealock.dev/sealock/externalsecrets"
	"sealock.dev/sealock/internal/testkit"
	"sealock.dev/sealock/plaintext"
	"sealock.dev/sealock/tenants"
	"sealock.dev/sealock/vault"
)

func TestMain(m *testing.M) { os.Exit(testkit.Main(m, "--without=git,kubelet")) }

// world is the controller at work on the real API server and the real Vault.
type world struct {
	*testing.T
	dc     *testkit.Devcluster
	ns     string
	client client.Client
}

type accountTokens struct{ *cluster.Client }

func (a accountTokens) ServiceAccountToken(ctx context.Context, namespace, name string, audiences []string) (plaintext.Value, error) {
	return a.Token(ctx, namespace, name, audiences)
}

func newWorld(t *testing.T) *world {
	t.Helper()
	dc := testkit.Cluster(t)
	dc.InstallCRDs(t)
	scheme := runtime.NewScheme()
	if err := errors.Join(corev1.AddToScheme(scheme), v1.AddToScheme(scheme)); err != nil {
		t.Fatal(err)
	}
	skip := true
	mgr, err := ctrl.NewManager(dc.Config, manager.Options{Scheme: scheme, Metrics: metricsserver.Options{BindAddress: "0"}, Controller: config.Controller{SkipNameValidation: &skip}})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	c, err := cluster.New(ctx, cluster.Options{Config: dc.Config, Key: plaintext.RandomKey()})
	if err != nil {
		t.Fatal(err)
	}
	opener := &externalsecrets.Opener{
		Providers: []externalsecrets.Provider{externalsecrets.NewVault(vault.New(vault.Options{Freshness: time.Millisecond}))}, Lookup: c, Tokens: accountTokens{c},
	}
	index := tenants.NewIndex(nil, tenants.DefaultSettings())
	r := New(Options{
		Client: mgr.GetClient(), Opener: opener, Writer: c, Grants: index.GrantFor,
		Events: mgr.GetEventRecorderFor("external-secrets"), //nolint:staticcheck // core events are what kubectl reads
	})
	if err := r.SetupWithManager(ctx, mgr, 2); err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- mgr.Start(ctx) }()
	w := &world{T: t, dc: dc, ns: dc.Namespace(t, nil)}
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("the manager: %v", err)
		}
	})
	if w.client, err = client.New(dc.Config, client.Options{Scheme: scheme}); err != nil {
		t.Fatal(err)
	}
	return w
}

func (w *world) vault(method, path string, body any) {
	w.Helper()
	raw, err := json.Marshal(body)
	if err != nil {
		w.Fatal(err)
	}
	req, err := http.NewRequestWithContext(w.Context(), method, w.dc.Env["VAULT_ADDR"]+"/v1/"+path, bytes.NewReader(raw))
	if err != nil {
		w.Fatal(err)
	}
	req.Header.Set("X-Vault-Token", w.dc.Env["VAULT_TOKEN"])
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		w.Fatal(err)
	}
	_ = res.Body.Close()
	if res.StatusCode >= 300 {
		w.Fatalf("%s %s: %s", method, path, res.Status)
	}
}

func (w *world) put(key, value string) {
	w.Helper()
	w.vault("POST", "secret/data/"+w.ns+"/"+key, map[string]any{"data": map[string]string{"password": value}})
}

func (w *world) create(text string) {
	w.Helper()
	for _, doc := range strings.Split(text, "---\n") {
		o := &unstructured.Unstructured{}
		if err := yaml.Unmarshal([]byte(doc), &o.Object); err != nil {
			w.Fatal(err)
		}
		o.SetNamespace(w.ns)
		if err := w.client.Create(w.Context(), o); err != nil {
			w.Fatal(err)
		}
	}
}

func (w *world) eventually(what string, ok func() (bool, string)) {
	w.Helper()
	last := ""
	err := wait.PollUntilContextTimeout(w.Context(), 50*time.Millisecond, time.Minute, true, func(context.Context) (bool, error) {
		good, seen := ok()
		last = seen
		return good, nil
	})
	if err != nil {
		w.Fatalf("%s: last seen %s", what, last)
	}
}

func (w *world) secret(want string) {
	w.Helper()
	w.eventually("the Secret with "+want, func() (bool, string) {
		s := &corev1.Secret{}
		if err := w.client.Get(w.Context(), types.NamespacedName{Namespace: w.ns, Name: "db"}, s); err != nil {
			return false, err.Error() + " " + w.condition("ExternalSecret", "db")
		}
		return string(s.Data["password"]) == want, string(s.Data["password"]) + " " + w.condition("ExternalSecret", "db")
	})
}

// condition returns "status reason message" of Ready.
func (w *world) condition(kind, name string) string {
	w.Helper()
	o := newObject(kind)
	if err := w.client.Get(w.Context(), types.NamespacedName{Namespace: w.ns, Name: name}, o); err != nil {
		return err.Error()
	}
	list, _, _ := unstructured.NestedSlice(o.Object, "status", "conditions")
	if len(list) == 0 {
		return "none"
	}
	c, _ := list[0].(map[string]any)
	return fmt.Sprint(c["status"], " ", c["reason"], " ", c["message"])
}

func (w *world) says(kind, name, words string) {
	w.Helper()
	w.eventually(kind+" saying "+words, func() (bool, string) { c := w.condition(kind, name); return strings.Contains(c, words), c })
}

func (w *world) setUp(path string) {
	w.Helper()
	w.vault("PUT", "sys/policies/acl/"+w.ns, map[string]string{"policy": fmt.Sprintf("path \"secret/data/%s/*\" { capabilities = [\"read\"] }", w.ns)})
	w.vault("POST", "auth/kubernetes/role/"+w.ns, map[string]any{
		"bound_service_account_names": "app", "bound_service_account_namespaces": w.ns, "token_policies": w.ns, "token_ttl": "1h",
	})
	w.create(`apiVersion: v1
kind: ServiceAccount
metadata: {name: app}
---
apiVersion: external-secrets.io/v1
kind: SecretStore
metadata: {name: vault}
spec:
  provider:
    vault:
      server: ` + w.dc.Env["VAULT_ADDR"] + `
      path: ` + path + `
      auth: {kubernetes: {mountPath: kubernetes, role: ` + w.ns + `, serviceAccountRef: {name: app}}}
---
apiVersion: external-secrets.io/v1beta1
kind: ExternalSecret
metadata: {name: db}
spec:
  secretStoreRef: {name: vault}
  target:
    template: {mergePolicy: Merge, data: {url: 'db://{{ .password }}@h'}}
  data: [{secretKey: password, remoteRef: {key: ` + w.ns + `/db, property: password}}]
`)
}

func TestRealLife(t *testing.T) {
	w := newWorld(t)
	c := testkit.NewCanary()
	w.put("db", c.String())
	w.setUp("secret")
	w.secret(c.String())
	w.says("ExternalSecret", "db", "True SecretSynced secret synced")
	w.says("SecretStore", "vault", "True Valid store validated")

	s := &corev1.Secret{}
	at := types.NamespacedName{Namespace: w.ns, Name: "db"}
	if err := w.client.Get(t.Context(), at, s); err != nil {
		t.Fatal(err)
	}
	if string(s.Data["url"]) != "db://"+c.String()+"@h" || !metav1.IsControlledBy(s, w.live()) || s.ManagedFields[0].Manager != "externalsecrets.external-secrets.io/db" ||
		s.Labels["reconcile.external-secrets.io/created-by"] != externalsecrets.CreatedBy(w.ns, "db") {
		t.Errorf("the Secret has metadata %+v", s.ObjectMeta)
	}

	// A new value is read when somebody touches the object, as with the peer.
	w.put("db", "second")
	o := w.live()
	o.SetAnnotations(map[string]string{"force-sync": "1"})
	if err := w.client.Update(t.Context(), o); err != nil {
		t.Fatal(err)
	}
	w.secret("second")

	// What somebody edits or deletes is repaired.
	if err := w.client.Get(t.Context(), at, s); err != nil {
		t.Fatal(err)
	}
	s.Data["password"] = []byte("tampered")
	if err := w.client.Update(t.Context(), s); err != nil {
		t.Fatal(err)
	}
	w.secret("second")
	if err := w.client.Delete(t.Context(), s); err != nil {
		t.Fatal(err)
	}
	w.secret("second")

	// A provider that fails is told, and the Secret stays.
	w.vault("PUT", "sys/policies/acl/"+w.ns, map[string]string{"policy": "path \"secret/data/nothing\" { capabilities = [\"read\"] }"})
	w.touch("2")
	w.says("ExternalSecret", "db", `False SecretSyncedError`)
	w.says("ExternalSecret", "db", fmt.Sprintf("the role %q may not read secret/data/%s/db", w.ns, w.ns))
	w.secret("second")
	if found := c.FindIn(w.told()); found != nil {
		t.Errorf("events and conditions show %q", found)
	}

	// It goes on without anybody touching it.
	w.vault("PUT", "sys/policies/acl/"+w.ns, map[string]string{"policy": fmt.Sprintf("path \"secret/data/%s/*\" { capabilities = [\"read\"] }", w.ns)})
	w.says("ExternalSecret", "db", "True SecretSynced")
}

func TestRealStoreIsCorrected(t *testing.T) {
	w := newWorld(t)
	w.put("db", "value")
	w.setUp("nosuch")
	w.says("ExternalSecret", "db", "False SecretSyncedError")
	store := newObject("SecretStore")
	if err := w.client.Get(t.Context(), types.NamespacedName{Namespace: w.ns, Name: "vault"}, store); err != nil {
		t.Fatal(err)
	}
	if err := unstructured.SetNestedField(store.Object, "secret", "spec", "provider", "vault", "path"); err != nil {
		t.Fatal(err)
	}
	if err := w.client.Update(t.Context(), store); err != nil {
		t.Fatal(err)
	}
	w.secret("value")
}

func TestRealUnservedProviderIsNamed(t *testing.T) {
	w := newWorld(t)
	w.create(`apiVersion: external-secrets.io/v1
kind: SecretStore
metadata: {name: aws}
spec: {provider: {aws: {service: SecretsManager, region: eu-west-1}}}
---
apiVersion: external-secrets.io/v1
kind: ExternalSecret
metadata: {name: db}
spec:
  secretStoreRef: {name: aws}
  data: [{secretKey: password, remoteRef: {key: x}}]
`)
	w.says("SecretStore", "aws", `False InvalidProviderConfig`)
	w.says("SecretStore", "aws", `the provider "aws" is not served`)
	w.says("ExternalSecret", "db", `ProviderNotSupported: the provider "aws" is not served`)
}

func (w *world) live() *unstructured.Unstructured {
	w.Helper()
	o := newObject("ExternalSecret")
	if err := w.client.Get(w.Context(), types.NamespacedName{Namespace: w.ns, Name: "db"}, o); err != nil {
		w.Fatal(err)
	}
	return o
}

func (w *world) touch(value string) {
	w.Helper()
	patch := client.RawPatch(types.MergePatchType, []byte(`{"metadata":{"annotations":{"force-sync":"`+value+`"}}}`))
	if err := w.client.Patch(w.Context(), w.live(), patch); err != nil {
		w.Fatal(err)
	}
}

// told is everything that others can read: events, and the objects but the Secret.
func (w *world) told() string {
	w.Helper()
	events := &corev1.EventList{}
	if err := w.client.List(w.Context(), events, client.InNamespace(w.ns)); err != nil {
		w.Fatal(err)
	}
	raw, err := json.Marshal([]any{events.Items, w.live().Object})
	if err != nil {
		w.Fatal(err)
	}
	return string(raw)
}
