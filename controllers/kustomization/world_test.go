package kustomization

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/fstest"
	"time"

	kustomizev1 "github.com/fluxcd/kustomize-controller/api/v1"
	fluxmeta "github.com/fluxcd/pkg/apis/meta"
	sourcev1 "github.com/fluxcd/source-controller/api/v1"
	"github.com/go-logr/logr"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	clientgoscheme "k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/config"
	metricsserver "sigs.k8s.io/controller-runtime/pkg/metrics/server"
	"sigs.k8s.io/yaml"

	"sealock.dev/sealock/api/sealock/v1alpha1"
	"sealock.dev/sealock/cluster"
	"sealock.dev/sealock/fault"
	"sealock.dev/sealock/internal/testkit"
	"sealock.dev/sealock/manifest"
	"sealock.dev/sealock/pipeline"
	"sealock.dev/sealock/plaintext"
	"sealock.dev/sealock/tenants"
)

// world is one test's namespace with a controller of its own, against the real API server. What a GitRepository serves
// is given by the test.
type world struct {
	*testing.T
	ns      string
	kube    client.Client // administrator, without a cache
	r       *Reconciler
	cluster *cluster.Client
	index   *tenants.Index
	judge   *judge
	events  *events
	asked   *asked
	config  *rest.Config
	stop    context.CancelFunc
	looks   *atomic.Int64 // how often a Kustomization was found in order since start

	mu    sync.Mutex
	trees map[string]fs.FS // by revision
}

// options change what newWorld makes.
type options struct {
	tenant   bool     // the namespace belongs to a tenant
	bare     bool     // who has no right to anything
	records  bool     // what was applied is remembered beyond a restart
	platform []string // further platform namespaces, which the controller sees
	account  string   // of --default-service-account
	change   func(*Reconciler)
}

// judge denies what deny says, and counts: it is asked once a build.
type judge struct {
	mu    sync.Mutex
	count int
	deny  func(o manifest.Object) string
}

func (j *judge) Judge(_ context.Context, _ tenants.Grant, set []manifest.Object, _ string) ([]fault.Violation, error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.count++
	var out []fault.Violation
	for _, o := range set {
		if j.deny != nil {
			if why := j.deny(o); why != "" {
				out = append(out, fault.Violation{Policy: "test", Ref: o.Ref(), Message: why})
			}
		}
	}
	return out, nil
}

func (j *judge) builds() int {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.count
}

// told is an event as it was recorded.
type told struct {
	name, typ, reason, message string
	annotations                map[string]string
}

// events keeps what the recorder is told.
type events struct {
	mu   sync.Mutex
	list []told
}

func (e *events) Event(o runtime.Object, typ, reason, message string) {
	e.AnnotatedEventf(o, nil, typ, reason, "%s", message)
}

func (e *events) Eventf(o runtime.Object, typ, reason, format string, args ...any) {
	e.AnnotatedEventf(o, nil, typ, reason, format, args...)
}

func (e *events) AnnotatedEventf(o runtime.Object, annotations map[string]string, typ, reason, format string, args ...any) {
	e.mu.Lock()
	defer e.mu.Unlock()
	name := ""
	if m, err := meta.Accessor(o); err == nil {
		name = m.GetName()
	}
	e.list = append(e.list, told{name, typ, reason, fmt.Sprintf(format, args...), annotations})
}

// of returns the events of an object with the reason; "" is any.
func (e *events) of(name, reason string) (out []told) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, each := range e.list {
		if each.name == name && (reason == "" || each.reason == reason) {
			out = append(out, each)
		}
	}
	return out
}

// about returns the events of an object about the revision.
func (e *events) about(name, revision string) (out []told) {
	for _, each := range e.of(name, "") {
		if each.annotations[annotationRevision] == revision {
			out = append(out, each)
		}
	}
	return out
}

