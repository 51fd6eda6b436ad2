package main

import (
	"context"
	"time"

	"k8s.io/apimachinery/pkg/types"

	"sealock.dev/sealock/manifest"
)

// origin is what the controller noted when it applied an object. What it does not know is zero.
type origin struct {
	File      string // path in the repository
	Line      int
	Revision  string // of the commit that last changed it
	Applied   time.Time
	Tenant    string // who judged: the tenant, the user acted as, and the snapshot of the policies
	Identity  string
	Policies  string
	DriftedAt time.Time // when somebody last changed it on the cluster, and with which field manager
	DriftedBy string
}

// provenance knows where the objects of a Kustomization come from. An error is none of the question's: it is told, and
// the rest is answered.
type provenance interface {
	of(ctx context.Context, owner types.NamespacedName, id manifest.ID) (origin, error)
}

// noRecord knows nothing.
type noRecord struct{}

func (noRecord) of(context.Context, types.NamespacedName, manifest.ID) (origin, error) {
	return origin{}, nil
}

// fromFolder completes file and line from a clone of the repository.
type fromFolder struct {
	provenance
	session *session
	dir     string
}

func (f fromFolder) of(ctx context.Context, owner types.NamespacedName, id manifest.ID) (origin, error) {
	known, err := f.provenance.of(ctx, owner, id)
	if err != nil || known.File != "" {
		return known, err
	}
	ks, err := f.session.get(ctx, kustomizationKind, owner.Namespace, owner.Name)
	if err != nil {
		return known, err
	}
	want, err := f.session.build(ctx, ks, f.dir, "")
	if err != nil {
		return known, err
	}
	for _, o := range want.set {
		// The namespace may be left to the Kustomization.
		if o.GVK().GroupKind() == id.GVK().GroupKind() && o.Name() == id.Name && (o.Namespace() == id.Namespace || o.Namespace() == "") {
			known.File, known.Line = o.Source.File, o.Source.Line
		}
	}
	return known, nil
}
