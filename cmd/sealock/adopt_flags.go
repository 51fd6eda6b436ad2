package main

import (
	"fmt"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/selection"
)

const watchSelector = "watch-label-selector"

// carried are the flags of Flux's controllers that mean the same for Sealock. Those that are about its own place
// (addresses, storage, leader election, log) are left behind.
var carried = map[string][]string{ //nolint:gochecknoglobals // a constant table
	"kustomize-controller": {
		"events-addr", watchSelector, "watch-configs-label-selector", "default-service-account", "no-cross-namespace-refs", "no-remote-bases",
		"interval-jitter-percentage", "min-retry-delay", "max-retry-delay", "override-manager", "custom-apply-stage-kinds", "sops-age-secret", "sops-vault-configmap", "concurrent",
	},
	"source-controller": {"ssh-kex-algos", "ssh-hostkey-algos", "artifact-retention-ttl", "artifact-retention-records"},
}

// compared returns the flags in which the Deployments of a component must not differ.
func compared(component string) []string {
	names := append([]string{"feature-gates"}, carried[component]...)
	if !slices.Contains(names, watchSelector) {
		names = append(names, watchSelector)
	}
	return names
}

func (s *fluxState) arguments(a *adoption) {
	a.Arguments = append(a.Arguments, "--platform-namespaces="+strings.Join(a.PlatformNamespaces, ","))
	for _, component := range replacedControllers {
		for _, name := range carried[component] {
			value := s.fluxFlag(component, name)
			if name == "sops-age-secret" && value != "" && !strings.Contains(value, "/") {
				value = s.namespace + "/" + value // Sealock may run in another namespace
			}
			if value != "" {
				a.Arguments = append(a.Arguments, "--"+name+"="+value)
			}
		}
	}
}

// fluxFlag returns what a controller of the installation passes for a flag; of shards, whose selectors only share the work,
// none. Where Deployments differ it is that of the first: checkShards says so.
func (s *fluxState) fluxFlag(component, name string) string {
	values := s.valuesOf(component, name)
	if len(values) == 0 || name == watchSelector && shards(texts(values)) {
		return ""
	}
	return values[0].text
}

// flagValue is what one Deployment passes for a flag, "" for nothing.
type flagValue struct{ deployment, text string }

func (v flagValue) String() string {
	if v.text == "" {
		return v.deployment + " does not set it"
	}
	return v.deployment + " has " + v.text
}

func texts(values []flagValue) []string {
	var out []string
	for _, v := range values {
		out = append(out, v.text)
	}
	return out
}

// valuesOf returns what each Deployment of a component passes.
func (s *fluxState) valuesOf(component, name string) []flagValue {
	var out []flagValue
	for _, c := range s.controllers {
		if c.Component == component && c.Namespace == s.namespace && c.Deployment != "" {
			text, _ := c.flag(name)
			out = append(out, flagValue{c.Deployment, text})
		}
	}
	return out
}

// checkShards: one Sealock takes the place of all Deployments of a component, so that they have to be told the same, but
// for the selectors by which they share the work.
func (s *fluxState) checkShards(a *adoption) {
	for _, component := range replacedControllers {
		for _, name := range compared(component) {
			values := s.valuesOf(component, name)
			if slices.IndexFunc(values, func(v flagValue) bool { return v.text != values[0].text }) < 0 {
				continue
			}
			if name == watchSelector && shards(texts(values)) {
				s.foundShards(a, component, values)
				continue
			}
			a.found("differing-flags", stops, nil, "give all of them the same, or run one Sealock for each, see docs/migrate-from-flux.md, Side by side; accepted, that of the first holds for all",
				"the Deployments of %s differ in --%s: %s", component, name, joined(values))
		}
	}
	kustomize, source := s.fluxFlag("kustomize-controller", watchSelector), s.fluxFlag("source-controller", watchSelector)
	if len(s.valuesOf("source-controller", watchSelector)) > 0 && kustomize != source {
		a.found("differing-flags", stops, nil, "give both the same selector; accepted, that of kustomize-controller holds for both",
			"kustomize-controller and source-controller select other objects: %q and %q", kustomize, source)
	}
}

// foundShards says that one Sealock serves what the shards share, and what none of them has served.
func (s *fluxState) foundShards(a *adoption, component string, values []flagValue) {
	a.found("shards", note, nil, "", "%d Deployments of %s share the work by --%s, which is left out: one Sealock serves all of it (%s)", len(values), component, watchSelector, joined(values))
	kind := map[string]string{"kustomize-controller": "Kustomization", "source-controller": "GitRepository"}[component]
	unserved := namesOf(s.objects[kind], func(o *unstructured.Unstructured) bool {
		return !slices.ContainsFunc(values, func(v flagValue) bool {
			selector, err := labels.Parse(v.text)
			return err != nil || selector.Matches(labels.Set(o.GetLabels()))
		})
	})
	if len(unserved) > 0 {
		a.found("shards", warning, unserved, "suspend them, if they are to stay as they are", "no shard serves them; Sealock will")
	}
}

func joined(values []flagValue) string {
	var out []string
	for _, v := range values {
		out = append(out, v.String())
	}
	return strings.Join(out, ", ")
}

// shards reports selectors that share out one label: one is for what does not have it, each other one for values of it.
func shards(selectors []string) bool {
	key, rest := "", 0
	for _, text := range selectors {
		parsed, err := labels.ParseToRequirements(text)
		if err != nil || len(parsed) != 1 || key != "" && parsed[0].Key() != key {
			return false
		}
		key = parsed[0].Key()
		switch parsed[0].Operator() {
		case selection.DoesNotExist:
			rest++
		case selection.In, selection.Equals, selection.DoubleEquals, selection.Exists:
		default:
			return false
		}
	}
	return rest > 0 && rest < len(selectors)
}

// checkFlags: what Flux's controllers are told and Sealock does not serve. A key that comes from a flag alone is one that
// files cannot be opened without.
func (s *fluxState) checkFlags(a *adoption) {
	for _, component := range replacedControllers {
		for _, f := range acceptedFlags {
			value := s.fluxFlag(component, f.name)
			if value == "" || value == fmt.Sprint(f.value) || strings.HasPrefix(f.name, "helm-") {
				continue
			}
			l, objects, remedy := warning, []string(nil), ""
			if strings.HasPrefix(f.name, "sops-") {
				objects = namesOf(s.objects["Kustomization"], func(o *unstructured.Unstructured) bool {
					return has(o, "spec", "decryption") && !has(o, "spec", "decryption", "secretRef")
				})
				if len(objects) > 0 {
					l, remedy = stops, "name the Secret with the keys in spec.decryption.secretRef first"
				}
			}
			a.found("flags", l, objects, remedy, "%s has --%s=%s, which changes nothing here: %s", component, f.name, value, f.why)
		}
	}
}
