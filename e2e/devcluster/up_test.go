package main

import (
	"encoding/json"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
)

func TestEnvHasTheAgreedKeys(t *testing.T) {
	d := sharedCluster(t)
	if len(d.env) != len(envKeys) {
		t.Errorf("env has %d keys, not %d", len(d.env), len(envKeys))
	}
	for _, key := range envKeys {
		if d.env[key] == "" {
			t.Errorf("env has no %s", key)
		}
	}
	out, err := exec.Command("sh", "-c", `set -a; . "$0"; env`, filepath.Join(d.dir, "env")).Output()
	if err != nil {
		t.Fatal(err)
	}
	for key, value := range d.env {
		if !slices.Contains(strings.Split(string(out), "\n"), key+"="+value) {
			t.Errorf("a shell that sources env does not have %s=%s", key, value)
		}
	}
}

func TestSecondUpKeepsTheData(t *testing.T) {
	dir := t.TempDir()
	first := up(t, dir)
	first.mustKubectl(t, "", "create", "configmap", "kept", "--from-literal=k=v")
	token := first.mustKubectl(t, "", "create", "token", "default")
	first.mustVault(t, "POST", "secret/data/kept", map[string]any{"data": map[string]any{"k": "v"}})
	first.roundTrip(t, first.gitURL("kept", first.env["GIT_PASSWORD"]), []byte("kept"))
	if err := first.terminate(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}

	second := up(t, dir)
	if got := second.mustKubectl(t, "", "get", "configmap", "kept", "-o", "jsonpath={.data.k}"); got != "v" {
		t.Errorf("the ConfigMap holds %q", got)
	}
	server := second.mustKubectl(t, "", "config", "view", "-o", "jsonpath={.clusters[0].cluster.server}")
	if got := second.mustKubectl(t, "", "--kubeconfig=/dev/null", "--server="+server, "--certificate-authority="+filepath.Join(dir, "pki", "ca.crt"),
		"--token="+token, "auth", "whoami", "-o", "jsonpath={.status.userInfo.username}"); got != "system:serviceaccount:default:default" {
		t.Errorf("an earlier token makes %q", got)
	}
	if got := field(t, second.mustVault(t, "GET", "secret/data/kept", nil), "data", "data", "k"); got != "v" {
		t.Errorf("Vault holds %q", got)
	}
	second.mustClone(t, second.gitURL("kept", second.env["GIT_PASSWORD"]), []byte("kept"))
	// Sealed and unsealed again as help says; it also stops well while sealed.
	second.mustVault(t, "PUT", "sys/seal", nil)
	if code, answer := second.vault(t, second.env["VAULT_TOKEN"], "GET", "secret/data/kept", nil); code != http.StatusServiceUnavailable {
		t.Errorf("sealed, Vault answers %d %v", code, answer)
	}
	var keys vaultKeys
	data, err := os.ReadFile(filepath.Join(dir, "vault-keys.json"))
	if err == nil {
		err = json.Unmarshal(data, &keys)
	}
	if err != nil {
		t.Fatal(err)
	}
	second.mustVault(t, "PUT", "sys/unseal", map[string]any{"key": keys.UnsealKey})
	second.mustVault(t, "GET", "secret/data/kept", nil)
	second.mustVault(t, "PUT", "sys/seal", nil)

	for key, value := range first.env {
		if second.env[key] != value {
			t.Logf("%s changed from %s to %s: its port was taken in between", key, value, second.env[key])
		}
	}
}

func TestTwoSideBySide(t *testing.T) {
	one := sharedCluster(t)
	two := up(t, t.TempDir())
	two.mustKubectl(t, "", "create", "configmap", "only-in-two")
	if out, err := one.kubectl("", "get", "configmap", "only-in-two"); err == nil {
		t.Errorf("one sees what is in two: %s", out)
	}
	for _, key := range []string{"VAULT_ADDR", "VAULT_TOKEN", "GIT_HTTP_URL", "GIT_SSH_URL", "GIT_PASSWORD"} {
		if one.env[key] == two.env[key] {
			t.Errorf("both have %s=%s", key, one.env[key])
		}
	}
}

func TestKilledLeavesNoProcessAndNoDamage(t *testing.T) {
	dir := t.TempDir()
	d := up(t, dir, "--without", "vault,git,kubelet")
	for _, key := range []string{"VAULT_ADDR", "VAULT_TOKEN", "GIT_HTTP_URL", "GIT_SSH_KEY"} {
		if value, ok := d.env[key]; !ok || value != "" {
			t.Errorf("without vault and git, env says %s=%s", key, value)
		}
	}
	d.mustKubectl(t, "", "create", "configmap", "kept")
	if err := d.terminate(syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	again := up(t, dir, "--without", "vault,git,kubelet")
	again.mustKubectl(t, "", "get", "configmap", "kept")
}

func TestErrorsSayWhatToDo(t *testing.T) {
	d := sharedCluster(t)
	path, err := binary()
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		args []string
		want string
	}{
		{[]string{"up"}, "--dir is missing: name a folder"},
		{[]string{"up", "--dir", d.dir}, "is in use by a running devcluster (process "},
		{[]string{"up", "--dir", filepath.Join(t.TempDir(), "a b")}, "choose a path of letters"},
		{[]string{"up", "--dir", t.TempDir(), "--without", "etcd"}, "choose among vault, git, kubelet"},
	} {
		cmd := exec.Command(path, c.args...)
		cmd.Env = append(os.Environ(), "HOME="+t.TempDir())
		out, err := cmd.CombinedOutput()
		if err == nil || !strings.Contains(string(out), c.want) {
			t.Errorf("devcluster %s: %v, %q does not say %q", strings.Join(c.args, " "), err, out, c.want)
		}
	}
}
