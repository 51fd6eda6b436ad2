package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

const team = "bench-team"

// secrets is what a tenant keeps in Git in encrypted form, and in Vault.
func secrets(ctx context.Context, s *site) error {
	n, few := s.size(100, 20), s.size(20, 5)
	recipient, err := s.tenant(ctx)
	if err != nil {
		return err
	}
	files := map[string]string{}
	if err := s.encrypted(ctx, files, n, recipient); err != nil {
		return err
	}
	if err := s.sealedAndExternal(ctx, files, few); err != nil {
		return err
	}
	if _, err := s.source(ctx, team, files); err != nil {
		return err
	}
	sops := []kustomization{{namespace: team, name: "sops", path: "sops", spec: "  decryption: {provider: sops}"}}
	w, err := s.measure(ctx, "first apply", func(ctx context.Context) error { return s.create(ctx, sops) })
	if err != nil {
		return err
	}
	s.tell(fmt.Sprintf("%d SOPS/age Secrets, first", n), w, marks{
		objects: []option{atMost(float64(2 * n)), peer("314 in all")}, cpu: []option{peer("0.33")}, memory: []option{peer("82, peak 112")}, wall: []option{peer("1.4")},
	})
	if err := s.noop(ctx, fmt.Sprintf("%d SOPS/age Secrets, nothing changed", n), sops, marks{
		objects: []option{atMost(0), peer("210 in all")}, cpu: []option{peer("0.3")}, wall: []option{peer("0.45")},
	}); err != nil {
		return err
	}
	return s.three(ctx, few, len(sops))
}

// three adds the other two kinds of secrets, and restarts with all of them in place.
func (s *site) three(ctx context.Context, few, already int) error {
	name := fmt.Sprintf("%d sealed and %d Vault secrets, first", few, few)
	all := []kustomization{
		{namespace: team, name: "sealed", path: "sealed"},
		{namespace: team, name: "external", path: "external"},
	}
	from, err := s.vaultLog()
	if err != nil {
		return err
	}
	w, err := s.measure(ctx, "sealed and external", func(ctx context.Context) error { return s.create(ctx, all) })
	if err != nil {
		return err
	}
	s.tell(name, w, marks{objects: []option{atMost(float64(2 * (4*few + 2)))}})
	if err := s.tellVault(name, from, 1, few); err != nil {
		return err
	}
	if from, err = s.vaultLog(); err != nil {
		return err
	}
	lines, err := s.opened()
	if err != nil {
		return err
	}
	name = "restart with all of them in place"
	if err := s.restarted(ctx, name, already+len(all), marks{}); err != nil {
		return err
	}
	again, err := s.opened()
	if err != nil {
		return err
	}
	s.add(figure{Scenario: s.scenario, Work: name, What: "runs that opened files (log)", Seen: float64(again - lines)}, atMost(0))
	return s.tellVault(name, from, 0, 0)
}

// tenant makes the tenant, with a key and a fence around its part of Vault.
func (s *site) tenant(ctx context.Context) (recipient string, err error) {
	identity, recipient, err := s.AgeKey(ctx)
	if err != nil {
		return "", err
	}
	err = s.Apply(ctx, secretYAML("sealock-system", team+"-age", "keys.agekey", identity)+fmt.Sprintf(`---
apiVersion: sealock.dev/v1alpha1
kind: Tenant
metadata: {name: %[1]s}
spec:
  namespaces: [{name: %[1]s}]
  decryption: {secretRef: {name: %[1]s-age}}
  vault: {servers: ["%[2]s"], paths: ["secret/tenants/%[1]s/*"], roles: [%[1]s]}
`, team, s.Env["VAULT_ADDR"]))
	if err != nil {
		return "", err
	}
	if _, err = s.WaitCondition(ctx, patience, "sealock.dev/v1alpha1", "Tenant", "", team, "Ready", "True", ""); err != nil {
		return "", err
	}
	return recipient, s.VaultRole(ctx, team, team, "vault-reader", "tenants/"+team)
}

func secretYAML(namespace, name, key, value string) string {
	return fmt.Sprintf("apiVersion: v1\nkind: Secret\nmetadata:\n  name: %s\n  namespace: %s\nstringData:\n  %s: %q\n", name, namespace, key, value)
}

