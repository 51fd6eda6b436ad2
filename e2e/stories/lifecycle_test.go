package stories

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"sealock.dev/sealock/e2e/harness"
)

func (tm *team) eventually(what string, ok func() bool) error {
	return tm.Wait(tm.ctx, patience, what, func(context.Context) (bool, error) { return ok(), nil })
}

// TestDriftIsRepaired: what somebody changes or deletes by hand is put back, and only that.
func TestDriftIsRepaired(t *testing.T) {
	t.Parallel()
	tm := newTeam(t, "drift")
	tm.push(map[string]string{"a.yaml": configMap("a", "1"), "b.yaml": configMap("b", "1")})
	tm.apply(tm.source("  ref: {branch: main}") + tm.sync())
	tm.ok(tm.WaitReady(tm.ctx, patience, "drift", "app", ""))
	untouched := str(tm.exists("v1", "ConfigMap", "b"), "metadata", "resourceVersion")
	_, err := tm.Kubectl(tm.ctx, "", "-n", "drift", "patch", "configmap", "a", "--type=merge", "-p", `{"data":{"value":"by hand"}}`)
	tm.ok(err)
	tm.ok(tm.eventually("the edit to be undone", func() bool { return str(tm.exists("v1", "ConfigMap", "a"), "data", "value") == "1" }))
	_, err = tm.Kubectl(tm.ctx, "", "-n", "drift", "delete", "configmap", "a")
	tm.ok(err)
	tm.ok(tm.eventually("the deletion to be undone", func() bool { return tm.exists("v1", "ConfigMap", "a") != nil }))
	if got := str(tm.exists("v1", "ConfigMap", "b"), "metadata", "resourceVersion"); got != untouched {
		t.Error("an object that nobody touched was written")
	}
}

// TestUnhealthy: a workload that does not start is reported with its name, and heals with the next commit.
// contract: Kustomization spec.timeout
func TestUnhealthy(t *testing.T) {
	t.Parallel()
	tm := newTeam(t, "unhealthy")
	first := tm.push(map[string]string{"a.yaml": deployment("a", "missing")})
	tm.apply(tm.source("  ref: {branch: main}") + strings.Replace(tm.sync("  wait: true"), "timeout: 1m", "timeout: 31s", 1))
	message := tm.refusedAt(first, "HealthCheckFailed")
	if !strings.Contains(message, "Deployment/unhealthy/a") {
		t.Errorf("message: %s", message)
	}
	tm.deliver(map[string]string{"s.yaml": tm.sops("s.yaml", secretYAML("unhealthy", "missing", map[string]string{"password": "x"}))})
}

// TestVaultAway: a change of the value is fetched; while Vault refuses, the Secret stays and an unrelated commit passes.
func TestVaultAway(t *testing.T) {
	t.Parallel()
	tm := newTeam(t, "vaultaway")
	first := canary()
	tm.ok(tm.VaultPut(tm.ctx, "tenants/vaultaway/db", map[string]any{"user": "u", "password": first}))
	tm.push(map[string]string{"v.yaml": tm.vaultSecret("v1", "v", "db"), "a.yaml": configMap("a", "1")})
	tm.apply(tm.source("  ref: {branch: main}") + tm.sync())
	tm.ok(tm.WaitReady(tm.ctx, patience, "vaultaway", "app", ""))
	second := canary()
	tm.ok(tm.VaultPut(tm.ctx, "tenants/vaultaway/db", map[string]any{"user": "u", "password": second}))
	_, err := tm.Kubectl(tm.ctx, "", "-n", "vaultaway", "annotate", "externalsecret", "v", "force-sync=1", "--overwrite")
	tm.ok(err)
	tm.ok(tm.eventually("the new value", func() bool { return tm.data("v")["password"] == second }))

	vault, err := tm.Vault()
	tm.ok(err)
	tm.ok(vault.Sys().PutPolicyWithContext(tm.ctx, "vaultaway", `path "secret/data/nothing" { capabilities = ["read"] }`))
	_, err = tm.Kubectl(tm.ctx, "", "-n", "vaultaway", "annotate", "externalsecret", "v", "force-sync=2", "--overwrite")
	tm.ok(err)
	message, err := tm.WaitCondition(tm.ctx, patience, "external-secrets.io/v1", "ExternalSecret", "vaultaway", "v", "Ready", "False", "SecretSyncedError")
	tm.ok(err)
	if !strings.Contains(message, "tenants/vaultaway/db") || strings.Contains(message, second) {
		t.Errorf("message: %s", message)
	}
	if tm.data("v")["password"] != second {
		t.Error("the Secret was emptied")
	}
	tm.deliver(map[string]string{"a.yaml": configMap("a", "2")})
	if tm.data("v")["password"] != second {
		t.Error("the Secret was emptied")
	}
}

