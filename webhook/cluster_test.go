package webhook

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/go-logr/logr"
	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/apimachinery/pkg/util/yaml"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/log"

	"sealock.dev/sealock/api/sealock/v1alpha1"
	"sealock.dev/sealock/config"
	"sealock.dev/sealock/internal/testkit"
	"sealock.dev/sealock/tenants"
)

func TestMain(m *testing.M) { os.Exit(testkit.Main(m, "--without=vault,git")) }

// cluster is the real API server, with alice: an administrator by RBAC, and neither system:masters nor the platform.
type cluster struct {
	*testkit.Devcluster
	admin client.Client
}

func start(t *testing.T) cluster {
	t.Helper()
	log.SetLogger(logr.Discard())
	dc := testkit.Cluster(t)
	dc.InstallCRDs(t)
	admin, err := client.New(dc.Config, client.Options{})
	if err != nil {
		t.Fatal(err)
	}
	c := cluster{dc, admin}
	for _, user := range []string{"alice", tenants.User("team-a")} {
		c.ensure(t, &rbacv1.ClusterRoleBinding{
			ObjectMeta: metav1.ObjectMeta{Name: "test-" + strings.ReplaceAll(user, ":", "-")},
			RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: "cluster-admin"},
			Subjects:   []rbacv1.Subject{{APIGroup: rbacv1.GroupName, Kind: "User", Name: user}},
		})
	}
	for name, labels := range map[string]map[string]string{"sealock-system": nil, "flux-system": nil, "team-a": {v1alpha1.TenantLabel: "team-a"}} {
		c.ensure(t, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: labels}})
	}
	for _, name := range []string{"deployer", "app"} {
		c.ensure(t, &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Namespace: "team-a", Name: name}})
	}
	dc.Install(t, "rbac")
	return c
}

func (c cluster) ensure(t *testing.T, o client.Object) {
	t.Helper()
	if err := c.admin.Create(t.Context(), o); err != nil && !apierrors.IsAlreadyExists(err) {
		t.Fatal(err)
	}
}

// as returns the rights of a user. A service account gets its groups from the API server, as in real life.
func (c cluster) as(user string) *rest.Config {
	out := rest.CopyConfig(c.Config)
	out.Impersonate.UserName = user
	return out
}

func (c cluster) clientAs(t *testing.T, user string) client.Client {
	t.Helper()
	api, err := client.New(c.as(user), client.Options{})
	if err != nil {
		t.Fatal(err)
	}
	return api
}

// register applies what config/webhook says of one kind, called by address instead of through the Service.
func (c cluster) register(t *testing.T, kind, address string) {
	t.Helper()
	text, err := config.Build("webhook")
	if err != nil {
		t.Fatal(err)
	}
	decoder := yaml.NewYAMLOrJSONDecoder(bytes.NewReader(text), 4096)
	found := 0
	for {
		u := &unstructured.Unstructured{}
		if err := decoder.Decode(u); err != nil {
			break
		}
		if !strings.HasPrefix(u.GetKind(), kind) {
			continue
		}
		found++
		var o client.Object = u
		if kind == "ValidatingWebhookConfiguration" {
			hooks := &admissionregistrationv1.ValidatingWebhookConfiguration{}
			if err := runtime.DefaultUnstructuredConverter.FromUnstructuredWithValidation(u.Object, hooks, true); err != nil {
				t.Fatal(err)
			}
			url := address + Path
			for i := range hooks.Webhooks {
				if s := hooks.Webhooks[i].ClientConfig.Service; s == nil || s.Name != "sealock-webhook" || *s.Path != Path {
					t.Errorf("webhook %s does not call the Service", hooks.Webhooks[i].Name)
				}
				hooks.Webhooks[i].ClientConfig = admissionregistrationv1.WebhookClientConfig{URL: &url}
			}
			o = hooks
		}
		_ = c.admin.Delete(t.Context(), o.DeepCopyObject().(client.Object)) //nolint:forcetypeassert // a copy of a client.Object
		if err := c.admin.Create(t.Context(), o); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = c.admin.Delete(context.WithoutCancel(t.Context()), o) })
	}
	if found == 0 {
		t.Fatalf("config/webhook has no %s", kind)
	}
}

