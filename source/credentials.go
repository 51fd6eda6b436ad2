package source

import (
	"crypto/tls"
	"crypto/x509"
	"maps"
	"net/url"
	"slices"
	"strings"

	githttp "github.com/go-git/go-git/v5/plumbing/transport/http"
	"golang.org/x/crypto/ssh"

	"sealock.dev/sealock/fault"
	"sealock.dev/sealock/plaintext"
)

// text returns the value of the first of the keys that is set.
func (r Remote) text(keys ...string) (string, bool) {
	for _, key := range keys {
		if v, ok := r.Auth[key]; ok && v.Len() > 0 {
			return string(v.Reveal()), true
		}
	}
	return "", false
}

// identity returns the parts that make the credentials what they are, in a stable order, for a keyed digest.
func (r Remote) identity(key plaintext.Key) string {
	parts := [][]byte{[]byte(r.URL)}
	for _, secret := range []map[string]plaintext.Value{r.Auth, r.Proxy} {
		for _, name := range slices.Sorted(maps.Keys(secret)) {
			parts = append(parts, []byte(name), []byte(secret[name].Digest(key)))
		}
	}
	return key.Digest(parts...)
}

func badAuth(field, text string) *fault.Error {
	return fail(fault.Invalid, ReasonAuth, text).At("spec.secretRef: " + field).Fix("correct the Secret")
}

// httpAuth returns what an http server gets to see; nil when the Secret has no credentials for one.
func (r Remote) httpAuth(u *url.URL) (githttp.AuthMethod, error) {
	user, hasUser := r.text("username")
	password, hasPassword := r.text("password")
	token, hasToken := r.text("bearerToken")
	if !hasUser && u.User != nil {
		user, hasUser = u.User.Username(), hasPassword
	}
	switch {
	case strings.ContainsAny(token, "\r\n"):
		return nil, badAuth("bearerToken", "the value holds a line break")
	case hasToken:
		return &githttp.TokenAuth{Token: token}, nil
	case hasUser: // without a password it is a token, at some servers
		return &githttp.BasicAuth{Username: user, Password: password}, nil
	case hasPassword:
		return nil, badAuth("username", "the Secret has password without username")
	}
	_, hasCA := r.text("ca.crt", "caFile")
	_, hasCert := r.text("tls.crt")
	if r.Auth != nil && !hasCA && !hasCert {
		return nil, badAuth("username", "the Secret holds nothing that an http server understands").
			Fix("set username and password, bearerToken, tls.crt and tls.key, or ca.crt")
	}
	return nil, nil //nolint:nilnil // no credentials is a valid answer
}

// tlsConfig returns the TLS settings of an https server. The authorities of the Secret replace those of the system:
// whoever names a CA means that CA.
func (r Remote) tlsConfig() (*tls.Config, error) {
	cfg := &tls.Config{MinVersion: tls.VersionTLS12}
	if pem, ok := r.text("ca.crt", "caFile"); ok {
		cfg.RootCAs = x509.NewCertPool()
		if !cfg.RootCAs.AppendCertsFromPEM([]byte(pem)) {
			return nil, badAuth("ca.crt", "the value holds no PEM certificate")
		}
	}
	cert, hasCert := r.text("tls.crt")
	key, hasKey := r.text("tls.key")
	if hasCert != hasKey {
		return nil, badAuth("tls.crt", "tls.crt and tls.key belong together, one is missing")
	}
	if hasCert {
		pair, err := tls.X509KeyPair([]byte(cert), []byte(key))
		if err != nil {
			return nil, badAuth("tls.crt", "tls.crt and tls.key are no key pair")
		}
		cfg.Certificates = []tls.Certificate{pair}
	}
	return cfg, nil
}

// sshConfig returns the settings of a connection to addr (host:port), which must be in known_hosts.
func (r Remote) sshConfig(user, addr string) (*ssh.ClientConfig, error) {
	identity, ok := r.text("identity")
	if !ok {
		return nil, badAuth("identity", "the private key for ssh is missing").Fix("set identity and known_hosts in the Secret")
	}
	known, ok := r.text("known_hosts")
	if !ok {
		return nil, badAuth("known_hosts", "the host keys for ssh are missing").Fix("set known_hosts to the output of ssh-keyscan, compared with what the server's owner publishes")
	}
	signer, err := r.signer([]byte(identity))
	if err != nil {
		return nil, err
	}
	hosts, err := parseKnownHosts([]byte(known))
	if err != nil {
		return nil, err
	}
	check := hosts.forAddress(addr)
	return &ssh.ClientConfig{
		User: user, Auth: []ssh.AuthMethod{ssh.PublicKeys(signer)},
		HostKeyCallback: check.verify, HostKeyAlgorithms: check.algorithms(),
	}, nil
}

func (r Remote) signer(pem []byte) (ssh.Signer, error) {
	passphrase, has := r.text("password")
	var signer ssh.Signer
	var err error
	if has {
		signer, err = ssh.ParsePrivateKeyWithPassphrase(pem, []byte(passphrase))
		if err != nil {
			// A password beside a key that is not encrypted is no reason to fail.
			signer, err = ssh.ParsePrivateKey(pem)
		}
	} else {
		signer, err = ssh.ParsePrivateKey(pem)
	}
	if err != nil {
		return nil, badAuth("identity", "the private key cannot be read, or its passphrase is wrong").Fix("set identity to a private key in PEM, and password to its passphrase if it has one")
	}
	return signer, nil
}
