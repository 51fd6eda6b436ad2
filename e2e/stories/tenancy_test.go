package stories

import (
	"strings"
	"testing"
)

// TestOneVerdict: the same words in the reconciler, in the webhook and on a laptop; nothing of the commit is written.
func TestOneVerdict(t *testing.T) {
	t.Parallel()
	tm := newTeam(t, "verdict")
	pod := "apiVersion: v1\nkind: Pod\nmetadata: {name: p}\nspec: {serviceAccountName: reconciler, containers: [{name: c, image: i}]}\n"
	tm.push(map[string]string{"a.yaml": configMap("a", "1")})
	tm.apply(tm.source("  ref: {branch: main}") + tm.sync())
	tm.ok(tm.WaitReady(tm.ctx, patience, "verdict", "app", ""))
	message := tm.refused(map[string]string{"p.yaml": pod, "a.yaml": configMap("a", "2")}, "PolicyDenied")
	i := strings.Index(message, "[")
	if i < 0 {
		t.Fatalf("message: %s", message)
	}
	words, _, _ := strings.Cut(message[i:], "\n")
	if tm.exists("v1", "Pod", "p") != nil || str(tm.exists("v1", "ConfigMap", "a"), "data", "value") != "1" {
		t.Error("something of the denied commit was written")
	}
	tm.apply("apiVersion: v1\nkind: ServiceAccount\nmetadata: {name: reconciler, namespace: verdict}\n") // Kubernetes looks for it before it asks us
	_, err := tm.Kubectl(tm.ctx, pod, "-n", "verdict", "apply", "-f", "-")
	if err == nil || !strings.Contains(err.Error(), words) {
		t.Errorf("the webhook does not say %q: %v", words, err)
	}
	out, err := tm.World.Run(tm.ctx, nil, "sealock", "verify", tm.Dir+"/clones/verdict", "-n", "verdict", "-o", "json", "--kubeconfig", tm.Kubeconfig)
	if err == nil || !strings.Contains(err.Error(), "exit status 1") {
		t.Errorf("sealock verify: %v", err)
	}
	if !strings.Contains(out, strings.TrimPrefix(words[strings.Index(words, "] ")+2:], " ")) {
		t.Errorf("sealock verify does not say %q:\n%s", words, out)
	}
}

// TestT1_ReservedServiceAccounts: no workload of any kind gets the identity of GitOps.
// contract: Kustomization spec.serviceAccountName
func TestT1_ReservedServiceAccounts(t *testing.T) {
	t.Parallel()
	tm := newTeam(t, "reserved", "  roleCeiling: [view, edit]")
	spec := "{serviceAccountName: reconciler, restartPolicy: Never, containers: [{name: c, image: i}]}"
	template := "{metadata: {labels: {a: b}}, spec: " + spec + "}"
	tm.apply("apiVersion: v1\nkind: ServiceAccount\nmetadata: {name: reconciler, namespace: reserved}\n")
	for kind, text := range map[string]string{
		"Pod":        "apiVersion: v1\nkind: Pod\nmetadata: {name: x}\nspec: " + spec,
		"Deployment": "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: x}\nspec: {selector: {matchLabels: {a: b}}, template: " + strings.Replace(template, "restartPolicy: Never, ", "", 1) + "}",
		"Job":        "apiVersion: batch/v1\nkind: Job\nmetadata: {name: x}\nspec: {template: " + template + "}",
		"CronJob":    "apiVersion: batch/v1\nkind: CronJob\nmetadata: {name: x}\nspec: {schedule: '* * * * *', jobTemplate: {spec: {template: " + template + "}}}",
	} {
		if _, err := tm.Kubectl(tm.ctx, text, "-n", "reserved", "apply", "-f", "-"); err == nil || !strings.Contains(err.Error(), "reconciler") {
			t.Errorf("%s: %v", kind, err)
		}
	}
	// Naming it in a Kustomization is what it is for.
	tm.apply("apiVersion: v1\nkind: ServiceAccount\nmetadata: {name: reconciler, namespace: reserved}\n---\n" +
		"apiVersion: rbac.authorization.k8s.io/v1\nkind: RoleBinding\nmetadata: {name: reconciler, namespace: reserved}\nroleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: edit}\nsubjects: [{kind: ServiceAccount, name: reconciler, namespace: reserved}]\n")
	tm.push(map[string]string{"a.yaml": configMap("a", "1")})
	tm.apply(tm.source("  ref: {branch: main}") + tm.sync("  serviceAccountName: reconciler"))
	tm.ok(tm.WaitReady(tm.ctx, patience, "reserved", "app", ""))
	audit, err := tm.Audit()
	tm.ok(err)
	if user := audit.Writer("configmaps", "reserved", "a"); user != "system:serviceaccount:reserved:reconciler" {
		t.Errorf("written by %q", user)
	}
	tm.apply(tm.sync("  serviceAccountName: default"))
	message, err := tm.WaitCondition(tm.ctx, patience, ksAPI, "Kustomization", "reserved", "app", "Ready", "False", "AccessDenied")
	tm.ok(err)
	if !strings.Contains(message, "serviceAccounts") {
		t.Errorf("no remedy: %s", message)
	}
}

