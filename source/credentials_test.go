package source

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"net/url"
	"strings"
	"testing"

	githttp "github.com/go-git/go-git/v5/plumbing/transport/http"
	"golang.org/x/crypto/ssh"
)

// TestLoginsOverHTTP: which keys of the Secret make which login, and which are refused.
// contract: GitRepository key username, key password, key bearerToken
func TestLoginsOverHTTP(t *testing.T) {
	for _, tc := range []struct {
		url   string
		pairs []string
		want  string // "" is refused
	}{
		{"https://h/x.git", []string{"username", "u", "password", "p"}, "basic u p"},
		{"https://h/x.git", []string{"username", "token"}, "basic token "},
		{"https://token@h/x.git", []string{"password", "p"}, "basic token p"},
		{"https://h/x.git", []string{"bearerToken", "b"}, "bearer b"},
		{"https://h/x.git", []string{"username", "u", "password", "p", "bearerToken", "b"}, "bearer b"},
		{"https://h/x.git", []string{"username", "u", "bearerToken", "b"}, "bearer b"},
		{"https://u@h/x.git", []string{"bearerToken", "b"}, "bearer b"},
		{"https://h/x.git", []string{"password", "p", "bearerToken", "b"}, "bearer b"},
		{"https://h/x.git", []string{"password", "p"}, ""},
		{"https://h/x.git", []string{"bearerToken", "b\r\nHost: x"}, ""},
		{"https://h/x.git", []string{"identity", "x", "known_hosts", "y"}, ""},
		{"https://h/x.git", nil, ""},
		{"https://h/x.git", []string{"ca.crt", "x"}, "nobody"},
	} {
		u, err := url.Parse(tc.url)
		if err != nil {
			t.Fatal(err)
		}
		method, err := Remote{URL: tc.url, Auth: auth(tc.pairs...)}.httpAuth(u)
		got := ""
		switch m := method.(type) {
		case *githttp.BasicAuth:
			got = "basic " + m.Username + " " + m.Password
		case *githttp.TokenAuth:
			got = "bearer " + m.Token
		case nil:
			if err == nil {
				got = "nobody"
			}
		}
		if got != tc.want {
			t.Errorf("%s %q: %q %v, want %q", tc.url, tc.pairs, got, err, tc.want)
		}
	}
}

// TestIdentitiesOfAllKinds: keys that ssh-keygen and openssl make log in, with a passphrase or without one.
// contract: GitRepository key identity
func TestIdentitiesOfAllKinds(t *testing.T) {
	long, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	curve, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	sec1, err := x509.MarshalECPrivateKey(curve)
	if err != nil {
		t.Fatal(err)
	}
	openssh := func(key crypto.PrivateKey, passphrase string) string {
		block, err := ssh.MarshalPrivateKey(key, "")
		if passphrase != "" {
			block, err = ssh.MarshalPrivateKeyWithPassphrase(key, "", []byte(passphrase))
		}
		if err != nil {
			t.Fatal(err)
		}
		return string(pem.EncodeToMemory(block))
	}
	root := t.TempDir()
	g := newGitRepo(t, root, "app.git")
	g.write("a.yaml", "one")
	g.push("one")
	for name, tc := range map[string]struct {
		key  crypto.Signer
		text string
	}{
		"rsa, openssh":             {long, openssh(long, "")},
		"rsa, openssl":             {long, pemBlock("RSA PRIVATE KEY", x509.MarshalPKCS1PrivateKey(long))},
		"rsa with a passphrase":    {long, openssh(long, testPassword)},
		"ecdsa, openssh":           {curve, openssh(curve, "")},
		"ecdsa, openssl":           {curve, pemBlock("EC PRIVATE KEY", sec1)},
		"ecdsa with a passphrase":  {curve, openssh(curve, testPassword)},
		"ecdsa with line breaks":   {curve, "\n" + openssh(curve, "") + "\n\n"},
		"rsa with windows' breaks": {long, strings.ReplaceAll(openssh(long, ""), "\n", "\r\n")},
	} {
		public, err := ssh.NewPublicKey(tc.key.Public())
		if err != nil {
			t.Fatal(err)
		}
		s := startSSHFor(t, root, public)
		remote := Remote{URL: "ssh://git@" + s.addr + "/app.git", Auth: auth("identity", tc.text, "known_hosts", s.knownHosts)}
		if strings.Contains(name, "passphrase") {
			remote.Auth = auth("identity", tc.text, "known_hosts", s.knownHosts, "password", testPassword)
		}
		got, err := openCache(t, t.TempDir(), DefaultLimits()).Fetch(t.Context(), alice, Request{Remote: remote, Ref: Ref{Branch: "main"}})
		if err != nil || read(t, got.Tree, "a.yaml") != "one" {
			t.Errorf("%s: %v", name, err)
		}
	}
}
