package vault

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"testing"

	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"sealock.dev/sealock/fault"
	"sealock.dev/sealock/internal/testkit"
	"sealock.dev/sealock/plaintext"
)

func TestMain(m *testing.M) { os.Exit(testkit.Main(m)) }

// admin acts with the root token of the real Vault.
type admin struct {
	t     *testing.T
	addr  string
	token string
}

func realVault(t *testing.T) (admin, *testkit.Devcluster) {
	t.Helper()
	dc := testkit.Cluster(t)
	return admin{t: t, addr: dc.Env["VAULT_ADDR"], token: dc.Env["VAULT_TOKEN"]}, dc
}

// call returns "data", or "auth" where that is what comes.
func (a admin) call(method, path string, body any) map[string]any {
	a.t.Helper()
	raw, err := json.Marshal(body)
	if err != nil {
		a.t.Fatal(err)
	}
	req, err := http.NewRequestWithContext(a.t.Context(), method, a.addr+"/v1/"+path, bytes.NewReader(raw))
	if err != nil {
		a.t.Fatal(err)
	}
	req.Header.Set("X-Vault-Token", a.token)
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		a.t.Fatal(err)
	}
	defer func() { _ = res.Body.Close() }()
	text, err := io.ReadAll(res.Body)
	if err != nil || res.StatusCode >= 300 {
		a.t.Fatalf("%s %s: %s %s %v", method, path, res.Status, text, err)
	}
	var out struct{ Data, Auth map[string]any }
	_ = json.Unmarshal(text, &out)
	if out.Auth != nil {
		return out.Auth
	}
	return out.Data
}

func (a admin) policy(name, path string) {
	a.call("PUT", "sys/policies/acl/"+name, map[string]string{"policy": fmt.Sprintf("path %q { capabilities = [\"read\"] }", path)})
}

func TestRealReads(t *testing.T) {
	a, _ := realVault(t)
	c := testkit.NewCanary()
	a.call("POST", "secret/data/real/app", map[string]any{"data": map[string]any{"pw": c.String(), "n": json.Number("9007199254740991")}})
	a.call("POST", "secret/data/real/app", map[string]any{"data": map[string]any{"pw": "second"}})
	a.call("POST", "secret/data/real/gone", map[string]any{"data": map[string]any{"pw": c.String()}})
	a.call("DELETE", "secret/data/real/gone", nil)
	a.call("POST", "kv1/real/old", map[string]any{"pw": "one"})
	a.policy("real-app", "secret/data/real/app")
	limited, _ := a.call("POST", "auth/token/create", map[string]any{"policies": []string{"real-app"}})["client_token"].(string)

	at := Target{Server: a.addr}
	for name, each := range map[string]struct {
		token, key, version string
		v1, want            bool
		kind                fault.Kind
		words, value        string
	}{
		"latest":        {token: a.token, key: "real/app", value: `{"pw":"second"}`},
		"older":         {token: a.token, key: "real/app", version: "1", words: "9007199254740991"},
		"v1":            {token: a.token, key: "real/old", v1: true, value: `{"pw":"one"}`},
		"limited":       {token: limited, key: "real/app", value: `{"pw":"second"}`},
		"absent":        {token: a.token, key: "real/nosuch", kind: fault.NotFound, words: "there is no secret at secret/real/nosuch"},
		"deleted":       {token: a.token, key: "real/gone", kind: fault.NotFound, words: "there is no secret"},
		"no version":    {token: a.token, key: "real/app", version: "99", kind: fault.NotFound, words: "there is no secret"},
		"not allowed":   {token: limited, key: "real/gone", kind: fault.Denied, words: "may not read secret/data/real/gone"},
		"unknown token": {token: "hvs.nosuch", key: "real/app", kind: fault.Denied, words: "does not know the token"},
	} {
		t.Run(name, func(t *testing.T) {
			mount := "secret"
			if each.v1 {
				mount = "kv1"
			}
			p, err := KVPath(&mount, !each.v1, "", each.key, each.version)
			if err != nil {
				t.Fatal(err)
			}
			d, err := New(Options{}).Read(t.Context(), at, tokenLogin(each.token), p, 0)
			if each.kind == 0 {
				if err != nil || each.value != "" && reveal(d) != each.value || !strings.Contains(reveal(d), each.words) {
					t.Errorf("got %s %v", reveal(d), err)
				}
				return
			}
			if fault.KindOf(err) != each.kind || !strings.Contains(err.Error(), each.words) {
				t.Errorf("got %v, want %s %q", err, each.kind, each.words)
			}
			if found := c.FindIn(err.Error()); found != nil {
				t.Errorf("the error shows %q", found)
			}
		})
	}
}

