package kustomization

import (
	"context"
	"io/fs"
	"testing"
	"testing/fstest"

	kustomizev1 "github.com/fluxcd/kustomize-controller/api/v1"
	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"sealock.dev/sealock/manifest"
	"sealock.dev/sealock/pipeline"
	"sealock.dev/sealock/plaintext"
)

// opener takes password.txt for an encrypted file.
type opener struct{}

func (opener) OpenFiles(_ context.Context, files fs.FS, tokens *plaintext.Tokens) (fs.FS, error) {
	k, err := fs.ReadFile(files, "kustomization.yaml")
	if err != nil {
		return nil, err
	}
	return fstest.MapFS{
		"kustomization.yaml": {Data: k},
		"password.txt":       {Data: []byte(tokens.Issue(plaintext.FromString("correct horse")))},
	}, nil
}

func (opener) OpenSecrets(_ context.Context, set []manifest.Object) ([]manifest.Object, error) {
	return set, nil
}

// TestGeneratorSuffix: the annotation asks for the names that kustomize makes of the plaintext, as Flux does; setting it is
// enough, without a commit.
func TestGeneratorSuffix(t *testing.T) {
	w := newWorld(t, options{change: func(r *Reconciler) {
		r.Decrypter = func(Decryption) (pipeline.FileOpener, error) { return opener{}, nil }
	}})
	w.secret("keys", map[string]string{"a.agekey": "x"})
	w.source("app", "main@sha1:1", map[string]string{
		"kustomization.yaml": "secretGenerator: [{name: db, files: [password.txt]}]\n", "password.txt": "encrypted",
	})
	names := func() []string {
		list := &corev1.SecretList{}
		if err := w.kube.List(w.Context(), list, client.InNamespace(w.ns), client.HasLabels{labelName}); err != nil {
			t.Fatal(err)
		}
		var out []string
		for i := range list.Items {
			out = append(out, list.Items[i].Name)
		}
		return out
	}
	const ofKustomize = "db-56k68t2d67" // `kustomize build` of the file with "correct horse" in it
	w.sync("app", "targetNamespace: "+w.ns, "decryption: {provider: sops, secretRef: {name: keys}}")
	w.ready("app", "main@sha1:1")
	if got := names(); len(got) != 1 || got[0] == ofKustomize {
		t.Errorf("without the annotation: %v", got)
	}
	w.edit("app", func(ks *kustomizev1.Kustomization) {
		ks.Annotations = map[string]string{generatorSuffix: suffixKustomize}
	})
	w.until("the name changes", func() bool { got := names(); return len(got) == 1 && got[0] == ofKustomize })
}
