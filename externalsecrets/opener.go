// Package externalsecrets makes Secrets of ExternalSecrets: it finds the store, asks its provider and shapes the result.
//
// It exists so that the commit and the controller open an ExternalSecret with the same code and get the same bytes. What
// an ExternalSecret means is the contract of external-secrets.io (reference/external-secrets.md, section 1). The package
// must not write anything, follow a reference out of the namespace that may use it, ask a provider before the fence of the
// tenant has let the path through, or drop a field that it does not serve: such a field is named in the error.
package externalsecrets

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/runtime/schema"

	v1 "sealock.dev/sealock/api/externalsecrets/v1"
	"sealock.dev/sealock/fault"
	"sealock.dev/sealock/manifest"
	"sealock.dev/sealock/plaintext"
	"sealock.dev/sealock/template"
	"sealock.dev/sealock/tenants"
)

// Lookup reads one object of the cluster with the rights of the controller. The error for one that is absent is a
// fault.Error of kind NotFound.
type Lookup interface {
	Get(ctx context.Context, gvk schema.GroupVersionKind, namespace, name string) (manifest.Object, error)
	// UID returns the uid of one object. upcoming says that a commit is about to apply it: what was not applied before may
	// then be told to be absent without asking the API server.
	UID(ctx context.Context, gvk schema.GroupVersionKind, namespace, name string, upcoming bool) (string, error)
}

// Tokens makes short-lived tokens of ServiceAccounts. No audiences means those of the API server.
type Tokens interface {
	ServiceAccountToken(ctx context.Context, namespace, name string, audiences []string) (plaintext.Value, error)
}

// DefaultClass is the class of stores that this installation serves, besides those that name none.
const DefaultClass = "default"

// Opener opens ExternalSecrets. It is safe for concurrent use.
type Opener struct {
	Providers []Provider
	Lookup    Lookup
	Tokens    Tokens
	Templates template.Engine
	// Class is spec.controller of the stores that are served. "" is DefaultClass.
	Class string
	// Fence returns the grant of a namespace. A commit may bring an ExternalSecret into a namespace of another tenant;
	// both must allow what it reads. nil: only the grant of the commit counts.
	Fence func(namespace string) tenants.Grant
	// MaxAge is how old an answer of a provider may be for a commit. 0 is 2 seconds.
	MaxAge time.Duration
}

// Opens reports whether the object is an ExternalSecret, of whatever version.
func (o *Opener) Opens(obj manifest.Object) bool {
	return obj.GVK().Group == v1.GroupVersion.Group && obj.Kind() == "ExternalSecret"
}

// Open returns the Secret that an ExternalSecret of a commit yields. One that did not change and whose Secret is valid
// is kept without asking anybody, so that it blocks no commit while a provider is away.
func (o *Opener) Open(ctx context.Context, grant tenants.Grant, obj manifest.Object, set []manifest.Object) (manifest.Produced, error) {
	spec, err := specOf(obj)
	if err != nil {
		return manifest.Produced{}, err
	}
	w := o.work(grant, obj, spec, set)
	if w.unchanged(ctx) {
		return w.kept(), nil
	}
	maxAge := o.MaxAge
	if maxAge == 0 {
		maxAge = 2 * time.Second
	}
	return w.produce(ctx, maxAge)
}

// Refresh returns the Secret that an ExternalSecret of the cluster yields now. Answers of providers that are older than
// maxAge are not used. ErrForeignClass says that its store belongs to another controller.
func (o *Opener) Refresh(ctx context.Context, grant tenants.Grant, obj manifest.Object, maxAge time.Duration) (manifest.Produced, error) {
	spec, err := specOf(obj)
	if err != nil {
		return manifest.Produced{}, err
	}
	w := o.work(grant, obj, spec, nil)
	if w.foreign(ctx) {
		return manifest.Produced{}, ErrForeignClass
	}
	return w.produce(ctx, maxAge)
}

// ErrForeignClass says that spec.controller of a store names another controller.
var ErrForeignClass = errors.New("the store belongs to another controller")

func (o *Opener) class() string {
	if o.Class == "" {
		return DefaultClass
	}
	return o.Class
}

func (o *Opener) work(grant tenants.Grant, obj manifest.Object, spec v1.ExternalSecretSpec, set []manifest.Object) *work {
	return &work{Opener: o, grant: grant, obj: obj, spec: spec, find: finder{set: set, lookup: o.Lookup}, stores: map[string]*store{}}
}

// work is one ExternalSecret being opened.
type work struct {
	*Opener
	grant  tenants.Grant
	obj    manifest.Object
	spec   v1.ExternalSecretSpec
	find   finder
	stores map[string]*store
}