// serve runs the handler with its own certificate, registers it and waits until the API server asks it.
func (c cluster) serve(t *testing.T) {
	t.Helper()
	listener, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	certs := &Certificates{Namespace: "sealock-system", Hosts: append(ServiceHosts("sealock-system"), "127.0.0.1"), Now: time.Now}
	server := &http.Server{Handler: NewHandler(options()), ReadHeaderTimeout: time.Second, TLSConfig: &tls.Config{GetCertificate: certs.GetCertificate, MinVersion: tls.VersionTLS13}}
	c.register(t, "ValidatingWebhookConfiguration", "https://"+listener.Addr().String())
	if err := certs.Ensure(t.Context(), c.admin); err != nil {
		t.Fatal(err)
	}
	go func() { _ = server.ServeTLS(listener, "", "") }()
	t.Cleanup(func() { _ = server.Close() })
	alice := c.clientAs(t, "alice")
	c.until(t, "the webhook to be asked", func() error {
		return alice.Create(t.Context(), reserved("canary"), client.DryRunAll)
	}, func(err error) bool { return err != nil && strings.Contains(err.Error(), "[sealock-service-accounts]") })
}

// guarded waits until the labels of namespaces are guarded by what the words of the denial name.
func (c cluster) guarded(t *testing.T, by string) {
	t.Helper()
	alice := c.clientAs(t, "alice")
	c.until(t, by, func() error {
		return alice.Create(t.Context(), &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{GenerateName: "c-", Labels: map[string]string{v1alpha1.TenantLabel: "x"}}}, client.DryRunAll)
	}, func(err error) bool { return apierrors.IsForbidden(err) && strings.Contains(err.Error(), by) })
}

func reserved(name string) *corev1.Pod {
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: "team-a", Name: name},
		Spec:       corev1.PodSpec{ServiceAccountName: "deployer", Containers: []corev1.Container{{Name: "c", Image: "i"}}},
	}
}

func (c cluster) until(t *testing.T, what string, try func() error, done func(error) bool) {
	t.Helper()
	var last error
	if err := wait.PollUntilContextTimeout(t.Context(), 50*time.Millisecond, time.Minute, true, func(context.Context) (bool, error) {
		last = try()
		return done(last), nil
	}); err != nil {
		t.Fatalf("waiting for %s: %v", what, last)
	}
}

// labelChange is one way to write labels of a namespace.
type labelChange struct {
	how, sub string
	write    func(ctx context.Context, api dynamic.ResourceInterface, name string, labels map[string]any) error
}

// labelChanges are all ways that the API server offers. In labels nil removes.
func labelChanges() []labelChange {
	var out []labelChange
	for _, sub := range []string{"", "status"} {
		var subs []string
		if sub != "" {
			subs = []string{sub}
		}
		out = append(out,
			labelChange{"merge patch", sub, func(ctx context.Context, api dynamic.ResourceInterface, name string, labels map[string]any) error {
				body, _ := json.Marshal(map[string]any{"metadata": map[string]any{"labels": labels}})
				_, err := api.Patch(ctx, name, types.MergePatchType, body, metav1.PatchOptions{}, subs...)
				return err
			}},
			labelChange{"strategic merge patch", sub, func(ctx context.Context, api dynamic.ResourceInterface, name string, labels map[string]any) error {
				body, _ := json.Marshal(map[string]any{"metadata": map[string]any{"labels": labels}})
				_, err := api.Patch(ctx, name, types.StrategicMergePatchType, body, metav1.PatchOptions{}, subs...)
				return err
			}},
			labelChange{"json patch", sub, func(ctx context.Context, api dynamic.ResourceInterface, name string, labels map[string]any) error {
				var ops []map[string]any
				for k, v := range labels {
					path := "/metadata/labels/" + strings.ReplaceAll(k, "/", "~1")
					if v == nil {
						ops = append(ops, map[string]any{"op": "remove", "path": path})
					} else {
						ops = append(ops, map[string]any{"op": "add", "path": path, "value": v})
					}
				}
				body, _ := json.Marshal(ops)
				_, err := api.Patch(ctx, name, types.JSONPatchType, body, metav1.PatchOptions{}, subs...)
				return err
			}},
			labelChange{"apply", sub, func(ctx context.Context, api dynamic.ResourceInterface, name string, labels map[string]any) error {
				set := map[string]any{}
				for k, v := range labels {
					if v != nil {
						set[k] = v
					}
				}
				if len(set) == 0 {
					return errNotThisWay
				}
				u := &unstructured.Unstructured{Object: map[string]any{"apiVersion": "v1", "kind": "Namespace", "metadata": map[string]any{"name": name, "labels": set}}}
				_, err := api.Apply(ctx, name, u, metav1.ApplyOptions{FieldManager: "test", Force: true}, subs...)
				return err
			}},
		)
	}
	for _, sub := range []string{"", "status", "finalize"} {
		out = append(out, labelChange{"update", sub, func(ctx context.Context, api dynamic.ResourceInterface, name string, labels map[string]any) error {
			u, err := api.Get(ctx, name, metav1.GetOptions{})
			if err != nil {
				return err
			}
			have := u.GetLabels()
			for k, v := range labels {
				if s, ok := v.(string); ok {
					have[k] = s
				} else {
					delete(have, k)
				}
			}
			u.SetLabels(have)
			if sub == "" {
				_, err = api.Update(ctx, u, metav1.UpdateOptions{})
			} else {
				_, err = api.Update(ctx, u, metav1.UpdateOptions{}, sub)
			}
			return err
		}})
	}
	return out
}

