package main

import (
	"context"
	"crypto/rand"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"sealock.dev/sealock/fault"
	"sealock.dev/sealock/plaintext"
)

// access is what the stages get of the cluster beside the objects that they write: Secrets, ConfigMaps and tokens, read
// with the controller's rights after the stage has checked the grant.
type access struct{ kube kubernetes.Interface }

// Secret returns the payloads of a Secret.
func (a access) Secret(ctx context.Context, namespace, name string) (map[string]plaintext.Value, error) {
	s, err := a.kube.CoreV1().Secrets(namespace).Get(ctx, name, metav1.GetOptions{})
	if err != nil {
		return nil, readFault("Secret", namespace, name, err)
	}
	out := make(map[string]plaintext.Value, len(s.Data))
	for k, v := range s.Data {
		out[k] = plaintext.New(v)
	}
	return out, nil
}

// ConfigMap returns the data of a ConfigMap.
func (a access) ConfigMap(ctx context.Context, namespace, name string) (map[string]string, error) {
	c, err := a.kube.CoreV1().ConfigMaps(namespace).Get(ctx, name, metav1.GetOptions{})
	if err != nil {
		return nil, readFault("ConfigMap", namespace, name, err)
	}
	return c.Data, nil
}

func readFault(kind, namespace, name string, err error) error {
	ref := fault.Ref{APIVersion: "v1", Kind: kind, Namespace: namespace, Name: name}
	if apierrors.IsNotFound(err) {
		return fault.New("", fault.NotFound, ref, "not found").Fix("create it")
	}
	if apierrors.IsForbidden(err) {
		return fault.New("", fault.Denied, ref, "the controller may not read it").Fix("see config/rbac")
	}
	return fault.New("", fault.Transient, ref, "reading it failed")
}

// Names of what an installation keeps in its own namespace.
const (
	installationSecret = "sealock-installation"
	installationKey    = "key"
)

// installationDigestKey returns the key that digests and tokens of this installation are made with, and makes it on the
// first start. Losing it costs one full comparison of every object, nothing else.
func installationDigestKey(ctx context.Context, kube kubernetes.Interface, namespace string) (plaintext.Key, error) {
	secrets := kube.CoreV1().Secrets(namespace)
	s, err := secrets.Get(ctx, installationSecret, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		fresh := make([]byte, 32)
		_, _ = rand.Read(fresh) // never fails
		s, err = secrets.Create(ctx, &corev1.Secret{
			ObjectMeta: metav1.ObjectMeta{Name: installationSecret, Labels: map[string]string{"app.kubernetes.io/part-of": "sealock"}},
			Data:       map[string][]byte{installationKey: fresh},
		}, metav1.CreateOptions{FieldManager: "sealock"})
		if apierrors.IsAlreadyExists(err) { // another replica was faster
			s, err = secrets.Get(ctx, installationSecret, metav1.GetOptions{})
		}
	}
	if err != nil {
		return plaintext.Key{}, fmt.Errorf("reading the Secret %s/%s: %w; run `sealock install --apply` first", namespace, installationSecret, err)
	}
	if len(s.Data[installationKey]) < 32 {
		return plaintext.Key{}, fmt.Errorf("the Secret %s/%s has no entry %q of 32 bytes; delete it to have it made again", namespace, installationSecret, installationKey)
	}
	return plaintext.NewKey(s.Data[installationKey]), nil
}
