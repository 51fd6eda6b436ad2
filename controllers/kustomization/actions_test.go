package kustomization

import (
	"context"
	"fmt"
	"time"

	kustomizev1 "github.com/fluxcd/kustomize-controller/api/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"sealock.dev/sealock/fault"
)

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

func (w *world) get(name string) *kustomizev1.Kustomization {
	w.Helper()
	ks := &kustomizev1.Kustomization{}
	if err := w.kube.Get(w.Context(), types.NamespacedName{Namespace: w.ns, Name: name}, ks); err != nil {
		w.Fatal(err)
	}
	return ks
}

func (w *world) edit(name string, change func(*kustomizev1.Kustomization)) {
	w.Helper()
	ks := w.get(name)
	before := ks.DeepCopy()
	change(ks)
	if err := w.kube.Patch(w.Context(), ks, client.MergeFrom(before)); err != nil {
		w.Fatal(err)
	}
}

func (w *world) until(what string, ok func() bool) {
	w.Helper()
	err := wait.PollUntilContextTimeout(w.Context(), 20*time.Millisecond, 30*time.Second, true, func(context.Context) (bool, error) { return ok(), nil })
	if err != nil {
		w.Fatalf("waited in vain: %s", what)
	}
}

// ready waits until the Kustomization is Ready at the revision and has seen its newest generation.
func (w *world) ready(name, revision string) *kustomizev1.Kustomization {
	w.Helper()
	var ks *kustomizev1.Kustomization
	ok := func() bool {
		ks = w.get(name)
		return meta.IsStatusConditionTrue(ks.Status.Conditions, "Ready") && ks.Status.LastAppliedRevision == revision && ks.Status.ObservedGeneration == ks.Generation
	}
	err := wait.PollUntilContextTimeout(w.Context(), 20*time.Millisecond, 30*time.Second, true, func(context.Context) (bool, error) { return ok(), nil })
	if err != nil {
		w.Fatalf("%s is not ready at %s: %+v", name, revision, ks.Status.Conditions)
	}
	return ks
}

// failed waits until Ready is False for the reason, for the revision when there is one, and returns the message.
func (w *world) failed(name, reason, revision string) string {
	w.Helper()
	var ks *kustomizev1.Kustomization
	message := ""
	ok := func() bool {
		ks = w.get(name)
		c := meta.FindStatusCondition(ks.Status.Conditions, "Ready")
		if c == nil || c.Status != metav1.ConditionFalse || c.Reason != reason || revision != "" && ks.Status.LastAttemptedRevision != revision {
			return false
		}
		message = c.Message
		return c.ObservedGeneration == ks.Generation
	}
	err := wait.PollUntilContextTimeout(w.Context(), 20*time.Millisecond, 30*time.Second, true, func(context.Context) (bool, error) { return ok(), nil })
	if err != nil {
		w.Fatalf("%s does not fail with %s: %+v", name, reason, ks.Status.Conditions)
	}
	return message
}

func (w *world) configMap(name string) *corev1.ConfigMap {
	w.Helper()
	c := &corev1.ConfigMap{}
	err := w.kube.Get(w.Context(), types.NamespacedName{Namespace: w.ns, Name: name}, c)
	if apierrors.IsNotFound(err) {
		return nil
	}
	if err != nil {
		w.Fatal(err)
	}
	return c
}

func (w *world) create(o client.Object) {
	w.Helper()
	if err := w.kube.Create(w.Context(), o); err != nil {
		w.Fatal(err)
	}
}

// configMapYAML is a ConfigMap in the namespace of the Kustomization's grant.
func (w *world) configMapYAML(name, value string) string {
	return fmt.Sprintf("apiVersion: v1\nkind: ConfigMap\nmetadata: {name: %s, namespace: %s}\ndata: {value: %q}\n", name, w.ns, value)
}

func condition(ks *kustomizev1.Kustomization, typ string) metav1.Condition {
	if c := meta.FindStatusCondition(ks.Status.Conditions, typ); c != nil {
		return *c
	}
	return metav1.Condition{}
}

// restConfig is one that is connected to nothing.
func restConfig() *rest.Config { return &rest.Config{Host: "https://192.0.2.1:6443"} }

func (w *world) delete(name string) {
	w.Helper()
	if err := w.kube.Delete(w.Context(), w.get(name)); err != nil {
		w.Fatal(err)
	}
}

// gone waits until the Kustomization is.
func (w *world) gone(name string) {
	w.Helper()
	w.until(name+" is gone", func() bool {
		err := w.kube.Get(w.Context(), types.NamespacedName{Namespace: w.ns, Name: name}, &kustomizev1.Kustomization{})
		return apierrors.IsNotFound(err)
	})
}

func nsKey(name string) types.NamespacedName { return types.NamespacedName{Name: name} }

func transient() error { return fault.New(fault.StageApply, fault.Transient, fault.Ref{}, "x") }
func invalid() error   { return fault.New(fault.StageRender, fault.Invalid, fault.Ref{}, "x") }
