package externalsecrets

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"sealock.dev/sealock/fault"
	"sealock.dev/sealock/manifest"
	"sealock.dev/sealock/tenants"
)

// liveES is what the API server would have: defaults, labels of the applier, status.
func liveES(t *testing.T, spec string, change func(body map[string]any)) manifest.Object {
	t.Helper()
	o := one(t, esYAML(spec)).Edit(func(body map[string]any) {
		meta, _ := body["metadata"].(map[string]any)
		meta["generation"] = int64(3)
		s, _ := body["spec"].(map[string]any)
		s["refreshInterval"] = "1h0m0s"
		s["target"] = map[string]any{"creationPolicy": "Owner", "deletionPolicy": "Retain"}
		body["status"] = map[string]any{}
	}).WithMeta(map[string]string{"added": "by the applier"}, nil)
	return o.Edit(func(body map[string]any) {
		status, _ := body["status"].(map[string]any)
		status["syncedResourceVersion"] = SyncedResourceVersion(3, o.Annotations(), o.Labels())
		if change != nil {
			change(body)
		}
	})
}

func liveSecret(t *testing.T, change string) manifest.Object {
	t.Helper()
	o := one(t, "apiVersion: v1\nkind: Secret\nmetadata: {name: db, namespace: team-a}\nstringData: {password: bar}\n")
	o = o.WithMeta(map[string]string{"reconcile.external-secrets.io/managed": "true"}, map[string]string{"reconcile.external-secrets.io/data-hash": DataHash(o.SecretData())})
	if change == "" {
		return o
	}
	changed := one(t, "apiVersion: v1\nkind: Secret\nmetadata: {name: db, namespace: team-a}\nstringData: {"+change+"}\n")
	return changed.WithMeta(o.Labels(), o.Annotations())
}

func TestAnUnchangedOneNeverBlocksWhileVaultIsAway(t *testing.T) {
	f := newVault(t)
	f.status = 503
	store := parse(t, storeYAML(f.URL))
	for name, c := range map[string]struct {
		live []manifest.Object
		set  []manifest.Object
		git  string
		keep bool
	}{
		"unchanged":       {[]manifest.Object{liveES(t, passwordData, nil), liveSecret(t, "")}, nil, passwordData, true},
		"same store":      {append(store[:2:2], liveES(t, passwordData, nil), liveSecret(t, "")), store, passwordData, true},
		"new":             {nil, nil, passwordData, false},
		"no secret":       {[]manifest.Object{liveES(t, passwordData, nil)}, nil, passwordData, false},
		"tampered secret": {[]manifest.Object{liveES(t, passwordData, nil), liveSecret(t, "password: other")}, nil, passwordData, false},
		"more keys":       {[]manifest.Object{liveES(t, passwordData, nil), liveSecret(t, "password: bar, x: y")}, nil, passwordData, false},
		"other spec":      {[]manifest.Object{liveES(t, passwordData, nil), liveSecret(t, "")}, nil, strings.Replace(passwordData, "key: app", "key: app2", 1), false},
		"never synced":    {[]manifest.Object{liveES(t, passwordData, func(b map[string]any) { delete(b, "status") }), liveSecret(t, "")}, nil, passwordData, false},
		"other store":     {append(parse(t, storeYAML("http://127.0.0.1:1")), liveES(t, passwordData, nil), liveSecret(t, "")), store, passwordData, false},
	} {
		t.Run(name, func(t *testing.T) {
			in := &objects{list: append(append([]manifest.Object{}, c.live...), store...)}
			f.requests = nil
			p, err := opener(in).Open(t.Context(), tenants.Grant{Namespace: "team-a"}, one(t, esYAML(c.git)), c.set)
			if c.keep && (err != nil || !p.Keep || p.Secret.Name() != "db" || len(f.requests) > 0) {
				t.Errorf("got %v %v after %q, want it kept", p.Keep, err, f.requests)
			}
			if !c.keep && (fault.KindOf(err) != fault.Transient || p.Keep) {
				t.Errorf("got %v %v, want Transient", p.Keep, err)
			}
		})
	}
}

func TestValidWhereASecretIsCompleted(t *testing.T) {
	es := one(t, esYAML(passwordData+"  target: {creationPolicy: Merge}\n"))
	spec, err := Spec(es)
	if err != nil {
		t.Fatal(err)
	}
	if !Valid(spec, liveSecret(t, "password: bar, foreign: x")) || Valid(spec, liveSecret(t, "password: other, foreign: x")) {
		t.Error("only the keys that are ours count")
	}
}

