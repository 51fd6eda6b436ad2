package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"time"

	"github.com/hashicorp/go-hclog"
	kubernetesauth "github.com/hashicorp/vault-plugin-auth-kubernetes"
	"github.com/hashicorp/vault-plugin-secrets-kv"
	vaultapi "github.com/hashicorp/vault/api"
	vaultaudit "github.com/hashicorp/vault/audit"
	"github.com/hashicorp/vault/builtin/credential/approle"
	"github.com/hashicorp/vault/builtin/logical/transit"
	vaultconfig "github.com/hashicorp/vault/command/server"
	vaulthttp "github.com/hashicorp/vault/http"
	"github.com/hashicorp/vault/internalshared/configutil"
	"github.com/hashicorp/vault/sdk/helper/consts"
	"github.com/hashicorp/vault/sdk/logical"
	"github.com/hashicorp/vault/sdk/physical/file"
	vaultcore "github.com/hashicorp/vault/vault"
	authv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
)

// vaultPlugins is every auth method and secrets engine of this Vault beside the ones in its core. They are registered
// as the real Vault registers its own, without the database and cloud plugins that come with its command package.
var vaultPlugins = vaultRegistry{
	consts.PluginTypeCredential: {"kubernetes": kubernetesauth.Factory, "approle": approle.Factory},
	consts.PluginTypeSecrets:    {"kv": kv.Factory, "transit": transit.Factory},
}

// vaultServer is a running Vault and a client that acts with the root token.
type vaultServer struct {
	addr   string
	client *vaultapi.Client
}

// vaultKeys is what opens the stored Vault again. It lies beside the data: this is a Vault for tests.
type vaultKeys struct {
	UnsealKey string `json:"unseal_key"`
	RootToken string `json:"root_token"`
}

// startVault runs Vault in this process with its data in DIR/vault, initialised, unsealed and with its engines mounted.
func (c *cluster) startVault(ctx context.Context) (*vaultServer, error) {
	ln, port, err := c.home.listen("vault")
	if err != nil {
		return nil, err
	}
	addr := fmt.Sprintf("http://127.0.0.1:%d", port)
	if err := c.serveVault(ln, addr); err != nil {
		ln.Close()
		return nil, fmt.Errorf("starting Vault: %w (see %s)", err, c.home.log("vault"))
	}
	config := vaultapi.DefaultConfig()
	config.Address = addr
	client, err := vaultapi.NewClient(config)
	if err != nil {
		return nil, err
	}
	v := &vaultServer{addr: addr, client: client}
	if err := v.open(ctx, c.home.path("vault-keys.json"), c.home.path("vault")); err != nil {
		return nil, err
	}
	if err := c.parts.poll(ctx, func(ctx context.Context) error { return vaultActive(ctx, client) }); err != nil {
		return nil, fmt.Errorf("vault does not become active after unsealing: %w (see %s)", err, c.home.log("vault"))
	}
	if err := v.mountEngines(ctx, c.parts); err != nil {
		return nil, err
	}
	if err := v.setAudit(ctx, c.auditLog, c.home.path("vault-audit.log")); err != nil {
		return nil, err
	}
	c.setEnv("VAULT_ADDR", addr)
	c.setEnv("VAULT_TOKEN", client.Token())
	c.say("vault serves %s, unsealed", addr)
	return v, nil
}

// serveVault builds the core over the file store and serves its API.
func (c *cluster) serveVault(ln net.Listener, addr string) error {
	log, err := openLog(c.home.log("vault"))
	if err != nil {
		return err
	}
	logger := hclog.New(&hclog.LoggerOptions{Output: log, Level: hclog.Warn})
	store, err := file.NewFileBackend(map[string]string{"path": c.home.path("vault")}, logger)
	if err != nil {
		return err
	}
	core, err := vaultcore.NewCore(&vaultcore.CoreConfig{
		Physical:        store,
		StorageType:     "file",
		RedirectAddr:    addr,
		DisableMlock:    true,
		Logger:          logger,
		RawConfig:       vaultconfig.NewConfig(),
		BuiltinRegistry: vaultPlugins,
		AuditBackends:   map[string]vaultaudit.Factory{"file": vaultaudit.NewFileBackend},
	})
	if err != nil {
		return err
	}
	server := &http.Server{
		Handler: vaulthttp.Handler.Handler(&vaultcore.HandlerProperties{
			Core:           core,
			ListenerConfig: &configutil.Listener{Address: ln.Addr().String()},
		}),
		ReadHeaderTimeout: 10 * time.Second,
		ErrorLog:          logger.StandardLogger(nil),
	}
	c.parts.run("vault", c.home.log("vault"), func(ctx context.Context) error {
		defer log.Close()
		served := make(chan error, 1)
		go func() { served <- server.Serve(ln) }()
		select {
		case err := <-served:
			return err
		case <-ctx.Done():
			return errors.Join(server.Close(), core.ShutdownWait())
		}
	})
	return nil
}

