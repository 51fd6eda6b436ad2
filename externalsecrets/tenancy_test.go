package externalsecrets

import (
	pemfile "encoding/pem"
	"net/http/httptest"
	"strings"
	"testing"

	"sealock.dev/sealock/fault"
	"sealock.dev/sealock/tenants"
)

// What a tenant may not read is refused before any request leaves, login included.
func TestT18_TheFenceHoldsBeforeAnyRequest(t *testing.T) {
	f := newVault(t)
	f.put("other/app", `{"password":"`+canary+`"}`)
	kube := func(role, more string) string {
		return "provider: {vault: {server: SERVER, path: secret, " + more + "auth: {kubernetes: {role: " + role + ", serviceAccountRef: {name: app}}}}}"
	}
	for name, c := range map[string]struct {
		key, store string
		kind       fault.Kind
		words      string
	}{
		"other tenant's path": {"other/app", kube("team-a", ""), fault.Denied, `tenant "a" may not read secret/other/app`},
		"prefix":              {"team-ab/app", kube("team-a", ""), fault.Denied, "may not read"},
		"dots":                {"team-a/../other/app", kube("team-a", ""), fault.Invalid, "segment"},
		"encoded":             {"team-a/%2e%2e/other/app", kube("team-a", ""), fault.Invalid, "character"},
		"role":                {"team-a/app", kube("admin", ""), fault.Denied, `as the role "admin"`},
		"server":              {"team-a/app", strings.ReplaceAll(kube("team-a", ""), "SERVER", "'https://evil.example'"), fault.Denied, "may not use Vault at https://evil.example"},
		"vault namespace":     {"team-a/app", kube("team-a", "namespace: other, "), fault.Denied, "may not read other/secret/team-a/app"},
		"mount":               {"app", "provider: {vault: {server: SERVER, path: other, auth: {tokenSecretRef: {name: vault-token}}}}", fault.Denied, "may not read other/app"},
		"no auth":             {"app", "provider: {vault: {server: SERVER, path: secret}}", fault.Denied, "names no credential"},
		"empty auth":          {"app", "provider: {vault: {server: SERVER, path: secret, auth: {}}}", fault.Denied, "no auth method"},
		"controller's token":  {"app", "provider: {vault: {server: SERVER, path: secret, auth: {kubernetes: {role: team-a}}}}", fault.Denied, "names no service account"},
	} {
		t.Run(name, func(t *testing.T) {
			yaml := "apiVersion: external-secrets.io/v1\nkind: SecretStore\nmetadata: {name: vault, namespace: team-a}\nspec: {" + strings.ReplaceAll(c.store, "SERVER", "'"+f.URL+"'") + "}\n"
			_, secret, _ := strings.Cut(storeYAML(f.URL), "---")
			in := &objects{list: parse(t, yaml+"---"+secret+"---\napiVersion: v1\nkind: ServiceAccount\nmetadata: {name: app, namespace: team-a, uid: s1}\n")}
			es := one(t, esYAML("  data: [{secretKey: password, remoteRef: {key: "+c.key+", property: password}}]\n"))
			_, err := opener(in).Open(t.Context(), tenant(f.URL), es, nil)
			if fault.KindOf(err) != c.kind || err == nil || !strings.Contains(err.Error(), c.words) {
				t.Errorf("got %v, want %s %q", err, c.kind, c.words)
			}
			if len(f.requests) > 0 {
				t.Errorf("requests left: %q", f.requests)
			}
		})
	}
}

func TestT18_TheFenceOfTheNamespaceHoldsInAPlatformCommit(t *testing.T) {
	f := newVault(t)
	f.put("other", `{"password":"x"}`)
	o := opener(&objects{list: parse(t, storeYAML(f.URL))})
	o.Fence = func(string) tenants.Grant { return tenant(f.URL) }
	_, err := o.Open(t.Context(), tenants.Grant{Namespace: "team-a"}, one(t, esYAML("  data: [{secretKey: a, remoteRef: {key: other}}]\n")), nil)
	if fault.KindOf(err) != fault.Denied || len(f.requests) > 0 {
		t.Errorf("got %v after %q", err, f.requests)
	}
}

func TestTheTenantReadsItsOwn(t *testing.T) {
	f := newVault(t)
	f.put("team-a/app", `{"password":"mine"}`)
	in := &objects{list: parse(t, `
apiVersion: external-secrets.io/v1
kind: SecretStore
metadata: {name: vault, namespace: team-a}
spec: {provider: {vault: {server: '`+f.URL+`', path: secret, auth: {kubernetes: {mountPath: k8s, role: team-a, serviceAccountRef: {name: app}}}}}}
---
apiVersion: v1
kind: ServiceAccount
metadata: {name: app, namespace: team-a, uid: s1}
`)}
	p, err := opener(in).Open(t.Context(), tenant(f.URL), one(t, esYAML("  data: [{secretKey: password, remoteRef: {key: team-a/app, property: password}}]\n")), nil)
	if err != nil || data(p)["password"] != "mine" || f.count("PUT auth/k8s/login") != 1 || f.count("for-jwt-team-a-app") != 1 {
		t.Errorf("got %v %q", err, f.requests)
	}
}

