package sealedsecret

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/record"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"

	"sealock.dev/sealock/api/sealing/v1alpha1"
	"sealock.dev/sealock/fault"
	"sealock.dev/sealock/internal/testkit"
	"sealock.dev/sealock/manifest"
	"sealock.dev/sealock/plaintext"
	"sealock.dev/sealock/sealing"
	"sealock.dev/sealock/template"
	"sealock.dev/sealock/tenants"
)

// makeKey makes a key pair of a size that tests can afford.
func makeKey(t *testing.T) (sealing.NewKey, *sealing.Certificate) {
	t.Helper()
	k, err := sealing.Generate(time.Now().Add(-time.Minute), 2048)
	if err != nil {
		t.Fatal(err)
	}
	c, err := sealing.ParseCertificate(k.Certificate)
	if err != nil {
		t.Fatal(err)
	}
	return k, c
}

func keySecretOf(k sealing.NewKey) sealing.KeySecret {
	return sealing.KeySecret{Namespace: "sealock-system", Name: "k", Certificate: k.Certificate, PrivateKey: k.PrivateKey}
}

// writer writes to the fake cluster what the real one would, less what it does not know.
type writer struct {
	client client.Client
	err    error
	writes int
}

func (w *writer) WriteSecret(ctx context.Context, p manifest.Produced, _ bool) (manifest.Change, error) {
	w.writes++
	change := manifest.Change{ID: p.Secret.ID(), Action: manifest.Unchanged}
	if w.err != nil {
		return change, w.err
	}
	want := map[string][]byte{}
	for k, v := range p.Secret.SecretData() {
		want[k] = v.Reveal()
	}
	live := &corev1.Secret{}
	err := w.client.Get(ctx, client.ObjectKey{Namespace: p.Secret.Namespace(), Name: p.Secret.Name()}, live)
	switch {
	case err != nil:
		change.Action = manifest.Created
		return change, w.client.Create(ctx, &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: p.Secret.Namespace(), Name: p.Secret.Name()}, Data: want})
	case fmt.Sprint(live.Data) != fmt.Sprint(want):
		change.Action = manifest.Configured
		live.Data = want
		return change, w.client.Update(ctx, live)
	}
	return change, nil
}

// opener counts.
type opener struct {
	inner *sealing.Opener
	opens int
}

func (o *opener) Open(ctx context.Context, g tenants.Grant, obj manifest.Object, set []manifest.Object) (manifest.Produced, error) {
	o.opens++
	return o.inner.Open(ctx, g, obj, set)
}

type bench struct {
	*Reconciler
	client  client.Client
	writer  *writer
	opener  *opener
	events  *record.FakeRecorder
	patches int
	refuse  error // of the next status write
	clock   time.Time
	ring    *sealing.KeyRing
}

var at = types.NamespacedName{Namespace: "team-a", Name: "db"}

func newBench(t *testing.T, objects ...client.Object) *bench {
	t.Helper()
	scheme := runtime.NewScheme()
	if err := errors.Join(corev1.AddToScheme(scheme), v1alpha1.AddToScheme(scheme)); err != nil {
		t.Fatal(err)
	}
	b := &bench{events: record.NewFakeRecorder(20), clock: time.Unix(1_700_000_000, 0), ring: sealing.NewKeyRing(plaintext.RandomKey())}
	b.client = fake.NewClientBuilder().WithScheme(scheme).WithObjects(objects...).WithStatusSubresource(newSealedSecret()).
		WithInterceptorFuncs(interceptor.Funcs{SubResourcePatch: func(ctx context.Context, c client.Client, sub string, obj client.Object, patch client.Patch, opts ...client.SubResourcePatchOption) error {
			b.patches++
			if err := b.refuse; err != nil {
				b.refuse = nil
				return err
			}
			return c.SubResource(sub).Patch(ctx, obj, patch, opts...)
		}}).Build()
	b.writer = &writer{client: b.client}
	b.opener = &opener{inner: sealing.NewOpener(b.ring, template.Engine{})}
	b.Reconciler = New(Options{
		Client: b.client, Ring: b.ring, Opener: b.opener, Writer: b.writer, Events: b.events, Now: func() time.Time { return b.clock },
		Grants: func(ns string) tenants.Grant { return tenants.NewIndex(nil, tenants.DefaultSettings()).GrantFor(ns) },
	})
	return b
}

