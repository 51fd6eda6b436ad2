package sealedsecret

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"

	"sealock.dev/sealock/api/sealing/v1alpha1"
	"sealock.dev/sealock/fault"
	"sealock.dev/sealock/internal/testkit"
	"sealock.dev/sealock/plaintext"
	"sealock.dev/sealock/sealing"
)

func store(c client.Client) *KeyStore {
	return &KeyStore{Reader: c, Client: c, Namespace: "sealock-system", Bits: 2048, Ring: sealing.NewKeyRing(plaintext.RandomKey())}
}

func keySecretIn(namespace, name, label string, k sealing.NewKey) *corev1.Secret {
	s := &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name}, Type: keyType,
		Data: map[string][]byte{"tls.crt": k.Certificate, "tls.key": k.PrivateKey.Reveal()},
	}
	if label != "" {
		s.Labels = map[string]string{v1alpha1.KeyLabel: label}
	}
	return s
}

func TestFirstStartMakesOneKeyAndPublishesIt(t *testing.T) {
	ctx := context.Background()
	c := fake.NewClientBuilder().Build()
	follower := store(c)
	if err := follower.Sync(ctx, false); err != nil || !follower.Ring.Ready() || follower.Ring.Newest() != nil {
		t.Fatalf("a follower: %v", err)
	}
	s := store(c)
	for range 3 {
		if err := s.Sync(ctx, true); err != nil {
			t.Fatal(err)
		}
	}
	list := &corev1.SecretList{}
	if err := c.List(ctx, list); err != nil || len(list.Items) != 1 {
		t.Fatalf("%d keys, %v", len(list.Items), err)
	}
	made := list.Items[0]
	if made.Namespace != "sealock-system" || !strings.HasPrefix(made.Name, "sealed-secrets-key") || made.Type != corev1.SecretTypeTLS || made.Labels[v1alpha1.KeyLabel] != "active" {
		t.Errorf("%s/%s, type %s, labels %v", made.Namespace, made.Name, made.Type, made.Labels)
	}
	cm := &corev1.ConfigMap{}
	get := func() string {
		t.Helper()
		if err := c.Get(ctx, client.ObjectKey{Namespace: "sealock-system", Name: CertificateConfigMap}, cm); err != nil {
			t.Fatal(err)
		}
		return cm.Data[CertificateKey]
	}
	if get() != string(made.Data["tls.crt"]) {
		t.Error("another certificate was published")
	}
	cm.Data[CertificateKey] = "edited"
	if err := c.Update(ctx, cm); err != nil {
		t.Fatal(err)
	}
	if err := s.Sync(ctx, true); err != nil || get() != string(made.Data["tls.crt"]) {
		t.Errorf("not repaired: %v", err)
	}
}

func TestOnlyKeysOfTheSystemNamespaceAreLoaded(t *testing.T) {
	ctx := context.Background()
	mine, legacy, gone, theirs := first(makeKey(t)), first(makeKey(t)), first(makeKey(t)), first(makeKey(t))
	c := fake.NewClientBuilder().WithObjects(
		keySecretIn("sealock-system", "mine", "active", mine), keySecretIn("sealock-system", "sealed-secrets-key", "", legacy),
		keySecretIn("sealock-system", "gone", "compromised", gone), keySecretIn("team-a", "theirs", "active", theirs),
		&corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: "sealock-system", Name: "junk", Labels: map[string]string{v1alpha1.KeyLabel: "active"}}},
	).Build()
	s := store(c)
	if err := s.Sync(ctx, false); err != nil {
		t.Fatalf("junk fails everybody: %v", err)
	}
	for name, k := range map[string]struct {
		key  sealing.NewKey
		want bool
	}{"mine": {mine, true}, "legacy": {legacy, true}, "compromised": {gone, false}, "a tenant's": {theirs, false}} {
		cert, err := sealing.ParseCertificate(k.key.Certificate)
		if err != nil {
			t.Fatal(err)
		}
		b := newBench(t, sealed(t, cert, "x"))
		b.opener.inner = sealing.NewOpener(s.Ring, nil)
		b.Reconciler.ring = s.Ring
		if err := b.reconcile(t); err != nil {
			t.Fatal(err)
		}
		if got := b.status(t).Conditions[0].Status == "True"; got != k.want {
			t.Errorf("%s: opened %v", name, got)
		}
	}
}

func first(k sealing.NewKey, _ *sealing.Certificate) sealing.NewKey { return k }

