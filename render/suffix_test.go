package render

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"sealock.dev/sealock/manifest"
	"sealock.dev/sealock/plaintext"
)

// suffixed is an overlay whose generators take what fill makes of a value.
func suffixed(fill func(string) string) map[string]string {
	return map[string]string{
		"base/kustomization.yaml": `resources: [app.yaml]
secretGenerator:
- {name: db, files: [password.txt, key=long.bin], type: example.com/db}
- {name: env, envs: [app.env], literals: [public=1]}
- {name: open, literals: [a=b]}
- {name: fixed, files: [password.txt], options: {disableNameSuffixHash: true}}
configMapGenerator:
- {name: settings, files: [password.txt], literals: [plain=yes]}
vars:
- {name: DB, objref: {kind: Secret, name: db, apiVersion: v1}}
`,
		"base/password.txt": fill("correct horse"),
		"base/long.bin":     fill(strings.Repeat("0123456789abcdef\n", 40) + "\xff"),
		"base/app.env":      "TOKEN=" + fill("s3cr3t: ${x}") + "\nOTHER=2\n",
		"base/app.yaml": `apiVersion: apps/v1
kind: Deployment
metadata: {name: app}
spec:
  template:
    spec:
      imagePullSecrets: [{name: db}]
      containers:
      - name: main
        image: x
        args: [--secret=$(DB)]
        envFrom: [{secretRef: {name: env}}, {configMapRef: {name: settings}}, {secretRef: {name: open}}, {secretRef: {name: fixed}}]
      volumes: [{name: v, projected: {sources: [{secret: {name: db}}]}}]
---
apiVersion: v1
kind: ServiceAccount
metadata: {name: app}
secrets: [{name: db}]
`,
		"prod/kustomization.yaml": "resources: [../base]\nnamePrefix: prod-\nsecretGenerator:\n- {name: env, behavior: merge, files: [more.txt]}\n",
		"prod/more.txt":           fill("more"),
	}
}

// TestKustomizeSuffix: generated names, and everything that refers to them, are those that kustomize makes of the
// plaintext; without the option they are not.
func TestKustomizeSuffix(t *testing.T) {
	plain := repo(suffixed(func(s string) string { return s }))
	tokens := newTokens()
	opened := repo(suffixed(func(s string) string { return tokens.Issue(plaintext.FromString(s)) }))
	o := Options{Dir: "prod", NameSuffix: "-x", TargetNamespace: "there"}
	want := mustBuild(t, plain, o, newTokens())
	hidden := mustBuild(t, opened, o, tokens)
	o.KustomizeSuffix = true
	got := mustBuild(t, opened, o, tokens)
	if diff := cmp.Diff(refs(want), refs(got)); diff != "" {
		t.Errorf("names (-kustomize +ours):\n%s", diff)
	}
	for _, kind := range []string{"Deployment", "ServiceAccount"} {
		if diff := cmp.Diff(find(t, want, kind).Body(), find(t, got, kind).Body()); diff != "" {
			t.Errorf("references (-kustomize +ours):\n%s", diff)
		}
	}
	different := 0
	for i := range want {
		if want[i].Name() != hidden[i].Name() {
			different++
		}
		if !sameSecrets(got[i], hidden[i]) {
			t.Errorf("%s: another content than without the option", got[i].Ref())
		}
	}
	if different != 3 {
		t.Errorf("%d names differ without the option, want those of db, env and settings", different)
	}
}

// TestKustomizeSuffix_OnlyWhatIsGenerated: a name that only looks like a generated one stays.
func TestKustomizeSuffix_OnlyWhatIsGenerated(t *testing.T) {
	tokens := newTokens()
	value := tokens.Issue(plaintext.FromString("v"))
	files := repo(map[string]string{"s.yaml": "apiVersion: v1\nkind: Secret\nmetadata: {name: db-5h2f9c4k7t}\nstringData: {a: " + value + "}\n"})
	if got := mustBuild(t, files, Options{KustomizeSuffix: true}, tokens)[0].Name(); got != "db-5h2f9c4k7t" {
		t.Error(got)
	}
}

func sameSecrets(a, b manifest.Object) bool {
	x, y := a.SecretData(), b.SecretData()
	for k := range x {
		if !x[k].Equal(y[k]) {
			return false
		}
	}
	return len(x) == len(y)
}
