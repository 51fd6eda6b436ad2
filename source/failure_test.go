package source

import (
	"encoding/pem"
	"fmt"
	"strings"
	"testing"

	"sealock.dev/sealock/fault"
)

// TestFailuresAreClassified: every way in which a source cannot be had has a kind, a reason and words of our own.
func TestFailuresAreClassified(t *testing.T) {
	root := t.TempDir()
	g := newGitRepo(t, root, "app.git")
	g.write("a.yaml", "one")
	g.push("first")
	newGitRepo(t, root, "empty.git")
	h, s := startHTTP(t, root, false), startSSH(t, root)
	tls := startHTTP(t, root, true)
	closed := startHTTP(t, root, false)
	closed.Close()
	other := startSSH(t, root)
	web := func(name string, pairs ...string) Remote {
		return Remote{URL: h.URL + "/" + name, Auth: auth(pairs...)}
	}
	shell := func(name string, pairs ...string) Remote {
		return Remote{URL: "ssh://git@" + s.addr + "/" + name, Auth: auth(pairs...)}
	}
	otherKey := strings.Replace(other.knownHosts, knownName(other), knownName(s), 1)
	const secret = "wrong-Password-4711"
	for _, tc := range []struct {
		name   string
		remote Remote
		ref    Ref
		kind   fault.Kind
		reason Reason
		text   string
	}{
		{"wrong password", web("app.git", "username", testUser, "password", secret), Ref{Branch: "main"}, fault.Denied, ReasonAuth, "refused the credentials"},
		{"wrong token", web("app.git", "bearerToken", secret), Ref{Branch: "main"}, fault.Denied, ReasonAuth, "refused the credentials"},
		{"no credentials", Remote{URL: h.URL + "/app.git"}, Ref{Branch: "main"}, fault.Denied, ReasonAuth, "refused the credentials"},
		{"password in the URL", Remote{URL: strings.Replace(h.URL, "http://", "http://u:"+secret+"@", 1) + "/app.git"}, Ref{}, fault.Invalid, ReasonURL, "holds a password"},
		{"password alone", web("app.git", "password", testPassword), Ref{}, fault.Invalid, ReasonAuth, "without username"},
		{"ssh key for http", web("app.git", "identity", "x"), Ref{}, fault.Invalid, ReasonAuth, "nothing that an http server"},
		{"repository gone", h.remote("gone.git"), Ref{Branch: "main"}, fault.NotFound, ReasonOperation, "repository was not found"},
		{"repository gone ssh", s.remote("gone.git"), Ref{Branch: "main"}, fault.NotFound, ReasonOperation, "repository was not found"},
		{"empty", h.remote("empty.git"), Ref{Branch: "main"}, fault.NotFound, ReasonEmpty, "repository is empty"},
		{"empty ssh", s.remote("empty.git"), Ref{Branch: "main"}, fault.NotFound, ReasonEmpty, "repository is empty"},
		{"no such branch", h.remote("app.git"), Ref{}, fault.NotFound, ReasonOperation, "refs/heads/master"},
		{"no such tag", h.remote("app.git"), Ref{Tag: "v9"}, fault.NotFound, ReasonOperation, "refs/tags/v9"},
		{"no such version", h.remote("app.git"), Ref{SemVer: "9.x"}, fault.NotFound, ReasonOperation, "version range"},
		{"no such commit", h.remote("app.git"), Ref{Commit: strings.Repeat("ab", 20)}, fault.NotFound, ReasonOperation, "no commit"},
		{"short commit", h.remote("app.git"), Ref{Commit: "abcdef"}, fault.Invalid, ReasonOperation, "full SHA-1"},
		{"bad range", h.remote("app.git"), Ref{SemVer: ">>1"}, fault.Invalid, ReasonOperation, "not a version range"},
		{"bad name", h.remote("app.git"), Ref{Name: "main"}, fault.Invalid, ReasonOperation, "begin with refs/"},
		{"server away", closed.remote("app.git"), Ref{}, fault.Transient, ReasonOperation, "cannot be reached"},
		{"unknown CA", tls.remote("app.git"), Ref{Branch: "main"}, fault.Transient, ReasonOperation, "unknown authority"},
		{"bad CA", Remote{URL: tls.URL + "/app.git", Auth: auth("ca.crt", "x")}, Ref{}, fault.Invalid, ReasonAuth, "no PEM"},
		{"scheme", Remote{URL: "file:///etc/passwd"}, Ref{}, fault.Invalid, ReasonURL, "scheme"},
		{"ssh no secret", Remote{URL: "ssh://git@" + s.addr + "/app.git"}, Ref{}, fault.Invalid, ReasonAuth, "private key for ssh is missing"},
		{"ssh no known_hosts", shell("app.git", "identity", s.identity), Ref{}, fault.Invalid, ReasonAuth, "host keys for ssh are missing"},
		{"ssh bad identity", shell("app.git", "identity", secret, "known_hosts", s.knownHosts), Ref{}, fault.Invalid, ReasonAuth, "cannot be read"},
		{"ssh wrong passphrase", shell("app.git", "identity", s.encrypted, "password", secret, "known_hosts", s.knownHosts), Ref{}, fault.Invalid, ReasonAuth, "passphrase"},
		{"ssh unknown key", shell("app.git", "identity", s.strange, "known_hosts", s.knownHosts), Ref{}, fault.Denied, ReasonAuth, "refused the credentials"},
		{"ssh wrong host key", shell("app.git", "identity", s.identity, "known_hosts", otherKey), Ref{}, fault.Denied, ReasonAuth, "not the one in known_hosts"},
		{"ssh host not known", shell("app.git", "identity", s.identity, "known_hosts", other.knownHosts), Ref{}, fault.Denied, ReasonAuth, "not in known_hosts"},
		{"ssh revoked", shell("app.git", "identity", s.identity, "known_hosts", s.knownHosts+"\n@revoked "+s.knownHosts), Ref{}, fault.Denied, ReasonAuth, "revoked"},
		{"ssh junk known_hosts", shell("app.git", "identity", s.identity, "known_hosts", "junk ssh-ed25519 AAAA"), Ref{}, fault.Invalid, ReasonAuth, "cannot be read"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			r := openCache(t, t.TempDir(), DefaultLimits())
			_, err := r.Fetch(t.Context(), alice, Request{Remote: tc.remote, Ref: tc.ref})
			if fault.KindOf(err) != tc.kind || ReasonOf(err) != tc.reason || !strings.Contains(fmt.Sprint(err), tc.text) {
				t.Fatalf("%v %v: %v", fault.KindOf(err), ReasonOf(err), err)
			}
			if fault.StageOf(err) != fault.StageSource {
				t.Errorf("stage %q", fault.StageOf(err))
			}
			for _, banned := range []string{secret, "robot", "127.0.0.1", "Authorization", "correct-horse"} {
				if strings.Contains(err.Error(), banned) {
					t.Errorf("the error holds %q: %v", banned, err)
				}
			}
		})
	}
}

