package kustomization

import (
	"context"
	"fmt"
	"strings"
	"testing"

	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/client-go/tools/clientcmd/api"

	"sealock.dev/sealock/fault"
	"sealock.dev/sealock/manifest"
	"sealock.dev/sealock/pipeline"
	"sealock.dev/sealock/plaintext"
	"sealock.dev/sealock/tenants"
)

// kubeconfigOf returns one for the API server of the tests with a token of a service account that may do the verbs on
// ConfigMaps, and impersonate service accounts.
func (w *world) kubeconfigOf(account string, verbs ...string) string {
	w.Helper()
	kube, err := kubernetes.NewForConfig(w.config)
	if err != nil {
		w.Fatal(err)
	}
	w.create(&corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Namespace: w.ns, Name: account}})
	// The live view lists a kind in the whole cluster.
	name := w.ns + "-" + account
	w.create(&rbacv1.ClusterRole{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Rules: []rbacv1.PolicyRule{
			{APIGroups: []string{""}, Resources: []string{"configmaps"}, Verbs: verbs},
			{APIGroups: []string{""}, Resources: []string{"serviceaccounts"}, Verbs: []string{"impersonate"}},
		},
	})
	w.create(&rbacv1.ClusterRoleBinding{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: name},
		Subjects:   []rbacv1.Subject{{Kind: "ServiceAccount", Namespace: w.ns, Name: account}},
	})
	token, err := kube.CoreV1().ServiceAccounts(w.ns).CreateToken(w.Context(), account, &authenticationv1.TokenRequest{}, metav1.CreateOptions{})
	if err != nil {
		w.Fatal(err)
	}
	return w.kubeconfig(func(_ *api.Cluster, u *api.AuthInfo) { u.Token = token.Status.Token })
}

func (w *world) kubeconfig(change func(*api.Cluster, *api.AuthInfo)) string {
	w.Helper()
	k := api.NewConfig()
	c, u := &api.Cluster{Server: w.config.Host, CertificateAuthorityData: w.config.CAData}, &api.AuthInfo{}
	change(c, u)
	k.Clusters["c"], k.AuthInfos["u"], k.Contexts["x"], k.CurrentContext = c, u, &api.Context{Cluster: "c", AuthInfo: "u"}, "x"
	text, err := clientcmd.Write(*k)
	if err != nil {
		w.Fatal(err)
	}
	return string(text)
}

func (w *world) secret(name string, data map[string]string) {
	w.Helper()
	w.create(&corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: w.ns, Name: name, Labels: map[string]string{watchLabel: "Enabled"}}, StringData: data})
}

// refuser opens every ConfigMap, and fails.
type refuser struct{}

func (refuser) Opens(o manifest.Object) bool                           { return o.Kind() == "ConfigMap" }
func (refuser) Prerequisites(manifest.Object, []manifest.Object) []int { return nil }
func (refuser) Open(_ context.Context, _ tenants.Grant, o manifest.Object, _ []manifest.Object) (manifest.Produced, error) {
	return manifest.Produced{}, fault.New(fault.StageOpen, fault.NoKey, o.Ref(), "opened with the keys of this cluster")
}

