package kustomization

import (
	"context"

	kustomizev1 "github.com/fluxcd/kustomize-controller/api/v1"
	"k8s.io/apimachinery/pkg/runtime"

	"sealock.dev/sealock/fault"
	"sealock.dev/sealock/manifest"
	"sealock.dev/sealock/pipeline"
	"sealock.dev/sealock/plaintext"
	"sealock.dev/sealock/render"
	"sealock.dev/sealock/tenants"
)

// Offline makes the build of a Kustomization away from the controller, for a person who wants to know beforehand what a
// folder would do. It translates fields by the same code, so that both agree.
type Offline struct {
	Grant     tenants.Grant
	Data      Data // read with the rights of the person
	Decrypter func(Decryption) (pipeline.FileOpener, error)
	// Keys open the files instead of those that the Kustomization or its tenant names. nil: those are read.
	Keys map[string]plaintext.Value
}

// Build is what Offline makes.
type Build struct {
	Renderer *render.Build
	// Opener opens encrypted files; nil where the Kustomization does not ask for that, or NoKeys says why it cannot be done.
	Opener pipeline.FileOpener
	NoKeys error
	// Owner is on whose behalf the objects would be applied.
	Owner manifest.Owner
}

// Build translates a Kustomization, as the API server sends it, into the build of dir, a folder that stands for spec.path.
func (o Offline) Build(ctx context.Context, body map[string]any, dir string) (Build, error) {
	ks := &kustomizev1.Kustomization{}
	if err := runtime.DefaultUnstructuredConverter.FromUnstructured(body, ks); err != nil {
		return Build{}, fault.New("", fault.Invalid, refOf(ks), "the object is not one of this version").Fix("use a newer sealock")
	}
	ks.Spec.Path = dir
	r := &Reconciler{Data: o.Data, Decrypter: o.Decrypter}
	vars, err := r.variables(ctx, ks)
	if err != nil {
		return Build{}, err
	}
	built := Build{Renderer: renderer(ks, vars), Owner: owner(ks, "")}
	switch {
	case ks.Spec.Decryption == nil:
	case o.Keys != nil:
		built.Opener, built.NoKeys = o.Decrypter(Decryption{
			Dir: dirOf(ks), Components: ks.Spec.Components, Keys: o.Keys, Recipients: o.Grant.Recipients(), Tenant: o.Grant.Tenant != "",
		})
	default:
		in := inputs{grant: o.Grant}
		_, built.NoKeys = r.decryption(ctx, ks, &in)
		built.Opener = in.decrypter
	}
	return built, nil
}
