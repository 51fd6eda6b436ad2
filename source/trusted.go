package source

import (
	"bytes"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/base64"
	"errors"
	"maps"
	"slices"
	"strings"

	"github.com/ProtonMail/go-crypto/openpgp"
	pgperrors "github.com/ProtonMail/go-crypto/openpgp/errors"
	"golang.org/x/crypto/ssh"

	"sealock.dev/sealock/fault"
	"sealock.dev/sealock/plaintext"
)

const (
	sshSuffix       = ".sshpub"
	sshArmorStart   = "-----BEGIN SSH SIGNATURE-----"
	sshArmorEnd     = "-----END SSH SIGNATURE-----"
	sshMagic        = "SSHSIG"
	sshNamespace    = "git"
	pgpKeyStart     = "-----BEGIN PGP PUBLIC KEY BLOCK-----"
	maxSSHSignature = 16 << 10
)

// trusted are the public keys whose signatures count.
type trusted struct {
	pgp openpgp.EntityList
	ssh []ssh.PublicKey
}

func badKeys(key, text string) error {
	return fail(fault.Invalid, ReasonVerification, text).At("spec.verify.secretRef: " + key).
		Fix("set public keys as entries *.asc (gpg --export --armor) or *.sshpub (as in authorized_keys)")
}

// parseTrusted reads the entries of a Secret. One that cannot be read fails all: it was meant to count.
func parseTrusted(secret map[string]plaintext.Value) (trusted, error) {
	var t trusted
	for _, name := range slices.Sorted(maps.Keys(secret)) {
		text := secret[name].Reveal()
		if strings.HasSuffix(name, sshSuffix) {
			keys, err := parseAuthorizedKeys(text)
			if err != nil {
				return trusted{}, badKeys(name, err.Error())
			}
			t.ssh = append(t.ssh, keys...)
			continue
		}
		keys, err := parseKeyring(text)
		if err != nil {
			return trusted{}, badKeys(name, err.Error())
		}
		t.pgp = append(t.pgp, keys...)
	}
	if len(t.pgp) == 0 && len(t.ssh) == 0 {
		return trusted{}, badKeys("data", "the Secret holds no public key")
	}
	return t, nil
}

// parseAuthorizedKeys reads lines as in authorized_keys. A certificate authority is no signer.
func parseAuthorizedKeys(text []byte) ([]ssh.PublicKey, error) {
	var out []ssh.PublicKey
	for len(bytes.TrimSpace(text)) > 0 {
		key, _, options, rest, err := ssh.ParseAuthorizedKey(text)
		if err != nil {
			if onlyComments(text) {
				break
			}
			return nil, errors.New("a line is no SSH public key")
		}
		if _, cert := key.(*ssh.Certificate); cert || slices.Contains(options, "cert-authority") {
			return nil, errors.New("certificates and certificate authorities are not served")
		}
		out = append(out, key)
		text = rest
	}
	return out, nil
}

func onlyComments(text []byte) bool {
	for line := range bytes.Lines(text) {
		if line = bytes.TrimSpace(line); len(line) > 0 && line[0] != '#' {
			return false
		}
	}
	return true
}

// parseKeyring reads armored OpenPGP public keys, any number of blocks.
func parseKeyring(text []byte) (out openpgp.EntityList, err error) {
	defer func() {
		if recover() != nil {
			out, err = nil, errors.New("the value is no armored OpenPGP public key")
		}
	}()
	blocks := strings.Split(string(text), pgpKeyStart)
	if strings.TrimSpace(blocks[0]) != "" || len(blocks) == 1 {
		return nil, errors.New("the value is no armored OpenPGP public key")
	}
	for _, block := range blocks[1:] {
		keys, err := openpgp.ReadArmoredKeyRing(strings.NewReader(pgpKeyStart + block))
		if err != nil {
			return nil, errors.New("the value is no armored OpenPGP public key")
		}
		out = append(out, keys...)
	}
	return out, nil
}

// check verifies a signature and returns the identity of the key that made it.
func (t trusted) check(s signed) (by string, err error) {
	defer func() {
		if recover() != nil { // strangers feed the parsers
			by, err = "", verdict("the signature cannot be read")
		}
	}()
	if strings.HasPrefix(s.signature, sshArmorStart) {
		return t.checkSSH(s)
	}
	return t.checkPGP(s)
}

