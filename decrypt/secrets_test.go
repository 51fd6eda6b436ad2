package decrypt

import (
	"context"
	"encoding/json"
	"maps"
	"slices"
	"strings"
	"testing"

	"filippo.io/age"
	"github.com/getsops/sops/v3"

	"sealock.dev/sealock/fault"
	"sealock.dev/sealock/manifest"
	"sealock.dev/sealock/plaintext"
)

// secretOf makes a Secret as a build does, from the file app/s.yaml:7.
func secretOf(t testing.TB, name string, data map[string][]byte, change func(body map[string]any)) manifest.Object {
	t.Helper()
	text, err := json.Marshal(map[string]any{"apiVersion": "v1", "kind": "Secret", "metadata": map[string]any{"name": name, "namespace": "ns"}, "data": data})
	if err != nil {
		t.Fatal(err)
	}
	var body map[string]any
	if err := json.Unmarshal(text, &body); err != nil {
		t.Fatal(err)
	}
	if change != nil {
		change(body)
	}
	o, err := manifest.New(body, manifest.Source{File: "app/s.yaml", Line: 7}, nil)
	if err != nil {
		t.Fatal(err)
	}
	return o
}

func openSecrets(opts Options, set ...manifest.Object) ([]manifest.Object, error) {
	return New(opts).OpenSecrets(context.Background(), set)
}

func TestOpensPayloadsThatAreFiles(t *testing.T) {
	files := map[string]struct{ holds, want string }{
		"config.yaml": {"config.enc.yaml", "config.enc.yaml.want"},
		"app.ini":     {"app.enc.ini", "app.enc.ini.want"},
		"app.env":     {"app.enc.env", "app.enc.env.want"},
		"blob":        {"blob.enc.bin", "blob.enc.bin.want"},
		// Flux fails where the key has no ending that tells, unless the file is one of bytes.
		"config": {"config.enc.yaml", "config.enc.yaml.want"},
		"env":    {"app.enc.env", "app.enc.env.want"},
	}
	data := map[string][]byte{"compact": compact(t, golden(t, "blob.enc.bin"))}
	for key, f := range files {
		data[key] = golden(t, f.holds)
	}
	set, err := openSecrets(Options{Keys: goldenKeys(t)}, secretOf(t, "s", data, nil))
	if err != nil {
		t.Fatal(err)
	}
	files["compact"] = files["blob"]
	got := set[0].SecretData()
	for key, f := range files {
		if !got[key].Equal(plaintext.New(golden(t, f.want))) {
			t.Errorf("%s is not what sops prints", key)
		}
	}
	if set[0].Origin != manifest.SOPS || len(got) != len(files) {
		t.Errorf("origin %s, %d payloads", set[0].Origin, len(got))
	}
	wire, err := set[0].Wire()
	if err != nil || strings.Contains(string(wire), b64(golden(t, "blob.enc.bin"))) || !strings.Contains(string(wire), b64(golden(t, "blob.enc.bin.want"))) {
		t.Errorf("what is written is not what was opened: %v", err)
	}
}

func b64(data []byte) string { text, _ := json.Marshal(data); return strings.Trim(string(text), `"`) }

