package gitrepository

import (
	"archive/tar"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	fluxmeta "github.com/fluxcd/pkg/apis/meta"
	sourcev1 "github.com/fluxcd/source-controller/api/v1"
	"github.com/google/go-cmp/cmp"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/wait"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/config"
	metricsserver "sigs.k8s.io/controller-runtime/pkg/metrics/server"

	"sealock.dev/sealock/api/sealock/v1alpha1"
	"sealock.dev/sealock/internal/testkit"
	"sealock.dev/sealock/source"
	"sealock.dev/sealock/tenants"
)

type secretRef = fluxmeta.LocalObjectReference

// TestS0Y01FetchedStoredAndQuiet follows the seed: what Flux's clients see, what a push costs, and that nothing costs nothing.
// contract: GitRepository spec.url, spec.secretRef.name, spec.ref.branch, spec.ref.tag, spec.ref.commit, spec.ignore, spec.interval, finalizer finalizers.fluxcd.io, status default
// contract: GitRepository status.artifact.path, status.artifact.url, status.artifact.revision, status.artifact.digest, status.artifact.size, status.observedIgnore, status.observedGeneration
// contract: GitRepository status.conditions[].type, status.conditions[].status, status.conditions[].reason, status.conditions[].message, status.lastHandledReconcileAt
// contract: GitRepository condition Ready, condition ArtifactInStorage, reason Succeeded, event NewArtifact, annotation reconcile.fluxcd.io/requestedAt
func TestS0Y01FetchedStoredAndQuiet(t *testing.T) {
	b := newBench(t)
	b.secret("git-credentials", b.dc.Env["GIT_PASSWORD"])
	b.push("README.md", "x", "readme")
	first := b.push("deploy/a.yaml", "one", "Deploy it\n\nlong text")
	b.git(b.work, "tag", "v1.0.0")
	ignore := "/*\n!/deploy/\n"
	b.create("my-app", func(r *sourcev1.GitRepository) { r.Spec.Ignore = &ignore })
	if got := b.get("my-app").Status.ObservedGeneration; got != -1 {
		t.Errorf("observedGeneration of a new object is %d", got)
	}

	repo, writes, events, res, err := b.reconcile("my-app")
	if err != nil || writes != 3 { // the finalizer, that it is fetched, and the outcome
		t.Fatalf("%v, %d writes", err, writes)
	}
	revision := "main@sha1:" + first
	a := repo.Status.Artifact
	path := "gitrepository/" + b.namespace + "/my-app/" + first + ".tar.gz"
	if a == nil || a.Revision != revision || a.Path != path || a.URL != "http://source.example:9090/"+path || !strings.HasPrefix(a.Digest, "sha256:") || a.Size == nil {
		t.Fatalf("%+v", a)
	}
	stored := "stored artifact for revision '" + revision + "'"
	for typ, want := range map[string]string{"Ready": "True Succeeded " + stored, "ArtifactInStorage": "True Succeeded " + stored, "Reconciling": "", "Stalled": "", "FetchFailed": ""} {
		if got := condition(repo, typ); got != want {
			t.Errorf("%s: %q", typ, got)
		}
	}
	if len(events) != 1 || !strings.HasPrefix(events[0], "Normal NewArtifact stored artifact for commit 'Deploy it'") {
		t.Errorf("%q", events)
	}
	if repo.Status.ObservedGeneration != repo.Generation || *repo.Status.ObservedIgnore != ignore || repo.Finalizers[0] != finalizer {
		t.Errorf("%+v", repo.Status)
	}
	if res.RequeueAfter < 50*time.Second || res.RequeueAfter > 70*time.Second {
		t.Errorf("next in %s", res.RequeueAfter)
	}
	if diff := cmp.Diff([]string{"deploy/a.yaml"}, b.artifactFiles(path)); diff != "" {
		t.Error(diff)
	}
	tree, err := b.r.Repositories.Open(t.Context(), b.namespace, "my-app", revision)
	if err != nil {
		t.Fatal(err)
	}
	if body, err := fs.ReadFile(tree, "deploy/a.yaml"); string(body) != "one" {
		t.Errorf("%q %v", body, err)
	}

	counts := b.r.Repositories.Counts()
	again, writes, events, _, err := b.reconcile("my-app")
	if err != nil || writes != 0 || len(events) != 0 || again.ResourceVersion != repo.ResourceVersion {
		t.Errorf("nothing changed: %v, %d writes, %q", err, writes, events)
	}
	if got := b.r.Repositories.Counts(); got.Listings != counts.Listings+1 || got.Transfers != counts.Transfers {
		t.Errorf("nothing changed: %+v after %+v", got, counts)
	}
	b.change("my-app", func(r *sourcev1.GitRepository) {
		r.Annotations = map[string]string{requestedAt: "2024-01-01T00:00:00Z"}
	})
	asked, writes, _, _, err := b.reconcile("my-app")
	if err != nil || writes != 1 || asked.Status.LastHandledReconcileAt != "2024-01-01T00:00:00Z" {
		t.Errorf("asked: %v, %d writes", err, writes)
	}

	b.create("by-tag", func(r *sourcev1.GitRepository) { r.Spec.Reference = &sourcev1.GitRepositoryRef{Tag: "v1.0.0"} })
	b.create("by-commit", func(r *sourcev1.GitRepository) { r.Spec.Reference = &sourcev1.GitRepositoryRef{Commit: first} })
	b.git(b.work, "push", "-q", "--tags", "origin")
	second := b.push("deploy/a.yaml", "two", "second")
	for name, want := range map[string]string{"my-app": "main@sha1:" + second, "by-tag": "v1.0.0@sha1:" + first, "by-commit": "sha1:" + first} {
		repo, _, _, _, err := b.reconcile(name)
		if err != nil || repo.Status.Artifact == nil || repo.Status.Artifact.Revision != want {
			t.Errorf("%s: %v %+v %q", name, err, repo.Status.Artifact, condition(repo, "Ready"))
		}
	}
}

