package sealing

import (
	"context"
	"errors"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"sealock.dev/sealock/api/sealock/v1alpha1"
	"sealock.dev/sealock/fault"
	"sealock.dev/sealock/internal/testkit"
	"sealock.dev/sealock/manifest"
	"sealock.dev/sealock/plaintext"
	"sealock.dev/sealock/template"
	"sealock.dev/sealock/tenants"
)

func TestGoldenSealedSecretsOfKubeseal(t *testing.T) {
	opaque := map[string]string{"password": "golden-hunter2", "binary": "\x00\x01\x02\x03\xff", "empty": "", "multi": "line one\nline two\n"}
	basic := map[string]string{"username": "golden-user", "password": "golden-basic-password"}
	for file, want := range map[string][]map[string]string{
		"opaque-strict.yaml":         {opaque},
		"opaque-namespace-wide.yaml": {opaque},
		"opaque-cluster-wide.yaml":   {opaque},
		"basic-auth.json":            {basic},
		"basic-auth-4096.yaml":       {basic},
		"two.yaml":                   {{"token": "golden-token-one"}, {"token": "golden-token-two"}},
	} {
		t.Run(file, func(t *testing.T) {
			for i, o := range objects(t, read(t, "golden", file)) {
				p, err := open(t, ring(t, "other2048", "rsa2048", "rsa4096"), o)
				if err != nil {
					t.Fatal(err)
				}
				if diff := cmp.Diff(want[i], data(p.Secret)); diff != "" {
					t.Error(diff)
				}
				if p.Secret.Name() != o.Name() || p.Secret.Namespace() != "team-a" || p.Secret.Origin != manifest.Sealed || p.Secret.Source != o.Source {
					t.Errorf("the Secret is %s, origin %s", p.Secret.Ref(), p.Secret.Origin)
				}
			}
		})
	}
}

func TestProducedIsWhatThePeerWrites(t *testing.T) {
	p, err := open(t, ring(t, "rsa2048"), objects(t, read(t, "golden", "opaque-strict.yaml"))[0])
	if err != nil {
		t.Fatal(err)
	}
	if p.Owner.APIVersion != "bitnami.com/v1alpha1" || p.Owner.Kind != "SealedSecret" || p.Owner.Name != "db" || p.FieldManager != "controller" {
		t.Errorf("owner %+v, manager %s", p.Owner, p.FieldManager)
	}
	if !p.OwnerReference || !p.CreateIfAbsent || !p.Immutable || p.Keep || p.Merge || p.Adopt != manifest.AdoptOwned {
		t.Errorf("%+v", p)
	}
	if p.Secret.Labels()["app"] != "web" || p.Secret.Annotations()["note"] != "kept" || p.Secret.Peek("type") != "Opaque" {
		t.Errorf("labels %v, annotations %v", p.Secret.Labels(), p.Secret.Annotations())
	}
	skip := object(t, map[string]any{"encryptedData": map[string]any{"a": sealText(t, "x", Strict)}, "template": map[string]any{
		"metadata": map[string]any{"annotations": map[string]any{"sealedsecrets.bitnami.com/skip-set-owner-references": "true"}},
	}})
	if p, err = open(t, ring(t, "rsa2048"), skip); err != nil || p.OwnerReference {
		t.Errorf("skip-set-owner-references: %v, %v", p.OwnerReference, err)
	}
}