// The key says in which format the content is wanted.
func TestPayloadsHaveTheFormatOfTheirKey(t *testing.T) {
	keys, r := identity(t)
	all := func(m *sops.Metadata) { m.EncryptedRegex = "" }
	yaml := encrypt(t, yamlFormat, "user: canary-user\nport: 80\n", all, r)
	json := encrypt(t, jsonFormat, `{"auths":{"r":{"auth":"canary"}}}`, all, r)
	set, err := openSecrets(Options{Keys: keys}, secretOf(t, "s", map[string][]byte{
		"a.yaml": yaml, "a.json": yaml, "a.env": yaml, "a.YML": compact(t, json), ".dockerconfigjson": json, "other": json,
	}, nil))
	if err != nil {
		t.Fatal(err)
	}
	asJSON := "{\n\t\"auths\": {\n\t\t\"r\": {\n\t\t\t\"auth\": \"canary\"\n\t\t}\n\t}\n}\n"
	got := set[0].SecretData()
	for key, want := range map[string]string{
		"a.yaml": "user: canary-user\nport: 80\n", "a.json": "{\n\t\"user\": \"canary-user\",\n\t\"port\": 80\n}\n", "a.env": "user=canary-user\nport=80\n",
		"a.YML": "auths:\n    r:\n        auth: canary\n", ".dockerconfigjson": asJSON, "other": asJSON,
	} {
		if v := string(got[key].Reveal()); v != want {
			t.Errorf("%s: got %q, want %q", key, v, want)
		}
	}
	_, err = openSecrets(Options{Keys: keys}, secretOf(t, "s", map[string][]byte{"a.env": json, "b.ini": yaml}, nil))
	if len(fault.All(err)) != 2 || fault.KindOf(err) != fault.Invalid || !strings.Contains(err.Error(), "data.a.env: the opened file cannot be written in the format that its key asks for") {
		t.Errorf("got %v", err)
	}
	silent(t, err)
	two := encrypt(t, yamlFormat, "a: canary\n---\nb: canary\n", all, r)
	if _, err = openSecrets(Options{Keys: keys}, secretOf(t, "s", map[string][]byte{"a.json": two}, nil)); fault.KindOf(err) != fault.Invalid || !strings.Contains(err.Error(), "several documents") {
		t.Errorf("got %v", err)
	}
}

// contract: Object decrypt: disabled
func TestPayloadsThatStay(t *testing.T) {
	file := golden(t, "config.enc.yaml")
	same := func(name string, o manifest.Object) {
		t.Helper()
		set, err := openSecrets(Options{}, o) // nothing could be opened
		if err != nil || set[0].Origin != manifest.Plain {
			t.Errorf("%s: %v", name, err)
		}
		if set, err = openSecrets(Options{Keys: goldenKeys(t)}, o); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		was := o.SecretData()
		for key, v := range set[0].SecretData() {
			if !v.Equal(was[key]) {
				t.Errorf("%s: %s changed", name, key)
			}
		}
		if masked := MaskSecrets([]manifest.Object{o}, plaintext.FromString("m")); masked[0].Digest(plaintext.NewKey([]byte("k"))) != o.Digest(plaintext.NewKey([]byte("k"))) {
			t.Errorf("%s: masked", name)
		}
	}
	same("stringData", secretOf(t, "s", nil, func(body map[string]any) { body["stringData"] = map[string]any{"config.yaml": string(file)} }))
	same("opted out", secretOf(t, "s", map[string][]byte{"config.yaml": file}, func(body map[string]any) {
		body["metadata"].(map[string]any)["annotations"] = map[string]any{"kustomize.toolkit.fluxcd.io/decrypt": "Disabled"}
	}))
	inner, err := json.Marshal(map[string]any{"sops": "text", "file": string(file)})
	if err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{
		"a file inside of a file":    "apiVersion: v1\nkind: ConfigMap\ndata:\n  secret.yaml: |\n    " + strings.ReplaceAll(string(file), "\n", "\n    ") + "\n",
		"a file inside of JSON":      string(inner),
		"values for a chart":         "sops:\n  enabled: true\n",
		"a section of that name":     "[sops]\nage_key_file = keys.txt\n\n[mac]\nmac = ENC[\n",
		"a variable of that name":    "sops_version=3.9\n",
		"a text that speaks of sops": "# sops\n\nsops writes `mac: ENC[AES256_GCM,data:x]` and \"mac\": \"ENC[\" and sops_mac=ENC[ into a [sops] section.\n",
		"bytes":                      "\x00\xffsops\x00mac: ENC[AES256_GCM,",
	} {
		same(name, secretOf(t, "s", map[string][]byte{"k.yaml": []byte(text), "k": []byte(text)}, nil))
	}
	config := secretOf(t, "c", nil, func(body map[string]any) {
		body["kind"], body["data"] = "ConfigMap", map[string]any{"config.yaml": b64(file)}
	})
	same("another kind", config)
}

