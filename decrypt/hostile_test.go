package decrypt

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"sealock.dev/sealock/fault"
)

// Section 2.2: an unauthenticated type makes the sops library print the value.
func TestT41_TypeFlipsAreSilent(t *testing.T) {
	types := []string{"str", "int", "float", "bool", "bytes", "time", "comment"}
	for _, name := range []string{"secrets.enc.yaml", "types.enc.yaml", "secret.enc.json"} {
		data := string(golden(t, name))
		for at := strings.Index(data, ",type:"); at >= 0; {
			end := at + strings.IndexByte(data[at:], ']')
			was := data[at+len(",type:") : end]
			for _, typ := range types {
				tokens := newTokens()
				out, err := open(Options{Keys: goldenKeys(t)}, name, []byte(data[:at]+",type:"+typ+data[end:]), tokens)
				silent(t, err, "hunter2", "424242", "42.5")
				if strings.Contains(string(out), "canary") {
					t.Errorf("%s: %s -> %s: plaintext in the file", name, was, typ)
				}
				if typ == was && err != nil {
					t.Errorf("%s: unchanged and refused: %v", name, err)
				}
				isMAC := strings.Contains(data[strings.LastIndexByte(data[:at], '\n'):at], "mac")
				if name != "types.enc.yaml" && typ != was && !isMAC && err == nil && was != "comment" {
					t.Errorf("%s: %s -> %s accepted in a Secret", name, was, typ)
				}
			}
			next := strings.Index(data[end:], ",type:")
			if next < 0 {
				break
			}
			at = end + next
		}
	}
}

// TestHazard_UnverifiedMAC: Flux opens files whose MAC does not match (flux.md 1.5), so that values can be moved between
// fields and plain fields changed by whoever may push.
func TestHazard_UnverifiedMAC(t *testing.T) {
	data := string(golden(t, "secrets.enc.yaml"))
	password := data[strings.Index(data, "password: ")+len("password: "):]
	password = password[:strings.IndexByte(password, '\n')]
	token := data[strings.LastIndex(data, "token: ")+len("token: "):]
	token = token[:strings.IndexByte(token, '\n')]
	for _, c := range []struct{ name, old, with string }{
		{"a plain value", "name: db", "name: dc"},
		{"a value moved", token, password},
		{"a plain value in an encrypted place", password, "canary-planted"},
		{"ciphertext", "password: ENC[AES256_GCM,data:b", "password: ENC[AES256_GCM,data:c"},
		{"no mac", "    mac: ", "    nomac: "},
		{"an added document", "\n---\n", "\n---\napiVersion: v1\nkind: ConfigMap\nmetadata: {name: x}\n---\n"},
		{"data key", "-----BEGIN AGE ENCRYPTED FILE-----\n            YWd", "-----BEGIN AGE ENCRYPTED FILE-----\n            YWe"},
		{"trailing text", "type:str]\n    url", "type:str]canary\n    url"},
		{"last modified", `lastmodified: "2026`, `lastmodified: "2025`},
		{"truncated", "    mac: ENC[AES256_GCM,data:OC9d", "    mac: ENC[AES256_GCM,data:"},
	} {
		changed := strings.Replace(data, c.old, c.with, 1)
		if changed == data {
			t.Fatalf("%s: nothing changed", c.name)
		}
		out, err := open(Options{Keys: goldenKeys(t)}, "f.yaml", []byte(changed), newTokens())
		if err == nil {
			t.Errorf("%s: accepted: %s", c.name, out)
		}
		silent(t, err, "hunter2")
		if err != nil && !strings.Contains(err.Error(), "f.yaml") {
			t.Errorf("%s: the error does not name the file: %v", c.name, err)
		}
	}
}

