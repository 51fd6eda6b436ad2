package source

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha512"
	"encoding/base64"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/go-git/go-git/v5/plumbing"
	"golang.org/x/crypto/ssh"

	"sealock.dev/sealock/fault"
	"sealock.dev/sealock/plaintext"
)

// vector returns what the real git, gpg and ssh-keygen made.
func vector(t testing.TB, name string) []byte {
	t.Helper()
	body, err := os.ReadFile(filepath.Join("testdata/signed", name))
	if err != nil {
		t.Fatal(err)
	}
	return body
}

// keysOf returns a Secret with the vectors as entries.
func keysOf(t testing.TB, names ...string) map[string]plaintext.Value {
	t.Helper()
	out := map[string]plaintext.Value{}
	for _, name := range names {
		out[name] = plaintext.New(vector(t, name))
	}
	return out
}

func taken(t testing.TB, name string, raw []byte) (signed, error) {
	t.Helper()
	first, _, _ := bytes.Cut(raw, []byte("\n"))
	_, hash, _ := bytes.Cut(first, []byte(" "))
	if strings.HasSuffix(name, ".tag") {
		_, after, _ := bytes.Cut(raw, []byte("\ntag "))
		tag, _, _ := bytes.Cut(after, []byte("\n"))
		return tagSignature(raw, string(tag), plumbing.NewHash(string(hash)))
	}
	return commitSignature(raw, plumbing.NewHash(string(hash)))
}

// TestSignaturesThatGitMade: what git commit -S and git tag -s make passes with the right key, and with no other one.
// contract: GitRepository key *.asc, key *.sshpub
func TestSignaturesThatGitMade(t *testing.T) {
	all := []string{"alice.asc", "rob.asc", "people.sshpub", "eve.sshpub"}
	for name, key := range map[string]string{
		"pgp-ed25519.commit": "alice.asc", "pgp-latin1.commit": "alice.asc", "pgp-mergetag.commit": "alice.asc", "pgp-rsa.commit": "rob.asc",
		"pgp-ed25519.tag": "alice.asc", "ssh-ed.commit": "people.sshpub", "ssh-rsa.commit": "people.sshpub", "ssh-ec.commit": "eve.sshpub", "ssh-ed.tag": "people.sshpub",
	} {
		s, err := taken(t, name, vector(t, name))
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		for _, each := range all {
			trusted, err := parseTrusted(keysOf(t, each))
			if err != nil {
				t.Fatal(err)
			}
			by, err := trusted.check(s)
			if (err == nil) != (each == key) || (err == nil) != (by != "") {
				t.Errorf("%s with %s: %q %v", name, each, by, err)
			}
		}
		// One bit anywhere in what is signed.
		trusted, _ := parseTrusted(keysOf(t, all...))
		for i := range s.payload {
			changed := s
			changed.payload = bytes.Clone(s.payload)
			changed.payload[i] ^= 1
			if by, err := trusted.check(changed); err == nil {
				t.Fatalf("%s: byte %d changed, signed by %s", name, i, by)
			}
		}
	}
	// A key whose name says nothing is OpenPGP, as in Flux.
	if trusted, err := parseTrusted(map[string]plaintext.Value{"author": plaintext.New(vector(t, "alice.asc"))}); err != nil || len(trusted.pgp) != 1 {
		t.Errorf("%v", err)
	}
	both := append(vector(t, "alice.asc"), vector(t, "rob.asc")...)
	if trusted, err := parseTrusted(map[string]plaintext.Value{"team.asc": plaintext.New(both)}); err != nil || len(trusted.pgp) != 2 {
		t.Errorf("two keys in one entry: %v", err)
	}
}

