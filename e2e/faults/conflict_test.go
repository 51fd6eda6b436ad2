package faults

import (
	"fmt"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"sealock.dev/sealock/e2e/harness"
)

// TestConflictStorm: two writers who take a field back whenever it is repaired, one as kubectl edits and one that applies
// with force, win after a few rounds: repairs stop, the condition names the manager, and the rest of the set is still served.
func TestConflictStorm(t *testing.T) {
	t.Parallel()
	for how, write := range map[string]func(tm *team, value string) error{
		"update": func(tm *team, value string) error {
			body := fmt.Sprintf(`{"data":{"value":%q}}`, value)
			_, err := tm.Typed.CoreV1().ConfigMaps(tm.name).Patch(tm.ctx, "a", types.MergePatchType, []byte(body), metav1.PatchOptions{FieldManager: "fighter"})
			return err
		},
		"apply": func(tm *team, value string) error {
			force := true
			body := fmt.Sprintf(`{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"a"},"data":{"value":%q}}`, value)
			_, err := tm.Typed.CoreV1().ConfigMaps(tm.name).Patch(tm.ctx, "a", types.ApplyPatchType, []byte(body), metav1.PatchOptions{FieldManager: "fighter", Force: &force})
			return err
		},
	} {
		t.Run(how, func(t *testing.T) {
			t.Parallel()
			all := set{"ConfigMap/a": "ours", "ConfigMap/b": "1"}
			tm := begin(t, "storm-"+how, all)
			var repairs atomic.Int64
			defer proxy.Add(func(w http.ResponseWriter, r *http.Request, next http.Handler) {
				if a := harness.Ask(r); a.Namespace == tm.name && a.Resource == "configmaps" && a.Name == "a" && a.Writes() {
					repairs.Add(1)
				}
				next.ServeHTTP(w, r)
			})()
			for round := 0; tm.contested() == ""; round++ {
				if round > 20 {
					t.Fatalf("after %d repairs nobody has given in", repairs.Load())
				}
				tm.ok(write(tm, fmt.Sprint("theirs-", round)))
				tm.eventually("a repair, or the end of them", func() (bool, error) {
					cm, err := tm.Typed.CoreV1().ConfigMaps(tm.name).Get(tm.ctx, "a", metav1.GetOptions{})
					return err == nil && (cm.Data["value"] == "ours" || tm.contested() != ""), err
				})
			}
			if said := tm.contested(); !strings.Contains(said, "fighter") || !strings.Contains(said, "ConfigMap/"+tm.name+"/a") {
				t.Errorf("the condition does not name the object and the manager: %s", said)
			}
			before := repairs.Load()
			for i := range 20 {
				tm.ok(write(tm, fmt.Sprint("still-theirs-", i)))
			}
			// What happens to another object is seen after all of this, and repaired.
			tm.ok(tm.Typed.CoreV1().ConfigMaps(tm.name).Delete(tm.ctx, "b", metav1.DeleteOptions{}))
			tm.eventually("another object to be repaired", func() (bool, error) {
				live := tm.live("app")
				return live[all.id(tm.name, "ConfigMap/b")] != nil, nil
			})
			if after := repairs.Load(); before > 5 || after-before > 2 {
				t.Errorf("%d repairs until it was left alone, and %d afterwards", before, after-before)
			}
			next := set{"ConfigMap/a": "a new commit", "ConfigMap/b": "2"}
			tm.deliver(all, next) // a commit is no repair
		})
	}
}

// contested returns what the Kustomization says of a fight, "" when there is none.
func (tm *team) contested() string {
	tm.Helper()
	o, err := tm.Get(tm.ctx, ksAPI, "Kustomization", tm.name, "app")
	tm.ok(err)
	_, _, message := harness.Condition(o, "Contested")
	return message
}