func TestRenewalKeepsTheOldKey(t *testing.T) {
	ctx := context.Background()
	c := fake.NewClientBuilder().Build()
	now := time.Now()
	s := store(c)
	s.RenewAfter, s.Now = 720*time.Hour, func() time.Time { return now }
	if err := s.Sync(ctx, true); err != nil {
		t.Fatal(err)
	}
	before := string(s.Ring.Newest().PEM())
	now = now.Add(719 * time.Hour)
	if err := s.Sync(ctx, true); err != nil || string(s.Ring.Newest().PEM()) != before {
		t.Fatalf("renewed too early, or %v", err)
	}
	now = now.Add(2 * time.Hour)
	if err := s.Sync(ctx, true); err != nil || string(s.Ring.Newest().PEM()) == before {
		t.Fatalf("not renewed, or %v", err)
	}
	list := &corev1.SecretList{}
	if err := c.List(ctx, list); err != nil || len(list.Items) != 2 {
		t.Errorf("%d keys, %v", len(list.Items), err)
	}
}

// TestRenewalByAWrongClock: a clock that runs ahead makes one key too early, and neither a storm of them nor, once it is set,
// a key that is used until the time that it showed has come.
func TestRenewalByAWrongClock(t *testing.T) {
	ctx, theirs, wrong := context.Background(), time.Now(), time.Duration(0)
	c := fake.NewClientBuilder().WithInterceptorFuncs(interceptor.Funcs{
		Create: func(ctx context.Context, api client.WithWatch, o client.Object, opts ...client.CreateOption) error {
			o.SetCreationTimestamp(metav1.NewTime(theirs))
			return api.Create(ctx, o, opts...)
		},
	}).Build()
	start := func() *KeyStore {
		s := store(c)
		s.RenewAfter, s.Now = 720*time.Hour, func() time.Time { return theirs.Add(wrong) }
		return s
	}
	s := start()
	prints := map[string]bool{}
	sync := func(what string, want int) {
		t.Helper()
		for range 4 {
			if err := s.Sync(ctx, true); err != nil {
				t.Fatal(err)
			}
		}
		prints[string(s.Ring.Newest().PEM())] = true
		list := &corev1.SecretList{}
		if err := c.List(ctx, list); err != nil || len(list.Items) != want || len(prints) != want {
			t.Fatalf("%s: %d keys, %d of them were the newest, instead of %d; %v", what, len(list.Items), len(prints), want, err)
		}
	}
	const day = 24 * time.Hour
	sync("at first", 1)
	wrong = -day
	sync("a day back", 1)
	wrong = 365 * day
	sync("a year ahead", 2)
	wrong = 0
	s = start() // what it made in which period, a process measures by the clock that nobody sets, which tests have none of
	sync("set", 2)
	theirs = theirs.Add(29 * day)
	sync("not yet due", 2)
	theirs = theirs.Add(2 * day)
	sync("due", 3)
	s = start()
	sync("another process", 3)
	wrong = 100 * day
	s = start()
	sync("ahead again, but not as far", 4)
	theirs = theirs.Add(31 * day)
	sync("due again", 5)
}

// TestStartFollowsTheWatchAndTheLease drives the loop by its channels alone.
func TestStartFollowsTheWatchAndTheLease(t *testing.T) {
	ctx, cancel := context.WithCancel(context.Background())
	c := fake.NewClientBuilder().Build()
	s := store(c)
	elected, changed, done := make(chan struct{}), make(chan string, 10), make(chan error, 1)
	s.Elected = elected
	s.Changed = func(context.Context) { changed <- s.Ring.Generation() }
	s.prepare()
	go func() { done <- s.Start(ctx) }()
	empty := <-changed
	close(elected)
	one := <-changed
	if empty == one || s.Ring.Newest() == nil {
		t.Error("the leader made no key")
	}
	if err := c.Create(ctx, keySecretIn("sealock-system", "another", "active", first(makeKey(t)))); err != nil {
		t.Fatal(err)
	}
	list := &corev1.SecretList{}
	if err := c.List(ctx, list); err != nil {
		t.Fatal(err)
	}
	for i := range list.Items {
		s.show(&list.Items[i], false)
	}
	s.complete()
	if two := <-changed; two == one {
		t.Error("the new key went unnoticed")
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

func TestErrorsOfTheStoreCarryNoKey(t *testing.T) {
	canary := testkit.NewCanary()
	forbidden := apierrors.NewForbidden(schema.GroupResource{Resource: "secrets"}, "x", errors.New(canary.String()))
	c := fake.NewClientBuilder().WithInterceptorFuncs(interceptor.Funcs{
		Create: func(context.Context, client.WithWatch, client.Object, ...client.CreateOption) error { return forbidden },
	}).Build()
	err := store(c).Sync(context.Background(), true)
	if fault.KindOf(err) != fault.Denied || canary.FindIn(err.Error()) != nil || !strings.Contains(err.Error(), "give the controller") {
		t.Errorf("got %v", err)
	}
}
