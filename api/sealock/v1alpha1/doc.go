// Package v1alpha1 holds the kinds of the group sealock.dev: Tenant and Policy.
// It exists as the contract between the platform team and Sealock; it must hold no behaviour.
//
// +kubebuilder:object:generate=true
// +groupName=sealock.dev
package v1alpha1

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// GroupVersion of the kinds in this package.
var GroupVersion = schema.GroupVersion{Group: "sealock.dev", Version: "v1alpha1"} //nolint:gochecknoglobals // a constant

// AddToScheme registers the kinds of this package.
func AddToScheme(s *runtime.Scheme) error {
	s.AddKnownTypes(GroupVersion, &Tenant{}, &TenantList{}, &Policy{}, &PolicyList{})
	metav1.AddToGroupVersion(s, GroupVersion)
	return nil
}

// Labels and annotations of ours. Those marked protected may be changed by the platform only.
const (
	// TenantLabel is on every Namespace of a tenant; its value is the tenant's name. Protected.
	TenantLabel = "sealock.dev/tenant"
	// ReadyCondition is the type of the summary condition of all kinds.
	ReadyCondition = "Ready"
)
