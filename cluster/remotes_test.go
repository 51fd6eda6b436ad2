package cluster

import (
	"testing"

	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"

	"sealock.dev/sealock/fault"
	"sealock.dev/sealock/internal/testkit"
	"sealock.dev/sealock/manifest"
	"sealock.dev/sealock/plaintext"
)

// spec.kubeConfig: what is applied goes to the other cluster as its own credentials, or as the service account there, and
// never as the tenant's user of this one. The other cluster is this one, by another identity.
func TestRemoteClusterActsAsItsOwnCredentials(t *testing.T) {
	w := newWorld(t)
	events := make(chan Event, 16)
	remotes := NewRemotes(t.Context(), Options{Key: plaintext.NewKey([]byte("k"))}, func(e Event) { events <- e })
	config := rest.CopyConfig(testkit.Cluster(t).Config)
	config.Wrap(w.rec.wrap)
	tenant := w.tenant("remote-"+w.ns, nil) // may do nothing here
	set := w.resolve(w.objects(configMaps(1)))

	there, err := remotes.Get("a", config, "")
	if err != nil {
		t.Fatal(err)
	}
	if same, _ := remotes.Get("a", config, ""); same != there {
		t.Error("connected twice")
	}
	p, err := there.Plan(t.Context(), tenant, w.owner, set, nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := there.Apply(t.Context(), tenant, p, noop); err != nil {
		t.Fatal(err)
	}
	if err := w.kube.CoreV1().ConfigMaps(w.ns).Delete(t.Context(), "cm-00", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	if e := <-events; e.Kind != Gone || e.OwnerName != "app" {
		t.Errorf("event %+v", e)
	}

	user := "system:serviceaccount:" + w.ns + ":deployer"
	as, err := remotes.Get("b", config, user)
	if err != nil {
		t.Fatal(err)
	}
	_, err = as.Plan(t.Context(), tenant, w.owner, set, nil)
	kindOf(t, err, fault.Denied)
	if _, err := w.kube.RbacV1().RoleBindings(w.ns).Create(t.Context(), &rbacv1.RoleBinding{
		ObjectMeta: metav1.ObjectMeta{Name: "deployer"}, RoleRef: rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: "admin"},
		Subjects: []rbacv1.Subject{{Kind: "ServiceAccount", Namespace: w.ns, Name: "deployer"}},
	}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	w.until("the right is granted", func() bool {
		p, err := as.Plan(t.Context(), tenant, w.owner, set, nil)
		return err == nil && actions(p)[manifest.Created] == 1
	})
}

// sealock.dev/on-error: continue, at the wire: what can be written is, and every failure is told.
func TestPartialApplyGoesOn(t *testing.T) {
	w := newWorld(t)
	w.owner.Partial = true
	set := w.resolve(w.objects(configMaps(2) + "apiVersion: v1\nkind: Service\nmetadata: {name: bad}\nspec: {ports: [{port: 808080}]}\n---\n" +
		"apiVersion: v1\nkind: Service\nmetadata: {name: good}\nspec: {ports: [{port: 80}]}"))
	p, err := w.client.Plan(t.Context(), w.grant, w.owner, set, nil)
	kindOf(t, err, fault.Invalid)
	if got := actions(p); got[manifest.Created] != 3 || got[""] != 1 {
		t.Fatalf("plan %v", got)
	}
	// A quota that is full is known only when it is written: the rest goes on.
	if changes := w.apply(p); len(changes) != 3 {
		t.Errorf("changes %v", changes)
	}
}