// artifactFiles lists the files in a stored artifact.
func (b *bench) artifactFiles(path string) (out []string) {
	b.t.Helper()
	f, err := os.Open(filepath.Join(b.dir, "artifacts", path))
	if err != nil {
		b.t.Fatal(err)
	}
	defer f.Close()
	zip, err := gzip.NewReader(f)
	if err != nil {
		b.t.Fatal(err)
	}
	for r := tar.NewReader(zip); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return out
		}
		if err != nil {
			b.t.Fatal(err)
		}
		if h.Typeflag == tar.TypeReg {
			out = append(out, h.Name)
		}
	}
}

// TestS0Y02WrongPasswordAndRecovery: said once, without the value; what was there stays; a corrected Secret mends it.
// contract: GitRepository condition FetchFailed, condition Reconciling, reason AuthenticationFailed, reason ProgressingWithRetry
func TestS0Y02WrongPasswordAndRecovery(t *testing.T) {
	b := newBench(t)
	canary := testkit.NewCanary()
	b.push("a.yaml", "one", "one")
	b.create("app", nil)
	repo, _, events, res, err := b.reconcile("app")
	if err != nil || res.RequeueAfter == 0 || condition(repo, "FetchFailed") != `True AuthenticationFailed spec.secretRef: Secret "git-credentials" not found in this namespace; create it` {
		t.Fatalf("no Secret: %v %q", err, condition(repo, "FetchFailed"))
	}
	if len(events) != 1 || !strings.HasPrefix(events[0], "Warning AuthenticationFailed") {
		t.Errorf("%q", events)
	}
	b.secret("git-credentials", b.dc.Env["GIT_PASSWORD"])
	if repo, _, _, _, err = b.reconcile("app"); err != nil || !strings.HasPrefix(condition(repo, "Ready"), "True") {
		t.Fatalf("%v %q", err, condition(repo, "Ready"))
	}
	artifact := repo.Status.Artifact

	b.secret("git-credentials", canary.String())
	repo, writes, events, res, err := b.reconcile("app")
	ready := condition(repo, "Ready")
	// ProgressingWithRetry is true: the retry comes before the interval of a minute.
	if err != nil || writes != 1 || !strings.HasPrefix(ready, "False AuthenticationFailed the Git server refused the credentials") || res.RequeueAfter == 0 || res.RequeueAfter > 5*time.Second {
		t.Fatalf("%v %d %q", err, writes, ready)
	}
	if len(events) != 1 || !strings.HasPrefix(events[0], "Warning AuthenticationFailed") {
		t.Errorf("%q", events)
	}
	if !strings.HasPrefix(condition(repo, "Reconciling"), "True ProgressingWithRetry") || condition(repo, "Stalled") != "" {
		t.Errorf("%+v", repo.Status.Conditions)
	}
	if diff := cmp.Diff(artifact, repo.Status.Artifact); diff != "" || !strings.HasPrefix(condition(repo, "ArtifactInStorage"), "True") {
		t.Errorf("the artifact is gone: %s", diff)
	}
	text, err := json.Marshal(repo)
	if err != nil {
		t.Fatal(err)
	}
	if found := canary.FindIn(string(text) + strings.Join(events, "")); len(found) > 0 {
		t.Errorf("the password stands in status or events: %q", found)
	}
	if _, writes, events, _, _ := b.reconcile("app"); writes != 0 || len(events) != 0 {
		t.Errorf("the same failure: %d writes, %q", writes, events)
	}
	b.secret("git-credentials", b.dc.Env["GIT_PASSWORD"])
	repo, _, events, _, err = b.reconcile("app")
	if err != nil || !strings.HasPrefix(condition(repo, "Ready"), "True") || condition(repo, "FetchFailed") != "" || condition(repo, "Reconciling") != "" {
		t.Errorf("%v %+v", err, repo.Status.Conditions)
	}
	if len(events) != 1 || !strings.HasPrefix(events[0], "Normal Succeeded stored artifact for commit") {
		t.Errorf("%q", events)
	}
}