// TestKubeConfig_SecretRef: what the kubeconfig may do is what the Kustomization may do; the identity of the namespace,
// which has no rights here, is not asked. Sealed objects stay sealed for the other cluster's controllers.
// contract: Kustomization spec.kubeConfig.secretRef.name, spec.kubeConfig.secretRef.key, reason PruneFailed, reason ReconciliationFailed
func TestKubeConfig_SecretRef(t *testing.T) {
	w := newWorld(t, options{tenant: true, bare: true, change: func(r *Reconciler) { r.Engine.Openers = []pipeline.Opener{refuser{}} }})
	text := w.kubeconfigOf("remote", "get", "list", "watch", "create", "patch", "delete")
	w.source("app", "main@sha1:1", map[string]string{"value/a.yaml": w.configMapYAML("value", "1"), "yaml/a.yaml": w.configMapYAML("yaml", "1"), "key/a.yaml": w.configMapYAML("key", "1"), "none/a.yaml": w.configMapYAML("none", "1")})
	w.secret("value", map[string]string{"value": text, "value.yaml": "{}"})
	w.secret("yaml", map[string]string{"value.yaml": text})
	w.secret("key", map[string]string{"other": text, "value": "{}"})
	w.sync("value", "path: value", "kubeConfig: {secretRef: {name: value}}", "wait: true")
	w.sync("yaml", "path: yaml", "kubeConfig: {secretRef: {name: yaml}}")
	w.sync("key", "path: key", "kubeConfig: {secretRef: {name: key, key: other}}")
	for _, name := range []string{"value", "yaml", "key"} {
		w.ready(name, "main@sha1:1")
		if w.configMap(name) == nil {
			t.Errorf("%s: nothing was applied", name)
		}
	}
	// Drift over there is repaired as here.
	w.update("value", map[string]string{"value": "by hand"})
	w.until("the edit is undone", func() bool { return w.configMap("value").Data["value"] == "1" })
	// The deletion is done over there, too.
	w.delete("yaml")
	w.until("what was applied is deleted", func() bool { return w.configMap("yaml") == nil })

	// Without the kubeconfig nothing can be deleted there: it is told, and the Kustomization goes.
	if err := w.kube.Delete(w.Context(), &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: w.ns, Name: "key"}}); err != nil {
		t.Fatal(err)
	}
	w.delete("key")
	w.gone("key")
	if e := w.events.of("key", "PruneFailed"); len(e) != 2 || !strings.Contains(e[1].message, "unable to prune objects:\nConfigMap/"+w.ns+"/key") {
		t.Errorf("%+v", e)
	}

	w.sync("none", "path: none", "kubeConfig: {secretRef: {name: none}}")
	if m := w.failed("none", "ReconciliationFailed", ""); !strings.Contains(m, "spec.kubeConfig.secretRef: the Secret "+w.ns+"/none with the kubeconfig does not exist") {
		t.Error(m)
	}
	w.secret("none", map[string]string{"x": "y"})
	w.until("the entry is missed", func() bool {
		return strings.Contains(w.failed("none", "ReconciliationFailed", ""), `has no entry "value"`)
	})
}

// TestKubeConfig_ServiceAccountName: it is impersonated over there.
// contract: Kustomization spec.serviceAccountName
func TestKubeConfig_ServiceAccountName(t *testing.T) {
	w := newWorld(t, options{tenant: true, bare: true})
	w.impersonatedThere("serviceAccountName: reconciler")
}

// TestKubeConfig_DefaultServiceAccount: so is that of --default-service-account where none is named, outside of tenants.
// contract: Kustomization spec.kubeConfig.secretRef.name
func TestKubeConfig_DefaultServiceAccount(t *testing.T) {
	w := newWorld(t, options{account: "reconciler"})
	w.impersonatedThere()
}

// impersonatedThere applies by a kubeconfig that has all rights, and fails until the service account reconciler has them.
func (w *world) impersonatedThere(spec ...string) {
	w.Helper()
	t := w.T
	w.secret("kubeconfig", map[string]string{"value": w.kubeconfigOf("remote", "get", "list", "watch", "create", "patch")})
	w.source("app", "main@sha1:1", map[string]string{"a.yaml": w.configMapYAML("a", "1")})
	w.sync("app", append(spec, "kubeConfig: {secretRef: {name: kubeconfig}}", "retryInterval: 1s")...)
	if m := w.failed("app", "ReconciliationFailed", ""); !strings.Contains(m, "ConfigMap/"+w.ns+"/a") || w.configMap("a") != nil {
		t.Error(m)
	}
	w.create(&rbacv1.RoleBinding{
		ObjectMeta: metav1.ObjectMeta{Namespace: w.ns, Name: "reconciler"}, RoleRef: rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: "admin"},
		Subjects: []rbacv1.Subject{{Kind: "ServiceAccount", Namespace: w.ns, Name: "reconciler"}},
	})
	w.ready("app", "main@sha1:1")
}

