package sealedsecret

import (
	"context"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"

	"sealock.dev/sealock/api/sealing/v1alpha1"
	"sealock.dev/sealock/sealing"
)

// Keys are listed once at a start, and again only when the watch shows others.
func TestKeysAreListedOnce(t *testing.T) {
	ctx := t.Context()
	lists := 0
	c := fake.NewClientBuilder().WithObjects(
		keySecretIn("sealock-system", "mine", "active", first(makeKey(t))), keySecretIn("sealock-system", "sealed-secrets-key", "", first(makeKey(t))),
	).WithInterceptorFuncs(interceptor.Funcs{List: func(ctx context.Context, c client.WithWatch, list client.ObjectList, opts ...client.ListOption) error {
		lists++
		return c.List(ctx, list, opts...)
	}}).Build()
	s := store(c)
	s.prepare()
	step := func(what string, leads bool, want int) {
		t.Helper()
		s.outdate()
		if err := s.catchUp(ctx, leads); err != nil {
			t.Fatal(err)
		}
		if lists != want {
			t.Errorf("%s: %d lists, want %d", what, lists, want)
		}
	}
	get := func(name string) *corev1.Secret {
		t.Helper()
		secret := &corev1.Secret{}
		if err := c.Get(ctx, client.ObjectKey{Namespace: s.Namespace, Name: name}, secret); err != nil {
			t.Fatal(err)
		}
		return secret
	}
	s.show(get("mine"), false)
	step("the first look, before the watch shows all", false, 1)
	step("the election", true, 1)
	s.show(get("sealed-secrets-key"), false)
	s.show(keySecretIn("team-a", "theirs", "active", sealing.NewKey{}), false)
	s.show(keySecretIn("sealock-system", "other", "", sealing.NewKey{}), false)
	s.complete()
	step("a watch that shows the same", true, 1)

	mine := get("mine")
	mine.Labels[v1alpha1.KeyLabel] = "compromised"
	if err := c.Update(ctx, mine); err != nil {
		t.Fatal(err)
	}
	s.show(mine, false)
	step("a key that is no longer active", true, 2)
	if err := c.Create(ctx, keySecretIn("sealock-system", "new", "active", first(makeKey(t)))); err != nil {
		t.Fatal(err)
	}
	s.show(get("new"), false)
	step("a new key", true, 3)
	s.show(get("new"), true)
	if err := c.Delete(ctx, get("new")); err != nil {
		t.Fatal(err)
	}
	step("a key that was deleted", true, 4)
	step("nothing", true, 4)
}