var errNotThisWay = fmt.Errorf("nothing to write this way")

// TestT10_LabelMatrix tries every way to write the labels, with only the admission policy, and with only the webhook.
func TestT10_LabelMatrix(t *testing.T) {
	c := start(t)
	namespaces := schema.GroupVersionResource{Version: "v1", Resource: "namespaces"}
	dyn, err := dynamic.NewForConfig(c.as("alice"))
	if err != nil {
		t.Fatal(err)
	}
	alice := dyn.Resource(namespaces)
	matrix := func(t *testing.T, guard string) {
		name := c.Namespace(t, map[string]string{v1alpha1.TenantLabel: "team-a", "pod-security.kubernetes.io/enforce": "baseline", "sealock.dev/other": "x", "free": "a"})
		live := func() map[string]string {
			ns := &corev1.Namespace{}
			if err := c.admin.Get(t.Context(), client.ObjectKey{Name: name}, ns); err != nil {
				t.Fatal(err)
			}
			return ns.Labels
		}
		before := live()
		c.guarded(t, guard)
		tried := 0
		for _, way := range labelChanges() {
			for _, labels := range []map[string]any{
				{v1alpha1.TenantLabel: "team-b"},
				{v1alpha1.TenantLabel: nil},
				{v1alpha1.TenantLabel: ""},
				{"pod-security.kubernetes.io/enforce": "privileged"},
				{"pod-security.kubernetes.io/enforce": nil},
				{"pod-security.kubernetes.io/audit": "privileged"},
				{"sealock.dev/other": "y"},
				{"sealock.dev/other": nil},
				{"sealock.dev/new": "z"},
				{v1alpha1.TenantLabel: nil, "pod-security.kubernetes.io/enforce": "privileged"},
			} {
				err := way.write(t.Context(), alice, name, labels)
				if err == errNotThisWay { //nolint:errorlint // it is ours and not wrapped
					continue
				}
				tried++
				if !apierrors.IsForbidden(err) || !strings.Contains(err.Error(), "[sealock-namespace-labels] label ") || !strings.Contains(err.Error(), guard) {
					t.Errorf("%s %s %v: %v", way.how, way.sub, labels, err)
				}
			}
			// What is not protected is written.
			if err := way.write(t.Context(), alice, name, map[string]any{"free": way.how[:4] + way.sub}); err != nil {
				t.Errorf("%s %s of another label: %v", way.how, way.sub, err)
			}
		}
		if tried != 104 {
			t.Errorf("%d ways were tried", tried)
		}
		after := live()
		delete(before, "free")
		delete(after, "free")
		if fmt.Sprint(before) != fmt.Sprint(after) {
			t.Errorf("before %v, after %v", before, after)
		}
		// Nobody can make a namespace of a tenant either.
		u := &unstructured.Unstructured{Object: map[string]any{"apiVersion": "v1", "kind": "Namespace", "metadata": map[string]any{"generateName": "test-", "labels": map[string]any{v1alpha1.TenantLabel: "team-a"}}}}
		if _, err := alice.Create(t.Context(), u, metav1.CreateOptions{}); !apierrors.IsForbidden(err) {
			t.Errorf("created: %v", err)
		}
		// The API server holds this one itself, which is why the admission policy does not.
		if err := labelChanges()[0].write(t.Context(), alice, name, map[string]any{"kubernetes.io/metadata.name": "kube-system"}); err != nil || live()["kubernetes.io/metadata.name"] != name {
			t.Errorf("%v, %v", err, live())
		}
		// A namespace that is nobody's may be confined by whom it belongs to.
		free := c.Namespace(t, nil)
		if err := labelChanges()[0].write(t.Context(), alice, free, map[string]any{"pod-security.kubernetes.io/enforce": "restricted"}); err != nil {
			t.Errorf("a namespace without tenant: %v", err)
		}
		// The platform may.
		for _, user := range []string{controller, tenants.DefaultSettings().PlatformUser()} {
			body := fmt.Appendf(nil, `{"metadata":{"labels":{"sealock.dev/new":%q}}}`, user[len(user)-8:])
			ns := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name}}
			if err := c.clientAs(t, user).Patch(t.Context(), ns, client.RawPatch(types.MergePatchType, body)); err != nil {
				t.Errorf("%s: %v", user, err)
			}
		}
	}
	t.Run("admission policy", func(t *testing.T) {
		c.register(t, "ValidatingAdmissionPolicy", "")
		matrix(t, "ValidatingAdmissionPolicy 'sealock-namespace-labels'")
	})
	t.Run("webhook", func(t *testing.T) {
		c.serve(t)
		matrix(t, `admission webhook "namespaces.tenants.sealock.dev"`)
	})
}