// asked counts the requests for objects other than lists, watches, discovery and the Kustomization itself.
type asked struct {
	mu   sync.Mutex
	seen []string
}

func (a *asked) wrap(next http.RoundTripper) http.RoundTripper {
	return roundTrip(func(req *http.Request) (*http.Response, error) {
		path, q := req.URL.Path, req.URL.Query()
		if strings.Count(path, "/") >= 3 && !strings.HasPrefix(path, "/openapi") && q.Get("labelSelector") == "" && !strings.Contains(path, "sealock-probe") {
			a.mu.Lock()
			a.seen = append(a.seen, req.Method+" "+path+" "+q.Get("dryRun"))
			a.mu.Unlock()
		}
		return next.RoundTrip(req)
	})
}

type roundTrip func(*http.Request) (*http.Response, error)

func (f roundTrip) RoundTrip(req *http.Request) (*http.Response, error) { return f(req) }

func (a *asked) take() []string {
	a.mu.Lock()
	defer a.mu.Unlock()
	out := a.seen
	a.seen = nil
	return out
}

// data reads Secrets and ConfigMaps as cmd/sealock does.
type data struct{ client.Reader }

func (d data) Secret(ctx context.Context, namespace, name string) (map[string]plaintext.Value, error) {
	s := &corev1.Secret{}
	if err := d.Get(ctx, types.NamespacedName{Namespace: namespace, Name: name}, s); err != nil {
		return nil, dataFault(err)
	}
	out := map[string]plaintext.Value{}
	for k, v := range s.Data {
		out[k] = plaintext.New(v)
	}
	return out, nil
}

func (d data) ConfigMap(ctx context.Context, namespace, name string) (map[string]string, error) {
	c := &corev1.ConfigMap{}
	if err := d.Get(ctx, types.NamespacedName{Namespace: namespace, Name: name}, c); err != nil {
		return nil, dataFault(err)
	}
	return c.Data, nil
}

func dataFault(err error) error {
	if apierrors.IsNotFound(err) {
		return fault.New("", fault.NotFound, fault.Ref{}, "not found")
	}
	return fault.New("", fault.Transient, fault.Ref{}, "reading failed")
}

// newWorld starts a controller for a namespace of its own.
func newWorld(t *testing.T, o options) *world {
	t.Helper()
	dc := testkit.Cluster(t)
	dc.InstallCRDs(t)
	w := &world{T: t, ns: dc.Namespace(t, nil), judge: &judge{}, events: &events{}, asked: &asked{}, config: dc.Config, trees: map[string]fs.FS{}}
	var err error
	if w.kube, err = client.New(dc.Config, client.Options{Scheme: scheme(t)}); err != nil {
		t.Fatal(err)
	}
	w.index = w.tenancy(o)
	w.start(o)
	return w
}

func scheme(t *testing.T) *runtime.Scheme {
	t.Helper()
	s := runtime.NewScheme()
	for _, add := range []func(*runtime.Scheme) error{clientgoscheme.AddToScheme, sourcev1.AddToScheme, AddToScheme} {
		if err := add(s); err != nil {
			t.Fatal(err)
		}
	}
	return s
}

// tenancy makes the namespace one of the platform's or a tenant's, and gives its identity the rights.
func (w *world) tenancy(o options) *tenants.Index {
	w.Helper()
	settings := tenants.DefaultSettings()
	settings.DefaultServiceAccount = o.account
	if !o.tenant {
		settings.PlatformNamespaces = append(append(settings.PlatformNamespaces, w.ns), o.platform...)
		w.bind("platform-for-tests", settings.PlatformUser())
		return tenants.NewIndex(nil, settings)
	}
	tenant := v1alpha1.Tenant{ObjectMeta: metav1.ObjectMeta{Name: w.ns}}
	tenant.Spec.Namespaces = []v1alpha1.TenantNamespace{{Name: w.ns}}
	tenant.Spec.ServiceAccounts = []string{"reconciler"}
	if !o.bare {
		w.bind("tenant-"+w.ns, tenants.User(w.ns))
	}
	return tenants.NewIndex([]v1alpha1.Tenant{tenant}, settings)
}

