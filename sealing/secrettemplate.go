package sealing

import (
	"context"
	"errors"
	"maps"
	"slices"
	"strings"

	"sealock.dev/sealock/api/sealing/v1alpha1"
	"sealock.dev/sealock/fault"
	"sealock.dev/sealock/manifest"
	"sealock.dev/sealock/plaintext"
)

// secretTemplate is spec.template: what the Secret gets besides the opened values.
type secretTemplate struct {
	labels      map[string]string
	annotations map[string]string
	finalizers  bool
	owners      bool
	typ         string
	immutable   bool
	data        map[string]*string // nil: leave the key out
}

// parseTemplate reads the template strictly: what has the wrong type is named instead of dropped.
func parseTemplate(o manifest.Object) (secretTemplate, error) {
	r := reader{o: o}
	spec := r.mapping(o.Peek("spec"), "spec")
	t := r.template(r.mapping(spec["template"], "spec.template"))
	return t, errors.Join(r.errs...)
}

// reader collects what is wrong.
type reader struct {
	o    manifest.Object
	errs []error
}

func (r *reader) template(m map[string]any) secretTemplate {
	meta := r.mapping(m["metadata"], "spec.template.metadata")
	t := secretTemplate{
		labels:      r.strings(meta["labels"], "spec.template.metadata.labels"),
		annotations: r.strings(meta["annotations"], "spec.template.metadata.annotations"),
		finalizers:  present(meta["finalizers"]),
		owners:      present(meta["ownerReferences"]),
		data:        map[string]*string{},
	}
	switch v := m["type"].(type) {
	case nil:
	case string:
		t.typ = v
	default:
		r.fail("spec.template.type", "not a string", "quote it")
	}
	switch v := m["immutable"].(type) {
	case nil:
	case bool:
		t.immutable = v
	default:
		r.fail("spec.template.immutable", "not a boolean", "write true or false")
	}
	for key, v := range r.mapping(m["data"], "spec.template.data") {
		switch text := v.(type) {
		case nil:
			t.data[key] = nil
		case string:
			t.data[key] = &text
		default:
			r.fail("spec.template.data."+key, "not a string", "quote it")
		}
	}
	return t
}

func present(v any) bool { list, ok := v.([]any); return v != nil && (!ok || len(list) > 0) }

func (r *reader) fail(field, cause, remedy string) {
	r.errs = append(r.errs, fail(r.o, fault.Invalid, field, cause, remedy))
}

func (r *reader) mapping(v any, field string) map[string]any {
	m, ok := v.(map[string]any)
	if v != nil && !ok {
		r.fail(field, "not a mapping", "write a mapping")
	}
	return m
}

func (r *reader) strings(v any, field string) map[string]string {
	out := map[string]string{}
	for key, each := range r.mapping(v, field) {
		text, ok := each.(string)
		if !ok && each != nil {
			r.fail(field+"."+key, "not a string", "quote it")
			continue
		}
		out[key] = text
	}
	return out
}

// forbiddenTypes are Secrets in which a controller of Kubernetes puts, or takes for, a credential: whoever may write a
// SealedSecret could mint one.
var forbiddenTypes = []string{ //nolint:gochecknoglobals // a constant
	"kubernetes.io/service-account-token",
	"bootstrap.kubernetes.io/token",
}

// reservedDomains are those of labels and annotations that say who owns, or what a controller does with, a Secret.
var reservedDomains = []string{"sealock.dev", "reconcile.external-secrets.io"} //nolint:gochecknoglobals // a constant

// reservedLabels make a Secret a sealing key, or part of somebody's inventory.
var reservedLabels = []string{ //nolint:gochecknoglobals // a constant
	v1alpha1.KeyLabel,
	"kustomize.toolkit.fluxcd.io/name", "kustomize.toolkit.fluxcd.io/namespace",
	"helm.toolkit.fluxcd.io/name", "helm.toolkit.fluxcd.io/namespace",
}

