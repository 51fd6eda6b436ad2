package externalsecrets

import (
	"context"
	"encoding/base64"
	"errors"
	"strings"
	"time"

	v1 "sealock.dev/sealock/api/externalsecrets/v1"
	"sealock.dev/sealock/fault"
	"sealock.dev/sealock/plaintext"
	"sealock.dev/sealock/tenants"
	"sealock.dev/sealock/vault"
)

// Vault reads from KV engines of HashiCorp Vault or OpenBao.
type Vault struct {
	client *vault.Client
	key    plaintext.Key // tells credentials apart inside this process
}

// NewVault returns the provider over a client.
func NewVault(client *vault.Client) *Vault { return &Vault{client: client, key: plaintext.RandomKey()} }

// Name is the key under spec.provider.
func (p *Vault) Name() string { return "vault" }

// vaultConnection is a store with a Vault. target and login are resolved at the first read.
type vaultConnection struct {
	*Vault
	use   Use
	spec  v1.VaultProvider
	role  string
	ready bool
	at    vault.Target
	as    vault.Login
}

// Connect implements Provider.
func (p *Vault) Connect(spec v1.StoreSpec, use Use) (Connection, error) {
	v := spec.Provider.Vault
	if v == nil {
		return nil, use.fail(fault.Invalid, "spec.provider.vault", "describe the Vault", "missing")
	}
	c := &vaultConnection{Vault: p, use: use, spec: *v}
	if v.Version != "" && v.Version != "v1" && v.Version != "v2" {
		return nil, use.fail(fault.Invalid, "spec.provider.vault.version", "use v1 or v2", "the version is not known")
	}
	if err := vault.CheckServer(v.Server); err != nil {
		return nil, c.ofStore(err)
	}
	if err := vault.CheckHeaders(v.Headers); err != nil {
		return nil, c.ofStore(err)
	}
	if v.CAProvider != nil {
		if use.Cluster && (v.CAProvider.Namespace == nil || *v.CAProvider.Namespace == "") {
			return nil, use.fail(fault.Invalid, "spec.provider.vault.caProvider.namespace", "name the namespace", "a ClusterSecretStore has none of its own")
		}
		if _, err := use.namespace("spec.provider.vault.caProvider", v.CAProvider.Namespace); err != nil {
			return nil, err
		}
	}
	return c, c.checkAuth()
}

const authField = "spec.provider.vault.auth"

// selectors returns every reference of the auth method, by its field.
func (c *vaultConnection) selectors() map[string]*string {
	out := map[string]*string{}
	switch a := c.spec.Auth; {
	case a == nil:
	case a.TokenSecretRef != nil:
		out[authField+".tokenSecretRef"] = a.TokenSecretRef.Namespace
	case a.AppRole != nil:
		out[authField+".appRole.secretRef"] = a.AppRole.SecretRef.Namespace
		if a.AppRole.RoleRef != nil {
			out[authField+".appRole.roleRef"] = a.AppRole.RoleRef.Namespace
		}
	case a.Kubernetes != nil && a.Kubernetes.ServiceAccountRef != nil:
		out[authField+".kubernetes.serviceAccountRef"] = a.Kubernetes.ServiceAccountRef.Namespace
	case a.Kubernetes != nil && a.Kubernetes.SecretRef != nil:
		out[authField+".kubernetes.secretRef"] = a.Kubernetes.SecretRef.Namespace
	}
	return out
}

// checkAuth refuses a store that says not who reads: the rights of the controller are nobody's to use.
func (c *vaultConnection) checkAuth() error {
	const remedy = "name a credential: tokenSecretRef, appRole, or kubernetes with a serviceAccountRef or secretRef"
	a := c.spec.Auth
	switch {
	case a == nil:
		return c.use.fail(fault.Denied, authField, remedy, "the store names no credential, and the controller lends none of its own")
	case a.TokenSecretRef != nil:
	case a.AppRole != nil:
		if a.AppRole.RoleID == "" && a.AppRole.RoleRef == nil {
			return c.use.fail(fault.Invalid, authField+".appRole", "set roleId or roleRef", "no role id")
		}
	case a.Kubernetes != nil:
		if a.Kubernetes.ServiceAccountRef == nil && a.Kubernetes.SecretRef == nil {
			return c.use.fail(fault.Denied, authField+".kubernetes", remedy, "the store names no service account, and the controller lends not its own")
		}
		if a.Kubernetes.Role == "" {
			return c.use.fail(fault.Invalid, authField+".kubernetes.role", "name the role", "missing")
		}
		c.role = a.Kubernetes.Role
	default:
		return c.use.fail(fault.Denied, authField, remedy, "the store names no auth method that is served")
	}
	for field, namespace := range c.selectors() {
		if _, err := c.use.namespace(field, namespace); err != nil {
			return err
		}
	}
	return nil
}