func (b *bench) fence(urls ...string) {
	t := v1alpha1.Tenant{ObjectMeta: v1.ObjectMeta{Name: "a"}}
	t.Spec.Namespaces = []v1alpha1.TenantNamespace{{Name: b.namespace}}
	t.Spec.Git = &v1alpha1.TenantGit{URLs: urls}
	b.index = tenants.NewIndex([]v1alpha1.Tenant{t}, tenants.DefaultSettings())
}

// TestT20GitFence: a tenant fetches from its own places only, and the server is not even asked.
func TestT20GitFence(t *testing.T) {
	b := newBench(t)
	b.secret("git-credentials", b.dc.Env["GIT_PASSWORD"])
	b.push("a.yaml", "one", "one")
	b.create("app", nil)
	b.fence("https://git.example.com/team-a/")
	repo, _, events, _, err := b.reconcile("app")
	want := `AccessDenied spec.url: tenant "a" may not fetch from this URL`
	if err != nil || !strings.HasPrefix(condition(repo, "Ready"), "False "+want) || !strings.HasPrefix(condition(repo, "Stalled"), "True "+want) || condition(repo, "Reconciling") != "" {
		t.Errorf("%v %+v", err, repo.Status.Conditions)
	}
	if got := b.r.Repositories.Counts(); got.Listings != 0 || len(events) != 1 {
		t.Errorf("%+v %q", got, events)
	}
	b.fence(b.url())
	if repo, _, _, _, err = b.reconcile("app"); err != nil || !strings.HasPrefix(condition(repo, "Ready"), "True") || condition(repo, "Stalled") != "" {
		t.Errorf("%v %+v", err, repo.Status.Conditions)
	}
}

// TestProvidersBehindAGate: spec.provider and spec.serviceAccountName of clouds are refused as Flux does with its gate off.
// contract: GitRepository spec.provider, spec.serviceAccountName, condition Stalled, reason FeatureGateDisabled
func TestProvidersBehindAGate(t *testing.T) {
	b := newBench(t)
	b.push("a.yaml", "one", "one")
	for name, tc := range map[string]struct {
		fn    func(*sourcev1.GitRepository)
		field string
	}{
		"aws":                {func(r *sourcev1.GitRepository) { r.Spec.Provider = "aws" }, "spec.provider"},
		"azure":              {func(r *sourcev1.GitRepository) { r.Spec.Provider = "azure" }, "spec.provider"},
		"serviceaccountname": {func(r *sourcev1.GitRepository) { r.Spec.Provider, r.Spec.ServiceAccountName = "azure", "robot" }, "spec.serviceAccountName"},
	} {
		b.create(name, tc.fn)
		repo, _, _, res, err := b.reconcile(name)
		want := "FeatureGateDisabled " + tc.field + ": "
		for typ, status := range map[string]string{"Stalled": "True ", "Ready": "False ", "FetchFailed": "True "} {
			if got := condition(repo, typ); !strings.HasPrefix(got, status+want) {
				t.Errorf("%s: %s is %q", name, typ, got)
			}
		}
		if err != nil || res.RequeueAfter != 0 || repo.Status.ObservedGeneration != repo.Generation {
			t.Errorf("%s: %v, again in %s, observedGeneration %d", name, err, res.RequeueAfter, repo.Status.ObservedGeneration)
		}
	}
	if got := b.r.Repositories.Counts(); got.Listings != 0 {
		t.Errorf("%+v", got)
	}
}