func TestPayloadsBesideClearOnesStayPlain(t *testing.T) {
	file := golden(t, "config.enc.yaml")
	for name, o := range map[string]manifest.Object{
		"data":       secretOf(t, "s", map[string][]byte{"config.yaml": file, "user": []byte("u")}, nil),
		"stringData": secretOf(t, "s", map[string][]byte{"config.yaml": file}, func(body map[string]any) { body["stringData"] = map[string]any{"user": "u"} }),
	} {
		set, err := openSecrets(Options{Keys: goldenKeys(t)}, o)
		if err != nil || set[0].Origin != manifest.Plain || set[0].SecretData()["config.yaml"].Equal(plaintext.New(file)) {
			t.Errorf("%s: origin %s, %v", name, set[0].Origin, err)
		}
	}
}

func TestPayloadsThatCannotBeOpenedAreNamed(t *testing.T) {
	file := string(golden(t, "config.enc.yaml"))
	blob := string(golden(t, "blob.enc.bin"))
	big := append(golden(t, "config.enc.yaml"), []byte("\n# "+strings.Repeat("x", 6<<20))...)
	change := func(text, old, with string) []byte {
		out := strings.Replace(text, old, with, 1)
		if out == text {
			t.Fatalf("%q: nothing changed", old)
		}
		return []byte(out)
	}
	for name, c := range map[string]struct {
		data []byte
		kind fault.Kind
		says string
	}{
		"no key":      {golden(t, "config.enc.yaml"), fault.NoKey, "sops.age: the file is encrypted to age122p2yncxtjr56sqsn8zd22j29x55jn5c24d6ktexa75r2dhdhaws6j2vr6"},
		"MAC":         {change(file, "lastmodified: \"2026", "lastmodified: \"2025"), fault.Denied, "sops.mac: the MAC does not match"},
		"no MAC":      {change(file, "    mac: ", "    nomac: "), fault.Invalid, "has no MAC"},
		"ciphertext":  {change(blob, `"data": "ENC[AES256_GCM,data:V`, `"data": "ENC[AES256_GCM,data:W`), fault.Denied, "data: the value does not decrypt"},
		"planted":     {change(blob, `"data": "ENC[`, `"other": "canary", "data": "ENC[`), fault.Denied, "other: the value should be encrypted and is not"},
		"truncated":   {[]byte(blob[:len(blob)-20]), fault.Invalid, "line "},
		"no metadata": {change(blob, `"age": [`, `"age": "x", "y": [`), fault.Invalid, "incomplete or damaged"},
		"alias":       {[]byte(file + "---\na: &a\n  b: *a\n"), fault.Invalid, "aliases"},
		"too big":     {big, fault.Invalid, "more than the limit"},
	} {
		t.Run(name, func(t *testing.T) {
			opts := Options{Keys: goldenKeys(t)}
			if c.kind == fault.NoKey {
				opts.Keys, _ = identity(t)
			}
			fine := secretOf(t, "fine", map[string][]byte{"b": []byte("b")}, nil)
			set, err := openSecrets(opts, secretOf(t, "bad", map[string][]byte{"some.key": c.data}, nil), fine)
			if fault.KindOf(err) != c.kind || !strings.Contains(err.Error(), "Secret/ns/bad (app/s.yaml:7): data.some.key: ") || !strings.Contains(err.Error(), c.says) {
				t.Errorf("got %v", err)
			}
			silent(t, err)
			if len(set) != 2 || set[0].Origin != manifest.Plain {
				t.Error("the set is not whole")
			}
		})
	}
}

func TestT19_PayloadsForForeignRecipientsAreRefused(t *testing.T) {
	mine, mineR := identity(t)
	_, theirR := identity(t)
	opts := Options{Keys: mine, Recipients: []string{mineR}, Tenant: true}
	file := encrypt(t, yamlFormat, "spec: canary\n", nil, mineR, theirR)
	_, err := openSecrets(opts, secretOf(t, "s", map[string][]byte{"f.yaml": file}, nil))
	if fault.KindOf(err) != fault.Denied || !strings.Contains(err.Error(), theirR) {
		t.Errorf("got %v", err)
	}
	silent(t, err)
	own := encrypt(t, yamlFormat, "spec: canary\n", nil, mineR)
	if _, err := openSecrets(opts, secretOf(t, "s", map[string][]byte{"f.yaml": own}, nil)); err != nil {
		t.Errorf("its own: %v", err)
	}
	_, err = openSecrets(opts, secretOf(t, "s", map[string][]byte{"f.yaml": golden(t, "maconly.enc.yaml")}, nil))
	if fault.KindOf(err) != fault.Denied {
		t.Errorf("got %v", err)
	}
}