// TestDeletion: a Kustomization that goes takes what it applied along; one that is not to prune leaves it.
func TestDeletion(t *testing.T) {
	t.Parallel()
	tm := newTeam(t, "deletion")
	tm.push(map[string]string{"a/a.yaml": configMap("a", "1"), "b/b.yaml": configMap("b", "1")})
	tm.apply(tm.source("  ref: {branch: main}") + tm.sync("  path: a") + strings.NewReplacer("name: app, namespace", "name: keep, namespace", "prune: true", "prune: false").Replace(tm.sync("  path: b")))
	tm.ok(tm.WaitReady(tm.ctx, patience, "deletion", "app", ""))
	tm.ok(tm.WaitReady(tm.ctx, patience, "deletion", "keep", ""))
	_, err := tm.Kubectl(tm.ctx, "", "-n", "deletion", "delete", "kustomization", "app", "keep", "--timeout=60s")
	tm.ok(err)
	tm.ok(tm.eventually("what was applied to go", func() bool { return tm.exists("v1", "ConfigMap", "a") == nil }))
	if tm.exists("v1", "ConfigMap", "b") == nil {
		t.Error("prune: false was pruned")
	}
}

// TestDependsOn: nothing is applied before what it depends on is ready.
func TestDependsOn(t *testing.T) {
	t.Parallel()
	tm := newTeam(t, "depends")
	tm.push(map[string]string{"infra/a.yaml": configMap("infra", "1"), "apps/a.yaml": configMap("apps", "1")})
	tm.apply(tm.source("  ref: {branch: main}") + strings.Replace(tm.sync("  path: apps", "  dependsOn: [{name: infra}]"), "retryInterval: 5s", "retryInterval: 10m", 1))
	message, err := tm.WaitCondition(tm.ctx, patience, ksAPI, "Kustomization", "depends", "app", "Ready", "False", "DependencyNotReady")
	tm.ok(err)
	if !strings.Contains(message, "depends/infra") || tm.exists("v1", "ConfigMap", "apps") != nil {
		t.Errorf("message: %s", message)
	}
	tm.apply(strings.Replace(tm.sync("  path: infra"), "name: app, namespace", "name: infra, namespace", 1))
	tm.ok(tm.WaitReady(tm.ctx, patience, "depends", "app", ""))
}

// TestMetricsAndProbes: what a platform's monitoring reads.
func TestMetricsAndProbes(t *testing.T) {
	t.Parallel()
	for path, port := range map[string]int{"/healthz": world.Ports.Health, "/readyz": world.Ports.Health, "/metrics": world.Ports.Metrics, "/v1/cert.pem": world.Ports.Sealing} {
		resp, err := http.Get(fmt.Sprintf("http://127.0.0.1:%d%s", port, path))
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode != http.StatusOK {
			t.Errorf("%s: %s", path, resp.Status)
		}
	}
	resp, err := http.Get(fmt.Sprintf("http://127.0.0.1:%d/gitrepository/x/y/"+strings.Repeat("a", 40)+".tar.gz", world.Ports.Artifacts))
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if resp.StatusCode != http.StatusUnauthorized {
		t.Errorf("an artifact without a token: %s", resp.Status)
	}
}