// Referent implements Connection.
func (c *vaultConnection) Referent() bool {
	if !c.use.Cluster {
		return false
	}
	for _, namespace := range c.selectors() {
		if namespace == nil || *namespace == "" {
			return true
		}
	}
	return false
}

// ofStore makes the error one of the store, where it names a field of it.
func (c *vaultConnection) ofStore(err error) error {
	var f *fault.Error
	if !errors.As(err, &f) {
		return err
	}
	e := *f
	e.Stage = fault.StageOpen
	if below, ok := strings.CutPrefix(e.Field, "provider."); ok {
		e.Ref, e.Field = c.use.Store, "spec.provider."+below
	}
	return &e
}

func (c *vaultConnection) path(ref v1.RemoteRef) (vault.Path, error) {
	namespace := ""
	if c.spec.Namespace != nil {
		namespace = *c.spec.Namespace
	}
	p, err := vault.KVPath(c.spec.Path, c.spec.Version != "v1", namespace, ref.Key, ref.Version)
	if err == nil {
		return p, nil
	}
	err = c.ofStore(err)
	var f *fault.Error
	if errors.As(err, &f) {
		return p, f // "remoteRef.key" is completed by the item
	}
	return p, err
}

// Allowed implements Connection.
func (c *vaultConnection) Allowed(grant tenants.Grant, ref v1.RemoteRef) error {
	p, err := c.path(ref)
	if err != nil {
		return err
	}
	if grant.AllowsVault(c.spec.Server, p.Logical, c.role) {
		return nil
	}
	if !grant.AllowsVaultServer(c.spec.Server, c.role) {
		return c.fenced(grant)
	}
	return fault.New(fault.StageOpen, fault.Denied, fault.Ref{}, "tenant %q may not read %s of Vault at %s", grant.Tenant, p.Logical, c.spec.Server).
		At("remoteRef.key").Fix("use a path of the tenant, or let the platform team add it to spec.vault.paths of the Tenant")
}

func (c *vaultConnection) fenced(grant tenants.Grant) error {
	as := ""
	if c.role != "" {
		as = " as the role \"" + c.role + "\""
	}
	return fault.New(fault.StageOpen, fault.Denied, c.use.Store, "tenant %q may not use Vault at %s%s", grant.Tenant, c.spec.Server, as).
		At("spec.provider.vault").Fix("let the platform team add server and role to spec.vault of the Tenant")
}

// Read implements Connection.
func (c *vaultConnection) Read(ctx context.Context, ref v1.RemoteRef, maxAge time.Duration) (Fields, error) {
	p, err := c.path(ref)
	if err != nil {
		return Fields{}, err
	}
	if err := c.resolve(ctx); err != nil {
		return Fields{}, err
	}
	data, err := c.client.Read(ctx, c.at, c.as, p, maxAge)
	if err != nil {
		return Fields{}, c.ofStore(err)
	}
	return Fields{JSON: data.JSON, Name: p.Logical}, nil
}

// Verify implements Connection.
func (c *vaultConnection) Verify(ctx context.Context, grant tenants.Grant) error {
	if !grant.AllowsVaultServer(c.spec.Server, c.role) {
		return c.fenced(grant)
	}
	if err := c.resolve(ctx); err != nil {
		return err
	}
	return c.ofStore(c.client.Verify(ctx, c.at, c.as))
}

// resolve reads the objects that the store refers to. The identity is made of what was read, never of the references.
func (c *vaultConnection) resolve(ctx context.Context) error {
	if c.ready {
		return nil
	}
	c.at = vault.Target{Server: strings.TrimRight(c.spec.Server, "/"), Headers: c.spec.Headers}
	if c.spec.Namespace != nil {
		c.at.Namespace = *c.spec.Namespace
	}
	ca, err := c.ca(ctx)
	if err != nil {
		return err
	}
	c.at.CABundle = ca
	auth := c.spec.Auth
	switch {
	case auth.TokenSecretRef != nil:
		c.as = vault.Login{Method: vault.Token}
		err = c.secretLogin(ctx, authField+".tokenSecretRef", *auth.TokenSecretRef)
	case auth.AppRole != nil:
		err = c.appRole(ctx, *auth.AppRole)
	default:
		err = c.kubernetes(ctx, *auth.Kubernetes)
	}
	if err != nil {
		return err
	}
	if auth.Namespace != nil {
		c.as.Namespace = *auth.Namespace
	}
	c.ready = true
	return nil
}