// open initialises a new store and unseals it, or unseals an earlier one with the kept key.
func (v *vaultServer) open(ctx context.Context, keysFile, store string) error {
	initialised, err := v.client.Sys().InitStatusWithContext(ctx)
	if err != nil {
		return err
	}
	var keys vaultKeys
	if initialised {
		saved, err := os.ReadFile(keysFile)
		if err == nil {
			err = json.Unmarshal(saved, &keys)
		}
		if err != nil {
			return fmt.Errorf("the keys of the Vault in %s: %w; remove %s to begin with an empty one", store, err, store)
		}
	} else {
		made, err := v.client.Sys().InitWithContext(ctx, &vaultapi.InitRequest{SecretShares: 1, SecretThreshold: 1})
		if err != nil {
			return fmt.Errorf("initialising vault: %w; remove %s and try again", err, store)
		}
		keys = vaultKeys{UnsealKey: made.Keys[0], RootToken: made.RootToken}
		out, err := json.Marshal(keys)
		if err != nil {
			return err
		}
		if err := writeFileAtomic(keysFile, out); err != nil {
			return err
		}
	}
	v.client.SetToken(keys.RootToken)
	status, err := v.client.Sys().UnsealWithContext(ctx, keys.UnsealKey)
	if err == nil && status.Sealed {
		err = errors.New("still sealed")
	}
	if err != nil {
		return fmt.Errorf("unsealing the Vault in %s with the key of %s: %w", store, keysFile, err)
	}
	return nil
}

func vaultActive(ctx context.Context, client *vaultapi.Client) error {
	health, err := client.Sys().HealthWithContext(ctx)
	if err != nil {
		return err
	}
	if health.Sealed || health.Standby {
		return fmt.Errorf("sealed %t, standby %t", health.Sealed, health.Standby)
	}
	return nil
}

// mountEngines mounts what a new Vault lacks and waits until KV v2, which prepares itself after the mount, answers.
func (v *vaultServer) mountEngines(ctx context.Context, parts *stack) error {
	mounts, err := v.client.Sys().ListMountsWithContext(ctx)
	if err != nil {
		return err
	}
	for path, input := range map[string]*vaultapi.MountInput{
		"kv1/":     {Type: "kv", Options: map[string]string{"version": "1"}},
		"secret/":  {Type: "kv", Options: map[string]string{"version": "2"}},
		"transit/": {Type: "transit"},
	} {
		if mounts[path] != nil {
			continue
		}
		if err := v.client.Sys().MountWithContext(ctx, path, input); err != nil {
			return fmt.Errorf("mounting %s: %w", path, err)
		}
	}
	methods, err := v.client.Sys().ListAuthWithContext(ctx)
	if err != nil {
		return err
	}
	for _, method := range []string{"kubernetes", "approle"} {
		if methods[method+"/"] != nil {
			continue
		}
		if err := v.client.Sys().EnableAuthWithOptionsWithContext(ctx, method, &vaultapi.EnableAuthOptions{Type: method}); err != nil {
			return fmt.Errorf("enabling auth method %s: %w", method, err)
		}
	}
	return parts.poll(ctx, func(ctx context.Context) error {
		_, err := v.client.Logical().ReadWithContext(ctx, "secret/config")
		return err
	})
}