// TestT10_NamespaceLabels: labels that the platform relies on cannot be changed by a tenant, by no kind of write.
func TestT10_NamespaceLabels(t *testing.T) {
	t.Parallel()
	tm := newTeam(t, "labels")
	tm.apply(`
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRole
metadata: {name: labels-namespace-admin}
rules: [{apiGroups: [""], resources: [namespaces, namespaces/status, namespaces/finalize], verbs: [get, update, patch]}]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: {name: labels-namespace-admin}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: labels-namespace-admin}
subjects: [{kind: User, name: mallory, apiGroup: rbac.authorization.k8s.io}]
`)
	for _, change := range []string{`{"metadata":{"labels":{"sealock.dev/tenant":null}}}`, `{"metadata":{"labels":{"sealock.dev/tenant":"other"}}}`, `{"metadata":{"labels":{"pod-security.kubernetes.io/enforce":"privileged"}}}`} {
		for _, sub := range []string{"", "status"} {
			args := []string{"patch", "namespace", "labels", "--type=merge", "-p", change, "--as", "mallory"}
			if sub != "" {
				args = append(args, "--subresource", sub)
			}
			if out, err := tm.Kubectl(tm.ctx, "", args...); err == nil || !strings.Contains(err.Error(), "label") {
				t.Errorf("%s %s: %s %v", sub, change, out, err)
			}
		}
	}
	if out, err := tm.Kubectl(tm.ctx, "", "patch", "namespace", "labels", "--type=merge", "-p", `{"metadata":{"labels":{"colour":"blue"}}}`, "--as", "mallory"); err != nil {
		t.Errorf("a label that nobody protects: %s %v", out, err)
	}
}

// TestT6_RoleCeiling: a binding above the ceiling is refused before anything is written.
func TestT6_RoleCeiling(t *testing.T) {
	t.Parallel()
	tm := newTeam(t, "ceiling")
	tm.push(map[string]string{"a.yaml": configMap("a", "1")})
	tm.apply(tm.source("  ref: {branch: main}") + tm.sync())
	tm.ok(tm.WaitReady(tm.ctx, patience, "ceiling", "app", ""))
	binding := func(role string) string {
		return "apiVersion: rbac.authorization.k8s.io/v1\nkind: RoleBinding\nmetadata: {name: b}\nroleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: " + role + "}\nsubjects: [{kind: User, name: jane, apiGroup: rbac.authorization.k8s.io}]\n"
	}
	if message := tm.refused(map[string]string{"b.yaml": binding("cluster-admin")}, "PolicyDenied"); !strings.Contains(message, "cluster-admin") {
		t.Errorf("message: %s", message)
	}
	if _, err := tm.Kubectl(tm.ctx, binding("admin"), "-n", "ceiling", "apply", "-f", "-"); err == nil || !strings.Contains(err.Error(), "admin") {
		t.Errorf("webhook: %v", err)
	}
}

// TestT20_NoIdentityOutsideTenants: in a namespace that belongs to nobody an identity must be named.
func TestT20_NoIdentityOutsideTenants(t *testing.T) {
	t.Parallel()
	tm := newTeam(t, "nobody")
	tm.push(map[string]string{"a.yaml": configMap("a", "1")})
	tm.apply(tm.source("  ref: {branch: main}"))
	tm.apply("apiVersion: v1\nkind: Namespace\nmetadata: {name: unowned}\n---\n" + strings.Replace(tm.sync(), "namespace: nobody", "namespace: unowned", 1))
	message, err := tm.WaitCondition(tm.ctx, patience, ksAPI, "Kustomization", "unowned", "app", "Ready", "False", "AccessDenied")
	tm.ok(err)
	if !strings.Contains(message, "Tenant") {
		t.Errorf("no remedy: %s", message)
	}
	foreign := strings.Replace(tm.sync(), "kind: GitRepository, name: app", "kind: GitRepository, name: app, namespace: flux-system", 1)
	tm.apply(foreign)
	message, err = tm.WaitCondition(tm.ctx, patience, ksAPI, "Kustomization", "nobody", "app", "Ready", "False", "AccessDenied")
	tm.ok(err)
	if !strings.Contains(message, "cross-namespace") {
		t.Errorf("message: %s", message)
	}
}

// TestPlatformNamespaceWorksAsInFlux: without a service account an object of flux-system acts as the platform.
func TestPlatformNamespaceWorksAsInFlux(t *testing.T) {
	t.Parallel()
	tm := newTeam(t, "platformrepo")
	tm.push(map[string]string{"infra/ns.yaml": "apiVersion: v1\nkind: Namespace\nmetadata: {name: made-by-platform}\n", "infra/cm.yaml": "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a, namespace: made-by-platform}\n"})
	tm.apply("apiVersion: v1\nkind: Namespace\nmetadata: {name: flux-system}\n---\n" + secretYAML("flux-system", "git-credentials", map[string]string{"username": tm.Env["GIT_USERNAME"], "password": tm.Env["GIT_PASSWORD"]}))
	fluxed := func(s string) string {
		return strings.Replace(strings.Replace(s, "namespace: platformrepo", "namespace: flux-system", 1), "  decryption: {provider: sops}\n", "", 1)
	}
	tm.apply(fluxed(tm.source("  ref: {branch: main}")) + fluxed(tm.sync("  path: ./infra")))
	tm.ok(tm.WaitReady(tm.ctx, patience, "flux-system", "app", ""))
	o, err := tm.Get(tm.ctx, "v1", "ConfigMap", "made-by-platform", "a")
	tm.ok(err)
	if o == nil {
		t.Error("an object in a namespace of the same commit is missing")
	}
}