// refuse returns what the template may not ask for. The Secret is written with the controller's rights, so a template
// that could set these would lend them to its author.
func (t secretTemplate) refuse(o manifest.Object) []error {
	var errs []error
	deny := func(field, cause, remedy string) {
		errs = append(errs, fail(o, fault.Denied, field, cause, remedy))
	}
	if slices.Contains(forbiddenTypes, t.typ) {
		deny("spec.template.type", "a Secret of type "+t.typ+" cannot come from a SealedSecret", "use another type; tokens come from the TokenRequest API")
	}
	for _, key := range slices.Sorted(maps.Keys(t.labels)) {
		if slices.Contains(reservedLabels, key) || reservedDomain(key) {
			deny("spec.template.metadata.labels."+key, "the label is reserved", "remove it")
		}
	}
	for _, key := range slices.Sorted(maps.Keys(t.annotations)) {
		if reservedDomain(key) {
			deny("spec.template.metadata.annotations."+key, "the annotation is reserved", "remove it")
		}
	}
	if t.finalizers {
		deny("spec.template.metadata.finalizers", "a finalizer would hold the Secret in place", "remove it")
	}
	// Without the annotation the peer overwrites them, and so do we.
	if t.owners && t.annotations[v1alpha1.AnnotationSkipOwnerRefs] == "true" {
		deny("spec.template.metadata.ownerReferences", "a foreign owner could have the Secret collected", "remove it")
	}
	return errs
}

func reservedDomain(key string) bool {
	domain, _, ok := strings.Cut(key, "/")
	if !ok {
		return false
	}
	return slices.ContainsFunc(reservedDomains, func(d string) bool { return domain == d || strings.HasSuffix(domain, "."+d) })
}

// openLegacy opens the format of the first version: spec.data is a whole Secret as one ciphertext. Its metadata is
// hidden inside, so the rules are applied to what comes out.
func (op *Opener) openLegacy(ctx context.Context, o manifest.Object, scope Scope) (manifest.Produced, error) {
	const field = "spec.data"
	if len(mapOf(o.Peek("spec", "encryptedData"))) > 0 {
		return manifest.Produced{}, fail(o, fault.Invalid, field, "spec.encryptedData and the deprecated spec.data are both set", "remove spec.data")
	}
	text, _ := o.Peek("spec", "data").(string)
	ciphertext, err := decodeItem(text)
	if err != nil || text == "" {
		return manifest.Produced{}, fail(o, fault.Invalid, field, "no ciphertext: the value is not base64", "seal the Secret again with sealock seal")
	}
	value, err := op.ring.Open(ctx, ciphertext, scope.Label(o.Namespace(), o.Name()))
	switch {
	case errors.Is(err, errNoKey):
		return manifest.Produced{}, op.noKey(o, scope, field, ciphertext)
	case err != nil:
		return manifest.Produced{}, fail(o, fault.Transient, field, "the sealing keys cannot be used yet", "nothing; it is tried again")
	}
	inner, err := secretOf(value, o.Source)
	if err != nil { // its text may hold parts of the value
		return manifest.Produced{}, fail(o, fault.Invalid, field, "what is sealed is not a Secret", "seal the Secret again with sealock seal")
	}
	t := secretTemplate{labels: inner.Labels(), annotations: inner.Annotations(), finalizers: present(inner.Peek("metadata", "finalizers"))}
	t.typ, _ = inner.Peek("type").(string)
	t.immutable, _ = inner.Peek("immutable").(bool)
	// A refusal names labels, which are hidden in the ciphertext here: only that there is one is told.
	if len(t.refuse(o)) > 0 {
		return manifest.Produced{}, fail(o, fault.Denied, field, "the sealed Secret has a type, label, annotation or finalizer that is reserved", "remove it and seal again with sealock seal")
	}
	return produce(o, t, inner.SecretData()), nil
}

func mapOf(v any) map[string]any { m, _ := v.(map[string]any); return m }

// secretOf reads a Secret in JSON.
func secretOf(value plaintext.Value, src manifest.Source) (manifest.Object, error) {
	docs, err := manifest.Decode("", value.Reveal(), manifest.DefaultLimits)
	if err != nil || len(docs) != 1 {
		return manifest.Object{}, errors.New("not one document")
	}
	inner, err := manifest.New(docs[0].Body, src, nil)
	if err != nil || !inner.IsSecret() {
		return manifest.Object{}, errors.New("not a Secret")
	}
	return inner, nil
}
