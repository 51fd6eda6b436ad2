package externalsecrets

import (
	"context"
	"strings"
	"time"

	v1 "sealock.dev/sealock/api/externalsecrets/v1"
	"sealock.dev/sealock/fault"
	"sealock.dev/sealock/plaintext"
	"sealock.dev/sealock/tenants"
)

// Provider is one kind of store. A provider is one file and one entry in the list of the wiring.
type Provider interface {
	// Name is the key under spec.provider.
	Name() string
	// Connect checks the spec, and that every reference in it may be followed by this use. It asks nobody.
	Connect(spec v1.StoreSpec, use Use) (Connection, error)
}

// Connection is a store, used from one namespace.
type Connection interface {
	// Allowed refuses what the fence of the grant does not let through. It asks nobody.
	Allowed(grant tenants.Grant, ref v1.RemoteRef) error
	// Read returns the secret that the reference names, no older than maxAge. NotFound says that there is none.
	Read(ctx context.Context, ref v1.RemoteRef, maxAge time.Duration) (Fields, error)
	// Referent reports whether the credentials depend on the namespace that uses the store.
	Referent() bool
	// Verify logs in, if the fence of the grant lets the server through, and reads nothing.
	Verify(ctx context.Context, grant tenants.Grant) error
}

// Fields is a secret as the provider has it: a JSON object, and how errors call it.
type Fields struct {
	JSON plaintext.Value
	Name string // such as its path; never a value
}

// Use says who uses a store, and reads what the store refers to.
type Use struct {
	Store     fault.Ref
	Cluster   bool   // it is a ClusterSecretStore
	Namespace string // of the ExternalSecret

	find   finder
	fresh  bool // the store comes with the commit
	tokens Tokens
}

// account returns the uid of a ServiceAccount of the cluster. One that comes with the commit, as its store does, is a
// prerequisite: it is applied before it is used.
func (u Use) account(ctx context.Context, namespace, name string) (string, error) {
	upcoming := u.fresh && in(u.find.set, gvkAccount, namespace, name) >= 0
	return u.find.uid(ctx, gvkAccount, namespace, name, upcoming)
}

func (u Use) fail(kind fault.Kind, path, remedy, format string, args ...any) error {
	return fault.New(fault.StageOpen, kind, u.Store, format, args...).At(path).Fix("%s", remedy)
}

// namespace returns where a reference of the store leads. Only a ClusterSecretStore may name a namespace; without one
// its references lead into the namespace that uses it.
func (u Use) namespace(field string, named *string) (string, error) {
	own := u.Namespace
	if !u.Cluster {
		own = u.Store.Namespace
	}
	if named == nil || *named == "" || *named == own && !u.Cluster {
		return own, nil
	}
	if !u.Cluster {
		return "", u.fail(fault.Denied, field+".namespace", "leave it out", "a SecretStore may not refer to another namespace")
	}
	return *named, nil
}

// credential is a value, and what identifies the object that it comes from.
type credential struct {
	value plaintext.Value
	id    string
}

// secret reads a key of a Secret. The namespace was checked before.
func (u Use) secret(ctx context.Context, namespace, name, key string) (credential, error) {
	obj, _, err := u.find.get(ctx, gvkSecret, namespace, name)
	if err != nil {
		return credential{}, err
	}
	v, ok := obj.SecretData()[key]
	if !ok || v.Len() == 0 {
		return credential{}, fault.New(fault.StageOpen, fault.NotFound, fault.Ref{Kind: "Secret", Namespace: namespace, Name: name}, "it has no key %q", key).
			Fix("add the key, or correct the reference in %s", u.Store)
	}
	return credential{value: v, id: strings.Join([]string{"Secret", namespace, name, uid(obj), version(obj)}, "/")}, nil
}
