package gitrepository

import (
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha512"
	"encoding/base64"
	"io/fs"
	"os"
	"os/exec"
	"strings"
	"testing"

	sourcev1 "github.com/fluxcd/source-controller/api/v1"
	"github.com/google/go-cmp/cmp"
	"golang.org/x/crypto/ssh"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// data makes a Secret with the pairs, or changes it.
func (b *bench) data(name string, pairs ...string) {
	b.t.Helper()
	s := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: b.namespace, Name: name}, StringData: map[string]string{}}
	for i := 0; i < len(pairs); i += 2 {
		s.StringData[pairs[i]] = pairs[i+1]
	}
	err := b.client.Create(b.t.Context(), s)
	if err != nil {
		err = b.client.Update(b.t.Context(), s)
	}
	if err != nil {
		b.t.Fatal(err)
	}
}

func signer(t testing.TB) (ssh.Signer, string) {
	t.Helper()
	_, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	s, err := ssh.NewSignerFromKey(private)
	if err != nil {
		t.Fatal(err)
	}
	return s, string(ssh.MarshalAuthorizedKey(s.PublicKey()))
}

// sign replaces HEAD by the same commit with a signature, and pushes it.
func (b *bench) sign(s ssh.Signer) string {
	b.t.Helper()
	raw := b.git(b.work, "cat-file", "commit", "HEAD") + "\n"
	headers, message, _ := strings.Cut(raw, "\n\n")
	sum := sha512.Sum512([]byte(raw))
	sig, err := s.Sign(rand.Reader, append([]byte("SSHSIG"), ssh.Marshal(struct {
		A, B, C string
		D       []byte
	}{"git", "", "sha512", sum[:]})...))
	if err != nil {
		b.t.Fatal(err)
	}
	blob := append([]byte("SSHSIG"), ssh.Marshal(struct {
		Version             uint32
		Key                 []byte
		Space, Reserved, Of string
		Sig                 []byte
	}{1, s.PublicKey().Marshal(), "git", "", "sha512", ssh.Marshal(sig)})...)
	cmd := exec.Command("git", "hash-object", "-t", "commit", "-w", "--stdin")
	cmd.Dir = b.work
	cmd.Stdin = strings.NewReader(headers + "\ngpgsig -----BEGIN SSH SIGNATURE-----\n " + base64.StdEncoding.EncodeToString(blob) + "\n -----END SSH SIGNATURE-----\n\n" + message)
	out, err := cmd.Output()
	if err != nil {
		b.t.Fatal(err)
	}
	made := strings.TrimSpace(string(out))
	b.git(b.work, "reset", "-q", "--hard", made)
	b.git(b.work, "push", "-q", "-f", "origin", "HEAD")
	return made
}

func verify(mode string) func(*sourcev1.GitRepository) {
	return func(r *sourcev1.GitRepository) {
		r.Spec.Verification = &sourcev1.GitRepositoryVerification{Mode: sourcev1.GitVerificationMode(mode), SecretRef: secretRef{Name: "authors"}}
	}
}

