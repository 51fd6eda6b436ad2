package testkit

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/apimachinery/pkg/util/yaml"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"

	"sealock.dev/sealock/config"
)

// InstallCRDs applies config/crd, once for a devcluster, and waits until the kinds are served.
func (d *Devcluster) InstallCRDs(t testing.TB) {
	t.Helper()
	d.crds.Do(func() { d.crdErr = d.installCRDs(t.Context()) })
	if d.crdErr != nil {
		t.Fatalf("installing the CRDs: %v", d.crdErr)
	}
}

// Namespace makes a namespace of its own for a test, with the given labels, and deletes it after the test.
func (d *Devcluster) Namespace(t testing.TB, labels map[string]string) string {
	t.Helper()
	client, err := kubernetes.NewForConfig(d.Config)
	if err != nil {
		t.Fatal(err)
	}
	ns, err := client.CoreV1().Namespaces().Create(t.Context(), &corev1.Namespace{
		ObjectMeta: metav1.ObjectMeta{GenerateName: "test-", Labels: labels},
	}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		// The context of the test is over by now.
		if err := client.CoreV1().Namespaces().Delete(context.WithoutCancel(t.Context()), ns.Name, metav1.DeleteOptions{}); err != nil {
			t.Errorf("deleting namespace %s: %v", ns.Name, err)
		}
	})
	return ns.Name
}

func (d *Devcluster) installCRDs(ctx context.Context) error {
	text, err := config.Build(config.CRDs)
	if err != nil {
		return err
	}
	client, err := dynamic.NewForConfig(d.Config)
	if err != nil {
		return err
	}
	crds := client.Resource(schema.GroupVersionResource{Group: "apiextensions.k8s.io", Version: "v1", Resource: "customresourcedefinitions"})
	var names []string
	decoder := yaml.NewYAMLOrJSONDecoder(bytes.NewReader(text), 4096)
	for {
		var raw json.RawMessage
		if err := decoder.Decode(&raw); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			return err
		}
		var crd unstructured.Unstructured
		if err := crd.UnmarshalJSON(raw); err != nil {
			return err
		}
		force := true
		opts := metav1.PatchOptions{FieldManager: "sealock-testkit", Force: &force}
		if _, err := crds.Patch(ctx, crd.GetName(), types.ApplyPatchType, raw, opts); err != nil {
			return err
		}
		names = append(names, crd.GetName())
	}
	for _, name := range names {
		err := wait.PollUntilContextTimeout(ctx, 50*time.Millisecond, time.Minute, true, func(ctx context.Context) (bool, error) {
			crd, err := crds.Get(ctx, name, metav1.GetOptions{})
			if err != nil {
				return false, err
			}
			return established(crd), nil
		})
		if err != nil {
			return fmt.Errorf("waiting for %s: %w", name, err)
		}
	}
	return nil
}

func established(crd *unstructured.Unstructured) bool {
	conditions, _, _ := unstructured.NestedSlice(crd.Object, "status", "conditions")
	for _, each := range conditions {
		if c, ok := each.(map[string]any); ok && c["type"] == "Established" {
			return c["status"] == "True"
		}
	}
	return false
}