func TestMACErrorTellsWhatHappened(t *testing.T) {
	data := strings.Replace(string(golden(t, "secrets.enc.yaml")), "name: db", "name: dc", 1)
	_, err := open(Options{Keys: goldenKeys(t)}, "f.yaml", []byte(data), newTokens())
	if fault.KindOf(err) != fault.Denied || !strings.Contains(err.Error(), "the MAC does not match; the file was changed after it was encrypted") {
		t.Errorf("got %v", err)
	}
}

func TestMACOnlyEncryptedIsRefusedForTenants(t *testing.T) {
	data := golden(t, "maconly.enc.yaml")
	if _, err := open(Options{Keys: goldenKeys(t)}, "f.yaml", data, newTokens()); err != nil {
		t.Errorf("the platform may use it: %v", err)
	}
	_, err := open(Options{Keys: goldenKeys(t), Tenant: true}, "f.yaml", data, newTokens())
	if fault.KindOf(err) != fault.Denied {
		t.Errorf("got %v", err)
	}
}

func TestT19_ForeignRecipientsAreRefusedBeforeDecryption(t *testing.T) {
	mine, mineR := identity(t)
	_, theirR := identity(t)
	text := "apiVersion: v1\nkind: Secret\nmetadata: {name: x}\nstringData: {k: canary}\n"
	both := encrypt(t, yamlFormat, text, nil, mineR, theirR)
	// The MAC is broken: had anything been decrypted first, that would be the error.
	both = []byte(strings.Replace(string(both), "name: x", "name: y", 1))
	_, err := open(Options{Keys: mine, Recipients: []string{mineR}, Tenant: true}, "f.yaml", both, newTokens())
	if fault.KindOf(err) != fault.Denied || !strings.Contains(err.Error(), theirR) {
		t.Errorf("got %v", err)
	}
	silent(t, err)
	own := encrypt(t, yamlFormat, text, nil, mineR)
	if _, err := open(Options{Keys: mine, Recipients: []string{mineR}, Tenant: true}, "f.yaml", own, newTokens()); err != nil {
		t.Errorf("its own file: %v", err)
	}
	// A foreign file that claims the tenant's recipient still needs the tenant's key.
	foreign := strings.Replace(string(encrypt(t, yamlFormat, text, nil, theirR)), theirR, mineR, 1)
	_, err = open(Options{Keys: mine, Recipients: []string{mineR}, Tenant: true}, "f.yaml", []byte(foreign), newTokens())
	if fault.KindOf(err) != fault.NoKey {
		t.Errorf("got %v", err)
	}
}

func TestWrongKeyNamesRecipientsAndSecret(t *testing.T) {
	keys, _ := identity(t)
	_, err := open(Options{Keys: keys}, "f.yaml", golden(t, "secrets.enc.yaml"), newTokens())
	if fault.KindOf(err) != fault.NoKey {
		t.Fatalf("got %v", err)
	}
	for _, want := range []string{"f.yaml", "age122p2yncxtjr56sqsn8zd22j29x55jn5c24d6ktexa75r2dhdhaws6j2vr6", "Secret/team-a/sops-age", "sops updatekeys"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%q is not in %v", want, err)
		}
	}
}