// TestHazard_KubeconfigThatReachesIntoTheController: CVE-2021-41254 and CVE-2022-24817 were a kubeconfig that starts a program.
func TestHazard_KubeconfigThatReachesIntoTheController(t *testing.T) {
	const canary = "canary-1b9e"
	w := &world{T: t}
	w.config = restConfig()
	for name, c := range map[string]struct {
		change         func(*api.Cluster, *api.AuthInfo)
		tenant, unsafe bool
		want           string
	}{
		"a token":                  {func(_ *api.Cluster, u *api.AuthInfo) { u.Token = canary }, true, false, ""},
		"exec beside a token":      {func(_ *api.Cluster, u *api.AuthInfo) { u.Token, u.Exec = canary, &api.ExecConfig{Command: "sh"} }, true, false, ""},
		"exec alone":               {func(_ *api.Cluster, u *api.AuthInfo) { u.Exec = &api.ExecConfig{Command: canary} }, false, true, "none is ever started"},
		"an auth-provider":         {func(_ *api.Cluster, u *api.AuthInfo) { u.AuthProvider = &api.AuthProviderConfig{Name: canary} }, false, true, "auth-provider"},
		"tokenFile":                {func(_ *api.Cluster, u *api.AuthInfo) { u.TokenFile = "/" + canary }, false, true, "it names files"},
		"client-certificate":       {func(_ *api.Cluster, u *api.AuthInfo) { u.ClientCertificate = "/" + canary }, false, true, "it names files"},
		"client-key":               {func(_ *api.Cluster, u *api.AuthInfo) { u.ClientKey = "/" + canary }, false, true, "it names files"},
		"certificate-authority":    {func(c *api.Cluster, _ *api.AuthInfo) { c.CertificateAuthority = "/" + canary }, false, true, "it names files"},
		"proxy-url of a tenant":    {func(c *api.Cluster, _ *api.AuthInfo) { c.ProxyURL = "http://" + canary }, true, true, "proxy-url"},
		"proxy-url":                {func(c *api.Cluster, _ *api.AuthInfo) { c.ProxyURL = "http://" + canary }, false, false, ""},
		"plain HTTP":               {func(c *api.Cluster, _ *api.AuthInfo) { c.Server = "http://169.254.169.254/" + canary }, false, false, "not https"},
		"plain HTTP by the flag":   {func(c *api.Cluster, _ *api.AuthInfo) { c.Server = "http://example.com" }, false, true, ""},
		"a password in the server": {func(c *api.Cluster, _ *api.AuthInfo) { c.Server = "https://a:" + canary + "@example.com" }, false, true, "URL without credentials"},
	} {
		config, err := parseKubeconfig(plaintext.FromString(w.kubeconfig(c.change)), c.tenant, c.unsafe)
		if c.want == "" {
			if err != nil || config.ExecProvider != nil || config.Insecure || config.Proxy == nil {
				t.Errorf("%s: %v %+v", name, err, config)
			}
			continue
		}
		if err == nil || !strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), canary) {
			t.Errorf("%s: %v", name, err)
		}
	}
	insecure := w.kubeconfig(func(c *api.Cluster, u *api.AuthInfo) {
		u.Token, c.InsecureSkipTLSVerify, c.CertificateAuthorityData = canary, true, nil
	})
	for _, flag := range []bool{false, true} {
		config, err := parseKubeconfig(plaintext.FromString(insecure), false, flag)
		if err != nil || config.Insecure != flag {
			t.Errorf("insecure-skip-tls-verify with the flag %v: %v", flag, err)
		}
	}
}

func FuzzKubeconfig(f *testing.F) {
	f.Add("")
	f.Add("apiVersion: v1\nkind: Config\ncurrent-context: x\ncontexts: [{name: x, context: {cluster: c, user: u}}]\nclusters: [{name: c, cluster: {server: 'https://h'}}]\nusers: [{name: u, user: {token: canary}}]\n")
	f.Fuzz(func(t *testing.T, text string) {
		config, err := parseKubeconfig(plaintext.FromString(text), true, false)
		if err == nil && (config.ExecProvider != nil || config.AuthProvider != nil || config.Insecure || config.CAFile != "" || config.CertFile != "" || config.KeyFile != "" || config.BearerTokenFile != "" || !strings.HasPrefix(config.Host, "https://")) {
			t.Errorf("%s", fmt.Sprint(config))
		}
		if err != nil && len(err.Error()) > 200 {
			t.Error("an error that quotes")
		}
	})
}
