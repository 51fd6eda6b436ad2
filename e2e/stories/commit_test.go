package stories

import (
	"context"
	"strconv"
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"sealock.dev/sealock/e2e/harness"
)

// TestOneCommit: a commit with all three kinds of secrets and a workload that uses them becomes healthy; its Secrets
// are there before the workload is written; a change is applied, and what leaves Git is pruned.
// contract: Kustomization event deleted
// contract: Object field manager kustomize-controller
func TestOneCommit(t *testing.T) {
	t.Parallel()
	tm := newTeam(t, "commit")
	pw := map[string]string{"sops": canary(), "sealed": canary(), "vault": canary()}
	tm.ok(tm.VaultPut(tm.ctx, "tenants/commit/db", map[string]any{"user": "app", "password": pw["vault"]}))
	files := map[string]string{
		"deploy/sops.yaml":   tm.sops("s.yaml", secretYAML("commit", "from-sops", map[string]string{"password": pw["sops"]})),
		"deploy/sealed.yaml": tm.seal(secretYAML("commit", "from-seal", map[string]string{"password": pw["sealed"]})),
		"deploy/vault.yaml":  tm.vaultSecret("v1beta1", "from-vault", "db"),
		"deploy/a.yaml":      deployment("a", "from-sops"),
		"deploy/b.yaml":      deployment("b", "from-seal"),
		"deploy/c.yaml":      deployment("c", "from-vault"),
		"other/ignored.yaml": configMap("outside-path", "x"),
	}
	first := tm.push(files)
	tm.apply(tm.source("  ref: {branch: main}") + tm.sync("  path: ./deploy", "  wait: true", "  targetNamespace: commit"))
	tm.ok(tm.WaitReady(tm.ctx, patience, "commit", "app", first))

	if got := tm.data("from-sops")["password"]; got != pw["sops"] {
		t.Error("SOPS")
	}
	if got := tm.data("from-seal")["password"]; got != pw["sealed"] {
		t.Error("sealed")
	}
	if got := tm.data("from-vault"); got["password"] != pw["vault"] || got["url"] != "postgresql://app:"+pw["vault"]+"@db/app" || len(got) != 2 {
		t.Error("Vault")
	}
	if tm.exists("v1", "ConfigMap", "outside-path") != nil {
		t.Error("a file outside spec.path was applied")
	}
	var newest int
	for _, name := range []string{"from-sops", "from-seal", "from-vault"} {
		s, err := tm.Typed.CoreV1().Secrets("commit").Get(tm.ctx, name, metav1.GetOptions{})
		tm.ok(err)
		if rv, _ := strconv.Atoi(s.ResourceVersion); rv > newest {
			newest = rv
		}
	}
	audit, err := tm.Audit()
	tm.ok(err)
	if i, j := audit.Index("create|patch|update", "secrets", "commit", "from-vault"), audit.Index("patch", "deployments", "commit", "a"); i < 0 || j < 0 || i > j {
		t.Errorf("the first write of a Deployment (%d) came before the last Secret (%d)", j, i)
	}

	o, err := tm.Get(tm.ctx, ksAPI, "Kustomization", "commit", "app")
	tm.ok(err)
	if status, _, _ := harness.Condition(o, "Healthy"); status != "True" {
		t.Error("Healthy")
	}
	ids := inventory(o.Object)
	for _, want := range []string{"commit_a_apps_Deployment", "commit_from-seal_bitnami.com_SealedSecret", "commit_from-sops__Secret", "commit_from-vault_external-secrets.io_ExternalSecret"} {
		if !ids[want] {
			t.Errorf("%s is not in the inventory %v", want, ids)
		}
	}
	if ids["commit_from-seal__Secret"] || ids["commit_from-vault__Secret"] {
		t.Error("a produced Secret stands in the inventory")
	}
	d := tm.exists("apps/v1", "Deployment", "a")
	if str(d, "metadata", "labels", "kustomize.toolkit.fluxcd.io/name") != "app" {
		t.Error("owner label")
	}
	if !strings.Contains(managers(d), "kustomize-controller") {
		t.Errorf("field managers: %s", managers(d))
	}

	delete(files, "deploy/c.yaml")
	tm.deliver(map[string]string{"deploy/c.yaml": "", "deploy/new.yaml": configMap("new", "1")})
	if tm.exists("apps/v1", "Deployment", "c") != nil || tm.exists("v1", "ConfigMap", "new") == nil {
		t.Error("change and prune")
	}
	out, err := tm.Kubectl(tm.ctx, "", "-n", "commit", "get", "kustomizations,gitrepositories,sealedsecrets,externalsecrets,secretstores")
	tm.ok(err)
	if strings.Count(out, "True") < 5 {
		t.Errorf("kubectl get does not show five things ready:\n%s", out)
	}
	events, err := tm.Kubectl(tm.ctx, "", "-n", "commit", "get", "events", "-o", "jsonpath={range .items[*]}{.reason} {.message} / {end}")
	tm.ok(err)
	if !strings.Contains(events, "Deployment/commit/c deleted") || !strings.Contains(events, "NewArtifact") {
		t.Errorf("events:\n%s", events)
	}
}

