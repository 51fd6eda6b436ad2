package v1alpha1

import (
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// Policy is one rule set in Rego with everything that it needs: what it looks at, its parameters, where it is enforced,
// and its own tests. A policy whose tests fail is not activated.
//
// +kubebuilder:object:root=true
// +kubebuilder:subresource:status
// +kubebuilder:resource:scope=Cluster,categories=sealock
// +kubebuilder:printcolumn:name="Reconcile",type=string,JSONPath=`.spec.enforcement.reconcile`
// +kubebuilder:printcolumn:name="Admission",type=string,JSONPath=`.spec.enforcement.admission`
// +kubebuilder:printcolumn:name="Ready",type=string,JSONPath=`.status.conditions[?(@.type=="Ready")].status`
// +kubebuilder:printcolumn:name="Status",type=string,JSONPath=`.status.conditions[?(@.type=="Ready")].message`
// +kubebuilder:printcolumn:name="Age",type=date,JSONPath=`.metadata.creationTimestamp`
type Policy struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	Spec PolicySpec `json:"spec"`
	// +optional
	Status PolicyStatus `json:"status,omitempty"`
}

// PolicyList is a list of policies.
//
// +kubebuilder:object:root=true
type PolicyList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`
	Items           []Policy `json:"items"`
}

// PolicySpec is the rule and where it holds.
type PolicySpec struct {
	// Description says in a sentence what the policy forbids and why.
	// +optional
	Description string `json:"description,omitempty"`
	// Match selects the objects that are judged. Every field that is present must match; no match at all selects all objects.
	// +optional
	Match PolicyMatch `json:"match,omitempty"`
	// Parameters are given to the rule as input.parameters.
	// +optional
	// +kubebuilder:pruning:PreserveUnknownFields
	Parameters *apiextensionsv1.JSON `json:"parameters,omitempty"`
	// Enforcement says what a violation does at each point. A point that is left out has deny.
	// +optional
	// +kubebuilder:default={}
	Enforcement PolicyEnforcement `json:"enforcement,omitempty"`
	// OnError says what happens when the rule cannot be evaluated.
	// +optional
	// +kubebuilder:default=deny
	// +kubebuilder:validation:Enum=deny;warn
	OnError Action `json:"onError,omitempty"`
	// Rego is a module in Rego v1 of package sealock that defines the set deny, of strings or of objects with msg.
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=65536
	Rego string `json:"rego"`
	// Tests run when the policy is loaded.
	// +optional
	// +kubebuilder:validation:MaxItems=100
	Tests []PolicyTest `json:"tests,omitempty"`
}

// PolicyMatch selects objects.
type PolicyMatch struct {
	// Kinds: any of them. In an entry, an empty list or "*" is any.
	// +optional
	Kinds []KindMatch `json:"kinds,omitempty"`
	// Namespaces: exact names, or with one * at the end. Cluster-scoped objects do not match.
	// +optional
	Namespaces []string `json:"namespaces,omitempty"`
	// ExcludedNamespaces: as Namespaces, negated.
	// +optional
	ExcludedNamespaces []string `json:"excludedNamespaces,omitempty"`
	// LabelSelector on the object; at admission the old object may match too.
	// +optional
	LabelSelector *metav1.LabelSelector `json:"labelSelector,omitempty"`
	// Operations at admission. Before apply every object counts as CREATE and UPDATE. Empty: CREATE and UPDATE.
	// +optional
	// +kubebuilder:validation:items:Enum=CREATE;UPDATE;DELETE;CONNECT;*
	Operations []string `json:"operations,omitempty"`
	// TenantsOnly leaves objects alone that belong to no tenant.
	// +optional
	TenantsOnly bool `json:"tenantsOnly,omitempty"`
}

// KindMatch is a set of kinds.
type KindMatch struct {
	// +optional
	APIGroups []string `json:"apiGroups,omitempty"`
	// +optional
	Kinds []string `json:"kinds,omitempty"`
}

// Action is what a violation does.
//
// +kubebuilder:validation:Enum=deny;warn;off
type Action string

// The actions.
const (
	ActionDeny Action = "deny"
	ActionWarn Action = "warn"
	ActionOff  Action = "off"
)

// PolicyEnforcement has an action for each point where a policy is judged.
type PolicyEnforcement struct {
	// Commit is the command line: sealock verify.
	// +optional
	// +kubebuilder:default=deny
	Commit Action `json:"commit,omitempty"`
	// Reconcile is the whole set of a commit, before its first object is written.
	// +optional
	// +kubebuilder:default=deny
	Reconcile Action `json:"reconcile,omitempty"`
	// Admission is the webhook.
	// +optional
	// +kubebuilder:default=deny
	Admission Action `json:"admission,omitempty"`
}

// PolicyTest is one case: an object, and what the policy has to say of it.
type PolicyTest struct {
	Name string `json:"name"`
	// Object is the object under test.
	// +kubebuilder:pruning:PreserveUnknownFields
	Object apiextensionsv1.JSON `json:"object"`
	// OldObject makes it an update.
	// +optional
	// +kubebuilder:pruning:PreserveUnknownFields
	OldObject *apiextensionsv1.JSON `json:"oldObject,omitempty"`
	// Input is merged over the rest of the input document: tenant, origin, userInfo, operation.
	// +optional
	// +kubebuilder:pruning:PreserveUnknownFields
	Input *apiextensionsv1.JSON `json:"input,omitempty"`
	// Deny lists texts; each must be part of a message, and no message may be left over. Empty: nothing is denied.
	// +optional
	Deny []string `json:"deny,omitempty"`
}

// PolicyStatus is what was seen.
type PolicyStatus struct {
	// +optional
	ObservedGeneration int64 `json:"observedGeneration,omitempty"`
	// +optional
	// +listType=map
	// +listMapKey=type
	Conditions []metav1.Condition `json:"conditions,omitempty"`
}
