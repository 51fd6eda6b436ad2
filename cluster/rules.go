package cluster

import (
	"context"
	"encoding/json"
	"fmt"
	"hash/fnv"
	"regexp"

	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"sealock.dev/sealock/expressions"
	"sealock.dev/sealock/fault"
	"sealock.dev/sealock/manifest"
)

// rules are what one owner says about how its live objects are read: which fields are no drift, and what is healthy.
type rules struct {
	print  uint32 // identifies the rules; 0: there are none
	ignore []ignoreRule
	health []healthRule
}

// healthRule is a manifest.HealthRule that is ready for use.
type healthRule struct {
	group, kind string
	judge       *expressions.Health
}

// ignoreRule is a manifest.IgnoreRule that is ready for use.
type ignoreRule struct {
	pointers []pointer
	target   *target
}

// compileRules checks and compiles what an owner says, unless it says what it said before. Errors name the field of the
// Kustomization.
func compileRules(o manifest.Owner, before *rules) (*rules, error) {
	r := &rules{}
	if len(o.Ignore) == 0 && len(o.Health) == 0 {
		return r, nil
	}
	text, err := json.Marshal([]any{o.Ignore, o.Health})
	if err != nil {
		return nil, err
	}
	h := fnv.New32a()
	_, _ = h.Write(text)
	r.print = max(h.Sum32(), 1)
	if before != nil && before.print == r.print {
		return before, nil
	}
	for i, rule := range o.Health {
		judge, err := expressions.NewHealth(rule.Current, rule.InProgress, rule.Failed)
		if err != nil {
			return nil, fault.New(fault.StagePlan, fault.Invalid, o.Ref, "%w", err).At(fmt.Sprintf("spec.healthCheckExprs[%d]", i)).Fix("correct the expression")
		}
		r.health = append(r.health, healthRule{group: rule.Group, kind: rule.Kind, judge: judge})
	}
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

// healthOf judges a live object: by the first rule that fits, else by kstatus.
func (r *rules) healthOf(ctx context.Context, body map[string]any) (health, string) {
	if r == nil || len(r.health) == 0 {
		return healthOf(body)
	}
	gvk := schema.FromAPIVersionAndKind(text(body, "apiVersion"), text(body, "kind"))
	for _, rule := range r.health {
		if rule.group != gvk.Group || rule.kind != "" && rule.kind != gvk.Kind {
			continue
		}
		if gvk.Group == "" && gvk.Kind == "Secret" { // an expression about a value would tell it, a bit at a time
			body = without(body, []pointer{{"data"}, {"stringData"}})
		}
		if text(body, "metadata", "deletionTimestamp") != "" {
			return healthTerminating, "deletion has begun"
		}
		status, err := rule.judge.Judge(ctx, body)
		switch {
		case err != nil:
			return healthUnknown, "healthCheckExprs: " + fault.Lines(err, 1)
		case status == expressions.Current:
			return healthCurrent, ""
		case status == expressions.Failed:
			return healthFailed, "as healthCheckExprs says"
		}
		return healthInProgress, "as healthCheckExprs says"
	}
	return healthOf(body)
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
