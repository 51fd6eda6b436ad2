package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/apimachinery/pkg/util/yaml"
	"k8s.io/apimachinery/pkg/watch"

	"sealock.dev/sealock/internal/testkit"
)

// people is a namespace of a real API server without a controller: the test plays its part.
type people struct {
	*testing.T
	*session
	kubeconfig string
}

func newPeople(t *testing.T) *people {
	t.Helper()
	dc := testkit.Cluster(t)
	dc.InstallCRDs(t)
	flags := personFlags{kubeconfig: dc.Kubeconfig}
	s, err := flags.open()
	if err != nil {
		t.Fatal(err)
	}
	s.namespace = dc.Namespace(t, nil)
	return &people{T: t, session: s, kubeconfig: dc.Kubeconfig}
}

// sealock runs a command line in the namespace.
func (p *people) sealock(args ...string) (code int, stdout, stderr string) {
	p.Helper()
	return sealock(p.T, append(args, "--kubeconfig", p.kubeconfig, "-n", p.session.namespace)...)
}

// ok runs a command line that must succeed, and returns what it printed.
func (p *people) ok(args ...string) string {
	p.Helper()
	code, out, errs := p.sealock(args...)
	if code != 0 {
		p.Fatalf("sealock %s: exit code %d\n%s%s", strings.Join(args, " "), code, out, errs)
	}
	return out
}

// apply writes YAML as manager does, by server-side apply, with the labels of an owner if there is one.
func (p *people) apply(text, manager, owner string) {
	p.Helper()
	mapper, _, err := p.mapper()
	if err != nil {
		p.Fatal(err)
	}
	decoder := yaml.NewYAMLOrJSONDecoder(strings.NewReader(text), 4096)
	for {
		obj := &unstructured.Unstructured{}
		if err := decoder.Decode(obj); errors.Is(err, io.EOF) {
			return
		} else if err != nil {
			p.Fatal(err)
		}
		if len(obj.Object) == 0 {
			continue
		}
		if owner != "" {
			labels := obj.GetLabels()
			if labels == nil {
				labels = map[string]string{}
			}
			labels[labelOwner], labels[labelOwnerSpace] = owner, p.session.namespace
			obj.SetLabels(labels)
		}
		mapping, err := mapper.RESTMapping(obj.GroupVersionKind().GroupKind(), obj.GroupVersionKind().Version)
		if err != nil {
			p.Fatal(err)
		}
		body, err := obj.MarshalJSON()
		if err != nil {
			p.Fatal(err)
		}
		api := p.objects.Resource(mapping.Resource).Namespace(p.session.namespace)
		if mapping.Scope.Name() != "namespace" {
			_, err = p.objects.Resource(mapping.Resource).Patch(p.Context(), obj.GetName(), types.ApplyPatchType, body, metav1.PatchOptions{FieldManager: manager, Force: new(true)})
		} else {
			_, err = api.Patch(p.Context(), obj.GetName(), types.ApplyPatchType, body, metav1.PatchOptions{FieldManager: manager, Force: new(true)})
		}
		if err != nil {
			p.Fatalf("%s/%s: %v", obj.GetKind(), obj.GetName(), err)
		}
	}
}

func (p *people) kustomization(name string, spec ...string) {
	p.Helper()
	p.apply("apiVersion: kustomize.toolkit.fluxcd.io/v1\nkind: Kustomization\nmetadata: {name: "+name+"}\nspec:\n  interval: 1h\n  prune: true\n  path: ./deploy\n"+
		"  sourceRef: {kind: GitRepository, name: src}\n"+strings.Join(spec, "\n"), "test", "")
}

func (p *people) repository(name string) {
	p.Helper()
	p.apply("apiVersion: source.toolkit.fluxcd.io/v1\nkind: GitRepository\nmetadata: {name: "+name+"}\nspec: {interval: 1h, url: \"https://git.example.com/app.git\", ref: {branch: main}}\n", "test", "")
}

// status writes a status, as the controller does.
func (p *people) status(k kind, name string, status map[string]any) {
	p.Helper()
	if err := p.writeStatus(p.Context(), k, name, status); err != nil {
		p.Fatal(err)
	}
}

