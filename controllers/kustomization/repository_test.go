package kustomization

import (
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"sealock.dev/sealock/internal/testkit"
	"sealock.dev/sealock/notify"
	"sealock.dev/sealock/plaintext"
	"sealock.dev/sealock/source"
)

// repository is a real one on the real Git server, fetched by the real source.
type repository struct {
	*world
	dc    *testkit.Devcluster
	work  string
	name  string
	cache *source.Repositories
}

func newRepository(w *world) *repository {
	w.Helper()
	dc := testkit.Cluster(w.T)
	cache, err := source.NewRepositories(w.TempDir(), plaintext.NewKey([]byte("k")), source.DefaultLimits())
	if err != nil {
		w.Fatal(err)
	}
	r := &repository{world: w, dc: dc, work: w.TempDir(), name: w.ns, cache: cache}
	r.git("init", "-q", "-b", "main")
	u, err := url.Parse(dc.Env["GIT_HTTP_URL"])
	if err != nil {
		w.Fatal(err)
	}
	u.User = url.UserPassword(dc.Env["GIT_USERNAME"], dc.Env["GIT_PASSWORD"])
	r.git("remote", "add", "origin", u.String()+"/"+r.name+".git")
	return r
}

func (r *repository) git(args ...string) {
	r.Helper()
	cmd := exec.Command("git", args...) //nolint:noctx // it ends by itself
	cmd.Dir = r.work
	cmd.Env = []string{
		"PATH=" + os.Getenv("PATH"), "HOME=" + r.work, "GIT_CONFIG_NOSYSTEM=1",
		"GIT_AUTHOR_NAME=t", "GIT_AUTHOR_EMAIL=t@example.com", "GIT_COMMITTER_NAME=t", "GIT_COMMITTER_EMAIL=t@example.com",
	}
	if out, err := cmd.CombinedOutput(); err != nil {
		r.Fatalf("git %v: %v\n%s", args, err, out)
	}
}

// commit pushes files ("" deletes, "-> x" is a symlink), has the GitRepository advertise the commit, and returns its revision.
func (r *repository) commit(files map[string]string) string {
	r.Helper()
	for name, text := range files {
		full := filepath.Join(r.work, name)
		if err := os.MkdirAll(filepath.Dir(full), 0o700); err != nil {
			r.Fatal(err)
		}
		_ = os.Remove(full)
		var err error
		if target, link := strings.CutPrefix(text, "-> "); link {
			err = os.Symlink(target, full)
		} else if text != "" {
			err = os.WriteFile(full, []byte(text), 0o600)
		}
		if err != nil {
			r.Fatal(err)
		}
	}
	r.git("add", "-A")
	r.git("commit", "-q", "--allow-empty", "-m", "change")
	r.git("push", "-q", "origin", "main")
	got, err := r.cache.Fetch(r.Context(), source.Owner{Namespace: r.ns, Name: "app"}, source.Request{
		Ref: source.Ref{Branch: "main"},
		Remote: source.Remote{
			URL:  r.dc.Env["GIT_HTTP_URL"] + "/" + r.name + ".git",
			Auth: map[string]plaintext.Value{"username": plaintext.FromString(r.dc.Env["GIT_USERNAME"]), "password": plaintext.FromString(r.dc.Env["GIT_PASSWORD"])},
		},
	})
	if err != nil {
		r.Fatal(err)
	}
	revision := got.Tree.Revision()
	r.sourceFS("app", revision, got.Tree)
	return revision
}