// encrypted adds Secrets that the real sops encrypted.
func (s *site) encrypted(ctx context.Context, files map[string]string, n int, recipient string) error {
	out := make([]string, n)
	err := s.each(n, func(i int) (err error) {
		name := fmt.Sprintf("sops-%03d", i)
		out[i], err = s.Sops(ctx, name+".yaml", secretYAML(team, name, "password", "not-secret-"+name), recipient, "--encrypted-regex", "^(data|stringData)$")
		return err
	})
	for i, text := range out {
		files[fmt.Sprintf("sops/sops-%03d.yaml", i)] = text
	}
	return err
}

// sealedAndExternal adds SealedSecrets, and ExternalSecrets of one path each.
func (s *site) sealedAndExternal(ctx context.Context, files map[string]string, n int) error {
	out := make([]string, n)
	err := s.each(n, func(i int) (err error) {
		name := fmt.Sprintf("sealed-%03d", i)
		if err := s.VaultPut(ctx, fmt.Sprintf("tenants/%s/path-%03d", team, i), map[string]any{"user": "u", "password": "not-secret"}); err != nil {
			return err
		}
		out[i], err = s.Seal(ctx, secretYAML(team, name, "password", "not-secret-"+name))
		return err
	})
	for i, text := range out {
		files[fmt.Sprintf("sealed/sealed-%03d.yaml", i)] = text
		files[fmt.Sprintf("external/external-%03d.yaml", i)] = externalSecret(i)
	}
	files["external/store.yaml"] = fmt.Sprintf(`apiVersion: v1
kind: ServiceAccount
metadata: {name: vault-reader}
---
apiVersion: external-secrets.io/v1
kind: SecretStore
metadata: {name: vault}
spec:
  provider:
    vault:
      server: %s
      path: secret
      version: v2
      auth: {kubernetes: {mountPath: kubernetes, role: %s, serviceAccountRef: {name: vault-reader}}}
`, s.Env["VAULT_ADDR"], team)
	return err
}

func externalSecret(i int) string {
	return fmt.Sprintf(`apiVersion: external-secrets.io/v1
kind: ExternalSecret
metadata: {name: external-%03[1]d}
spec:
  refreshInterval: 1h
  secretStoreRef: {name: vault, kind: SecretStore}
  target: {name: external-%03[1]d}
  data:
  - {secretKey: user, remoteRef: {key: tenants/%[2]s/path-%03[1]d, property: user}}
  - {secretKey: password, remoteRef: {key: tenants/%[2]s/path-%03[1]d, property: password}}
`, i, team)
}

func (s *site) vaultLogPath() string { return filepath.Join(s.Dir, "devcluster", "vault-audit.log") }

// vaultLog is where the audit log of Vault ends now.
func (s *site) vaultLog() (int64, error) {
	info, err := os.Stat(s.vaultLogPath())
	if err != nil {
		return 0, err
	}
	return info.Size(), nil
}

// tellVault counts what Vault was asked since the offset.
func (s *site) tellVault(work string, from int64, logins, reads int) error {
	data, err := os.ReadFile(s.vaultLogPath())
	if err != nil {
		return err
	}
	login, read, other := 0, 0, 0
	for _, line := range bytes.Split(data[from:], []byte("\n")) {
		var e struct {
			Type    string
			Request struct{ Path string }
		}
		if json.Unmarshal(line, &e) != nil || e.Type != "request" {
			continue
		}
		switch {
		case strings.HasSuffix(e.Request.Path, "/login"):
			login++
		case strings.HasPrefix(e.Request.Path, "secret/data/"):
			read++
		default:
			other++
		}
	}
	s.add(figure{Scenario: s.scenario, Work: work, What: "Vault logins", Seen: float64(login)}, atMost(float64(logins)), peer("one each refresh"))
	s.add(figure{Scenario: s.scenario, Work: work, What: "Vault reads", Seen: float64(read), Detail: fmt.Sprintf("other requests %d", other)}, atMost(float64(reads)), peer("two each refresh"))
	return nil
}

// opened counts the runs that decrypted files, as the controller's log tells them.
func (s *site) opened() (int, error) {
	lines, err := s.LogLines()
	n := 0
	for _, line := range lines {
		if line["msg"] == "stage" && line["stage"] == "decrypt" {
			n++
		}
	}
	return n, err
}
