package kustomization

import (
	"context"
	"fmt"

	kustomizev1 "github.com/fluxcd/kustomize-controller/api/v1"

	"sealock.dev/sealock/fault"
	"sealock.dev/sealock/render"
)

// renderer translates the build fields of a Kustomization.
func renderer(ks *kustomizev1.Kustomization, vars []render.Variables) *render.Build {
	s := ks.Spec
	opts := render.Options{
		Dir: dirOf(ks), TargetNamespace: s.TargetNamespace, NamePrefix: s.NamePrefix, NameSuffix: s.NameSuffix,
		Components: s.Components, IgnoreMissingComponents: s.IgnoreMissingComponents,
		Partial:            ks.Annotations[onError] == onErrorContinue,
		KustomizeSuffix:    ks.Annotations[generatorSuffix] == suffixKustomize,
		DecryptedTemplates: ks.Annotations[decryptedValues] == valuesTemplate,
		SubstituteFrom:     vars, SubstituteAlways: ks.GetSubstituteStrategy() == kustomizev1.SubstituteStrategyAlways,
	}
	if s.PostBuild != nil {
		opts.Substitute = s.PostBuild.Substitute
	}
	for _, p := range s.Patches {
		patch := render.Patch{Patch: p.Patch}
		if t := p.Target; t != nil {
			patch.Target = &render.Target{
				Group: t.Group, Version: t.Version, Kind: t.Kind, Name: t.Name, Namespace: t.Namespace,
				LabelSelector: t.LabelSelector, AnnotationSelector: t.AnnotationSelector,
			}
		}
		opts.Patches = append(opts.Patches, patch)
	}
	for _, i := range s.Images {
		opts.Images = append(opts.Images, render.Image{Name: i.Name, NewName: i.NewName, NewTag: i.NewTag, Digest: i.Digest})
	}
	if s.BuildMetadata != nil {
		opts.BuildMetadata = make([]string, 0, len(s.BuildMetadata))
		for _, m := range s.BuildMetadata {
			opts.BuildMetadata = append(opts.BuildMetadata, string(m))
		}
	}
	if m := s.CommonMetadata; m != nil {
		opts.Labels, opts.Annotations = m.Labels, m.Annotations
	}
	return render.New(opts)
}

// variables reads what postBuild refers to, in order: later overrides earlier.
func (r *Reconciler) variables(ctx context.Context, ks *kustomizev1.Kustomization) ([]render.Variables, error) {
	if ks.Spec.PostBuild == nil {
		return nil, nil
	}
	var out []render.Variables
	for i, ref := range ks.Spec.PostBuild.SubstituteFrom {
		var vars render.Variables
		var err error
		if ref.Kind == "Secret" {
			vars.Secret, err = r.Data.Secret(ctx, ks.Namespace, ref.Name)
		} else {
			vars.Public, err = r.Data.ConfigMap(ctx, ks.Namespace, ref.Name)
		}
		if err != nil {
			if ref.Optional && fault.KindOf(err) == fault.NotFound {
				continue
			}
			return nil, fault.New(fault.StageRender, fault.KindOf(err), refOf(ks), "substitute from '%s/%s' error: %w", ref.Kind, ref.Name, err).
				At(fmt.Sprintf("spec.postBuild.substituteFrom[%d]", i)).Fix("create it, or mark the reference optional")
		}
		out = append(out, vars)
	}
	return out, nil
}
