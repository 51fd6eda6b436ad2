// Package v1 holds ExternalSecret, SecretStore and ClusterSecretStore of the group external-secrets.io.
// It exists because the original module drags a product along. The Go types are those of v1 and serve v1beta1 too: the
// JSON of the fields that we serve is the same. A provider that we do not serve is kept as raw JSON, so that it can be
// named instead of silently dropped. The contract is reference/external-secrets.md, section 1. No behaviour here.
//
// +kubebuilder:object:generate=true
// +groupName=external-secrets.io
package v1

import (
	corev1 "k8s.io/api/core/v1"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/intstr"
)

// GroupVersion of the kinds in this package.
var GroupVersion = schema.GroupVersion{Group: "external-secrets.io", Version: "v1"} //nolint:gochecknoglobals // a constant

// AddToScheme registers the kinds of this package.
func AddToScheme(s *runtime.Scheme) error {
	s.AddKnownTypes(GroupVersion, &ExternalSecret{}, &ExternalSecretList{}, &SecretStore{}, &SecretStoreList{}, &ClusterSecretStore{}, &ClusterSecretStoreList{})
	metav1.AddToGroupVersion(s, GroupVersion)
	return nil
}

// Labels, annotations and condition reasons that clients of external secrets know.
const (
	LabelManaged       = "reconcile.external-secrets.io/managed"
	LabelCreatedBy     = "reconcile.external-secrets.io/created-by"
	AnnotationDataHash = "reconcile.external-secrets.io/data-hash"
	ConditionReady     = "Ready"

	ReasonSecretSynced          = "SecretSynced"
	ReasonSecretSyncedError     = "SecretSyncedError"
	ReasonSecretDeleted         = "SecretDeleted"
	ReasonSecretMissing         = "SecretMissing"
	ReasonStoreValid            = "Valid"
	ReasonInvalidProviderConfig = "InvalidProviderConfig"
)

// ExternalSecret describes a Secret whose values live in a store.
//
// +kubebuilder:object:root=true
// +kubebuilder:subresource:status
// +kubebuilder:resource:scope=Namespaced,categories={external-secrets},shortName=es
// +kubebuilder:printcolumn:name="StoreType",type=string,JSONPath=`.spec.secretStoreRef.kind`
// +kubebuilder:printcolumn:name="Store",type=string,JSONPath=`.spec.secretStoreRef.name`
// +kubebuilder:printcolumn:name="Refresh Interval",type=string,JSONPath=`.spec.refreshInterval`
// +kubebuilder:printcolumn:name="Status",type=string,JSONPath=`.status.conditions[?(@.type=="Ready")].reason`
// +kubebuilder:printcolumn:name="Ready",type=string,JSONPath=`.status.conditions[?(@.type=="Ready")].status`
// +kubebuilder:printcolumn:name="Last Sync",type=date,JSONPath=`.status.refreshTime`
// +kubebuilder:selectablefield:JSONPath=`.spec.secretStoreRef.name`
// +kubebuilder:selectablefield:JSONPath=`.spec.secretStoreRef.kind`
// +kubebuilder:selectablefield:JSONPath=`.spec.target.name`
// +kubebuilder:selectablefield:JSONPath=`.spec.refreshInterval`
type ExternalSecret struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	// +optional
	Spec ExternalSecretSpec `json:"spec,omitempty"`
	// +optional
	Status ExternalSecretStatus `json:"status,omitempty"`
}

