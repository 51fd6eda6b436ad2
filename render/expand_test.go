package render

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"testing/fstest"

	"sealock.dev/sealock/fault"
	"sealock.dev/sealock/manifest"
	"sealock.dev/sealock/plaintext"
)

func lookupIn(vars map[string]string) func(string) (operand, bool) {
	return func(name string) (operand, bool) {
		v, ok := vars[name]
		return operand{text: v, empty: v == ""}, ok
	}
}

// The table of the dialect, as Flux 2.9 has it (envsubst 1.7): what differs on purpose is in docs/spec/kustomization.md.
func TestExpand(t *testing.T) {
	vars := lookupIn(map[string]string{"v": "value", "e": "", "path": "a/b/c.tar.gz", "1a": "one", "u": "ünïcode"})
	for in, want := range map[string]string{
		"${v}": "value", "$v": "$v", "$(v)": "$(v)", "$${v}": "${v}", "$$${v}": "$value", "$$$${v}": "$${v}", "pa$$word": "pa$word", "$$$": "$$", "$": "$",
		"${v:-d}": "value", "${e:-d}": "d", "${x:-d}": "d", "${x:=d}": "d", "${x=d}": "d", "${x:+d}": "d", "${x:?d}": "d", "${x:-}": "", "${e}": "",
		"${v^}": "Value", "${v^^}": "VALUE", "${v,}": "value", "${v,,}": "value", "${#v}": "5", "${#u}": "7", "${u^}": "Ünïcode",
		"${path#*/}": "b/c.tar.gz", "${path##*/}": "c.tar.gz", "${path%.*}": "a/b/c.tar", "${path%%.*}": "a/b/c", "${v#x}": "value", "${v%?}": "valu",
		"${v/l/L}": "vaLue", "${path//\\//-}": "a-b-c.tar.gz", "${path/\\/b\\//\\/}": "a/c.tar.gz", "${v/l/\\\\}": `va\ue`, "${v/l/\\n}": `va\nue`, "${v/l/$$}": "va$ue", "${v/l/}": "vaue", "${v//l/}": "vaue",
		"${path/#a/}": "a/b/c.tar.gz", "${path/#a/z}": "z/b/c.tar.gz", "${path/%gz/xz}": "a/b/c.tar.xz",
		"${v#[v]}": "alue", "${v##[a-z]*[a-l]}": "", "${v#[^v]}": "value", "${v#[^a-u]}": "alue", "${v#[v}": "value", "${v#[]}": "value", "${v#[a-]}": "value", "${v#\\v}": "alue", "${v#*}": "alue", "${v%[e]}": "value",
		"${x:-$$}": "$$", "${x:-$${v}}": "$value", `${x:-\/}`: `\/`, "${v:a}": "value", "${v:1:b}": "value", "${v:1:1:1}": "value", "${v: -2}": "value",
		"${v:2}": "lue", "${v:1:3}": "alu", "${v:9}": "", "${v:1:99}": "alue", "${v:1:-1}": "alu", "${v:0:0}": "",
		"${x:-${y:-${v}}}": "value", "${x:-a${e}b}": "ab", "${1a}": "one", "a${v}b${v}": "avaluebvalue", "}": "}",
	} {
		got, err := expand(in, vars)
		if err != nil || got != want {
			t.Errorf("%s: got %q %v, want %q", in, got, err, want)
		}
	}
	for _, in := range []string{"${x}", "${}", "${ v }", "${a.b}", "${v", "${v-d}", "${v+d}", "${v?d}", "${x^^}", "${#x}", "${x:2}", "${x/a/b}", "${v/a}", "${v//a}", "${v/}", "${v//}", "${v/#/x}", "${v//e}", "${v:}", "${v:1:}", "${x:-a $${b}}", "${#v", "${x:-${v}", "${v:1", strings.Repeat("${x:-", 100)} {
		if got, err := expand(in, vars); err == nil {
			t.Errorf("%s: got %q", in, got)
		}
	}
}

func FuzzExpand(f *testing.F) {
	for _, s := range []string{"${v:1:-1}", "$${v}", "${path##*/}", "${v//a/b}", "${#v}", "${x:-${y}}", "${v:-1:2}", "${v%%?*}", "${u^^}", "${v#[a-z]*}", `${v//\//\\}`, "${x:-$${v}}"} {
		f.Add(s, "value")
	}
	f.Fuzz(func(t *testing.T, in, value string) {
		out, err := expand(in, lookupIn(map[string]string{"v": value, "path": "a/b", "u": "ü"}))
		if err == nil && len(out) > 2*maxExpanded+len(in) {
			t.Errorf("%d bytes", len(out))
		}
		if !strings.Contains(in, "$") && out != in {
			t.Errorf("%q became %q", in, out)
		}
	})
}

