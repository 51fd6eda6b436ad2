package faults

import (
	"fmt"
	"testing"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// TestNamespaceDeletedWhileApplying deletes the namespace that commits are applied into, again and again, while one is on
// its way. The namespace comes back, everything of the last commit with it, and no other namespace is touched.
func TestNamespaceDeletedWhileApplying(t *testing.T) {
	t.Parallel()
	tm := newTeam(t, "deleted")
	tm.apply(`
apiVersion: sealock.dev/v1alpha1
kind: Tenant
metadata: {name: deleted}
spec:
  namespaces: [{name: deleted}, {name: deleted-b}]
  decryption: {secretRef: {name: deleted-age}}
`)
	here := set{"ConfigMap/here": "1"}
	files := func(v string) map[string]string {
		out := here.files("app")
		for i := range 12 {
			name := fmt.Sprintf("cm-%02d", i)
			out["app/"+name+".yaml"] = fmt.Sprintf("apiVersion: v1\nkind: ConfigMap\nmetadata: {name: %s, namespace: deleted-b}\ndata: {value: %q}\n", name, v)
		}
		return out
	}
	commit := tm.push(files("0"))
	tm.apply(tm.source() + tm.sync("app"))
	tm.ready("app", commit)
	uid := tm.live("app")[here.id(tm.name, "ConfigMap/here")].GetUID()
	for round := range 2 {
		v := fmt.Sprint(round + 1)
		was, err := tm.Typed.CoreV1().Namespaces().Get(tm.ctx, "deleted-b", metav1.GetOptions{})
		tm.ok(err)
		commit = tm.push(files(v))
		tm.fetch()
		tm.ok(tm.Typed.CoreV1().Namespaces().Delete(tm.ctx, "deleted-b", metav1.DeleteOptions{}))
		tm.eventually("the namespace to come back", func() (bool, error) {
			ns, err := tm.Typed.CoreV1().Namespaces().Get(tm.ctx, "deleted-b", metav1.GetOptions{})
			if apierrors.IsNotFound(err) {
				return false, nil
			}
			return err == nil && ns.UID != was.UID && ns.DeletionTimestamp == nil, err
		})
		tm.eventually("everything of the commit to be there again", func() (bool, error) {
			list, err := tm.Typed.CoreV1().ConfigMaps("deleted-b").List(tm.ctx, metav1.ListOptions{LabelSelector: "kustomize.toolkit.fluxcd.io/name=app"})
			if err != nil {
				return false, err
			}
			for i := range list.Items {
				if list.Items[i].Data["value"] != v {
					return false, nil
				}
			}
			return len(list.Items) == 12, nil
		})
		tm.ready("app", commit)
		if n := len(tm.inventory("app")); n != 13 {
			t.Errorf("%d entries in the inventory instead of 13", n)
		}
	}
	if tm.live("app")[here.id(tm.name, "ConfigMap/here")].GetUID() != uid {
		t.Error("an object of another namespace was made anew")
	}
}
