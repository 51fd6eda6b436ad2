package policy

import (
	"context"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/go-logr/logr"
	"github.com/google/go-cmp/cmp"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/client-go/tools/record"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/log"
	"sigs.k8s.io/controller-runtime/pkg/metrics/server"

	"sealock.dev/sealock/api/sealock/v1alpha1"
	"sealock.dev/sealock/internal/testkit"
	"sealock.dev/sealock/plaintext"
	"sealock.dev/sealock/policies"
	"sealock.dev/sealock/policies/builtin"
)

func TestMain(m *testing.M) { os.Exit(testkit.Main(m, "--without=vault,git")) }

func start(t *testing.T) (*testkit.Devcluster, client.Client, *runtime.Scheme) {
	t.Helper()
	log.SetLogger(logr.Discard())
	dc := testkit.Cluster(t)
	dc.InstallCRDs(t)
	scheme := runtime.NewScheme()
	if err := v1alpha1.AddToScheme(scheme); err != nil {
		t.Fatal(err)
	}
	api, err := client.New(dc.Config, client.Options{Scheme: scheme})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := api.DeleteAllOf(context.WithoutCancel(t.Context()), &v1alpha1.Policy{}); err != nil {
			t.Error(err)
		}
	})
	return dc, api, scheme
}

func engine() *policies.Engine {
	return policies.NewEngine(policies.Options{Key: plaintext.NewKey([]byte("test"))})
}

func policy(name, rego string) *v1alpha1.Policy {
	return &v1alpha1.Policy{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: v1alpha1.PolicySpec{Rego: "package sealock\n\n" + rego}}
}

func ready(t *testing.T, api client.Client, name string) (v1alpha1.Policy, metav1.Condition) {
	t.Helper()
	p := v1alpha1.Policy{}
	if err := api.Get(t.Context(), client.ObjectKey{Name: name}, &p); err != nil {
		t.Fatal(err)
	}
	c := meta.FindStatusCondition(p.Status.Conditions, v1alpha1.ReadyCondition)
	if c == nil {
		return p, metav1.Condition{}
	}
	return p, *c
}

func TestConditions(t *testing.T) {
	_, api, _ := start(t)
	events := record.NewFakeRecorder(100)
	changes := 0
	r := &Reconciler{Client: api, Engine: engine(), Events: events, Changed: func() { changes++ }}
	reconcile := func() {
		t.Helper()
		if _, err := r.Reconcile(t.Context(), ctrl.Request{}); err != nil {
			t.Fatal(err)
		}
	}
	failing := policy("failing", `deny contains "x"`)
	failing.Spec.Tests = []v1alpha1.PolicyTest{{Name: "nothing is wrong", Object: apiextensionsv1.JSON{Raw: []byte(`{"apiVersion":"v1","kind":"ConfigMap"}`)}}}
	deleting := policy("deleting", `deny contains "x"`)
	deleting.Spec.Match.Operations = []string{"DELETE"}
	deleting.Spec.Enforcement.Admission = v1alpha1.ActionWarn
	for _, p := range []*v1alpha1.Policy{policy("good", `deny contains "x" if input.review.name == "x"`), policy("broken", `deny contains "x" if http.send({})`), failing, deleting} {
		if err := api.Create(t.Context(), p); err != nil {
			t.Fatal(err)
		}
	}
	reconcile()
	for name, want := range map[string][3]string{
		"good":     {"True", "Active", "commit deny, reconcile deny, admission deny"},
		"deleting": {"True", "Active", "commit deny, reconcile deny, admission warn; the shipped webhook configuration does not ask about DELETE: add a rule to it"},
		"broken":   {"False", "CompileFailed", "spec.rego: line 3: the built-in http.send is not available to policies; the policy is not in force"},
		"failing":  {"False", "TestsFailed", `spec.tests[0]: "nothing is wrong": expected no denial, got also "x"; correct the rule or the test; the policy is not in force`},
	} {
		p, c := ready(t, api, name)
		if diff := cmp.Diff(want, [3]string{string(c.Status), c.Reason, c.Message}); diff != "" {
			t.Errorf("%s: %s", name, diff)
		}
		if p.Status.ObservedGeneration != p.Generation || c.ObservedGeneration != p.Generation {
			t.Errorf("%s: observed %d and %d of %d", name, p.Status.ObservedGeneration, c.ObservedGeneration, p.Generation)
		}
	}
	if names := r.Engine.Snapshot().Names(); !slices.Contains(names, "good") || slices.Contains(names, "broken") || len(names) != 2+len(builtin.Policies()) {
		t.Errorf("in force: %v", names)
	}
	if len(events.Events) != 2 || changes != 1 {
		t.Errorf("%d events, %d changes", len(events.Events), changes)
	}

	// Nothing new: nothing is written.
	before, _ := ready(t, api, "broken")
	reconcile()
	if after, _ := ready(t, api, "broken"); after.ResourceVersion != before.ResourceVersion || changes != 1 || len(events.Events) != 2 {
		t.Error("written without need")
	}

	// A good policy that becomes broken stays in force as it was.
	p, _ := ready(t, api, "good")
	p.Spec.Rego = "package sealock\ndeny contains"
	if err := api.Update(t.Context(), &p); err != nil {
		t.Fatal(err)
	}
	id := r.Engine.Snapshot().ID()
	reconcile()
	if _, c := ready(t, api, "good"); c.Status != metav1.ConditionFalse || !strings.HasSuffix(c.Message, "; the last good version stays in force until Sealock restarts") {
		t.Errorf("%+v", c)
	}
	if r.Engine.Snapshot().ID() != id || changes != 1 || len(events.Events) != 3 {
		t.Errorf("same %v, %d changes, %d events", r.Engine.Snapshot().ID() == id, changes, len(events.Events))
	}
	// A process that has not seen it has nothing to keep.
	fresh := &Reconciler{Client: api, Engine: engine()}
	if _, err := fresh.Reconcile(t.Context(), ctrl.Request{}); err != nil || slices.Contains(fresh.Engine.Snapshot().Names(), "good") {
		t.Errorf("%v: %v", err, fresh.Engine.Snapshot().Names())
	}
	// Repaired.
	p, _ = ready(t, api, "good")
	p.Spec.Rego = "package sealock\ndeny contains \"y\""
	if err := api.Update(t.Context(), &p); err != nil {
		t.Fatal(err)
	}
	reconcile()
	if _, c := ready(t, api, "good"); c.Status != metav1.ConditionTrue || changes != 2 || len(events.Events) != 4 {
		t.Errorf("%+v, %d changes, %d events", c, changes, len(events.Events))
	}
}