// TestWhatStallsAndWhatIsTriedAgain maps failures to what Flux's clients wait for.
// contract: GitRepository reason URLInvalid, reason GitOperationFailed, reason EmptyGitRepository
func TestWhatStallsAndWhatIsTriedAgain(t *testing.T) {
	b := newBench(t)
	b.secret("git-credentials", b.dc.Env["GIT_PASSWORD"])
	b.push("a.yaml", "one", "one")
	b.secret("wrong", "wrong")
	b.data("half", "password", "without a user")
	b.git(".", "init", "-q", "--bare", filepath.Join(b.dc.Env["GIT_ROOT"], "empty-"+b.name))
	for name, tc := range map[string]struct {
		fn      func(*sourcev1.GitRepository)
		reason  string
		stalled bool
		backoff bool
	}{
		"password-in-url": {fn: func(r *sourcev1.GitRepository) { r.Spec.URL = strings.Replace(b.url(), "://", "://u:hunter2@", 1) }, reason: "URLInvalid", stalled: true},
		"bad-semver":      {fn: func(r *sourcev1.GitRepository) { r.Spec.Reference.SemVer = ">>" }, reason: "GitOperationFailed", stalled: true},
		"no-branch":       {fn: func(r *sourcev1.GitRepository) { r.Spec.Reference.Branch = "gone" }, reason: "GitOperationFailed"},
		"no-repository":   {fn: func(r *sourcev1.GitRepository) { r.Spec.URL += "x" }, reason: "GitOperationFailed"},
		"no-secret":       {fn: func(r *sourcev1.GitRepository) { r.Spec.SecretRef.Name = "none" }, reason: "AuthenticationFailed"},
		"wrong-password":  {fn: func(r *sourcev1.GitRepository) { r.Spec.SecretRef.Name = "wrong" }, reason: "AuthenticationFailed"},
		"half-a-secret":   {fn: func(r *sourcev1.GitRepository) { r.Spec.SecretRef.Name = "half" }, reason: "AuthenticationFailed"},
		"empty":           {fn: func(r *sourcev1.GitRepository) { r.Spec.URL = strings.Replace(b.url(), b.name, "empty-"+b.name, 1) }, reason: "EmptyGitRepository"},
		"server-away":     {fn: func(r *sourcev1.GitRepository) { r.Spec.URL = "http://127.0.0.1:1/x.git" }, reason: "GitOperationFailed", backoff: true},
	} {
		b.create(name, tc.fn)
		repo, _, _, res, err := b.reconcile(name)
		if (err != nil) != tc.backoff || (condition(repo, "Stalled") != "") != tc.stalled || !strings.HasPrefix(condition(repo, "FetchFailed"), "True "+tc.reason+" ") {
			t.Errorf("%s: %v %+v", name, err, repo.Status.Conditions)
		}
		// What is mended elsewhere is looked at again soon, long before the interval.
		if again := res.RequeueAfter > 0 && res.RequeueAfter < 5*time.Second; again == (tc.stalled || tc.backoff) {
			t.Errorf("%s: again in %s", name, res.RequeueAfter)
		}
		if strings.Contains(condition(repo, "Ready"), "hunter2") {
			t.Errorf("%s: %s", name, condition(repo, "Ready"))
		}
	}
}