func TestEveryKeyThatDoesNotOpenIsNamed(t *testing.T) {
	o := object(t, map[string]any{"encryptedData": map[string]any{
		"good":        sealText(t, "x", Strict),
		"password":    sealText(t, "x", NamespaceWide),
		"placeholder": "AgB1k2j3l4m5n6o7p8...", // as seed S1-Y27 has it
		"number":      int64(7),
		"null":        nil,
		"short":       "AgB1",
		"big":         "AgA" + strings.Repeat("A", 4*200+1), // claims RSA-4096
	}})
	_, err := open(t, ring(t, "rsa2048"), o)
	got := map[string]fault.Kind{}
	for _, f := range fault.All(err) {
		got[f.Field] = f.Kind
		if f.Remedy == "" || f.Ref.File != "team-a/sealed.yaml" || f.Ref.Line != 3 || f.Stage != fault.StageOpen {
			t.Errorf("%+v", f)
		}
	}
	want := map[string]fault.Kind{
		"spec.encryptedData.password": fault.NoKey, "spec.encryptedData.short": fault.NoKey, "spec.encryptedData.big": fault.NoKey,
		"spec.encryptedData.placeholder": fault.Invalid, "spec.encryptedData.number": fault.Invalid, "spec.encryptedData.null": fault.Invalid,
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	const line = "SealedSecret/team-a/db (team-a/sealed.yaml:3): spec.encryptedData.password: no key could decrypt secret; " +
		"it is cut or altered, or sealed for another name, namespace or scope than name db in namespace team-a (strict), or for another cluster's key: " +
		"seal it again for this place with this cluster's certificate"
	if !strings.Contains(err.Error(), line) {
		t.Errorf("got %v", err)
	}
	if !strings.Contains(err.Error(), "a key of 4096 bits and this cluster has none of that size") {
		t.Errorf("the size is not named: %v", err)
	}
}

func TestT02_TypesThatMintCredentialsAreDenied(t *testing.T) {
	for typ, denied := range map[string]bool{
		"kubernetes.io/service-account-token": true, "bootstrap.kubernetes.io/token": true,
		"Opaque": false, "": false, "kubernetes.io/tls": false, "example.com/custom": false,
	} {
		o := object(t, map[string]any{"encryptedData": map[string]any{"a": sealText(t, "x", Strict)}, "template": map[string]any{"type": typ}})
		_, err := open(t, ring(t, "rsa2048"), o)
		if denied != (fault.KindOf(err) == fault.Denied && err != nil) {
			t.Errorf("%q: %v", typ, err)
		}
	}
}

func TestReservedMetadataIsDeniedBeforeAnythingIsOpened(t *testing.T) {
	for field, meta := range map[string]map[string]any{
		"labels.sealedsecrets.bitnami.com/sealed-secrets-key": {"labels": map[string]any{"sealedsecrets.bitnami.com/sealed-secrets-key": "active"}},
		"labels.sealock.dev/tenant":                           {"labels": map[string]any{"sealock.dev/tenant": "x"}},
		"labels.policy.sealock.dev/exempt":                    {"labels": map[string]any{"policy.sealock.dev/exempt": "x"}},
		"labels.kustomize.toolkit.fluxcd.io/name":             {"labels": map[string]any{"kustomize.toolkit.fluxcd.io/name": "x"}},
		"labels.reconcile.external-secrets.io/managed":        {"labels": map[string]any{"reconcile.external-secrets.io/managed": "true"}},
		"annotations.sealock.dev/x":                           {"annotations": map[string]any{"sealock.dev/x": "y"}},
		"finalizers":                                          {"finalizers": []any{"example.com/hold"}},
		"ownerReferences":                                     {"ownerReferences": []any{map[string]any{}}, "annotations": map[string]any{"sealedsecrets.bitnami.com/skip-set-owner-references": "true"}},
		"":                                                    {"labels": map[string]any{"app": "x", "notsealock.dev/x": "y", "app.kubernetes.io/name": "z"}, "annotations": map[string]any{"sealedsecrets.bitnami.com/managed": "true"}, "ownerReferences": []any{map[string]any{}}},
	} {
		r := ring(t, "rsa2048")
		n := counting(r)
		o := object(t, map[string]any{"encryptedData": map[string]any{"a": sealText(t, "x", Strict)}, "template": map[string]any{"metadata": meta}})
		_, err := open(t, r, o)
		if field == "" {
			if err != nil {
				t.Error(err)
			}
			continue
		}
		faults := fault.All(err)
		if len(faults) != 1 || faults[0].Kind != fault.Denied || faults[0].Field != "spec.template.metadata."+field || *n != 0 {
			t.Errorf("%s: %v, %d private operations", field, err, *n)
		}
	}
}

func grantWith(t *testing.T, scopes ...string) tenants.Grant {
	t.Helper()
	tenant := v1alpha1.Tenant{}
	tenant.Name = "a"
	tenant.Spec.Namespaces = []v1alpha1.TenantNamespace{{Name: "team-a"}}
	tenant.Spec.SealedSecretScopes = scopes
	return tenants.NewIndex([]v1alpha1.Tenant{tenant}, tenants.DefaultSettings()).GrantFor("team-a")
}

func TestT17_ScopesThatTheTenantMayNotUse(t *testing.T) {
	for name, c := range map[string]struct {
		grant  tenants.Grant
		scope  Scope
		denied bool
	}{
		"strict by default":       {grantWith(t), Strict, false},
		"no namespace by default": {grantWith(t), NamespaceWide, true},
		"no cluster by default":   {grantWith(t), ClusterWide, true},
		"listed":                  {grantWith(t, "strict", "namespace-wide"), NamespaceWide, false},
		"not listed":              {grantWith(t, "strict", "namespace-wide"), ClusterWide, true},
		"no tenant":               {tenants.Grant{Namespace: "team-a"}, ClusterWide, false},
	} {
		r := ring(t, "rsa2048")
		n := counting(r)
		o := object(t, map[string]any{"encryptedData": map[string]any{"a": sealText(t, "x", c.scope)}}, annotate(c.scope))
		_, err := NewOpener(r, template.Engine{}).Open(context.Background(), c.grant, o, nil)
		if !c.denied {
			if err != nil {
				t.Errorf("%s: %v", name, err)
			}
			continue
		}
		if fault.KindOf(err) != fault.Denied || *n != 0 || !strings.Contains(err.Error(), "sealedSecretScopes") {
			t.Errorf("%s: %v, %d private operations", name, err, *n)
		}
	}
}

func TestT17_ACopyInAnotherPlaceDoesNotOpen(t *testing.T) {
	for name, edit := range map[string]func(map[string]any){
		"another namespace":     func(m map[string]any) { m["namespace"] = "team-b" },
		"another name":          func(m map[string]any) { m["name"] = "db2" },
		"a wider scope claimed": annotate(ClusterWide),
	} {
		o := object(t, map[string]any{"encryptedData": map[string]any{"a": sealText(t, "x", Strict)}}, edit)
		if _, err := open(t, ring(t, "rsa2048"), o); err == nil || fault.KindOf(err) != fault.NoKey {
			t.Errorf("%s: %v", name, err)
		}
	}
	// The template's annotations say nothing about the scope.
	o := object(t, map[string]any{"encryptedData": map[string]any{"a": sealText(t, "x", ClusterWide)}, "template": map[string]any{
		"metadata": map[string]any{"annotations": map[string]any{"sealedsecrets.bitnami.com/cluster-wide": "true"}},
	}})
	if _, err := open(t, ring(t, "rsa2048"), o); fault.KindOf(err) != fault.NoKey {
		t.Errorf("scope of the template: %v", err)
	}
}

func TestTemplateData(t *testing.T) {
	o := object(t, map[string]any{
		"encryptedData": map[string]any{"user": sealText(t, "alice", Strict), "password": sealText(t, "hunter22", Strict), "taken": sealText(t, "sealed", Strict)},
		"template": map[string]any{"data": map[string]any{
			"url":      "postgres://{{ .user }}:{{ .password }}@{{ .host }}",
			"host":     "db.example.com",
			"taken":    "template",
			"password": nil,
		}},
	})
	p, err := open(t, ring(t, "rsa2048"), o)
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]string{"url": "postgres://alice:hunter22@db.example.com", "host": "db.example.com", "taken": "sealed", "user": "alice"}
	if diff := cmp.Diff(want, data(p.Secret)); diff != "" {
		t.Error(diff)
	}
}