func (w *world) bind(name, user string) {
	w.Helper()
	err := w.kube.Create(w.Context(), &rbacv1.ClusterRoleBinding{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: "cluster-admin"},
		Subjects:   []rbacv1.Subject{{Kind: "User", APIGroup: rbacv1.GroupName, Name: user}},
	})
	if err != nil && !apierrors.IsAlreadyExists(err) {
		w.Fatal(err)
	}
}

// start runs a controller; a second one after stop is what a restart is.
func (w *world) start(o options) {
	w.Helper()
	ctx, cancel := context.WithCancel(w.Context())
	cfg := rest.CopyConfig(w.config)
	cfg.Wrap(w.asked.wrap)
	key := plaintext.NewKey([]byte("key of the test"))
	records, written := w.records(ctx, o)
	opts := cluster.Options{Config: cfg, Key: key}
	if records != nil {
		opts.Baselines = records
	}
	var err error
	if w.cluster, err = cluster.New(ctx, opts); err != nil {
		w.Fatal(err)
	}
	seen := map[string]cache.Config{w.ns: {}}
	for _, ns := range o.platform {
		seen[ns] = cache.Config{}
	}
	mgr, err := ctrl.NewManager(w.config, ctrl.Options{
		Scheme: scheme(w.T), Metrics: metricsserver.Options{BindAddress: "0"},
		Cache:      cache.Options{DefaultNamespaces: seen},
		Controller: config.Controller{SkipNameValidation: new(true)},
	})
	if err != nil {
		w.Fatal(err)
	}
	requeue := make(chan types.NamespacedName, 64)
	looks := &atomic.Int64{}
	w.looks = looks
	w.r = &Reconciler{
		Contested: func(string, string) map[manifest.ID]string { looks.Add(1); return nil },
		Client:    mgr.GetClient(), APIReader: mgr.GetAPIReader(), Tenants: func() *tenants.Index { return w.index }, Data: data{w.kube},
		Engine:    &pipeline.Engine{Judge: w.judge, Cluster: w.cluster, Key: key},
		Tree:      w.tree,
		Decrypter: func(Decryption) (pipeline.FileOpener, error) { return nil, errors.New("not in this test") },
		Forget:    func(ns, name string) { w.cluster.Release(OwnerOf(ns, name)) },
		Snapshot:  func() string { return "" },
		Events:    w.events, Requeue: requeue,
	}
	if records != nil {
		w.r.Memory = records
	}
	remotes := cluster.NewRemotes(ctx, cluster.Options{Key: key}, func(e cluster.Event) { w.disturbed(ctx, w.r, e, requeue) })
	w.r.Remote = func(_ context.Context, c RemoteConfig) (pipeline.Cluster, error) {
		return remotes.Get(c.ID, c.Config, c.User)
	}
	if o.change != nil {
		o.change(w.r)
	}
	if err := w.r.SetupWithManager(ctx, mgr, 2); err != nil {
		w.Fatal(err)
	}
	done := make(chan struct{})
	w.stop = func() { cancel(); <-done; <-written }
	go func() {
		defer close(done)
		if err := mgr.Start(ctx); err != nil {
			w.Errorf("the manager: %v", err)
		}
	}()
	go w.forward(ctx, w.r, w.cluster, requeue)
	w.Cleanup(w.stop)
}

func (w *world) forward(ctx context.Context, r *Reconciler, from *cluster.Client, to chan<- types.NamespacedName) {
	for {
		select {
		case <-ctx.Done():
			return
		case e := <-from.View().Events():
			w.disturbed(ctx, r, e, to)
		}
	}
}

