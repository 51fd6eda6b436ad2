package gitrepository

import (
	"context"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	sourcev1 "github.com/fluxcd/source-controller/api/v1"
	"github.com/google/go-cmp/cmp"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// seen reconciles once and returns every state of a condition that a watcher saw meanwhile.
func (b *bench) seen(name, condition string) (out []string) {
	b.t.Helper()
	watcher, ok := b.client.(client.WithWatch)
	if !ok {
		b.t.Fatal("the client cannot watch")
	}
	before := b.get(name).ResourceVersion
	w, err := watcher.Watch(b.t.Context(), &sourcev1.GitRepositoryList{}, &client.ListOptions{Namespace: b.namespace, Raw: &metav1.ListOptions{ResourceVersion: before}})
	if err != nil {
		b.t.Fatal(err)
	}
	defer w.Stop()
	repo, _, _, _, err := b.reconcile(name)
	if err != nil {
		b.t.Fatal(err)
	}
	for event := range w.ResultChan() {
		got, ok := event.Object.(*sourcev1.GitRepository)
		if !ok {
			b.t.Fatalf("%v", event)
		}
		if got.Name != name {
			continue
		}
		if c := meta.FindStatusCondition(got.Status.Conditions, condition); c != nil {
			out = append(out, string(c.Status)+" "+c.Reason+" "+c.Message)
		}
		if got.ResourceVersion == repo.ResourceVersion {
			return out
		}
	}
	b.t.Fatal("the watch ended")
	return nil
}

// TestOutdatedWhileItIsFetched: what is new is said while it is fetched, and whoever watches sees it.
// contract: GitRepository condition ArtifactOutdated, reason NewRevision, reason IncludeChange
// contract: GitRepository status.includedArtifacts[].digest, status.includedArtifacts[].lastUpdateTime, status.includedArtifacts[].path
// contract: GitRepository status.includedArtifacts[].revision, status.includedArtifacts[].size, status.includedArtifacts[].url
func TestOutdatedWhileItIsFetched(t *testing.T) {
	b := newBench(t)
	b.secret("git-credentials", b.dc.Env["GIT_PASSWORD"])
	b.push("lib/a.yaml", "one", "one")
	b.create("lib", func(r *sourcev1.GitRepository) { r.Spec.Reference.Branch = "main" })
	b.create("app", func(r *sourcev1.GitRepository) {
		r.Spec.Include = []sourcev1.GitRepositoryInclude{{GitRepositoryRef: secretRef{Name: "lib"}, FromPath: "lib", ToPath: "vendor"}}
	})
	for _, name := range []string{"lib", "app"} {
		if _, _, _, _, err := b.reconcile(name); err != nil {
			t.Fatal(err)
		}
	}
	b.git(b.work, "checkout", "-q", "-b", "next")
	second := b.push("lib/a.yaml", "two", "two")
	b.change("lib", func(r *sourcev1.GitRepository) { r.Spec.Reference.Branch = "next" })
	if diff := cmp.Diff([]string{"True NewRevision new upstream revision 'next@sha1:" + second + "'"}, b.seen("lib", "ArtifactOutdated")); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff([]string{"True IncludeChange included artifacts differ from last observed includes"}, b.seen("app", "ArtifactOutdated")); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff(b.get("lib").Status.Artifact, b.get("app").Status.IncludedArtifacts[0]); diff != "" {
		t.Errorf("what is included is not the artifact of lib: %s", diff)
	}
}

// TestRefThroughTheController: the fields of spec.ref reach the fetch, and the revision names them.
// contract: GitRepository spec.ref.name, spec.ref.semver
func TestRefThroughTheController(t *testing.T) {
	b := newBench(t)
	b.secret("git-credentials", b.dc.Env["GIT_PASSWORD"])
	first := b.push("a.yaml", "one", "one")
	b.git(b.work, "tag", "v1.2.3")
	second := b.push("a.yaml", "two", "two")
	b.git(b.work, "push", "-q", "origin", "HEAD:refs/pull/7/head")
	for name, c := range map[string]struct {
		ref  sourcev1.GitRepositoryRef
		want string
	}{
		"name":   {sourcev1.GitRepositoryRef{Name: "refs/pull/7/head", Branch: "main"}, "refs/pull/7/head@sha1:" + second},
		"semver": {sourcev1.GitRepositoryRef{SemVer: ">=1.2 <2", Branch: "main"}, "v1.2.3@sha1:" + first},
	} {
		b.create(name, func(r *sourcev1.GitRepository) { r.Spec.Reference = &c.ref })
		repo, _, _, _, err := b.reconcile(name)
		if err != nil || repo.Status.Artifact == nil || repo.Status.Artifact.Revision != c.want {
			t.Errorf("%s: %v %+v", name, err, repo.Status.Artifact)
		}
	}
}

// TestTimeout: a server that says nothing is given up after spec.timeout, and not after the default of a minute.
// contract: GitRepository spec.timeout
func TestTimeout(t *testing.T) {
	b := newBench(t)
	silent, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = silent.Close() })
	b.create("app", func(r *sourcev1.GitRepository) {
		r.Spec.URL, r.Spec.SecretRef = "http://"+silent.Addr().String()+"/x.git", nil
		r.Spec.Timeout = &metav1.Duration{Duration: time.Second}
	})
	patience, stop := context.WithTimeout(t.Context(), 40*time.Second)
	defer stop()
	_, _ = b.r.Reconcile(patience, ctrl.Request{NamespacedName: client.ObjectKey{Namespace: b.namespace, Name: "app"}})
	if patience.Err() != nil {
		t.Fatal("it waits longer than spec.timeout")
	}
	if got := condition(b.get("app"), "FetchFailed"); !strings.HasPrefix(got, "True GitOperationFailed ") {
		t.Errorf("FetchFailed is %q", got)
	}
}

