package kustomization

import (
	"fmt"

	kustomizev1 "github.com/fluxcd/kustomize-controller/api/v1"
	sourcev1 "github.com/fluxcd/source-controller/api/v1"

	"sealock.dev/sealock/expressions"
	"sealock.dev/sealock/fault"
	"sealock.dev/sealock/manifest"
)

// Stages of this front end alone.
const (
	dependency fault.Stage = "dependency" // one of dependsOn is not ready
	expression fault.Stage = "expression" // a CEL expression of the spec is wrong
	gate       fault.Stage = "gate"       // what Flux serves behind a feature gate that is off by default
)

// compiled are the expressions of one generation of a Kustomization.
type compiled struct {
	uid        string
	generation int64
	ready      []*expressions.Expression // of dependsOn, nil where there is none
	err        error
}

// configuration refuses what no change but one of the spec can heal. It costs nothing while the spec is the same.
func (r *Reconciler) configuration(ks *kustomizev1.Kustomization, m *memory) error {
	if m.compiled == nil || m.compiled.generation != ks.Generation || m.compiled.uid != string(ks.UID) {
		m.compiled = &compiled{uid: string(ks.UID), generation: ks.Generation}
		if m.compiled.err = served(ks); m.compiled.err == nil {
			m.compiled.ready, m.compiled.err = compile(ks)
		}
	}
	return m.compiled.err
}

// served names the first field that is not served: a field that is silently ignored would be worse.
func served(ks *kustomizev1.Kustomization) error {
	switch kind := ks.Spec.SourceRef.Kind; kind {
	case sourcev1.GitRepositoryKind:
	case "ExternalArtifact":
		return fault.New(fault.StageGrant, fault.Denied, refOf(ks), "can't access '%s/%s/%s', the feature gate ExternalArtifact is not enabled", kind, sourceKey(ks).Namespace, ks.Spec.SourceRef.Name).
			At("spec.sourceRef.kind").Fix("use a GitRepository")
	default:
		return fault.New(fault.StageGrant, fault.Invalid, refOf(ks), "this version of Sealock does not serve sources of kind %s yet", kind).
			At("spec.sourceRef.kind").Fix("use a GitRepository")
	}
	if d := ks.Spec.Decryption; d != nil && d.ServiceAccountName != "" {
		return fault.New(gate, fault.Invalid, refOf(ks), "the feature gate ObjectLevelWorkloadIdentity is not enabled").At("spec.decryption.serviceAccountName").
			Fix("leave it out, and name a Secret with the keys in spec.decryption.secretRef")
	}
	return nil
}

// compile checks every expression of the spec.
func compile(ks *kustomizev1.Kustomization) ([]*expressions.Expression, error) {
	for i, h := range ks.Spec.HealthCheckExprs {
		if _, err := expressions.NewHealth(h.Current, h.InProgress, h.Failed); err != nil {
			field := fmt.Sprintf("spec.healthCheckExprs[%d]", i)
			for _, f := range fault.All(err) {
				field += "." + f.Field
			}
			return nil, fault.New(expression, fault.Invalid, refOf(ks), "%s", causeOf(err)).At(field).Fix("correct the expression")
		}
	}
	ready := make([]*expressions.Expression, len(ks.Spec.DependsOn))
	for i, d := range ks.Spec.DependsOn {
		if d.ReadyExpr == "" {
			continue
		}
		e, err := expressions.Compile(d.ReadyExpr, "self", "dep")
		if err != nil {
			return nil, fault.New(expression, fault.Invalid, refOf(ks), "%s", causeOf(err)).At(fmt.Sprintf("spec.dependsOn[%d].readyExpr", i)).Fix("correct the expression")
		}
		ready[i] = e
	}
	return ready, nil
}

// causeOf returns the words of an error without the object and the field, which the caller knows better.
func causeOf(err error) string {
	for _, f := range fault.All(err) {
		if f.Err != nil {
			return f.Err.Error()
		}
	}
	return err.Error()
}

// owner is on whose behalf, and how, objects are applied.
func owner(ks *kustomizev1.Kustomization, revision string) manifest.Owner {
	o := manifest.Owner{
		Ref:          refOf(ks),
		UID:          string(ks.UID),
		Labels:       map[string]string{labelName: ks.Name, labelNamespace: ks.Namespace},
		FieldManager: fieldManager,
		Revision:     revision,
		Force:        ks.Spec.Force,
		Partial:      ks.Annotations[onError] == onErrorContinue,
	}
	for _, i := range ks.Spec.Ignore {
		rule := manifest.IgnoreRule{Paths: i.Paths}
		if t := i.Target; t != nil {
			rule.Target = &manifest.Selector{
				Group: t.Group, Version: t.Version, Kind: t.Kind, Name: t.Name, Namespace: t.Namespace,
				LabelSelector: t.LabelSelector, AnnotationSelector: t.AnnotationSelector,
			}
		}
		o.Ignore = append(o.Ignore, rule)
	}
	for _, h := range ks.Spec.HealthCheckExprs {
		o.Health = append(o.Health, manifest.HealthRule{
			Group: gvkOf(h.APIVersion, h.Kind).Group, Kind: h.Kind, Current: h.Current, InProgress: h.InProgress, Failed: h.Failed,
		})
	}
	return o
}
