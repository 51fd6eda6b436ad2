package policies

import (
	"fmt"
	"slices"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"sealock.dev/sealock/api/sealock/v1alpha1"
)

// The operations, as admission names them.
const (
	opCreate  = "CREATE"
	opUpdate  = "UPDATE"
	opDelete  = "DELETE"
	opConnect = "CONNECT"
)

// matcher decides in Go which objects a policy looks at, so that a policy which does not match costs nothing.
type matcher struct {
	kinds       []v1alpha1.KindMatch
	namespaces  []string
	excluded    []string
	selector    labels.Selector // nil: any
	operations  []string        // empty: CREATE and UPDATE
	tenantsOnly bool
}

func newMatcher(m v1alpha1.PolicyMatch) (matcher, error) {
	out := matcher{kinds: m.Kinds, namespaces: m.Namespaces, excluded: m.ExcludedNamespaces, operations: m.Operations, tenantsOnly: m.TenantsOnly}
	for _, pattern := range slices.Concat(m.Namespaces, m.ExcludedNamespaces) {
		if pattern == "" || strings.Contains(strings.TrimSuffix(pattern, "*"), "*") {
			return matcher{}, fmt.Errorf("the namespace pattern %q is neither a name nor a name with one * at its end", pattern)
		}
	}
	for _, op := range m.Operations {
		if !slices.Contains([]string{opCreate, opUpdate, opDelete, opConnect, "*"}, op) {
			return matcher{}, fmt.Errorf("the operation %q is unknown", op)
		}
	}
	if m.LabelSelector != nil {
		s, err := metav1.LabelSelectorAsSelector(m.LabelSelector)
		if err != nil {
			return matcher{}, fmt.Errorf("the labelSelector is wrong: %w", err)
		}
		out.selector = s
	}
	return out, nil
}

// matchesKind compares group and kind, never the version.
func (m matcher) matchesKind(gk schema.GroupKind) bool {
	if len(m.kinds) == 0 {
		return true
	}
	return slices.ContainsFunc(m.kinds, func(k v1alpha1.KindMatch) bool {
		return anyOf(k.APIGroups, gk.Group) && anyOf(k.Kinds, gk.Kind)
	})
}

func anyOf(list []string, one string) bool {
	return len(list) == 0 || slices.Contains(list, "*") || slices.Contains(list, one)
}

// exactKinds returns the group-kinds that the matcher lists one by one; all is false when it can match others as well.
func (m matcher) exactKinds() (list []schema.GroupKind, all bool) {
	if len(m.kinds) == 0 {
		return nil, false
	}
	all = true
	for _, k := range m.kinds {
		if anyOf(k.APIGroups, "*") || anyOf(k.Kinds, "*") {
			all = false
			continue
		}
		for _, group := range k.APIGroups {
			for _, kind := range k.Kinds {
				list = append(list, schema.GroupKind{Group: group, Kind: kind})
			}
		}
	}
	return list, all
}

// matches decides everything but kind and operation.
func (m matcher) matches(s *subject) bool {
	if m.tenantsOnly && s.tenant == "" {
		return false
	}
	if len(m.namespaces) > 0 && !inNamespaces(m.namespaces, s.namespace) {
		return false
	}
	if inNamespaces(m.excluded, s.namespace) {
		return false
	}
	if m.selector == nil {
		return true
	}
	return s.object != nil && m.selector.Matches(labels.Set(s.object.Labels())) || s.old != nil && m.selector.Matches(labels.Set(s.old.Labels()))
}

// inNamespaces reports whether a pattern fits. "", a cluster-scoped object, fits none.
func inNamespaces(patterns []string, namespace string) bool {
	if namespace == "" {
		return false
	}
	return slices.ContainsFunc(patterns, func(p string) bool {
		if prefix, ok := strings.CutSuffix(p, "*"); ok {
			return strings.HasPrefix(namespace, prefix)
		}
		return p == namespace
	})
}

// operation returns the operation under which an object is judged, "" when it is not. At admission it is the request's.
// Before apply an object counts as CREATE and as UPDATE; a policy that looks at both is asked once, about the CREATE.
func (m matcher) operation(requested string) string {
	has := func(op string) bool {
		if len(m.operations) == 0 {
			return op == opCreate || op == opUpdate
		}
		return slices.Contains(m.operations, op) || slices.Contains(m.operations, "*")
	}
	if requested != "" {
		if has(requested) {
			return requested
		}
		return ""
	}
	for _, op := range []string{opCreate, opUpdate} {
		if has(op) {
			return op
		}
	}
	return ""
}
