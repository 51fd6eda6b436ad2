package kustomization

import (
	"context"
	"strings"
	"testing"

	kustomizev1 "github.com/fluxcd/kustomize-controller/api/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"sealock.dev/sealock/plaintext"
)

// trusting writes the ConfigMap of a cluster, this one, that trusts tokens of the service account.
func (w *world) trusting(name, account string, change map[string]string) {
	w.Helper()
	data := map[string]string{
		"provider": "generic", "address": w.config.Host, "ca.crt": string(w.config.CAData), "serviceAccountName": account,
		"audiences": "- https://kubernetes.default.svc.cluster.local\n- https://kubernetes.default.svc\n",
	}
	for k, v := range change {
		data[k] = v
	}
	w.create(&corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: w.ns, Name: name, Labels: map[string]string{watchLabel: "Enabled"}}, Data: data})
}

// TestKubeConfig_ConfigMapRef: the token of a service account is the identity in a cluster that trusts it.
// contract: Kustomization spec.kubeConfig.configMapRef.name
func TestKubeConfig_ConfigMapRef(t *testing.T) {
	var asked []string
	var w *world
	w = newWorld(t, options{tenant: true, bare: true, change: func(r *Reconciler) {
		r.RemoteServiceAccount = "deployer"
		r.Tokens = func(ctx context.Context, ns, name string, audiences []string) (plaintext.Value, error) {
			asked = append(asked, ns+"/"+name+" "+strings.Join(audiences, " "))
			return w.cluster.Token(ctx, ns, name, nil) // for the API server of the tests, whose audience is its own affair
		}
	}})
	w.create(&corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Namespace: w.ns, Name: "deployer"}})
	w.trusting("there", "deployer", nil)
	w.source("app", "main@sha1:1", map[string]string{"a.yaml": w.configMapYAML("a", "1")})
	w.sync("app", "kubeConfig: {configMapRef: {name: there}}", "retryInterval: 1s")
	if m := w.failed("app", "ReconciliationFailed", ""); !strings.Contains(m, w.ns+":deployer") {
		t.Errorf("it does not act as the service account: %s", m)
	}
	w.create(&rbacv1.RoleBinding{
		ObjectMeta: metav1.ObjectMeta{Namespace: w.ns, Name: "deployer"}, RoleRef: rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: "admin"},
		Subjects: []rbacv1.Subject{{Kind: "ServiceAccount", Namespace: w.ns, Name: "deployer"}},
	})
	w.ready("app", "main@sha1:1")
	if w.configMap("a") == nil {
		t.Error("nothing was applied")
	}
	// One that names no account uses that of --default-kubeconfig-service-account.
	w.trusting("unnamed", "", nil)
	w.source("app", "main@sha1:2", map[string]string{"unnamed/b.yaml": w.configMapYAML("b", "1")})
	w.sync("default", "kubeConfig: {configMapRef: {name: unnamed}}", "path: unnamed")
	w.ready("default", "main@sha1:2")
	w.stop()
	if want := w.ns + "/deployer https://kubernetes.default.svc.cluster.local https://kubernetes.default.svc"; len(asked) == 0 || asked[0] != want {
		t.Errorf("tokens asked for: %v", asked)
	}
}

// TestT1_T20_RemoteTokensAreFenced: no token of the account that acts as the tenant's GitOps leaves, and none goes over http.
func TestT1_T20_RemoteTokensAreFenced(t *testing.T) {
	w := newWorld(t, options{tenant: true, change: func(r *Reconciler) {
		r.Tokens = func(context.Context, string, string, []string) (plaintext.Value, error) {
			t.Error("a token was made")
			return plaintext.Value{}, nil
		}
	}})
	w.source("app", "main@sha1:1", map[string]string{"a.yaml": w.configMapYAML("a", "1")})
	for name, c := range map[string]struct {
		change map[string]string
		want   string
	}{
		"reserved": {map[string]string{"serviceAccountName": "reconciler"}, "it is reserved for the GitOps of a tenant"},
		"nobody":   {map[string]string{"serviceAccountName": ""}, "no service account is named"},
		"http":     {map[string]string{"address": "http://127.0.0.1:1"}, "no https URL"},
		"cloud":    {map[string]string{"provider": "aws"}, `the provider "aws" needs an identity in a cloud`},
		"audience": {map[string]string{"audiences": "a: b"}, "no list of texts"},
	} {
		w.trusting("to-"+name, "deployer", c.change)
		w.sync(name, "kubeConfig: {configMapRef: {name: to-"+name+"}}")
		if m := condition(w.failing(name), "Ready").Message; !strings.Contains(m, c.want) || !strings.Contains(m, "spec.kubeConfig.configMapRef") {
			t.Errorf("%s: %s", name, m)
		}
	}
}

// failing waits until the Kustomization failed, for whatever reason.
func (w *world) failing(name string) *kustomizev1.Kustomization {
	w.Helper()
	w.until(name+" has failed", func() bool { return condition(w.get(name), "Ready").Status == metav1.ConditionFalse })
	return w.get(name)
}