// ExternalSecretList is a list of external secrets.
//
// +kubebuilder:object:root=true
type ExternalSecretList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`
	Items           []ExternalSecret `json:"items"`
}

// ExternalSecretSpec says what to read from where.
type ExternalSecretSpec struct {
	// +optional
	SecretStoreRef StoreRef `json:"secretStoreRef,omitempty"`
	// +optional
	// +kubebuilder:default={creationPolicy:Owner,deletionPolicy:Retain}
	Target Target `json:"target,omitempty"`
	// +optional
	// +kubebuilder:validation:Enum=CreatedOnce;Periodic;OnChange
	RefreshPolicy string `json:"refreshPolicy,omitempty"`
	// +optional
	// +kubebuilder:default="1h0m0s"
	RefreshInterval *metav1.Duration `json:"refreshInterval,omitempty"`
	// +optional
	Data []Data `json:"data,omitempty"`
	// DataFrom is accepted by the schema so that it can be reported; what is not served yet is named in the status.
	// +optional
	DataFrom []apiextensionsv1.JSON `json:"dataFrom,omitempty"`
}

// StoreRef names a store.
type StoreRef struct {
	// +optional
	// +kubebuilder:validation:MaxLength=253
	Name string `json:"name,omitempty"`
	// +optional
	// +kubebuilder:validation:Enum=SecretStore;ClusterSecretStore
	Kind string `json:"kind,omitempty"`
}

// Target is the Secret that is made.
type Target struct {
	// Name of the Secret. Default: the name of the ExternalSecret.
	// +optional
	// +kubebuilder:validation:MaxLength=253
	Name string `json:"name,omitempty"`
	// +optional
	// +kubebuilder:default=Owner
	// +kubebuilder:validation:Enum=Owner;Orphan;Merge;CreateOrMerge;None
	CreationPolicy string `json:"creationPolicy,omitempty"`
	// +optional
	// +kubebuilder:default=Retain
	// +kubebuilder:validation:Enum=Delete;Merge;Retain
	DeletionPolicy string `json:"deletionPolicy,omitempty"`
	// +optional
	Template *TargetTemplate `json:"template,omitempty"`
	// +optional
	Immutable bool `json:"immutable,omitempty"`
}

// TargetTemplate shapes the Secret.
type TargetTemplate struct {
	// +optional
	Type corev1.SecretType `json:"type,omitempty"`
	// +optional
	// +kubebuilder:default=v2
	// +kubebuilder:validation:Enum=v2
	EngineVersion string `json:"engineVersion,omitempty"`
	// +optional
	Metadata TemplateMetadata `json:"metadata,omitempty"`
	// Data maps keys to Go templates over the values that were read.
	// +optional
	Data map[string]string `json:"data,omitempty"`
	// +optional
	// +kubebuilder:default=Replace
	// +kubebuilder:validation:Enum=Replace;Merge
	MergePolicy string `json:"mergePolicy,omitempty"`
	// +optional
	TemplateFrom []apiextensionsv1.JSON `json:"templateFrom,omitempty"`
}

// TemplateMetadata is the metadata that the Secret gets.
type TemplateMetadata struct {
	// +optional
	Labels map[string]string `json:"labels,omitempty"`
	// +optional
	Annotations map[string]string `json:"annotations,omitempty"`
}

// Data is one key of the Secret and where its value is.
type Data struct {
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=253
	// +kubebuilder:validation:Pattern=`^[-._a-zA-Z0-9]+$`
	SecretKey string    `json:"secretKey"`
	RemoteRef RemoteRef `json:"remoteRef"`
	// +optional
	SourceRef *SourceRef `json:"sourceRef,omitempty"`
}

// SourceRef overrides the store for one item.
type SourceRef struct {
	// +optional
	StoreRef *StoreRef `json:"storeRef,omitempty"`
	// +optional
	GeneratorRef *apiextensionsv1.JSON `json:"generatorRef,omitempty"`
}

// RemoteRef names a value in a store.
type RemoteRef struct {
	Key string `json:"key"`
	// +optional
	Property string `json:"property,omitempty"`
	// +optional
	Version string `json:"version,omitempty"`
	// +optional
	// +kubebuilder:validation:Enum=None;Fetch;""
	MetadataPolicy string `json:"metadataPolicy,omitempty"`
	// +optional
	// +kubebuilder:validation:Enum=Default;Unicode;""
	ConversionStrategy string `json:"conversionStrategy,omitempty"`
	// +optional
	// +kubebuilder:validation:Enum=Auto;Base64;Base64URL;None;""
	DecodingStrategy string `json:"decodingStrategy,omitempty"`
	// +optional
	// +kubebuilder:validation:Enum=Ignore;Fail;""
	NullBytePolicy string `json:"nullBytePolicy,omitempty"`
}

// ExternalSecretStatus is what was seen.
type ExternalSecretStatus struct {
	// +optional
	// +nullable
	RefreshTime metav1.Time `json:"refreshTime,omitempty"`
	// SyncedResourceVersion is the generation and a hash of labels and annotations of what was last synced.
	// +optional
	SyncedResourceVersion string `json:"syncedResourceVersion,omitempty"`
	// +optional
	Conditions []Condition `json:"conditions,omitempty"`
	// +optional
	Binding *corev1.LocalObjectReference `json:"binding,omitempty"`
}

// Condition is in the shape that clients of external secrets know.
type Condition struct {
	Type   string                 `json:"type"`
	Status corev1.ConditionStatus `json:"status"`
	// +optional
	Reason string `json:"reason,omitempty"`
	// +optional
	Message string `json:"message,omitempty"`
	// +optional
	LastTransitionTime metav1.Time `json:"lastTransitionTime,omitempty"`
}

// SecretStore says how to reach a store from one namespace.
//
// +kubebuilder:object:root=true
// +kubebuilder:subresource:status
// +kubebuilder:resource:scope=Namespaced,categories={external-secrets},shortName=ss
// +kubebuilder:printcolumn:name="Age",type=date,JSONPath=`.metadata.creationTimestamp`
// +kubebuilder:printcolumn:name="Status",type=string,JSONPath=`.status.conditions[?(@.type=="Ready")].reason`
// +kubebuilder:printcolumn:name="Capabilities",type=string,JSONPath=`.status.capabilities`
// +kubebuilder:printcolumn:name="Ready",type=string,JSONPath=`.status.conditions[?(@.type=="Ready")].status`
type SecretStore struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	// +optional
	Spec StoreSpec `json:"spec,omitempty"`
	// +optional
	Status StoreStatus `json:"status,omitempty"`
}

// SecretStoreList is a list of stores.
//
// +kubebuilder:object:root=true
type SecretStoreList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`
	Items           []SecretStore `json:"items"`
}