// TestRestart runs alone, in a world of its own: a graceful stop ends with 0 and gives the lease back; a start with
// nothing changed lists each kind once, reads and writes nothing and logs in to nothing; a kill -9 in the middle of work converges.
func TestRestart(t *testing.T) {
	own := world
	dir := t.TempDir()
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	defer cancel()
	w, err := harness.Start(ctx, harness.Options{Dir: dir, Bin: "../../bin", Devcluster: []string{"--audit-log"}})
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := w.Stop(); err != nil {
			t.Error(err)
		}
	}()
	world = w
	defer func() { world = own }()
	tm := newTeam(t, "restart")
	tm.ok(tm.VaultPut(tm.ctx, "tenants/restart/db", map[string]any{"user": "u", "password": "p"}))
	files := map[string]string{
		"s.yaml":      tm.sops("s.yaml", secretYAML("restart", "from-sops", map[string]string{"password": "x"})),
		"sealed.yaml": tm.seal(secretYAML("restart", "from-seal", map[string]string{"password": "x"})),
		"v.yaml":      tm.vaultSecret("v1", "from-vault", "db"),
		"d.yaml":      deployment("d", "from-sops"),
	}
	for i := range 20 {
		files[fmt.Sprintf("cm%d.yaml", i)] = configMap(fmt.Sprintf("cm%d", i), "1")
	}
	tm.push(files)
	tm.apply(tm.source("  ref: {branch: main}") + tm.sync("  wait: true"))
	tm.ok(tm.WaitReady(tm.ctx, patience, "restart", "app", ""))

	tm.ok(w.StopController())
	audit, err := w.Audit()
	tm.ok(err)
	before := len(audit)
	tm.ok(w.StartController(ctx, false, "--events-addr", posted.URL))
	token, err := tm.Reconcile(ctx, ksAPI, "Kustomization", "restart", "app")
	tm.ok(err)
	tm.ok(tm.handled(token))
	audit, err = w.Audit()
	tm.ok(err)
	lists := map[string]int{}
	for _, r := range audit[before:] {
		if r.User != "system:serviceaccount:sealock-system:sealock-controller" {
			continue
		}
		if r.Lists {
			lists[r.Resource+" in "+r.Namespace+" with "+r.Selector]++
		}
		inputs := r.Verb == "get" && r.Resource == "secrets" // credentials of Git and keys of SOPS
		if r.Namespace == "restart" && !inputs && !r.Lists && r.Verb != "watch" && r.Resource != "events" && r.Resource != "kustomizations" && r.Resource != "gitrepositories" {
			t.Errorf("a restart with nothing changed asked: %+v", r)
		}
	}
	for kind, n := range lists {
		if n > 1 {
			t.Errorf("listed %d times: %s", n, kind)
		}
	}

	for i := range 3 {
		for j := range 20 {
			files[fmt.Sprintf("cm%d.yaml", j)] = configMap(fmt.Sprintf("cm%d", j), fmt.Sprint(i, "changed"))
		}
		commit := tm.push(files)
		tm.fetch()
		tm.ok(tm.eventually("the first object of the commit to be written", func() bool {
			return strings.HasSuffix(str(tm.exists("v1", "ConfigMap", "cm0"), "data", "value"), "changed")
		}))
		tm.ok(w.KillController())
		tm.ok(w.StartController(ctx, false, "--events-addr", posted.URL))
		tm.ok(tm.WaitReady(tm.ctx, patience, "restart", "app", commit))
	}
	if tm.data("from-sops")["password"] != "x" || tm.data("from-seal")["password"] != "x" || tm.data("from-vault")["password"] != "p" {
		t.Error("a Secret was lost")
	}
}