// TestVerify follows spec.verify through its life: every reason of SourceVerified, status.sourceVerificationMode, and that
// nothing unverified is stored or opened.
// contract: GitRepository spec.verify.mode, spec.verify.secretRef.name, status.sourceVerificationMode, condition SourceVerified
// contract: GitRepository reason InvalidCommitSignature, reason InvalidTagSignature, reason InvalidGitObject, reason VerificationError, reason InvalidVerificationMode
func TestVerify(t *testing.T) {
	b := newBench(t)
	b.secret("git-credentials", b.dc.Env["GIT_PASSWORD"])
	author, public := signer(t)
	_, stranger := signer(t)
	b.push("a.yaml", "one", "one")
	good := "main@sha1:" + b.sign(author)
	b.create("app", verify(""))
	expect := func(repo *sourcev1.GitRepository, verified, ready string, artifact string) {
		t.Helper()
		if got := condition(repo, "SourceVerified"); !strings.HasPrefix(got, verified) || verified == "" && got != "" {
			t.Errorf("SourceVerified is %q", got)
		}
		if got := condition(repo, "Ready"); !strings.HasPrefix(got, ready) {
			t.Errorf("Ready is %q", got)
		}
		if a := repo.Status.Artifact; (a == nil) != (artifact == "") || a != nil && a.Revision != artifact {
			t.Errorf("artifact %+v", a)
		}
		if t.Failed() {
			t.FailNow()
		}
	}
	repo, _, _, res, _ := b.reconcile("app")
	expect(repo, `False VerificationError spec.verify.secretRef: Secret "authors" not found`, "False VerificationError", "")
	if res.RequeueAfter == 0 || condition(repo, "FetchFailed") != "" || condition(repo, "ArtifactInStorage") != "" || len(b.stored()) != 0 {
		t.Errorf("%+v, stored %v", repo.Status.Conditions, b.stored())
	}
	b.data("authors", "x.sshpub", "junk")
	repo, _, _, _, _ = b.reconcile("app")
	expect(repo, "False VerificationError spec.verify.secretRef: x.sshpub: ", "False VerificationError", "")
	b.data("authors", "x.sshpub", stranger)
	repo, _, events, _, _ := b.reconcile("app")
	expect(repo, "False InvalidCommitSignature ", "False InvalidCommitSignature ", "")
	if len(events) != 1 || !strings.HasPrefix(events[0], "Warning InvalidCommitSignature") || len(b.stored()) != 0 {
		t.Errorf("%q, stored %v", events, b.stored())
	}
	b.data("authors", "x.sshpub", public)
	repo, _, events, _, err := b.reconcile("app")
	expect(repo, "True Succeeded verified signature of commit '", "True Succeeded ", good)
	if err != nil || *repo.Status.SourceVerificationMode != "HEAD" || !strings.Contains(strings.Join(events, "\n"), "Normal Succeeded verified signature of commit") {
		t.Errorf("%v %v %q", err, repo.Status.SourceVerificationMode, events)
	}
	// The keys change without a new revision: it stays, and nothing is written.
	b.data("authors", "x.sshpub", stranger)
	if _, writes, events, _, err := b.reconcile("app"); err != nil || writes != 0 || len(events) != 0 {
		t.Errorf("%v, %d writes, %q", err, writes, events)
	}
	// A new revision by nobody: the last good one stays.
	b.data("authors", "x.sshpub", public)
	bad := "main@sha1:" + b.push("a.yaml", "two", "unsigned")
	repo, _, _, _, _ = b.reconcile("app")
	expect(repo, "False InvalidCommitSignature ", "False InvalidCommitSignature ", good)
	if _, err := b.r.Repositories.Open(t.Context(), b.namespace, "app", good); err != nil {
		t.Error(err)
	}
	if _, err := b.r.Repositories.Open(t.Context(), b.namespace, "app", bad); err == nil || len(b.stored()) != 1 {
		t.Errorf("the unsigned one is there: %v, stored %v", err, b.stored())
	}
	if _, writes, events, _, _ := b.reconcile("app"); writes != 0 || len(events) != 0 {
		t.Errorf("the same failure: %d writes, %q", writes, events)
	}
	// Without verification it is served; asked for again, it is taken back.
	b.change("app", func(r *sourcev1.GitRepository) { r.Spec.Verification = nil })
	repo, _, _, _, _ = b.reconcile("app")
	expect(repo, "", "True ", bad)
	if repo.Status.SourceVerificationMode != nil {
		t.Error("the mode stays")
	}
	b.change("app", verify("head"))
	repo, _, _, _, _ = b.reconcile("app")
	expect(repo, "False InvalidCommitSignature ", "False ", "")
	if condition(repo, "ArtifactInStorage") != "" || strings.Contains(strings.Join(b.stored(), " "), bad[len("main@sha1:"):]) {
		t.Errorf("stored %v", b.stored())
	}
	b.sign(author)
	b.git(b.work, "tag", "v1.0.0")
	b.git(b.work, "push", "-q", "--tags", "origin")
	repo, _, _, _, _ = b.reconcile("app")
	expect(repo, "True Succeeded ", "True ", "main@sha1:"+b.git(b.work, "rev-parse", "HEAD"))
	if *repo.Status.SourceVerificationMode != "HEAD" {
		t.Errorf("head is %q", *repo.Status.SourceVerificationMode)
	}
	// Modes of tags.
	artifact := repo.Status.Artifact.Revision
	b.change("app", verify("Tag"))
	repo, _, _, res, _ = b.reconcile("app")
	expect(repo, "False InvalidVerificationMode ", "False InvalidVerificationMode ", artifact)
	if !strings.HasPrefix(condition(repo, "Stalled"), "True InvalidVerificationMode") || res.RequeueAfter != 0 {
		t.Errorf("%+v", repo.Status.Conditions)
	}
	b.change("app", func(r *sourcev1.GitRepository) { r.Spec.Reference = &sourcev1.GitRepositoryRef{Tag: "v1.0.0"} })
	repo, _, _, _, _ = b.reconcile("app")
	expect(repo, "False InvalidGitObject ", "False InvalidGitObject ", artifact)
	b.git(b.work, "tag", "-f", "-a", "-m", "annotated", "v1.0.0")
	b.git(b.work, "push", "-q", "-f", "--tags", "origin")
	repo, _, _, _, _ = b.reconcile("app")
	expect(repo, "False InvalidTagSignature ", "False InvalidTagSignature ", artifact)
	b.change("app", verify("HEAD"))
	repo, _, _, _, _ = b.reconcile("app")
	expect(repo, "True Succeeded ", "True ", "v1.0.0@sha1:"+b.git(b.work, "rev-parse", "HEAD"))
}