// setAudit makes Vault's own audit device match what this up was asked for.
func (v *vaultServer) setAudit(ctx context.Context, want bool, path string) error {
	devices, err := v.client.Sys().ListAuditWithContext(ctx)
	if err != nil {
		return err
	}
	switch has := devices["file/"] != nil; {
	case want && !has:
		return v.client.Sys().EnableAuditWithOptionsWithContext(ctx, "file", &vaultapi.EnableAuditOptions{
			Type: "file", Options: map[string]string{"file_path": path, "mode": "0600"},
		})
	case !want && has:
		return v.client.Sys().DisableAuditWithContext(ctx, "file")
	}
	return nil
}

// joinVault lets Vault review service account tokens at this API server. It is done at every up, because ports change.
func (c *cluster) joinVault(ctx context.Context, v *vaultServer) error {
	token, err := c.reviewerToken(ctx)
	if err != nil {
		return fmt.Errorf("making the ServiceAccount with which Vault reviews tokens: %w", err)
	}
	ca, err := os.ReadFile(c.pki.file("ca.crt"))
	if err != nil {
		return err
	}
	_, err = v.client.Logical().WriteWithContext(ctx, "auth/kubernetes/config", map[string]any{
		"kubernetes_host":      c.server,
		"kubernetes_ca_cert":   string(ca),
		"token_reviewer_jwt":   token,
		"disable_local_ca_jwt": true,
	})
	if err != nil {
		return fmt.Errorf("configuring Vault's kubernetes auth method: %w", err)
	}
	c.say("vault accepts service account tokens of this cluster")
	return nil
}

// reviewerToken returns a token of a ServiceAccount that may review tokens and nothing else.
func (c *cluster) reviewerToken(ctx context.Context) (string, error) {
	client, err := kubernetes.NewForConfig(c.admin)
	if err != nil {
		return "", err
	}
	meta := metav1.ObjectMeta{Name: "devcluster-vault", Namespace: metav1.NamespaceSystem}
	accounts := client.CoreV1().ServiceAccounts(meta.Namespace)
	if err := c.parts.poll(ctx, func(ctx context.Context) error { // until the namespace is there
		_, err := accounts.Create(ctx, &corev1.ServiceAccount{ObjectMeta: meta}, metav1.CreateOptions{})
		return ignoreExists(err)
	}); err != nil {
		return "", err
	}
	_, err = client.RbacV1().ClusterRoleBindings().Create(ctx, &rbacv1.ClusterRoleBinding{
		ObjectMeta: metav1.ObjectMeta{Name: meta.Name},
		RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: "system:auth-delegator"},
		Subjects:   []rbacv1.Subject{{Kind: rbacv1.ServiceAccountKind, Name: meta.Name, Namespace: meta.Namespace}},
	}, metav1.CreateOptions{})
	if err := ignoreExists(err); err != nil {
		return "", err
	}
	seconds := int64((365 * 24 * time.Hour).Seconds()) // longer than any up
	review, err := accounts.CreateToken(ctx, meta.Name, &authv1.TokenRequest{
		Spec: authv1.TokenRequestSpec{ExpirationSeconds: &seconds},
	}, metav1.CreateOptions{})
	if err != nil {
		return "", err
	}
	return review.Status.Token, nil
}

func ignoreExists(err error) error {
	if apierrors.IsAlreadyExists(err) {
		return nil
	}
	return err
}

// vaultRegistry implements Vault's registry of built-in plugins.
type vaultRegistry map[consts.PluginType]map[string]logical.Factory

// Contains reports whether there is such a plugin.
func (r vaultRegistry) Contains(name string, kind consts.PluginType) bool {
	return r[kind][name] != nil
}

// Get returns a constructor of the plugin's factory.
func (r vaultRegistry) Get(name string, kind consts.PluginType) (func() (any, error), bool) {
	factory, ok := r[kind][name]
	return func() (any, error) { return factory, nil }, ok
}

// Keys lists the names of one kind.
func (r vaultRegistry) Keys(kind consts.PluginType) []string {
	var names []string
	for name := range r[kind] {
		names = append(names, name)
	}
	return names
}

// DeprecationStatus says that every plugin here is supported.
func (r vaultRegistry) DeprecationStatus(name string, kind consts.PluginType) (consts.DeprecationStatus, bool) {
	return consts.Supported, r.Contains(name, kind)
}

// IsBuiltinEntPlugin says that no plugin here is an enterprise one.
func (r vaultRegistry) IsBuiltinEntPlugin(string, consts.PluginType) bool { return false }
