package main

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"sealock.dev/sealock/internal/testkit"
)

// folder writes the files, keyed by slash-separated path, and returns where.
func folder(t *testing.T, files map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	for name, text := range files {
		full := filepath.Join(dir, filepath.FromSlash(name))
		if err := os.MkdirAll(filepath.Dir(full), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(full, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

const tenantFile = `
apiVersion: sealock.dev/v1alpha1
kind: Tenant
metadata: {name: team-a}
spec: {namespaces: [{name: team-a}], serviceAccounts: [deployer]}
`

const policyFile = `
apiVersion: sealock.dev/v1alpha1
kind: Policy
metadata: {name: replicas}
spec:
  match: {kinds: [{apiGroups: [apps], kinds: [Deployment]}]}
  rego: |
    package sealock
    deny contains "one replica is none" if input.review.object.spec.replicas == 1
`

const deploymentFile = `
apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
spec:
  replicas: 1
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec: {containers: [{name: web, image: "example.com/web:1"}]}
`

func TestVerifyDeniesWithObjectFileAndWords(t *testing.T) {
	policies := folder(t, map[string]string{"tenant.yaml": tenantFile, "deep/policy.yaml": policyFile})
	set := folder(t, map[string]string{"app/web.yaml": deploymentFile})
	code, out, errs := sealock(t, "verify", set, "--policies", policies, "--tenant", "team-a", "-o", "json")
	if code != 1 {
		t.Fatalf("exit code %d, want 1: %s%s", code, out, errs)
	}
	var v verdict
	if err := json.Unmarshal([]byte(out), &v); err != nil {
		t.Fatal(err)
	}
	if v.Denied != 1 || len(v.Findings) != 1 {
		t.Fatalf("findings %+v, want one denial", v.Findings)
	}
	got := v.Findings[0]
	if got.Action != "deny" || got.Policy != "replicas" || got.Message != "[replicas] one replica is none" {
		t.Errorf("finding %+v", got)
	}
	if got.Kind != "Deployment" || got.Namespace != "team-a" || got.Name != "web" || !strings.HasSuffix(got.File, "app/web.yaml") || got.Line != 2 {
		t.Errorf("the finding names %+v, want Deployment team-a/web in app/web.yaml:2", got)
	}
}

func TestVerifyAcceptsInTheSameWordsEveryTime(t *testing.T) {
	policies := folder(t, map[string]string{"tenant.yaml": tenantFile, "policy.yaml": policyFile})
	set := folder(t, map[string]string{"web.yaml": strings.Replace(deploymentFile, "replicas: 1", "replicas: 2", 1)})
	_, first, _ := sealock(t, "verify", set, "--policies", policies, "--tenant", "team-a", "-o", "yaml")
	code, second, errs := sealock(t, "verify", set, "--policies", policies, "--tenant", "team-a", "-o", "yaml")
	if code != 0 || first != second {
		t.Errorf("exit code %d\n%s\n%s%s", code, first, second, errs)
	}
}

func TestVerifyHoldsTheFencesOfATenant(t *testing.T) {
	policies := folder(t, map[string]string{"tenant.yaml": tenantFile})
	for name, tc := range map[string]struct{ file, want string }{
		"another namespace":    {"apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a, namespace: kube-system}\n", "not one of tenant"},
		"a cluster-wide kind":  {"apiVersion: rbac.authorization.k8s.io/v1\nkind: ClusterRole\nmetadata: {name: a}\n", "cluster-scoped"},
		"a plaintext secret":   {"apiVersion: v1\nkind: Secret\nmetadata: {name: a}\nstringData: {password: hunter2hunter2}\n", "in the clear"},
		"the reserved account": {strings.Replace(deploymentFile, "spec: {containers", "spec: {serviceAccountName: deployer, containers", 1), "reserved"},
	} {
		t.Run(name, func(t *testing.T) {
			code, out, errs := sealock(t, "verify", folder(t, map[string]string{"a.yaml": tc.file}), "--policies", policies, "--tenant", "team-a")
			if code != 1 || !strings.Contains(strings.Join(strings.Fields(out), " "), tc.want) {
				t.Errorf("exit code %d, want 1 and %q:\n%s%s", code, tc.want, out, errs)
			}
			if strings.Contains(out+errs, "hunter2") {
				t.Error("the secret is printed")
			}
		})
	}
}

func TestVerifyFailsOnAPolicyThatIsNotInForce(t *testing.T) {
	policies := folder(t, map[string]string{"policy.yaml": strings.Replace(policyFile, "input.review", "input.reveiw", 1)})
	code, out, _ := sealock(t, "verify", folder(t, map[string]string{"web.yaml": deploymentFile}), "--policies", policies)
	if code != 2 || !strings.Contains(out, "Policy/replicas") {
		t.Errorf("exit code %d, want 2, and the policy named:\n%s", code, out)
	}
}

func TestVerifyAsksTheCluster(t *testing.T) {
	dc := testkit.Cluster(t)
	if code, out, errs := sealock(t, "install", "--apply", "--kubeconfig", dc.Kubeconfig, "--webhook-url", "https://127.0.0.1:1"); code != 0 {
		t.Fatal(out, errs)
	}
	set := folder(t, map[string]string{"a.yaml": "apiVersion: v1\nkind: Gizmo\nmetadata: {name: a}\n"})
	code, out, errs := sealock(t, "verify", set, "--kubeconfig", dc.Kubeconfig)
	if code == 0 || !strings.Contains(errs+out, "Gizmo") {
		t.Errorf("exit code %d, want a failure that names the unknown kind:\n%s%s", code, out, errs)
	}
	set = folder(t, map[string]string{"a.yaml": deploymentFile})
	// Another test of this binary may have left a broken policy in the cluster, which is not what is asked here.
	if code, out, errs := sealock(t, "verify", set, "--kubeconfig", dc.Kubeconfig); code == 1 || !strings.Contains(out, ": 0 denied") {
		t.Errorf("exit code %d, want no denial:\n%s%s", code, out, errs)
	}
	if code, _, errs := sealock(t, "verify", set, "--kubeconfig", dc.Kubeconfig, "--tenant", "nobody"); code != 4 || !strings.Contains(errs, "kubectl get tenants") {
		t.Errorf("exit code %d, want 4 and a remedy: %s", code, errs)
	}
}

func TestRenderMasksSecretsAndFindsTheBase(t *testing.T) {
	canary := testkit.NewCanary()
	dir := folder(t, map[string]string{
		".git/HEAD":               "ref: refs/heads/main\n",
		"base/kustomization.yaml": "resources: [secret.yaml]\n",
		"base/secret.yaml":        "apiVersion: v1\nkind: Secret\nmetadata: {name: plain}\nstringData:\n  password: '" + canary.String() + "'\n",
		"prod/kustomization.yaml": "resources: [../base, sops.yaml]\nnamePrefix: prod-\n",
		"prod/sops.yaml": `apiVersion: v1
kind: Secret
metadata:
    name: encrypted
data:
    password: ENC[AES256_GCM,data:AAAA,iv:AAAA,tag:AAAA,type:str]
sops:
    age:
        - recipient: age1qqqq
          enc: |
            -----BEGIN AGE ENCRYPTED FILE-----
            AAAA
            -----END AGE ENCRYPTED FILE-----
    lastmodified: "2026-01-01T00:00:00Z"
    mac: ENC[AES256_GCM,data:AAAA,iv:AAAA,tag:AAAA,type:str]
    version: 3.9.0
`,
	})
	code, out, errs := sealock(t, "render", filepath.Join(dir, "prod"))
	if code != 0 {
		t.Fatalf("exit code %d: %s", code, errs)
	}
	if found := canary.FindIn(out + errs); found != nil {
		t.Errorf("the secret is printed: %q", found)
	}
	for _, want := range []string{"name: prod-plain", "name: prod-encrypted", "password: '[plaintext]'", "base/secret.yaml:1"} {
		if !strings.Contains(out, want) {
			t.Errorf("%q is missing in:\n%s", want, out)
		}
	}
	if strings.Contains(out, "ENC[") || strings.Contains(out, "sops:") || strings.Contains(out, "sealock-token") {
		t.Errorf("ciphertext or a token is left:\n%s", out)
	}
}

// A folder on disk holds what its commit would: hidden manifests, and not what the source leaves out.
func TestRenderLeavesOutWhatTheSourceDoes(t *testing.T) {
	one := "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: %s}\n"
	dir := folder(t, map[string]string{
		".git/config.yaml": "x: y\n", ".github/workflows/ci.yml": "on: push\n", ".sops.yaml": "creation_rules: []\n",
		".hidden.yaml": fmt.Sprintf(one, "hidden"), "a.yaml": fmt.Sprintf(one, "a"),
	})
	code, out, errs := sealock(t, "render", dir)
	if code != 0 || !strings.Contains(out, "name: hidden") || !strings.Contains(out, "name: a") {
		t.Errorf("exit code %d: %s%s", code, out, errs)
	}
}

// TestSamplesAreSound holds that what people copy first is in force and is not denied by itself.
func TestSamplesAreSound(t *testing.T) {
	samples := filepath.Join("..", "..", "config", "samples")
	deployment, err := os.ReadFile(filepath.Join(samples, "repository", "app", "deployment.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	set := folder(t, map[string]string{"deployment.yaml": string(deployment)})
	code, out, errs := sealock(t, "verify", set, "--policies", filepath.Join(samples, "platform"), "--tenant", "team-a")
	if code != 0 || !strings.Contains(out, "by 6 policies: 0 denied") {
		t.Errorf("exit code %d:\n%s%s", code, out, errs)
	}
	set = folder(t, map[string]string{"deployment.yaml": strings.Replace(string(deployment), "ghcr.io/example/", "docker.io/somebody/", 1)})
	if code, out, _ := sealock(t, "verify", set, "--policies", filepath.Join(samples, "platform"), "--tenant", "team-a"); code != 1 {
		t.Errorf("exit code %d for an image from elsewhere, want 1:\n%s", code, out)
	}
}