// The sops library would find keys in all of these places.
func TestT19_NoKeyOfTheProcessIsUsed(t *testing.T) {
	home := t.TempDir()
	id := golden(t, "identity.txt")
	for _, name := range []string{"sops/age/keys.txt", ".config/sops/age/keys.txt"} {
		file := filepath.Join(home, name)
		if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, id, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	t.Setenv("HOME", home)
	t.Setenv("XDG_CONFIG_HOME", home)
	t.Setenv("SOPS_AGE_KEY", string(id))
	t.Setenv("SOPS_AGE_KEY_FILE", filepath.Join(home, "sops/age/keys.txt"))
	ran := filepath.Join(home, "ran")
	t.Setenv("SOPS_AGE_KEY_CMD", "touch "+ran)
	other, _ := identity(t)
	for name, keys := range map[string]Keys{"none": {}, "an empty Secret": {from: secretRef}, "others": other} {
		if _, err := open(Options{Keys: keys}, "f.yaml", golden(t, "secrets.enc.yaml"), newTokens()); fault.KindOf(err) != fault.NoKey {
			t.Errorf("%s: got %v", name, err)
		}
	}
	if _, err := os.Stat(ran); err == nil {
		t.Error("a program was run")
	}
}

// contract: Kustomization key *.asc, key sops.vault-token, key sops.aws-kms, key sops.azure-kv, key sops.gcp-kms
func TestOtherKeyTypesAreNamed(t *testing.T) {
	keys, r := identity(t)
	data := string(encrypt(t, yamlFormat, "apiVersion: v1\nkind: Secret\nmetadata: {name: x}\nstringData: {k: canary}\n", nil, r))
	at := strings.Index(data, "    age:\n")
	end := strings.Index(data, "    encrypted_regex")
	for typ, block := range map[string]string{
		"pgp":      "    pgp:\n        - created_at: \"2026-01-01T00:00:00Z\"\n          enc: x\n          fp: ABCDEF\n",
		"hc_vault": "    hc_vault:\n        - created_at: \"2026-01-01T00:00:00Z\"\n          enc: x\n          vault_address: http://127.0.0.1:1\n          engine_path: sops\n          key_name: k\n",
		"kms":      "    kms:\n        - created_at: \"2026-01-01T00:00:00Z\"\n          enc: x\n          arn: arn:aws:kms:eu-west-1:1:key/a\n",
		"azure_kv": "    azure_kv:\n        - created_at: \"2026-01-01T00:00:00Z\"\n          enc: x\n          vault_url: https://a.vault.azure.net\n          name: k\n          version: v\n",
		"gcp_kms":  "    gcp_kms:\n        - created_at: \"2026-01-01T00:00:00Z\"\n          enc: x\n          resource_id: projects/p/locations/l/keyRings/r/cryptoKeys/k\n",
	} {
		_, err := open(Options{Keys: keys}, "f.yaml", []byte(data[:at]+block+data[end:]), newTokens())
		if fault.KindOf(err) != fault.NoKey || !strings.Contains(err.Error(), "encrypted with "+typ) {
			t.Errorf("%s: got %v", typ, err)
		}
	}
}

func TestT21_AliasBombsAreRefused(t *testing.T) {
	data := string(golden(t, "secrets.enc.yaml"))
	for name, doc := range map[string]string{
		"cycle": "---\na: &a\n  b: *a\n",
		"bomb":  "---\na: &a [x,x,x,x,x,x,x,x,x,x]\nb: &b [*a,*a,*a,*a,*a,*a,*a,*a,*a,*a]\nc: &c [*b,*b,*b,*b,*b,*b,*b,*b,*b,*b]\nd: &d [*c,*c,*c,*c,*c,*c,*c,*c,*c,*c]\ne: &e [*d,*d,*d,*d,*d,*d,*d,*d,*d,*d]\nf: &f [*e,*e,*e,*e,*e,*e,*e,*e,*e,*e]\ng: [*f,*f,*f,*f,*f,*f,*f,*f,*f,*f]\n",
		"merge": "---\n<<: {a: b}\n",
		"deep":  "---\na: " + strings.Repeat("[", 5000) + strings.Repeat("]", 5000) + "\n",
	} {
		_, err := open(Options{Keys: goldenKeys(t)}, "f.yaml", []byte(data+doc), newTokens())
		if fault.KindOf(err) != fault.Invalid {
			t.Errorf("%s: got %v", name, err)
		}
		silent(t, err)
	}
	big := append(golden(t, "secrets.enc.yaml"), []byte("\n# "+strings.Repeat("x", 6<<20))...)
	if _, err := open(Options{Keys: goldenKeys(t)}, "f.yaml", big, newTokens()); fault.KindOf(err) != fault.Invalid {
		t.Errorf("oversized: got %v", err)
	}
}