// counting counts how often a data key is unwrapped.
type counting struct {
	age.Identity
	count *int
}

func (c counting) Unwrap(stanzas []*age.Stanza) ([]byte, error) {
	*c.count++
	return c.Identity.Unwrap(stanzas)
}

func TestOneFileInManySecretsIsUnwrappedOnce(t *testing.T) {
	keys, count := goldenKeys(t), 0
	keys.ids[0] = counting{keys.ids[0], &count}
	data := map[string][]byte{"a.yaml": golden(t, "config.enc.yaml"), "a.json": golden(t, "config.enc.yaml"), "blob": golden(t, "blob.enc.bin")}
	set, err := openSecrets(Options{Keys: keys}, secretOf(t, "a", data, nil), secretOf(t, "b", data, nil))
	if err != nil || count != 2 || !set[0].SecretData()["a.yaml"].Equal(set[1].SecretData()["a.yaml"]) || !set[1].SecretData()["a.yaml"].Equal(plaintext.New(golden(t, "config.enc.yaml.want"))) {
		t.Errorf("%d times, %v", count, err)
	}
	bad := map[string][]byte{"a": []byte(strings.Replace(string(golden(t, "config.enc.yaml")), "lastmodified: \"2026", "lastmodified: \"2025", 1))}
	count = 0
	_, err = openSecrets(Options{Keys: keys}, secretOf(t, "a", bad, nil), secretOf(t, "b", bad, nil))
	if count != 1 || len(fault.All(err)) != 2 || !strings.Contains(err.Error(), "Secret/ns/b ") {
		t.Errorf("%d times, %v", count, err)
	}
}

func TestMaskSecrets(t *testing.T) {
	o := secretOf(t, "s", map[string][]byte{"f": golden(t, "app.enc.env"), "plain": []byte("x")}, nil)
	got := MaskSecrets([]manifest.Object{o}, plaintext.FromString("masked"))[0].SecretData()
	if string(got["f"].Reveal()) != "masked" || string(got["plain"].Reveal()) != "x" {
		t.Errorf("got %v", slices.Sorted(maps.Keys(got)))
	}
}

func TestOpenSecretsStops(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err := New(Options{Keys: goldenKeys(t)}).OpenSecrets(ctx, []manifest.Object{secretOf(t, "s", map[string][]byte{"f": golden(t, "app.enc.env")}, nil)})
	if fault.KindOf(err) != fault.Transient {
		t.Errorf("got %v", err)
	}
}

func FuzzOpenSecrets(f *testing.F) {
	for _, name := range []string{"config.enc.yaml", "secret.enc.json", "app.enc.env", "app.enc.ini", "blob.enc.bin"} {
		for _, key := range []string{"k.yaml", ".dockerconfigjson", "k.env", "k.ini", "k"} {
			f.Add(key, golden(f, name))
		}
	}
	f.Add("k", []byte("[sops]\nmac = x\n"))
	f.Add("k.json", []byte(`{"data":1,"sops":{"mac":""}}`))
	keys := goldenKeys(f)
	f.Fuzz(func(t *testing.T, key string, data []byte) {
		if key == "" {
			return
		}
		o := secretOf(t, "s", nil, func(body map[string]any) { body["data"] = map[string]any{key: b64(data)} })
		set, err := openSecrets(Options{Keys: keys}, o)
		silent(t, err)
		opened := !set[0].SecretData()[key].Equal(plaintext.New(data))
		if (opened || err != nil) && detectContent(data) == plain || err != nil && opened {
			t.Errorf("opened %v, %v", opened, err)
		}
	})
}