// talkative is a template engine that breaks its contract.
type talkative struct{}

func (talkative) Execute(_ context.Context, _, _ string, values map[string]plaintext.Value) (plaintext.Value, error) {
	text := string(values["password"].Reveal())
	return plaintext.Value{}, errors.Join(fault.New("", fault.Invalid, fault.Ref{}, "got %s", text).Fix("not %s", text), errors.New(text))
}

func TestNoFailingPathCarriesAValue(t *testing.T) {
	canary := testkit.NewCanary()
	sealed := sealText(t, canary.String(), Strict)
	whole := func(body string) string { return sealText(t, body, Strict) }
	tmpl := func(text string) map[string]any {
		return map[string]any{"encryptedData": map[string]any{"password": sealed}, "template": map[string]any{"data": map[string]any{"x": text}}}
	}
	type failing struct {
		o         manifest.Object
		templates Templates
	}
	cases := map[string]failing{
		"one good, one bad": {object(t, map[string]any{"encryptedData": map[string]any{"password": sealed, "bad": sealed[:40]}}), nil},
		"engine that talks": {object(t, tmpl("{{ .password }}")), talkative{}},
		"fail":              {object(t, tmpl("{{ fail .password }}")), nil},
		"index":             {object(t, tmpl("{{ index .password .password }}")), nil},
		"missing":           {object(t, tmpl("{{ .password }}{{ .nothing }}")), nil},
		"as function":       {object(t, tmpl(`{{ template .password }}`)), nil},
		"syntax":            {object(t, tmpl(`{{ .password`)), nil},
		"regex":             {object(t, tmpl(`{{ regexFind (printf "(%s" .password) "x" }}`)), nil},
		"json":              {object(t, tmpl(`{{ fromJson .password }}`)), nil},
		"int":               {object(t, tmpl(`{{ atoi .password }}`)), nil},
		"legacy junk":       {object(t, map[string]any{"data": sealed}), nil},
		"legacy tag":        {object(t, map[string]any{"data": whole("a: !" + canary.String() + " x")}), nil},
		"legacy label":      {object(t, map[string]any{"data": whole(`{"apiVersion":"v1","kind":"Secret","metadata":{"name":"db","labels":{"sealock.dev/` + canary.String()[:20] + `":"x"}},"data":{"a":"!"}}`)}), nil},
		"legacy base64":     {object(t, map[string]any{"data": whole(`{"apiVersion":"v1","kind":"Secret","metadata":{"name":"db"},"data":{"a":"!` + canary.String()[:20] + `"}}`)}), nil},
	}
	for name, c := range cases {
		if c.templates == nil {
			c.templates = template.Engine{}
		}
		_, err := NewOpener(ring(t, "rsa2048"), c.templates).Open(context.Background(), tenants.Grant{Namespace: "team-a"}, c.o, nil)
		if err == nil {
			t.Errorf("%s: no error", name)
			continue
		}
		if found := canary.FindIn(err.Error()); found != nil {
			t.Errorf("%s: %q in %q", name, found, err)
		}
	}
}

