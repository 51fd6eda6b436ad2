package gitrepository

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	sourcev1 "github.com/fluxcd/source-controller/api/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	clientgoscheme "k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/tools/record"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"

	"sealock.dev/sealock/api/sealock/v1alpha1"
	"sealock.dev/sealock/internal/testkit"
	"sealock.dev/sealock/plaintext"
	"sealock.dev/sealock/source"
	"sealock.dev/sealock/tenants"
)

func TestMain(m *testing.M) { os.Exit(testkit.Main(m, "--without=vault,kubelet")) }

// bench is a namespace, a repository on the real Git server, and a Reconciler against the real API server.
type bench struct {
	t         testing.TB
	dc        *testkit.Devcluster
	client    client.Client
	namespace string
	work      string // a clone to push from
	name      string // of the bare repository
	events    *record.FakeRecorder
	index     *tenants.Index
	dir       string // cache and storage

	r      *Reconciler
	writes atomic.Int64 // to the API server, by the Reconciler
}

func scheme(t testing.TB) *runtime.Scheme {
	t.Helper()
	s := runtime.NewScheme()
	for _, add := range []func(*runtime.Scheme) error{clientgoscheme.AddToScheme, sourcev1.AddToScheme, v1alpha1.AddToScheme} {
		if err := add(s); err != nil {
			t.Fatal(err)
		}
	}
	return s
}

func newBench(t testing.TB) *bench {
	t.Helper()
	dc := testkit.Cluster(t)
	dc.InstallCRDs(t)
	b := &bench{t: t, dc: dc, namespace: dc.Namespace(t, nil), work: t.TempDir(), dir: t.TempDir(), index: tenants.NewIndex(nil, tenants.DefaultSettings())}
	b.name = b.namespace + ".git"
	plain, err := client.NewWithWatch(dc.Config, client.Options{Scheme: scheme(t)})
	if err != nil {
		t.Fatal(err)
	}
	b.client = plain
	b.git(".", "init", "-q", "--bare", "-b", "main", filepath.Join(dc.Env["GIT_ROOT"], b.name))
	b.git(b.work, "init", "-q", "-b", "main")
	b.git(b.work, "remote", "add", "origin", filepath.Join(dc.Env["GIT_ROOT"], b.name))
	counting := interceptor.NewClient(plain, interceptor.Funcs{
		Patch: func(ctx context.Context, c client.WithWatch, o client.Object, p client.Patch, opts ...client.PatchOption) error {
			b.writes.Add(1)
			return c.Patch(ctx, o, p, opts...)
		},
		Update: func(ctx context.Context, c client.WithWatch, o client.Object, opts ...client.UpdateOption) error {
			b.writes.Add(1)
			return c.Update(ctx, o, opts...)
		},
		SubResourcePatch: func(ctx context.Context, c client.Client, sub string, o client.Object, p client.Patch, opts ...client.SubResourcePatchOption) error {
			b.writes.Add(1)
			return c.SubResource(sub).Patch(ctx, o, p, opts...)
		},
	})
	b.start(counting)
	return b
}

// start makes the Reconciler, as a new process would.
func (b *bench) start(c client.Client) {
	b.t.Helper()
	repos, err := source.NewRepositories(filepath.Join(b.dir, "git"), plaintext.NewKey([]byte("k")), source.DefaultLimits())
	if err != nil {
		b.t.Fatal(err)
	}
	storage, err := source.NewStorage(filepath.Join(b.dir, "artifacts"))
	if err != nil {
		b.t.Fatal(err)
	}
	b.events = record.NewFakeRecorder(100)
	b.r = New(Options{
		Client: c, APIReader: b.client, Repositories: repos, Storage: storage, Host: "source.example:9090", Events: b.events,
		Grants: func(ns string) tenants.Grant { return b.index.GrantFor(ns) },
	})
}