// TestArtifactIsMadeAgain: what the storage lost is made again, told to whoever asked; what is old enough is removed, and
// a storage that cannot be written is told.
// contract: GitRepository event ArtifactUpToDate, event GarbageCollectionSucceeded, reason SymlinkUpdateFailed
// contract: GitRepository status.artifact.lastUpdateTime, status.conditions[].lastTransitionTime, status.conditions[].observedGeneration
// contract: GitRepository event annotation source.toolkit.fluxcd.io/revision, event annotation source.toolkit.fluxcd.io/digest
func TestArtifactIsMadeAgain(t *testing.T) {
	b := newBench(t)
	b.secret("git-credentials", b.dc.Env["GIT_PASSWORD"])
	first := b.push("a.yaml", "one", "one")
	b.create("app", nil)
	repo, _, events, _, err := b.reconcile("app")
	if err != nil {
		t.Fatal(err)
	}
	a, ready := repo.Status.Artifact, meta.FindStatusCondition(repo.Status.Conditions, "Ready")
	if len(events) != 1 || !strings.Contains(events[0], "source.toolkit.fluxcd.io/revision:main@sha1:"+first) || !strings.Contains(events[0], "source.toolkit.fluxcd.io/digest:"+a.Digest) {
		t.Errorf("%q", events)
	}
	if a.LastUpdateTime.IsZero() || ready.LastTransitionTime.IsZero() || ready.ObservedGeneration != repo.Generation {
		t.Errorf("%+v %+v", a, ready)
	}
	file := filepath.Join(b.dir, "artifacts", a.Path)
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	b.change("app", func(r *sourcev1.GitRepository) { r.Annotations = map[string]string{requestedAt: "now"} })
	repo, _, events, _, err = b.reconcile("app")
	if err != nil || len(events) != 1 || !strings.Contains(events[0], "Normal ArtifactUpToDate artifact up-to-date with remote revision: 'main@sha1:"+first+"'") {
		t.Errorf("%v %q", err, events)
	}
	if again := meta.FindStatusCondition(repo.Status.Conditions, "Ready"); !again.LastTransitionTime.Equal(&ready.LastTransitionTime) {
		t.Error("Ready changed though it did not")
	}
	// The second and third revision: the first one has been followed for long.
	for i, text := range []string{"two", "three"} {
		b.push("a.yaml", text, text)
		if _, _, _, _, err = b.reconcile("app"); err != nil {
			t.Fatal(err)
		}
		if i == 0 {
			continue
		}
		b.age(filepath.Dir(file))
		_, _, events, _, err = b.reconcile("app")
		if err != nil || !slices.ContainsFunc(events, func(e string) bool {
			return strings.Contains(e, "GarbageCollectionSucceeded garbage collected 1 artifacts")
		}) {
			t.Errorf("%v %q", err, events)
		}
	}
	latest := filepath.Join(filepath.Dir(file), "latest.tar.gz")
	if err := os.Remove(latest); err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(filepath.Join(latest, "occupied"), 0o700); err != nil {
		t.Fatal(err)
	}
	b.push("a.yaml", "four", "four")
	if repo, _, _, _, _ = b.reconcile("app"); !strings.HasPrefix(condition(repo, "StorageOperationFailed"), "True SymlinkUpdateFailed ") {
		t.Errorf("%+v", repo.Status.Conditions)
	}
}

// age makes everything in a folder an hour old.
func (b *bench) age(folder string) {
	b.t.Helper()
	list, err := os.ReadDir(folder)
	if err != nil {
		b.t.Fatal(err)
	}
	then := time.Now().Add(-time.Hour)
	for _, e := range list {
		if e.Type().IsRegular() {
			if err := os.Chtimes(filepath.Join(folder, e.Name()), then, then); err != nil {
				b.t.Fatal(err)
			}
		}
	}
}
