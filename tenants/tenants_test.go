package tenants

import (
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"sealock.dev/sealock/api/sealock/v1alpha1"
	"sealock.dev/sealock/fault"
)

func tenant(name string, age time.Duration, spec v1alpha1.TenantSpec) v1alpha1.Tenant {
	at := metav1.NewTime(time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC).Add(-age))
	return v1alpha1.Tenant{ObjectMeta: metav1.ObjectMeta{Name: name, CreationTimestamp: at}, Spec: spec}
}

func namespaces(names ...string) (out []v1alpha1.TenantNamespace) {
	for _, n := range names {
		out = append(out, v1alpha1.TenantNamespace{Name: n})
	}
	return out
}

func index() *Index {
	return NewIndex([]v1alpha1.Tenant{
		tenant("b", time.Hour, v1alpha1.TenantSpec{Namespaces: namespaces("team-b", "team-a", "flux-system", "kube-system", "default")}),
		tenant("a", 2*time.Hour, v1alpha1.TenantSpec{
			Namespaces: namespaces("team-a", "team-a-jobs"), ServiceAccounts: []string{"reconciler"},
			Vault:        &v1alpha1.TenantVault{Servers: []string{"https://vault:8200"}, Paths: []string{"secret/tenants/a/*", "secret/shared"}, Roles: []string{"a"}},
			Git:          &v1alpha1.TenantGit{URLs: []string{"https://git.example.com/a/", "ssh://git@git.example.com/one.git"}},
			ClusterKinds: []string{"PriorityClass.scheduling.k8s.io"},
		}),
	}, DefaultSettings())
}

func TestOwnership(t *testing.T) {
	x := index()
	for ns, want := range map[string]string{"team-a": "a", "team-a-jobs": "a", "team-b": "b", "flux-system": "", "kube-system": "", "default": "", "other": ""} {
		got := ""
		if o := x.Owner(ns); o != nil {
			got = o.Name
		}
		if got != want {
			t.Errorf("%s belongs to %q, want %q", ns, got, want)
		}
	}
	if got := strings.Join(x.Contested("b"), " "); got != "default flux-system kube-system team-a" {
		t.Errorf("contested: %s", got)
	}
}

// T1: a token of the account that acts as the tenant's GitOps is made for nothing else, nor one for nobody's namespace.
func TestT1_ReservedAccountsGetNoToken(t *testing.T) {
	x := index()
	for ns, want := range map[string]bool{"team-a": true, "flux-system": true, "other": false, "": false} {
		if got := x.GrantFor(ns).AllowsToken("deployer"); got != want {
			t.Errorf("%q: %t", ns, got)
		}
	}
	if x.GrantFor("team-a").AllowsToken("reconciler") || (Grant{}).AllowsToken("deployer") {
		t.Error("a token of a reserved account, or for nobody, is allowed")
	}
}

func TestT1_T20_GrantRefusesAMissingOrForeignIdentity(t *testing.T) {
	x := index()
	for _, c := range []struct {
		ns, sa, user string
		tenant       string
	}{
		{"team-a", "", "sealock:tenant:a", "a"},
		{"team-a", "reconciler", "system:serviceaccount:team-a:reconciler", "a"},
		{"team-a", "default", "", ""},
		{"team-b", "reconciler", "", ""},
		{"flux-system", "", "system:serviceaccount:sealock-system:sealock-platform", ""},
		{"flux-system", "x", "system:serviceaccount:flux-system:x", ""},
		{"other", "", "", ""},
		{"other", "x", "system:serviceaccount:other:x", ""},
		{"flux-system-evil", "", "", ""},
	} {
		g, err := x.Grant(fault.Ref{Kind: "Kustomization", Namespace: c.ns, Name: "k"}, c.sa)
		if g.User != c.user || g.Tenant != c.tenant || (err == nil) != (c.user != "") {
			t.Errorf("%+v: user %q tenant %q: %v", c, g.User, g.Tenant, err)
		}
		if err != nil && (fault.KindOf(err) != fault.Denied || !strings.Contains(err.Error(), "; ")) {
			t.Errorf("%+v: no remedy or kind: %v", c, err)
		}
	}
}

func TestT18_VaultFence(t *testing.T) {
	x := index()
	g := x.GrantFor("team-a")
	for path, want := range map[string]bool{
		"secret/tenants/a/db": true, "secret/tenants/a/x/y": true, "secret/shared": true,
		"secret/tenants/a": false, "secret/tenants/ab/db": false, "secret/tenants/a/../b/db": false, "secret/tenants/b/db": false,
		"secret/shared/x": false, "/secret/shared": false, "": false, "../secret/shared": false, "secret//shared": false,
	} {
		if got := g.AllowsVault("https://vault:8200/", path, "a"); got != want {
			t.Errorf("%q: %v", path, got)
		}
	}
	if g.AllowsVault("https://evil:8200", "secret/shared", "a") || g.AllowsVault("https://vault:8200", "secret/shared", "b") {
		t.Error("server and role are part of the fence")
	}
	if x.GrantFor("team-b").AllowsVault("https://vault:8200", "secret/shared", "") {
		t.Error("a tenant without a fence reads from Vault")
	}
	if !x.GrantFor("other").AllowsVault("https://any", "secret/x", "") {
		t.Error("outside tenants Vault decides")
	}
}

