package cluster

import (
	"encoding/json"
	"fmt"
	"hash/fnv"
	"regexp"

	"k8s.io/apimachinery/pkg/labels"

	"sealock.dev/sealock/fault"
	"sealock.dev/sealock/manifest"
)

// rules are what one owner says about how its live objects are read: which fields are no drift.
type rules struct {
	print  uint32 // identifies the rules; 0: there are none
	ignore []ignoreRule
}

// ignoreRule is a manifest.IgnoreRule that is ready for use.
type ignoreRule struct {
	pointers []pointer
	target   *target
}

// compileRules checks and compiles what an owner says. Errors name the field of the Kustomization.
func compileRules(o manifest.Owner) (*rules, error) {
	r := &rules{}
	if len(o.Ignore) == 0 {
		return r, nil
	}
	text, err := json.Marshal(o.Ignore)
	if err != nil {
		return nil, err
	}
	h := fnv.New32a()
	_, _ = h.Write(text)
	r.print = max(h.Sum32(), 1)
	for i, rule := range o.Ignore {
		bad := func(field, remedy string, err error) error {
			return fault.New(fault.StagePlan, fault.Invalid, o.Ref, "%w", err).At(fmt.Sprintf("spec.ignore[%d].%s", i, field)).Fix("%s", remedy)
		}
		compiled := ignoreRule{}
		for n, p := range rule.Paths {
			parsed, err := parsePointer(p)
			if err != nil {
				return nil, bad(fmt.Sprintf("paths[%d]", n), `write a JSON pointer as "/spec/replicas"`, err)
			}
			compiled.pointers = append(compiled.pointers, parsed)
		}
		if rule.Target != nil {
			if compiled.target, err = compileTarget(*rule.Target); err != nil {
				return nil, bad("target", "correct the regular expression or the selector", err)
			}
		}
		r.ignore = append(r.ignore, compiled)
	}
	return r, nil
}

// ignored returns the pointers that the rules name for an object.
func (r *rules) ignored(gvk, name [3]string, lbls, annotations map[string]string) []pointer {
	if r == nil {
		return nil
	}
	var out []pointer
	for _, rule := range r.ignore {
		if rule.target == nil || rule.target.matches(gvk, name, lbls, annotations) {
			out = append(out, rule.pointers...)
		}
	}
	return out
}

// ignoredOf is ignored for a manifest.
func (r *rules) ignoredOf(o manifest.Object) []pointer {
	if r == nil || len(r.ignore) == 0 {
		return nil
	}
	gvk := o.GVK()
	return r.ignored([3]string{gvk.Group, gvk.Version, gvk.Kind}, [3]string{o.Name(), o.Namespace()}, o.Labels(), o.Annotations())
}

// target is a compiled manifest.Selector; nil parts select everything.
type target struct {
	group, version, kind, name, namespace *regexp.Regexp
	labels, annotations                   labels.Selector
}

func compileTarget(s manifest.Selector) (*target, error) {
	t := &target{}
	for _, part := range []struct {
		text string
		to   **regexp.Regexp
	}{{s.Group, &t.group}, {s.Version, &t.version}, {s.Kind, &t.kind}, {s.Name, &t.name}, {s.Namespace, &t.namespace}} {
		if part.text == "" {
			continue
		}
		re, err := regexp.Compile("^(?:" + part.text + ")$")
		if err != nil {
			return nil, err
		}
		*part.to = re
	}
	var err error
	if s.LabelSelector != "" {
		if t.labels, err = labels.Parse(s.LabelSelector); err != nil {
			return nil, err
		}
	}
	if s.AnnotationSelector != "" {
		if t.annotations, err = labels.Parse(s.AnnotationSelector); err != nil {
			return nil, err
		}
	}
	return t, nil
}

func (t *target) matches(gvk, name [3]string, lbls, annotations map[string]string) bool {
	fits := func(re *regexp.Regexp, s string) bool { return re == nil || re.MatchString(s) }
	return fits(t.group, gvk[0]) && fits(t.version, gvk[1]) && fits(t.kind, gvk[2]) && fits(t.name, name[0]) && fits(t.namespace, name[1]) &&
		(t.labels == nil || t.labels.Matches(labels.Set(lbls))) && (t.annotations == nil || t.annotations.Matches(labels.Set(annotations)))
}
