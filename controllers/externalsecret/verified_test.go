package externalsecret

import (
	"context"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	ctrl "sigs.k8s.io/controller-runtime"

	"sealock.dev/sealock/fault"
)

// lines is a Memory.
type lines map[string]string

func (l lines) Recall(_ context.Context, namespace, name string) (string, error) {
	return l[namespace+"/"+name], nil
}

func (l lines) Note(namespace, name, line string) { l[namespace+"/"+name] = line }

// What was just written is known by its version: it is read when somebody else wrote it, and after a restart neither.
func TestWrittenSecretIsNotReadAgain(t *testing.T) {
	secret := &corev1.Secret{}
	secret.SetNamespace(at.Namespace)
	secret.SetName(at.Name)
	own := externalSecret(nil)
	own.SetUID("u-1")
	b := newBench(t, own, secret)
	remembered := lines{}
	b.Reconciler.memory = remembered
	b.version = secret.ResourceVersion
	look := func(what string, checks int) {
		t.Helper()
		b.checks = 0
		if _, err := b.run(t); err != nil || b.checks != checks || b.writes != 1 || b.ownerUID != "u-1" {
			t.Errorf("%s: %v, %d reads of the Secret, want %d; %d writes for owner %q", what, err, b.checks, checks, b.writes, b.ownerUID)
		}
	}
	look("the first time", 0)
	look("afterwards", 0)
	b.Reconciler = New(Options{Client: b.cluster, Opener: b.stub, Writer: b.stub, Events: b.record, Now: func() time.Time { return b.clock }, Grants: b.grants, Memory: remembered})
	look("after a restart", 0)
	secret.StringData = map[string]string{"k": "v"}
	if err := b.cluster.Update(t.Context(), secret); err != nil {
		t.Fatal(err)
	}
	look("somebody wrote it", 1)
}

// After a restart nobody logs in for a store that did not change, before the old process would have.
func TestRestartLogsInForNothing(t *testing.T) {
	secret := &corev1.Secret{}
	secret.SetNamespace("team-a")
	secret.SetName("token")
	b := newBench(t, store(kindStore, "team-a", ""), secret)
	remembered := lines{}
	name := types.NamespacedName{Namespace: "team-a", Name: "vault"}
	b.verified = true
	start := func(what string, want int) ctrl.Result {
		t.Helper()
		b.Reconciler = New(Options{Client: b.cluster, Opener: b.stub, Writer: b.stub, Events: b.record, Now: func() time.Time { return b.clock }, Grants: b.grants, Memory: remembered})
		b.logins = 0
		result, err := (&storeReconciler{Reconciler: b.Reconciler, kind: kindStore}).Reconcile(t.Context(), ctrl.Request{NamespacedName: name})
		if err != nil && b.verify == nil {
			t.Fatal(err)
		}
		if b.logins != want {
			t.Errorf("%s: %d logins, want %d", what, b.logins, want)
		}
		return result
	}
	start("the first start", 1)
	b.clock = b.clock.Add(20 * time.Minute)
	if r := start("a restart", 0); r.RequeueAfter != verifyEvery-20*time.Minute {
		t.Errorf("it is tried again after %s", r.RequeueAfter)
	}
	b.clock = b.clock.Add(40 * time.Minute)
	start("a restart when the interval is over", 1)

	secret.StringData = map[string]string{"token": "another"}
	if err := b.cluster.Update(t.Context(), secret); err != nil {
		t.Fatal(err)
	}
	start("another credential", 1)
	start("a restart after that", 0)

	live := newObject(kindStore)
	if err := b.cluster.Get(t.Context(), name, live); err != nil {
		t.Fatal(err)
	}
	live.SetGeneration(2)
	if err := b.cluster.Update(t.Context(), live); err != nil {
		t.Fatal(err)
	}
	b.verify = fault.New(fault.StageOpen, fault.Transient, fault.Ref{}, "Vault is away")
	start("another generation", 1)
	start("a restart after a failure", 1)
	b.verify = nil
	start("Vault is back", 1)
	start("a restart after all", 0)
}
