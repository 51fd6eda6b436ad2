package cluster

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"sealock.dev/sealock/api/sealock/v1alpha1"
	"sealock.dev/sealock/fault"
	"sealock.dev/sealock/internal/testkit"
	"sealock.dev/sealock/manifest"
	"sealock.dev/sealock/plaintext"
	"sealock.dev/sealock/tenants"
)

// recorder counts the requests for objects: everything but discovery and the lists and watches of the view.
type recorder struct {
	mu   sync.Mutex
	seen []string
}

func (r *recorder) wrap(next http.RoundTripper) http.RoundTripper {
	return roundTrip(func(req *http.Request) (*http.Response, error) {
		q := req.URL.Query()
		discovery := strings.Count(req.URL.Path, "/") < 3 || strings.HasPrefix(req.URL.Path, "/openapi")
		if !discovery && q.Get("labelSelector") == "" && !strings.Contains(req.URL.Path, "sealock-probe") {
			r.mu.Lock()
			r.seen = append(r.seen, req.Method+" "+req.URL.Path+" "+q.Get("dryRun"))
			r.mu.Unlock()
		}
		return next.RoundTrip(req)
	})
}

type roundTrip func(*http.Request) (*http.Response, error)

func (f roundTrip) RoundTrip(req *http.Request) (*http.Response, error) { return f(req) }

// take returns what was requested since the last call.
func (r *recorder) take() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	out := r.seen
	r.seen = nil
	return out
}

// world is one test's namespace, client and owner.
type world struct {
	*testing.T
	ns     string
	client *Client
	kube   *kubernetes.Clientset
	rec    *recorder
	owner  manifest.Owner
	grant  tenants.Grant
}

// newWorld makes a namespace and a client that acts as the platform's identity, which may do everything.
func newWorld(t *testing.T) *world {
	t.Helper()
	dc := testkit.Cluster(t)
	w := &world{T: t, ns: dc.Namespace(t, nil), rec: &recorder{}}
	kube, err := kubernetes.NewForConfig(dc.Config)
	if err != nil {
		t.Fatal(err)
	}
	w.kube = kube
	settings := tenants.DefaultSettings()
	settings.PlatformNamespaces = append(settings.PlatformNamespaces, w.ns)
	w.grant, err = tenants.NewIndex(nil, settings).Grant(fault.Ref{Namespace: w.ns}, "")
	if err != nil {
		t.Fatal(err)
	}
	_, err = kube.RbacV1().ClusterRoleBindings().Create(t.Context(), &rbacv1.ClusterRoleBinding{
		ObjectMeta: metav1.ObjectMeta{Name: "platform-for-tests"},
		RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: "cluster-admin"},
		Subjects:   []rbacv1.Subject{{Kind: "User", APIGroup: rbacv1.GroupName, Name: settings.PlatformUser()}},
	}, metav1.CreateOptions{})
	if err != nil && !apierrors.IsAlreadyExists(err) {
		t.Fatal(err)
	}
	w.owner = ownerNamed(w.ns, "app")
	w.client = w.open(dc.Config, plaintext.NewKey([]byte("key of the test")))
	return w
}

func ownerNamed(ns, name string) manifest.Owner {
	return manifest.Owner{
		Ref:          fault.Ref{Kind: "Kustomization", Namespace: ns, Name: name},
		Labels:       map[string]string{markerPrefix + "name": name, markerPrefix + "namespace": ns},
		FieldManager: "kustomize-controller",
	}
}

func (w *world) open(config *rest.Config, key plaintext.Key) *Client {
	w.Helper()
	config = rest.CopyConfig(config)
	config.Wrap(w.rec.wrap)
	c, err := New(w.Context(), Options{Config: config, Key: key})
	if err != nil {
		w.Fatal(err)
	}
	return c
}

// tenant returns the grant of a tenant who has the world's namespace and the verbs on the resources there.
func (w *world) tenant(name string, clusterKinds []string, rules ...rbacv1.PolicyRule) tenants.Grant {
	w.Helper()
	t := v1alpha1.Tenant{ObjectMeta: metav1.ObjectMeta{Name: name}}
	t.Spec.Namespaces = []v1alpha1.TenantNamespace{{Name: w.ns}}
	t.Spec.ClusterKinds = clusterKinds
	g, err := tenants.NewIndex([]v1alpha1.Tenant{t}, tenants.DefaultSettings()).Grant(fault.Ref{Namespace: w.ns}, "")
	if err != nil {
		w.Fatal(err)
	}
	if len(rules) == 0 {
		return g
	}
	if _, err := w.kube.RbacV1().Roles(w.ns).Create(w.Context(), &rbacv1.Role{ObjectMeta: metav1.ObjectMeta{Name: name}, Rules: rules}, metav1.CreateOptions{}); err != nil {
		w.Fatal(err)
	}
	_, err = w.kube.RbacV1().RoleBindings(w.ns).Create(w.Context(), &rbacv1.RoleBinding{
		ObjectMeta: metav1.ObjectMeta{Name: name}, RoleRef: rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "Role", Name: name},
		Subjects: []rbacv1.Subject{{Kind: "User", APIGroup: rbacv1.GroupName, Name: g.User}},
	}, metav1.CreateOptions{})
	if err != nil {
		w.Fatal(err)
	}
	return g
}