// TestHostileSignedObjects: objects that two readers could take for different things are no signed objects.
func TestHostileSignedObjects(t *testing.T) {
	commit, tag := string(vector(t, "pgp-ed25519.commit")), string(vector(t, "pgp-ed25519.tag"))
	tree := commit[len("tree "):][:40]
	sig := commit[strings.Index(commit, "gpgsig "):strings.Index(commit, "\n\n")]
	other := strings.Repeat("ab", 20)
	for name, raw := range map[string]string{
		"a second tree":         strings.Replace(commit, "author", "tree "+other+"\nauthor", 1),
		"a second same tree":    strings.Replace(commit, "author", "tree "+tree+"\nauthor", 1),
		"another tree":          strings.Replace(commit, tree, other, 1),
		"tree is not first":     "x y\n" + commit,
		"two signatures":        strings.Replace(commit, sig, sig+"\n"+sig, 1),
		"nothing":               "",
		"a signature, no files": sig + "\n\nmessage",
	} {
		if _, err := commitSignature([]byte(raw), plumbing.NewHash(tree)); err == nil {
			t.Errorf("commit with %s is taken", name)
		}
	}
	target := plumbing.NewHash(tag[len("object "):][:40])
	for name, tc := range map[string]struct {
		raw, tag string
		target   plumbing.Hash
	}{
		"the tag object of another name": {tag, "v2.0.0", target},
		"another target":                 {tag, "v1.0.0", plumbing.NewHash(other)},
		"two names":                      {strings.Replace(tag, "tagger", "tag v1.0.0\ntagger", 1), "v1.0.0", target},
		"two targets":                    {strings.Replace(tag, "type", "object "+target.String()+"\ntype", 1), "v1.0.0", target},
		"nothing":                        {"", "v1.0.0", target},
	} {
		if _, err := tagSignature([]byte(tc.raw), tc.tag, tc.target); err == nil {
			t.Errorf("tag with %s is taken", name)
		}
	}
	trusted, _ := parseTrusted(keysOf(t, "people.sshpub"))
	s, _ := taken(t, "ssh-ed.commit", vector(t, "ssh-ed.commit"))
	for name, armored := range map[string]string{
		"another namespace": strings.ReplaceAll(resign(t, s.payload, "file", "sha512"), "", ""),
		"another hash":      resign(t, s.payload, "git", "md5"),
		"junk":              sshArmorStart + "\nAAAA\n" + sshArmorEnd,
		"no end":            sshArmorStart + "\nAAAA",
		"none of the two":   "-----BEGIN CERTIFICATE-----",
	} {
		if _, err := trusted.check(signed{payload: s.payload, signature: armored}); err == nil {
			t.Errorf("ssh signature with %s passes", name)
		}
	}
}

// resign makes an SSH signature with a key of its own.
func resign(t testing.TB, payload []byte, namespace, hash string) string {
	t.Helper()
	signer, _ := keyPair(t)
	return sshSign(t, signer, payload, namespace, hash)
}

func sshSign(t testing.TB, signer ssh.Signer, payload []byte, namespace, hash string) string {
	t.Helper()
	sum := sha512.Sum512(payload)
	message := append([]byte("SSHSIG"), ssh.Marshal(struct {
		A, B, C string
		D       []byte
	}{namespace, "", hash, sum[:]})...)
	sig, err := signer.Sign(rand.Reader, message)
	if err != nil {
		t.Fatal(err)
	}
	blob := append([]byte("SSHSIG"), ssh.Marshal(sshBlob{1, signer.PublicKey().Marshal(), namespace, "", hash, ssh.Marshal(sig)})...)
	return sshArmorStart + "\n" + base64.StdEncoding.EncodeToString(blob) + "\n" + sshArmorEnd + "\n"
}

