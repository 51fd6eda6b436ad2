// Package tenants answers one question: which tenant owns a namespace, and what may be done on its behalf.
//
// It exists so that this is answered in one place. Every read and write of the pipeline happens under the Grant that it
// returns. The package is pure: no client, no clock, no state; it must not decide what a policy decides.
package tenants

import (
	"net/url"
	"path"
	"slices"
	"sort"
	"strings"

	"sealock.dev/sealock/api/sealock/v1alpha1"
	"sealock.dev/sealock/fault"
)

// userPrefix begins the name of a tenant's GitOps identity. No pod can become it, since it is not a ServiceAccount.
const userPrefix = "sealock:tenant:"

// Settings are what the platform team sets for the installation.
type Settings struct {
	// SystemNamespace is Sealock's own namespace.
	SystemNamespace string
	// PlatformNamespaces are those in which an object without serviceAccountName acts as PlatformUser.
	PlatformNamespaces []string
	// PlatformServiceAccount in SystemNamespace is what platform objects act as.
	PlatformServiceAccount string
	// DefaultServiceAccount of the own namespace is what an object outside tenants acts as when it names none; "" for none.
	DefaultServiceAccount string
	// NoCrossNamespaceRefs refuses sources of other namespaces in platform namespaces too.
	NoCrossNamespaceRefs bool
}

// DefaultSettings are those of the shipped manifests.
func DefaultSettings() Settings {
	return Settings{SystemNamespace: "sealock-system", PlatformNamespaces: []string{"flux-system", "sealock-system"}, PlatformServiceAccount: "sealock-platform"}
}

// Grant is what may be done on behalf of an object in a namespace. Its zero value allows nothing.
type Grant struct {
	// Tenant is the owner of the namespace, "" when no tenant owns it.
	Tenant string
	// Platform is true in a platform namespace, where Flux's rules for references hold.
	Platform bool
	// Namespace of the object that asks.
	Namespace string
	// User is the identity to act as. It is never empty in a Grant that Index.Grant returned.
	User string
	// Namespaces that the tenant may write to, sorted.
	Namespaces []string

	tenant *v1alpha1.Tenant
	system string
	locked bool // to sources of its own namespace, in a platform namespace too
}

// Index knows the tenants of a cluster. It is immutable.
type Index struct {
	settings  Settings
	byName    map[string]*v1alpha1.Tenant
	byNS      map[string]*v1alpha1.Tenant
	contested map[string][]string // tenant name -> namespaces that another tenant has
}

// NewIndex indexes the tenants. Of two that list the same namespace the older has it; a platform namespace belongs to none.
func NewIndex(list []v1alpha1.Tenant, settings Settings) *Index {
	x := &Index{settings: settings, byName: map[string]*v1alpha1.Tenant{}, byNS: map[string]*v1alpha1.Tenant{}, contested: map[string][]string{}}
	sorted := slices.Clone(list)
	sort.Slice(sorted, func(i, j int) bool {
		a, b := sorted[i].CreationTimestamp, sorted[j].CreationTimestamp
		if !a.Equal(&b) {
			return a.Before(&b)
		}
		return sorted[i].Name < sorted[j].Name
	})
	for i := range sorted {
		t := &sorted[i]
		x.byName[t.Name] = t
		for _, ns := range t.Spec.Namespaces {
			_, taken := x.byNS[ns.Name]
			if taken || x.IsPlatform(ns.Name) || reservedNamespace(ns.Name) {
				x.contested[t.Name] = append(x.contested[t.Name], ns.Name)
				continue
			}
			x.byNS[ns.Name] = t
		}
	}
	return x
}

// reservedNamespace reports names that Kubernetes keeps for itself.
func reservedNamespace(name string) bool {
	return strings.HasPrefix(name, "kube-") || name == "default"
}

// IsPlatform reports whether the namespace is one of the platform's.
func (x *Index) IsPlatform(namespace string) bool {
	return namespace == x.settings.SystemNamespace || slices.Contains(x.settings.PlatformNamespaces, namespace)
}

// Owner returns the tenant that owns the namespace, nil when none does. The result must not be changed.
func (x *Index) Owner(namespace string) *v1alpha1.Tenant { return x.byNS[namespace] }

// Get returns the tenant of that name, nil when there is none. The result must not be changed.
func (x *Index) Get(name string) *v1alpha1.Tenant { return x.byName[name] }

// Contested returns the namespaces that the tenant lists and does not get, sorted.
func (x *Index) Contested(tenant string) []string {
	out := slices.Clone(x.contested[tenant])
	sort.Strings(out)
	return out
}

// Settings returns the settings of the installation.
func (x *Index) Settings() Settings { return x.settings }

// NamespacesOf returns the namespaces that the tenant has, sorted.
func (x *Index) NamespacesOf(tenant string) []string {
	var out []string
	for ns, t := range x.byNS {
		if t.Name == tenant {
			out = append(out, ns)
		}
	}
	sort.Strings(out)
	return out
}

