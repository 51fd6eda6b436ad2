package cluster

import (
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/rest"

	"sealock.dev/sealock/internal/testkit"
	"sealock.dev/sealock/plaintext"
)

// configured gives the world a client with further options.
func (w *world) configured(opts Options) {
	w.Helper()
	opts.Config, opts.Key = rest.CopyConfig(testkit.Cluster(w.T).Config), plaintext.NewKey([]byte("key of the test"))
	var err error
	if w.client, err = New(w.Context(), opts); err != nil {
		w.Fatal(err)
	}
}

// TestOverrideManagers: what a manager of the list writes is drift, and taken back, as what kubectl writes is; what another
// one writes stays.
func TestOverrideManagers(t *testing.T) {
	w := newWorld(t)
	w.configured(Options{OverrideManagers: []string{"argocd"}})
	set := w.objects("apiVersion: v1\nkind: ConfigMap\nmetadata: {name: cm}\ndata: {k: v}\n")
	w.run(set)
	maps := w.kube.CoreV1().ConfigMaps(w.ns)
	write := func(manager, data string) {
		t.Helper()
		if _, err := maps.Patch(t.Context(), "cm", types.MergePatchType, []byte(`{"data":`+data+`}`), metav1.PatchOptions{FieldManager: manager}); err != nil {
			t.Fatal(err)
		}
	}
	write("argocd-other", `{"theirs":"x"}`)
	write("argocd", `{"added":"x"}`)
	w.event(Drifted, "cm")
	w.run(set)
	cm, err := maps.Get(t.Context(), "cm", metav1.GetOptions{})
	if err != nil || cm.Data["added"] != "" || cm.Data["theirs"] != "x" || cm.Data["k"] != "v" {
		t.Errorf("%v %v", cm.Data, err)
	}
}

// TestStageKinds: kinds with a stage of their own are written before owners and the rest, and deleted after them.
func TestStageKinds(t *testing.T) {
	w := newWorld(t)
	w.configured(Options{StageKinds: []schema.GroupKind{{Group: "policy", Kind: "PodDisruptionBudget"}}})
	p, done := w.run(w.objects("apiVersion: v1\nkind: ConfigMap\nmetadata: {name: cm}\n---\napiVersion: policy/v1\nkind: PodDisruptionBudget\nmetadata: {name: early}\nspec: {selector: {matchLabels: {a: b}}, minAvailable: 1}\n"))
	if len(done) != 2 || done[0].ID.Name != "early" || p.Steps[0].Stage != stageChosen {
		t.Errorf("written: %v", done)
	}
	if gone := w.plan(nil, p.Union...); len(gone.Prune) != 2 || gone.Prune[1].Name != "early" {
		t.Errorf("deleted: %v", gone.Prune)
	}
}