// ca returns the PEM of the CA, nil for the system's roots.
func (c *vaultConnection) ca(ctx context.Context) ([]byte, error) {
	if len(c.spec.CABundle) > 0 {
		return pem(c.spec.CABundle), nil
	}
	p := c.spec.CAProvider
	if p == nil {
		return nil, nil
	}
	namespace, err := c.use.namespace("spec.provider.vault.caProvider", p.Namespace)
	if err != nil {
		return nil, err
	}
	if p.Type == "Secret" {
		v, err := c.use.secret(ctx, namespace, p.Name, p.Key)
		return pem(v.value.Reveal()), err // a CA certificate is public
	}
	obj, _, err := c.use.find.get(ctx, gvkConfigMap, namespace, p.Name)
	if err != nil {
		return nil, err
	}
	text, _ := obj.Peek("data", p.Key).(string)
	if text == "" {
		return nil, fault.New(fault.StageOpen, fault.NotFound, fault.Ref{Kind: "ConfigMap", Namespace: namespace, Name: p.Name}, "it has no key %q", p.Key).
			Fix("add the key, or correct the reference in %s", c.use.Store)
	}
	return pem([]byte(text)), nil
}

// pem undoes the second base64 that many stores carry.
func pem(raw []byte) []byte {
	if strings.Contains(string(raw), "-----BEGIN") {
		return raw
	}
	if inner, err := base64.StdEncoding.DecodeString(strings.TrimSpace(string(raw))); err == nil {
		return inner
	}
	return raw
}

// secretLogin takes the credential from a key of a Secret.
func (c *vaultConnection) secretLogin(ctx context.Context, field string, ref v1.SecretKeySelector) error {
	namespace, err := c.use.namespace(field, ref.Namespace)
	if err != nil {
		return err
	}
	if ref.Key == "" {
		ref.Key = "token"
	}
	cred, err := c.use.secret(ctx, namespace, ref.Name, ref.Key)
	if err != nil {
		return err
	}
	c.as.Identity += "|" + cred.id + "/" + ref.Key + "/" + cred.value.Digest(c.key)
	c.as.Secret = func(context.Context) (plaintext.Value, error) { return cred.value, nil }
	return nil
}

func (c *vaultConnection) appRole(ctx context.Context, a v1.VaultAppRole) error {
	c.as = vault.Login{Method: vault.AppRole, Mount: a.Path, RoleID: plaintext.FromString(strings.TrimSpace(a.RoleID))}
	if c.as.Mount == "" {
		c.as.Mount = "approle"
	}
	if a.RoleID == "" {
		if err := c.secretLogin(ctx, authField+".appRole.roleRef", *a.RoleRef); err != nil {
			return err
		}
		id, err := c.as.Secret(ctx)
		if err != nil {
			return err
		}
		c.as.RoleID = id
	}
	c.as.Identity += "|" + c.as.RoleID.Digest(c.key)
	return c.secretLogin(ctx, authField+".appRole.secretRef", a.SecretRef)
}

func (c *vaultConnection) kubernetes(ctx context.Context, k v1.VaultKubernetesAuth) error {
	c.as = vault.Login{Method: vault.Kubernetes, Mount: k.Path, Role: k.Role}
	if c.as.Mount == "" {
		c.as.Mount = "kubernetes"
	}
	if k.ServiceAccountRef == nil {
		return c.secretLogin(ctx, authField+".kubernetes.secretRef", *k.SecretRef)
	}
	ref := *k.ServiceAccountRef
	namespace, err := c.use.namespace(authField+".kubernetes.serviceAccountRef", ref.Namespace)
	if err != nil {
		return err
	}
	// Of the cluster, not of the set: the identity is the account that exists.
	account, err := c.use.account(ctx, namespace, ref.Name)
	if err != nil {
		return err
	}
	if c.use.tokens == nil {
		return c.use.fail(fault.Transient, authField+".kubernetes.serviceAccountRef", "run with a cluster", "no tokens of service accounts can be made here")
	}
	// Not the version: a label on the account is no reason to log in again.
	c.as.Identity = strings.Join([]string{"ServiceAccount", namespace, ref.Name, account, strings.Join(ref.Audiences, ",")}, "/")
	tokens := c.use.tokens
	c.as.Secret = func(ctx context.Context) (plaintext.Value, error) {
		v, err := tokens.ServiceAccountToken(ctx, namespace, ref.Name, ref.Audiences)
		if err == nil {
			return v, nil
		}
		account := fault.Ref{Kind: "ServiceAccount", Namespace: namespace, Name: ref.Name}
		switch kind := fault.KindOf(err); kind {
		case fault.NotFound, fault.Denied, fault.Invalid:
			return v, fault.New(fault.StageOpen, kind, account, "no token can be made for the service account").Fix("create it, and allow the controller to create serviceaccounts/token")
		default:
			return v, fault.New(fault.StageOpen, fault.Transient, account, "no token can be made for the service account now").Fix("see whether the API server is healthy; it is tried again")
		}
	}
	return nil
}
