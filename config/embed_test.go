package config

import (
	"bytes"
	"errors"
	"io"
	"strings"
	"testing"

	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"k8s.io/apimachinery/pkg/util/yaml"
)

// TestCRDsAreWhatTheFieldExpects checks what is patched onto the generated CRDs, since no compiler does.
func TestCRDsAreWhatTheFieldExpects(t *testing.T) {
	crds := buildCRDs(t)
	served := map[string][]string{
		"tenants.sealock.dev":                        {"v1alpha1"},
		"policies.sealock.dev":                       {"v1alpha1"},
		"gitrepositories.source.toolkit.fluxcd.io":   {"v1"},
		"kustomizations.kustomize.toolkit.fluxcd.io": {"v1"},
		"sealedsecrets.bitnami.com":                  {"v1alpha1"},
		"externalsecrets.external-secrets.io":        {"v1", "v1beta1"},
		"secretstores.external-secrets.io":           {"v1", "v1beta1"},
		"clustersecretstores.external-secrets.io":    {"v1", "v1beta1"},
	}
	if len(crds) != len(served) {
		t.Errorf("%d CRDs are built, want %d", len(crds), len(served))
	}
	for name, versions := range served {
		crd, ok := crds[name]
		if !ok {
			t.Errorf("no CRD %s", name)
			continue
		}
		checkVersions(t, crd, versions)
		if crd.Labels["app.kubernetes.io/part-of"] == "" {
			t.Errorf("%s: no label app.kubernetes.io/part-of", name)
		}
		if flux := strings.HasSuffix(name, ".toolkit.fluxcd.io"); flux != (crd.Labels["app.kubernetes.io/part-of"] == "flux") || flux != (crd.Labels["app.kubernetes.io/version"] != "") ||
			flux != (crd.Annotations["kustomize.toolkit.fluxcd.io/prune"] == "disabled") {
			t.Errorf("%s: labels %v, annotations %v: flux check looks for the labels, and only the kinds of Flux are its", name, crd.Labels, crd.Annotations)
		}
		if got := crd.Annotations["sealock.dev/served"]; got != "true" {
			t.Errorf("%s: sealock.dev/served is %q: a commit could put another definition into its place", name, got)
		}
		if got := crd.Annotations["kustomize.toolkit.fluxcd.io/substitute"]; got != "disabled" {
			t.Errorf("%s: annotation substitute is %q, want disabled", name, got)
		}
	}
}

func checkVersions(t *testing.T, crd apiextensionsv1.CustomResourceDefinition, versions []string) {
	t.Helper()
	if len(crd.Spec.Versions) != len(versions) {
		t.Errorf("%s: %d versions, want %v", crd.Name, len(crd.Spec.Versions), versions)
		return
	}
	for i, v := range crd.Spec.Versions {
		if v.Name != versions[i] || !v.Served || v.Storage != (i == 0) {
			t.Errorf("%s: version %d is %s served=%v storage=%v, want %s served, stored when first", crd.Name, i, v.Name, v.Served, v.Storage, versions[i])
		}
		if v.Subresources == nil || v.Subresources.Status == nil {
			t.Errorf("%s/%s: no status subresource", crd.Name, v.Name)
		}
	}
}

func TestFluxKindsStartWithAnUnobservedStatus(t *testing.T) {
	crds := buildCRDs(t)
	for _, name := range []string{"gitrepositories.source.toolkit.fluxcd.io", "kustomizations.kustomize.toolkit.fluxcd.io"} {
		schema := crds[name].Spec.Versions[0].Schema.OpenAPIV3Schema
		status := schema.Properties["status"]
		if status.Default == nil || string(status.Default.Raw) != `{"observedGeneration":-1}` {
			t.Errorf("%s: the default of status is not observedGeneration -1", name)
		}
		if len(schema.Required) != 0 {
			t.Errorf("%s: requires %v, but flux expects that an object without spec is accepted", name, schema.Required)
		}
	}
}

func buildCRDs(t *testing.T) map[string]apiextensionsv1.CustomResourceDefinition {
	t.Helper()
	text, err := Build(CRDs)
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]apiextensionsv1.CustomResourceDefinition{}
	decoder := yaml.NewYAMLOrJSONDecoder(bytes.NewReader(text), 4096)
	for {
		var crd apiextensionsv1.CustomResourceDefinition
		err := decoder.Decode(&crd)
		if errors.Is(err, io.EOF) {
			return out
		}
		if err != nil {
			t.Fatal(err)
		}
		out[crd.Name] = crd
	}
}
