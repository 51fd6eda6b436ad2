package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/tools/cache"
	watchtools "k8s.io/client-go/tools/watch"

	"sealock.dev/sealock/e2e/harness"
)

const (
	ksAPI    = "kustomize.toolkit.fluxcd.io/v1"
	srcAPI   = "source.toolkit.fluxcd.io/v1"
	platform = "flux-system" // where the Kustomizations of the bench are, as those of a Flux installation
	repo     = "fleet"
	patience = 4 * time.Minute
	writers  = 8 // of the bench's own requests
)

// site is where one scenario runs.
type site struct {
	*harness.World
	*report
	scenario string
	quick    bool
	root     string
	pprof    string
	profiles string
	extra    []string // flags of the controller
}

// size is n, and less of it in a quick run.
func (s *site) size(n, quick int) int {
	if s.quick {
		return quick
	}
	return n
}

func (s *site) flags() []string { return append([]string{"--pprof-addr", s.pprof}, s.extra...) }

// without leaves out what a scenario does not need.
func (s *site) without(scenario string) []string {
	if scenario == "secrets" {
		return nil
	}
	return []string{"--without", "vault"}
}

// prepare makes what every scenario needs.
func (s *site) prepare(ctx context.Context) error {
	return s.namespaces(ctx, platform, 1, func(int) string { return platform })
}

func (s *site) namespaces(ctx context.Context, _ string, n int, name func(i int) string) error {
	return s.each(n, func(i int) error {
		return s.Apply(ctx, fmt.Sprintf("apiVersion: v1\nkind: Namespace\nmetadata: {name: %s}\n", name(i)))
	})
}

// each calls fn for 0..n-1, some at a time.
func (s *site) each(n int, fn func(i int) error) error {
	var wg sync.WaitGroup
	errs := make([]error, writers)
	for k := range writers {
		wg.Go(func() {
			for i := k; i < n && errs[k] == nil; i += writers {
				errs[k] = fn(i)
			}
		})
	}
	wg.Wait()
	return errors.Join(errs...)
}

// source pushes the files, makes the GitRepository in the namespace and waits until it is fetched.
func (s *site) source(ctx context.Context, namespace string, files map[string]string) (commit string, err error) {
	if commit, err = s.Push(ctx, repo, "first", files); err != nil {
		return "", err
	}
	err = s.Apply(ctx, fmt.Sprintf(`
apiVersion: v1
kind: Secret
metadata: {name: git-credentials, namespace: %[1]s}
stringData: {username: %[2]q, password: %[3]q}
---
apiVersion: source.toolkit.fluxcd.io/v1
kind: GitRepository
metadata: {name: %[4]s, namespace: %[1]s}
spec:
  interval: 1h
  url: %[5]s/%[4]s.git
  ref: {branch: main}
  secretRef: {name: git-credentials}
`, namespace, s.Env["GIT_USERNAME"], s.Env["GIT_PASSWORD"], repo, s.Env["GIT_HTTP_URL"]))
	if err != nil {
		return "", err
	}
	_, err = s.WaitCondition(ctx, patience, srcAPI, "GitRepository", namespace, repo, "Ready", "True", "")
	return commit, err
}

// fetch asks the source to look for a new commit.
func (s *site) fetch(ctx context.Context, namespace string) error {
	_, err := s.Reconcile(ctx, srcAPI, "GitRepository", namespace, repo)
	return err
}

// kustomization is one that the bench makes.
type kustomization struct{ namespace, name, path, spec, interval string }

func (k kustomization) yaml() string {
	if k.interval == "" {
		k.interval = "1h"
	}
	return fmt.Sprintf(`
apiVersion: kustomize.toolkit.fluxcd.io/v1
kind: Kustomization
metadata: {name: %s, namespace: %s}
spec:
  interval: %s
  retryInterval: 30s
  timeout: 5m
  prune: true
  path: ./%s
  sourceRef: {kind: GitRepository, name: %s}
%s
`, k.name, k.namespace, k.interval, k.path, repo, k.spec)
}

// create makes Kustomizations and waits until all are ready.
func (s *site) create(ctx context.Context, all []kustomization) error {
	return s.await(ctx, all, ready, func() error {
		return s.each(len(all), func(i int) error { return s.Apply(ctx, all[i].yaml()) })
	})
}

// request asks for a reconcile of each, as `flux reconcile` does, and waits until each has answered.
func (s *site) request(ctx context.Context, all []kustomization) error {
	token := time.Now().Format(time.RFC3339Nano)
	handled := func(o *unstructured.Unstructured) bool {
		at, _, _ := unstructured.NestedString(o.Object, "status", "lastHandledReconcileAt")
		return at == token && ready(o)
	}
	patch, err := json.Marshal(map[string]any{"metadata": map[string]any{"annotations": map[string]any{"reconcile.fluxcd.io/requestedAt": token}}})
	if err != nil {
		return err
	}
	return s.await(ctx, all, handled, func() error {
		return s.each(len(all), func(i int) error {
			r, err := s.Resource(schema.FromAPIVersionAndKind(ksAPI, "Kustomization"), all[i].namespace)
			if err == nil {
				_, err = r.Patch(ctx, all[i].name, types.MergePatchType, patch, metav1.PatchOptions{FieldManager: "flux"})
			}
			return err
		})
	})
}

