package externalsecrets

import (
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"sealock.dev/sealock/fault"
	"sealock.dev/sealock/manifest"
	"sealock.dev/sealock/pipeline"
	"sealock.dev/sealock/tenants"
)

var _ pipeline.Opener = (*Opener)(nil)

func TestOpen(t *testing.T) {
	f := newVault(t)
	f.put("app", `{"user":"u","password":"p<w>","n":12345678901234567890,"a.b":"lit","a":{"b":"deep","l":["x","y"]},"nul":null,"b64":"aGk=","obj":{"k":"<v>"}}`)
	for name, c := range map[string]struct {
		spec string
		want map[string]string
	}{
		"properties": {`  data:
  - {secretKey: user, remoteRef: {key: app, property: user}}
  - {secretKey: n, remoteRef: {key: secret/app, property: n}}
  - {secretKey: lit, remoteRef: {key: /app, property: a.b}}
  - {secretKey: deep, remoteRef: {key: app, property: 'a\.b'}}
  - {secretKey: list, remoteRef: {key: app, property: a.l.1}}
  - {secretKey: nul, remoteRef: {key: app, property: nul}}
  - {secretKey: obj, remoteRef: {key: app, property: obj}}
  - {secretKey: b64, remoteRef: {key: app, property: b64, decodingStrategy: Base64}}
  - {secretKey: auto, remoteRef: {key: app, property: user, decodingStrategy: Auto}}
`, map[string]string{"user": "u", "n": "12345678901234567890", "lit": "lit", "deep": "lit", "list": "y", "nul": "", "obj": `{"k":"\u003cv\u003e"}`, "b64": "hi", "auto": "u"}},
		"whole": {"  data: [{secretKey: all, remoteRef: {key: app, version: \"1\"}}]\n", map[string]string{
			"all": `{"a":{"b":"deep","l":["x","y"]},"a.b":"lit","b64":"aGk=","n":12345678901234567890,"nul":null,"obj":{"k":"\u003cv\u003e"},"password":"p\u003cw\u003e","user":"u"}`,
		}},
		"template":              {passwordData + "  target:\n    template:\n      data:\n        url: 'db://u:{{ .password | urlquery }}@h'\n", map[string]string{"url": "db://u:p%3Cw%3E@h"}},
		"merged":                {passwordData + "  target:\n    template:\n      mergePolicy: Merge\n      data: {more: '{{ .password | upper }}'}\n", map[string]string{"password": "p<w>", "more": "P<W>"}},
		"template without data": {passwordData + "  target: {template: {metadata: {labels: {x: y}}}}\n", map[string]string{"password": "p<w>"}},
	} {
		t.Run(name, func(t *testing.T) {
			set := append(parse(t, storeYAML(f.URL)), one(t, esYAML(c.spec)))
			p, err := opener(&objects{}).Open(t.Context(), tenants.Grant{Namespace: "team-a"}, set[2], set)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(c.want, data(p)); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestTwentyItemsAreOneRead(t *testing.T) {
	f := newVault(t)
	f.put("app", `{"password":"x"}`)
	var spec strings.Builder
	spec.WriteString("  data:\n")
	for i := range 20 {
		fmt.Fprintf(&spec, "  - {secretKey: k%d, remoteRef: {key: app, property: password}}\n", i)
	}
	o := opener(&objects{list: parse(t, storeYAML(f.URL))})
	if _, err := o.Refresh(t.Context(), tenants.Grant{Namespace: "team-a"}, one(t, esYAML(spec.String())), 0); err != nil {
		t.Fatal(err)
	}
	if n := f.count("GET secret/data/app root-of-team-a"); n != 1 || len(f.requests) != 1 {
		t.Errorf("requests: %q, want one read", f.requests)
	}
}

func TestTheSecretIsShapedAsThePeerDoes(t *testing.T) {
	f := newVault(t)
	f.put("app", `{"password":"bar"}`)
	set := append(parse(t, storeYAML(f.URL)), one(t, strings.Replace(esYAML(strings.Replace(passwordData, "secretKey: password", "secretKey: foo", 1)), "external-secrets.io/v1", "external-secrets.io/v1beta1", 1)))
	p, err := opener(&objects{}).Open(t.Context(), tenants.Grant{Namespace: "team-a"}, set[2], set)
	if err != nil {
		t.Fatal(err)
	}
	wantLabels := map[string]string{"app": "x", "reconcile.external-secrets.io/managed": "true", "reconcile.external-secrets.io/created-by": CreatedBy("team-a", "db")}
	if diff := cmp.Diff(wantLabels, p.Secret.Labels()); diff != "" {
		t.Error(diff)
	}
	wantAnnotations := map[string]string{"note": "y", "reconcile.external-secrets.io/data-hash": "f2a604b87eb0cf673761e8cfea850f901fe73a3d1b2f338802107f36"}
	if diff := cmp.Diff(wantAnnotations, p.Secret.Annotations()); diff != "" {
		t.Error(diff)
	}
	if p.FieldManager != "externalsecrets.external-secrets.io/db" || p.Owner.APIVersion != "external-secrets.io/v1" || p.Secret.Name() != "db" || p.Secret.Origin != manifest.External {
		t.Errorf("produced %+v", p)
	}
}

func TestCreationPolicies(t *testing.T) {
	f := newVault(t)
	f.put("app", `{"password":"bar"}`)
	for policy, want := range map[string][4]bool{ // keep, owner reference, create, merge
		"Owner": {false, true, true, false}, "Orphan": {false, false, true, false}, "Merge": {false, false, false, true},
		"CreateOrMerge": {false, false, true, true}, "None": {true, false, false, false},
	} {
		set := append(parse(t, storeYAML(f.URL)), one(t, esYAML(passwordData+"  target: {name: other, immutable: true, creationPolicy: "+policy+"}\n")))
		p, err := opener(&objects{}).Open(t.Context(), tenants.Grant{Namespace: "team-a"}, set[2], set)
		if err != nil {
			t.Fatal(err)
		}
		got := [4]bool{p.Keep, p.OwnerReference, p.CreateIfAbsent, p.Merge}
		if got != want || p.Secret.Name() != "other" || p.Adopt != manifest.AdoptManaged || !p.Immutable {
			t.Errorf("%s: got %v %+v, want %v", policy, got, p, want)
		}
		if _, has := p.Secret.Labels()["reconcile.external-secrets.io/created-by"]; has != (policy == "Owner") {
			t.Errorf("%s: created-by is %t", policy, has)
		}
	}
}

// The golden vectors of reference/external-secrets.md, section 1.9.
func TestGoldenVectors(t *testing.T) {
	secret := one(t, "apiVersion: v1\nkind: Secret\nmetadata: {name: x}\nstringData: {foo: bar}\n")
	for what, c := range map[string][2]string{
		"data-hash":         {DataHash(secret.SecretData()), "f2a604b87eb0cf673761e8cfea850f901fe73a3d1b2f338802107f36"},
		"data-hash, empty":  {DataHash(nil), "74a974446e359fb3e6baff9bd0058950e6edd0f040888d9989b0a11b"},
		"created-by":        {CreatedBy("default", "my-es"), "b8464376b5fe3535e690594280bfe59b60be2603cb6cbb6d6c8bcbb4"},
		"synced":            {SyncedResourceVersion(1, nil, nil), "1-f47fe3c0b255b6dd8047cdffa772587bb829efe7a1cb70febeda2eb2"},
		"synced, annotated": {SyncedResourceVersion(1, map[string]string{"force-sync": "1"}, map[string]string{"app": "x"}), "1-3d12e408db6c49a3ee395b931be03fd96e1d0d404684799ef4cd01b4"},
		"field manager":     {FieldManager("a-very-long-external-secret-name-0"), "externalsecrets.external-secrets.io/sha3/9c2db757e4f59e29acd91214a6588ffdfd33f102bc5d67a832b059c7"},
		"short manager":     {FieldManager("abcdefghijklmnopqrstuvwxyz1"), "externalsecrets.external-secrets.io/abcdefghijklmnopqrstuvwxyz1"},
	} {
		if c[0] != c[1] {
			t.Errorf("%s: got %s, want %s", what, c[0], c[1])
		}
	}
}

func TestErrorsNameWhatToDoAndNoValue(t *testing.T) {
	const secretKey = "secret key \"password\""
	for name, c := range map[string]struct {
		spec, store, object string
		status              int
		kind                fault.Kind
		words               []string
	}{
		"missing property":  {passwordData, "", `{"other":"` + canary + `"}`, 0, fault.NotFound, []string{secretKey, "secret/app", `no property "password"`, "spec.data[0].remoteRef.property", "app.yaml:"}},
		"missing secret":    {passwordData, "", "", 0, fault.NotFound, []string{secretKey, "there is no secret at secret/app"}},
		"sealed":            {passwordData, "", `{}`, 503, fault.Transient, []string{secretKey, "HTTP 503"}},
		"denied":            {passwordData, "", `{}`, 403, fault.Denied, []string{"does not know the token"}},
		"not base64":        {strings.Replace(passwordData, "property: password", "property: password, decodingStrategy: Base64", 1), "", `{"password":"` + canary + `!"}`, 0, fault.Invalid, []string{"the value is not Base64"}},
		"null byte":         {strings.Replace(passwordData, "property: password", "property: password, nullBytePolicy: Fail", 1), "", `{"password":"` + canary + `\u0000"}`, 0, fault.Invalid, []string{"null byte"}},
		"not an object":     {passwordData, "", `"` + canary + `"`, 0, fault.Invalid, []string{"not a JSON object"}},
		"template fails":    {passwordData + "  target: {template: {data: {url: '{{ fail .password }}'}}}\n", "", `{"password":"` + canary + `"}`, 0, fault.Invalid, []string{"spec.target.template.data.url", "function fail"}},
		"template atoi":     {passwordData + "  target: {template: {data: {url: '{{ atoi .password }}'}}}\n", "", `{"password":"` + canary + `"}`, 0, fault.Invalid, []string{"function atoi"}},
		"value in metadata": {passwordData + "  target: {template: {metadata: {annotations: {x: '{{ .password }}'}}}}\n", "", `{"password":"` + canary + `"}`, 0, fault.Invalid, []string{"templates of metadata see no values"}},
		"escape":            {"  data: [{secretKey: password, remoteRef: {key: ../../sys/mounts}}]\n", "", `{}`, 0, fault.Invalid, []string{"spec.data[0].remoteRef.key", "segment"}},
		"dataFrom":          {"  dataFrom: [{extract: {key: app}}]\n", "", `{}`, 0, fault.Invalid, []string{"spec.dataFrom", "not served yet"}},
		"templateFrom":      {passwordData + "  target: {template: {templateFrom: [{literal: x}]}}\n", "", `{}`, 0, fault.Invalid, []string{"templateFrom", "not served yet"}},
		"generator":         {"  data: [{secretKey: a, remoteRef: {key: b}, sourceRef: {generatorRef: {kind: Password, name: p}}}]\n", "", `{}`, 0, fault.Invalid, []string{"generatorRef", "not served yet"}},
		"unknown field":     {passwordData + "  syncWindows: {kind: deny}\n", "", `{}`, 0, fault.Invalid, []string{"not served yet: spec.syncWindows"}},
		"metadata fetch":    {"  data: [{secretKey: a, remoteRef: {key: b, metadataPolicy: Fetch}}]\n", "", `{}`, 0, fault.Invalid, []string{"metadataPolicy", "not served yet"}},
		"nothing":           {"  data: []\n", "", `{}`, 0, fault.Invalid, []string{"nothing to read"}},
		"twice":             {passwordData + strings.TrimPrefix(passwordData, "  data:\n"), "", `{}`, 0, fault.Invalid, []string{"stands twice"}},
		"delete orphan":     {passwordData + "  target: {creationPolicy: Orphan, deletionPolicy: Delete}\n", "", `{}`, 0, fault.Invalid, []string{"deletionPolicy"}},
		"aws":               {passwordData, "provider: {aws: {service: SecretsManager, region: x}}", `{}`, 0, fault.Invalid, []string{"ProviderNotSupported", `"aws"`, "SecretStore/team-a/vault"}},
		"tls":               {passwordData, "provider: {vault: {server: SERVER, path: secret, tls: {}, auth: {tokenSecretRef: {name: vault-token}}}}", `{}`, 0, fault.Invalid, []string{"not served yet: spec.provider.vault.tls"}},
		"ldap":              {passwordData, "provider: {vault: {server: SERVER, path: secret, auth: {ldap: {username: x}}}}", `{}`, 0, fault.Invalid, []string{"spec.provider.vault.auth.ldap"}},
		"no credential":     {passwordData, "provider: {vault: {server: SERVER, path: secret, auth: {tokenSecretRef: {name: nosuch}}}}", `{}`, 0, fault.NotFound, []string{"Secret/team-a/nosuch", "does not exist"}},
		"wrong key":         {passwordData, "provider: {vault: {server: SERVER, path: secret, auth: {tokenSecretRef: {name: vault-token, key: nosuch}}}}", `{}`, 0, fault.NotFound, []string{`it has no key "nosuch"`}},
		"header":            {passwordData, "provider: {vault: {server: SERVER, headers: {X-Vault-Token: " + canary + "}, auth: {tokenSecretRef: {name: vault-token}}}}", `{}`, 0, fault.Invalid, []string{"may not be set", "spec.provider.vault.headers"}},
		"no such store":     {strings.Replace(passwordData, "data:", "secretStoreRef: {name: nosuch}\n  data:", 1), "", `{}`, 0, fault.NotFound, []string{"SecretStore/team-a/nosuch", "does not exist"}},
	} {
		t.Run(name, func(t *testing.T) {
			f := newVault(t)
			if c.object != "" {
				f.put("app", c.object)
			}
			f.status = c.status
			yaml := storeYAML(f.URL)
			if c.store != "" {
				_, rest, _ := strings.Cut(yaml, "---")
				yaml = "apiVersion: external-secrets.io/v1\nkind: SecretStore\nmetadata: {name: vault, namespace: team-a}\nspec: {" + strings.ReplaceAll(c.store, "SERVER", "'"+f.URL+"'") + "}\n---" + rest
			}
			es := esYAML(c.spec)
			if strings.Contains(c.spec, "secretStoreRef") {
				es = strings.Replace(es, "  secretStoreRef: {name: vault}\n", "", 1)
			}
			set := append(parse(t, yaml), one(t, es))
			_, err := opener(&objects{}).Open(t.Context(), tenants.Grant{Namespace: "team-a"}, set[2], set)
			if err == nil || fault.KindOf(err) != c.kind {
				t.Fatalf("got %v %v, want %s", fault.KindOf(err), err, c.kind)
			}
			silent(t, err.Error())
			for _, w := range append(c.words, "ExternalSecret/team-a/db") {
				if !strings.Contains(err.Error(), w) && !(w == "ExternalSecret/team-a/db" && strings.Contains(err.Error(), "SecretStore")) {
					t.Errorf("%v\ndoes not say %q", err, w)
				}
			}
			if !strings.Contains(err.Error(), "; ") {
				t.Errorf("%v: no remedy", err)
			}
		})
	}
}

func TestOneCauseIsSaidOnce(t *testing.T) {
	f := newVault(t)
	f.status = 500
	spec := passwordData + "  - {secretKey: user, remoteRef: {key: app, property: user}}\n  - {secretKey: other, remoteRef: {key: else}}\n"
	set := append(parse(t, storeYAML(f.URL)), one(t, esYAML(spec)))
	_, err := opener(&objects{}).Open(t.Context(), tenants.Grant{Namespace: "team-a"}, set[2], set)
	if err == nil || len(strings.Split(err.Error(), "\n")) != 2 || !strings.Contains(err.Error(), `secret key "password", "user": reading secret/data/app failed`) {
		t.Errorf("got %v", err)
	}
}

func FuzzProperty(f *testing.F) {
	for _, seed := range [][2]string{{`{"a":1}`, "a"}, {`{"a":{"b":[1,2]}}`, "a.b.#"}, {`{"a":[{"x":1}]}`, `a.#(x=="1")`}, {`{"a":"b"}`, "@this"}, {`[]`, ""}, {`{"a":1e400}`, "a"}, {`{"a":1}`, "@pretty:{"}, {`{"x":1}`, "..0"}} {
		f.Add(seed[0], seed[1])
	}
	f.Fuzz(func(t *testing.T, object, name string) {
		defer func() {
			if p := recover(); p != nil {
				t.Logf("gjson panics, which pick turns into an error: %v", p)
			}
		}()
		out, err := property([]byte(object), name, "x")
		if err != nil && strings.Contains(err.Error(), object) && len(object) > 8 && !strings.Contains(name, object) {
			t.Errorf("the error shows the secret: %v", err)
		}
		_ = out
	})
}
