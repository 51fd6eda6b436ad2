// Package v1alpha1 holds SealedSecret of the group bitnami.com, as the field uses it.
// It exists because the original module drags a product along; it must stay wire compatible with it and hold no
// behaviour. The contract is reference/sealing-sops.md, section 1.5.
//
// +kubebuilder:object:generate=true
// +groupName=bitnami.com
package v1alpha1

import (
	corev1 "k8s.io/api/core/v1"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// GroupVersion of the kinds in this package.
var GroupVersion = schema.GroupVersion{Group: "bitnami.com", Version: "v1alpha1"} //nolint:gochecknoglobals // a constant

// AddToScheme registers the kinds of this package.
func AddToScheme(s *runtime.Scheme) error {
	s.AddKnownTypes(GroupVersion, &SealedSecret{}, &SealedSecretList{})
	metav1.AddToGroupVersion(s, GroupVersion)
	return nil
}

// Annotations of SealedSecrets and of the Secrets that they own. Only the exact value "true" counts.
const (
	AnnotationClusterWide   = "sealedsecrets.bitnami.com/cluster-wide"
	AnnotationNamespaceWide = "sealedsecrets.bitnami.com/namespace-wide"
	AnnotationManaged       = "sealedsecrets.bitnami.com/managed"
	AnnotationPatch         = "sealedsecrets.bitnami.com/patch"
	AnnotationSkipOwnerRefs = "sealedsecrets.bitnami.com/skip-set-owner-references"
	// KeyLabel marks the Secrets that hold sealing keys; only the value "active" counts.
	KeyLabel = "sealedsecrets.bitnami.com/sealed-secrets-key"
	// ConditionSynced is the only condition type.
	ConditionSynced = "Synced"
)

// SealedSecret holds values that only the controller of one cluster can open.
//
// +kubebuilder:object:root=true
// +kubebuilder:subresource:status
// +kubebuilder:resource:path=sealedsecrets,singular=sealedsecret,scope=Namespaced
// +kubebuilder:printcolumn:name="Status",type=string,JSONPath=`.status.conditions[0].message`
// +kubebuilder:printcolumn:name="Synced",type=string,JSONPath=`.status.conditions[0].status`
// +kubebuilder:printcolumn:name="Age",type=date,JSONPath=`.metadata.creationTimestamp`
type SealedSecret struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	Spec SealedSecretSpec `json:"spec"`
	// +optional
	Status *SealedSecretStatus `json:"status,omitempty"`
}

// SealedSecretList is a list of sealed secrets.
//
// +kubebuilder:object:root=true
type SealedSecretList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`
	Items           []SealedSecret `json:"items"`
}

// SealedSecretSpec holds ciphertexts, and what the Secret shall look like.
type SealedSecretSpec struct {
	// Template of the Secret.
	// +optional
	Template SecretTemplate `json:"template,omitempty"`
	// Data is the format of the first version: a whole Secret as one ciphertext.
	// +optional
	Data []byte `json:"data,omitempty"`
	// EncryptedData holds one ciphertext for each key. A value that is no string is reported in the status.
	// +optional
	// +kubebuilder:pruning:PreserveUnknownFields
	// +kubebuilder:validation:Schemaless
	// +kubebuilder:validation:Type=object
	EncryptedData map[string]apiextensionsv1.JSON `json:"encryptedData,omitempty"`
}

// SecretTemplate is what the Secret gets besides the opened values.
type SecretTemplate struct {
	// +optional
	// +nullable
	// +kubebuilder:pruning:PreserveUnknownFields
	metav1.ObjectMeta `json:"metadata,omitempty"`
	// +optional
	Type corev1.SecretType `json:"type,omitempty"`
	// +optional
	Immutable *bool `json:"immutable,omitempty"`
	// Data holds Go templates over the opened values; null leaves a key out.
	// +optional
	// +nullable
	Data map[string]*string `json:"data,omitempty"`
}

// SealedSecretStatus is what was seen.
type SealedSecretStatus struct {
	// +optional
	ObservedGeneration int64 `json:"observedGeneration,omitempty"`
	// +optional
	Conditions []SealedSecretCondition `json:"conditions,omitempty"`
}

// SealedSecretCondition is in the shape that clients of SealedSecret know, which is older than metav1.Condition.
type SealedSecretCondition struct {
	Type   string                 `json:"type"`
	Status corev1.ConditionStatus `json:"status"`
	// +optional
	LastUpdateTime metav1.Time `json:"lastUpdateTime,omitempty"`
	// +optional
	LastTransitionTime metav1.Time `json:"lastTransitionTime,omitempty"`
	// +optional
	Reason string `json:"reason,omitempty"`
	// +optional
	Message string `json:"message,omitempty"`
}
