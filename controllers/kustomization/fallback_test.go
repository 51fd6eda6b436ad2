package kustomization

import (
	"maps"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"

	"sealock.dev/sealock/internal/testkit"
	"sealock.dev/sealock/pipeline"
)

// TestFallbackKeys: --sops-age-secret opens files where nobody names keys, in platform namespaces alone, and with age alone.
func TestFallbackKeys(t *testing.T) {
	for name, c := range map[string]struct {
		tenant bool
		spec   string
		want   []string // entries
	}{
		"platform":                {false, "decryption: {provider: sops}", []string{"a.agekey"}},
		"platform with secretRef": {false, "decryption: {provider: sops, secretRef: {name: own}}", []string{"b.agekey", "sops.vault-token"}},
		"tenant":                  {true, "decryption: {provider: sops}", nil},
	} {
		t.Run(name, func(t *testing.T) {
			var got []string
			runtime := testkit.Cluster(t).Namespace(t, nil)
			w := newWorld(t, options{tenant: c.tenant, change: func(r *Reconciler) {
				r.FallbackKeys = types.NamespacedName{Namespace: runtime, Name: "all"}
				r.Decrypter = func(d Decryption) (pipeline.FileOpener, error) {
					got = slices.Sorted(maps.Keys(d.Keys))
					return opener{}, nil
				}
			}})
			w.create(&corev1.Secret{
				ObjectMeta: metav1.ObjectMeta{Namespace: runtime, Name: "all"},
				StringData: map[string]string{"a.agekey": "x", "sops.vault-token": "x", "x.asc": "x"},
			})
			w.secret("own", map[string]string{"b.agekey": "x", "sops.vault-token": "x"})
			w.source("app", "main@sha1:1", map[string]string{"kustomization.yaml": "secretGenerator: [{name: db, files: [password.txt]}]\n"})
			w.sync("app", "targetNamespace: "+w.ns, c.spec)
			if c.want == nil {
				if m := w.failed("app", "BuildFailed", ""); !strings.Contains(m, "no key") {
					t.Error(m)
				}
				return
			}
			w.ready("app", "main@sha1:1")
			if !slices.Equal(got, c.want) {
				t.Errorf("opened with %v, want %v", got, c.want)
			}
		})
	}
}

// TestConfigsSelector: --watch-configs-label-selector says whose changes wake.
func TestConfigsSelector(t *testing.T) {
	w := newWorld(t, options{change: func(r *Reconciler) { r.Configs = labels.SelectorFromSet(labels.Set{"follow": "me"}) }})
	vars := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: w.ns, Name: "vars", Labels: map[string]string{"follow": "me"}}, Data: map[string]string{"v": "1"}}
	w.source("app", "main@sha1:1", map[string]string{"a.yaml": w.configMapYAML("a", "v${v}")})
	w.sync("app", "postBuild: {substituteFrom: [{kind: ConfigMap, name: vars}]}")
	w.failed("app", "BuildFailed", "")
	w.create(vars)
	w.ready("app", "main@sha1:1")
}
