package sealing

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"sealock.dev/sealock/api/sealing/v1alpha1"
	"sealock.dev/sealock/fault"
	"sealock.dev/sealock/manifest"
	"sealock.dev/sealock/plaintext"
)

// SealOptions say how a Secret is sealed.
type SealOptions struct {
	// Scope overrides the annotations of the Secret. "" leaves it to them.
	Scope Scope
	// AllowEmpty seals a Secret without data, which is refused otherwise as a likely mistake.
	AllowEmpty bool
	// Now is compared with the end of the certificate.
	Now time.Time
}

// strippedAnnotations hold the whole Secret in the clear.
var strippedAnnotations = []string{ //nolint:gochecknoglobals // a constant
	"kubectl.kubernetes.io/last-applied-configuration",
	"kubecfg.ksonnet.io/last-applied-configuration",
}

// Usable returns a fault when nothing should be sealed with the certificate any more.
func (c *Certificate) Usable(now time.Time) error {
	if now.After(c.notAfter) {
		return fault.New(fault.StageOpen, fault.Invalid, fault.Ref{}, "the certificate expired on %s", c.notAfter.UTC().Format("2 January 2006")).
			Fix("fetch the newest one with --fetch-cert")
	}
	return nil
}

// SealSecret returns the SealedSecret of a Secret, as the body of a manifest without any plaintext. Labels, annotations,
// type and immutable travel in the template. What only the cluster it came from knows is left out: uid, versions,
// times, managedFields, ownerReferences, finalizers and what kubectl applied last.
func SealSecret(secret manifest.Object, cert *Certificate, opts SealOptions) (map[string]any, error) {
	ref := secret.Ref()
	if !secret.IsSecret() {
		return nil, fault.New(fault.StageOpen, fault.Invalid, ref, "not a v1 Secret").Fix("give Secrets only, one in each document")
	}
	if err := cert.Usable(opts.Now); err != nil {
		return nil, err
	}
	scope, annotations := effectiveScope(secret.Annotations(), opts.Scope)
	if scope != ClusterWide && secret.Namespace() == "" {
		return nil, fault.New(fault.StageOpen, fault.Invalid, ref, "no namespace to seal for").At("metadata.namespace").Fix("set it, or give --namespace")
	}
	data := secret.SecretData()
	if len(data) == 0 && !opts.AllowEmpty {
		return nil, fault.New(fault.StageOpen, fault.Invalid, ref, "the Secret has no data").At("data").Fix("add some, or give --allow-empty-data")
	}
	encrypted, err := sealAll(ref, data, scope.Label(secret.Namespace(), secret.Name()), cert)
	if err != nil {
		return nil, err
	}
	meta := map[string]any{"name": secret.Name()}
	if ns := secret.Namespace(); ns != "" {
		meta["namespace"] = ns
	}
	if a := scope.annotation(); a != "" {
		meta["annotations"] = map[string]any{a: "true"}
	}
	return map[string]any{
		"apiVersion": v1alpha1.GroupVersion.String(),
		"kind":       "SealedSecret",
		"metadata":   meta,
		"spec":       map[string]any{"encryptedData": encrypted, "template": templateOf(secret, annotations)},
	}, nil
}

// effectiveScope returns the scope, and the annotations made to say just that scope.
func effectiveScope(annotations map[string]string, override Scope) (Scope, map[string]string) {
	scope := override
	if scope == "" {
		scope = ScopeOf(annotations)
	}
	out := maps.Clone(annotations)
	delete(out, v1alpha1.AnnotationClusterWide)
	delete(out, v1alpha1.AnnotationNamespaceWide)
	for _, key := range strippedAnnotations {
		delete(out, key)
	}
	if a := scope.annotation(); a != "" {
		out[a] = "true"
	}
	return scope, out
}

func sealAll(ref fault.Ref, data map[string]plaintext.Value, label []byte, cert *Certificate) (map[string]any, error) {
	out := make(map[string]any, len(data))
	var errs []error
	for _, key := range slices.Sorted(maps.Keys(data)) {
		text, err := Seal(data[key], label, cert.public)
		if err != nil {
			errs = append(errs, fault.New(fault.StageOpen, fault.Invalid, ref, "%w", err).At("data."+key).Fix("make it smaller, or use another certificate"))
			continue
		}
		out[key] = text
	}
	return out, errors.Join(errs...)
}

func templateOf(secret manifest.Object, annotations map[string]string) map[string]any {
	meta := map[string]any{"name": secret.Name()}
	if ns := secret.Namespace(); ns != "" {
		meta["namespace"] = ns
	}
	for field, m := range map[string]map[string]string{"labels": secret.Labels(), "annotations": annotations} {
		if len(m) > 0 {
			meta[field] = anyMap(m)
		}
	}
	t := map[string]any{"metadata": meta}
	for _, field := range []string{"type", "immutable"} {
		if v := secret.Peek(field); v != nil {
			t[field] = v
		}
	}
	return t
}

func anyMap(m map[string]string) map[string]any {
	out := make(map[string]any, len(m))
	for k, v := range m {
		out[k] = v
	}
	return out
}

// SealValue returns one item, to be put into spec.encryptedData by hand.
func SealValue(value plaintext.Value, scope Scope, namespace, name string, cert *Certificate, now time.Time) (string, error) {
	if err := cert.Usable(now); err != nil {
		return "", err
	}
	text, err := Seal(value, scope.Label(namespace, name), cert.public)
	if err != nil {
		return "", fault.New(fault.StageOpen, fault.Invalid, fault.Ref{}, "%w", err).Fix("make it smaller, or use another certificate")
	}
	return text, nil
}

// String names the certificate for people: its fingerprint, shortened, and its end.
func (c *Certificate) String() string {
	return fmt.Sprintf("certificate %.16s, valid until %s", c.fingerprint, c.notAfter.UTC().Format("2 January 2006"))
}