// stored lists the artifacts on disk.
func (b *bench) stored() (out []string) {
	b.t.Helper()
	root := b.dir + "/artifacts"
	err := fs.WalkDir(os.DirFS(root), ".", func(name string, d fs.DirEntry, err error) error {
		if err == nil && d.Type().IsRegular() {
			out = append(out, name)
		}
		return nil
	})
	if err != nil {
		b.t.Fatal(err)
	}
	return out
}

// TestIncludeOfAnotherRepository: spec.include and its conditions, status.observedInclude and status.includedArtifacts.
// contract: GitRepository spec.include[].repository.name, spec.include[].fromPath, spec.include[].toPath, status.observedInclude[].repository.name, status.observedInclude[].fromPath, status.observedInclude[].toPath
// contract: GitRepository status.observedSparseCheckout[], condition IncludeUnavailable, reason NotFound, reason NoArtifact, condition StorageOperationFailed, reason InvalidPath, reason CopyFailure
func TestIncludeOfAnotherRepository(t *testing.T) {
	b := newBench(t)
	b.secret("git-credentials", b.dc.Env["GIT_PASSWORD"])
	b.push("lib/a.yaml", "one", "one")
	b.push("app.yaml", "app", "app")
	include := func(name, from, to string) sourcev1.GitRepositoryInclude {
		return sourcev1.GitRepositoryInclude{GitRepositoryRef: secretRef{Name: name}, FromPath: from, ToPath: to}
	}
	b.create("app", func(r *sourcev1.GitRepository) {
		r.Spec.Include = []sourcev1.GitRepositoryInclude{include("lib", "lib", "")}
		only := "/*\n!/app.yaml\n!/lib/\n"
		r.Spec.SparseCheckout = []string{"."}
		r.Spec.Ignore = &only
	})
	repo, _, _, res, err := b.reconcile("app")
	if err != nil || res.RequeueAfter == 0 || !strings.HasPrefix(condition(repo, "IncludeUnavailable"), "True NotFound GitRepository/"+b.namespace+"/lib: spec.include: ") || !strings.HasPrefix(condition(repo, "Ready"), "False NotFound ") {
		t.Fatalf("%v %+v", err, repo.Status.Conditions)
	}
	b.create("lib", nil)
	repo, _, _, _, _ = b.reconcile("app")
	if !strings.HasPrefix(condition(repo, "IncludeUnavailable"), "True NoArtifact ") {
		t.Fatalf("%+v", repo.Status.Conditions)
	}
	lib, _, _, _, err := b.reconcile("lib")
	if err != nil {
		t.Fatal(err)
	}
	// The repository itself has a folder lib: it is refused, not mixed.
	repo, _, _, _, _ = b.reconcile("app")
	if !strings.HasPrefix(condition(repo, "StorageOperationFailed"), "True CopyFailure spec.include.toPath: ") || condition(repo, "IncludeUnavailable") != "" {
		t.Fatalf("%+v", repo.Status.Conditions)
	}
	for _, bad := range []sourcev1.GitRepositoryInclude{include("lib", "../..", "x"), include("lib", "lib", "../other")} {
		b.change("app", func(r *sourcev1.GitRepository) { r.Spec.Include = []sourcev1.GitRepositoryInclude{bad} })
		repo, _, _, res, _ = b.reconcile("app")
		if !strings.HasPrefix(condition(repo, "StorageOperationFailed"), "True InvalidPath spec.include.") || condition(repo, "Stalled") == "" || res.RequeueAfter != 0 {
			t.Fatalf("%+v", repo.Status.Conditions)
		}
	}
	want := []sourcev1.GitRepositoryInclude{include("lib", "lib", "vendor/lib")}
	b.change("app", func(r *sourcev1.GitRepository) {
		only := "/*\n!/app.yaml\n!/vendor/\n"
		r.Spec.Ignore, r.Spec.Include = &only, want
	})
	repo, _, _, _, err = b.reconcile("app")
	if err != nil || !strings.HasPrefix(condition(repo, "Ready"), "True ") || condition(repo, "StorageOperationFailed") != "" || condition(repo, "Stalled") != "" {
		t.Fatalf("%v %+v", err, repo.Status.Conditions)
	}
	if diff := cmp.Diff(want, repo.Status.ObservedInclude); diff != "" {
		t.Error(diff)
	}
	if got := repo.Status.IncludedArtifacts; len(got) != 1 || got[0].Digest != lib.Status.Artifact.Digest {
		t.Errorf("%+v", got)
	}
	if diff := cmp.Diff([]string{"."}, repo.Status.ObservedSparseCheckout); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff([]string{"app.yaml", "vendor/lib/a.yaml"}, b.artifactFiles(repo.Status.Artifact.Path)); diff != "" {
		t.Error(diff)
	}
	if _, writes, events, _, err := b.reconcile("app"); err != nil || writes != 0 || len(events) != 0 {
		t.Errorf("nothing changed: %v, %d writes, %q", err, writes, events)
	}
	// Only what is included changes: the revision stays, the digest does not, and it is seen to happen.
	b.git(b.work, "checkout", "-q", "-b", "next")
	b.push("lib/a.yaml", "two", "two")
	b.change("lib", func(r *sourcev1.GitRepository) { r.Spec.Reference.Branch = "next" })
	if _, _, _, _, err := b.reconcile("lib"); err != nil {
		t.Fatal(err)
	}
	before := repo.Status.Artifact
	repo, writes, events, _, err := b.reconcile("app")
	if err != nil || writes != 2 || repo.Status.Artifact.Revision != before.Revision || repo.Status.Artifact.Digest == before.Digest || len(events) != 1 || !strings.HasPrefix(events[0], "Normal NewArtifact") {
		t.Errorf("%v, %d writes, %q", err, writes, events)
	}
	tree, err := b.r.Repositories.Open(t.Context(), b.namespace, "app", before.Revision)
	if err != nil {
		t.Fatal(err)
	}
	if body, err := fs.ReadFile(tree, "vendor/lib/a.yaml"); string(body) != "two" {
		t.Errorf("%q %v", body, err)
	}
	// A loop, through another one, is told by name.
	b.change("lib", func(r *sourcev1.GitRepository) {
		r.Spec.Include = []sourcev1.GitRepositoryInclude{include("mid", "", "")}
	})
	b.create("mid", func(r *sourcev1.GitRepository) {
		r.Spec.Include = []sourcev1.GitRepositoryInclude{include("app", "", "")}
	})
	repo, _, _, res, _ = b.reconcile("app")
	if !strings.HasPrefix(condition(repo, "IncludeUnavailable"), "True IncludeLoop GitRepository/"+b.namespace+"/lib: ") || condition(repo, "Stalled") == "" || res.RequeueAfter == 0 || repo.Status.Artifact == nil {
		t.Errorf("%+v", repo.Status.Conditions)
	}
}

