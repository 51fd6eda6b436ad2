package webhook

import (
	"bytes"
	"context"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"

	"sealock.dev/sealock/fault"
)

func configuration() *admissionregistrationv1.ValidatingWebhookConfiguration {
	return &admissionregistrationv1.ValidatingWebhookConfiguration{
		ObjectMeta: metav1.ObjectMeta{Name: ConfigurationName},
		Webhooks:   []admissionregistrationv1.ValidatingWebhook{{Name: "a.b.c"}, {Name: "d.e.f"}},
	}
}

// clock is a time that tests move.
type clock struct{ now time.Time }

func (c *clock) Now() time.Time { return c.now }

func certificates(c *clock) *Certificates {
	return &Certificates{Namespace: "sealock-system", Hosts: append(ServiceHosts("sealock-system"), "127.0.0.1"), Now: c.Now}
}

// stored returns the Secret and what the configuration trusts.
func stored(t *testing.T, api client.Client) (*corev1.Secret, []byte) {
	t.Helper()
	secret, config := &corev1.Secret{}, configuration()
	if err := api.Get(t.Context(), client.ObjectKey{Namespace: "sealock-system", Name: SecretName}, secret); err != nil {
		t.Fatal(err)
	}
	if err := api.Get(t.Context(), client.ObjectKeyFromObject(config), config); err != nil {
		t.Fatal(err)
	}
	for _, w := range config.Webhooks {
		if !bytes.Equal(w.ClientConfig.CABundle, config.Webhooks[0].ClientConfig.CABundle) {
			t.Error("the webhooks trust different certificates")
		}
	}
	return secret, config.Webhooks[0].ClientConfig.CABundle
}

// trusted fails unless what c serves is valid for all names at the time, under the CA.
func trusted(t *testing.T, c *Certificates, ca []byte) *x509.Certificate {
	t.Helper()
	cert, err := c.GetCertificate(nil)
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(ca)
	for _, host := range c.Hosts {
		if _, err := cert.Leaf.Verify(x509.VerifyOptions{Roots: pool, DNSName: host, CurrentTime: c.Now()}); err != nil {
			t.Errorf("%s: %v", host, err)
		}
	}
	return cert.Leaf
}

func TestCertificatesAreMadeSharedAndRenewed(t *testing.T) {
	at := &clock{now: time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)}
	api := server(at, configuration())
	first, second := certificates(at), certificates(at)
	if _, err := first.GetCertificate(nil); err == nil {
		t.Error("a certificate from nowhere")
	}
	for _, c := range []*Certificates{first, second} {
		if err := c.Ensure(t.Context(), api); err != nil {
			t.Fatal(err)
		}
	}
	secret, ca := stored(t, api)
	leaf := trusted(t, first, ca)
	if !leaf.Equal(trusted(t, second, ca)) {
		t.Error("two replicas have two certificates")
	}
	if secret.Type != corev1.SecretTypeTLS || len(secret.Data) != 3 {
		t.Errorf("type %s, %d keys", secret.Type, len(secret.Data))
	}
	if block, _ := pem.Decode(ca); block == nil || bytes.Contains(ca, []byte("PRIVATE")) {
		t.Error("the CA is no certificate, or came with its key")
	}

	// Nothing to do: nothing is written.
	at.now = at.now.Add(59 * 24 * time.Hour)
	if err := first.Ensure(t.Context(), api); err != nil {
		t.Fatal(err)
	}
	if again, _ := stored(t, api); again.ResourceVersion != secret.ResourceVersion {
		t.Error("written without need")
	}

	// After two thirds of its life one replica renews; the other still serves the older one and is trusted.
	at.now = at.now.Add(24 * time.Hour)
	if err := first.Ensure(t.Context(), api); err != nil {
		t.Fatal(err)
	}
	_, ca = stored(t, api)
	renewed := trusted(t, first, ca)
	if renewed.Equal(leaf) || !trusted(t, second, ca).Equal(leaf) {
		t.Error("not renewed, or the other replica lost its certificate")
	}
	if err := second.Ensure(t.Context(), api); err != nil {
		t.Fatal(err)
	}
	if !trusted(t, second, ca).Equal(renewed) {
		t.Error("the other replica did not follow")
	}

	// The list of trusted certificates does not grow for ever.
	for range 3 {
		at.now = at.now.Add(61 * 24 * time.Hour)
		if err := first.Ensure(t.Context(), api); err != nil {
			t.Fatal(err)
		}
	}
	if _, ca = stored(t, api); bytes.Count(ca, []byte("BEGIN CERTIFICATE")) != 2 {
		t.Errorf("%d certificates are trusted", bytes.Count(ca, []byte("BEGIN CERTIFICATE")))
	}
}

func TestCertificatesAreMadeAgainWhenTheyDoNotServe(t *testing.T) {
	for name, spoil := range map[string]func(c *Certificates, s *corev1.Secret){
		"another host":  func(c *Certificates, _ *corev1.Secret) { c.Hosts = append(c.Hosts, "10.0.0.1") },
		"no key":        func(_ *Certificates, s *corev1.Secret) { delete(s.Data, corev1.TLSPrivateKeyKey) },
		"rubbish":       func(_ *Certificates, s *corev1.Secret) { s.Data[corev1.TLSCertKey] = []byte("x") },
		"no CA":         func(_ *Certificates, s *corev1.Secret) { s.Data[caKey] = nil },
		"CA of another": func(_ *Certificates, s *corev1.Secret) { s.Data[caKey] = s.Data[corev1.TLSCertKey] },
		"no data":       func(_ *Certificates, s *corev1.Secret) { s.Data = nil },
	} {
		at := &clock{now: time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)}
		api := server(at, configuration())
		c := certificates(at)
		if err := c.Ensure(t.Context(), api); err != nil {
			t.Fatal(err)
		}
		secret, _ := stored(t, api)
		spoil(c, secret)
		if err := api.Update(t.Context(), secret); err != nil {
			t.Fatal(err)
		}
		if err := c.Ensure(t.Context(), api); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		_, ca := stored(t, api)
		trusted(t, c, ca)
	}
}

