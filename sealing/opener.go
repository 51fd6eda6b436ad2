package sealing

import (
	"context"
	"encoding/base64"
	"errors"
	"maps"
	"slices"

	"sealock.dev/sealock/api/sealing/v1alpha1"
	"sealock.dev/sealock/fault"
	"sealock.dev/sealock/manifest"
	"sealock.dev/sealock/plaintext"
	"sealock.dev/sealock/tenants"
)

// FieldManager is the name under which the peer's controller updates Secrets, so that what it wrote becomes ours.
const FieldManager = "controller"

// Templates executes a template of spec.template.data over values. It must be bounded and deterministic, and what it
// returns as error text must not carry a value.
type Templates interface {
	Execute(ctx context.Context, name, text string, values map[string]plaintext.Value) (plaintext.Value, error)
}

// Opener makes Secrets of SealedSecrets. It is stateless but for its ring, and safe for concurrent use.
type Opener struct {
	ring      *KeyRing
	templates Templates
}

// NewOpener returns an Opener that opens with the ring.
func NewOpener(ring *KeyRing, templates Templates) *Opener {
	return &Opener{ring: ring, templates: templates}
}

// Opens reports whether o is a SealedSecret.
func (op *Opener) Opens(o manifest.Object) bool { return isSealedSecret(o) }

func isSealedSecret(o manifest.Object) bool {
	return o.APIVersion() == v1alpha1.GroupVersion.String() && o.Kind() == "SealedSecret"
}

// Prerequisites returns nothing: a SealedSecret needs no other object.
func (op *Opener) Prerequisites(manifest.Object, []manifest.Object) []int { return nil }

// Open returns the Secret that o yields. What the grant or the rules forbid is refused before anything is decrypted.
// Its error has one fault for each key that does not open; none carries a value.
func (op *Opener) Open(ctx context.Context, grant tenants.Grant, o manifest.Object, _ []manifest.Object) (manifest.Produced, error) {
	if o.Namespace() == "" {
		return manifest.Produced{}, fail(o, fault.Invalid, "metadata.namespace", "missing", "a SealedSecret stands in a namespace")
	}
	scope := ScopeOf(o.Annotations())
	if !grant.AllowsSealScope(string(scope)) {
		return manifest.Produced{}, fail(o, fault.Denied, "metadata.annotations."+scope.annotation(), "the scope "+string(scope)+" is not allowed in this namespace",
			"seal with --scope strict, or let the platform team list the scope in spec.sealedSecretScopes of the Tenant")
	}
	t, err := parseTemplate(o)
	if err != nil {
		return manifest.Produced{}, err
	}
	if err := errors.Join(t.refuse(o)...); err != nil {
		return manifest.Produced{}, err
	}
	if o.Peek("spec", "data") != nil {
		return op.openLegacy(ctx, o, scope)
	}
	opened, err := op.decrypt(ctx, o, scope)
	if err != nil {
		return manifest.Produced{}, err
	}
	data, err := op.compose(ctx, o, t, opened)
	if err != nil {
		return manifest.Produced{}, err
	}
	return produce(o, t, data), nil
}

// produce puts the Secret together.
func produce(o manifest.Object, t secretTemplate, data map[string]plaintext.Value) manifest.Produced {
	owner := o.Ref()
	owner.APIVersion = v1alpha1.GroupVersion.String()
	return manifest.Produced{
		Owner: owner,
		Secret: manifest.NewSecret(o.Namespace(), o.Name(), t.typ, data, manifest.Sealed, o.Source).
			WithMeta(t.labels, t.annotations),
		FieldManager:   FieldManager,
		OwnerReference: t.annotations[v1alpha1.AnnotationSkipOwnerRefs] != "true",
		CreateIfAbsent: true,
		Adopt:          manifest.AdoptOwned,
		Immutable:      t.immutable,
	}
}

// decrypt opens every item, and reports every one that does not open.
func (op *Opener) decrypt(ctx context.Context, o manifest.Object, scope Scope) (map[string]plaintext.Value, error) {
	items, err := itemsOf(o)
	errs := []error{err}
	label := scope.Label(o.Namespace(), o.Name())
	opened := make(map[string]plaintext.Value, len(items))
	for _, item := range items {
		v, err := op.ring.Open(ctx, item.ciphertext, label)
		switch {
		case err == nil:
			opened[item.key] = v
		case errors.Is(err, errNoKey):
			errs = append(errs, op.noKey(o, scope, item.field, item.ciphertext))
		case errors.Is(err, errNotLoaded):
			return nil, fail(o, fault.Transient, "spec.encryptedData", errNotLoaded.Error(), "wait for the controller to finish starting")
		default:
			return nil, fail(o, fault.Transient, "spec.encryptedData", "interrupted while opening", "nothing; it is tried again")
		}
	}
	return opened, errors.Join(errs...)
}

