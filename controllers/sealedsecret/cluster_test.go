package sealedsecret

import (
	"bytes"
	"context"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/go-logr/logr"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/client-go/kubernetes"
	clientgoscheme "k8s.io/client-go/kubernetes/scheme"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	metricsserver "sigs.k8s.io/controller-runtime/pkg/metrics/server"

	"sealock.dev/sealock/api/sealing/v1alpha1"
	"sealock.dev/sealock/cluster"
	"sealock.dev/sealock/internal/testkit"
	"sealock.dev/sealock/plaintext"
	"sealock.dev/sealock/sealing"
	"sealock.dev/sealock/template"
	"sealock.dev/sealock/tenants"
)

func TestMain(m *testing.M) { os.Exit(testkit.Main(m, "--without=vault,git")) }

// running is a manager with the controller and the store, against the real API server.
type running struct {
	kube client.Client
	ring *sealing.KeyRing
	ns   string
}

func start(t *testing.T) running {
	t.Helper()
	dc := testkit.Cluster(t)
	dc.InstallCRDs(t)
	system, ns := dc.Namespace(t, nil), dc.Namespace(t, nil)
	scheme := runtime.NewScheme()
	if err := clientgoscheme.AddToScheme(scheme); err != nil {
		t.Fatal(err)
	}
	mgr, err := ctrl.NewManager(dc.Config, ctrl.Options{Scheme: scheme, Logger: logr.Discard(), Metrics: metricsserver.Options{BindAddress: "0"}})
	if err != nil {
		t.Fatal(err)
	}
	key := plaintext.RandomKey()
	ctx, cancel := context.WithCancel(logr.NewContext(t.Context(), logr.Discard()))
	writer, err := cluster.New(ctx, cluster.Options{Config: dc.Config, Key: key})
	if err != nil {
		t.Fatal(err)
	}
	ring := sealing.NewKeyRing(key)
	r := New(Options{
		Client: mgr.GetClient(), Ring: ring, Opener: sealing.NewOpener(ring, template.Engine{}), Writer: writer,
		Grants: func(ns string) tenants.Grant { return tenants.NewIndex(nil, tenants.DefaultSettings()).GrantFor(ns) },
		Events: mgr.GetEventRecorderFor("sealed-secrets"), //nolint:staticcheck // core events
	})
	keys := &KeyStore{Namespace: system, Ring: ring, Bits: 2048, Changed: r.RetryFailed}
	if err := keys.SetupWithManager(mgr); err != nil {
		t.Fatal(err)
	}
	if err := r.SetupWithManager(mgr, 2); err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- mgr.Start(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	kube, err := client.New(dc.Config, client.Options{Scheme: scheme})
	if err != nil {
		t.Fatal(err)
	}
	e := running{kube: kube, ring: ring, ns: ns}
	e.eventually(t, "a first key", func() bool { return ring.Newest() != nil })
	cm := &corev1.ConfigMap{}
	e.eventually(t, "the published certificate", func() bool {
		err := kube.Get(t.Context(), client.ObjectKey{Namespace: system, Name: CertificateConfigMap}, cm)
		return err == nil && bytes.Equal([]byte(cm.Data[CertificateKey]), ring.Newest().PEM())
	})
	e.laterKey(t, system)
	return e
}

// laterKey proves that a key which is put there by hand opens what failed before.
func (e running) laterKey(t *testing.T, system string) {
	t.Helper()
	made, cert := makeKey(t)
	late := e.sealed(t, cert, "late", "hunter2")
	e.create(t, late)
	e.eventually(t, "a failure that names the key", func() bool {
		s := e.condition(t, late)
		return s.Status == "False" && strings.Contains(s.Message, "spec.encryptedData.password: no key could decrypt secret")
	})
	e.create(t, keySecretIn(e.ns, "planted", "active", made)) // not the system namespace
	e.create(t, keySecretIn(system, "by-hand", "active", made))
	e.eventually(t, "the late key to open it", func() bool { return e.condition(t, late).Status == "True" })
}

func (e running) eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	err := wait.PollUntilContextTimeout(t.Context(), 20*time.Millisecond, time.Minute, true, func(context.Context) (bool, error) { return ok(), nil })
	if err != nil {
		t.Fatalf("waiting for %s: %v", what, err)
	}
}