// at reports readiness at a commit.
func at(commit string) func(*unstructured.Unstructured) bool {
	return func(o *unstructured.Unstructured) bool {
		applied, _, _ := unstructured.NestedString(o.Object, "status", "lastAppliedRevision")
		return ready(o) && strings.HasSuffix(applied, commit)
	}
}

func ready(o *unstructured.Unstructured) bool {
	status, _, _ := harness.Condition(o, "Ready")
	seen, _, _ := unstructured.NestedInt64(o.Object, "status", "observedGeneration")
	return status == "True" && seen == o.GetGeneration()
}

// await does fn, and then waits, by a watch, until every one of the Kustomizations fulfils the condition.
func (s *site) await(ctx context.Context, all []kustomization, done func(*unstructured.Unstructured) bool, fn func() error) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	namespace := all[0].namespace
	r, err := s.Resource(schema.FromAPIVersionAndKind(ksAPI, "Kustomization"), namespace)
	if err != nil {
		return err
	}
	waiting := map[string]string{}
	for _, k := range all {
		waiting[k.name] = "not seen"
	}
	look := func(o *unstructured.Unstructured) bool {
		if _, ours := waiting[o.GetName()]; !ours {
			return false
		}
		if done(o) {
			delete(waiting, o.GetName())
		} else {
			status, reason, message := harness.Condition(o, "Ready")
			waiting[o.GetName()] = status + " " + reason + ": " + message
		}
		return len(waiting) == 0
	}
	return s.follow(ctx, r, fn, look, func() string {
		for name, why := range waiting {
			return fmt.Sprintf("%d Kustomizations, of them %s (%s)", len(waiting), name, why)
		}
		return ""
	})
}

// lister is what follow needs of a client.
type lister interface {
	List(ctx context.Context, o metav1.ListOptions) (*unstructured.UnstructuredList, error)
	Watch(ctx context.Context, o metav1.ListOptions) (watch.Interface, error)
}

// follow does fn, and shows every object to look from before fn on, until look says that it is enough.
func (s *site) follow(ctx context.Context, r lister, fn func() error, look func(*unstructured.Unstructured) bool, missing func() string) error {
	list, err := r.List(ctx, metav1.ListOptions{})
	if err != nil {
		return err
	}
	stream, err := watchtools.NewRetryWatcherWithContext(ctx, list.GetResourceVersion(), &cache.ListWatch{
		WatchFuncWithContext: func(ctx context.Context, o metav1.ListOptions) (watch.Interface, error) { return r.Watch(ctx, o) },
	})
	if err != nil {
		return err
	}
	defer stream.Stop()
	failed := make(chan error, 1)
	go func() {
		if err := fn(); err != nil {
			failed <- err
		}
	}()
	if slices.ContainsFunc(list.Items, func(o unstructured.Unstructured) bool { return look(&o) }) {
		return nil
	}
	for {
		select {
		case <-ctx.Done():
			return fmt.Errorf("waited for %s: %w", missing(), ctx.Err())
		case err := <-failed:
			return err
		case e, ok := <-stream.ResultChan():
			if !ok {
				return errors.New("the watch ended")
			}
			if o, isObject := e.Object.(*unstructured.Unstructured); isObject && look(o) {
				return nil
			}
		}
	}
}

// restart stops the controller, and measures from the start of the next one until it has looked at every Kustomization.
func (s *site) restart(ctx context.Context, kustomizations int) (work, error) {
	if err := s.StopController(); err != nil {
		return work{}, err
	}
	var before snapshot
	var err error
	if before.at, err = s.auditLog().end(); err != nil {
		return work{}, err
	}
	if before.api, err = usageOf(s.Pid("devcluster")); err != nil {
		return work{}, err
	}
	began := time.Now()
	if err := s.StartController(ctx, false, s.flags()...); err != nil {
		return work{}, err
	}
	finish := s.startProfile(ctx, "restart")
	var after snapshot
	err = s.Wait(ctx, patience, "every Kustomization to be looked at", func(ctx context.Context) (bool, error) {
		after, err = s.snapshot(ctx)
		return after.reconciles() >= float64(kustomizations) && after.metrics[`workqueue_depth{controller="kustomization",name="kustomization",priority=""}`] == 0, err
	})
	if err != nil {
		return work{}, err
	}
	wall := time.Since(began)
	if err := s.quiet(ctx); err != nil {
		return work{}, err
	}
	if after, err = s.snapshot(ctx); err != nil {
		return work{}, err
	}
	finish()
	return s.cost(before, after, wall)
}