func TestRealAppRole(t *testing.T) {
	a, _ := realVault(t)
	a.call("POST", "secret/data/real/role", map[string]any{"data": map[string]any{"pw": "x"}})
	a.policy("real-role", "secret/data/real/role")
	a.call("POST", "auth/approle/role/real", map[string]any{"token_policies": "real-role", "token_ttl": "1h"})
	id, _ := a.call("GET", "auth/approle/role/real/role-id", nil)["role_id"].(string)
	secret, _ := a.call("POST", "auth/approle/role/real/secret-id", nil)["secret_id"].(string)
	login := Login{
		Identity: "real", Method: AppRole, Mount: "approle", RoleID: plaintext.FromString(id),
		Secret: func(context.Context) (plaintext.Value, error) { return plaintext.FromString(secret + "\n"), nil },
	}
	c := New(Options{})
	read := func() error {
		_, err := c.Read(t.Context(), Target{Server: a.addr}, login, mustPath(t, "real/role"), 0)
		return err
	}
	if err := read(); err != nil {
		t.Fatal(err)
	}
	for _, s := range c.tokens { // as an operator would, behind our back
		a.call("POST", "auth/token/revoke", map[string]string{"token": string(s.token.Reveal())})
	}
	if err := read(); err != nil {
		t.Errorf("after the token was revoked: %v", err)
	}
	login.Identity, login.Secret = "wrong", tokenLogin("nosuch").Secret
	if err := read(); fault.KindOf(err) != fault.Denied || !strings.Contains(err.Error(), "the login at auth/approle as the AppRole was refused") {
		t.Errorf("with a wrong secret id: %v", err)
	}
}

func TestRealKubernetes(t *testing.T) {
	a, dc := realVault(t)
	namespace := dc.Namespace(t, nil)
	client, err := kubernetes.NewForConfig(dc.Config)
	if err != nil {
		t.Fatal(err)
	}
	accounts := client.CoreV1().ServiceAccounts(namespace)
	for _, name := range []string{"app", "other"} {
		if _, err := accounts.Create(t.Context(), &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: name}}, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	a.call("POST", "secret/data/real/kube", map[string]any{"data": map[string]any{"pw": "x"}})
	a.policy("real-kube", "secret/data/real/kube")
	a.call("POST", "auth/kubernetes/role/"+namespace, map[string]any{
		"bound_service_account_names": "app", "bound_service_account_namespaces": namespace, "token_policies": "real-kube",
	})
	login := func(role, account string) Login {
		return Login{Identity: role + account, Method: Kubernetes, Mount: "kubernetes", Role: role, Secret: func(ctx context.Context) (plaintext.Value, error) {
			r, err := accounts.CreateToken(ctx, account, &authenticationv1.TokenRequest{}, metav1.CreateOptions{})
			if err != nil {
				return plaintext.Value{}, fault.New("", fault.NotFound, fault.Ref{}, "no token")
			}
			return plaintext.FromString(r.Status.Token), nil
		}}
	}
	c := New(Options{})
	if _, err := c.Read(t.Context(), Target{Server: a.addr}, login(namespace, "app"), mustPath(t, "real/kube"), 0); err != nil {
		t.Error(err)
	}
	for what, l := range map[string]Login{"another account": login(namespace, "other"), "another role": login("nosuch", "app")} {
		if _, err := c.Read(t.Context(), Target{Server: a.addr}, l, mustPath(t, "real/kube"), 0); fault.KindOf(err) != fault.Denied || !strings.Contains(err.Error(), "was refused") {
			t.Errorf("%s: %v, want the login refused", what, err)
		}
	}
}
