package kustomization

import (
	"context"
	"errors"
	"strings"
	"testing"

	kustomizev1 "github.com/fluxcd/kustomize-controller/api/v1"
	fluxmeta "github.com/fluxcd/pkg/apis/meta"
	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"sealock.dev/sealock/api/sealock/v1alpha1"
	"sealock.dev/sealock/fault"
	"sealock.dev/sealock/tenants"
)

// only is a reader in which these objects, "Kind/name", are: true for those that are terminating.
type only struct {
	client.Reader
	there map[string]bool
}

func (o only) Get(_ context.Context, key client.ObjectKey, into client.Object, _ ...client.GetOption) error {
	terminating, ok := o.there[into.GetObjectKind().GroupVersionKind().Kind+"/"+key.Name]
	if !ok {
		return apierrors.NewNotFound(schema.GroupResource{}, key.Name)
	}
	if terminating {
		now := metav1.Now()
		into.SetDeletionTimestamp(&now)
	}
	return nil
}

// TestForsaken: what ends a deletion that fails, and what is tried again. One failure that may heal keeps all of it.
func TestForsaken(t *testing.T) {
	tenant := v1alpha1.Tenant{ObjectMeta: metav1.ObjectMeta{Name: "a"}}
	tenant.Spec.Namespaces, tenant.Spec.ServiceAccounts = []v1alpha1.TenantNamespace{{Name: "a"}, {Name: "going"}}, []string{"here", "gone"}
	r := &Reconciler{
		Tenants:   func() *tenants.Index { return tenants.NewIndex([]v1alpha1.Tenant{tenant}, tenants.DefaultSettings()) },
		APIReader: only{there: map[string]bool{"Namespace/a": false, "Namespace/lost": false, "Namespace/going": true, "ServiceAccount/here": false}},
	}
	one := func(kind fault.Kind, namespace string) error {
		return fault.New(fault.StagePrune, kind, fault.Ref{APIVersion: "v1", Kind: "ConfigMap", Namespace: namespace, Name: "c"}, "x")
	}
	denied, transient := one(fault.Denied, "a"), one(fault.Transient, "a")
	target := func(kind fault.Kind) error {
		return fault.New(fault.StagePlan, kind, fault.Ref{}, "x").At("spec.kubeConfig.secretRef")
	}
	inventory := []string{"ConfigMap/a/c", "ConfigMap/a/d"}
	for name, c := range map[string]struct {
		account string
		remote  bool
		err     error
		left    []string
		over    bool
	}{
		"a right that is missing":                {"here", false, denied, nil, false},
		"beside what may heal":                   {"gone", false, errors.Join(denied, transient), nil, false},
		"a tenant's user without the right":      {"", false, denied, nil, false},
		"the service account is gone":            {"gone", false, denied, inventory[:1], true},
		"something else, without the account":    {"gone", false, transient, nil, false},
		"in a namespace that goes":               {"here", false, one(fault.Denied, "going"), nil, true},
		"a webhook that is gone with it":         {"here", false, one(fault.Transient, "going"), nil, true},
		"in a namespace that goes, and another":  {"here", false, errors.Join(one(fault.Denied, "going"), denied), nil, false},
		"in a namespace that is another's now":   {"here", false, one(fault.Denied, "lost"), []string{"ConfigMap/lost/c"}, true},
		"no identity":                            {"here", false, fault.New(fault.StageGrant, fault.Denied, fault.Ref{}, "x"), inventory, true},
		"the kubeconfig is gone":                 {"here", true, target(fault.NotFound), inventory, true},
		"the kubeconfig is wrong":                {"here", true, target(fault.Invalid), inventory, true},
		"the kubeconfig cannot be read just now": {"here", true, target(fault.Transient), nil, false},
		"not found over there":                   {"here", true, one(fault.NotFound, "a"), nil, false},
		"denied over there":                      {"gone", true, denied, nil, false},
		"the plan fails":                         {"gone", false, fault.New(fault.StagePlan, fault.Transient, fault.Ref{}, "x"), nil, false},
		"nobody classified it":                   {"gone", false, errors.New("x"), nil, false},
	} {
		ks := &kustomizev1.Kustomization{ObjectMeta: metav1.ObjectMeta{Namespace: "a", Name: "app"}}
		ks.Spec.ServiceAccountName = c.account
		ks.Status.Inventory = &kustomizev1.ResourceInventory{Entries: []kustomizev1.ResourceRef{{ID: "a_c__ConfigMap", Version: "v1"}, {ID: "a_d__ConfigMap", Version: "v1"}}}
		if c.remote {
			ks.Spec.KubeConfig = &fluxmeta.KubeConfigReference{SecretRef: &fluxmeta.SecretKeyReference{Name: "x"}}
		}
		left, over := r.forsaken(t.Context(), ks, c.err)
		if diff := cmp.Diff(c.left, left); over != c.over || diff != "" {
			t.Errorf("%s: given up %v, %s", name, over, diff)
		}
	}
}

