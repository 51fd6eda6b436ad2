package externalsecrets

import (
	"context"
	"maps"
	"regexp"
	"slices"
	"strings"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"

	v1 "sealock.dev/sealock/api/externalsecrets/v1"
	"sealock.dev/sealock/fault"
	"sealock.dev/sealock/manifest"
	"sealock.dev/sealock/tenants"
)

// store is a SecretStore or ClusterSecretStore as one namespace uses it.
type store struct {
	ref     fault.Ref
	spec    v1.StoreSpec
	conn    Connection
	err     error // why it cannot be used; every item gets it without asking again
	answers map[string]result
}

type result struct {
	fields Fields
	err    error
}

func (s *store) fail(kind fault.Kind, path, remedy, format string, args ...any) error {
	return fault.New(fault.StageOpen, kind, s.ref, format, args...).At(path).Fix("%s", remedy)
}

// store returns the store for the namespace of the ExternalSecret, checked but not connected.
func (w *work) store(ctx context.Context, ref v1.StoreRef) (*store, error) {
	key := ref.Kind + "/" + ref.Name
	if s, ok := w.stores[key]; ok {
		return s, s.err
	}
	s := &store{answers: map[string]result{}}
	s.err = w.open(ctx, s, ref)
	w.stores[key] = s
	return s, s.err
}

func (w *work) open(ctx context.Context, s *store, ref v1.StoreRef) error {
	if ref.Name == "" {
		return w.fail(fault.Invalid, "", "name a store in spec.secretStoreRef", "no store is named")
	}
	gvk, namespace := gvkStore, w.obj.Namespace()
	switch ref.Kind {
	case kindStore:
	case kindClusterStore:
		gvk, namespace = gvkClusterStore, ""
	default:
		return w.fail(fault.Invalid, "", "use SecretStore or ClusterSecretStore", "the kind of store %q is not served", ref.Kind)
	}
	obj, fresh, err := w.find.get(ctx, gvk, namespace, ref.Name)
	if err != nil {
		return err
	}
	if err := w.load(s, obj, fresh); err != nil {
		return err
	}
	if ref.Kind == kindClusterStore {
		return w.usable(ctx, s)
	}
	return nil
}

// load reads the spec of a store and picks its provider. fresh says that the store comes with the commit.
func (w *work) load(s *store, obj manifest.Object, fresh bool) error {
	s.ref = obj.Ref()
	provider, err := w.providerOf(obj)
	if err != nil {
		return err
	}
	if err := decodeSpec(obj, &s.spec); err != nil {
		return err
	}
	s.conn, err = provider.Connect(s.spec, Use{
		Store: s.ref, Cluster: obj.Kind() == kindClusterStore, Namespace: w.obj.Namespace(), find: w.find, fresh: fresh, tokens: w.Tokens,
	})
	return err
}

// providerOf names a provider that is not served, instead of saying that a field is unknown.
func (w *work) providerOf(obj manifest.Object) (Provider, error) {
	m, _ := obj.Peek("spec", "provider").(map[string]any)
	names := slices.Sorted(maps.Keys(m))
	if len(names) != 1 {
		return nil, fault.New(fault.StageOpen, fault.Invalid, obj.Ref(), "the store has %d providers", len(names)).At("spec.provider").Fix("name exactly one")
	}
	for _, p := range w.Providers {
		if p.Name() == names[0] {
			return p, nil
		}
	}
	var served []string
	for _, p := range w.Providers {
		served = append(served, p.Name())
	}
	return nil, fault.New(fault.StageOpen, fault.Invalid, obj.Ref(), "ProviderNotSupported: the provider %q is not served", names[0]).
		At("spec.provider."+names[0]).Fix("use one of: %s", strings.Join(served, ", "))
}

// usable checks the conditions of a ClusterSecretStore. None means that every namespace may use it.
func (w *work) usable(ctx context.Context, s *store) error {
	if len(s.spec.Conditions) == 0 {
		return nil
	}
	namespace := w.obj.Namespace()
	var set labels.Set
	for _, c := range s.spec.Conditions {
		if slices.Contains(c.Namespaces, namespace) {
			return nil
		}
		for _, text := range c.NamespaceRegexes {
			// Anchored: otherwise "team-a" would let "not-team-a-at-all" in.
			re, err := regexp.Compile("^(?:" + text + ")$")
			if err != nil {
				return s.fail(fault.Invalid, "spec.conditions.namespaceRegexes", "correct it", "a regular expression is not valid")
			}
			if re.MatchString(namespace) {
				return nil
			}
		}
		if c.NamespaceSelector == nil {
			continue
		}
		if set == nil {
			obj, _, err := w.find.get(ctx, gvkNamespace, "", namespace)
			if err != nil {
				return err
			}
			set = labels.Set{"kubernetes.io/metadata.name": namespace}
			for k, v := range obj.Labels() {
				set[k] = v
			}
		}
		selector, err := metav1.LabelSelectorAsSelector(c.NamespaceSelector)
		if err != nil {
			return s.fail(fault.Invalid, "spec.conditions.namespaceSelector", "correct it", "the selector is not valid")
		}
		if selector.Matches(set) {
			return nil
		}
	}
	return s.fail(fault.Denied, "spec.conditions", "let the owner of the store add the namespace to its conditions", "the store may not be used from the namespace %q", namespace)
}

// allowed checks the fences of the tenant for one item. It asks nobody.
func (s *store) allowed(w *work, ref v1.RemoteRef) error {
	grants := []tenants.Grant{w.grant}
	if w.Fence != nil {
		grants = append(grants, w.Fence(w.obj.Namespace()))
	}
	for _, g := range grants {
		if err := s.conn.Allowed(g, ref); err != nil {
			return err
		}
	}
	return nil
}

// fields reads the secret that a reference names, once for all items that name it.
func (s *store) fields(ctx context.Context, ref v1.RemoteRef, maxAge time.Duration) (Fields, error) {
	key := ref.Version + "\x00" + ref.Key
	if r, ok := s.answers[key]; ok {
		return r.fields, r.err
	}
	f, err := s.conn.Read(ctx, ref, maxAge)
	s.answers[key] = result{fields: f, err: err}
	return f, err
}

// Verify reports whether a login with a SecretStore or ClusterSecretStore succeeds. checked is false where that depends
// on the namespace that uses it, as for a ClusterSecretStore whose references name no namespace. ErrForeignClass says that
// the store belongs to another controller.
func (o *Opener) Verify(ctx context.Context, grant tenants.Grant, obj manifest.Object) (checked bool, err error) {
	w := o.work(grant, obj, v1.ExternalSecretSpec{}, nil)
	if class, _ := obj.Peek("spec", "controller").(string); class != "" && class != o.class() {
		return false, ErrForeignClass
	}
	s := &store{answers: map[string]result{}}
	if err := w.load(s, obj, false); err != nil {
		return false, err
	}
	if s.conn.Referent() {
		return false, nil
	}
	return true, s.conn.Verify(ctx, grant)
}
