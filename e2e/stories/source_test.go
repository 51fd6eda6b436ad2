package stories

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"testing"

	authv1 "k8s.io/api/authentication/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"sealock.dev/sealock/e2e/harness"
)

// somebody is a public key whose private half nobody has.
const somebody = `-----BEGIN PGP PUBLIC KEY BLOCK-----

mDMEZZIAgBYJKwYBBAHaRw8BAQdA48MUVR47p4brK0/yU9pMoSCb5/xz4mhXH8nB
U7HwdAG0GUFsaWNlIDxhbGljZUBleGFtcGxlLmNvbT6IkAQTFggAOBYhBKDskK2U
srMdlghgBxgqYwotZcl6BQJlkgCAAhsjBQsJCAcCBhUKCQgLAgQWAgMBAh4BAheA
AAoJEBgqYwotZcl6ZcQA/2hqsRH1dzRRxr2jUy9h+l79uXMDOfrlM/YOUt912G0D
AP0Sfae1jYVVwdZ5bHNXoEBe/fPFvuJKV/sFrXvmc5EkAQ==
=LUdL
-----END PGP PUBLIC KEY BLOCK-----
`

// download asks for an artifact as a consumer of Flux's artifacts does, with a token or without.
func (tm *team) download(address, token string) (status int, body []byte) {
	tm.Helper()
	u, err := url.Parse(address)
	tm.ok(err)
	u.Host = fmt.Sprintf("127.0.0.1:%d", tm.Ports.Artifacts)
	req, err := http.NewRequestWithContext(tm.ctx, http.MethodGet, u.String(), nil)
	tm.ok(err)
	if token != "" {
		req.Header.Set("Authorization", "Bearer "+token)
	}
	res, err := http.DefaultClient.Do(req)
	tm.ok(err)
	defer res.Body.Close()
	body, err = io.ReadAll(res.Body)
	tm.ok(err)
	return res.StatusCode, body
}

// reader is a service account that may get GitRepositories in its own namespace; its token is returned.
func (tm *team) reader() string {
	tm.Helper()
	tm.apply(fmt.Sprintf(`
apiVersion: v1
kind: ServiceAccount
metadata: {name: artifact-reader, namespace: %[1]s}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata: {name: artifact-reader, namespace: %[1]s}
rules: [{apiGroups: [source.toolkit.fluxcd.io], resources: [gitrepositories], verbs: [get]}]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {name: artifact-reader, namespace: %[1]s}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: Role, name: artifact-reader}
subjects: [{kind: ServiceAccount, name: artifact-reader, namespace: %[1]s}]
`, tm.name))
	made, err := tm.Typed.CoreV1().ServiceAccounts(tm.name).CreateToken(tm.ctx, "artifact-reader", &authv1.TokenRequest{}, metav1.CreateOptions{})
	tm.ok(err)
	return made.Status.Token
}

