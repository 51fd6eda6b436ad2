package main

import (
	"context"
	"encoding/base64"
	"time"

	"k8s.io/apimachinery/pkg/types"

	"sealock.dev/sealock/cluster"
	"sealock.dev/sealock/fault"
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

// fromRecord reads what the controller persists of each Kustomization, in its own namespace.
type fromRecord struct {
	session   *session
	namespace string
}

func (f fromRecord) of(ctx context.Context, owner types.NamespacedName, id manifest.ID) (origin, error) {
	name := cluster.RecordName(owner.Namespace, owner.Name)
	obj, err := f.session.get(ctx, configMapKind, f.namespace, name)
	ref := configMapKind.ref(f.namespace, name)
	switch kind := fault.KindOf(err); {
	case err == nil:
	case kind == fault.NotFound:
		return origin{}, fault.New("", kind, ref, "the record of the controller is not there").
			Fix("name the namespace of the installation with --system-namespace; if it is this one, nothing was applied yet")
	case kind == fault.Denied:
		return origin{}, fault.New("", kind, ref, "you may not read the record of the controller").
			Fix("ask for the right, or name a clone of the repository with --path; another installation is named with --system-namespace")
	default:
		return origin{}, err
	}
	packed, err := base64.StdEncoding.DecodeString(field(obj, "binaryData", cluster.RecordKey))
	if err != nil {
		return origin{}, fault.New("", fault.Invalid, ref, "the record is not base64")
	}
	record, err := cluster.DecodeRecord(packed)
	if err != nil {
		return origin{}, fault.New("", fault.Invalid, ref, "%w", err)
	}
	known := origin{Tenant: record.Tenant, Identity: record.Identity, Policies: record.Policies}
	noted := false
	for _, o := range record.Objects {
		if o.ID == id.String() {
			noted, known.File, known.Line, known.Revision, known.Applied = true, o.File, o.Line, o.Revision, o.Applied
			known.DriftedAt, known.DriftedBy = o.DriftedAt, o.DriftedBy
		}
	}
	if !noted {
		return known, fault.New("", fault.NotFound, ref, "the record of the controller does not have the object").Fix("reconcile the Kustomization")
	}
	return known, nil
}

// fromFolder completes file and line from a clone of the repository.
type fromFolder struct {
	provenance
	session *session
	dir     string
	system  string
}

func (f fromFolder) of(ctx context.Context, owner types.NamespacedName, id manifest.ID) (origin, error) {
	known, _ := f.provenance.of(ctx, owner, id) // the folder is the answer to who may not read the record
	if known.File != "" {
		return known, nil
	}
	ks, err := f.session.get(ctx, kustomizationKind, owner.Namespace, owner.Name)
	if err != nil {
		return known, err
	}
	from, err := cloneAt(f.dir, "")
	if err != nil {
		return known, err
	}
	want, err := f.session.build(ctx, ks, from, "", f.system)
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