func (p *people) writeStatus(ctx context.Context, k kind, name string, status map[string]any) error {
	body, err := json.Marshal(map[string]any{"status": status})
	if err != nil {
		return err
	}
	_, err = p.of(k, p.session.namespace).Patch(ctx, name, types.MergePatchType, body, metav1.PatchOptions{}, "status")
	return err
}

const (
	revision      = "main@sha1:0123456789abcdef0123456789abcdef01234567"
	shortRevision = "main@sha1:01234567"
)

// readyStatus is the status of an object that stands at the revision.
func readyStatus(k kind, generation int64, status, reason, message string) map[string]any {
	out := map[string]any{
		"observedGeneration": generation,
		"conditions": []any{map[string]any{
			"type": "Ready", "status": status, "reason": reason, "message": message, "observedGeneration": generation,
			"lastTransitionTime": time.Now().UTC().Format(time.RFC3339),
		}},
	}
	if k.name == gitRepositoryKind.name {
		out["artifact"] = map[string]any{"revision": revision, "path": "x", "url": "http://x/x.tar.gz", "lastUpdateTime": time.Now().UTC().Format(time.RFC3339), "digest": "sha256:" + strings.Repeat("0", 64)}
		return out
	}
	out["lastAppliedRevision"] = revision
	return out
}

// allowed waits until the API server has taken in that a user may read Kustomizations.
func (p *people) allowed(user string) {
	p.Helper()
	err := wait.PollUntilContextTimeout(p.Context(), 50*time.Millisecond, time.Minute, true, func(context.Context) (bool, error) {
		code, _, _ := p.sealock("get", "ks", "--as", user)
		return code == 0, nil
	})
	if err != nil {
		p.Fatal(err)
	}
}

// controller answers changes of objects of a kind with statuses until the test is over.
func (p *people) controller(k kind, answer func(obj *unstructured.Unstructured) []map[string]any) {
	p.Helper()
	ctx, cancel := context.WithCancel(p.Context())
	var wg sync.WaitGroup
	started := make(chan struct{})
	var once sync.Once
	wg.Go(func() {
		answered := map[string]string{}
		_ = follow(ctx, p.of(k, p.session.namespace), metav1.ListOptions{}, k.ref("", ""), func(what watch.EventType, obj *unstructured.Unstructured) (bool, error) {
			once.Do(func() { close(started) })
			asked := fmt.Sprint(obj.GetAnnotations()[requestedAt], obj.GetGeneration())
			if what == watch.Deleted || answered[obj.GetName()] == asked {
				return false, nil
			}
			answered[obj.GetName()] = asked
			for _, status := range answer(obj) {
				if at := obj.GetAnnotations()[requestedAt]; at != "" {
					status["lastHandledReconcileAt"] = at
				}
				if err := p.writeStatus(ctx, k, obj.GetName(), status); err != nil {
					return false, err
				}
			}
			return false, nil
		})
	})
	p.Cleanup(func() { cancel(); wg.Wait() })
	<-started
}

// read returns an object as it is now.
func (p *people) read(k kind, name string) *unstructured.Unstructured {
	p.Helper()
	obj, err := p.get(p.Context(), k, p.session.namespace, name)
	if err != nil {
		p.Fatal(err)
	}
	return obj
}