func (w *work) ref() fault.Ref { return w.obj.Ref() }

func (w *work) fail(kind fault.Kind, field, remedy, format string, args ...any) error {
	return fault.New(fault.StageOpen, kind, w.ref(), format, args...).At(field).Fix("%s", remedy)
}

// produce reads every item and shapes the Secret.
func (w *work) produce(ctx context.Context, maxAge time.Duration) (manifest.Produced, error) {
	if w.foreign(ctx) {
		return w.kept(), nil
	}
	values, err := w.read(ctx, maxAge)
	if err != nil {
		return manifest.Produced{}, err
	}
	if w.spec.Target.CreationPolicy == creationNone {
		return w.kept(), nil
	}
	return w.shape(ctx, values)
}

// foreign reports whether a store that is used names another controller. As in external-secrets one is enough.
func (w *work) foreign(ctx context.Context) bool {
	for i := range w.spec.Data {
		s, err := w.store(ctx, w.storeRef(i))
		if err == nil && s.spec.Controller != "" && s.spec.Controller != w.class() {
			return true
		}
	}
	return false
}

// storeRef returns the store of an item.
func (w *work) storeRef(i int) v1.StoreRef {
	ref := w.spec.SecretStoreRef
	if own := w.spec.Data[i].SourceRef; own != nil && own.StoreRef != nil {
		ref = *own.StoreRef
	}
	if ref.Kind == "" {
		ref.Kind = kindStore
	}
	return ref
}

// read returns the value of every item. What fails alike for several items is said once, and names them all.
func (w *work) read(ctx context.Context, maxAge time.Duration) (map[string]plaintext.Value, error) {
	out := map[string]plaintext.Value{}
	var failures []*failure
	for i, item := range w.spec.Data {
		v, err := w.item(ctx, i, maxAge)
		if err == nil {
			out[item.SecretKey] = v
			continue
		}
		failures = collect(failures, i, item.SecretKey, err)
	}
	errs := make([]error, 0, len(failures))
	for _, f := range failures {
		errs = append(errs, f.err(w.ref()))
	}
	return out, errors.Join(errs...)
}

func (w *work) item(ctx context.Context, i int, maxAge time.Duration) (plaintext.Value, error) {
	s, err := w.store(ctx, w.storeRef(i))
	if err != nil {
		return plaintext.Value{}, err
	}
	ref := w.spec.Data[i].RemoteRef
	if err := s.allowed(w, ref); err != nil {
		return plaintext.Value{}, err
	}
	fields, err := s.fields(ctx, ref, maxAge)
	if err != nil {
		return plaintext.Value{}, err
	}
	return pick(fields, ref)
}

// failure is a cause, and the items that it stops.
type failure struct {
	cause error
	index int
	keys  []string
}

func collect(list []*failure, index int, key string, err error) []*failure {
	for _, f := range list {
		if f.cause.Error() == err.Error() {
			f.keys = append(f.keys, key)
			return list
		}
	}
	return append(list, &failure{cause: err, index: index, keys: []string{key}})
}

// err names the ExternalSecret, the item and its keys.
func (f *failure) err(ref fault.Ref) error {
	slices.Sort(f.keys)
	what := "secret key " + quoted(f.keys)
	known := fault.All(f.cause)
	if len(known) == 0 {
		return fault.New(fault.StageOpen, fault.Internal, ref, "%s: reading failed", what).At(field(f.index, "")).Fix("see the log of the controller")
	}
	e := *known[0]
	text := e.Kind.String()
	if e.Err != nil {
		text = e.Err.Error()
	}
	if e.Ref.Name != "" { // it is about another object: a store, or a credential of it
		about := fault.Error{Ref: e.Ref, Field: e.Field, Err: errors.New(text)}
		text, e.Field = about.Error(), ""
	}
	out := fault.New(fault.StageOpen, e.Kind, ref, "%s: %s", what, text).At(field(f.index, e.Field))
	out.Remedy = e.Remedy
	return out
}

func field(index int, below string) string {
	path := fmt.Sprintf("spec.data[%d]", index)
	if below == "" {
		return path
	}
	return path + "." + below
}

func quoted(keys []string) string {
	const most = 5
	var out []string
	for _, k := range keys[:min(most, len(keys))] {
		out = append(out, fmt.Sprintf("%q", k))
	}
	text := strings.Join(out, ", ")
	if len(keys) > most {
		text += fmt.Sprintf(" and %d more", len(keys)-most)
	}
	return text
}