// TestProgressIsSeen: while objects are transferred, the object says what is being built; Ready is not a lie meanwhile.
// contract: GitRepository reason Progressing, event GitOperationSucceeded
func TestProgressIsSeen(t *testing.T) {
	b := newBench(t)
	b.secret("git-credentials", b.dc.Env["GIT_PASSWORD"])
	b.push("a.yaml", "one", "one")
	b.create("app", nil)
	if _, _, _, _, err := b.reconcile("app"); err != nil {
		t.Fatal(err)
	}
	second := b.push("a.yaml", "two", "two")
	repo := b.get("app")
	b.r.progress(t.Context(), repo, reasonNewRevision, "new upstream revision 'main@sha1:"+second+"'")
	repo = b.get("app")
	text := "new upstream revision 'main@sha1:" + second + "'"
	for typ, want := range map[string]string{
		"Reconciling": "True Progressing building artifact: " + text, "Ready": "Unknown Progressing building artifact: " + text, "ArtifactOutdated": "True NewRevision " + text,
	} {
		if got := condition(repo, typ); got != want {
			t.Errorf("%s is %q", typ, got)
		}
	}
	repo, writes, _, _, err := b.reconcile("app")
	if err != nil || writes > 2 || condition(repo, "ArtifactOutdated") != "" || condition(repo, "Reconciling") != "" || !strings.HasPrefix(condition(repo, "Ready"), "True ") {
		t.Errorf("%v, %d writes, %+v", err, writes, repo.Status.Conditions)
	}
	// Asked for: nobody is notified of it, who looks sees it.
	b.change("app", func(r *sourcev1.GitRepository) { r.Annotations = map[string]string{requestedAt: "now"} })
	if _, _, events, _, _ := b.reconcile("app"); len(events) != 1 || !strings.Contains(events[0], "Normal GitOperationSucceeded no changes since last reconciliation: observed revision 'main@sha1:"+second+"'") || !strings.Contains(events[0], TraceAnnotation) {
		t.Errorf("%q", events)
	}
}