func inventory(o map[string]any) map[string]bool {
	out := map[string]bool{}
	status, _ := o["status"].(map[string]any)
	inv, _ := status["inventory"].(map[string]any)
	entries, _ := inv["entries"].([]any)
	for _, e := range entries {
		m, _ := e.(map[string]any)
		id, _ := m["id"].(string)
		out[id] = true
	}
	return out
}

func managers(o map[string]any) string {
	meta, _ := o["metadata"].(map[string]any)
	list, _ := meta["managedFields"].([]any)
	var out []string
	for _, each := range list {
		m, _ := each.(map[string]any)
		name, _ := m["manager"].(string)
		out = append(out, name)
	}
	return strings.Join(out, " ")
}

// TestActsAsTheTenant: the identity that writes is the tenant's, and what it may not do is refused by the API server.
func TestActsAsTheTenant(t *testing.T) {
	t.Parallel()
	tm := newTeam(t, "identity")
	tm.push(map[string]string{"a.yaml": configMap("a", "1")})
	tm.apply(tm.source("  ref: {branch: main}") + tm.sync())
	tm.ok(tm.WaitReady(tm.ctx, patience, "identity", "app", ""))
	audit, err := tm.Audit()
	tm.ok(err)
	if user := audit.Writer("configmaps", "identity", "a"); user != "sealock:tenant:identity" {
		t.Errorf("written by %q", user)
	}
	message := tm.refused(map[string]string{"b.yaml": "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: b, namespace: default}\n"}, "ReconciliationFailed")
	if !strings.Contains(message, "default") || !strings.Contains(message, "b.yaml") {
		t.Errorf("message: %s", message)
	}
	message = tm.refused(map[string]string{"b.yaml": "apiVersion: rbac.authorization.k8s.io/v1\nkind: ClusterRole\nmetadata: {name: evil}\nrules: []\n"}, "ReconciliationFailed")
	if !strings.Contains(message, "ClusterRole/evil") {
		t.Errorf("message: %s", message)
	}
}