func TestGetShowsStateInATable(t *testing.T) {
	p := newPeople(t)
	p.repository("src")
	p.kustomization("app")
	p.kustomization("broken", "  suspend: true")
	p.status(gitRepositoryKind, "src", readyStatus(gitRepositoryKind, 1, "True", "Succeeded", "stored artifact for revision '"+revision+"'"))
	p.status(kustomizationKind, "app", readyStatus(kustomizationKind, 1, "True", "ReconciliationSucceeded", "Applied revision: "+revision))
	p.status(kustomizationKind, "broken", readyStatus(kustomizationKind, 1, "False", "BuildFailed", "kustomize build failed:\nno such file"))
	for _, tc := range []struct {
		name string
		args []string
		want []string
		not  []string
	}{
		{"ks", []string{"get", "ks"}, []string{"NAME", "REVISION", "SUSPENDED", "READY", "MESSAGE", "app", shortRevision, "Applied revision: " + shortRevision, "broken", "True ", "failed:; no such file"}, []string{revision, "NAMESPACE"}},
		{"one of them", []string{"get", "kustomizations", "app"}, []string{"app"}, []string{"broken"}},
		{"sources git", []string{"get", "sources", "git"}, []string{"src", shortRevision}, []string{"app "}},
		{"source all", []string{"get", "source", "all"}, []string{"src"}, nil},
		{"gitrepositories", []string{"get", "gitrepo"}, []string{"src"}, nil},
		{"all", []string{"get", "all"}, []string{"kustomization/app", "gitrepository/src"}, nil},
		{"all namespaces", []string{"get", "ks", "-A"}, []string{"NAMESPACE", p.session.namespace}, nil},
		{"status selector", []string{"get", "ks", "--status-selector", "Ready=False"}, []string{"broken"}, []string{"app "}},
		{"names", []string{"get", "ks", "-o", "name"}, []string{"kustomization.kustomize.toolkit.fluxcd.io/app\n"}, []string{"NAME"}},
		{"no header", []string{"get", "ks", "--no-header"}, []string{"app"}, []string{"NAME"}},
		{"yaml", []string{"get", "ks", "app", "-o", "yaml"}, []string{"kind: List", "lastAppliedRevision: " + revision}, []string{"managedFields"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			out := p.ok(tc.args...)
			for _, want := range tc.want {
				if !strings.Contains(out, want) {
					t.Errorf("%q is not in\n%s", want, out)
				}
			}
			for _, not := range tc.not {
				if strings.Contains(out, not) {
					t.Errorf("%q is in\n%s", not, out)
				}
			}
		})
	}
	var list struct{ Items []map[string]any }
	if err := json.Unmarshal([]byte(p.ok("get", "ks", "-o", "json")), &list); err != nil || len(list.Items) != 2 {
		t.Errorf("-o json: %v, %d items", err, len(list.Items))
	}
}

func TestGetRefusesWithARemedy(t *testing.T) {
	p := newPeople(t)
	for _, tc := range []struct {
		name string
		args []string
		code int
		want string
	}{
		{"nothing there", []string{"get", "ks"}, 4, "no Kustomization in namespace"},
		{"no such name", []string{"get", "ks", "x"}, 4, `"x"`},
		{"no such kind", []string{"get", "pods"}, 2, "write one of: all,"},
		{"wrong format", []string{"get", "ks", "-o", "xml"}, 2, "json, yaml, name"},
		{"wrong selector", []string{"get", "ks", "--status-selector", "Ready"}, 2, "Ready=False"},
		{"forbidden", []string{"get", "ks", "--as", "nobody"}, 1, "you may not list it"},
		{"no cluster", []string{"get", "ks", "--server", "https://127.0.0.1:1"}, 5, "cannot be reached"},
		{"no context", []string{"get", "ks", "--context", "nowhere"}, 4, `no context "nowhere"`},
		{"no kind", []string{"get"}, 2, "get what?"},
		{"no kind of source", []string{"get", "sources"}, 2, "get sources what?"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			code, out, errs := p.sealock(tc.args...)
			if code != tc.code || !strings.Contains(errs, tc.want) {
				t.Errorf("exit code %d, want %d; %q is to be in:\n%s%s", code, tc.code, tc.want, out, errs)
			}
		})
	}
}

// lines is a writer that tells of each line.
type lines struct {
	mu   sync.Mutex
	text bytes.Buffer
	more chan struct{}
}

func newLines() *lines { return &lines{more: make(chan struct{}, 1000)} }

func (l *lines) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	defer func() { l.more <- struct{}{} }()
	return l.text.Write(b)
}

// wait returns when the text is there.
func (l *lines) wait(t *testing.T, want string) {
	t.Helper()
	late := time.After(time.Minute)
	for {
		l.mu.Lock()
		text := l.text.String()
		l.mu.Unlock()
		if strings.Contains(text, want) {
			return
		}
		select {
		case <-l.more:
		case <-late:
			t.Fatalf("%q did not come; there is only:\n%s", want, text)
		}
	}
}