func TestT31_LookalikesAreAsked(t *testing.T) {
	c := start(t)
	c.serve(t)
	for _, user := range []string{controller + "2", "system:serviceaccount:sealock-system2:sealock-controller"} {
		c.ensure(t, &rbacv1.ClusterRoleBinding{
			ObjectMeta: metav1.ObjectMeta{Name: "test-" + strings.ReplaceAll(user, ":", "-")},
			RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: "cluster-admin"},
			Subjects:   []rbacv1.Subject{{APIGroup: rbacv1.GroupName, Kind: "User", Name: user}},
		})
		if err := c.clientAs(t, user).Create(t.Context(), reserved("p"), client.DryRunAll); !apierrors.IsForbidden(err) || !strings.Contains(err.Error(), badWord) {
			t.Errorf("%s: %v", user, err)
		}
	}
	if err := c.clientAs(t, tenants.DefaultSettings().PlatformUser()).Create(t.Context(), reserved("p"), client.DryRunAll); err != nil && strings.Contains(err.Error(), "webhook") {
		t.Errorf("the platform was asked about: %v", err)
	}
}

func TestTheRealAPIServerGetsTheWords(t *testing.T) {
	c := start(t)
	c.serve(t)
	alice := c.clientAs(t, "alice")
	err := alice.Create(t.Context(), reserved("p"))
	if want := `admission webhook "objects.tenants.sealock.dev" denied the request: [sealock-service-accounts] spec uses the service account deployer, which is reserved for commits of tenant team-a`; !apierrors.IsForbidden(err) || err.Error() != want {
		t.Errorf("%v", err)
	}
	secret := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: "team-a", Name: "s", Annotations: map[string]string{corev1.ServiceAccountNameKey: "deployer"}}, Type: corev1.SecretTypeServiceAccountToken}
	if err := alice.Create(t.Context(), secret); !apierrors.IsForbidden(err) || !strings.Contains(err.Error(), "[sealock-secret-types] type: a Secret of type") {
		t.Errorf("T2: %v", err)
	}
	binding := &rbacv1.RoleBinding{
		ObjectMeta: metav1.ObjectMeta{Namespace: "team-a", GenerateName: "b-"},
		RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: "cluster-admin"},
		Subjects:   []rbacv1.Subject{{Kind: "ServiceAccount", Name: "app", Namespace: "team-a"}},
	}
	if err := alice.Create(t.Context(), binding); !apierrors.IsForbidden(err) || !strings.Contains(err.Error(), "[sealock-role-ceiling] roleRef: ClusterRole cluster-admin is above the ceiling") {
		t.Errorf("T6: %v", err)
	}
	role := &rbacv1.ClusterRole{ObjectMeta: metav1.ObjectMeta{GenerateName: "r-", Labels: map[string]string{"rbac.authorization.k8s.io/aggregate-to-admin": "true"}}}
	if err := c.clientAs(t, tenants.User("team-a")).Create(t.Context(), role); !apierrors.IsForbidden(err) || !strings.Contains(err.Error(), "[sealock-role-ceiling] label") {
		t.Errorf("T7: %v", err)
	}
	// An ordinary Secret passes, and the tokens of an ordinary service account.
	if err := alice.Create(t.Context(), &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: "team-a", GenerateName: "s-"}, StringData: map[string]string{"a": "b"}}); err != nil {
		t.Error(err)
	}
	typed, err := kubernetes.NewForConfig(c.as("alice"))
	if err != nil {
		t.Fatal(err)
	}
	for name, denied := range map[string]bool{"deployer": true, "app": false} {
		_, err := typed.CoreV1().ServiceAccounts("team-a").CreateToken(t.Context(), name, tokenRequest(), metav1.CreateOptions{})
		if denied != apierrors.IsForbidden(err) || !denied && err != nil {
			t.Errorf("T3: token of %s: %v", name, err)
		}
	}
	if err := alice.Create(t.Context(), &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: "team-a", GenerateName: "c-"}, Data: map[string]string{"bad": "1"}}); !apierrors.IsForbidden(err) ||
		!strings.HasSuffix(err.Error(), "denied the request: [own-words] a\n[own-words] b") {
		t.Errorf("%v", err)
	}
}