// contract: Object substitute: disabled
func TestSubstitution(t *testing.T) {
	tokens := newTokens()
	inner := tokens.Issue(plaintext.FromString("pw-${name}-${secret}-$$x"))
	files := repo(map[string]string{
		"a.yaml":   "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: \"${name}\"}\ndata: {n: \"${num}\", multi: \"${multi}\", host: \"db.${zone:=z1}.local\"}\n",
		"d.yaml":   strings.Replace(deployment, "replicas: 1", "replicas: ${num}", 1),
		"off.yaml": "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: off, annotations: {kustomize.toolkit.fluxcd.io/substitute: disabled}}\ndata: {x: \"${nothing}\"}\n",
		"s.yaml":   "apiVersion: v1\nkind: Secret\nmetadata: {name: s}\nstringData: {plain: \"${secret}\", upper: \"${secret^^}\", in: " + inner + "}\n",
	})
	o := Options{
		SubstituteFrom: []Variables{{Public: map[string]string{"name": "early", "num": "3"}}, {Secret: map[string]plaintext.Value{"secret": plaintext.FromString("canary\n")}}},
		Substitute:     map[string]string{"name": "late", "multi": "a\nb"},
		Labels:         map[string]string{"l": "${name}"},
	}
	set := mustBuild(t, files, o, tokens)
	cm := set[0]
	if cm.Name() != "late" || cm.Peek("data", "n") != int64(3) || cm.Peek("data", "multi") != "ab" || cm.Peek("data", "host") != "db.z1.local" {
		t.Errorf("got %v", cm.Body())
	}
	if cm.Labels()["l"] != "${name}" {
		t.Errorf("common metadata is not input: %v", cm.Labels())
	}
	if set[1].Peek("spec", "replicas") != int64(3) {
		t.Errorf("got %v", set[1].Peek("spec", "replicas"))
	}
	if set[2].Peek("data", "x") != "${nothing}" {
		t.Error("the annotation does not switch it off")
	}
	data := set[3].SecretData()
	for key, want := range map[string]string{"plain": "canary", "upper": "CANARY", "in": "pw-late-canary-$$x"} {
		if !data[key].Equal(plaintext.FromString(want)) {
			t.Errorf("%s is not what it should be", key)
		}
	}
	if s := fmt.Sprint(set[3].Body()); strings.Contains(s, "canary") || strings.Contains(s, "pw-") {
		t.Errorf("a secret in the body: %s", s)
	}
}

func TestSubstitutionRefusals(t *testing.T) {
	tokens := newTokens()
	broken := tokens.Issue(plaintext.FromString("canary-${unset}"))
	for name, c := range map[string]struct {
		file string
		opts Options
		want string
	}{
		"unset":              {"data: {x: \"${gone}\"}\n", Options{Substitute: map[string]string{"a": "b"}}, `"gone" is not set`},
		"always":             {"data: {x: \"${gone}\"}\n", Options{SubstituteAlways: true}, `"gone" is not set`},
		"name":               {"data: {x: y}\n", Options{Substitute: map[string]string{"1a": "b"}}, "'1a' var name is invalid, must match '^[_[:alpha:]][_[:alpha:][:digit:]]*$'"},
		"broken yaml":        {"data: {x: \"${a}\"}\n", Options{Substitute: map[string]string{"a": "[canary"}}, "not valid YAML"},
		"inside":             {"data: {x: " + broken + "}\n", Options{Substitute: map[string]string{"a": "b"}, DecryptedTemplates: true}, "encrypted value"},
		"secret as argument": {"data: {x: \"${a/b/${s}}\"}\n", Options{Substitute: map[string]string{"a": "b"}, SubstituteFrom: []Variables{{Secret: map[string]plaintext.Value{"s": plaintext.FromString("canary")}}}}, "argument"},
	} {
		_, _, err := New(c.opts).Render(context.Background(), repo(map[string]string{"a.yaml": configMap("a") + c.file}), tokens)
		if fault.KindOf(err) != fault.Invalid || !strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), "canary") || strings.Contains(err.Error(), "unset") {
			t.Errorf("%s: got %v", name, err)
		}
	}
	if got := mustBuild(t, repo(map[string]string{"a.yaml": configMap("a") + "data: {x: \"${gone}\"}\n"}), Options{}, nil); got[0].Peek("data", "x") != "${gone}" {
		t.Error("substituted without variables")
	}
}

func TestSecretVariablesOutsideSecretsAreSeen(t *testing.T) {
	o := Options{SubstituteFrom: []Variables{{Secret: map[string]plaintext.Value{"s": plaintext.FromString("canary")}}}}
	set := mustBuild(t, repo(map[string]string{"a.yaml": configMap("a") + "data: {x: \"u:${s}@h\"}\n"}), o, newTokens())
	if field, outside := set[0].OpenedOutsideSecret(); !outside || field != "data.x" {
		t.Errorf("got %s %v", field, outside)
	}
	var _ manifest.Object = set[0]
}

