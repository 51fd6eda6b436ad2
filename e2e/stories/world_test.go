// Package stories holds what users do with Sealock, as tests: the built programs against a real control plane, a real
// Vault and a real Git server. Each story has a tenant of its own, so that they run side by side in one world.
package stories

import (
	"context"
	"crypto/rand"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"sealock.dev/sealock/e2e/harness"
)

const (
	patience = 90 * time.Second
	ksAPI    = "kustomize.toolkit.fluxcd.io/v1"
	srcAPI   = "source.toolkit.fluxcd.io/v1"
)

// world is shared by the stories; the one that restarts the controller runs alone.
var world *harness.World

// posted is told of events, as Flux's notification-controller is.
var posted *receiver

func TestMain(m *testing.M) { os.Exit(run(m)) }

func run(m *testing.M) int {
	dir, err := os.MkdirTemp("", "stories")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	bin, err := filepath.Abs("../../bin")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	defer cancel()
	posted = newReceiver()
	defer posted.Close()
	world, err = harness.Start(ctx, harness.Options{Dir: dir, Bin: bin, Devcluster: []string{"--audit-log"}, Controller: []string{"--events-addr", posted.URL}, Say: func(f string, a ...any) { fmt.Fprintf(os.Stderr, f+"\n", a...) }})
	if err != nil {
		fmt.Fprintln(os.Stderr, "starting the world:", err)
		return 1
	}
	code := m.Run()
	if err := world.Stop(); err != nil {
		fmt.Fprintln(os.Stderr, "stopping the world:", err)
		code = 1
	}
	if code != 0 {
		fmt.Fprintf(os.Stderr, "last lines of the controller's log:\n%s\n", world.LogTail(40))
	}
	return code
}

// team is a tenant with a repository, a namespace of the same name and keys of its own.
type team struct {
	*testing.T
	*harness.World
	ctx       context.Context
	name      string
	recipient string
	identity  string
}

// newTeam makes a tenant and everything that belongs to it, but no Kustomization.
func newTeam(t *testing.T, name string, spec ...string) *team {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	t.Cleanup(cancel)
	tm := &team{T: t, World: world, ctx: ctx, name: name}
	var err error
	tm.identity, tm.recipient, err = world.AgeKey(ctx)
	tm.ok(err)
	tm.apply(secretYAML(harness.SystemNamespace, name+"-age", map[string]string{"keys.agekey": tm.identity}))
	tm.apply(fmt.Sprintf(`
apiVersion: sealock.dev/v1alpha1
kind: Tenant
metadata: {name: %[1]s}
spec:
  namespaces: [{name: %[1]s}]
  serviceAccounts: [reconciler]
  decryption: {secretRef: {name: %[1]s-age}}
  vault: {servers: ["%[2]s"], paths: ["secret/tenants/%[1]s/*"], roles: [%[1]s]}
%[3]s`, name, world.Env["VAULT_ADDR"], strings.Join(spec, "\n")))
	_, err = world.WaitCondition(ctx, patience, "sealock.dev/v1alpha1", "Tenant", "", name, "Ready", "True", "")
	tm.ok(err)
	tm.ok(world.VaultRole(ctx, name, name, "vault-reader", "tenants/"+name))
	tm.apply(secretYAML(name, "git-credentials", map[string]string{"username": world.Env["GIT_USERNAME"], "password": world.Env["GIT_PASSWORD"]}))
	return tm
}

func (tm *team) ok(err error) {
	tm.Helper()
	if err != nil {
		tm.Fatal(err)
	}
}

func (tm *team) apply(text string) { tm.Helper(); tm.ok(tm.World.Apply(tm.ctx, text)) }

func (tm *team) push(files map[string]string) string {
	tm.Helper()
	commit, err := tm.Push(tm.ctx, tm.name, "change", files)
	tm.ok(err)
	return commit
}

// source is the team's GitRepository over HTTP, with further lines of its spec.
func (tm *team) source(extra ...string) string {
	return fmt.Sprintf(`
apiVersion: source.toolkit.fluxcd.io/v1
kind: GitRepository
metadata: {name: app, namespace: %s}
spec:
  interval: 10m
  url: %s/%s.git
  secretRef: {name: git-credentials}
%s
---
`, tm.name, tm.Env["GIT_HTTP_URL"], tm.name, strings.Join(extra, "\n"))
}

// sync is the team's Kustomization, with further lines of its spec.
func (tm *team) sync(extra ...string) string {
	return fmt.Sprintf(`
apiVersion: kustomize.toolkit.fluxcd.io/v1
kind: Kustomization
metadata: {name: app, namespace: %s}
spec:
  interval: 10m
  retryInterval: 5s
  timeout: 1m
  prune: true
  sourceRef: {kind: GitRepository, name: app}
  decryption: {provider: sops}
%s
---
`, tm.name, strings.Join(extra, "\n"))
}

