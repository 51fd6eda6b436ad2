package webhook

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"math/big"
	"net"
	"sync/atomic"
	"time"

	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"sealock.dev/sealock/fault"
)

const (
	// SecretName of the serving certificate, in Sealock's own namespace.
	SecretName = "sealock-webhook-tls"
	// ConfigurationName of the ValidatingWebhookConfiguration.
	ConfigurationName = "sealock"

	lifetime = 90 * 24 * time.Hour
	caKey    = "ca.crt"
)

// Certificates keeps the serving certificate. Every replica has one; they share it through a Secret.
//
// A renewal makes a new CA as well and forgets its key. ca.crt keeps the CA before, so that a replica which still serves
// the older certificate is trusted too.
type Certificates struct {
	Namespace string   // Sealock's own
	Hosts     []string // DNS names and IP addresses under which the API server calls
	Now       func() time.Time

	current atomic.Pointer[tls.Certificate]
}

// ServiceHosts are the names of the Service in config/manager.
func ServiceHosts(namespace string) []string {
	name := "sealock-webhook." + namespace + ".svc"
	return []string{name, name + ".cluster.local"}
}

// GetCertificate is for tls.Config. It fails until Ensure succeeded once.
func (c *Certificates) GetCertificate(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	if cert := c.current.Load(); cert != nil {
		return cert, nil
	}
	return nil, errors.New("no certificate yet")
}

// Ensure makes, renews or loads the certificate, and writes its CA into the webhook configuration. It is to be called at
// start and again and again: it writes only what differs. The client must not cache, since a cache would hold every
// Secret. A configuration that does not exist is NotFound, and the certificate is served all the same.
func (c *Certificates) Ensure(ctx context.Context, api client.Client) error {
	secret, err := c.secret(ctx, api)
	if err != nil {
		return err
	}
	cert, err := tls.X509KeyPair(secret.Data[corev1.TLSCertKey], secret.Data[corev1.TLSPrivateKeyKey])
	if err != nil {
		return failed(fault.Internal, secret, errors.New("the certificate and its key do not fit"))
	}
	// First the trust, then the certificate, so that no call meets one that the API server does not know yet.
	err = c.trust(ctx, api, secret.Data[caKey])
	c.current.Store(&cert)
	return err
}

// secret returns one that is good for now. Of several replicas that renew at once the first wins.
func (c *Certificates) secret(ctx context.Context, api client.Client) (*corev1.Secret, error) {
	secret := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: c.Namespace, Name: SecretName}}
	for range 5 {
		err := api.Get(ctx, client.ObjectKeyFromObject(secret), secret)
		exists := err == nil
		if client.IgnoreNotFound(err) != nil {
			return nil, failed(fault.Transient, secret, err)
		}
		if exists && c.good(secret.Data, c.Now()) {
			return secret, nil
		}
		now, err := c.clusterTime(ctx, api)
		if err != nil {
			return nil, failed(fault.Transient, secret, err)
		}
		if exists && c.good(secret.Data, now) {
			return secret, nil // it is our clock that is wrong
		}
		data, err := c.issue(secret.Data[caKey], now)
		if err != nil {
			return nil, failed(fault.Internal, secret, errors.New("no certificate could be made"))
		}
		secret.Data = data
		if exists {
			err = api.Update(ctx, secret)
		} else {
			secret = &corev1.Secret{
				ObjectMeta: metav1.ObjectMeta{Namespace: c.Namespace, Name: SecretName, Labels: map[string]string{"app.kubernetes.io/part-of": "sealock"}},
				Type:       corev1.SecretTypeTLS, Data: data,
			}
			err = api.Create(ctx, secret)
		}
		if err == nil {
			return secret, nil
		}
		if !apierrors.IsConflict(err) && !apierrors.IsAlreadyExists(err) {
			return nil, failed(fault.Transient, secret, err)
		}
	}
	return nil, failed(fault.Conflict, secret, errors.New("others keep writing it"))
}

// clusterTime is the time of the API server, which judges the certificate: by a clock that runs a year ahead of it, ours
// would make one that is not valid yet, and nobody could write where a tenant lives. An API server that does not tell its
// time is taken to share ours.
func (c *Certificates) clusterTime(ctx context.Context, api client.Client) (time.Time, error) {
	review := &authenticationv1.SelfSubjectReview{}
	err := api.Create(ctx, review)
	switch {
	case apierrors.IsForbidden(err), apierrors.IsNotFound(err), meta.IsNoMatchError(err):
		return c.Now(), nil
	case err != nil:
		return time.Time{}, err
	case review.CreationTimestamp.IsZero():
		return c.Now(), nil
	}
	return review.CreationTimestamp.Time, nil
}