// TestRequestsSuspendAndRefs: what users of Flux do by hand every day.
func TestRequestsSuspendAndRefs(t *testing.T) {
	t.Parallel()
	tm := newTeam(t, "daily")
	first := tm.push(map[string]string{"a.yaml": configMap("a", "1")})
	tm.apply(tm.source() + tm.sync())
	// Without a ref the branch is master, as in Flux.
	_, err := tm.WaitCondition(tm.ctx, patience, srcAPI, "GitRepository", "daily", "app", "Ready", "False", "")
	tm.ok(err)
	tm.apply(tm.source("  ref: {branch: main}"))
	tm.ok(tm.WaitReady(tm.ctx, patience, "daily", "app", first))

	tm.ok(tm.suspend(true))
	second := tm.push(map[string]string{"a.yaml": configMap("a", "2")})
	tm.fetch()
	tm.ok(tm.Wait(tm.ctx, patience, "the source to have the second commit", func(ctx context.Context) (bool, error) {
		o, err := tm.Get(ctx, srcAPI, "GitRepository", "daily", "app")
		return err == nil && strings.HasSuffix(str(o.Object, "status", "artifact", "revision"), second), err
	}))
	token, err := tm.Reconcile(tm.ctx, ksAPI, "Kustomization", "daily", "app")
	tm.ok(err)
	tm.ok(tm.handled(token))
	if got := str(tm.exists("v1", "ConfigMap", "a"), "data", "value"); got != "1" {
		t.Errorf("a suspended Kustomization applied %q", got)
	}
	tm.ok(tm.suspend(false))
	tm.ok(tm.WaitReady(tm.ctx, patience, "daily", "app", second))

	_, err = tm.Git(tm.ctx, "daily", "tag", "v1.0.0", first)
	tm.ok(err)
	_, err = tm.Git(tm.ctx, "daily", "push", "-q", "origin", "v1.0.0")
	tm.ok(err)
	tm.apply(tm.source("  ref: {tag: v1.0.0}"))
	tm.ok(tm.WaitReady(tm.ctx, patience, "daily", "app", "v1.0.0@sha1:"+first))
	tm.apply(tm.source("  ref: {commit: " + second + "}"))
	tm.ok(tm.WaitReady(tm.ctx, patience, "daily", "app", second))
	if got := str(tm.exists("v1", "ConfigMap", "a"), "data", "value"); got != "2" {
		t.Errorf("at the commit the value is %q", got)
	}
}

func (tm *team) suspend(on bool) error {
	_, err := tm.Kubectl(tm.ctx, "", "-n", tm.name, "patch", "kustomization", "app", "--type=merge", "-p", `{"spec":{"suspend":`+strconv.FormatBool(on)+`}}`)
	return err
}

func (tm *team) handled(token string) error {
	return tm.Wait(tm.ctx, patience, "the request to be handled", func(ctx context.Context) (bool, error) {
		o, err := tm.Get(ctx, ksAPI, "Kustomization", tm.name, "app")
		return err == nil && str(o.Object, "status", "lastHandledReconcileAt") == token, err
	})
}

// TestSSHSource: the same over SSH, with a known host and with a wrong one.
func TestSSHSource(t *testing.T) {
	t.Parallel()
	tm := newTeam(t, "ssh")
	commit := tm.push(map[string]string{"deploy/a.yaml": configMap("a", "1"), "README.md": "x", "docs/b.yaml": configMap("b", "1")})
	key, known := tm.File(tm.Env["GIT_SSH_KEY"]), tm.File(tm.Env["GIT_KNOWN_HOSTS"])
	source := func(secret string) string {
		return `
apiVersion: source.toolkit.fluxcd.io/v1
kind: GitRepository
metadata: {name: app, namespace: ssh}
spec:
  interval: 10m
  url: ` + tm.Env["GIT_SSH_URL"] + `/ssh.git
  secretRef: {name: ` + secret + `}
  ref: {branch: main}
  ignore: |
    # exclude all
    /*
    # include deploy dir
    !/deploy/
---
`
	}
	wrong := strings.Fields(known)
	tm.apply(secretYAML("ssh", "good", map[string]string{"identity": key, "known_hosts": known}))
	tm.apply(secretYAML("ssh", "stranger", map[string]string{"identity": key, "known_hosts": wrong[0] + " ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIFZGhl3OdJqVlpYZ1OmVUDCVZEqTyyQZ1XNTuMNXJ2dT\n"}))
	tm.apply(source("stranger") + tm.sync())
	message, err := tm.WaitCondition(tm.ctx, patience, srcAPI, "GitRepository", "ssh", "app", "Ready", "False", "")
	tm.ok(err)
	if !strings.Contains(message, "known_hosts") {
		t.Errorf("message: %s", message)
	}
	tm.apply(source("good"))
	tm.ok(tm.WaitReady(tm.ctx, patience, "ssh", "app", commit))
	if tm.exists("v1", "ConfigMap", "b") != nil {
		t.Error("a file that spec.ignore leaves out was applied")
	}
}