func (w *world) disturbed(ctx context.Context, r *Reconciler, e cluster.Event, to chan<- types.NamespacedName) {
	key := types.NamespacedName{Namespace: e.OwnerNamespace, Name: e.OwnerName}
	r.Disturbed(key, e.Kind.Mend())
	select {
	case to <- key:
	case <-ctx.Done():
	}
}

// records keeps what was applied in the world's namespace. The channel closes when the last of it is written.
func (w *world) records(ctx context.Context, o options) (*cluster.Records, <-chan struct{}) {
	w.Helper()
	written := make(chan struct{})
	if !o.records {
		close(written)
		return nil, written
	}
	records, err := cluster.NewRecords(w.config, w.ns, logr.Discard())
	if err != nil {
		w.Fatal(err)
	}
	go func() {
		defer close(written)
		_ = records.Run(ctx)
	}()
	return records, written
}

func (w *world) tree(_ context.Context, _, _, revision string) (fs.FS, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if t, ok := w.trees[revision]; ok {
		return t, nil
	}
	return nil, fault.New(fault.StageSource, fault.Transient, fault.Ref{}, "no such revision")
}

// source makes the GitRepository advertise a revision with these files.
func (w *world) source(name, revision string, files map[string]string) {
	w.Helper()
	mem := fstest.MapFS{}
	for file, text := range files {
		mem[file] = &fstest.MapFile{Data: []byte(text)}
	}
	w.sourceFS(name, revision, mem)
}

func (w *world) sourceFS(name, revision string, files fs.FS) {
	w.Helper()
	w.mu.Lock()
	w.trees[revision] = files
	w.mu.Unlock()
	repo := &sourcev1.GitRepository{ObjectMeta: metav1.ObjectMeta{Namespace: w.ns, Name: name}}
	repo.Spec.URL, repo.Spec.Interval = "https://example.com/x", metav1.Duration{Duration: time.Hour}
	if err := w.kube.Create(w.Context(), repo); err != nil && !apierrors.IsAlreadyExists(err) {
		w.Fatal(err)
	}
	if err := w.kube.Get(w.Context(), client.ObjectKeyFromObject(repo), repo); err != nil {
		w.Fatal(err)
	}
	before := repo.DeepCopy()
	repo.Status.Artifact = &fluxmeta.Artifact{
		Path: "x", URL: "http://example.com/x", Revision: revision, Digest: "sha256:" + strings.Repeat("0", 64), LastUpdateTime: metav1.Now(),
		Metadata: map[string]string{"org.opencontainers.image.revision": "origin-" + revision},
	}
	if err := w.kube.Status().Patch(w.Context(), repo, client.MergeFrom(before)); err != nil {
		w.Fatal(err)
	}
}

// sync creates a Kustomization of the source "app" from further lines of its spec.
func (w *world) sync(name string, lines ...string) {
	w.Helper()
	text := fmt.Sprintf("metadata: {name: %s, namespace: %s}\nspec:\n  interval: 10m\n  retryInterval: 10m\n  prune: true\n  sourceRef: {kind: GitRepository, name: app}\n", name, w.ns)
	fields := map[string]any{}
	if err := yaml.Unmarshal([]byte(text), &fields); err != nil {
		w.Fatal(err)
	}
	extra := map[string]any{}
	if err := yaml.Unmarshal([]byte(strings.Join(lines, "\n")), &extra); err != nil {
		w.Fatal(err)
	}
	spec, _ := fields["spec"].(map[string]any)
	for k, v := range extra {
		if k == "annotations" {
			fields["metadata"].(map[string]any)["annotations"] = v
			continue
		}
		spec[k] = v
	}
	raw, err := yaml.Marshal(fields)
	if err != nil {
		w.Fatal(err)
	}
	ks := &kustomizev1.Kustomization{}
	if err := yaml.UnmarshalStrict(raw, ks); err != nil {
		w.Fatal(err)
	}
	if err := w.kube.Create(w.Context(), ks); err != nil {
		w.Fatal(err)
	}
}