func (b *bench) load(t *testing.T, keys ...sealing.NewKey) {
	t.Helper()
	list := make([]sealing.KeySecret, 0, len(keys))
	for _, k := range keys {
		list = append(list, keySecretOf(k))
	}
	if _, err := b.ring.Load(list); err != nil {
		t.Fatal(err)
	}
}

func (b *bench) reconcile(t *testing.T) error {
	t.Helper()
	_, err := b.Reconcile(context.Background(), ctrl.Request{NamespacedName: at})
	return err
}

func (b *bench) status(t *testing.T) v1alpha1.SealedSecretStatus {
	t.Helper()
	live := newSealedSecret()
	if err := b.client.Get(context.Background(), at, live); err != nil {
		t.Fatal(err)
	}
	return statusOf(live)
}

func (b *bench) told() []string {
	var out []string
	for {
		select {
		case e := <-b.events.Events:
			out = append(out, e)
		default:
			return out
		}
	}
}

// sealed returns a SealedSecret team-a/db with one value, changed by edit.
func sealed(t *testing.T, cert *sealing.Certificate, value string, edit ...func(*unstructured.Unstructured)) *unstructured.Unstructured {
	t.Helper()
	text, err := sealing.SealValue(plaintext.FromString(value), sealing.Strict, at.Namespace, at.Name, cert, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	o := newSealedSecret()
	o.SetNamespace(at.Namespace)
	o.SetName(at.Name)
	o.SetUID("uid-1")
	o.SetGeneration(1)
	o.Object["spec"] = map[string]any{"encryptedData": map[string]any{"password": text}}
	for _, e := range edit {
		e(o)
	}
	return o
}

func TestOpenedOnceAndThenFree(t *testing.T) {
	key, cert := makeKey(t)
	b := newBench(t, sealed(t, cert, "hunter2"))
	b.load(t, key)
	for range 5 {
		if err := b.reconcile(t); err != nil {
			t.Fatal(err)
		}
	}
	s := b.status(t)
	want := v1alpha1.SealedSecretCondition{Type: "Synced", Status: "True", LastUpdateTime: metav1.NewTime(b.clock), LastTransitionTime: metav1.NewTime(b.clock)}
	if s.ObservedGeneration != 1 || len(s.Conditions) != 1 || s.Conditions[0].Type != want.Type || s.Conditions[0].Status != want.Status ||
		s.Conditions[0].Message != "" || s.Conditions[0].Reason != "" || !s.Conditions[0].LastUpdateTime.Equal(&want.LastUpdateTime) {
		t.Errorf("%+v", s)
	}
	// The second time proves that what the first wrote is in place; from then on the watch does.
	if b.opener.opens != 2 || b.writer.writes != 2 || b.patches != 1 {
		t.Errorf("%d opens, %d writes, %d status writes", b.opener.opens, b.writer.writes, b.patches)
	}
	if got := b.told(); len(got) != 1 || got[0] != "Normal Unsealed SealedSecret unsealed successfully" {
		t.Errorf("events %q", got)
	}
}

func TestDriftIsRepaired(t *testing.T) {
	key, cert := makeKey(t)
	ctx := context.Background()
	b := newBench(t, sealed(t, cert, "hunter2"))
	b.load(t, key)
	settle := func() {
		t.Helper()
		for range 3 {
			if err := b.reconcile(t); err != nil {
				t.Fatal(err)
			}
		}
		live := &corev1.Secret{}
		if err := b.client.Get(ctx, at, live); err != nil || string(live.Data["password"]) != "hunter2" {
			t.Fatalf("the Secret is not as sealed: %v", err)
		}
	}
	settle()
	live := &corev1.Secret{}
	if err := b.client.Get(ctx, at, live); err != nil {
		t.Fatal(err)
	}
	live.Data = map[string][]byte{"password": []byte("edited")}
	if err := b.client.Update(ctx, live); err != nil {
		t.Fatal(err)
	}
	settle()
	if err := b.client.Delete(ctx, live); err != nil {
		t.Fatal(err)
	}
	settle()
	if got := b.told(); len(got) != 3 {
		t.Errorf("events %q, want one for each repair", got)
	}
}

func TestFailuresNameEachKeyAndHealWhenTheKeyArrives(t *testing.T) {
	key, cert := makeKey(t)
	other, _ := makeKey(t)
	b := newBench(t, sealed(t, cert, "hunter2", func(o *unstructured.Unstructured) {
		_ = unstructured.SetNestedField(o.Object, "AgB1k2j3l4m5n6o7p8...", "spec", "encryptedData", "placeholder")
		_ = unstructured.SetNestedField(o.Object, int64(7), "spec", "encryptedData", "number")
	}))
	b.load(t, other)
	for range 3 {
		if err := b.reconcile(t); err != nil {
			t.Fatalf("what only a change can heal was retried: %v", err)
		}
	}
	s := b.status(t)
	if s.ObservedGeneration != 1 || len(s.Conditions) != 1 || s.Conditions[0].Status != "False" {
		t.Fatalf("%+v", s)
	}
	for _, part := range []string{"spec.encryptedData.password: no key could decrypt secret", "spec.encryptedData.placeholder: ", "spec.encryptedData.number: the value is not a string"} {
		if !strings.Contains(s.Conditions[0].Message, part) {
			t.Errorf("%q is not in %q", part, s.Conditions[0].Message)
		}
	}
	if got := b.told(); len(got) != 1 || !strings.HasPrefix(got[0], "Warning ErrUnsealFailed Failed to unseal: ") || len(got[0]) > 1050 || b.patches != 1 {
		t.Errorf("events %q, %d status writes", got, b.patches)
	}

	live := newSealedSecret()
	if err := b.client.Get(context.Background(), at, live); err != nil {
		t.Fatal(err)
	}
	good := sealed(t, cert, "hunter2")
	live.Object["spec"] = good.Object["spec"]
	live.SetGeneration(2)
	if err := b.client.Update(context.Background(), live); err != nil {
		t.Fatal(err)
	}
	if err := b.reconcile(t); err != nil {
		t.Fatal(err)
	}
	b.load(t, key, other)
	b.RetryFailed(context.Background())
	if len(b.again) != 1 {
		t.Fatalf("%d SealedSecrets are tried again", len(b.again))
	}
	b.clock = b.clock.Add(time.Hour)
	if err := b.reconcile(t); err != nil {
		t.Fatal(err)
	}
	if s := b.status(t); s.Conditions[0].Status != "True" || s.Conditions[0].Message != "" || s.ObservedGeneration != 2 || !s.Conditions[0].LastTransitionTime.Time.Equal(b.clock) {
		t.Errorf("%+v", s)
	}
	<-b.again
	b.RetryFailed(context.Background())
	if len(b.again) != 0 {
		t.Error("what opens is tried again")
	}
}

func TestALostStatusWriteIsMadeUpFor(t *testing.T) {
	key, cert := makeKey(t)
	b := newBench(t, sealed(t, cert, "hunter2"))
	b.load(t, key)
	b.refuse = errors.New("conflict")
	if err := b.reconcile(t); err == nil {
		t.Fatal("a failed status write went unnoticed")
	}
	if len(b.status(t).Conditions) != 0 {
		t.Fatal("the failed write was written")
	}
	if err := b.reconcile(t); err != nil {
		t.Fatal(err)
	}
	if s := b.status(t); len(s.Conditions) != 1 || s.ObservedGeneration != 1 {
		t.Errorf("%+v", s)
	}
}

func TestAStatusThatSomebodyWipedIsWrittenAgain(t *testing.T) {
	key, cert := makeKey(t)
	b := newBench(t, sealed(t, cert, "hunter2"))
	b.load(t, key)
	for range 2 {
		if err := b.reconcile(t); err != nil {
			t.Fatal(err)
		}
	}
	live := newSealedSecret()
	if err := b.client.Get(context.Background(), at, live); err != nil {
		t.Fatal(err)
	}
	delete(live.Object, "status")
	if err := b.client.Status().Update(context.Background(), live); err != nil {
		t.Fatal(err)
	}
	if err := b.reconcile(t); err != nil || len(b.status(t).Conditions) != 1 {
		t.Errorf("%+v, %v", b.status(t), err)
	}
}

func TestNothingIsSaidBeforeTheKeysAreLoaded(t *testing.T) {
	_, cert := makeKey(t)
	b := newBench(t, sealed(t, cert, "hunter2"))
	if err := b.reconcile(t); err != nil {
		t.Fatal(err)
	}
	if b.patches != 0 || b.opener.opens != 0 || len(b.told()) != 0 {
		t.Error("something was done without keys")
	}
	b.RetryFailed(context.Background())
	if len(b.again) != 1 {
		t.Error("it is not tried again when they are")
	}
}

func TestWriteFailures(t *testing.T) {
	key, cert := makeKey(t)
	for name, c := range map[string]struct {
		err     error
		retried bool
	}{
		"somebody else's": {fault.New(fault.StageApply, fault.Conflict, fault.Ref{}, "exists already"), false},
		"quota":           {fault.New(fault.StageApply, fault.Denied, fault.Ref{}, "quota"), true},
		"away":            {fault.New(fault.StageApply, fault.Transient, fault.Ref{}, "away"), true},
	} {
		b := newBench(t, sealed(t, cert, "hunter2"))
		b.load(t, key)
		b.writer.err = c.err
		if err := b.reconcile(t); (err != nil) != c.retried {
			t.Errorf("%s: %v", name, err)
		}
		if s := b.status(t); len(s.Conditions) != 1 || s.Conditions[0].Message != c.err.Error() {
			t.Errorf("%s: %+v", name, s)
		}
		if got := b.told(); len(got) != 1 || got[0] != "Warning ErrUpdateFailed "+c.err.Error() {
			t.Errorf("%s: %q", name, got)
		}
	}
}

func TestNoFailingPathShowsAValue(t *testing.T) {
	key, cert := makeKey(t)
	canary := testkit.NewCanary()
	withTemplate := func(text string) func(*unstructured.Unstructured) {
		return func(o *unstructured.Unstructured) {
			_ = unstructured.SetNestedField(o.Object, text, "spec", "template", "data", "x")
		}
	}
	for name, c := range map[string]struct {
		edit func(*unstructured.Unstructured)
		err  error
	}{
		"fail":  {withTemplate("{{ fail .password }}"), nil},
		"index": {withTemplate("{{ index .password 1 2 }}"), nil},
		"one of two is bad": {func(o *unstructured.Unstructured) {
			_ = unstructured.SetNestedField(o.Object, "AQ==", "spec", "encryptedData", "x")
		}, nil},
		"writer that talks":  {func(*unstructured.Unstructured) {}, fault.New(fault.StageApply, fault.Invalid, fault.Ref{}, "refused: %s", canary).Fix("not %s", canary)},
		"unclassified error": {func(*unstructured.Unstructured) {}, fmt.Errorf("body: %s", canary)},
	} {
		b := newBench(t, sealed(t, cert, canary.String(), c.edit))
		b.load(t, key)
		b.writer.err = c.err
		err := b.reconcile(t)
		status, _ := json.Marshal(b.status(t))
		text := fmt.Sprint(err, string(status), b.told())
		if len(b.status(t).Conditions) != 1 || b.status(t).Conditions[0].Status != "False" {
			t.Errorf("%s: no failure: %s", name, status)
		}
		if found := canary.FindIn(text); found != nil {
			t.Errorf("%s: %q in %s", name, found, text)
		}
	}
}

func TestAnotherScopeIsOpenedAgain(t *testing.T) {
	key, cert := makeKey(t)
	b := newBench(t, sealed(t, cert, "hunter2"))
	b.load(t, key)
	for range 2 {
		if err := b.reconcile(t); err != nil {
			t.Fatal(err)
		}
	}
	live := newSealedSecret()
	if err := b.client.Get(context.Background(), at, live); err != nil {
		t.Fatal(err)
	}
	live.SetAnnotations(map[string]string{v1alpha1.AnnotationClusterWide: "true"})
	if err := b.client.Update(context.Background(), live); err != nil {
		t.Fatal(err)
	}
	if err := b.reconcile(t); err != nil {
		t.Fatal(err)
	}
	if s := b.status(t); s.Conditions[0].Status != "False" {
		t.Errorf("another scope opened: %+v", s)
	}
}