func (b *bench) git(dir string, args ...string) string {
	b.t.Helper()
	cmd := exec.Command("git", args...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "HOME="+b.work, "GIT_CONFIG_NOSYSTEM=1",
		"GIT_AUTHOR_NAME=t", "GIT_AUTHOR_EMAIL=t@example.com", "GIT_COMMITTER_NAME=t", "GIT_COMMITTER_EMAIL=t@example.com")
	out, err := cmd.CombinedOutput()
	if err != nil {
		b.t.Fatalf("git %v: %v\n%s", args, err, out)
	}
	return strings.TrimSpace(string(out))
}

// push writes the file, commits and pushes, and returns the commit.
func (b *bench) push(name, content, message string) string {
	b.t.Helper()
	full := filepath.Join(b.work, name)
	if err := os.MkdirAll(filepath.Dir(full), 0o755); err != nil {
		b.t.Fatal(err)
	}
	if err := os.WriteFile(full, []byte(content), 0o600); err != nil {
		b.t.Fatal(err)
	}
	b.git(b.work, "add", "-A")
	b.git(b.work, "commit", "-q", "-m", message)
	b.git(b.work, "push", "-q", "--tags", "origin", "HEAD")
	return b.git(b.work, "rev-parse", "HEAD")
}

func (b *bench) url() string { return strings.TrimSuffix(b.dc.Env["GIT_HTTP_URL"], "/") + "/" + b.name }

func (b *bench) secret(name, password string) {
	b.t.Helper()
	s := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: b.namespace, Name: name}, StringData: map[string]string{"username": b.dc.Env["GIT_USERNAME"], "password": password}}
	err := b.client.Create(b.t.Context(), s)
	if err != nil {
		err = b.client.Update(b.t.Context(), s)
	}
	if err != nil {
		b.t.Fatal(err)
	}
}

// create makes a GitRepository with the credentials of the server, changed by fn.
func (b *bench) create(name string, fn func(*sourcev1.GitRepository)) {
	b.t.Helper()
	repo := &sourcev1.GitRepository{ObjectMeta: metav1.ObjectMeta{Namespace: b.namespace, Name: name}}
	repo.Spec.URL = b.url()
	repo.Spec.Interval = metav1.Duration{Duration: 60_000_000_000}
	repo.Spec.Reference = &sourcev1.GitRepositoryRef{Branch: "main"}
	repo.Spec.SecretRef = &secretRef{Name: "git-credentials"}
	if fn != nil {
		fn(repo)
	}
	if err := b.client.Create(b.t.Context(), repo); err != nil {
		b.t.Fatal(err)
	}
}

func (b *bench) change(name string, fn func(*sourcev1.GitRepository)) {
	b.t.Helper()
	repo := b.get(name)
	patch := client.MergeFrom(repo.DeepCopy())
	fn(repo)
	if err := b.client.Patch(b.t.Context(), repo, patch); err != nil {
		b.t.Fatal(err)
	}
}

func (b *bench) get(name string) *sourcev1.GitRepository {
	b.t.Helper()
	repo := &sourcev1.GitRepository{}
	if err := b.client.Get(b.t.Context(), client.ObjectKey{Namespace: b.namespace, Name: name}, repo); err != nil {
		b.t.Fatal(err)
	}
	return repo
}

// reconcile runs once, and returns the object afterwards, what it cost in writes, and the events.
func (b *bench) reconcile(name string) (repo *sourcev1.GitRepository, writes int64, events []string, res ctrl.Result, err error) {
	b.t.Helper()
	before := b.writes.Load()
	res, err = b.r.Reconcile(b.t.Context(), ctrl.Request{NamespacedName: client.ObjectKey{Namespace: b.namespace, Name: name}})
	for len(b.events.Events) > 0 {
		events = append(events, <-b.events.Events)
	}
	return b.get(name), b.writes.Load() - before, events, res, err
}

func condition(repo *sourcev1.GitRepository, typ string) string {
	c := meta.FindStatusCondition(repo.Status.Conditions, typ)
	if c == nil {
		return ""
	}
	return string(c.Status) + " " + c.Reason + " " + c.Message
}
