package kustomization

import (
	"testing"

	kustomizev1 "github.com/fluxcd/kustomize-controller/api/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

func name(t *testing.T) string { return t.Name() }

// labelled is a ConfigMap whose changes are to be followed.
func labelled(w *world, name string, data map[string]string) *corev1.ConfigMap {
	return &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: w.ns, Name: name, Labels: map[string]string{watchLabel: "Enabled"}}, Data: data}
}

// update changes a ConfigMap as somebody else would.
func (w *world) update(name string, data map[string]string) {
	w.Helper()
	c := w.configMap(name)
	if c == nil {
		w.Fatalf("there is no ConfigMap %s", name)
	}
	before := c.DeepCopy()
	c.Data = data
	if err := w.kube.Patch(w.Context(), c, client.MergeFrom(before), client.FieldOwner("kubectl-edit")); err != nil {
		w.Fatal(err)
	}
}

// request asks for a reconcile as flux does.
func (w *world) request(name, token string) {
	w.Helper()
	w.edit(name, func(ks *kustomizev1.Kustomization) {
		if ks.Annotations == nil {
			ks.Annotations = map[string]string{}
		}
		ks.Annotations[requestedAt] = token
	})
}