// TestHazard_SecretTextAsTemplate: Flux decrypts before it substitutes, so that a password with dollars becomes another one
// and a script with braces fails the commit (flux.md 1.6). A decrypted value is a template only if all of it can be meant.
func TestHazard_SecretTextAsTemplate(t *testing.T) {
	for text, want := range map[string]struct{ here, flux string }{
		"pa$$word":            {"pa$$word", "pa$word"},
		"a${":                 {"a${", "error"},
		"${HOME}/x":           {"${HOME}/x", "error"},
		"${HOME:-/root}":      {"${HOME:-/root}", "/root"},
		"${v} and ${HOME}":    {"${v} and ${HOME}", "error"},
		"$${v}":               {"$${v}", "${v}"},
		"db.${v}.local":       {"db.value.local", "db.value.local"},
		"${v:-x}$$${v/ue/id}": {"value$$valid", "value$valid"},
		"${{ x }}${a.b}":      {"${{ x }}${a.b}", "error"},
		"${v/x}":              {"${v/x}", "error"},
	} {
		for _, as := range []struct {
			template bool
			want     string
		}{{false, want.here}, {true, want.flux}} {
			tokens := newTokens()
			files := repo(map[string]string{"s.yaml": "apiVersion: v1\nkind: Secret\nmetadata: {name: s}\nstringData: {p: " + tokens.Issue(plaintext.FromString(text)) + "}\n"})
			set, _, err := build(files, Options{Substitute: map[string]string{"v": "value"}, DecryptedTemplates: as.template}, tokens)
			if as.want == "error" {
				if err == nil {
					t.Errorf("%s: no error", text)
				}
				continue
			}
			if err != nil || !set[0].SecretData()["p"].Equal(plaintext.FromString(as.want)) {
				t.Errorf("%s is not %s: %v", text, as.want, err)
			}
		}
	}
}

// A secret variable that fills a field has the type that a public one would have there.
func TestSecretVariablesAreTyped(t *testing.T) {
	vars := map[string]plaintext.Value{}
	for name, v := range map[string]string{"n": "3", "yes": "true", "f": "1.5", "none": "null", "code": "0123", "word": "canary"} {
		vars[name] = plaintext.FromString(v)
	}
	files := repo(map[string]string{
		"a.yaml": "apiVersion: example.com/v1\nkind: App\nmetadata: {name: a, annotations: {host: 'x.${word}', n: '${n}'}}\n" +
			"spec: {n: '${n}', part: 'v${n}', yes: '${yes}', none: '${none}', f: '${f}', code: '${code}', cut: '${word/canary/7}', or: '${gone:-9}'}\n",
		"b.yaml": "apiVersion: v1\nkind: Secret\nmetadata: {name: s}\nstringData: {pin: '${n}'}\n",
	})
	set := mustBuild(t, files, Options{SubstituteFrom: []Variables{{Secret: vars}}}, newTokens())
	wire, err := set[0].Wire()
	want := `"metadata":{"annotations":{"host":"x.canary","n":"3"},"name":"a"},"spec":{"code":"0123","cut":7,"f":1.5,"n":3,"none":null,"or":9,"part":"v3","yes":true}}`
	if err != nil || !strings.HasSuffix(string(wire), want) {
		t.Errorf("%v %s", err, wire)
	}
	if !set[1].SecretData()["pin"].Equal(plaintext.FromString("3")) {
		t.Error("the payload of a Secret is no text")
	}
	if strings.Contains(fmt.Sprint(set[0].Body()), "canary") {
		t.Errorf("shown: %v", set[0].Body())
	}
}

// A name may depend on no secret, and the message says what to do.
func TestSecretVariablesInNamesAreRefused(t *testing.T) {
	o := Options{SubstituteFrom: []Variables{{Secret: map[string]plaintext.Value{"s": plaintext.FromString("canary")}}}}
	for _, meta := range []string{"{name: '${s}'}", "{name: a, namespace: '${s}'}"} {
		_, _, err := build(repo(map[string]string{"a.yaml": "apiVersion: v1\nkind: ConfigMap\nmetadata: " + meta + "\n"}), o, newTokens())
		if err == nil || strings.Contains(err.Error(), "canary") || !strings.Contains(err.Error(), "variable of a ConfigMap") {
			t.Errorf("%s: %v", meta, err)
		}
	}
}

// TestHazard_PanickingSubstitution: what makes Flux's substitution panic yields what a shell does, or an error that names
// the object, in a whole build.
func TestHazard_PanickingSubstitution(t *testing.T) {
	for text, want := range map[string]string{"${v:1:-1}": "alu", "${v:-1:-9}": "value", "${v:3:-9}": "", "${v:9:-9}": "", "${v:0:-99}": ""} {
		files := fstest.MapFS{"a.yaml": {Data: []byte("apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a}\ndata: {k: 'x" + text + "'}\n")}}
		set, _, err := New(Options{Substitute: map[string]string{"v": "value"}}).Render(t.Context(), files, nil)
		if err != nil {
			if !strings.Contains(err.Error(), "ConfigMap/a (a.yaml:1)") {
				t.Errorf("%s: %v", text, err)
			}
			continue
		}
		if got := set[0].Peek("data", "k"); got != "x"+want {
			t.Errorf("%s: %v", text, got)
		}
	}
}
