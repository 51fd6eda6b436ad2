package stories

import (
	"encoding/base64"
	"fmt"
	"strings"
	"testing"
)

// TestOneBadFileStopsNobodyElse: a Kustomization that asks for it applies what it can and tells the rest; a commit that
// heals the file brings all of it.
func TestOneBadFileStopsNobodyElse(t *testing.T) {
	t.Parallel()
	tm := newTeam(t, "partial")
	value := canary()
	foreign, err := tm.Sops(tm.ctx, "s.yaml", secretYAML("partial", "s", map[string]string{"password": value}), otherRecipient(tm), "--encrypted-regex", "^(data|stringData)$")
	tm.ok(err)
	first := tm.push(map[string]string{"a.yaml": configMap("a", "1"), "s.yaml": foreign, "bad.yaml": "apiVersion: v1\nkind: Service\nmetadata: {name: bad}\nspec: {ports: [{port: 808080}]}\n"})
	tm.apply(tm.source("  ref: {branch: main}") + strings.Replace(tm.sync(), "name: app, namespace: partial", "name: app, namespace: partial, annotations: {sealock.dev/on-error: continue}", 1))
	message := tm.refusedAt(first, "BuildFailed")
	if !strings.Contains(message, "s.yaml") || !strings.Contains(message, "Service/partial/bad (bad.yaml:1)") || strings.Contains(message, value) {
		t.Errorf("message: %s", message)
	}
	if tm.exists("v1", "ConfigMap", "a") == nil || tm.exists("v1", "Secret", "s") != nil {
		t.Error("the healthy object is to be applied, the Secret not")
	}
	tm.deliver(map[string]string{"s.yaml": tm.sops("s.yaml", secretYAML("partial", "s", map[string]string{"password": value})), "bad.yaml": ""})
	if tm.data("s")["password"] != value {
		t.Error("the Secret is not applied")
	}
}

func otherRecipient(tm *team) string {
	tm.Helper()
	_, recipient, err := tm.AgeKey(tm.ctx)
	tm.ok(err)
	return recipient
}

// TestARemoteCluster: what a tenant brings to another cluster is applied as its kubeconfig, SOPS files opened here.
func TestARemoteCluster(t *testing.T) {
	t.Parallel()
	tm := newTeam(t, "remote")
	tm.apply(`
apiVersion: v1
kind: ServiceAccount
metadata: {name: over-there, namespace: remote}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRole
metadata: {name: over-there}
rules:
- {apiGroups: [""], resources: [secrets, configmaps], verbs: [get, list, watch, create, patch, delete]}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: {name: over-there}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: over-there}
subjects: [{kind: ServiceAccount, name: over-there, namespace: remote}]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {name: nobody, namespace: remote}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: view}
subjects: []
`)
	token, err := tm.Kubectl(tm.ctx, "", "-n", "remote", "create", "token", "over-there")
	tm.ok(err)
	kubeconfig := fmt.Sprintf("apiVersion: v1\nkind: Config\ncurrent-context: x\ncontexts: [{name: x, context: {cluster: c, user: u}}]\nclusters: [{name: c, cluster: {server: %q, certificate-authority-data: %s}}]\nusers: [{name: u, user: {token: %s}}]\n",
		tm.Config.Host, base64.StdEncoding.EncodeToString(tm.Config.CAData), strings.TrimSpace(token))
	tm.apply(secretYAML("remote", "kubeconfig", map[string]string{"value": kubeconfig}))
	value := canary()
	tm.push(map[string]string{"s.yaml": tm.sops("s.yaml", secretYAML("remote", "s", map[string]string{"password": value})), "a.yaml": configMap("a", "1")})
	tm.apply(tm.source("  ref: {branch: main}") + tm.sync("  kubeConfig: {secretRef: {name: kubeconfig}}", "  wait: true"))
	tm.ok(tm.WaitReady(tm.ctx, patience, "remote", "app", ""))
	if tm.data("s")["password"] != value {
		t.Error("the Secret is not applied")
	}
	_, err = tm.Kubectl(tm.ctx, "", "-n", "remote", "delete", "configmap", "a")
	tm.ok(err)
	tm.ok(tm.eventually("the deletion to be undone", func() bool { return tm.exists("v1", "ConfigMap", "a") != nil }))
	log := tm.LogTail(2000)
	if strings.Contains(log, value) || strings.Contains(log, strings.TrimSpace(token)) {
		t.Error("a secret is in the log")
	}
}

// TestACommitBesideCostsNothing: a commit that touches nothing of a Kustomization advances its status and no object.
func TestACommitBesideCostsNothing(t *testing.T) {
	t.Parallel()
	tm := newTeam(t, "bystander")
	tm.push(map[string]string{"app/s.yaml": tm.sops("s.yaml", secretYAML("bystander", "s", map[string]string{"password": "x"})), "app/a.yaml": configMap("a", "1"), "README.md": "1"})
	tm.apply(tm.source("  ref: {branch: main}") + tm.sync("  path: app"))
	tm.ok(tm.WaitReady(tm.ctx, patience, "bystander", "app", ""))
	audit, err := tm.Audit()
	tm.ok(err)
	before := len(audit)
	tm.deliver(map[string]string{"README.md": "2"})
	audit, err = tm.Audit()
	tm.ok(err)
	for _, r := range audit[before:] {
		if r.Namespace == "bystander" && (r.Resource == "configmaps" || r.Resource == "secrets") && r.Verb != "watch" && r.Verb != "list" && r.User == "sealock:tenant:bystander" {
			t.Errorf("asked about an object: %+v", r)
		}
	}
}