// objects reads manifests; ${NS} is the world's namespace.
func (w *world) objects(text string) []manifest.Object {
	w.Helper()
	return parse(w.T, strings.ReplaceAll(text, "${NS}", w.ns))
}

func parse(t testing.TB, text string) []manifest.Object {
	t.Helper()
	docs, err := manifest.Decode("app.yaml", []byte(text), manifest.DefaultLimits)
	if err != nil {
		t.Fatal(err)
	}
	out := make([]manifest.Object, len(docs))
	for i, d := range docs {
		if out[i], err = manifest.New(d.Body, manifest.Source{File: "app.yaml", Line: d.Line}, nil); err != nil {
			t.Fatal(err)
		}
	}
	return out
}

func configMaps(n int) string {
	var b strings.Builder
	for i := range n {
		fmt.Fprintf(&b, "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: cm-%02d}\ndata: {k: v}\n---\n", i)
	}
	return b.String()
}

func (w *world) resolve(set []manifest.Object) []manifest.Object {
	w.Helper()
	out, err := w.client.Resolve(w.Context(), w.grant, set)
	if err != nil {
		w.Fatal(err)
	}
	return out
}

func (w *world) plan(set []manifest.Object, old ...manifest.ID) manifest.Plan {
	w.Helper()
	p, err := w.client.Plan(w.Context(), w.grant, w.owner, w.resolve(set), old)
	if err != nil {
		w.Fatal(err)
	}
	return p
}

func (w *world) apply(p manifest.Plan) []manifest.Change {
	w.Helper()
	done, err := w.client.Apply(w.Context(), w.grant, p, noop)
	if err != nil {
		w.Fatal(err)
	}
	return done
}

func noop(context.Context, int) error { return nil }

// run plans and applies.
func (w *world) run(set []manifest.Object, old ...manifest.ID) (manifest.Plan, []manifest.Change) {
	w.Helper()
	p := w.plan(set, old...)
	return p, w.apply(p)
}

// event waits for an event of the kind about the object.
func (w *world) event(kind EventKind, name string) Event {
	w.Helper()
	limit := time.After(30 * time.Second)
	for {
		select {
		case e := <-w.client.View().Events():
			if e.Kind == kind && e.ID.Name == name {
				return e
			}
		case <-limit:
			w.Fatalf("no event %s of %s", kind, name)
		}
	}
}

// until waits for a condition.
func (w *world) until(what string, ok func() bool) {
	w.Helper()
	err := wait.PollUntilContextTimeout(w.Context(), 20*time.Millisecond, 30*time.Second, true, func(context.Context) (bool, error) { return ok(), nil })
	if err != nil {
		w.Fatalf("waited in vain: %s", what)
	}
}

func actions(p manifest.Plan) map[manifest.Action]int {
	out := map[manifest.Action]int{}
	for _, s := range p.Steps {
		out[s.Action]++
	}
	return out
}

func kindOf(t testing.TB, err error, want fault.Kind) {
	t.Helper()
	var f *fault.Error
	if !errors.As(err, &f) || fault.KindOf(err) != want {
		t.Fatalf("error is %v (%v), want %v", err, fault.KindOf(err), want)
	}
}

// look returns what the view knows of a core object.
func (w *world) look(kind, name string) (entry, bool) {
	id := manifest.ID{Version: "v1", Kind: kind}
	watched, ok := w.client.view.peek(id.GVK())
	if !ok {
		return entry{}, false
	}
	return watched.lookup(nsName{w.ns, name})
}

func tenantless() tenants.Grant { return tenants.Grant{Namespace: "x"} }

// settle returns when the watch of one followed object is under way.
func (w *world) settle(resource, name string) {
	w.until("the watch of "+resource+"/"+name, func() bool {
		w.rec.mu.Lock()
		defer w.rec.mu.Unlock()
		for _, seen := range w.rec.seen {
			if strings.HasPrefix(seen, "GET ") && strings.HasSuffix(strings.TrimSpace(seen), "/"+resource) {
				return true
			}
		}
		return false
	})
}

func deployment(name string, replicas int32) *appsv1.Deployment {
	labels := map[string]string{"app": name}
	return &appsv1.Deployment{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec: appsv1.DeploymentSpec{
			Replicas: &replicas, Selector: &metav1.LabelSelector{MatchLabels: labels},
			Template: corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: labels}, Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "c", Image: "x"}}}},
		},
	}
}

// replace is text with each of the words replaced by the one that follows it.
func replace(text string, words ...string) string { return strings.NewReplacer(words...).Replace(text) }
