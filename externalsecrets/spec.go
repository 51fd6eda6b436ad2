package externalsecrets

import (
	"encoding/json"
	"regexp"
	"strings"

	sigsjson "sigs.k8s.io/json"

	v1 "sealock.dev/sealock/api/externalsecrets/v1"
	"sealock.dev/sealock/fault"
	"sealock.dev/sealock/manifest"
)

// The policies of a target.
const (
	creationOwner         = "Owner"
	creationOrphan        = "Orphan"
	creationMerge         = "Merge"
	creationCreateOrMerge = "CreateOrMerge"
	creationNone          = "None"
	deletionRetain        = "Retain"
	deletionDelete        = "Delete"
	deletionMerge         = "Merge"
)

var secretKey = regexp.MustCompile(`^[-._a-zA-Z0-9]{1,253}$`)

// Spec returns the spec of an ExternalSecret with its defaults filled in. Whatever is not served is an error of kind
// Invalid that names the field.
func Spec(obj manifest.Object) (v1.ExternalSecretSpec, error) { return specOf(obj) }

func specOf(obj manifest.Object) (v1.ExternalSecretSpec, error) {
	var spec v1.ExternalSecretSpec
	if err := decodeSpec(obj, &spec); err != nil {
		return spec, err
	}
	defaults(&spec)
	return spec, check(obj, spec)
}

// decodeSpec reads the spec into a type, and refuses what the type does not know.
func decodeSpec(obj manifest.Object, into any) error {
	ref := obj.Ref()
	if version := obj.GVK().Version; version != "v1" && version != "v1beta1" {
		return fault.New(fault.StageOpen, fault.Invalid, ref, "the version %q is not served", version).At("apiVersion").Fix("write external-secrets.io/v1")
	}
	if path, opened := obj.OpenedOutsideSecret(); opened {
		return fault.New(fault.StageOpen, fault.Invalid, ref, "a decrypted value stands in the object").At(path).Fix("refer to a Secret instead")
	}
	raw, err := json.Marshal(obj.Peek("spec"))
	if err != nil {
		return fault.New(fault.StageOpen, fault.Invalid, ref, "the spec is not JSON").At("spec")
	}
	unknown, err := sigsjson.UnmarshalStrict(raw, into)
	if err != nil {
		return fault.New(fault.StageOpen, fault.Invalid, ref, "the spec does not have the shape of the kind").At("spec").Fix("compare it with `kubectl explain %s.spec`", strings.ToLower(ref.Kind))
	}
	if len(unknown) > 0 {
		return fault.New(fault.StageOpen, fault.Invalid, ref, "not served yet: %s", fieldNames(unknown)).At("spec").Fix("remove the field")
	}
	return nil
}

// fieldNames takes the names out of `unknown field "a.b"`.
func fieldNames(errs []error) string {
	var names []string
	for _, e := range errs {
		if _, rest, ok := strings.Cut(e.Error(), `"`); ok {
			name, _, _ := strings.Cut(rest, `"`)
			names = append(names, "spec."+name)
		}
	}
	return strings.Join(names, ", ")
}

// defaults fills in what the schemas of v1 and v1beta1 would, so that a spec of Git compares with one of the cluster.
func defaults(s *v1.ExternalSecretSpec) {
	or := func(v *string, def string) {
		if *v == "" {
			*v = def
		}
	}
	or(&s.SecretStoreRef.Kind, kindStore)
	or(&s.RefreshPolicy, RefreshPeriodic)
	or(&s.Target.CreationPolicy, creationOwner)
	or(&s.Target.DeletionPolicy, deletionRetain)
	if s.RefreshInterval == nil {
		d := DefaultInterval
		s.RefreshInterval = &d
	}
	if t := s.Target.Template; t != nil {
		or(&t.EngineVersion, "v2")
		or(&t.MergePolicy, "Replace")
		if len(t.Data) == 0 {
			t.Data = nil
		}
	}
	for i := range s.Data {
		r := &s.Data[i].RemoteRef
		or(&r.ConversionStrategy, "Default")
		or(&r.DecodingStrategy, "None")
		or(&r.MetadataPolicy, "None")
		or(&r.NullBytePolicy, "Ignore")
	}
}

// check refuses what is not served, and what the webhook of external-secrets refuses.
func check(obj manifest.Object, s v1.ExternalSecretSpec) error {
	no := func(path, remedy, words string) error {
		return fault.New(fault.StageOpen, fault.Invalid, obj.Ref(), "%s", words).At(path).Fix("%s", remedy)
	}
	const unserved = "not served yet"
	t := s.Target
	switch {
	case len(s.DataFrom) > 0:
		return no("spec.dataFrom", "list the keys under spec.data", unserved)
	case len(s.Data) == 0:
		return no("spec.data", "list the keys to read", "there is nothing to read")
	case t.DeletionPolicy == deletionDelete && t.CreationPolicy != creationOwner:
		return no("spec.target.deletionPolicy", "use creationPolicy: Owner", "Delete needs creationPolicy Owner")
	case t.DeletionPolicy == deletionMerge && t.CreationPolicy == creationNone:
		return no("spec.target.deletionPolicy", "use Retain", "Merge cannot stand with creationPolicy None")
	}
	seen := map[string]bool{}
	for i, d := range s.Data {
		switch {
		case !secretKey.MatchString(d.SecretKey):
			return no(field(i, "secretKey"), "use letters, digits, -, _ and .", "the key is no key of a Secret")
		case seen[d.SecretKey] && t.DeletionPolicy == deletionRetain:
			return no(field(i, "secretKey"), "remove one of them", "the key stands twice")
		case d.RemoteRef.Key == "":
			return no(field(i, "remoteRef.key"), "name the secret", "missing")
		case d.RemoteRef.MetadataPolicy == "Fetch":
			return no(field(i, "remoteRef.metadataPolicy"), "leave it out", "Fetch is "+unserved)
		case d.SourceRef != nil && d.SourceRef.GeneratorRef != nil:
			return no(field(i, "sourceRef.generatorRef"), "read the value from a store", unserved)
		}
		seen[d.SecretKey] = true
	}
	return checkTemplate(t.Template, no)
}

// privileged are the types of Secret that the cluster acts upon: whoever makes one gets a credential.
func privileged(kind string) bool {
	return kind == "kubernetes.io/service-account-token" || kind == "bootstrap.kubernetes.io/token"
}

func checkTemplate(t *v1.TargetTemplate, no func(path, remedy, words string) error) error {
	const at = "spec.target.template"
	if t == nil {
		return nil
	}
	switch {
	case privileged(string(t.Type)):
		return no(at+".type", "use another type; tokens are made with TokenRequest", "an ExternalSecret may not make a Secret of this type")
	case len(t.TemplateFrom) > 0:
		return no(at+".templateFrom", "write the templates under spec.target.template.data", "not served yet")
	case t.EngineVersion != "v2":
		return no(at+".engineVersion", "use v2", "only v2 is served")
	}
	for key := range t.Data {
		if !secretKey.MatchString(key) {
			return no(at+".data", "use letters, digits, -, _ and .", "a key is no key of a Secret")
		}
	}
	return nil
}
