package kustomization

import (
	kustomizev1 "github.com/fluxcd/kustomize-controller/api/v1"
	"k8s.io/apimachinery/pkg/runtime"

	"sealock.dev/sealock/fault"
)

// Unserved names the first field of an object, as JSON decodes it, that this version does not serve; nil when it serves
// all of them. It is for those who look before anything is reconciled, such as `sealock adopt flux`.
func Unserved(body map[string]any) error {
	ks := &kustomizev1.Kustomization{}
	if err := runtime.DefaultUnstructuredConverter.FromUnstructured(body, ks); err != nil {
		return fault.New(fault.StageGrant, fault.Invalid, fault.Ref{}, "the object does not have the form of its kind")
	}
	return served(ks)
}
