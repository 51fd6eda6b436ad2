package cluster

import (
	"cmp"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/runtime/schema"

	"sealock.dev/sealock/manifest"
)

// The stages of a plan. Objects of one are written, and those of the first ready, before the next begins.
const (
	stageDefinitions = 0 // what other objects of the set need to exist at all
	stageClasses     = 1
	stageChosen      = 2 // Options.StageKinds
	stageOwners      = 3 // pipeline.StageOwners: who acts, and what Secrets are made of
	stageRest        = 4
	stages           = 5
)

// firstKinds and lastKinds are the order of Flux (reference/flux.md, section 1.7), by which users read a change log.
var firstKinds = index( //nolint:gochecknoglobals // a constant table
	"CustomResourceDefinition", "Namespace", "ClusterRole",
	"ClusterClass", "RuntimeClass", "PriorityClass", "StorageClass", "VolumeSnapshotClass", "IngressClass", "GatewayClass",
	"ClusterRoleBinding", "ResourceQuota", "ServiceAccount", "Role", "RoleBinding", "ConfigMap", "Secret",
	"Service", "LimitRange", "Deployment", "StatefulSet", "CronJob", "PodDisruptionBudget",
)

var lastKinds = index("MutatingWebhookConfiguration", "ValidatingWebhookConfiguration") //nolint:gochecknoglobals // as above

// ownerKinds are written in stageOwners: the Secrets of the same commit are made by, or for, them.
var ownerKinds = index( //nolint:gochecknoglobals // as above
	"ClusterRoleBinding", "ResourceQuota", "ServiceAccount", "Role", "RoleBinding", "ConfigMap", "Secret",
	"SecretStore", "ClusterSecretStore", "SealedSecret", "ExternalSecret",
)

func index(kinds ...string) map[string]int {
	out := make(map[string]int, len(kinds))
	for i, k := range kinds {
		out[k] = i
	}
	return out
}

// order is the order of writing: the kinds that have a stage of their own by configuration.
type order []schema.GroupKind

// stageOf returns the stage in which objects of the kind are written.
func (r order) stageOf(gk schema.GroupKind) int {
	switch gk.Kind {
	case "CustomResourceDefinition", "Namespace", "ClusterRole":
		return stageDefinitions
	}
	if strings.HasSuffix(gk.Kind, "Class") {
		return stageClasses
	}
	if slices.Contains(r, gk) {
		return stageChosen
	}
	if _, ok := ownerKinds[gk.Kind]; ok {
		return stageOwners
	}
	return stageRest
}

// rankOf orders kinds inside a stage.
func rankOf(gk schema.GroupKind) int {
	if i, ok := firstKinds[gk.Kind]; ok {
		return i
	}
	if i, ok := lastKinds[gk.Kind]; ok {
		return len(firstKinds) + 1 + i
	}
	return len(firstKinds)
}

// compare is the order of writing. Deletion is the reverse.
func (r order) compare(a, b manifest.ID) int {
	x, y := a.GVK().GroupKind(), b.GVK().GroupKind()
	return cmp.Or(
		cmp.Compare(r.stageOf(x), r.stageOf(y)), cmp.Compare(rankOf(x), rankOf(y)),
		cmp.Compare(x.Group, y.Group), cmp.Compare(x.Kind, y.Kind),
		cmp.Compare(a.Namespace, b.Namespace), cmp.Compare(a.Name, b.Name),
	)
}

func (r order) sort(set []manifest.Object) {
	slices.SortStableFunc(set, func(a, b manifest.Object) int { return r.compare(a.ID(), b.ID()) })
}

// inventories returns what to prune, in the order of deletion, and the union of both sets in the order of writing.
// Ids are compared by their text: a version that changed is the same object.
func (r order) inventories(fresh, old []manifest.ID) (prune, union []manifest.ID) {
	have := make(map[string]bool, len(fresh))
	for _, id := range fresh {
		have[id.String()] = true
	}
	union = slices.Clone(fresh)
	for _, id := range old {
		if !have[id.String()] {
			have[id.String()] = true
			prune = append(prune, id)
			union = append(union, id)
		}
	}
	slices.SortStableFunc(prune, func(a, b manifest.ID) int { return r.compare(b, a) })
	return prune, union
}