func TestTheShippedPoliciesAreServedByTheAPIServer(t *testing.T) {
	_, api, _ := start(t)
	for _, p := range builtin.Policies() {
		if err := api.Create(t.Context(), &p, client.FieldValidation(metav1.FieldValidationStrict)); err != nil {
			t.Errorf("%s: %v", p.Name, err)
		}
	}
	r := &Reconciler{Client: api, Engine: engine()}
	if _, err := r.Reconcile(t.Context(), ctrl.Request{}); err != nil {
		t.Fatal(err)
	}
	for _, p := range builtin.Policies() {
		if _, c := ready(t, api, p.Name); c.Status != metav1.ConditionTrue {
			t.Errorf("%s: %s", p.Name, c.Message)
		}
	}
}

func TestAFollowerCompilesAndTheLeaderReports(t *testing.T) {
	dc, api, scheme := start(t)
	mgr, err := ctrl.NewManager(dc.Config, ctrl.Options{Scheme: scheme, Metrics: server.Options{BindAddress: "0"}, HealthProbeBindAddress: "0"})
	if err != nil {
		t.Fatal(err)
	}
	leads := make(chan struct{})
	r := &Reconciler{Client: mgr.GetClient(), Engine: engine(), Leads: leads}
	if err := r.SetupWithManager(mgr); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- mgr.Start(ctx) }()
	defer func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	}()
	until := func(what string, ok func() bool) {
		t.Helper()
		if err := wait.PollUntilContextTimeout(ctx, 20*time.Millisecond, time.Minute, true, func(context.Context) (bool, error) { return ok(), nil }); err != nil {
			t.Fatalf("waiting for %s", what)
		}
	}
	// Without any Policy in the cluster the shipped ones are in force.
	until("the shipped policies", func() bool {
		s := r.Engine.Snapshot()
		return s != nil && len(s.Names()) == len(builtin.Policies())
	})
	if err := api.Create(ctx, policy("own", `deny contains "x"`)); err != nil {
		t.Fatal(err)
	}
	until("the new policy", func() bool { return slices.Contains(r.Engine.Snapshot().Names(), "own") })
	if _, c := ready(t, api, "own"); c.Type != "" {
		t.Error("a follower wrote status")
	}
	close(leads)
	until("the status", func() bool { _, c := ready(t, api, "own"); return c.Status == metav1.ConditionTrue })
	p, _ := ready(t, api, "own")
	if err := api.Delete(ctx, &p); err != nil {
		t.Fatal(err)
	}
	until("the policy to go", func() bool { return !slices.Contains(r.Engine.Snapshot().Names(), "own") })
}