// TestProviderGithubNeedsItsKeys: InvalidProviderConfiguration stalls until the object or its Secret changes.
// contract: GitRepository spec.provider, reason InvalidProviderConfiguration
func TestProviderGithubNeedsItsKeys(t *testing.T) {
	b := newBench(t)
	b.secret("git-credentials", b.dc.Env["GIT_PASSWORD"])
	b.push("a.yaml", "one", "one")
	b.data("app-key", "githubAppID", "1")
	b.create("github", func(r *sourcev1.GitRepository) { r.Spec.Provider = "github" })
	b.create("generic", func(r *sourcev1.GitRepository) { r.Spec.Provider, r.Spec.SecretRef.Name = "generic", "app-key" })
	b.create("proxied", func(r *sourcev1.GitRepository) { r.Spec.ProxySecretRef = &secretRef{Name: "gone"} })
	for name, want := range map[string]string{"github": "InvalidProviderConfiguration spec.secretRef: ", "generic": "InvalidProviderConfiguration spec.provider: ", "proxied": "AuthenticationFailed spec.proxySecretRef: "} {
		repo, _, _, res, err := b.reconcile(name)
		if err != nil || !strings.HasPrefix(condition(repo, "FetchFailed"), "True "+want) || res.RequeueAfter == 0 || (condition(repo, "Stalled") != "") != (name != "proxied") {
			t.Errorf("%s: %v %+v", name, err, repo.Status.Conditions)
		}
	}
}

// TestRecurseSubmodulesIsObserved: status.observedRecurseSubmodules, and a new artifact when the field changes.
// contract: GitRepository spec.recurseSubmodules, status.observedRecurseSubmodules, spec.sparseCheckout[]
func TestRecurseSubmodulesIsObserved(t *testing.T) {
	b := newBench(t)
	b.secret("git-credentials", b.dc.Env["GIT_PASSWORD"])
	commit := b.push("a.yaml", "one", "one")
	b.git(b.work, "update-index", "--add", "--cacheinfo", "160000,"+commit+",older")
	b.git(b.work, "config", "-f", ".gitmodules", "submodule.older.path", "older")
	b.git(b.work, "config", "-f", ".gitmodules", "submodule.older.url", "./")
	b.git(b.work, "add", ".gitmodules")
	b.git(b.work, "commit", "-q", "-m", "with a submodule")
	b.git(b.work, "push", "-q", "origin", "HEAD")
	b.create("app", nil)
	repo, _, _, _, err := b.reconcile("app")
	if err != nil || repo.Status.ObservedRecurseSubmodules {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"a.yaml"}, b.artifactFiles(repo.Status.Artifact.Path)); diff != "" {
		t.Error(diff)
	}
	b.change("app", func(r *sourcev1.GitRepository) { r.Spec.RecurseSubmodules = true })
	repo, _, _, _, err = b.reconcile("app")
	if err != nil || !repo.Status.ObservedRecurseSubmodules {
		t.Fatalf("%v %+v", err, repo.Status.Conditions)
	}
	if diff := cmp.Diff([]string{"a.yaml", "older/a.yaml"}, b.artifactFiles(repo.Status.Artifact.Path)); diff != "" {
		t.Error(diff)
	}
	b.change("app", func(r *sourcev1.GitRepository) { r.Spec.SparseCheckout = []string{"older"} })
	repo, _, _, _, err = b.reconcile("app")
	if diff := cmp.Diff([]string{"older/a.yaml"}, b.artifactFiles(repo.Status.Artifact.Path)); err != nil || diff != "" || len(repo.Status.ObservedSparseCheckout) != 1 {
		t.Errorf("%v %s", err, diff)
	}
	if _, writes, _, _, err := b.reconcile("app"); err != nil || writes != 0 {
		t.Errorf("nothing changed: %v, %d writes", err, writes)
	}
	b.change("app", func(r *sourcev1.GitRepository) { r.Spec.SparseCheckout = []string{"../x"} })
	if repo, _, _, _, _ = b.reconcile("app"); !strings.HasPrefix(condition(repo, "Stalled"), "True InvalidPath spec.sparseCheckout: ") {
		t.Errorf("%+v", repo.Status.Conditions)
	}
}