// TestACommitThatTouchesNothingOfABuildCostsNoBuild: it asks nothing about objects, the status advances by one patch, and who
// sets commit statuses hears of it, once, at no request.
// contract: Kustomization event Reconciliation finished
func TestACommitThatTouchesNothingOfABuildCostsNoBuild(t *testing.T) {
	w := newWorld(t, options{})
	r := newRepository(w)
	first := r.commit(map[string]string{
		"app/kustomization.yaml":       "resources: [a.yaml, ../base, sub]\ncomponents: [../component]\n",
		"app/a.yaml":                   "-> ../real/a.yaml",
		"real/a.yaml":                  w.configMapYAML("a", "1"),
		"real/b.yaml":                  w.configMapYAML("a", "from b"),
		"base/kustomization.yaml":      "resources: [base.yaml]\n",
		"base/base.yaml":               w.configMapYAML("base", "1"),
		"app/sub/kustomization.yaml":   "resources: [sub.yaml]\n",
		"app/sub/sub.yaml":             w.configMapYAML("sub", "1"),
		"component/kustomization.yaml": "apiVersion: kustomize.config.k8s.io/v1alpha1\nkind: Component\nlabels: [{pairs: {x: one}}]\n",
		"plain/one.yaml":               w.configMapYAML("one", "1"),
		"plain/deep/two.yaml":          w.configMapYAML("two", "1"),
		"README.md":                    "text",
	})
	w.sync("overlay", "path: app", "wait: true")
	w.sync("plain", "path: plain")
	w.ready("overlay", first)
	w.ready("plain", first)
	before := w.judge.builds()
	version := w.configMap("one").ResourceVersion

	w.asked.take()
	next := r.commit(map[string]string{"README.md": "other text", "docs/new.md": "x", "plain/deep/.hidden": "", "app/sub/unused.yaml": w.configMapYAML("unused", "1")})
	for _, name := range []string{"overlay", "plain"} {
		ks := w.ready(name, next)
		if ks.Status.LastAttemptedRevision != next || ks.Status.LastAppliedOriginRevision != "origin-"+next {
			t.Errorf("%s: %+v", name, ks.Status)
		}
		h := ks.Status.History
		if len(h) != 1 || h[0].TotalReconciliations != 2 || h[0].Metadata["revision"] != next || h[0].LastReconciledStatus != "ReconciliationSucceeded" {
			t.Errorf("%s: history %+v", name, h)
		}
		w.until(name+" is told of the commit", func() bool { return len(w.events.about(name, next)) > 0 })
		for _, e := range w.events.about(name, next) {
			if e.typ != notify.Posted || e.annotations[annotationCommit] != "update" || !strings.HasPrefix(e.message, "Reconciliation finished in ") {
				t.Errorf("%s: an event for a commit that touched nothing of it: %+v", name, e)
			}
		}
	}
	if got := w.judge.builds() - before; got != 0 {
		t.Errorf("%d builds", got)
	}
	if asked := w.asked.take(); len(asked) != 0 {
		t.Errorf("requests for objects: %v", asked)
	}
	if w.configMap("one").ResourceVersion != version {
		t.Error("an object was written")
	}

	w.asks("plain", "once more")
	if e := w.events.about("plain", next); len(e) != 1 {
		t.Errorf("the commit is told more than once: %+v", e)
	}

	for _, c := range []struct { // in this order: a case may take away what an earlier one needs
		name, ks string
		files    map[string]string
	}{
		{"a file that is read", "overlay", map[string]string{"base/base.yaml": w.configMapYAML("base", "2")}},
		{"a target of a symlink", "overlay", map[string]string{"real/a.yaml": w.configMapYAML("a", "2")}},
		{"a symlink", "overlay", map[string]string{"app/a.yaml": "-> ../real/b.yaml"}},
		{"a component", "overlay", map[string]string{"component/kustomization.yaml": "apiVersion: kustomize.config.k8s.io/v1alpha1\nkind: Component\nlabels: [{pairs: {x: two}}]\n"}},
		{"a file in a listed folder", "plain", map[string]string{"plain/three.yaml": w.configMapYAML("three", "1")}},
		{"a kustomization file in vain", "plain", map[string]string{"plain/deep/kustomization.yaml": "resources: [two.yaml]\n"}},
		{"a .sourceignore", "plain", map[string]string{".sourceignore": "plain/one.yaml\n"}},
		{"a folder in place of a listing", "plain", map[string]string{"plain/new/x.yaml": w.configMapYAML("x", "1")}},
	} {
		before := w.judge.builds()
		w.ready(c.ks, r.commit(c.files))
		if w.judge.builds() == before {
			t.Errorf("%s: nothing was built", c.name)
		}
	}
	w.until("what was ignored is gone", func() bool { return w.configMap("one") == nil })
}

// TestASkippedBuildIsNotSkippedForOtherReasons: a change of the spec, of a variable, of a key of policies and drift
// are built whatever the commit touches.
func TestASkippedBuildIsNotSkippedForOtherReasons(t *testing.T) {
	var snapshot atomic.Value
	snapshot.Store("one")
	w := newWorld(t, options{change: func(r *Reconciler) { r.Snapshot = func() string { return snapshot.Load().(string) } }})
	r := newRepository(w)
	w.create(labelled(w, "vars", map[string]string{"v": "1"}))
	w.sync("app", "postBuild: {substituteFrom: [{kind: ConfigMap, name: vars}]}")
	w.ready("app", r.commit(map[string]string{"a.yaml": w.configMapYAML("a", "v${v}")}))
	for name, change := range map[string]func(){
		"postBuild.substituteFrom": func() {
			w.update("vars", map[string]string{"v": "2"})
			w.until("the variable is used", func() bool { return w.configMap("a").Data["value"] == "v2" })
		},
		"policies": func() { snapshot.Store("two") },
		"drift": func() {
			w.update("a", map[string]string{"value": "by hand"})
			w.until("it is repaired", func() bool { return w.configMap("a").Data["value"] != "by hand" })
		},
	} {
		before := w.judge.builds()
		change()
		w.ready("app", r.commit(map[string]string{"README.md": name}))
		w.until(name+" leads to a build", func() bool { return w.judge.builds() > before })
	}
}