func TestKeysThatCannotBeRead(t *testing.T) {
	for name, tc := range map[string]map[string]plaintext.Value{
		"empty":           {},
		"junk pgp":        {"a.asc": plaintext.FromString("junk")},
		"broken pgp":      {"a.asc": plaintext.FromString(pgpKeyStart + "\n\nAAAA\n")},
		"junk ssh":        {"a.sshpub": plaintext.FromString("ssh-ed25519 junk")},
		"one junk line":   {"a.sshpub": plaintext.New(append(vector(t, "people.sshpub"), "junk\n"...))},
		"an authority":    {"a.sshpub": plaintext.New(append([]byte("cert-authority "), vector(t, "eve.sshpub")...))},
		"pgp among ssh":   {"a.sshpub": plaintext.New(vector(t, "alice.asc"))},
		"only a comment":  {"a.sshpub": plaintext.FromString("# nobody\n")},
		"one of two good": {"a.asc": plaintext.New(vector(t, "alice.asc")), "b.asc": plaintext.FromString("junk")},
	} {
		if _, err := parseTrusted(tc); fault.KindOf(err) != fault.Invalid || ReasonOf(err) != ReasonVerification {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := parseTrusted(map[string]plaintext.Value{"a.sshpub": plaintext.New(append([]byte("# us\n"), vector(t, "people.sshpub")...))}); err != nil {
		t.Errorf("with a comment: %v", err)
	}
}

// object writes an object and returns its hash.
func (g *gitRepo) object(kind string, raw []byte) string {
	g.t.Helper()
	cmd := exec.Command("git", "hash-object", "-t", kind, "-w", "--stdin")
	cmd.Dir, cmd.Stdin = g.work, bytes.NewReader(raw)
	out, err := cmd.Output()
	if err != nil {
		g.t.Fatal(err)
	}
	return strings.TrimSpace(string(out))
}

// sign replaces HEAD by the same commit with a signature, pushes it, and returns it.
func (g *gitRepo) sign(signer ssh.Signer) string {
	g.t.Helper()
	raw := []byte(g.git("cat-file", "commit", "HEAD") + "\n")
	headers, message, _ := bytes.Cut(raw, []byte("\n\n"))
	sig := strings.ReplaceAll(strings.TrimSpace(sshSign(g.t, signer, raw, "git", "sha512")), "\n", "\n ")
	made := g.object("commit", []byte(string(headers)+"\ngpgsig "+sig+"\n\n"+string(message)))
	g.git("reset", "-q", "--hard", made)
	g.git("push", "-q", "-f", "origin", "HEAD")
	return made
}

// signTag makes a signed tag of HEAD and pushes it.
func (g *gitRepo) signTag(name string, signer ssh.Signer) {
	g.t.Helper()
	raw := []byte(fmt.Sprintf("object %s\ntype commit\ntag %s\ntagger t <t@example.com> 1704067200 +0000\n\ntagged\n", g.git("rev-parse", "HEAD"), name))
	g.git("update-ref", "refs/tags/"+name, g.object("tag", append(raw, sshSign(g.t, signer, raw, "git", "sha512")...)))
	g.git("push", "-q", "-f", "--tags", "origin")
}

type keyring struct {
	secret map[string]plaintext.Value
	asked  int
	err    error
}

func (k *keyring) keys(context.Context) (map[string]plaintext.Value, error) {
	k.asked++
	return k.secret, k.err
}

func keyringOf(signers ...ssh.Signer) *keyring {
	var text []byte
	for _, s := range signers {
		text = append(text, marshalKey(s)...)
	}
	return &keyring{secret: map[string]plaintext.Value{"a.sshpub": plaintext.New(text)}}
}

// TestVerifyModes is the table of spec.verify.mode: which objects are signed, and by whom, in which mode passes.
// contract: GitRepository spec.verify.mode
func TestVerifyModes(t *testing.T) {
	root := t.TempDir()
	author, eve := mustSigner(t), mustSigner(t)
	g := newGitRepo(t, root, "app.git")
	g.write("a.yaml", "unsigned")
	g.push("unsigned")
	g.git("tag", "light-unsigned")
	g.git("tag", "-a", "-m", "x", "annotated-unsigned")
	g.signTag("tag-signed", author)
	g.write("a.yaml", "signed")
	g.push("signed")
	g.sign(author)
	g.git("tag", "light-signed")
	g.git("tag", "-a", "-m", "x", "annotated-only")
	g.signTag("v1.0.0", author)
	g.signTag("by-eve", eve)
	// A signed tag under another name: what was signed is v1.0.0.
	g.git("update-ref", "refs/tags/v9.0.0", g.git("rev-parse", "refs/tags/v1.0.0"))
	g.git("push", "-q", "-f", "--tags", "origin")
	remote := startHTTP(t, root, false).remote("app.git")
	keys := keyringOf(author)
	for _, tc := range []struct {
		ref    Ref
		mode   Mode
		reason Reason // "" passes
	}{
		{Ref{Branch: "main"}, ModeHEAD, ""},
		{Ref{Tag: "light-signed"}, ModeHEAD, ""},
		{Ref{Tag: "annotated-only"}, ModeHEAD, ""},
		{Ref{Tag: "light-unsigned"}, ModeHEAD, ReasonCommitSignature},
		{Ref{Tag: "tag-signed"}, ModeHEAD, ReasonCommitSignature},
		{Ref{Tag: "tag-signed"}, ModeTag, ""},
		{Ref{Tag: "tag-signed"}, ModeTagAndHEAD, ReasonCommitSignature},
		{Ref{Tag: "v1.0.0"}, ModeTag, ""},
		{Ref{Tag: "v1.0.0"}, ModeTagAndHEAD, ""},
		{Ref{SemVer: "1.x"}, ModeTagAndHEAD, ""},
		{Ref{SemVer: ">=1"}, ModeTag, ReasonTagSignature}, // v9.0.0
		{Ref{Tag: "v9.0.0"}, ModeTag, ReasonTagSignature},
		{Ref{Tag: "by-eve"}, ModeTag, ReasonTagSignature},
		{Ref{Tag: "by-eve"}, ModeTagAndHEAD, ReasonTagSignature},
		{Ref{Tag: "annotated-only"}, ModeTag, ReasonTagSignature},
		{Ref{Tag: "light-signed"}, ModeTag, ReasonGitObject},
		{Ref{Tag: "light-signed"}, ModeTagAndHEAD, ReasonGitObject},
		{Ref{Branch: "main"}, ModeTag, ReasonMode},
		{Ref{}, ModeTagAndHEAD, ReasonMode},
		{Ref{Name: "refs/tags/v1.0.0", Tag: "v1.0.0"}, ModeTag, ReasonMode},
		{Ref{Commit: strings.Repeat("a", 40), Tag: "v1.0.0"}, ModeTag, ReasonMode},
		{Ref{Branch: "main"}, "head", ReasonMode}, // the front end knows the old spelling
	} {
		dir := t.TempDir()
		r := openCache(t, dir, DefaultLimits())
		got, err := r.Fetch(t.Context(), alice, Request{Remote: remote, Ref: tc.ref, Verify: &Verify{Mode: tc.mode, Keys: keys.keys}})
		name := fmt.Sprintf("%+v %s", tc.ref, tc.mode)
		if tc.reason == "" {
			if err != nil || got.Verified == nil || got.Verified.Mode != tc.mode || !strings.Contains(got.Verified.What, ssh.FingerprintSHA256(author.PublicKey())) {
				t.Errorf("%s: %v %+v", name, err, got)
			}
			continue
		}
		if err == nil || ReasonOf(err) != tc.reason {
			t.Errorf("%s: %v, want %s", name, err, tc.reason)
		}
	}
}

func mustSigner(t testing.TB) ssh.Signer {
	t.Helper()
	s, _ := keyPair(t)
	return s
}

// TestUnverifiedIsNeverOpened: what does not pass cannot be had, neither from this fetch nor from one before or a restart.
func TestUnverifiedIsNeverOpened(t *testing.T) {
	root, dir := t.TempDir(), t.TempDir()
	author := mustSigner(t)
	g := newGitRepo(t, root, "app.git")
	g.write("a.yaml", "one")
	g.push("one")
	good := "main@sha1:" + g.sign(author)
	remote := startHTTP(t, root, false).remote("app.git")
	r := openCache(t, dir, DefaultLimits())
	keys := keyringOf(author)
	q := Request{Remote: remote, Ref: Ref{Branch: "main"}, Verify: &Verify{Mode: ModeHEAD, Keys: keys.keys}}
	if _, err := r.Fetch(t.Context(), alice, q); err != nil {
		t.Fatal(err)
	}
	g.write("a.yaml", "two")
	bad := "main@sha1:" + g.push("two, by nobody")
	transfers := r.Counts().Transfers
	for range 2 {
		if _, err := r.Fetch(t.Context(), alice, q); ReasonOf(err) != ReasonCommitSignature || fault.KindOf(err) != fault.Denied || !strings.Contains(err.Error(), "not signed") {
			t.Fatal(err)
		}
		if _, err := r.Open(t.Context(), "team-a", "app", bad); fault.KindOf(err) != fault.Denied {
			t.Errorf("the unsigned one: %v", err)
		}
		if tree, err := r.Open(t.Context(), "team-a", "app", good); err != nil || read(t, tree, "a.yaml") != "one" {
			t.Errorf("the last good one: %v", err)
		}
	}
	if got := r.Counts().Transfers; got != transfers+1 {
		t.Errorf("what does not pass is transferred %d times", got-transfers)
	}
	if _, err := openCache(t, dir, DefaultLimits()).Open(t.Context(), "team-a", "app", bad); err == nil {
		t.Error("after a restart the unsigned one can be opened")
	}

	// Fetched without verification first: once it is asked for, the same revision is gone, on disk too.
	q.Verify = nil
	if _, err := r.Fetch(t.Context(), alice, q); err != nil {
		t.Fatal(err)
	}
	if _, err := r.Open(t.Context(), "team-a", "app", bad); err != nil {
		t.Fatal(err)
	}
	q.Verify = &Verify{Mode: ModeHEAD, Keys: keys.keys}
	if _, err := r.Fetch(t.Context(), alice, q); ReasonOf(err) != ReasonCommitSignature {
		t.Fatal(err)
	}
	for name, cache := range map[string]*Repositories{"now": r, "after a restart": openCache(t, dir, DefaultLimits())} {
		if _, err := cache.Open(t.Context(), "team-a", "app", bad); err == nil {
			t.Errorf("%s the unsigned one can be opened", name)
		}
	}
	// Signed, it comes back.
	g.sign(author)
	if got, err := r.Fetch(t.Context(), alice, q); err != nil || read(t, got.Tree, "a.yaml") != "two" {
		t.Fatal(err)
	}
}

// TestVerifiedOnce: the same commit and mode is not verified twice, whatever became of the keys; another mode, another tag
// object and a request are.
func TestVerifiedOnce(t *testing.T) {
	root, dir := t.TempDir(), t.TempDir()
	author := mustSigner(t)
	g := newGitRepo(t, root, "app.git")
	g.write("a.yaml", "one")
	g.push("one")
	g.sign(author)
	g.signTag("v1.0.0", author)
	remote := startHTTP(t, root, false).remote("app.git")
	r := openCache(t, dir, DefaultLimits())
	keys := keyringOf(author)
	try := func(mode Mode, again bool) error {
		t.Helper()
		_, err := r.Fetch(t.Context(), alice, Request{Remote: remote, Ref: Ref{Tag: "v1.0.0"}, Verify: &Verify{Mode: mode, Keys: keys.keys, Again: again}})
		return err
	}
	for i, step := range []struct {
		mode  Mode
		again bool
		asked int
	}{{ModeHEAD, false, 1}, {ModeHEAD, false, 1}, {ModeTag, false, 2}, {ModeTag, false, 2}, {ModeTag, true, 3}, {ModeHEAD, false, 4}, {ModeTagAndHEAD, false, 5}} {
		if err := try(step.mode, step.again); err != nil || keys.asked != step.asked {
			t.Fatalf("step %d: %v, keys asked for %d times", i, err, keys.asked)
		}
	}
	r = openCache(t, dir, DefaultLimits())
	if err := try(ModeTagAndHEAD, false); err != nil || keys.asked != 5 {
		t.Errorf("after a restart: %v, %d", err, keys.asked)
	}
	keys.err = errors.New("away")
	if err := try(ModeTagAndHEAD, true); err == nil {
		t.Error("the keys cannot be had")
	}
	if _, err := r.Open(t.Context(), "team-a", "app", "v1.0.0@sha1:"+g.git("rev-parse", "HEAD")); err != nil {
		t.Errorf("that the keys cannot be had does not take away what passed: %v", err)
	}
	keys.err = nil
	g.signTag("v1.0.0", mustSigner(t)) // the tag object alone changes; the revision does not
	if err := try(ModeTag, false); ReasonOf(err) != ReasonTagSignature {
		t.Errorf("another tag object of the same commit: %v", err)
	}
}

// TestVerifyRealObjects fetches a commit and a tag that gpg signed from a real server.
func TestVerifyRealObjects(t *testing.T) {
	root := t.TempDir()
	g := newGitRepo(t, root, "app.git")
	g.write("a.yaml", "a\n")
	g.git("add", "-A")
	g.git("write-tree")
	commit := g.object("commit", vector(t, "pgp-ed25519.commit"))
	g.git("update-ref", "refs/heads/main", commit)
	g.git("update-ref", "refs/tags/v1.0.0", g.object("tag", vector(t, "pgp-ed25519.tag")))
	g.git("push", "-q", "--tags", "origin", "main")
	keys := keyring{secret: keysOf(t, "alice.asc")}
	for _, remote := range []Remote{startHTTP(t, root, false).remote("app.git"), startSSH(t, root).remote("app.git")} {
		r := openCache(t, t.TempDir(), DefaultLimits())
		got, err := r.Fetch(t.Context(), alice, Request{Remote: remote, Ref: Ref{SemVer: "1.x"}, Verify: &Verify{Mode: ModeTagAndHEAD, Keys: keys.keys}})
		if err != nil || !strings.Contains(got.Verified.What, "tag 'v1.0.0@") || !strings.Contains(got.Verified.What, "commit '"+commit+"' with key '") {
			t.Errorf("%v %+v", err, got)
		}
	}
}

func FuzzSignedObjects(f *testing.F) {
	list, err := fs.Glob(os.DirFS("testdata/signed"), "*.*")
	if err != nil {
		f.Fatal(err)
	}
	for _, name := range list {
		f.Add(vector(f, name))
	}
	secret := keysOf(f, "alice.asc", "people.sshpub")
	keys, err := parseTrusted(secret)
	if err != nil {
		f.Fatal(err)
	}
	known := map[string]bool{}
	for _, name := range list {
		if s, err := taken(f, name, vector(f, name)); err == nil {
			known[string(s.payload)] = true
		}
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		for _, name := range []string{"x.commit", "x.tag"} {
			s, err := taken(t, name, raw)
			if err != nil {
				continue
			}
			if by, err := keys.check(s); err == nil && !known[string(s.payload)] {
				t.Errorf("forged: signed by %s:\n%s", by, raw)
			}
		}
		_, _ = parseKeyring(raw)
		_, _ = parseAuthorizedKeys(raw)
		_, _ = (trusted{}).check(signed{signature: string(raw)})
	})
}