// User returns the identity that commits of a tenant act as.
func User(tenant string) string { return userPrefix + tenant }

// defaultRole is the ClusterRole of config/rbac.
const defaultRole = "sealock-tenant"

// Role returns the ClusterRole that the identity of the tenant holds in its namespaces.
func Role(t *v1alpha1.Tenant) string {
	if t.Spec.Role == "" {
		return defaultRole
	}
	return t.Spec.Role
}

// ServiceAccountPrefix begins the user name of every ServiceAccount.
const ServiceAccountPrefix = "system:serviceaccount:"

// ServiceAccountUser returns the user name of a ServiceAccount.
func ServiceAccountUser(namespace, name string) string {
	return ServiceAccountPrefix + namespace + ":" + name
}

// PlatformUser returns the identity of platform objects that name none.
func (s Settings) PlatformUser() string {
	return ServiceAccountUser(s.SystemNamespace, s.PlatformServiceAccount)
}

// Grant returns what an object in the namespace that names the given service account ("" for none) may do.
// It fails as Denied where the design refuses a missing identity, or one that is not the tenant's.
func (x *Index) Grant(ref fault.Ref, serviceAccount string) (Grant, error) {
	ns := ref.Namespace
	g := Grant{Namespace: ns, Platform: x.IsPlatform(ns), system: x.settings.SystemNamespace, locked: x.settings.NoCrossNamespaceRefs}
	if t := x.byNS[ns]; t != nil {
		g.Tenant, g.tenant, g.Namespaces = t.Name, t, x.NamespacesOf(t.Name)
		g.User = User(t.Name)
		if serviceAccount == "" {
			return g, nil
		}
		if !slices.Contains(t.Spec.ServiceAccounts, serviceAccount) {
			return Grant{}, fault.New(fault.StageGrant, fault.Denied, ref, "tenant %q may not act as the service account %q", t.Name, serviceAccount).
				At("spec.serviceAccountName").Fix("leave it out to act as %s, or let the platform team list it in spec.serviceAccounts of the Tenant", User(t.Name))
		}
		g.User = ServiceAccountUser(ns, serviceAccount)
		return g, nil
	}
	serviceAccount = x.ServiceAccount(ns, serviceAccount)
	switch {
	case serviceAccount != "":
		g.User = ServiceAccountUser(ns, serviceAccount)
	case g.Platform:
		g.User = x.settings.PlatformUser()
	default:
		return Grant{}, fault.New(fault.StageGrant, fault.Denied, ref, "no identity to act as: namespace %q belongs to no tenant and is no platform namespace", ns).
			At("spec.serviceAccountName").Fix("name a service account of the namespace, make the namespace part of a Tenant, or add it to --platform-namespaces")
	}
	g.Namespaces = []string{ns}
	return g, nil
}

// ServiceAccount returns the one of the namespace that an object acts as which names the given one, or none (""): outside of
// tenants that is the default of the installation.
func (x *Index) ServiceAccount(namespace, named string) string {
	if named == "" && x.byNS[namespace] == nil {
		return x.settings.DefaultServiceAccount
	}
	return named
}

// GrantFor returns the fences of a namespace for an object that acts as nobody, such as an ExternalSecret.
// Its User is empty when the namespace belongs to no tenant.
func (x *Index) GrantFor(namespace string) Grant {
	g := Grant{Namespace: namespace, Namespaces: []string{namespace}, Platform: x.IsPlatform(namespace), system: x.settings.SystemNamespace, locked: x.settings.NoCrossNamespaceRefs}
	if t := x.byNS[namespace]; t != nil {
		g.Tenant, g.tenant, g.Namespaces, g.User = t.Name, t, x.NamespacesOf(t.Name), User(t.Name)
	}
	return g
}

// unfenced reports a grant outside tenants: of a namespace that belongs to none, or of a cluster-scoped object. The zero
// Grant is neither: it allows nothing.
func (g Grant) unfenced() bool { return g.tenant == nil && (g.Namespace != "" || g.system != "") }

// AllowsNamespace reports whether objects may be written to the namespace. Outside tenants RBAC alone decides.
func (g Grant) AllowsNamespace(namespace string) bool {
	return g.unfenced() || slices.Contains(g.Namespaces, namespace)
}

// AllowsClusterKind reports whether the cluster-scoped kind may stand in the set.
func (g Grant) AllowsClusterKind(group, kind string) bool {
	if g.tenant == nil {
		return g.unfenced()
	}
	name := kind
	if group != "" {
		name = kind + "." + group
	}
	return slices.Contains(g.tenant.Spec.ClusterKinds, name)
}

// AllowsToken reports whether a token of a service account of the namespace may be made for what an object of it names.
// The accounts that a Tenant reserves for its GitOps act for nothing else, and outside of tenants only the platform has any.
func (g Grant) AllowsToken(serviceAccount string) bool {
	if g.tenant == nil {
		return g.Platform
	}
	return !slices.Contains(g.tenant.Spec.ServiceAccounts, serviceAccount)
}