func TestGetWatchPrintsWhatChanges(t *testing.T) {
	p := newPeople(t)
	p.kustomization("app")
	ctx, cancel := context.WithCancel(t.Context())
	out, code := newLines(), make(chan int)
	go func() {
		code <- run(ctx, []string{"get", "ks", "--watch", "--kubeconfig", p.kubeconfig, "-n", p.session.namespace}, strings.NewReader(""), out, io.Discard)
	}()
	out.wait(t, "waiting to be reconciled")
	p.status(kustomizationKind, "app", readyStatus(kustomizationKind, 1, "True", "ReconciliationSucceeded", "Applied revision: "+revision))
	out.wait(t, "Applied revision: "+shortRevision)
	if err := p.of(kustomizationKind, p.session.namespace).Delete(t.Context(), "app", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	out.wait(t, "deleted")
	cancel()
	if got := <-code; got != 0 {
		t.Errorf("an interrupted watch ends with %d", got)
	}
}

func TestReconcileWaitsForTheOutcome(t *testing.T) {
	for _, tc := range []struct {
		name           string
		status, reason string
		message        string
		code           int
		stdout, stderr string
	}{
		{name: "ready", status: "True", reason: "ReconciliationSucceeded", message: "Applied revision: " + revision, stdout: "is ready at " + shortRevision},
		{name: "refused by policy", status: "False", reason: "PolicyDenied", message: "ConfigMap/x: [p] no", code: 1, stderr: "PolicyDenied: ConfigMap/x"},
		{name: "does not build", status: "False", reason: "BuildFailed", message: "kustomize build failed", code: 2, stderr: "BuildFailed"},
		{name: "unhealthy", status: "False", reason: "HealthCheckFailed", message: "timeout", code: 5, stderr: "sealock events --for Kustomization/app -n "},
	} {
		t.Run(tc.name, func(t *testing.T) {
			p := newPeople(t)
			p.kustomization("app")
			// What is there before is about an older request, and final in itself.
			p.status(kustomizationKind, "app", readyStatus(kustomizationKind, 1, "True", "ReconciliationSucceeded", "old"))
			p.controller(kustomizationKind, func(obj *unstructured.Unstructured) []map[string]any {
				if obj.GetAnnotations()[requestedAt] == "" {
					return nil
				}
				return []map[string]any{
					readyStatus(kustomizationKind, 1, "Unknown", "Progressing", "Reconciliation in progress"),
					readyStatus(kustomizationKind, 1, tc.status, tc.reason, tc.message),
				}
			})
			code, out, errs := p.sealock("reconcile", "ks", "app", "--timeout", "1m")
			if code != tc.code || !strings.Contains(out, tc.stdout) || !strings.Contains(errs, tc.stderr) {
				t.Errorf("exit code %d, want %d\n%s%s", code, tc.code, out, errs)
			}
			asked := p.read(kustomizationKind, "app").GetAnnotations()[requestedAt]
			if _, err := time.Parse(time.RFC3339Nano, asked); err != nil {
				t.Errorf("reconcile.fluxcd.io/requestedAt: %v", err)
			}
		})
	}
}

// TestReconcileWaitsForDependencies: what waits for another object is no failure yet, and is told as what is waited for.
func TestReconcileWaitsForDependencies(t *testing.T) {
	p := newPeople(t)
	p.kustomization("app")
	p.controller(kustomizationKind, func(obj *unstructured.Unstructured) []map[string]any {
		return []map[string]any{readyStatus(kustomizationKind, 1, "False", "DependencyNotReady", "dependency 'x/y' is not ready")}
	})
	code, _, errs := p.sealock("reconcile", "ks", "app", "--timeout", "1500ms")
	if code != 5 || !strings.Contains(errs, "not done after 1.5s: dependency 'x/y' is not ready") {
		t.Errorf("exit code %d: %s", code, errs)
	}
}

func TestReconcileWithSourceFetchesFirst(t *testing.T) {
	p := newPeople(t)
	p.repository("src")
	p.kustomization("app")
	var mu sync.Mutex
	var order []string
	for _, k := range []kind{gitRepositoryKind, kustomizationKind} {
		p.controller(k, func(obj *unstructured.Unstructured) []map[string]any {
			if obj.GetAnnotations()[requestedAt] == "" {
				return nil
			}
			mu.Lock()
			defer mu.Unlock()
			order = append(order, k.name)
			return []map[string]any{readyStatus(k, 1, "True", "Succeeded", "ok")}
		})
	}
	out := p.ok("reconcile", "kustomization", "app", "--with-source", "-o", "json")
	var got outcomeOf
	if err := json.Unmarshal([]byte(out), &got); err != nil || got.Revision != revision || got.Ready != "True" {
		t.Errorf("%v: %s", err, out)
	}
	mu.Lock()
	if strings.Join(order, " ") != "GitRepository Kustomization" {
		t.Errorf("the order is %v", order)
	}
	mu.Unlock()
	if out := p.ok("reconcile", "source", "git", "src"); !strings.Contains(out, "GitRepository/"+p.session.namespace+"/src is ready at "+shortRevision) {
		t.Errorf("%s", out)
	}
}

func TestReconcileRefusesAndGivesUp(t *testing.T) {
	p := newPeople(t)
	p.kustomization("stopped", "  suspend: true")
	p.kustomization("alone")
	for _, tc := range []struct {
		name string
		args []string
		code int
		want string
	}{
		{"suspended", []string{"reconcile", "ks", "stopped"}, 2, "sealock resume kustomizations stopped"},
		{"suspended, with source", []string{"reconcile", "ks", "stopped", "--with-source"}, 2, "it is suspended"},
		{"missing", []string{"reconcile", "ks", "x"}, 4, "not found"},
		{"no source", []string{"reconcile", "ks", "alone", "--with-source"}, 4, "GitRepository/"},
		{"no controller", []string{"reconcile", "ks", "alone", "--timeout", "1500ms"}, 5, "waiting for the controller"},
		{"no name", []string{"reconcile", "ks"}, 2, "NAME"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			code, out, errs := p.sealock(tc.args...)
			if code != tc.code || !strings.Contains(errs, tc.want) {
				t.Errorf("exit code %d, want %d; %q is to be in:\n%s%s", code, tc.code, tc.want, out, errs)
			}
		})
	}
	// The line of progress comes once it takes longer than a second.
	if _, _, errs := p.sealock("reconcile", "ks", "alone", "--timeout", "1500ms"); !strings.Contains(errs, "/alone: waiting for the controller to look at it\n") {
		t.Errorf("no line of progress:\n%s", errs)
	}
}