func TestPrerequisites(t *testing.T) {
	set := parse(t, `
apiVersion: v1
kind: Namespace
metadata: {name: team-a}
---
apiVersion: v1
kind: Namespace
metadata: {name: unrelated}
---
apiVersion: external-secrets.io/v1beta1
kind: SecretStore
metadata: {name: vault, namespace: team-a}
spec: {provider: {vault: {server: 'https://v', caProvider: {type: ConfigMap, name: ca, key: ca.crt}, auth: {kubernetes: {role: r, serviceAccountRef: {name: app}}}}}}
---
apiVersion: v1
kind: ServiceAccount
metadata: {name: app, namespace: team-a}
---
apiVersion: v1
kind: ServiceAccount
metadata: {name: app, namespace: unrelated}
---
apiVersion: v1
kind: ConfigMap
metadata: {name: ca, namespace: team-a}
---
apiVersion: external-secrets.io/v1
kind: ClusterSecretStore
metadata: {name: shared}
spec: {provider: {vault: {server: 'https://v', auth: {tokenSecretRef: {name: token, key: t, namespace: platform}}}}}
---
apiVersion: v1
kind: Secret
metadata: {name: token, namespace: platform}
---
apiVersion: bitnami.com/v1alpha1
kind: SealedSecret
metadata: {name: token, namespace: platform}
---
apiVersion: v1
kind: Namespace
metadata: {name: platform}
---
apiVersion: external-secrets.io/v1
kind: SecretStore
metadata: {name: other, namespace: team-a}
spec: {provider: {vault: {server: 'https://v'}}}
`)
	es := one(t, esYAML(passwordData+"  - {secretKey: b, remoteRef: {key: x}, sourceRef: {storeRef: {name: shared, kind: ClusterSecretStore}}}\n"))
	got := opener(&objects{}).Prerequisites(es, set)
	if diff := cmp.Diff([]int{0, 2, 3, 5, 6, 7, 8, 9}, got); diff != "" {
		t.Error(diff)
	}
}

func TestAStoreOfAnotherClassIsLeftAlone(t *testing.T) {
	f := newVault(t)
	set := append(parse(t, strings.Replace(storeYAML(f.URL), "spec:\n", "spec:\n  controller: eso\n", 1)), one(t, esYAML(passwordData)))
	p, err := opener(&objects{}).Open(t.Context(), tenants.Grant{Namespace: "team-a"}, set[2], set)
	if err != nil || !p.Keep || len(f.requests) > 0 {
		t.Errorf("got %v %v after %q", p.Keep, err, f.requests)
	}
	if _, err := opener(&objects{list: set}).Refresh(t.Context(), tenants.Grant{Namespace: "team-a"}, set[2], 0); err != ErrForeignClass { //nolint:errorlint // the sentinel itself
		t.Errorf("refresh: %v", err)
	}
}

func TestVerify(t *testing.T) {
	f := newVault(t)
	for name, c := range map[string]struct {
		yaml    string
		checked bool
		kind    fault.Kind
	}{
		"good":     {storeYAML(f.URL), true, -1},
		"referent": {strings.Replace(storeYAML(f.URL), "kind: SecretStore", "kind: ClusterSecretStore", 1), false, -1},
		"no token": {strings.Replace(storeYAML(f.URL), "name: vault-token, key", "name: nosuch, key", 1), true, fault.NotFound},
		"unknown":  {strings.Replace(storeYAML(f.URL), "vault:\n", "fake:\n", 1), false, fault.Invalid},
	} {
		in := &objects{list: parse(t, c.yaml)}
		checked, err := opener(in).Verify(t.Context(), tenants.Grant{Namespace: "team-a"}, in.list[0])
		if checked != c.checked || (err == nil) != (c.kind == -1) || err != nil && fault.KindOf(err) != c.kind {
			t.Errorf("%s: %v %v", name, checked, err)
		}
	}
	in := &objects{list: parse(t, storeYAML(f.URL))}
	f.requests = nil
	if _, err := opener(in).Verify(t.Context(), tenant("https://elsewhere"), in.list[0]); fault.KindOf(err) != fault.Denied || len(f.requests) > 0 {
		t.Errorf("T18: a credential left for a server that the tenant may not use: %v %q", err, f.requests)
	}
}