// AllowsReference reports whether a source in another namespace may be used.
func (g Grant) AllowsReference(namespace string) bool {
	return g.near(namespace) || g.Platform && !g.locked
}

// AllowsDependency reports whether an object may wait for one in another namespace. Flux's lock is about sources, and those
// who set it have such dependencies. It holds for an expression all the same: its answers tell anything about the object.
func (g Grant) AllowsDependency(namespace string, expression bool) bool {
	return g.near(namespace) || g.Platform && !(expression && g.locked)
}

func (g Grant) near(namespace string) bool { return namespace == "" || namespace == g.Namespace }

// AllowsSealScope reports whether SealedSecrets may have the scope: strict, namespace-wide or cluster-wide.
func (g Grant) AllowsSealScope(scope string) bool {
	if g.tenant == nil {
		return g.unfenced()
	}
	if len(g.tenant.Spec.SealedSecretScopes) == 0 {
		return scope == "strict"
	}
	return slices.Contains(g.tenant.Spec.SealedSecretScopes, scope)
}

// AllowsGit reports whether the repository may be fetched.
func (g Grant) AllowsGit(rawURL string) bool {
	if g.tenant == nil || g.tenant.Spec.Git == nil {
		return g.unfenced() || g.tenant != nil
	}
	u, err := url.Parse(rawURL)
	if err != nil || u.Path != path.Clean(u.Path) && u.Path != "" || strings.Contains(rawURL, "%") {
		return false
	}
	u.User = nil
	plain := u.String()
	for _, allowed := range g.tenant.Spec.Git.URLs {
		a, err := url.Parse(allowed)
		if err != nil {
			continue
		}
		a.User = nil
		if text := a.String(); plain == text || strings.HasSuffix(text, "/") && strings.HasPrefix(plain, text) {
			return true
		}
	}
	return false
}

// AllowsVault reports whether the logical path (mount first, no data/) on the server may be read after a login as role.
// Outside tenants Vault's own policies alone decide.
func (g Grant) AllowsVault(server, logicalPath, role string) bool {
	if g.tenant == nil {
		return g.unfenced()
	}
	v := g.tenant.Spec.Vault
	if v == nil || logicalPath != path.Clean(logicalPath) || strings.HasPrefix(logicalPath, "/") || strings.HasPrefix(logicalPath, "..") {
		return false
	}
	if !g.AllowsVaultServer(server, role) {
		return false
	}
	for _, allowed := range v.Paths {
		if allowed == logicalPath {
			return true
		}
		if prefix, ok := strings.CutSuffix(allowed, "/*"); ok && strings.HasPrefix(logicalPath, prefix+"/") {
			return true
		}
	}
	return false
}

// AllowsVaultServer reports whether credentials may be sent to the server for a login as role, whatever is read then.
func (g Grant) AllowsVaultServer(server, role string) bool {
	if g.tenant == nil {
		return g.unfenced()
	}
	v := g.tenant.Spec.Vault
	if v == nil || !slices.Contains(v.Servers, strings.TrimRight(server, "/")) {
		return false
	}
	return len(v.Roles) == 0 || role == "" || slices.Contains(v.Roles, role)
}

// DecryptionKey returns the namespace and name of the Secret with the tenant's own keys, "" when it has none.
func (g Grant) DecryptionKey() (namespace, name string) {
	if g.tenant == nil || g.tenant.Spec.Decryption == nil {
		return "", ""
	}
	ref := g.tenant.Spec.Decryption.SecretRef
	if ref.Namespace == "" {
		return g.system, ref.Name
	}
	return ref.Namespace, ref.Name
}

// Recipients returns the only age recipients that files may be encrypted to; empty means that any is allowed.
func (g Grant) Recipients() []string {
	if g.tenant == nil || g.tenant.Spec.Decryption == nil {
		return nil
	}
	return g.tenant.Spec.Decryption.Recipients
}

// Facts is what policies see of the tenant as input.tenant; nil when there is none.
func (g Grant) Facts() map[string]any {
	if g.tenant == nil {
		return nil
	}
	anyOf := func(list []string) []any {
		out := make([]any, len(list))
		for i, s := range list {
			out[i] = s
		}
		return out
	}
	labels := map[string]any{}
	for _, ns := range g.tenant.Spec.Namespaces {
		l := map[string]any{}
		for k, v := range ns.Labels {
			l[k] = v
		}
		labels[ns.Name] = l
	}
	return map[string]any{
		"name":                    g.Tenant,
		"namespaces":              anyOf(g.Namespaces),
		"identity":                User(g.Tenant),
		"role":                    Role(g.tenant),
		"reservedServiceAccounts": anyOf(g.tenant.Spec.ServiceAccounts),
		"roleCeiling":             anyOf(g.tenant.Spec.RoleCeiling),
		"namespaceLabels":         labels,
	}
}