// noKey names the candidates. Which of them it is cannot be told, and must not be.
func (op *Opener) noKey(o manifest.Object, scope Scope, field string, ciphertext []byte) error {
	bits, ok := op.ring.fits(ciphertext)
	if !ok {
		return fault.New(fault.StageOpen, fault.NoKey, o.Ref(), "%w", errNoKey).At(field).
			Fix("it is sealed for a key of %d bits and this cluster has none of that size: seal it with this cluster's certificate", bits)
	}
	place := "name " + o.Name() + " in namespace " + o.Namespace()
	switch scope {
	case NamespaceWide:
		place = "namespace " + o.Namespace()
	case ClusterWide:
		place = "every namespace"
	case Strict:
	}
	return fault.New(fault.StageOpen, fault.NoKey, o.Ref(), "%w", errNoKey).At(field).
		Fix("it is cut or altered, or sealed for another name, namespace or scope than %s (%s), or for another cluster's key: seal it again for this place with this cluster's certificate", place, scope)
}

// compose adds what the templates of spec.template.data yield. Opened values win over a template of the same key, and
// null leaves an opened value out of the Secret while other templates still see it.
func (op *Opener) compose(ctx context.Context, o manifest.Object, t secretTemplate, opened map[string]plaintext.Value) (map[string]plaintext.Value, error) {
	data := maps.Clone(opened)
	values := maps.Clone(opened)
	for key, text := range t.data {
		if text == nil {
			delete(data, key)
		} else if _, taken := opened[key]; !taken {
			values[key] = plaintext.FromString(*text)
		}
	}
	var errs []error
	for _, key := range slices.Sorted(maps.Keys(t.data)) {
		text := t.data[key]
		if _, taken := opened[key]; taken || text == nil {
			continue
		}
		v, err := op.templates.Execute(ctx, key, *text, values)
		if err != nil {
			errs = append(errs, templateFault(o, key, err, opened))
			continue
		}
		data[key] = v
	}
	return data, errors.Join(errs...)
}

// templateFault keeps the classification of a template's error, and its text only after a scrubber has seen it.
func templateFault(o manifest.Object, key string, err error, opened map[string]plaintext.Value) error {
	f := fault.New(fault.StageOpen, fault.Invalid, o.Ref(), "the template failed").At("spec.template.data." + key).
		Fix("correct the template; a missing key and an unknown function are errors")
	if faults := fault.All(err); len(faults) > 0 {
		scrub := plaintext.NewScrubber(slices.Collect(maps.Values(opened))...)
		f.Kind = faults[0].Kind
		if faults[0].Err != nil {
			f.Err = errors.New(scrub.Scrub(faults[0].Err.Error()))
		}
		if faults[0].Remedy != "" {
			f.Remedy = scrub.Scrub(faults[0].Remedy)
		}
	}
	return f
}

// item is one ciphertext of a SealedSecret.
type item struct {
	key        string
	field      string
	ciphertext []byte
}

// itemsOf returns the items by key. A value that is no string, or no base64, is reported: the peer would drop all of
// them without a word.
func itemsOf(o manifest.Object) ([]item, error) {
	raw := o.Peek("spec", "encryptedData")
	if raw == nil {
		return nil, nil
	}
	m, ok := raw.(map[string]any)
	if !ok {
		return nil, fail(o, fault.Invalid, "spec.encryptedData", "not a mapping", "write a mapping of keys to what sealock seal prints")
	}
	var out []item
	var errs []error
	for _, key := range slices.Sorted(maps.Keys(m)) {
		field := "spec.encryptedData." + key
		text, ok := m[key].(string)
		if !ok {
			errs = append(errs, fail(o, fault.Invalid, field, "the value is not a string", "quote it"))
			continue
		}
		ciphertext, err := decodeItem(text)
		if err != nil {
			errs = append(errs, fail(o, fault.Invalid, field, err.Error(), "put in what sealock seal prints, whole"))
			continue
		}
		out = append(out, item{key: key, field: field, ciphertext: ciphertext})
	}
	return out, errors.Join(errs...)
}

func decodeItem(text string) ([]byte, error) {
	if base64.StdEncoding.DecodedLen(len(text)) > maxSealed+base64.StdEncoding.DecodedLen(8) {
		return nil, errors.New("the value is larger than a Secret can be")
	}
	out, err := base64.StdEncoding.DecodeString(text) // ignores line breaks
	if err != nil {
		return nil, errors.New("no ciphertext: the value is not base64")
	}
	return out, nil
}

func fail(o manifest.Object, kind fault.Kind, field, cause, remedy string) error {
	return fault.New(fault.StageOpen, kind, o.Ref(), "%s", cause).At(field).Fix("%s", remedy)
}
