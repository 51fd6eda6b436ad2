package main

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"time"

	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
)

// certificateLife is long because a DIR may be brought up again much later and nothing renews its certificates.
const certificateLife = 10 * 365 * 24 * time.Hour

// pki is the cluster's certificate authority and the folder of what it has signed.
type pki struct {
	dir  string
	cert *x509.Certificate
	key  crypto.Signer
}

// loadPKI reads the authority from dir, or makes it together with the key that signs service account tokens.
func loadPKI(dir string) (*pki, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	p := &pki{dir: dir}
	if err := p.loadAuthority(); err != nil {
		return nil, err
	}
	return p, p.ensureServiceAccountKey()
}

func (p *pki) file(name string) string { return filepath.Join(p.dir, name) }

func (p *pki) loadAuthority() error {
	certPEM, err := os.ReadFile(p.file("ca.crt"))
	if errors.Is(err, fs.ErrNotExist) {
		return p.createAuthority()
	}
	if err != nil {
		return err
	}
	keyPEM, err := os.ReadFile(p.file("ca.key"))
	if err != nil {
		return fmt.Errorf("%w: %s has a certificate authority without its key; use another --dir", err, p.dir)
	}
	certBlock, _ := pem.Decode(certPEM)
	keyBlock, _ := pem.Decode(keyPEM)
	if certBlock == nil || keyBlock == nil {
		return fmt.Errorf("%s or its key is not PEM; use another --dir", p.file("ca.crt"))
	}
	if p.cert, err = x509.ParseCertificate(certBlock.Bytes); err != nil {
		return fmt.Errorf("%s: %w", p.file("ca.crt"), err)
	}
	if p.key, err = x509.ParseECPrivateKey(keyBlock.Bytes); err != nil {
		return fmt.Errorf("%s: %w", p.file("ca.key"), err)
	}
	return nil
}

func (p *pki) createAuthority() error {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	template := certificateTemplate(pkix.Name{CommonName: "devcluster-ca"})
	template.IsCA = true
	template.KeyUsage |= x509.KeyUsageCertSign
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return err
	}
	if p.cert, err = x509.ParseCertificate(der); err != nil {
		return err
	}
	p.key = key
	// The key first: a certificate on disk means that the pair is whole.
	if err := writeECKey(p.file("ca.key"), key); err != nil {
		return err
	}
	return writePEM(p.file("ca.crt"), "CERTIFICATE", der)
}

// ensureServiceAccountKey keeps one RSA key for the life of DIR: tokens issued before a restart stay valid. RSA because
// that is what clusters in the field use, and readers of the OIDC discovery documents expect.
func (p *pki) ensureServiceAccountKey() error {
	if _, err := os.Stat(p.file("sa.key")); err == nil {
		return nil
	}
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		return err
	}
	return writePEM(p.file("sa.key"), "RSA PRIVATE KEY", x509.MarshalPKCS1PrivateKey(key))
}

// ensureServer makes the serving pair name.crt and name.key for loopback.
func (p *pki) ensureServer(name string) error {
	return p.ensure(name, pkix.Name{CommonName: name}, x509.ExtKeyUsageServerAuth,
		[]string{"localhost", "kubernetes", "kubernetes.default", "kubernetes.default.svc", "kubernetes.default.svc.cluster.local"},
		[]net.IP{net.IPv4(127, 0, 0, 1), firstServiceIP})
}

// ensureClient makes the client pair name.crt and name.key for a user in the given groups.
func (p *pki) ensureClient(name, user string, groups ...string) error {
	return p.ensure(name, pkix.Name{CommonName: user, Organization: groups}, x509.ExtKeyUsageClientAuth, nil, nil)
}

func (p *pki) ensure(name string, subject pkix.Name, usage x509.ExtKeyUsage, dns []string, ips []net.IP) error {
	if _, err := os.Stat(p.file(name + ".crt")); err == nil {
		return nil
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	template := certificateTemplate(subject)
	template.ExtKeyUsage = []x509.ExtKeyUsage{usage}
	template.DNSNames, template.IPAddresses = dns, ips
	der, err := x509.CreateCertificate(rand.Reader, template, p.cert, key.Public(), p.key)
	if err != nil {
		return err
	}
	if err := writeECKey(p.file(name+".key"), key); err != nil {
		return err
	}
	return writePEM(p.file(name+".crt"), "CERTIFICATE", der)
}

// restConfig is a client configuration that uses the pair name; it is not rate-limited.
func (p *pki) restConfig(server, name string) *rest.Config {
	return &rest.Config{
		Host:      server,
		UserAgent: "devcluster/" + name,
		QPS:       -1,
		TLSClientConfig: rest.TLSClientConfig{
			CAFile:   p.file("ca.crt"),
			CertFile: p.file(name + ".crt"),
			KeyFile:  p.file(name + ".key"),
		},
	}
}

// writeKubeconfig writes a self-contained kubeconfig that uses the pair name.
func (p *pki) writeKubeconfig(path, server, name string) error {
	read := func(file string, into *[]byte) (err error) {
		*into, err = os.ReadFile(p.file(file))
		return err
	}
	cluster := clientcmdapi.NewCluster()
	cluster.Server = server
	user := clientcmdapi.NewAuthInfo()
	if err := errors.Join(
		read("ca.crt", &cluster.CertificateAuthorityData),
		read(name+".crt", &user.ClientCertificateData),
		read(name+".key", &user.ClientKeyData),
	); err != nil {
		return err
	}
	current := clientcmdapi.NewContext()
	current.Cluster, current.AuthInfo = "devcluster", name
	config := clientcmdapi.NewConfig()
	config.Clusters["devcluster"] = cluster
	config.AuthInfos[name] = user
	config.Contexts["devcluster"] = current
	config.CurrentContext = "devcluster"
	out, err := clientcmd.Write(*config)
	if err != nil {
		return err
	}
	return writeFileAtomic(path, out)
}

func certificateTemplate(subject pkix.Name) *x509.Certificate {
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 126))
	if err != nil {
		panic(err) // crypto/rand does not fail
	}
	return &x509.Certificate{
		SerialNumber:          serial,
		Subject:               subject,
		NotBefore:             time.Now().Add(-time.Hour),
		NotAfter:              time.Now().Add(certificateLife),
		KeyUsage:              x509.KeyUsageDigitalSignature | x509.KeyUsageKeyEncipherment,
		BasicConstraintsValid: true,
	}
}

func writeECKey(path string, key *ecdsa.PrivateKey) error {
	der, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		return err
	}
	return writePEM(path, "EC PRIVATE KEY", der)
}

func writePEM(path, kind string, der []byte) error {
	return writeFileAtomic(path, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}))
}

// writeFileAtomic writes a file that only its owner may read; a reader sees the old text or the new, never half of it.
func writeFileAtomic(path string, data []byte) error {
	temp := path + ".tmp"
	if err := os.WriteFile(temp, data, 0o600); err != nil {
		return err
	}
	return os.Rename(temp, path)
}
