package cluster

import "strings"

// markerPrefix begins Flux's labels and annotations on applied objects.
const markerPrefix = "kustomize.toolkit.fluxcd.io/"

// marks is what labels or annotations ask for, and what the owners of fields say (reference/flux.md, section 1.7).
type marks uint8

const (
	markDisabled    marks = 1 << iota // reconcile: disabled, or ssa: Ignore: never applied, never pruned
	markAbsentOnly                    // ssa: IfNotPresent: created, never changed
	markMerge                         // ssa: Merge: what kubectl wrote stays
	markKeep                          // prune: disabled
	markOverridden                    // a manager that we override owns fields
	markTerminating                   // deletion has begun
	markForce                         // force: enabled: made anew when an immutable field changes
	markServed                        // a definition that the running program came with
)

// servedMark is on the CustomResourceDefinitions that `sealock install` makes (config/crd).
const servedMark = "sealock.dev/served"

func (m marks) has(one marks) bool { return m&one != 0 }

// marksOf reads the markers, which may be labels or annotations.
func marksOf(labels, annotations map[string]string) marks {
	is := func(key, value string) bool {
		return strings.EqualFold(labels[markerPrefix+key], value) || strings.EqualFold(annotations[markerPrefix+key], value)
	}
	var m marks
	if is("reconcile", "disabled") || is("ssa", "Ignore") {
		m |= markDisabled
	}
	if is("ssa", "IfNotPresent") {
		m |= markAbsentOnly
	}
	if is("ssa", "Merge") {
		m |= markMerge
	}
	if is("force", "enabled") {
		m |= markForce
	}
	if is("prune", "disabled") {
		m |= markKeep
	}
	if annotations[servedMark] == "true" {
		m |= markServed
	}
	return m
}

// stringMap reads a mapping of strings at the path.
func stringMap(body map[string]any, path ...string) map[string]string {
	m, _ := dig(body, path...).(map[string]any)
	out := make(map[string]string, len(m))
	for k, v := range m {
		if s, ok := v.(string); ok {
			out[k] = s
		}
	}
	return out
}

// dig returns the value at the path of mappings, nil when there is none.
func dig(body map[string]any, path ...string) any {
	var v any = body
	for _, p := range path {
		m, ok := v.(map[string]any)
		if !ok {
			return nil
		}
		v = m[p]
	}
	return v
}

func text(body map[string]any, path ...string) string {
	s, _ := dig(body, path...).(string)
	return s
}