func TestSeveralReplicasStartAtOnce(t *testing.T) {
	at := &clock{now: time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)}
	api := server(at, configuration())
	all := []*Certificates{certificates(at), certificates(at), certificates(at)}
	var wait sync.WaitGroup
	for _, c := range all {
		wait.Go(func() {
			if err := c.Ensure(t.Context(), api); err != nil {
				t.Error(err)
			}
		})
	}
	wait.Wait()
	_, ca := stored(t, api)
	for _, c := range all {
		trusted(t, c, ca)
	}
}

func TestCertificatesWithoutConfiguration(t *testing.T) {
	at := &clock{now: time.Now()}
	c := certificates(at)
	err := c.Ensure(t.Context(), server(at))
	if fault.KindOf(err) != fault.NotFound || err == nil {
		t.Errorf("%v", err)
	}
	if want := "ValidatingWebhookConfiguration/sealock: the certificate of the webhook: NotFound; run: sealock install --apply"; err.Error() != want {
		t.Errorf("%q", err)
	}
	if _, err := c.GetCertificate(nil); err != nil {
		t.Errorf("and yet it serves: %v", err)
	}
}

// server is an API server with a clock of its own.
func server(at *clock, objects ...client.Object) client.Client {
	return fake.NewClientBuilder().WithObjects(objects...).WithInterceptorFuncs(interceptor.Funcs{
		Create: func(ctx context.Context, api client.WithWatch, o client.Object, opts ...client.CreateOption) error {
			if review, ok := o.(*authenticationv1.SelfSubjectReview); ok {
				review.CreationTimestamp = metav1.NewTime(at.now)
				return nil
			}
			return api.Create(ctx, o, opts...)
		},
	}).Build()
}

// TestClockOfTheReplicaIsWrong: whatever the clock of a replica says, what it serves is valid by the API server's, and a
// certificate that is good by that one is not made anew.
func TestClockOfTheReplicaIsWrong(t *testing.T) {
	const day = 24 * time.Hour
	for _, wrong := range []time.Duration{time.Hour, 365 * day, -day, -365 * day} {
		theirs := &clock{now: time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)}
		api, ours := server(theirs, configuration()), &clock{now: theirs.now.Add(wrong)}
		c, judge := certificates(ours), certificates(theirs)
		ensure := func() string {
			t.Helper()
			if err := c.Ensure(t.Context(), api); err != nil {
				t.Fatalf("%s: %v", wrong, err)
			}
			secret, ca := stored(t, api)
			judge.current.Store(c.current.Load())
			trusted(t, judge, ca)
			return secret.ResourceVersion
		}
		made := ensure()
		for range 3 {
			if again := ensure(); again != made {
				t.Errorf("%s: made anew", wrong)
			}
		}
		ours.now = theirs.now // it is set
		if again := ensure(); again != made {
			t.Errorf("%s: made anew when the clock was set", wrong)
		}
		ours.now = theirs.now.Add(wrong)
		theirs.now = theirs.now.Add(61 * day)
		ours.now = ours.now.Add(61 * day)
		if again := ensure(); again == made && wrong > -30*day {
			t.Errorf("%s: not renewed", wrong)
		}
	}
}

// TestNobodyTellsTheTime: an API server that refuses to say its time is taken to share ours; of one that does not answer
// nothing is made.
func TestNobodyTellsTheTime(t *testing.T) {
	at := &clock{now: time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)}
	for cause, serves := range map[error]bool{
		apierrors.NewForbidden(schema.GroupResource{Resource: "selfsubjectreviews"}, "", errors.New("no")): true,
		apierrors.NewNotFound(schema.GroupResource{Resource: "selfsubjectreviews"}, ""):                    true,
		errors.New("connection refused"): false,
	} {
		api := fake.NewClientBuilder().WithObjects(configuration()).WithInterceptorFuncs(interceptor.Funcs{
			Create: func(ctx context.Context, api client.WithWatch, o client.Object, opts ...client.CreateOption) error {
				if _, ok := o.(*authenticationv1.SelfSubjectReview); ok {
					return cause
				}
				return api.Create(ctx, o, opts...)
			},
		}).Build()
		if err := certificates(at).Ensure(t.Context(), api); (err == nil) != serves {
			t.Errorf("%v: %v", cause, err)
		}
	}
}

func TestErrorsDoNotQuoteTheAPIServer(t *testing.T) {
	for _, cause := range []error{
		errors.New("Put https://x: canary-1"),
		apierrors.NewInvalid(schema.GroupKind{Kind: "Secret"}, "canary-1", nil),
		fmt.Errorf("wrapped: %w", apierrors.NewForbidden(schema.GroupResource{Resource: "secrets"}, "canary-1", errors.New("canary-1"))),
	} {
		api := fake.NewClientBuilder().WithObjects(configuration()).WithInterceptorFuncs(interceptor.Funcs{
			Create: func(context.Context, client.WithWatch, client.Object, ...client.CreateOption) error { return cause },
		}).Build()
		err := certificates(&clock{now: time.Now()}).Ensure(t.Context(), api)
		if err == nil || fault.KindOf(err) != fault.Transient || bytes.Contains([]byte(err.Error()), []byte("canary-1")) {
			t.Errorf("%v", err)
		}
	}
}
