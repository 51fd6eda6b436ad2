package decrypt

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/fstest"
	"time"

	"filippo.io/age"
	"github.com/getsops/sops/v3"
	"github.com/getsops/sops/v3/aes"
	sopsage "github.com/getsops/sops/v3/age"
	"github.com/google/go-cmp/cmp"

	"sealock.dev/sealock/fault"
	"sealock.dev/sealock/manifest"
	"sealock.dev/sealock/plaintext"
)

var secretRef = fault.Ref{APIVersion: "v1", Kind: "Secret", Namespace: "team-a", Name: "sops-age"}

func golden(t testing.TB, name string) []byte {
	t.Helper()
	data, err := os.ReadFile(filepath.Join("testdata", name))
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func keysOf(t testing.TB, text string) Keys {
	t.Helper()
	keys, err := ParseKeys(secretRef, map[string]plaintext.Value{"id.agekey": plaintext.FromString(text)})
	if err != nil {
		t.Fatal(err)
	}
	return keys
}

func goldenKeys(t testing.TB) Keys { return keysOf(t, string(golden(t, "identity.txt"))) }

func newTokens() *plaintext.Tokens { return plaintext.NewTokens(plaintext.NewKey([]byte("test"))) }

// open opens one file of an otherwise plain folder.
func open(opts Options, name string, data []byte, tokens *plaintext.Tokens) ([]byte, error) {
	files := fstest.MapFS{name: {Data: data}}
	opened, err := New(opts).OpenFiles(context.Background(), files, tokens)
	if err != nil {
		return nil, err
	}
	return fs.ReadFile(opened, name)
}

func mustOpen(t *testing.T, opts Options, name string, data []byte, tokens *plaintext.Tokens) []byte {
	t.Helper()
	out, err := open(opts, name, data, tokens)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// payloads makes objects of an opened file and returns the payloads of the Secrets by "name/key".
func payloads(t *testing.T, name string, data []byte, tokens *plaintext.Tokens) map[string]string {
	t.Helper()
	docs, err := manifest.Decode(name, data, manifest.DefaultLimits)
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]string{}
	for _, d := range docs {
		o, err := manifest.New(d.Body, manifest.Source{File: name, Line: d.Line}, tokens)
		if err != nil {
			t.Fatal(err)
		}
		if o.Origin != manifest.SOPS {
			t.Errorf("%s counts as %s", o.Ref(), o.Origin)
		}
		for k, v := range o.SecretData() {
			out[o.Name()+"/"+k] = string(v.Reveal())
		}
	}
	return out
}

// encrypt makes a SOPS file with the library, as the sops program does.
func encrypt(t testing.TB, f format, text string, change func(*sops.Metadata), recipients ...string) []byte {
	t.Helper()
	var group sops.KeyGroup
	for _, r := range recipients {
		key, err := sopsage.MasterKeyFromRecipient(r)
		if err != nil {
			t.Fatal(err)
		}
		group = append(group, key)
	}
	return encryptFor(t, f, text, change, group)
}

func encryptFor(t testing.TB, f format, text string, change func(*sops.Metadata), groups ...sops.KeyGroup) []byte {
	t.Helper()
	st, ok := storeFor(f).(sops.Store)
	if !ok {
		t.Fatal("no store")
	}
	branches, err := st.LoadPlainFile([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	tree := sops.Tree{Branches: branches, Metadata: sops.Metadata{KeyGroups: groups, EncryptedRegex: "^(data|stringData|spec)$", Version: "3.13.3", LastModified: time.Now().UTC()}}
	if change != nil {
		change(&tree.Metadata)
	}
	key, errs := tree.GenerateDataKey()
	if len(errs) > 0 {
		t.Fatal(errs)
	}
	c := aes.NewCipher()
	mac, err := tree.Encrypt(key, c)
	if err != nil {
		t.Fatal(err)
	}
	if tree.Metadata.MessageAuthenticationCode, err = c.Encrypt(mac, key, tree.Metadata.LastModified.Format(time.RFC3339)); err != nil {
		t.Fatal(err)
	}
	out, err := st.EmitEncryptedFile(tree)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func compact(t testing.TB, data []byte) []byte {
	t.Helper()
	var out bytes.Buffer
	if err := json.Compact(&out, data); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

func identity(t testing.TB) (Keys, string) {
	t.Helper()
	id, err := age.GenerateX25519Identity()
	if err != nil {
		t.Fatal(err)
	}
	return keysOf(t, id.String()), id.Recipient().String()
}

// silent fails when the error of a refusal holds a canary in any encoding, or is no fault.
func silent(t *testing.T, err error, canaries ...string) {
	t.Helper()
	if err == nil {
		return
	}
	if f := new(fault.Error); !errors.As(err, &f) || f.Stage != fault.StageDecrypt || f.Remedy == "" {
		t.Errorf("not a fault of the decrypt stage with a remedy: %v", err)
	}
	for _, c := range append(canaries, "canary") {
		for _, form := range plaintext.Encodings([]byte(c)) {
			if len(form) > 3 && strings.Contains(fmt.Sprintf("%v %+v %q", err, err, err), form) {
				t.Errorf("the error shows a secret: %v", err)
			}
		}
	}
}

// contract: Kustomization key *.agekey
func TestOpensWhatTheRealSopsMade(t *testing.T) {
	tokens := newTokens()
	out := mustOpen(t, Options{Keys: goldenKeys(t)}, "secrets.enc.yaml", golden(t, "secrets.enc.yaml"), tokens)
	if s := string(out); strings.Contains(s, "canary") || strings.Contains(s, "sops") || strings.Contains(s, "ENC[") {
		t.Errorf("plaintext or metadata in the file: %s", s)
	}
	want := map[string]string{
		"db/password": "canary-hunter2", "db/url": "postgres://u:canary-multi@db\nsecond line\n", "db/empty": "",
		"db/raw": "canary-base64", "second/token": "canary-second",
	}
	if d := cmp.Diff(want, payloads(t, "secrets.enc.yaml", out, tokens)); d != "" {
		t.Error(d)
	}
}

func TestLinesStayThoseOfTheFile(t *testing.T) {
	data := golden(t, "secrets.enc.yaml")
	before, err := manifest.Decode("f", data, manifest.DefaultLimits)
	if err != nil {
		t.Fatal(err)
	}
	after, err := manifest.Decode("f", mustOpen(t, Options{Keys: goldenKeys(t)}, "f.yaml", data, newTokens()), manifest.DefaultLimits)
	if err != nil || len(after) != 2 {
		t.Fatal(err, len(after))
	}
	for i := range before {
		if before[i].Line != after[i].Line {
			t.Errorf("document %d: line %d became %d", i, before[i].Line, after[i].Line)
		}
	}
}

func TestTypesOutsideSecrets(t *testing.T) {
	tokens := newTokens()
	out := mustOpen(t, Options{Keys: goldenKeys(t)}, "t.yaml", golden(t, "types.enc.yaml"), tokens)
	docs, err := manifest.Decode("t.yaml", out, manifest.DefaultLimits)
	if err != nil {
		t.Fatal(err)
	}
	o, err := manifest.New(docs[0].Body, manifest.Source{}, tokens)
	if err != nil {
		t.Fatal(err)
	}
	wire, err := o.Wire()
	if err != nil {
		t.Fatal(err)
	}
	want := `"spec":{"float":42.5,"int":424242,"list":["canary-one",7,false],"none":null,"plain_unencrypted":420,"str":"canary-str","time":"2001-12-14T21:59:43Z","yes":true}`
	if !strings.Contains(string(wire), want) {
		t.Errorf("got %s", wire)
	}
}

func TestJSON(t *testing.T) {
	tokens := newTokens()
	out := mustOpen(t, Options{Keys: goldenKeys(t)}, "j.json", golden(t, "secret.enc.json"), tokens)
	if d := cmp.Diff(map[string]string{"j/k": "canary-json"}, payloads(t, "j.json", out, tokens)); d != "" {
		t.Error(d)
	}
}

const generators = `secretGenerator:
- name: a
  files: [config.enc.yaml, app.enc.ini, "blob=blob.enc.bin"]
- name: b
  envs: [app.enc.env]
- name: c
  files: [copy.enc.env]
`

func generatorFiles(t *testing.T) fstest.MapFS {
	files := fstest.MapFS{"kustomization.yaml": {Data: []byte(generators)}, "copy.enc.env": {Data: golden(t, "app.enc.env")}}
	for _, name := range []string{"config.enc.yaml", "app.enc.ini", "blob.enc.bin", "app.enc.env"} {
		files[name] = &fstest.MapFile{Data: golden(t, name)}
	}
	return files
}

func TestGeneratorFilesAreWholeTokens(t *testing.T) {
	tokens := newTokens()
	opened, err := New(Options{Keys: goldenKeys(t)}).OpenFiles(context.Background(), generatorFiles(t), tokens)
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{
		"config.enc.yaml": "config.enc.yaml.want", "app.enc.ini": "app.enc.ini.want", "blob.enc.bin": "blob.enc.bin.want", "copy.enc.env": "app.enc.env.want",
	} {
		data, err := fs.ReadFile(opened, name)
		if err != nil {
			t.Fatal(err)
		}
		v, _, ok := tokens.Resolve(string(data))
		if !ok || !v.Equal(plaintext.New(golden(t, want))) {
			t.Errorf("%s is not what sops prints", name)
		}
	}
	env, err := fs.ReadFile(opened, "app.enc.env")
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]string{}
	for _, line := range strings.Fields(string(env)) {
		k, token, _ := strings.Cut(line, "=")
		v, _, ok := tokens.Resolve(token)
		if !ok {
			t.Fatalf("line %q has no token", line)
		}
		got[k] = string(v.Reveal())
	}
	if d := cmp.Diff(map[string]string{"USER": "admin", "PASS": "canary-env=x", "MULTI": `a\nb`}, got); d != "" {
		t.Error(d)
	}
	if info, err := fs.Stat(opened, "kustomization.yaml"); err != nil || info.IsDir() {
		t.Error("the rest of the tree is gone")
	}
}

// The key under which a generator takes a file says in which format it is wanted, whatever the file is called.
func TestGeneratorFilesHaveTheFormatOfTheirKey(t *testing.T) {
	keys, r := identity(t)
	all := func(m *sops.Metadata) { m.EncryptedRegex = "" }
	docker := encrypt(t, jsonFormat, `{"auths":{"r":"canary"}}`, all, r)
	files := fstest.MapFS{
		"kustomization.yaml": {Data: []byte("secretGenerator:\n- name: a\n  files: [.dockerconfigjson, config.json=a.enc.yaml, a.yaml=docker.enc, values.yaml]\nconfigMapGenerator:\n- name: b\n  files: [c.enc.yaml]\n  envs: [c.enc.env]\n")},
		".dockerconfigjson":  {Data: docker},
		"docker.enc":         {Data: compact(t, docker)},
		"a.enc.yaml":         {Data: encrypt(t, yamlFormat, "k: canary\n", all, r)},
		"values.yaml":        {Data: []byte("sops: {enabled: true}\n")},
		"c.enc.yaml":         {Data: golden(t, "config.enc.yaml")},
		"c.enc.env":          {Data: golden(t, "app.enc.env")},
	}
	tokens := newTokens()
	opened, err := New(Options{Keys: keys}).OpenFiles(context.Background(), files, tokens)
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{
		".dockerconfigjson": "{\n\t\"auths\": {\n\t\t\"r\": \"canary\"\n\t}\n}\n", "docker.enc": "auths:\n    r: canary\n", "a.enc.yaml": "{\n\t\"k\": \"canary\"\n}\n",
	} {
		data, err := fs.ReadFile(opened, name)
		if v, _, ok := tokens.Resolve(string(data)); err != nil || !ok || string(v.Reveal()) != want {
			t.Errorf("%s: got %q, %v", name, v.Reveal(), err)
		}
	}
	// What is no SOPS file, and what a ConfigMap is made of, as Flux leaves it.
	for _, name := range []string{"values.yaml", "c.enc.yaml", "c.enc.env"} {
		if data, err := fs.ReadFile(opened, name); err != nil || string(data) != string(files[name].Data) {
			t.Errorf("%s: got %q, %v", name, data, err)
		}
	}
}

// A line that is lost would be a variable that is lost.
func TestEnvsThatAreNoLinesAreRefused(t *testing.T) {
	keys, r := identity(t)
	files := fstest.MapFS{
		"kustomization.yaml": {Data: []byte("secretGenerator: [{name: a, envs: [a.env], env: b.env}]\n")},
		"a.env":              {Data: encrypt(t, yamlFormat, "user: u\npass: canary\n", func(m *sops.Metadata) { m.EncryptedRegex = "" }, r)},
		"b.env":              {Data: encrypt(t, binaryFormat, "\ufeff# comment\n\nA=canary\n", func(m *sops.Metadata) { m.EncryptedRegex = "" }, r)},
	}
	_, err := New(Options{Keys: keys}).OpenFiles(context.Background(), files, newTokens())
	if len(fault.All(err)) != 1 || !strings.Contains(err.Error(), "a.env: line 1 of the opened file is not KEY=value") {
		t.Errorf("got %v", err)
	}
	silent(t, err)
}

func TestPostQuantumIdentities(t *testing.T) {
	id, err := age.GenerateHybridIdentity()
	if err != nil {
		t.Fatal(err)
	}
	r := id.Recipient().String()
	keys := keysOf(t, "# post-quantum\n"+id.String()+"\n")
	data := encrypt(t, yamlFormat, "apiVersion: v1\nkind: Secret\nmetadata: {name: x}\nstringData: {k: canary}\n", nil, r)
	mustOpen(t, Options{Keys: keys, Recipients: []string{r}, Tenant: true}, "f.yaml", data, newTokens())
	other, otherR := identity(t)
	for _, opts := range []Options{{Keys: other}, {Keys: keys, Recipients: []string{otherR}}} {
		_, err := open(opts, "f.yaml", data, newTokens())
		if err == nil || len(err.Error()) > 500 || !strings.Contains(err.Error(), r[:40]) {
			t.Errorf("an error that nobody can read: %v", err)
		}
	}
}

func TestIdentityOfAnObjectMustBePlain(t *testing.T) {
	keys, r := identity(t)
	data := encrypt(t, yamlFormat, "apiVersion: v1\nkind: Secret\nmetadata: {name: canary-name}\nstringData: {k: v}\n",
		func(m *sops.Metadata) { m.EncryptedRegex = "" }, r)
	_, err := open(Options{Keys: keys}, "f.yaml", data, newTokens())
	if fault.KindOf(err) != fault.Invalid || !strings.Contains(err.Error(), "encrypted_regex") {
		t.Errorf("got %v", err)
	}
	silent(t, err)
}

func TestSecretsHoldStrings(t *testing.T) {
	keys, r := identity(t)
	data := encrypt(t, yamlFormat, "apiVersion: v1\nkind: Secret\nmetadata: {name: x}\nstringData: {port: 8080}\n", nil, r)
	_, err := open(Options{Keys: keys}, "f.yaml", data, newTokens())
	if fault.KindOf(err) != fault.Invalid || !strings.Contains(err.Error(), "stringData.port") || strings.Contains(err.Error(), "8080") {
		t.Errorf("got %v", err)
	}
}

func TestShamirGroups(t *testing.T) {
	a, ar := identity(t)
	b, br := identity(t)
	var groups []sops.KeyGroup
	for _, r := range []string{ar, br} {
		k, err := sopsage.MasterKeyFromRecipient(r)
		if err != nil {
			t.Fatal(err)
		}
		groups = append(groups, sops.KeyGroup{k})
	}
	data := encryptFor(t, yamlFormat, "apiVersion: v1\nkind: Secret\nmetadata: {name: x}\nstringData: {k: canary}\n", nil, groups...)
	if _, err := open(Options{Keys: a}, "f.yaml", data, newTokens()); fault.KindOf(err) != fault.NoKey {
		t.Errorf("one of two groups: got %v", err)
	}
	if _, err := open(Options{Keys: Keys{ids: append(a.ids, b.ids...)}}, "f.yaml", data, newTokens()); err != nil {
		t.Errorf("both groups: %v", err)
	}
}

// contract: Object decrypt: disabled
func TestOptedOutFilesStayAsTheyAre(t *testing.T) {
	data := []byte("apiVersion: v1\nkind: Secret\nmetadata: {name: x, annotations: {kustomize.toolkit.fluxcd.io/decrypt: Disabled}}\nstringData: {k: ENC[x]}\nsops: {mac: x}\n")
	if got := mustOpen(t, Options{}, "f.yaml", data, newTokens()); string(got) != string(data) {
		t.Errorf("got %s", got)
	}
}

func TestAllFailuresAreReported(t *testing.T) {
	files := fstest.MapFS{
		"apps/a.yaml":               {Data: golden(t, "secrets.enc.yaml")},
		"apps/b/kustomization.yaml": {Data: []byte("resources: [../../base, s.yaml]\npatches: [{path: p.yaml}]\n")},
		"apps/b/s.yaml":             {Data: golden(t, "secrets.enc.yaml")},
		"apps/b/p.yaml":             {Data: golden(t, "types.enc.yaml")},
		"base/kustomization.yml":    {Data: []byte("components: [../comp]\n")},
		"comp/kustomization.yaml":   {Data: []byte("kind: Component\nsecretGenerator: [{name: x, files: [k=../app.enc.ini]}]\n")},
		"app.enc.ini":               {Data: golden(t, "app.enc.ini")},
		"elsewhere/x.yaml":          {Data: golden(t, "secrets.enc.yaml")},
	}
	_, err := New(Options{Dir: "./apps"}).OpenFiles(context.Background(), files, newTokens())
	var got []string
	for _, f := range fault.All(err) {
		got = append(got, f.Ref.File)
	}
	want := []string{"app.enc.ini", "apps/a.yaml", "apps/b/p.yaml", "apps/b/s.yaml"}
	if d := cmp.Diff(want, slices.Sorted(slices.Values(got))); d != "" {
		t.Error(d)
	}
}

func TestOneFileInTwoUsesIsRefused(t *testing.T) {
	files := fstest.MapFS{
		"kustomization.yaml": {Data: []byte("resources: [s.yaml]\nsecretGenerator: [{name: x, files: [s.yaml]}]\n")},
		"s.yaml":             {Data: golden(t, "secrets.enc.yaml")},
	}
	_, err := New(Options{Keys: goldenKeys(t)}).OpenFiles(context.Background(), files, newTokens())
	if fault.KindOf(err) != fault.Invalid || !strings.Contains(err.Error(), "two ways") {
		t.Errorf("got %v", err)
	}
}

func TestParseKeysNamesEntryAndLine(t *testing.T) {
	id := strings.TrimSpace(string(golden(t, "identity.txt")))
	secret := id[strings.Index(id, "AGE-SECRET-KEY"):]
	for name, line := range map[string]string{
		"damaged": secret[:len(secret)-1] + "X", "plugin": "AGE-PLUGIN-../../X-1CANARY", "ssh": "-----BEGIN OPENSSH PRIVATE KEY-----", "text": "canary",
	} {
		_, err := ParseKeys(secretRef, map[string]plaintext.Value{"id.agekey": plaintext.FromString("# c\n\n" + line)})
		if fault.KindOf(err) != fault.Invalid || !strings.Contains(err.Error(), "data.id.agekey: line 3") {
			t.Errorf("%s: got %v", name, err)
		}
		silent(t, err, secret, line)
	}
	keys := goldenKeys(t)
	if s := fmt.Sprintf("%v %+v %#v %s", keys, keys, keys, Options{Keys: keys}.Keys); strings.Contains(s, "AGE-SECRET") {
		t.Error("keys print themselves")
	}
	ignored, err := ParseKeys(secretRef, map[string]plaintext.Value{"id.asc": plaintext.FromString("x")})
	if err != nil || len(ignored.ids) != 0 {
		t.Errorf("other entries: %v", err)
	}
}

func TestTokensAreStableBetweenRuns(t *testing.T) {
	a := mustOpen(t, Options{Keys: goldenKeys(t)}, "f.yaml", golden(t, "secrets.enc.yaml"), newTokens())
	b := mustOpen(t, Options{Keys: goldenKeys(t)}, "f.yaml", golden(t, "secrets.enc.yaml"), newTokens())
	if string(a) != string(b) {
		t.Error("two runs differ")
	}
}

func FuzzOpen(f *testing.F) {
	for _, name := range []string{"secrets.enc.yaml", "types.enc.yaml", "secret.enc.json", "app.enc.env", "app.enc.ini", "blob.enc.bin"} {
		f.Add(name, golden(f, name))
	}
	f.Add("x.yaml", []byte("sops: {mac: ENC[AES256_GCM,data:YQ==,iv:YQ==,tag:YQ==,type:str]}\n"))
	f.Add("x", []byte("a: &a\n  sops: *a\n"))
	keys := goldenKeys(f)
	f.Fuzz(func(t *testing.T, name string, data []byte) {
		format := detect(name, data)
		if Encrypted(name, data) != (format != plain) || format == plain {
			return
		}
		for _, u := range []use{asDocuments, asWhole, asLines} {
			v := &view{files: New(Options{Keys: keys}), tokens: newTokens()}
			_, err := v.open(name, data, u)
			silent(t, err)
		}
	})
}