func TestSuspendAndResume(t *testing.T) {
	p := newPeople(t)
	p.repository("src")
	p.kustomization("a")
	p.kustomization("b")
	// A failure of before is none of what is resumed.
	p.status(kustomizationKind, "a", readyStatus(kustomizationKind, 1, "False", "BuildFailed", "of before"))
	if out := p.ok("suspend", "ks", "--all"); strings.Count(out, "is suspended") != 2 {
		t.Errorf("%s", out)
	}
	p.ok("suspend", "source", "git", "src")
	for k, name := range map[*kind]string{&kustomizationKind: "b", &gitRepositoryKind: "src"} {
		if !suspended(p.read(*k, name)) {
			t.Errorf("%s is not suspended", name)
		}
	}
	p.controller(kustomizationKind, func(obj *unstructured.Unstructured) []map[string]any {
		if suspended(obj) {
			return nil
		}
		return []map[string]any{readyStatus(kustomizationKind, obj.GetGeneration(), "True", "ReconciliationSucceeded", "ok")}
	})
	if out := p.ok("resume", "ks", "a", "b"); strings.Count(out, "is ready at "+shortRevision) != 2 {
		t.Errorf("%s", out)
	}
	if out := p.ok("resume", "source", "git", "src", "--wait=false", "-o", "yaml"); !strings.Contains(out, "suspended: false") {
		t.Errorf("%s", out)
	}
	if code, _, errs := p.sealock("suspend", "ks"); code != 2 || !strings.Contains(errs, "--all") {
		t.Errorf("without a name: %d %s", code, errs)
	}
	if code, _, errs := p.sealock("resume", "ks", "x"); code != 4 {
		t.Errorf("a name that is not there: %d %s", code, errs)
	}
}
