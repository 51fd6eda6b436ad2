package harness

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	vaultapi "github.com/hashicorp/vault/api"
)

// Push writes the files into a clone of the repository, commits and pushes them, and returns the commit. A file with
// empty content is removed.
func (w *World) Push(ctx context.Context, repo, message string, files map[string]string) (string, error) {
	dir := filepath.Join(w.Dir, "clones", repo)
	if _, err := os.Stat(dir); errors.Is(err, os.ErrNotExist) {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return "", err
		}
		for _, args := range [][]string{
			{"init", "-q", "-b", "main"},
			{"remote", "add", "origin", w.GitURL(repo)},
			{"config", "user.email", "dev@example.com"},
			{"config", "user.name", "Dev"},
			{"config", "commit.gpgsign", "false"},
		} {
			if _, err := w.git(ctx, dir, args...); err != nil {
				return "", err
			}
		}
	}
	for name, content := range files {
		path := filepath.Join(dir, filepath.FromSlash(name))
		if content == "" {
			if err := os.RemoveAll(path); err != nil {
				return "", err
			}
			continue
		}
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			return "", err
		}
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			return "", err
		}
	}
	return w.CommitAndPush(ctx, repo, message)
}

// CommitAndPush commits whatever is in the clone and pushes it.
func (w *World) CommitAndPush(ctx context.Context, repo, message string) (string, error) {
	dir := filepath.Join(w.Dir, "clones", repo)
	for _, args := range [][]string{{"add", "-A"}, {"commit", "-q", "--allow-empty", "-m", message}, {"push", "-q", "-f", "origin", "HEAD:main"}} {
		if _, err := w.git(ctx, dir, args...); err != nil {
			return "", err
		}
	}
	out, err := w.git(ctx, dir, "rev-parse", "HEAD")
	return strings.TrimSpace(out), err
}

// Git runs git in the clone of the repository.
func (w *World) Git(ctx context.Context, repo string, args ...string) (string, error) {
	return w.git(ctx, filepath.Join(w.Dir, "clones", repo), args...)
}

// GitURL returns the HTTP URL of a repository, with credentials.
func (w *World) GitURL(repo string) string {
	return strings.Replace(w.Env["GIT_HTTP_URL"], "://", "://"+w.Env["GIT_USERNAME"]+":"+w.Env["GIT_PASSWORD"]+"@", 1) + "/" + repo + ".git"
}

func (w *World) git(ctx context.Context, dir string, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, "git", args...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "GIT_CONFIG_NOSYSTEM=1", "HOME="+w.Dir, "GIT_TERMINAL_PROMPT=0")
	out, err := cmd.CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("git %s: %w: %s", args[0], err, out)
	}
	return string(out), nil
}

// AgeKey makes an age identity with the real age-keygen, and returns its file with its recipient.
func (w *World) AgeKey(ctx context.Context) (identity, recipient string, err error) {
	identity, err = w.Run(ctx, nil, "age-keygen")
	if err != nil {
		return "", "", err
	}
	for _, line := range strings.Split(identity, "\n") {
		if r, ok := strings.CutPrefix(line, "# public key: "); ok {
			return identity, strings.TrimSpace(r), nil
		}
	}
	return "", "", errors.New("age-keygen printed no public key")
}

// Sops encrypts a file with the real sops program, as a user does.
func (w *World) Sops(ctx context.Context, name, plain, recipient string, args ...string) (string, error) {
	dir, err := os.MkdirTemp(w.Dir, "sops")
	if err != nil {
		return "", err
	}
	defer os.RemoveAll(dir)
	path := filepath.Join(dir, name)
	if err := os.WriteFile(path, []byte(plain), 0o600); err != nil {
		return "", err
	}
	all := append([]string{"--encrypt", "--age", recipient}, args...)
	return w.Run(ctx, nil, "sops", append(all, path)...)
}

// Seal seals a Secret with `sealock seal`, fetching the certificate through the API server.
func (w *World) Seal(ctx context.Context, secret string, args ...string) (string, error) {
	return w.Run(ctx, []byte(secret), "sealock", append([]string{"seal", "--format", "yaml", "--kubeconfig", w.Kubeconfig}, args...)...)
}

// CertURL is where the controller serves the sealing certificate.
func (w *World) CertURL() string { return fmt.Sprintf("http://%s/v1/cert.pem", addr(w.Ports.Sealing)) }

// Vault returns a client with the root token.
func (w *World) Vault() (*vaultapi.Client, error) {
	cfg := vaultapi.DefaultConfig()
	cfg.Address = w.Env["VAULT_ADDR"]
	c, err := vaultapi.NewClient(cfg)
	if err != nil {
		return nil, err
	}
	c.SetToken(w.Env["VAULT_TOKEN"])
	return c, nil
}

// VaultRole lets a service account log in to Vault and read the KV v2 paths below secret/<prefix>.
func (w *World) VaultRole(ctx context.Context, role, namespace, serviceAccount, prefix string) error {
	c, err := w.Vault()
	if err != nil {
		return err
	}
	policy := fmt.Sprintf("path \"secret/data/%s/*\" { capabilities = [\"read\"] }\n", prefix)
	if err := c.Sys().PutPolicyWithContext(ctx, role, policy); err != nil {
		return err
	}
	_, err = c.Logical().WriteWithContext(ctx, "auth/kubernetes/role/"+role, map[string]any{
		"bound_service_account_names": serviceAccount, "bound_service_account_namespaces": namespace, "policies": role, "ttl": "1h",
	})
	return err
}

// VaultPut writes a secret of KV v2 below secret/.
func (w *World) VaultPut(ctx context.Context, path string, data map[string]any) error {
	c, err := w.Vault()
	if err != nil {
		return err
	}
	_, err = c.KVv2("secret").Put(ctx, path, data)
	return err
}

// GitIn runs git in any folder.
func (w *World) GitIn(ctx context.Context, dir string, args ...string) (string, error) {
	return w.git(ctx, dir, args...)
}