// deliver pushes files and waits until they are in the cluster.
func (tm *team) deliver(files map[string]string) string {
	tm.Helper()
	commit := tm.push(files)
	tm.fetch()
	tm.ok(tm.WaitReady(tm.ctx, patience, tm.name, "app", commit))
	return commit
}

// fetch asks the source to look at once.
func (tm *team) fetch() {
	tm.Helper()
	_, err := tm.Reconcile(tm.ctx, srcAPI, "GitRepository", tm.name, "app")
	tm.ok(err)
}

// refused pushes files and waits until the Kustomization says that this commit is not applied; it returns the message.
func (tm *team) refused(files map[string]string, reason string) string {
	tm.Helper()
	commit := tm.push(files)
	tm.fetch()
	return tm.refusedAt(commit, reason)
}

func (tm *team) refusedAt(commit, reason string) string {
	tm.Helper()
	var message, last string
	err := tm.Wait(tm.ctx, patience, "commit "+commit+" to be refused", func(ctx context.Context) (bool, error) {
		o, err := tm.Get(ctx, ksAPI, "Kustomization", tm.name, "app")
		if err != nil || o == nil {
			return false, err
		}
		status, r, m := harness.Condition(o, "Ready")
		last = status + " " + r + ": " + m
		message = m
		attempted := str(o.Object, "status", "lastAttemptedRevision")
		return status == "False" && r == reason && strings.HasSuffix(attempted, commit), nil
	})
	if err != nil {
		tm.Fatalf("%v; last: %s", err, last)
	}
	return message
}

func str(o map[string]any, path ...string) string {
	var v any = o
	for _, p := range path {
		m, ok := v.(map[string]any)
		if !ok {
			return ""
		}
		v = m[p]
	}
	s, _ := v.(string)
	return s
}

func (tm *team) sops(name, plain string) string {
	tm.Helper()
	out, err := tm.Sops(tm.ctx, name, plain, tm.recipient, "--encrypted-regex", "^(data|stringData)$")
	tm.ok(err)
	return out
}

func (tm *team) seal(plain string, args ...string) string {
	tm.Helper()
	out, err := tm.Seal(tm.ctx, plain, args...)
	tm.ok(err)
	return out
}

func (tm *team) data(name string) map[string]string {
	tm.Helper()
	out, err := tm.SecretData(tm.ctx, tm.name, name)
	tm.ok(err)
	return out
}

// exists reads an object of the team's namespace; nil when there is none.
func (tm *team) exists(apiVersion, kind, name string) map[string]any {
	tm.Helper()
	o, err := tm.Get(tm.ctx, apiVersion, kind, tm.name, name)
	tm.ok(err)
	if o == nil {
		return nil
	}
	return o.Object
}

func secretYAML(namespace, name string, data map[string]string) string {
	text := fmt.Sprintf("apiVersion: v1\nkind: Secret\nmetadata:\n  name: %s\n  namespace: %s\nstringData:\n", name, namespace)
	for k, v := range data {
		text += fmt.Sprintf("  %s: %q\n", k, v)
	}
	return text + "---\n"
}

func configMap(name, value string) string {
	return fmt.Sprintf("apiVersion: v1\nkind: ConfigMap\nmetadata: {name: %s}\ndata: {value: %q}\n", name, value)
}

func deployment(name, secret string) string {
	return fmt.Sprintf(`apiVersion: apps/v1
kind: Deployment
metadata: {name: %[1]s}
spec:
  replicas: 1
  selector: {matchLabels: {app: %[1]s}}
  template:
    metadata: {labels: {app: %[1]s}}
    spec:
      containers:
      - name: main
        image: example.com/app:1
        env:
        - {name: PASSWORD, valueFrom: {secretKeyRef: {name: %[2]s, key: password}}}
`, name, secret)
}

// vaultSecret is an ExternalSecret with its store and the service account that logs in.
func (tm *team) vaultSecret(version, name, key string) string {
	return fmt.Sprintf(`apiVersion: v1
kind: ServiceAccount
metadata: {name: vault-reader}
---
apiVersion: external-secrets.io/%[1]s
kind: SecretStore
metadata: {name: vault}
spec:
  provider:
    vault:
      server: %[2]s
      path: secret
      version: v2
      auth: {kubernetes: {mountPath: kubernetes, role: %[3]s, serviceAccountRef: {name: vault-reader}}}
---
apiVersion: external-secrets.io/%[1]s
kind: ExternalSecret
metadata: {name: %[4]s}
spec:
  refreshInterval: 1h
  secretStoreRef: {name: vault, kind: SecretStore}
  target:
    name: %[4]s
    template:
      data: {url: "postgresql://{{ .user }}:{{ .password }}@db/app", password: "{{ .password }}"}
  data:
  - {secretKey: user, remoteRef: {key: tenants/%[3]s/%[5]s, property: user}}
  - {secretKey: password, remoteRef: {key: tenants/%[3]s/%[5]s, property: password}}
`, version, tm.Env["VAULT_ADDR"], tm.name, name, key)
}

func canary() string { return "canary" + rand.Text() }
