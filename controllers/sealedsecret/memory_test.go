package sealedsecret

import (
	"context"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// lines is a Memory.
type lines map[string]string

func (l lines) Recall(_ context.Context, namespace, name string) (string, error) {
	return l[namespace+"/"+name], nil
}

func (l lines) Note(namespace, name, line string) { l[namespace+"/"+name] = line }

// After a restart nothing is opened that is in place; what was touched meanwhile is.
func TestRestartOpensNothing(t *testing.T) {
	key, cert := makeKey(t)
	b := newBench(t, sealed(t, cert, "hunter2"))
	b.load(t, key)
	remembered := lines{}
	b.Reconciler.memory = remembered
	for range 3 {
		if err := b.reconcile(t); err != nil {
			t.Fatal(err)
		}
	}
	restart := func() {
		t.Helper()
		clear(b.seen)
		b.opener.opens = 0
		if err := b.reconcile(t); err != nil {
			t.Fatal(err)
		}
	}
	if restart(); b.opener.opens != 0 {
		t.Errorf("%d opens after a restart", b.opener.opens)
	}
	secret := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: at.Namespace, Name: at.Name}}
	if err := b.client.Delete(t.Context(), secret); err != nil {
		t.Fatal(err)
	}
	if restart(); b.opener.opens != 1 {
		t.Errorf("%d opens with the Secret gone", b.opener.opens)
	}
	other, _ := makeKey(t)
	b.load(t, key, other)
	if restart(); b.opener.opens != 1 {
		t.Errorf("%d opens with another key ring", b.opener.opens)
	}
}