func TestLegacyDataIsOpened(t *testing.T) {
	secret := `{"apiVersion":"v1","kind":"Secret","metadata":{"name":"else","namespace":"where","labels":{"app":"x"}},"type":"kubernetes.io/basic-auth","data":{"password":"aHVudGVyMg=="}}`
	p, err := open(t, ring(t, "rsa2048"), object(t, map[string]any{"data": sealText(t, secret, Strict)}))
	if err != nil {
		t.Fatal(err)
	}
	if p.Secret.Name() != "db" || p.Secret.Namespace() != "team-a" || data(p.Secret)["password"] != "hunter2" ||
		p.Secret.Peek("type") != "kubernetes.io/basic-auth" || p.Secret.Labels()["app"] != "x" {
		t.Errorf("got %s", p.Secret.Ref())
	}
	for name, spec := range map[string]map[string]any{
		"both":  {"data": sealText(t, secret, Strict), "encryptedData": map[string]any{"a": sealText(t, "x", Strict)}},
		"token": {"data": sealText(t, strings.Replace(secret, "basic-auth", "service-account-token", 1), Strict)},
	} {
		_, err := open(t, ring(t, "rsa2048"), object(t, spec))
		if k := fault.KindOf(err); err == nil || k != fault.Invalid && k != fault.Denied {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestShapesThatThePeerSwallows(t *testing.T) {
	good := sealText(t, "x", Strict)
	for field, spec := range map[string]map[string]any{
		"spec.encryptedData":                 {"encryptedData": "text"},
		"spec.template":                      {"template": "text"},
		"spec.template.type":                 {"template": map[string]any{"type": int64(1)}},
		"spec.template.immutable":            {"template": map[string]any{"immutable": "true"}},
		"spec.template.data.x":               {"template": map[string]any{"data": map[string]any{"x": int64(1)}}},
		"spec.template.metadata.labels.app":  {"template": map[string]any{"metadata": map[string]any{"labels": map[string]any{"app": int64(1)}}}},
		"spec.template.metadata.annotations": {"template": map[string]any{"metadata": map[string]any{"annotations": []any{"x"}}}},
		"spec.data":                          {"data": "%"},
		"spec.encryptedData.password":        {"encryptedData": map[string]any{"password": map[string]any{}}},
		"spec.encryptedData.x":               {"encryptedData": map[string]any{"password": good, "x": true}},
	} {
		_, err := open(t, ring(t, "rsa2048"), object(t, spec))
		if fault.KindOf(err) != fault.Invalid || err == nil {
			t.Errorf("%s: %v", field, err)
			continue
		}
		if f := fault.All(err)[0].Field; f != field {
			t.Errorf("got field %s, want %s", f, field)
		}
	}
	if p, err := open(t, ring(t, "rsa2048"), object(t, map[string]any{"encryptedData": map[string]any{}, "template": nil})); err != nil || len(p.Secret.SecretData()) != 0 {
		t.Errorf("empty: %v", err)
	}
}

func TestUnloadedRingIsTransient(t *testing.T) {
	o := object(t, map[string]any{"encryptedData": map[string]any{"a": sealText(t, "x", Strict)}})
	if _, err := open(t, NewKeyRing(plaintext.RandomKey()), o); fault.KindOf(err) != fault.Transient || err == nil {
		t.Errorf("got %v", err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := NewOpener(ring(t, "rsa2048"), template.Engine{}).Open(ctx, tenants.Grant{Namespace: "team-a"}, o, nil); fault.KindOf(err) != fault.Transient || err == nil {
		t.Errorf("cancelled: %v", err)
	}
}

func FuzzOpenObject(f *testing.F) {
	for _, name := range []string{"opaque-strict.yaml", "two.yaml", "basic-auth.json"} {
		f.Add(read(f, "golden", name))
	}
	f.Add([]byte("apiVersion: bitnami.com/v1alpha1\nkind: SealedSecret\nmetadata: {name: a, namespace: b}\nspec: {encryptedData: [1], template: {data: {x: null}}}"))
	r := ring(f, "rsa2048")
	op := NewOpener(r, template.Engine{})
	f.Fuzz(func(t *testing.T, text []byte) {
		docs, err := manifest.Decode("x.yaml", text, manifest.DefaultLimits)
		if err != nil {
			return
		}
		for _, d := range docs {
			o, err := manifest.New(d.Body, manifest.Source{}, nil)
			if err != nil || !op.Opens(o) {
				continue
			}
			p, err := op.Open(context.Background(), tenants.Grant{Namespace: "team-a"}, o, nil)
			if err != nil && len(fault.All(err)) == 0 {
				t.Fatalf("unclassified: %v", err)
			}
			if err == nil && slices.Sorted(maps.Keys(p.Secret.SecretData())) == nil && len(mapOf(o.Peek("spec", "encryptedData"))) > len(mapOf(o.Peek("spec", "template", "data"))) {
				t.Fatal("an empty Secret of a full SealedSecret")
			}
		}
	})
}