// ClusterSecretStore says how to reach a store from many namespaces.
//
// +kubebuilder:object:root=true
// +kubebuilder:subresource:status
// +kubebuilder:resource:scope=Cluster,categories={external-secrets},shortName=css
// +kubebuilder:printcolumn:name="Age",type=date,JSONPath=`.metadata.creationTimestamp`
// +kubebuilder:printcolumn:name="Status",type=string,JSONPath=`.status.conditions[?(@.type=="Ready")].reason`
// +kubebuilder:printcolumn:name="Capabilities",type=string,JSONPath=`.status.capabilities`
// +kubebuilder:printcolumn:name="Ready",type=string,JSONPath=`.status.conditions[?(@.type=="Ready")].status`
type ClusterSecretStore struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	// +optional
	Spec StoreSpec `json:"spec,omitempty"`
	// +optional
	Status StoreStatus `json:"status,omitempty"`
}

// ClusterSecretStoreList is a list of stores.
//
// +kubebuilder:object:root=true
type ClusterSecretStoreList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`
	Items           []ClusterSecretStore `json:"items"`
}

// StoreSpec is the connection.
type StoreSpec struct {
	// Controller is the class; stores of another class are left to their controller.
	// +optional
	Controller string `json:"controller,omitempty"`
	// Provider is exactly one provider.
	Provider Provider `json:"provider"`
	// +optional
	// +kubebuilder:pruning:PreserveUnknownFields
	RetrySettings *apiextensionsv1.JSON `json:"retrySettings,omitempty"`
	// +optional
	RefreshInterval *intstr.IntOrString `json:"refreshInterval,omitempty"`
	// Conditions say which namespaces may use a ClusterSecretStore.
	// +optional
	Conditions []StoreCondition `json:"conditions,omitempty"`
}

// StoreCondition selects namespaces; any of the fields is enough.
type StoreCondition struct {
	// +optional
	NamespaceSelector *metav1.LabelSelector `json:"namespaceSelector,omitempty"`
	// +optional
	Namespaces []string `json:"namespaces,omitempty"`
	// +optional
	NamespaceRegexes []string `json:"namespaceRegexes,omitempty"`
}

// Provider holds the providers that we serve. Others stay in the stored object and are named in the status.
//
// +kubebuilder:pruning:PreserveUnknownFields
// +kubebuilder:validation:MinProperties=1
// +kubebuilder:validation:MaxProperties=1
type Provider struct {
	// +optional
	Vault *VaultProvider `json:"vault,omitempty"`
}

// VaultProvider is HashiCorp Vault or OpenBao.
type VaultProvider struct {
	// Server is the address, https://host:port.
	Server string `json:"server"`
	// Path is the mount of the KV engine.
	// +optional
	Path *string `json:"path,omitempty"`
	// +optional
	// +kubebuilder:default=v2
	// +kubebuilder:validation:Enum=v1;v2
	Version string `json:"version,omitempty"`
	// Namespace of Vault Enterprise.
	// +optional
	Namespace *string `json:"namespace,omitempty"`
	// CABundle is PEM.
	// +optional
	CABundle []byte `json:"caBundle,omitempty"`
	// +optional
	CAProvider *CAProvider `json:"caProvider,omitempty"`
	// +optional
	Auth *VaultAuth `json:"auth,omitempty"`
	// +optional
	Headers map[string]string `json:"headers,omitempty"`
	// +optional
	ReadYourWrites bool `json:"readYourWrites,omitempty"`
	// +optional
	ForwardInconsistent bool `json:"forwardInconsistent,omitempty"`
}

// CAProvider names the object that holds the CA.
type CAProvider struct {
	// +kubebuilder:validation:Enum=Secret;ConfigMap
	Type string `json:"type"`
	Name string `json:"name"`
	// +optional
	Key string `json:"key,omitempty"`
	// +optional
	Namespace *string `json:"namespace,omitempty"`
}

// VaultAuth holds the auth methods that we serve. Others stay in the stored object and are named in the status.
//
// +kubebuilder:pruning:PreserveUnknownFields
type VaultAuth struct {
	// +optional
	Namespace *string `json:"namespace,omitempty"`
	// +optional
	TokenSecretRef *SecretKeySelector `json:"tokenSecretRef,omitempty"`
	// +optional
	AppRole *VaultAppRole `json:"appRole,omitempty"`
	// +optional
	Kubernetes *VaultKubernetesAuth `json:"kubernetes,omitempty"`
}

// SecretKeySelector names a key of a Secret.
type SecretKeySelector struct {
	// +optional
	Name string `json:"name,omitempty"`
	// +optional
	Namespace *string `json:"namespace,omitempty"`
	// +optional
	Key string `json:"key,omitempty"`
}

// VaultAppRole logs in with AppRole.
type VaultAppRole struct {
	// +optional
	// +kubebuilder:default=approle
	Path string `json:"path,omitempty"`
	// +optional
	RoleID string `json:"roleId,omitempty"`
	// +optional
	RoleRef   *SecretKeySelector `json:"roleRef,omitempty"`
	SecretRef SecretKeySelector  `json:"secretRef"`
}

// VaultKubernetesAuth logs in with a token of a ServiceAccount.
type VaultKubernetesAuth struct {
	// +optional
	// +kubebuilder:default=kubernetes
	Path string `json:"mountPath,omitempty"`
	// +optional
	ServiceAccountRef *ServiceAccountSelector `json:"serviceAccountRef,omitempty"`
	// +optional
	SecretRef *SecretKeySelector `json:"secretRef,omitempty"`
	Role      string             `json:"role"`
}

// ServiceAccountSelector names a ServiceAccount.
type ServiceAccountSelector struct {
	Name string `json:"name"`
	// +optional
	Namespace *string `json:"namespace,omitempty"`
	// +optional
	Audiences []string `json:"audiences,omitempty"`
}

// StoreStatus is what was seen.
type StoreStatus struct {
	// +optional
	Conditions []Condition `json:"conditions,omitempty"`
	// +optional
	Capabilities string `json:"capabilities,omitempty"`
}
