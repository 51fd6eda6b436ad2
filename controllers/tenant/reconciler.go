// Package tenant makes what a Tenant promises: its namespaces with their labels, and the rights of its GitOps identity
// in them; and it keeps the index of tenants that every other part asks.
//
// It must not judge what a tenant does, and it never deletes a namespace: a namespace that leaves its tenant only loses
// the label and the rights.
package tenant

import (
	"context"
	"errors"
	"fmt"
	"sort"
	"strings"

	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	corev1ac "k8s.io/client-go/applyconfigurations/core/v1"
	rbacv1ac "k8s.io/client-go/applyconfigurations/rbac/v1"
	"k8s.io/client-go/tools/record"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller/controllerutil"

	"sealock.dev/sealock/api/sealock/v1alpha1"
	"sealock.dev/sealock/tenants"
)

const (
	fieldOwner  = "sealock"
	bindingName = "sealock-tenant"
	finalizer   = "sealock.dev/tenant"
)

// Reconciler keeps namespaces and role bindings as the Tenants say.
type Reconciler struct {
	Client   client.Client
	Registry *Registry
	Events   record.EventRecorder
	// Changed is told when the index of tenants changed in a way that others see.
	Changed func()
}

// Reconcile is called for a change of a Tenant, of one of its namespaces, or of a role binding in them.
func (r *Reconciler) Reconcile(ctx context.Context, req ctrl.Request) (ctrl.Result, error) {
	if err := r.reload(ctx); err != nil {
		return ctrl.Result{}, err
	}
	t := &v1alpha1.Tenant{}
	if err := r.Client.Get(ctx, req.NamespacedName, t); err != nil {
		return ctrl.Result{}, client.IgnoreNotFound(err)
	}
	if !t.DeletionTimestamp.IsZero() {
		return ctrl.Result{}, r.release(ctx, t)
	}
	if !controllerutil.ContainsFinalizer(t, finalizer) {
		patch := client.MergeFromWithOptions(t.DeepCopy(), client.MergeFromWithOptimisticLock{})
		controllerutil.AddFinalizer(t, finalizer)
		if err := r.Client.Patch(ctx, t, patch, client.FieldOwner(fieldOwner)); err != nil {
			return ctrl.Result{}, client.IgnoreNotFound(err)
		}
	}
	err := r.provide(ctx, t)
	return ctrl.Result{}, errors.Join(err, r.report(ctx, t, err))
}

func (r *Reconciler) reload(ctx context.Context) error {
	changed, err := r.Registry.Reload(ctx, r.Client)
	if changed && r.Changed != nil {
		r.Changed()
	}
	return err
}

// provide makes the namespaces and bindings of the tenant, and takes back what is no longer its own.
func (r *Reconciler) provide(ctx context.Context, t *v1alpha1.Tenant) error {
	labels := map[string]map[string]string{}
	for _, ns := range t.Spec.Namespaces {
		labels[ns.Name] = ns.Labels
	}
	owned := map[string]bool{}
	var errs []error
	for _, name := range r.Registry.Index().NamespacesOf(t.Name) {
		owned[name] = true
		errs = append(errs, r.namespace(ctx, t, name, labels[name]), r.binding(ctx, t, name))
	}
	return errors.Join(append(errs, r.takeBack(ctx, t.Name, owned))...)
}

func (r *Reconciler) namespace(ctx context.Context, t *v1alpha1.Tenant, name string, extra map[string]string) error {
	want := map[string]string{v1alpha1.TenantLabel: t.Name}
	for k, v := range extra {
		want[k] = v
	}
	live := &corev1.Namespace{}
	err := r.Client.Get(ctx, client.ObjectKey{Name: name}, live)
	if err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("reading namespace %q: %w", name, err)
	}
	if err == nil && has(live.Labels, want) {
		return nil
	}
	if err := r.Client.Apply(ctx, corev1ac.Namespace(name).WithLabels(want), client.FieldOwner(fieldOwner), client.ForceOwnership); err != nil {
		return fmt.Errorf("writing namespace %q: %w", name, err)
	}
	if apierrors.IsNotFound(err) {
		r.Events.Eventf(t, corev1.EventTypeNormal, "NamespaceCreated", "created namespace %s", name)
	}
	return nil
}

func has(have, want map[string]string) bool {
	for k, v := range want {
		if have[k] != v {
			return false
		}
	}
	return true
}