func (t trusted) checkPGP(s signed) (string, error) {
	if !strings.HasPrefix(s.signature, "-----BEGIN PGP ") {
		return "", verdict("the signature is neither OpenPGP nor SSH")
	}
	if len(t.pgp) == 0 {
		return "", verdict("it has an OpenPGP signature, and the Secret has no OpenPGP key")
	}
	signer, err := openpgp.CheckArmoredDetachedSignature(t.pgp, bytes.NewReader(s.payload), strings.NewReader(s.signature), nil)
	switch {
	case errors.Is(err, pgperrors.ErrUnknownIssuer):
		return "", verdict("the key that signed it is not in the Secret")
	case errors.Is(err, pgperrors.ErrKeyExpired), errors.Is(err, pgperrors.ErrSignatureExpired):
		return "", verdict("the key that signed it, or the signature, has expired")
	case errors.Is(err, pgperrors.ErrKeyRevoked):
		return "", verdict("the key that signed it was revoked")
	case err != nil || signer == nil:
		return "", verdict("the OpenPGP signature does not match")
	}
	return signer.PrimaryKey.KeyIdString(), nil
}

// sshBlob is a signature as ssh-keygen -Y sign makes it (PROTOCOL.sshsig), after the magic.
type sshBlob struct {
	Version       uint32
	PublicKey     []byte
	Namespace     string
	Reserved      string
	HashAlgorithm string
	Signature     []byte
}

func (t trusted) checkSSH(s signed) (string, error) {
	blob, sig, err := parseSSHSignature(s.signature)
	if err != nil {
		return "", err
	}
	var sum []byte
	switch blob.HashAlgorithm {
	case "sha256":
		h := sha256.Sum256(s.payload)
		sum = h[:]
	case "sha512":
		h := sha512.Sum512(s.payload)
		sum = h[:]
	default:
		return "", verdict("the SSH signature uses a hash that is not allowed")
	}
	// SHA-1 and DSA are not what anybody should rely on; a signature must say which algorithm it is.
	if sig.Format == ssh.KeyAlgoRSA || sig.Format == ssh.InsecureKeyAlgoDSA { //nolint:staticcheck // it is named to be refused
		return "", verdict("the SSH signature uses an algorithm that is not allowed")
	}
	message := append([]byte(sshMagic), ssh.Marshal(struct {
		Namespace, Reserved, HashAlgorithm string
		Hash                               []byte
	}{blob.Namespace, blob.Reserved, blob.HashAlgorithm, sum})...)
	for _, key := range t.ssh {
		if !bytes.Equal(key.Marshal(), blob.PublicKey) {
			continue
		}
		if key.Verify(message, sig) != nil {
			return "", verdict("the SSH signature does not match")
		}
		return ssh.FingerprintSHA256(key), nil
	}
	if len(t.ssh) == 0 {
		return "", verdict("it has an SSH signature, and the Secret has no SSH key")
	}
	return "", verdict("the key that signed it is not in the Secret")
}

func parseSSHSignature(armored string) (*sshBlob, *ssh.Signature, error) {
	unreadable := verdict("the SSH signature cannot be read")
	body, ok := strings.CutPrefix(strings.TrimSpace(armored), sshArmorStart)
	body, end := strings.CutSuffix(body, sshArmorEnd)
	if !ok || !end || len(body) > maxSSHSignature {
		return nil, nil, unreadable
	}
	raw, err := base64.StdEncoding.DecodeString(strings.Join(strings.Fields(body), ""))
	if err != nil {
		return nil, nil, unreadable
	}
	raw, ok = bytes.CutPrefix(raw, []byte(sshMagic))
	blob, sig := &sshBlob{}, &ssh.Signature{}
	if !ok || ssh.Unmarshal(raw, blob) != nil || blob.Version != 1 || ssh.Unmarshal(blob.Signature, sig) != nil {
		return nil, nil, unreadable
	}
	if blob.Namespace != sshNamespace {
		return nil, nil, verdict("the SSH signature was made for another purpose than Git")
	}
	return blob, sig, nil
}
