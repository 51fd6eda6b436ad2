package kustomization

import (
	"cmp"
	"context"
	"slices"
	"strings"

	kustomizev1 "github.com/fluxcd/kustomize-controller/api/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"sealock.dev/sealock/fault"
	"sealock.dev/sealock/manifest"
	"sealock.dev/sealock/tenants"
)

// forsaken decides whether a deletion that failed is given up, and returns what then stays. It is when each of the failures is
// one that waiting cannot heal: nobody to act as, or no way to the other cluster. A right that is missing may be granted,
// and a webhook may change its mind; whoever gave up then would leave orphans that nobody knows of.
func (r *Reconciler) forsaken(ctx context.Context, ks *kustomizev1.Kustomization, err error) (left []string, hopeless bool) {
	failures := fault.All(err)
	for _, f := range failures {
		switch {
		case nobody(f):
			return listed(ks), true
		case f.Stage != fault.StagePrune, ks.Spec.KubeConfig != nil:
			return nil, false
		case r.going(ctx, f.Ref.Namespace):
		case r.powerless(ctx, ks, f):
			left = append(left, f.Ref.String())
		default:
			return nil, false
		}
	}
	return left, len(failures) > 0
}

// nobody reports that there is no identity, or that what leads to another cluster is gone or wrong.
func nobody(f *fault.Error) bool {
	if strings.HasPrefix(f.Field, "spec.kubeConfig") {
		return f.Kind == fault.Invalid || f.Kind == fault.NotFound
	}
	return f.Stage == fault.StageGrant && (f.Kind == fault.Denied || f.Kind == fault.Invalid)
}

// going reports a namespace that is being deleted, or was, with everything in it: the rights of those who act there go first,
// and a finalizer that waited for them would hold the namespace for ever.
func (r *Reconciler) going(ctx context.Context, namespace string) bool {
	if namespace == "" {
		return false
	}
	at := object("Namespace")
	err := r.APIReader.Get(ctx, types.NamespacedName{Name: namespace}, at)
	return apierrors.IsNotFound(err) || err == nil && !at.DeletionTimestamp.IsZero()
}

// powerless reports an identity that may not delete the object, and will not: the grant no longer has it, or it is a service
// account that does not exist any more.
func (r *Reconciler) powerless(ctx context.Context, ks *kustomizev1.Kustomization, f *fault.Error) bool {
	grant, err := r.identity(ks)
	if err != nil || f.Kind != fault.Denied {
		return false
	}
	return !granted(grant, f.Ref) || r.absent(ctx, grant.User)
}

func granted(grant tenants.Grant, ref fault.Ref) bool {
	if ref.Namespace != "" {
		return grant.AllowsNamespace(ref.Namespace)
	}
	return grant.AllowsClusterKind(gvkOf(ref.APIVersion, ref.Kind).Group, ref.Kind)
}

func (r *Reconciler) absent(ctx context.Context, user string) bool {
	account, is := strings.CutPrefix(user, tenants.ServiceAccountPrefix)
	namespace, name, _ := strings.Cut(account, ":")
	return is && apierrors.IsNotFound(r.APIReader.Get(ctx, types.NamespacedName{Namespace: namespace, Name: name}, object("ServiceAccount")))
}

// object is one of the core kinds of which only the metadata is asked.
func object(kind string) *metav1.PartialObjectMetadata {
	o := &metav1.PartialObjectMetadata{}
	o.SetGroupVersionKind(corev1.SchemeGroupVersion.WithKind(kind))
	return o
}

// rightsLast moves roles, and behind them bindings, to the end: the identity may delete by some of them.
func rightsLast(ids []manifest.ID) {
	rank := func(id manifest.ID) int {
		switch {
		case id.Group != rbacv1.GroupName:
			return 0
		case strings.HasSuffix(id.Kind, "Binding"):
			return 2
		}
		return 1
	}
	slices.SortStableFunc(ids, func(a, b manifest.ID) int { return cmp.Compare(rank(a), rank(b)) })
}

// listed names everything in the inventory.
func listed(ks *kustomizev1.Kustomization) []string {
	ids, _ := inventoryOf(ks)
	out := make([]string, len(ids))
	for i, id := range ids {
		out[i] = id.Ref().String()
	}
	return out
}