// binding gives the identity of the tenant its role in one namespace. A binding cannot change its role, so that one to
// another role is replaced.
func (r *Reconciler) binding(ctx context.Context, t *v1alpha1.Tenant, namespace string) error {
	role := tenants.Role(t)
	live := &rbacv1.RoleBinding{}
	err := r.Client.Get(ctx, client.ObjectKey{Namespace: namespace, Name: bindingName}, live)
	if err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("reading role binding %s/%s: %w", namespace, bindingName, err)
	}
	user := tenants.User(t.Name)
	if err == nil {
		same := live.RoleRef.Name == role && live.RoleRef.Kind == "ClusterRole"
		if same && len(live.Subjects) == 1 && live.Subjects[0].Kind == rbacv1.UserKind && live.Subjects[0].Name == user && live.Labels[v1alpha1.TenantLabel] == t.Name {
			return nil
		}
		if !same {
			if err := r.Client.Delete(ctx, live, client.Preconditions{UID: &live.UID}); client.IgnoreNotFound(err) != nil {
				return fmt.Errorf("replacing role binding %s/%s: %w", namespace, bindingName, err)
			}
		}
	}
	want := rbacv1ac.RoleBinding(bindingName, namespace).
		WithLabels(map[string]string{v1alpha1.TenantLabel: t.Name}).
		WithRoleRef(rbacv1ac.RoleRef().WithAPIGroup(rbacv1.GroupName).WithKind("ClusterRole").WithName(role)).
		WithSubjects(rbacv1ac.Subject().WithAPIGroup(rbacv1.GroupName).WithKind(rbacv1.UserKind).WithName(user))
	if err := r.Client.Apply(ctx, want, client.FieldOwner(fieldOwner), client.ForceOwnership); err != nil {
		return fmt.Errorf("writing role binding %s/%s: %w", namespace, bindingName, err)
	}
	return nil
}

// takeBack removes the rights, then the label, from namespaces that carry the tenant's label and are not its own.
func (r *Reconciler) takeBack(ctx context.Context, tenant string, owned map[string]bool) error {
	list := &corev1.NamespaceList{}
	if err := r.Client.List(ctx, list, client.MatchingLabels{v1alpha1.TenantLabel: tenant}); err != nil {
		return fmt.Errorf("listing namespaces of tenant %q: %w", tenant, err)
	}
	var errs []error
	for i := range list.Items {
		ns := &list.Items[i]
		if owned[ns.Name] {
			continue
		}
		rb := &rbacv1.RoleBinding{ObjectMeta: metav1.ObjectMeta{Namespace: ns.Name, Name: bindingName}}
		if err := client.IgnoreNotFound(r.Client.Delete(ctx, rb)); err != nil {
			errs = append(errs, fmt.Errorf("removing role binding %s/%s: %w", ns.Name, bindingName, err))
			continue
		}
		patch := client.MergeFrom(ns.DeepCopy())
		delete(ns.Labels, v1alpha1.TenantLabel)
		if err := client.IgnoreNotFound(r.Client.Patch(ctx, ns, patch, client.FieldOwner(fieldOwner))); err != nil {
			errs = append(errs, fmt.Errorf("removing the tenant label of namespace %q: %w", ns.Name, err))
		}
	}
	return errors.Join(errs...)
}

// release lets a deleted Tenant go once nothing in the cluster carries its rights any more.
func (r *Reconciler) release(ctx context.Context, t *v1alpha1.Tenant) error {
	if !controllerutil.ContainsFinalizer(t, finalizer) {
		return nil
	}
	if err := r.takeBack(ctx, t.Name, nil); err != nil {
		return err
	}
	patch := client.MergeFromWithOptions(t.DeepCopy(), client.MergeFromWithOptimisticLock{})
	controllerutil.RemoveFinalizer(t, finalizer)
	return client.IgnoreNotFound(r.Client.Patch(ctx, t, patch, client.FieldOwner(fieldOwner)))
}

// report writes the status if it says anything new.
func (r *Reconciler) report(ctx context.Context, t *v1alpha1.Tenant, failure error) error {
	before := t.DeepCopy()
	t.Status.ObservedGeneration = t.Generation
	t.Status.Identity = tenants.User(t.Name)
	cond := metav1.Condition{Type: v1alpha1.ReadyCondition, Status: metav1.ConditionTrue, Reason: "Provided", ObservedGeneration: t.Generation}
	contested := r.Registry.Index().Contested(t.Name)
	switch {
	case failure != nil:
		cond.Status, cond.Reason, cond.Message = metav1.ConditionFalse, "Failed", failure.Error()
	case len(contested) > 0:
		sort.Strings(contested)
		cond.Status, cond.Reason = metav1.ConditionFalse, "NamespaceContested"
		cond.Message = fmt.Sprintf("spec.namespaces: %s: belongs to another tenant, to the platform or to Kubernetes; remove it here or there", strings.Join(contested, ", "))
	default:
		cond.Message = fmt.Sprintf("%d namespaces provided", len(t.Spec.Namespaces))
	}
	if !meta.SetStatusCondition(&t.Status.Conditions, cond) && before.Status.ObservedGeneration == t.Generation && before.Status.Identity == t.Status.Identity {
		return nil
	}
	return client.IgnoreNotFound(r.Client.Status().Patch(ctx, t, client.MergeFrom(before), client.FieldOwner(fieldOwner)))
}
