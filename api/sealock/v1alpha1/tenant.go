package v1alpha1

import metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

// Tenant is one team on a cluster: its namespaces, the identity that its Git commits act as, its keys and its fences.
//
// +kubebuilder:object:root=true
// +kubebuilder:subresource:status
// +kubebuilder:resource:scope=Cluster,categories=sealock
// +kubebuilder:printcolumn:name="Namespaces",type=string,JSONPath=`.spec.namespaces[*].name`
// +kubebuilder:printcolumn:name="Identity",type=string,JSONPath=`.status.identity`
// +kubebuilder:printcolumn:name="Ready",type=string,JSONPath=`.status.conditions[?(@.type=="Ready")].status`
// +kubebuilder:printcolumn:name="Status",type=string,JSONPath=`.status.conditions[?(@.type=="Ready")].message`
// +kubebuilder:printcolumn:name="Age",type=date,JSONPath=`.metadata.creationTimestamp`
// +kubebuilder:validation:XValidation:rule="size(self.metadata.name) <= 40",message="a tenant's name has at most 40 characters"
type Tenant struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	Spec TenantSpec `json:"spec"`
	// +optional
	Status TenantStatus `json:"status,omitempty"`
}

// TenantList is a list of tenants.
//
// +kubebuilder:object:root=true
type TenantList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`
	Items           []Tenant `json:"items"`
}

// TenantSpec says what belongs to a tenant. What is not listed does not.
type TenantSpec struct {
	// Namespaces that belong to the tenant. They are created when missing, and labelled.
	// A namespace belongs to one tenant at most: of two tenants that list it, the older has it.
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=200
	// +listType=map
	// +listMapKey=name
	Namespaces []TenantNamespace `json:"namespaces"`

	// ServiceAccounts that a Kustomization of the tenant may name in spec.serviceAccountName, in any of the tenant's
	// namespaces, instead of acting as the tenant itself. No pod may use them.
	// +optional
	// +kubebuilder:validation:MaxItems=50
	ServiceAccounts []string `json:"serviceAccounts,omitempty"`

	// Role is the ClusterRole that the tenant's identity holds in each of its namespaces.
	// +optional
	// +kubebuilder:default=sealock-tenant
	Role string `json:"role,omitempty"`

	// RoleCeiling lists the ClusterRoles that objects of the tenant may bind in its namespaces. Roles of the tenant's own
	// namespaces may always be bound, since the API server lets nobody write a Role that is wider than themselves.
	// +optional
	// +kubebuilder:default={view}
	// +kubebuilder:validation:MaxItems=50
	RoleCeiling []string `json:"roleCeiling,omitempty"`

	// Decryption holds the keys that belong to the tenant.
	// +optional
	Decryption *TenantDecryption `json:"decryption,omitempty"`

	// Vault fences the tenant's external secrets. Without it the tenant reads nothing from Vault.
	// +optional
	Vault *TenantVault `json:"vault,omitempty"`

	// Git fences the tenant's sources.
	// +optional
	Git *TenantGit `json:"git,omitempty"`

	// ClusterKinds lists cluster-scoped kinds, as "Kind.group" or "Kind", that the tenant's commits may hold. Default: none.
	// +optional
	// +kubebuilder:validation:MaxItems=50
	ClusterKinds []string `json:"clusterKinds,omitempty"`

	// SealedSecretScopes lists the scopes that the tenant's SealedSecrets may have. Default: strict.
	// +optional
	// +kubebuilder:default={strict}
	// +kubebuilder:validation:items:Enum=strict;namespace-wide;cluster-wide
	SealedSecretScopes []string `json:"sealedSecretScopes,omitempty"`
}

// TenantNamespace is one namespace of a tenant.
type TenantNamespace struct {
	// +kubebuilder:validation:Pattern=`^[a-z0-9]([-a-z0-9]*[a-z0-9])?$`
	// +kubebuilder:validation:MaxLength=63
	Name string `json:"name"`
	// Labels that the namespace carries, such as pod-security.kubernetes.io/enforce. They are protected.
	// +optional
	Labels map[string]string `json:"labels,omitempty"`
}

// TenantDecryption names the Secret with the tenant's SOPS keys.
type TenantDecryption struct {
	// SecretRef names a Secret with entries *.agekey. It is used by Kustomizations of the tenant that ask for
	// decryption without naming a Secret of their own namespace.
	SecretRef NamespacedRef `json:"secretRef"`
	// Recipients, when given, are the only age recipients that files of the tenant may be encrypted to.
	// A file with a recipient that is not listed is refused before it is opened.
	// +optional
	// +kubebuilder:validation:MaxItems=50
	Recipients []string `json:"recipients,omitempty"`
}

// NamespacedRef names an object in a namespace.
type NamespacedRef struct {
	// +kubebuilder:validation:MinLength=1
	Name string `json:"name"`
	// Namespace of the object. Default: Sealock's own namespace, which no tenant can read.
	// +optional
	Namespace string `json:"namespace,omitempty"`
}

// TenantVault is the fence around what the tenant may read.
type TenantVault struct {
	// Paths are logical paths with the mount first and without the data/ of KV v2. A path that ends in /* stands for
	// everything below it; any other stands for itself. Example: secret/tenants/team-a/*
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=100
	Paths []string `json:"paths"`
	// Servers are the addresses of Vault that the tenant's stores may name, without a trailing slash. Default: any
	// is refused; a platform lists its own.
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=20
	Servers []string `json:"servers"`
	// Roles are the roles of Vault's auth methods that the tenant's stores may log in as. Default: any.
	// +optional
	// +kubebuilder:validation:MaxItems=50
	Roles []string `json:"roles,omitempty"`
}

// TenantGit is the fence around the repositories of the tenant.
type TenantGit struct {
	// URLs are prefixes that end in / or whole URLs; a GitRepository of the tenant must match one.
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=100
	URLs []string `json:"urls"`
}

// TenantStatus is what was seen.
type TenantStatus struct {
	// +optional
	ObservedGeneration int64 `json:"observedGeneration,omitempty"`
	// Identity is the user that commits of the tenant act as.
	// +optional
	Identity string `json:"identity,omitempty"`
	// +optional
	// +listType=map
	// +listMapKey=type
	Conditions []metav1.Condition `json:"conditions,omitempty"`
}