// deployer makes the service account reconciler of the namespace an administrator of it.
func (w *world) deployer() (account, binding client.Object) {
	w.Helper()
	account = &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Namespace: w.ns, Name: "reconciler"}}
	binding = &rbacv1.RoleBinding{
		ObjectMeta: metav1.ObjectMeta{Namespace: w.ns, Name: "reconciler"}, RoleRef: rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: "admin"},
		Subjects: []rbacv1.Subject{{Kind: "ServiceAccount", Namespace: w.ns, Name: "reconciler"}},
	}
	w.create(account)
	w.create(binding)
	return account, binding
}

// TestDeletionIsTriedAgain: a right that is missing orphans nothing. The status says what is the matter, and once the right is
// there the objects go.
// contract: Kustomization reason PruneFailed
func TestDeletionIsTriedAgain(t *testing.T) {
	w := newWorld(t, options{tenant: true, bare: true})
	_, binding := w.deployer()
	w.source("app", "main@sha1:1", map[string]string{"a.yaml": w.configMapYAML("a", "1")})
	w.sync("app", "serviceAccountName: reconciler", "retryInterval: 1s")
	w.ready("app", "main@sha1:1")
	if err := w.kube.Delete(t.Context(), binding); err != nil {
		t.Fatal(err)
	}
	w.delete("app")
	if m := w.failed("app", "PruneFailed", ""); !strings.Contains(m, "ConfigMap/"+w.ns+"/a") || w.configMap("a") == nil {
		t.Error(m)
	}
	if len(w.inventory("app")) != 1 {
		t.Error("the inventory is lost")
	}
	binding.SetResourceVersion("")
	w.create(binding)
	w.gone("app")
	if w.configMap("a") != nil {
		t.Error("it is left behind")
	}
}

// TestDeletionWithoutTheAccount: nobody can delete by a service account that is gone. What stays is told.
func TestDeletionWithoutTheAccount(t *testing.T) {
	w := newWorld(t, options{tenant: true, bare: true})
	account, binding := w.deployer()
	w.source("app", "main@sha1:1", map[string]string{"a.yaml": w.configMapYAML("a", "1")})
	w.sync("app", "serviceAccountName: reconciler")
	w.ready("app", "main@sha1:1")
	for _, o := range []client.Object{account, binding} {
		if err := w.kube.Delete(t.Context(), o); err != nil {
			t.Fatal(err)
		}
	}
	w.delete("app")
	w.gone("app")
	if e := w.events.of("app", "PruneFailed"); len(e) != 2 || e[1].message != "unable to prune objects:\nConfigMap/"+w.ns+"/a" {
		t.Errorf("%+v", e)
	}
}

// TestDeletionOfTheOwnRights: a Kustomization that brought what it acts by takes it along, and nothing is left.
func TestDeletionOfTheOwnRights(t *testing.T) {
	w := newWorld(t, options{tenant: true, bare: true})
	account, binding := w.deployer()
	rights := "apiVersion: v1\nkind: ServiceAccount\nmetadata: {name: reconciler, namespace: NS}\n---\n" +
		"apiVersion: rbac.authorization.k8s.io/v1\nkind: RoleBinding\nmetadata: {name: reconciler, namespace: NS}\n" +
		"roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: admin}\nsubjects: [{kind: ServiceAccount, name: reconciler, namespace: NS}]\n"
	w.source("app", "main@sha1:1", map[string]string{"a.yaml": w.configMapYAML("a", "1"), "rights.yaml": strings.ReplaceAll(rights, "NS", w.ns)})
	w.sync("app", "serviceAccountName: reconciler")
	w.ready("app", "main@sha1:1")
	w.delete("app")
	w.gone("app")
	for _, o := range []client.Object{account, binding} {
		if err := w.kube.Get(t.Context(), client.ObjectKeyFromObject(o), o); !apierrors.IsNotFound(err) {
			t.Errorf("%T: %v", o, err)
		}
	}
	if w.configMap("a") != nil {
		t.Error("the object is left behind")
	}
}

// TestANamespaceIsNotHeld: it is deleted as a whole, rights first, and the finalizer lets go.
// contract: Kustomization finalizer finalizers.fluxcd.io
func TestANamespaceIsNotHeld(t *testing.T) {
	w := newWorld(t, options{tenant: true, bare: true})
	w.deployer()
	w.source("app", "main@sha1:1", map[string]string{"a.yaml": w.configMapYAML("a", "1")})
	w.sync("app", "serviceAccountName: reconciler", "retryInterval: 1s")
	w.ready("app", "main@sha1:1")
	ns := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: w.ns}}
	if err := w.kube.Delete(t.Context(), ns); err != nil {
		t.Fatal(err)
	}
	w.until("the namespace is gone", func() bool {
		return apierrors.IsNotFound(w.kube.Get(t.Context(), client.ObjectKeyFromObject(ns), ns))
	})
}