// TestRestartAndDeletion: an empty cache is filled again without a write; deletion leaves nothing.
// contract: GitRepository spec.suspend
func TestRestartAndDeletion(t *testing.T) {
	b := newBench(t)
	b.secret("git-credentials", b.dc.Env["GIT_PASSWORD"])
	b.push("a.yaml", "one", "one")
	b.create("app", nil)
	before, _, _, _, err := b.reconcile("app")
	if err != nil {
		t.Fatal(err)
	}
	old := b.dir
	b.dir = t.TempDir()
	b.start(b.r.Client)
	if after, writes, events, _, err := b.reconcile("app"); err != nil || writes != 0 || len(events) != 0 || after.Status.Artifact.Digest != before.Status.Artifact.Digest {
		t.Errorf("%v, %d writes, %q", err, writes, events)
	}
	if _, err := b.r.Repositories.Open(t.Context(), b.namespace, "app", before.Status.Artifact.Revision); err != nil {
		t.Error(err)
	}
	b.dir = old
	b.start(b.r.Client)
	if _, _, _, _, err := b.reconcile("app"); err != nil || b.r.Repositories.Counts().Transfers != 0 {
		t.Errorf("a cache that is still there: %v %+v", err, b.r.Repositories.Counts())
	}

	b.change("app", func(r *sourcev1.GitRepository) { r.Spec.Suspend = true })
	b.push("a.yaml", "two", "two")
	if after, writes, _, res, err := b.reconcile("app"); err != nil || writes != 0 || res.RequeueAfter != 0 || after.Status.Artifact.Revision != before.Status.Artifact.Revision {
		t.Errorf("suspended: %v, %d writes", err, writes)
	}
	if err := b.client.Delete(t.Context(), b.get("app")); err != nil {
		t.Fatal(err)
	}
	key := types.NamespacedName{Namespace: b.namespace, Name: "app"}
	if _, err := b.r.Reconcile(t.Context(), ctrl.Request{NamespacedName: key}); err != nil {
		t.Fatal(err)
	}
	if err := b.client.Get(t.Context(), key, &sourcev1.GitRepository{}); !apierrors.IsNotFound(err) {
		t.Errorf("still there: %v", err)
	}
	for _, pattern := range []string{"git/*", "artifacts/gitrepository/*"} {
		if left, _ := filepath.Glob(filepath.Join(b.dir, pattern)); len(left) != 0 {
			t.Errorf("left: %v", left)
		}
	}
}

// TestWatches runs the controller in a manager: a push is found at the interval, a request at once, and so is a
// tree that somebody misses.
func TestWatches(t *testing.T) {
	b := newBench(t)
	b.secret("git-credentials", b.dc.Env["GIT_PASSWORD"])
	first := b.push("a.yaml", "one", "one")
	skip := true
	mgr, err := ctrl.NewManager(b.dc.Config, ctrl.Options{
		Scheme: scheme(t), Metrics: metricsserver.Options{BindAddress: "0"}, Controller: config.Controller{SkipNameValidation: &skip},
	})
	if err != nil {
		t.Fatal(err)
	}
	b.start(mgr.GetClient())
	if err := b.r.SetupWithManager(mgr, 2); err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- mgr.Start(ctx) }()
	t.Cleanup(func() {
		stop()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	b.create("quick", func(r *sourcev1.GitRepository) { r.Spec.Interval = v1.Duration{Duration: 500 * time.Millisecond} })
	b.create("slow", func(r *sourcev1.GitRepository) { r.Spec.Interval = v1.Duration{Duration: time.Hour} })
	b.until("quick", first)
	b.until("slow", first)
	second := b.push("a.yaml", "two", "two")
	b.until("quick", second)
	if err := b.r.Repositories.Remove(t.Context(), b.namespace, "slow"); err != nil {
		t.Fatal(err)
	}
	if _, err := b.r.Repositories.Open(t.Context(), b.namespace, "slow", "main@sha1:"+first); err == nil {
		t.Fatal("it is still cached")
	}
	b.until("slow", second) // missed, so fetched again
	third := b.push("a.yaml", "three", "three")
	b.change("slow", func(r *sourcev1.GitRepository) { r.Annotations = map[string]string{requestedAt: "now"} })
	b.until("slow", third)
}

func (b *bench) until(name, commit string) {
	b.t.Helper()
	err := wait.PollUntilContextTimeout(b.t.Context(), 50*time.Millisecond, time.Minute, true, func(ctx context.Context) (bool, error) {
		repo := &sourcev1.GitRepository{}
		if err := b.client.Get(ctx, client.ObjectKey{Namespace: b.namespace, Name: name}, repo); err != nil {
			return false, err
		}
		if repo.Status.Artifact == nil {
			return false, nil
		}
		got, _ := source.CommitOf(repo.Status.Artifact.Revision)
		return got == commit, nil
	})
	if err != nil {
		b.t.Fatalf("%s does not get to %s: %v, %+v", name, commit, err, b.get(name).Status)
	}
}