// good reports whether the certificate serves all hosts, is signed by the CA, and has a third of its life left.
func (c *Certificates) good(data map[string][]byte, now time.Time) bool {
	pair, err := tls.X509KeyPair(data[corev1.TLSCertKey], data[corev1.TLSPrivateKeyKey])
	roots := x509.NewCertPool()
	if err != nil || !roots.AppendCertsFromPEM(data[caKey]) {
		return false
	}
	leaf := pair.Leaf
	if _, err := leaf.Verify(x509.VerifyOptions{Roots: roots, CurrentTime: now}); err != nil {
		return false
	}
	for _, host := range c.Hosts {
		if leaf.VerifyHostname(host) != nil {
			return false
		}
	}
	return now.Before(leaf.NotAfter.Add(-leaf.NotAfter.Sub(leaf.NotBefore) / 3))
}

// issue makes a CA and a certificate. before is the ca.crt so far; its first CA stays trusted.
func (c *Certificates) issue(before []byte, now time.Time) (map[string][]byte, error) {
	from := now.Add(-time.Hour) // clocks differ
	template := func(name string) *x509.Certificate {
		serial, _ := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127)) // never fails
		return &x509.Certificate{
			SerialNumber: serial, Subject: pkix.Name{CommonName: name}, NotBefore: from, NotAfter: from.Add(lifetime), BasicConstraintsValid: true,
		}
	}
	ca := template("sealock webhook CA " + from.UTC().Format("2006-01-02"))
	ca.IsCA, ca.MaxPathLenZero, ca.KeyUsage = true, true, x509.KeyUsageCertSign
	leaf := template("sealock webhook")
	leaf.KeyUsage, leaf.ExtKeyUsage = x509.KeyUsageDigitalSignature, []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}
	for _, host := range c.Hosts {
		if ip := net.ParseIP(host); ip != nil {
			leaf.IPAddresses = append(leaf.IPAddresses, ip)
		} else {
			leaf.DNSNames = append(leaf.DNSNames, host)
		}
	}
	caSecret, err1 := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	leafSecret, err2 := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err := errors.Join(err1, err2); err != nil {
		return nil, err
	}
	caDER, err1 := x509.CreateCertificate(rand.Reader, ca, ca, caSecret.Public(), caSecret)
	leafDER, err2 := x509.CreateCertificate(rand.Reader, leaf, ca, leafSecret.Public(), caSecret)
	keyDER, err3 := x509.MarshalPKCS8PrivateKey(leafSecret)
	if err := errors.Join(err1, err2, err3); err != nil {
		return nil, err
	}
	block := func(typ string, der []byte) []byte { return pem.EncodeToMemory(&pem.Block{Type: typ, Bytes: der}) }
	trusted := block("CERTIFICATE", caDER)
	if first, _ := pem.Decode(before); first != nil && first.Type == "CERTIFICATE" {
		trusted = append(trusted, block("CERTIFICATE", first.Bytes)...)
	}
	return map[string][]byte{caKey: trusted, corev1.TLSCertKey: block("CERTIFICATE", leafDER), corev1.TLSPrivateKeyKey: block("PRIVATE KEY", keyDER)}, nil
}

// trust writes the CA into every webhook of the configuration.
func (c *Certificates) trust(ctx context.Context, api client.Client, ca []byte) error {
	config := &admissionregistrationv1.ValidatingWebhookConfiguration{ObjectMeta: metav1.ObjectMeta{Name: ConfigurationName}}
	for range 5 {
		if err := api.Get(ctx, client.ObjectKeyFromObject(config), config); err != nil {
			if apierrors.IsNotFound(err) {
				return failed(fault.NotFound, config, err).Fix("run: sealock install --apply")
			}
			return failed(fault.Transient, config, err)
		}
		changed := false
		for i := range config.Webhooks {
			if w := &config.Webhooks[i].ClientConfig; !bytes.Equal(w.CABundle, ca) {
				w.CABundle, changed = ca, true
			}
		}
		if !changed {
			return nil
		}
		err := api.Update(ctx, config)
		if err == nil {
			return nil
		}
		if !apierrors.IsConflict(err) {
			return failed(fault.Transient, config, err)
		}
	}
	return failed(fault.Conflict, config, errors.New("others keep writing it"))
}

// failed names the object, and of an answer of the API server only the reason: the rest might quote the Secret.
func failed(kind fault.Kind, o client.Object, err error) *fault.Error {
	ref := fault.Ref{Kind: "ValidatingWebhookConfiguration", Name: o.GetName()}
	if _, isSecret := o.(*corev1.Secret); isSecret {
		ref.Kind, ref.Namespace = "Secret", o.GetNamespace()
	}
	text := err.Error()
	if reason := apierrors.ReasonForError(err); reason != metav1.StatusReasonUnknown {
		text = string(reason)
	} else if kind == fault.Transient {
		text = "the API server did not answer"
	}
	return fault.New("", kind, ref, "the certificate of the webhook: %s", text)
}