func TestT20_GitFence(t *testing.T) {
	g := index().GrantFor("team-a")
	for url, want := range map[string]bool{
		"https://git.example.com/a/app.git": true, "https://user@git.example.com/a/app": true, "ssh://git@git.example.com/one.git": true,
		"https://git.example.com/b/app": false, "https://git.example.com/a/../b/app": false, "https://git.example.com/a/%2e%2e/b/app": false,
		"https://git.example.com.evil.com/a/app": false, "http://git.example.com/a/app": false, "ssh://git@git.example.com/one.git/x": false, "::": false,
	} {
		if got := g.AllowsGit(url); got != want {
			t.Errorf("%q: %v", url, got)
		}
	}
}

func TestFences(t *testing.T) {
	x := index()
	a, platform := x.GrantFor("team-a"), x.GrantFor("flux-system")
	if !a.AllowsNamespace("team-a-jobs") || a.AllowsNamespace("team-b") || !platform.AllowsNamespace("anything") {
		t.Error("namespaces")
	}
	if !a.AllowsClusterKind("scheduling.k8s.io", "PriorityClass") || a.AllowsClusterKind("", "Namespace") || !platform.AllowsClusterKind("", "Namespace") {
		t.Error("cluster kinds")
	}
	if !a.AllowsReference("") || !a.AllowsReference("team-a") || a.AllowsReference("team-a-jobs") || !platform.AllowsReference("other") {
		t.Error("references")
	}
	if !a.AllowsSealScope("strict") || a.AllowsSealScope("cluster-wide") || !platform.AllowsSealScope("cluster-wide") {
		t.Error("seal scopes")
	}
	if !x.GrantFor("").AllowsVaultServer("https://x", "") {
		t.Error("a cluster-scoped store belongs to no tenant")
	}
	var zero Grant
	if zero.User != "" || zero.Facts() != nil || zero.AllowsNamespace("x") || zero.AllowsClusterKind("", "Namespace") || zero.AllowsReference("x") ||
		zero.AllowsSealScope("strict") || zero.AllowsGit("https://x/y") || zero.AllowsVault("https://x", "y", "") || zero.AllowsVaultServer("https://x", "") {
		t.Error("the zero grant allows something")
	}
}

// TestFlagsOfFlux: --default-service-account and --no-cross-namespace-refs of section 1.11 mean what they mean there, and
// leave tenants alone.
func TestFlagsOfFlux(t *testing.T) {
	settings := DefaultSettings()
	settings.DefaultServiceAccount, settings.NoCrossNamespaceRefs = "deployer", true
	owned := v1alpha1.Tenant{ObjectMeta: metav1.ObjectMeta{Name: "a"}, Spec: v1alpha1.TenantSpec{Namespaces: []v1alpha1.TenantNamespace{{Name: "team-a"}}}}
	x := NewIndex([]v1alpha1.Tenant{owned}, settings)
	for _, c := range []struct{ ns, sa, account, user string }{
		{"other", "", "deployer", "system:serviceaccount:other:deployer"},
		{"other", "named", "named", "system:serviceaccount:other:named"},
		{"flux-system", "", "deployer", "system:serviceaccount:flux-system:deployer"},
		{"team-a", "", "", "sealock:tenant:a"},
	} {
		g, err := x.Grant(fault.Ref{Kind: "Kustomization", Namespace: c.ns, Name: "k"}, c.sa)
		if err != nil || g.User != c.user {
			t.Errorf("%+v: user %q: %v", c, g.User, err)
		}
		if g.AllowsReference("elsewhere") || x.GrantFor(c.ns).AllowsReference("elsewhere") || !g.AllowsReference("") || !g.AllowsReference(c.ns) {
			t.Errorf("%+v: references", c)
		}
		if got := x.ServiceAccount(c.ns, c.sa); got != c.account {
			t.Errorf("%+v: service account %q", c, got)
		}
		if g.AllowsDependency("elsewhere", false) != g.Platform || !g.AllowsDependency("", false) || !g.AllowsDependency(c.ns, true) {
			t.Errorf("%+v: dependencies", c)
		}
	}
}

// TestHazard_ExpressionsAcrossNamespaces: readyExpr is an oracle over somebody else's object. Tenants are fenced always, the
// platform where it asks for the lock.
func TestHazard_ExpressionsAcrossNamespaces(t *testing.T) {
	for _, locked := range []bool{false, true} {
		settings := DefaultSettings()
		settings.NoCrossNamespaceRefs = locked
		x := NewIndex([]v1alpha1.Tenant{tenant("a", time.Hour, v1alpha1.TenantSpec{Namespaces: namespaces("team-a", "team-b")})}, settings)
		for ns, want := range map[string]bool{"team-a": false, "nobodys": false, "flux-system": !locked} {
			if got := x.GrantFor(ns).AllowsDependency("team-b", true); got != want {
				t.Errorf("locked %v, %s: %v", locked, ns, got)
			}
		}
		if x.GrantFor("team-a").AllowsDependency("team-b", false) || (Grant{}).AllowsDependency("team-b", false) {
			t.Errorf("locked %v: a tenant, or nobody, waits for another namespace", locked)
		}
	}
}