func knownName(s *sshServer) string { name, _, _ := strings.Cut(s.knownHosts, " "); return name }

// contract: GitRepository key username, key password, key bearerToken, key ca.crt, key caFile, key identity, key known_hosts
func TestCredentialsThatWork(t *testing.T) {
	root := t.TempDir()
	g := newGitRepo(t, root, "app.git")
	g.write("a.yaml", "one")
	g.push("first")
	tls, s := startHTTP(t, root, true), startSSH(t, root)
	ca := string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: tls.Certificate().Raw}))
	for name, remote := range map[string]Remote{
		"ca.crt and basic":   {URL: tls.URL + "/app.git", Auth: auth("username", testUser, "password", testPassword, "ca.crt", ca)},
		"caFile and bearer":  {URL: tls.URL + "/app.git", Auth: auth("bearerToken", testPassword, "caFile", ca)},
		"user in the URL":    {URL: strings.Replace(tls.URL, "https://", "https://"+testUser+"@", 1) + "/app.git", Auth: auth("password", testPassword, "ca.crt", ca)},
		"ssh passphrase":     {URL: "ssh://git@" + s.addr + "/app.git", Auth: auth("identity", s.encrypted, "password", testPassword, "known_hosts", s.knownHosts)},
		"ssh needless":       {URL: "ssh://git@" + s.addr + "/app.git", Auth: auth("identity", s.identity, "password", "x", "known_hosts", "# comment\n\n"+s.knownHosts)},
		"ssh without a user": {URL: "ssh://" + s.addr + "/app.git", Auth: auth("identity", s.identity, "known_hosts", s.knownHosts)},
	} {
		t.Run(name, func(t *testing.T) {
			if got := read(t, fetch(t, openCache(t, t.TempDir(), DefaultLimits()), remote, Ref{Branch: "main"}).Tree, "a.yaml"); got != "one" {
				t.Error(got)
			}
		})
	}
}
