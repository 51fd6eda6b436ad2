package main

import (
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"testing"

	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"sealock.dev/sealock/internal/testkit"
	"sealock.dev/sealock/source"
)

// TestT20ArtifactsOfOthers: who may get a GitRepository reads its artifacts, another tenant does not, with or without a
// token; namespaces that the platform names are open to consumers that send none, and no others.
func TestT20ArtifactsOfOthers(t *testing.T) {
	dc := testkit.Cluster(t)
	ctx := t.Context()
	kube, err := kubernetes.NewForConfig(dc.Config)
	if err != nil {
		t.Fatal(err)
	}
	mine, others, shared := dc.Namespace(t, nil), dc.Namespace(t, nil), dc.Namespace(t, nil)
	tokenFor := func(namespace string, audiences ...string) string {
		t.Helper()
		made, err := kube.CoreV1().ServiceAccounts(namespace).CreateToken(ctx, "reader", &authenticationv1.TokenRequest{Spec: authenticationv1.TokenRequestSpec{Audiences: audiences}}, metav1.CreateOptions{})
		if err != nil {
			t.Fatal(err)
		}
		return made.Status.Token
	}
	token := func(namespace string) string {
		t.Helper()
		accounts := kube.CoreV1().ServiceAccounts(namespace)
		if _, err := accounts.Create(ctx, &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: "reader"}}, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
		_, err := kube.RbacV1().Roles(namespace).Create(ctx, &rbacv1.Role{
			ObjectMeta: metav1.ObjectMeta{Name: "reader"},
			Rules:      []rbacv1.PolicyRule{{APIGroups: []string{"source.toolkit.fluxcd.io"}, Resources: []string{"gitrepositories"}, Verbs: []string{"get"}}},
		}, metav1.CreateOptions{})
		if err != nil {
			t.Fatal(err)
		}
		_, err = kube.RbacV1().RoleBindings(namespace).Create(ctx, &rbacv1.RoleBinding{
			ObjectMeta: metav1.ObjectMeta{Name: "reader"}, RoleRef: rbacv1.RoleRef{APIGroup: "rbac.authorization.k8s.io", Kind: "Role", Name: "reader"},
			Subjects: []rbacv1.Subject{{Kind: "ServiceAccount", Namespace: namespace, Name: "reader"}},
		}, metav1.CreateOptions{})
		if err != nil {
			t.Fatal(err)
		}
		return tokenFor(namespace)
	}
	own, foreign := token(mine), token(others)
	storage, err := source.NewStorage(filepath.Join(t.TempDir(), "artifacts"))
	if err != nil {
		t.Fatal(err)
	}
	handler := storage.Handler(authorizeArtifact(kube, []string{shared}))
	for _, tc := range []struct {
		name, namespace, token string
		status                 int // 404: allowed, and there is no such artifact
	}{
		{"its own", mine, own, http.StatusNotFound},
		{"its own, for artifacts alone", mine, tokenFor(mine, artifactAudience), http.StatusNotFound},
		{"its own, for artifacts and something else", mine, tokenFor(mine, "vault", artifactAudience), http.StatusNotFound},
		{"its own, for something else", mine, tokenFor(mine, "vault"), http.StatusUnauthorized},
		{"another tenant, for artifacts alone", mine, tokenFor(others, artifactAudience), http.StatusForbidden},
		{"another tenant", mine, foreign, http.StatusForbidden},
		{"nobody", mine, "", http.StatusUnauthorized},
		{"a made up token", mine, "made.up.token", http.StatusUnauthorized},
		{"the other way round", others, own, http.StatusForbidden},
		{"opened by the platform, without a token", shared, "", http.StatusNotFound},
		{"opened by the platform, with any token", shared, foreign, http.StatusNotFound},
		{"a namespace that begins alike", shared + "-x", "", http.StatusUnauthorized},
	} {
		for _, file := range []string{strings.Repeat("ab", 20), "latest"} {
			req := httptest.NewRequest(http.MethodGet, "/gitrepository/"+tc.namespace+"/app/"+file+".tar.gz", nil)
			if tc.token != "" {
				req.Header.Set("Authorization", "Bearer "+tc.token)
			}
			w := httptest.NewRecorder()
			handler.ServeHTTP(w, req)
			if w.Code != tc.status {
				t.Errorf("%s, %s: %d", tc.name, file, w.Code)
			}
		}
	}
	// The default opens nothing.
	cmd := newControllerCommand()
	if got := cmd.Flags().Lookup("artifact-anonymous-namespaces").DefValue; got != "[]" {
		t.Errorf("by default %s is open", got)
	}
}