func (e running) sealed(t *testing.T, cert *sealing.Certificate, name, value string) *unstructured.Unstructured {
	t.Helper()
	text, err := sealing.SealValue(plaintext.FromString(value), sealing.Strict, e.ns, name, cert, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	o := newSealedSecret()
	o.SetNamespace(e.ns)
	o.SetName(name)
	o.Object["spec"] = map[string]any{"encryptedData": map[string]any{"password": text}}
	return o
}

func (e running) create(t *testing.T, o client.Object) {
	t.Helper()
	if err := e.kube.Create(t.Context(), o); err != nil {
		t.Fatal(err)
	}
}

func (e running) condition(t *testing.T, o client.Object) v1alpha1.SealedSecretCondition {
	t.Helper()
	live := newSealedSecret()
	if err := e.kube.Get(t.Context(), client.ObjectKeyFromObject(o), live); err != nil {
		t.Fatal(err)
	}
	if s := statusOf(live); len(s.Conditions) == 1 && s.ObservedGeneration == live.GetGeneration() {
		return s.Conditions[0]
	}
	return v1alpha1.SealedSecretCondition{}
}

func TestSealedSecretsOnARealAPIServer(t *testing.T) {
	e := start(t)
	ctx := t.Context()
	good := e.sealed(t, e.ring.Newest(), "db", "hunter2")
	if err := unstructured.SetNestedField(good.Object, "sealed for {{ .password }}", "spec", "template", "data", "text"); err != nil {
		t.Fatal(err)
	}
	// A key that a hand made later is the newest: what is sealed with either opens.
	e.create(t, good)
	secret := &corev1.Secret{}
	at := client.ObjectKeyFromObject(good)
	there := func() bool {
		return e.kube.Get(ctx, at, secret) == nil && string(secret.Data["password"]) == "hunter2" && string(secret.Data["text"]) == "sealed for hunter2"
	}
	e.eventually(t, "the Secret", there)
	e.eventually(t, "Synced", func() bool { return e.condition(t, good).Status == "True" && e.condition(t, good).Message == "" })
	if owner := metav1.GetControllerOf(secret); owner == nil || owner.UID != good.GetUID() || owner.APIVersion != "bitnami.com/v1alpha1" {
		t.Errorf("owner %+v", owner)
	}

	secret.Data["password"] = []byte("edited")
	if err := e.kube.Update(ctx, secret); err != nil {
		t.Fatal(err)
	}
	e.eventually(t, "an edit to be undone", there)
	if err := e.kube.Delete(ctx, secret); err != nil {
		t.Fatal(err)
	}
	e.eventually(t, "a deleted Secret to come back", there)

	// What admission lets through and no typed decoder reads.
	odd := newSealedSecret()
	odd.SetNamespace(e.ns)
	odd.SetName("odd")
	odd.Object["spec"] = map[string]any{"encryptedData": map[string]any{"password": "AgB1k2j3l4m5n6o7p8...", "number": int64(7)}}
	e.create(t, odd)
	e.eventually(t, "an error for each key", func() bool {
		m := e.condition(t, odd).Message
		return strings.Contains(m, "spec.encryptedData.password: no ciphertext") && strings.Contains(m, "spec.encryptedData.number: the value is not a string")
	})

	// A Secret of somebody else is left alone until it goes.
	foreign := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: e.ns, Name: "taken"}, StringData: map[string]string{"password": "theirs"}}
	e.create(t, foreign)
	taken := e.sealed(t, e.ring.Newest(), "taken", "ours")
	e.create(t, taken)
	e.eventually(t, "the conflict", func() bool { return e.condition(t, taken).Status == "False" })
	if err := e.kube.Get(ctx, client.ObjectKeyFromObject(taken), secret); err != nil || string(secret.Data["password"]) != "theirs" {
		t.Errorf("somebody else's Secret was written: %v", err)
	}
	if err := e.kube.Delete(ctx, foreign); err != nil {
		t.Fatal(err)
	}
	e.eventually(t, "it to take the place", func() bool { return e.condition(t, taken).Status == "True" })
	e.events(t)
}

// events are core events with the peer's reasons, and hold no value.
func (e running) events(t *testing.T) {
	t.Helper()
	kube, err := kubernetes.NewForConfig(testkit.Cluster(t).Config)
	if err != nil {
		t.Fatal(err)
	}
	want := []string{"db Normal Unsealed", "odd Warning ErrUnsealFailed", "taken Warning ErrUpdateFailed"}
	e.eventually(t, "the events", func() bool {
		list, err := kube.CoreV1().Events(e.ns).List(t.Context(), metav1.ListOptions{})
		if err != nil {
			return false
		}
		seen := map[string]bool{}
		for _, ev := range list.Items {
			seen[ev.InvolvedObject.Name+" "+ev.Type+" "+ev.Reason] = ev.Source.Component == "sealed-secrets"
			if strings.Contains(ev.Message, "hunter2") {
				t.Errorf("a value in %q", ev.Message)
			}
		}
		for _, w := range want {
			if !seen[w] {
				return false
			}
		}
		return true
	})
}