// Every reference of a store, in a foreign namespace: refused for a SecretStore, followed for a ClusterSecretStore.
func TestT18_ReferencesStayInTheNamespace(t *testing.T) {
	f := newVault(t)
	f.put("app", `{"password":"x"}`)
	for name, auth := range map[string]string{
		"token":      "auth: {tokenSecretRef: {name: cred, key: token, namespace: platform}}",
		"approle":    "auth: {appRole: {roleId: r, secretRef: {name: cred, key: token, namespace: platform}}}",
		"role ref":   "auth: {appRole: {roleRef: {name: cred, key: token, namespace: platform}, secretRef: {name: vault-token, key: token}}}",
		"account":    "auth: {kubernetes: {role: team-a, serviceAccountRef: {name: cred, namespace: platform}}}",
		"jwt":        "auth: {kubernetes: {role: team-a, secretRef: {name: cred, key: token, namespace: platform}}}",
		"caProvider": "caProvider: {type: ConfigMap, name: ca, key: ca.crt, namespace: platform}, auth: {tokenSecretRef: {name: vault-token, key: token}}",
	} {
		for _, kind := range []string{"SecretStore", "ClusterSecretStore"} {
			_, secret, _ := strings.Cut(storeYAML(f.URL), "---")
			in := &objects{list: parse(t, "apiVersion: external-secrets.io/v1\nkind: "+kind+"\nmetadata: {name: vault, namespace: team-a}\nspec: {provider: {vault: {server: '"+f.URL+"', path: secret, "+auth+"}}}\n---"+secret+`
---
apiVersion: v1
kind: Secret
metadata: {name: cred, namespace: platform, uid: p}
stringData: {token: platform-token}
---
apiVersion: v1
kind: ServiceAccount
metadata: {name: cred, namespace: platform, uid: p}
---
apiVersion: v1
kind: ConfigMap
metadata: {name: ca, namespace: platform}
data: {ca.crt: "`+strings.ReplaceAll(testCA(t), "\n", `\n`)+`"}
`)}
			if kind == "ClusterSecretStore" {
				in.list[0] = in.list[0].WithNamespace("")
			}
			es := one(t, strings.Replace(esYAML(passwordData), "{name: vault}", "{name: vault, kind: "+kind+"}", 1))
			f.requests = nil
			_, err := opener(in).Open(t.Context(), tenants.Grant{Namespace: "team-a"}, es, nil)
			if kind == "SecretStore" {
				if fault.KindOf(err) != fault.Denied || !strings.Contains(err.Error(), "another namespace") || len(f.requests) > 0 {
					t.Errorf("%s of a SecretStore: %v after %q", name, err, f.requests)
				}
			} else if err != nil {
				t.Errorf("%s of a ClusterSecretStore: %v", name, err)
			}
		}
	}
}

func TestConditionsOfAClusterSecretStore(t *testing.T) {
	f := newVault(t)
	f.put("app", `{"password":"x"}`)
	for conditions, ok := range map[string]bool{
		"":                                  true,
		"[{namespaces: [team-a]}]":          true,
		"[{namespaces: [team-b]}]":          false,
		"[{namespaceRegexes: ['team-.*']}]": true,
		"[{namespaceRegexes: ['team']}]":    false, // anchored
		"[{namespaceRegexes: ['eam-a$']}]":  false,
		"[{namespaceRegexes: ['(']}]":       false,

		"[{namespaceSelector: {matchLabels: {tier: gold}}}]":                                            true,
		"[{namespaceSelector: {matchLabels: {tier: tin}}}]":                                             false,
		"[{namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: team-a}}}]":                   true,
		"[{namespaces: [x]}, {namespaceSelector: {matchExpressions: [{key: tier, operator: Exists}]}}]": true,
	} {
		yaml := strings.Replace(storeYAML(f.URL), "kind: SecretStore", "kind: ClusterSecretStore", 1)
		if conditions != "" {
			yaml = strings.Replace(yaml, "spec:\n", "spec:\n  conditions: "+conditions+"\n", 1)
		}
		in := &objects{list: parse(t, yaml+"---\napiVersion: v1\nkind: Namespace\nmetadata: {name: team-a, labels: {tier: gold}}\n")}
		es := one(t, strings.Replace(esYAML(passwordData), "{name: vault}", "{name: vault, kind: ClusterSecretStore}", 1))
		f.requests = nil
		_, err := opener(in).Open(t.Context(), tenants.Grant{Namespace: "team-a"}, es, nil)
		if (err == nil) != ok || !ok && len(f.requests) > 0 {
			t.Errorf("%s: %v after %q", conditions, err, f.requests)
		}
	}
}

func TestT2_NoTemplateMakesACredential(t *testing.T) {
	for _, typ := range []string{"kubernetes.io/service-account-token", "bootstrap.kubernetes.io/token"} {
		es := one(t, esYAML(passwordData+"  target: {template: {type: "+typ+"}}\n"))
		if _, err := opener(&objects{}).Open(t.Context(), tenants.Grant{Namespace: "team-a"}, es, nil); fault.KindOf(err) != fault.Invalid || !strings.Contains(err.Error(), "spec.target.template.type") {
			t.Errorf("%s: %v", typ, err)
		}
	}
	f := newVault(t)
	f.put("app", `{"password":"x"}`)
	set := append(parse(t, storeYAML(f.URL)), one(t, esYAML(passwordData+"  target: {template: {metadata: {labels: {sealedsecrets.bitnami.com/sealed-secrets-key: active}}}}\n")))
	if _, err := opener(&objects{}).Open(t.Context(), tenants.Grant{Namespace: "team-a"}, set[2], set); fault.KindOf(err) != fault.Denied {
		t.Errorf("a sealing key: %v", err)
	}
}

// testCA returns the PEM of some certificate.
func testCA(t *testing.T) string {
	t.Helper()
	server := httptest.NewTLSServer(nil)
	defer server.Close()
	return string(pemfile.EncodeToMemory(&pemfile.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw}))
}
