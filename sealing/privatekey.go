package sealing

import (
	"bytes"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"math/big"
	"time"

	"sealock.dev/sealock/plaintext"
)

// PrivateKey opens what was sealed for it. It is a capability: nothing of it can be read or printed.
type PrivateKey struct {
	fingerprint string // hex SHA-256 of the public key
	size        int    // of the modulus, in bytes
	unwrap      func(wrapped, label []byte) ([]byte, error)
}

// ParsePrivateKey reads an RSA key from PEM, PKCS#1 or PKCS#8. Its errors never carry anything of the input.
func ParsePrivateKey(text plaintext.Value) (*PrivateKey, error) {
	key, err := parseRSA(text.Reveal())
	if err != nil {
		return nil, err
	}
	return newPrivateKey(key)
}

func newPrivateKey(key *rsa.PrivateKey) (*PrivateKey, error) {
	size := key.Size()
	if size < 1024/8 || size > maxModulus {
		return nil, errors.New("the RSA key is shorter than 1024 or longer than 16384 bits")
	}
	print, err := fingerprint(&key.PublicKey)
	if err != nil {
		return nil, err
	}
	return &PrivateKey{fingerprint: print, size: size, unwrap: func(wrapped, label []byte) ([]byte, error) {
		return rsa.DecryptOAEP(sha256.New(), nil, key, wrapped, label)
	}}, nil
}

func fingerprint(public *rsa.PublicKey) (string, error) {
	der, err := x509.MarshalPKIXPublicKey(public)
	if err != nil {
		return "", errors.New("the RSA public key cannot be encoded")
	}
	sum := sha256.Sum256(der)
	return hex.EncodeToString(sum[:]), nil
}

// parseRSA skips PEM blocks of other types, such as parameters.
func parseRSA(text []byte) (*rsa.PrivateKey, error) {
	for {
		var block *pem.Block
		block, text = pem.Decode(text)
		if block == nil {
			return nil, errors.New("tls.key holds no PEM private key")
		}
		switch block.Type {
		case "RSA PRIVATE KEY":
			key, err := x509.ParsePKCS1PrivateKey(block.Bytes)
			if err != nil {
				return nil, errors.New("tls.key is not a valid PKCS#1 key")
			}
			return key, nil
		case "PRIVATE KEY":
			any, err := x509.ParsePKCS8PrivateKey(block.Bytes)
			if err != nil {
				return nil, errors.New("tls.key is not a valid PKCS#8 key")
			}
			key, ok := any.(*rsa.PrivateKey)
			if !ok {
				return nil, errors.New("tls.key is not an RSA key")
			}
			return key, nil
		}
	}
}

// session unwraps the session key.
func (k *PrivateKey) session(parts sealed, label []byte) (plaintext.Value, error) {
	if len(parts.wrapped) != k.size {
		return plaintext.Value{}, errNoKey
	}
	raw, err := k.unwrap(parts.wrapped, label)
	if err != nil || len(raw) != sessionBytes {
		return plaintext.Value{}, errNoKey
	}
	defer clear(raw)
	return plaintext.New(raw), nil
}

// Certificate is the public half of a key: what secrets are sealed with.
type Certificate struct {
	public      *rsa.PublicKey
	fingerprint string
	pem         []byte
	notBefore   time.Time
	notAfter    time.Time
}

// ParseCertificate reads the first certificate of a PEM text.
func ParseCertificate(text []byte) (*Certificate, error) {
	for {
		var block *pem.Block
		block, text = pem.Decode(text)
		if block == nil {
			return nil, errors.New("there is no PEM certificate in it")
		}
		if block.Type != "CERTIFICATE" {
			continue
		}
		cert, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, errors.New("the certificate is not valid")
		}
		public, ok := cert.PublicKey.(*rsa.PublicKey)
		if !ok {
			return nil, errors.New("the certificate has no RSA key")
		}
		print, err := fingerprint(public)
		if err != nil {
			return nil, err
		}
		return &Certificate{
			public: public, fingerprint: print, notBefore: cert.NotBefore, notAfter: cert.NotAfter,
			pem: pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: block.Bytes}),
		}, nil
	}
}

// PEM returns the certificate, one PEM block.
func (c *Certificate) PEM() []byte { return bytes.Clone(c.pem) }

// NotBefore returns when the certificate became valid, which is what orders keys.
func (c *Certificate) NotBefore() time.Time { return c.notBefore }

// NewKey is a key pair that was just made, in the parts of a kubernetes.io/tls Secret.
type NewKey struct {
	Certificate []byte          // PEM, for tls.crt
	PrivateKey  plaintext.Value // PEM, PKCS#1, for tls.key
}

// Defaults of the peer, reference/sealing-sops.md, section 1.2.
const (
	DefaultKeyBits     = 4096
	DefaultKeyLifetime = 87600 * time.Hour
)

// Generate makes a key pair whose certificate is valid from now on. bits 0 is DefaultKeyBits.
func Generate(now time.Time, bits int) (NewKey, error) {
	if bits == 0 {
		bits = DefaultKeyBits
	}
	key, err := rsa.GenerateKey(rand.Reader, bits)
	if err != nil {
		return NewKey{}, errors.New("an RSA key of this size cannot be made")
	}
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 128))
	if err != nil {
		return NewKey{}, errors.New("there is no randomness for a serial number")
	}
	template := &x509.Certificate{
		SerialNumber:          serial,
		Subject:               pkix.Name{},
		NotBefore:             now.UTC(),
		NotAfter:              now.Add(DefaultKeyLifetime).UTC(),
		KeyUsage:              x509.KeyUsageEncipherOnly,
		BasicConstraintsValid: true,
		IsCA:                  true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		return NewKey{}, errors.New("the certificate cannot be made")
	}
	secret := pem.EncodeToMemory(&pem.Block{Type: "RSA PRIVATE KEY", Bytes: x509.MarshalPKCS1PrivateKey(key)})
	defer clear(secret)
	return NewKey{
		Certificate: pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}),
		PrivateKey:  plaintext.New(secret),
	}, nil
}
