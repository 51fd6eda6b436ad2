package config_test

import (
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/dynamic"

	"sealock.dev/sealock/internal/testkit"
)

// TestCRDsOfFluxAreKept: what `flux uninstall` does to CRDs is refused for those that Sealock serves, until somebody says
// that it is meant. Others are not held.
func TestCRDsOfFluxAreKept(t *testing.T) {
	dc := testkit.Cluster(t)
	dc.InstallCRDs(t)
	dc.Install(t, "webhook")
	client, err := dynamic.NewForConfig(dc.Config)
	if err != nil {
		t.Fatal(err)
	}
	crds := client.Resource(schema.GroupVersionResource{Group: "apiextensions.k8s.io", Version: "v1", Resource: "customresourcedefinitions"})
	// A dry run is judged as the deletion would be.
	remove := func(name string) error {
		return crds.Delete(t.Context(), name, metav1.DeleteOptions{DryRun: []string{metav1.DryRunAll}})
	}
	for _, name := range []string{"kustomizations.kustomize.toolkit.fluxcd.io", "gitrepositories.source.toolkit.fluxcd.io"} {
		err := remove(name)
		for limit := time.Now().Add(30 * time.Second); err == nil && time.Now().Before(limit); err = remove(name) {
			// The API server takes a moment to know a new policy.
		}
		if err == nil || !strings.Contains(err.Error(), "sealock.dev/allow-delete") {
			t.Errorf("%s: %v", name, err)
		}
	}
	if err := remove("sealedsecrets.bitnami.com"); err != nil {
		t.Error(err)
	}
	for _, value := range []string{`"yes"`, "null"} {
		_, err := crds.Patch(t.Context(), "kustomizations.kustomize.toolkit.fluxcd.io", types.MergePatchType, []byte(`{"metadata":{"annotations":{"sealock.dev/allow-delete":`+value+`}}}`), metav1.PatchOptions{})
		if err != nil {
			t.Fatal(err)
		}
		if err := remove("kustomizations.kustomize.toolkit.fluxcd.io"); (err == nil) != (value != "null") {
			t.Errorf("annotated %s: %v", value, err)
		}
	}
}