// TestIncludeAndArtifact: what another GitRepository brings is applied with the commit, a change of it alone is found
// without anybody asking, and the artifact goes to who may get the object, and to nobody else.
func TestIncludeAndArtifact(t *testing.T) {
	t.Parallel()
	tm, other := newTeam(t, "including"), newTeam(t, "beside")
	_, err := tm.Push(tm.ctx, "including-lib", "lib", map[string]string{"base/lib.yaml": configMap("from-lib", "one")})
	tm.ok(err)
	first := tm.push(map[string]string{"deploy/own.yaml": configMap("own", "x")})
	lib := strings.NewReplacer("name: app", "name: lib", "including.git", "including-lib.git").Replace(tm.source("  ref: {branch: main}"))
	tm.apply(lib + tm.source("  ref: {branch: main}", "  include: [{repository: {name: lib}, fromPath: base, toPath: deploy/lib}]") + tm.sync("  path: ./deploy", "  targetNamespace: including"))
	tm.ok(tm.WaitReady(tm.ctx, patience, "including", "app", first))
	if tm.exists("v1", "ConfigMap", "from-lib") == nil || tm.exists("v1", "ConfigMap", "own") == nil {
		t.Fatal("not all of it was applied")
	}
	artifact := func() (address, digest string) {
		o, err := tm.Get(tm.ctx, srcAPI, "GitRepository", "including", "app")
		tm.ok(err)
		return str(o.Object, "status", "artifact", "url"), str(o.Object, "status", "artifact", "digest")
	}
	address, digest := artifact()
	own, foreign := tm.reader(), other.reader()
	status, body := tm.download(address, own)
	if sum := sha256.Sum256(body); status != http.StatusOK || "sha256:"+hex.EncodeToString(sum[:]) != digest {
		t.Errorf("its own artifact: %d, %d bytes", status, len(body))
	}
	latest := address[:strings.LastIndex(address, "/")] + "/latest.tar.gz"
	for _, each := range []string{address, latest} {
		for token, want := range map[string]int{"": http.StatusUnauthorized, "made.up": http.StatusUnauthorized, foreign: http.StatusForbidden, own: http.StatusOK} {
			if got, _ := tm.download(each, token); got != want {
				t.Errorf("%s answers %d, want %d", each, got, want)
			}
		}
	}
	_, err = tm.Push(tm.ctx, "including-lib", "lib", map[string]string{"base/lib.yaml": configMap("from-lib", "two")})
	tm.ok(err)
	_, err = tm.Reconcile(tm.ctx, srcAPI, "GitRepository", "including", "lib")
	tm.ok(err)
	tm.ok(tm.Wait(tm.ctx, patience, "the change of what is included to be applied", func(context.Context) (bool, error) {
		return str(tm.exists("v1", "ConfigMap", "from-lib"), "data", "value") == "two", nil
	}))
	if address, now := artifact(); now == digest || !strings.Contains(address, first) {
		t.Errorf("%s %s", address, now)
	}
}

// TestUnsignedCommitIsNotApplied: with spec.verify a commit that nobody trusted has signed is not stored and not applied,
// and what runs keeps running.
func TestUnsignedCommitIsNotApplied(t *testing.T) {
	t.Parallel()
	tm := newTeam(t, "unsigned")
	first := tm.push(map[string]string{"deploy/a.yaml": configMap("a", "one")})
	tm.apply(tm.source("  ref: {branch: main}") + tm.sync("  path: ./deploy", "  targetNamespace: unsigned"))
	tm.ok(tm.WaitReady(tm.ctx, patience, "unsigned", "app", first))
	tm.apply(secretYAML("unsigned", "authors", map[string]string{"somebody.asc": somebody}))
	second := tm.push(map[string]string{"deploy/a.yaml": configMap("a", "two")})
	tm.apply(tm.source("  ref: {branch: main}", "  verify: {mode: HEAD, secretRef: {name: authors}}"))
	_, err := tm.WaitCondition(tm.ctx, patience, srcAPI, "GitRepository", "unsigned", "app", "SourceVerified", "False", "InvalidCommitSignature")
	tm.ok(err)
	o, err := tm.Get(tm.ctx, srcAPI, "GitRepository", "unsigned", "app")
	tm.ok(err)
	if got := str(o.Object, "status", "artifact", "revision"); strings.HasSuffix(got, second) {
		t.Error("the unsigned commit has an artifact")
	}
	if status, reason, _ := harness.Condition(o, "Ready"); status != "False" || reason != "InvalidCommitSignature" {
		t.Errorf("Ready is %s %s", status, reason)
	}
	_, err = tm.Reconcile(tm.ctx, ksAPI, "Kustomization", "unsigned", "app")
	tm.ok(err)
	if got := str(tm.exists("v1", "ConfigMap", "a"), "data", "value"); got != "one" {
		t.Errorf("what runs is %q", got)
	}
}
