package main

import (
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// reader is a policy that may read what the tests write to KV v2.
func (d *devcluster) reader(t *testing.T) {
	t.Helper()
	d.mustVault(t, "PUT", "sys/policies/acl/reader", map[string]any{"policy": `path "secret/data/*" { capabilities = ["read"] }`})
}

func TestVaultLogsInServiceAccounts(t *testing.T) {
	d := sharedCluster(t)
	ns := d.namespace(t)
	d.reader(t)
	d.mustVault(t, "POST", "secret/data/app", map[string]any{"data": map[string]any{"password": "p1"}})
	d.mustVault(t, "POST", "auth/kubernetes/role/app", map[string]any{
		"bound_service_account_names": "default", "bound_service_account_namespaces": ns,
		"audience": "vault", "token_policies": "reader", "token_ttl": "10m",
	})
	jwt := d.mustKubectl(t, "", "create", "token", "default", "-n", ns, "--audience=vault")
	code, login := d.vault(t, "", "POST", "auth/kubernetes/login", map[string]any{"role": "app", "jwt": jwt})
	if code != http.StatusOK {
		t.Fatalf("login: %d %v", code, login)
	}
	token := field(t, login, "auth", "client_token")
	code, answer := d.vault(t, token, "GET", "secret/data/app", nil)
	if code != http.StatusOK || field(t, answer, "data", "data", "password") != "p1" {
		t.Errorf("read: %d %v", code, answer)
	}

	// A ServiceAccount that the role does not name, and a token made up, are refused.
	stranger := d.mustKubectl(t, "", "create", "token", "default", "-n", "default", "--audience=vault")
	for _, jwt := range []string{stranger, jwt[:len(jwt)-8] + "AAAAAAAA"} {
		if code, answer := d.vault(t, "", "POST", "auth/kubernetes/login", map[string]any{"role": "app", "jwt": jwt}); code != http.StatusForbidden {
			t.Errorf("login is answered with %d %v", code, answer)
		}
	}
}

func TestVaultAppRole(t *testing.T) {
	d := sharedCluster(t)
	d.reader(t)
	d.mustVault(t, "POST", "secret/data/approle", map[string]any{"data": map[string]any{"k": "v"}})
	d.mustVault(t, "POST", "auth/approle/role/ci", map[string]any{"token_policies": "reader"})
	roleID := field(t, d.mustVault(t, "GET", "auth/approle/role/ci/role-id", nil), "data", "role_id")
	secretID := field(t, d.mustVault(t, "POST", "auth/approle/role/ci/secret-id", nil), "data", "secret_id")
	_, login := d.vault(t, "", "POST", "auth/approle/login", map[string]any{"role_id": roleID, "secret_id": secretID})
	code, answer := d.vault(t, field(t, login, "auth", "client_token"), "GET", "secret/data/approle", nil)
	if code != http.StatusOK {
		t.Errorf("read: %d %v", code, answer)
	}
}

func TestVaultEngines(t *testing.T) {
	d := sharedCluster(t)
	d.mustVault(t, "POST", "kv1/plain", map[string]any{"k": "v"})
	if got := field(t, d.mustVault(t, "GET", "kv1/plain", nil), "data", "k"); got != "v" {
		t.Errorf("kv1 holds %q", got)
	}
	d.mustVault(t, "POST", "transit/keys/sops", nil)
	sealed := field(t, d.mustVault(t, "POST", "transit/encrypt/sops", map[string]any{"plaintext": "aGVsbG8="}), "data", "ciphertext")
	if !strings.HasPrefix(sealed, "vault:v1:") {
		t.Errorf("transit answers %q", sealed)
	}
	if got := field(t, d.mustVault(t, "POST", "transit/decrypt/sops", map[string]any{"ciphertext": sealed}), "data", "plaintext"); got != "aGVsbG8=" {
		t.Errorf("transit opens it as %q", got)
	}
	log, err := os.ReadFile(filepath.Join(d.dir, "vault-audit.log"))
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(log), `"path":"kv1/plain"`) {
		t.Error("vault-audit.log does not name the path that was read")
	}
}
