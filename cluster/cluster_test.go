package cluster

import (
	"context"
	"errors"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"sealock.dev/sealock/fault"
	"sealock.dev/sealock/internal/testkit"
	"sealock.dev/sealock/manifest"
	"sealock.dev/sealock/plaintext"
)

// Cost follows change (DESIGN.md, section 7).
func TestRequestsFollowChange(t *testing.T) {
	w := newWorld(t)
	set := w.objects(configMaps(50))
	if _, done := w.run(set); len(done) != 50 {
		t.Fatalf("applied %d objects", len(done))
	}
	n := len(w.rec.take())
	t.Logf("first apply of 50 objects: %d requests", n)
	if n > 2*50 {
		t.Errorf("the first apply of 50 objects took %d requests", n)
	}
	p, done := w.run(set)
	if p.Changed() || len(done) != 0 {
		t.Errorf("the second run changes %v", done)
	}
	if seen := w.rec.take(); len(seen) != 0 {
		t.Errorf("a run that changes nothing asked: %v", seen)
	}
	changed := w.objects(strings.Replace(configMaps(50), "cm-17}\ndata: {k: v}", "cm-17}\ndata: {k: w}", 1))
	if _, done = w.run(changed); len(done) != 1 || done[0].ID.Name != "cm-17" || done[0].Action != manifest.Configured {
		t.Errorf("one changed object of 50: %v", done)
	}
	seen := w.rec.take()
	t.Logf("one of 50 changed: %d requests", len(seen))
	if len(seen) > 3 {
		t.Errorf("one changed object of 50 took %v", seen)
	}
	t.Logf("objects in the view: %d", w.client.View().Len())
}

func TestRestartComparesInsteadOfWriting(t *testing.T) {
	w := newWorld(t)
	set := w.objects(configMaps(5) + "apiVersion: v1\nkind: Secret\nmetadata: {name: s}\nstringData: {k: secret}\n")
	w.run(set)
	w.rec.take()
	w.client = w.open(testkit.Cluster(t).Config, plaintext.NewKey([]byte("key of the test")))
	if p, _ := w.run(set); p.Changed() {
		t.Errorf("a restart changes %v", actions(p))
	}
	for _, r := range w.rec.take() {
		if !strings.HasSuffix(r, " All") {
			t.Errorf("a restart wrote: %s", r)
		}
	}
	if w.run(set); len(w.rec.take()) != 0 {
		t.Error("the run after the restart is not free")
	}
}

func TestDriftIsSeenAndOnlyItIsRepaired(t *testing.T) {
	w := newWorld(t)
	set := w.objects(configMaps(3))
	w.run(set)
	maps := w.kube.CoreV1().ConfigMaps(w.ns)
	if err := maps.Delete(t.Context(), "cm-01", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	if e := w.event(Gone, "cm-01"); e.OwnerName != "app" || e.OwnerNamespace != w.ns {
		t.Errorf("the event names the owner %s/%s", e.OwnerNamespace, e.OwnerName)
	}
	if _, done := w.run(set); len(done) != 1 || done[0].Action != manifest.Created {
		t.Errorf("after a deletion: %v", done)
	}
	_, err := maps.Patch(t.Context(), "cm-02", types.MergePatchType, []byte(`{"data":{"k":"edited"}}`), metav1.PatchOptions{FieldManager: "somebody"})
	if err != nil {
		t.Fatal(err)
	}
	w.event(Drifted, "cm-02")
	if _, done := w.run(set); len(done) != 1 || done[0].ID.Name != "cm-02" || done[0].Action != manifest.Configured {
		t.Errorf("after an edit: %v", done)
	}
	if cm, err := maps.Get(t.Context(), "cm-02", metav1.GetOptions{}); err != nil || cm.Data["k"] != "v" {
		t.Errorf("the edit stays: %v %v", cm.Data, err)
	}
	// What others add beside our fields is theirs.
	if _, err = maps.Patch(t.Context(), "cm-02", types.MergePatchType, []byte(`{"data":{"other":"theirs"}}`), metav1.PatchOptions{FieldManager: "somebody"}); err != nil {
		t.Fatal(err)
	}
	w.rec.take()
	if p, _ := w.run(set); p.Changed() {
		t.Error("a foreign field is taken for drift")
	}
}

func TestLostOwnerLabelIsRestored(t *testing.T) {
	w := newWorld(t)
	set := w.objects(configMaps(1))
	w.run(set)
	patch := `{"metadata":{"labels":{"` + markerPrefix + `name":null}}}`
	if _, err := w.kube.CoreV1().ConfigMaps(w.ns).Patch(t.Context(), "cm-00", types.MergePatchType, []byte(patch), metav1.PatchOptions{}); err != nil {
		t.Fatal(err)
	}
	w.event(Gone, "cm-00")
	if _, done := w.run(set); len(done) != 1 || done[0].Action != manifest.Configured {
		t.Errorf("%v", done)
	}
}

// contract: Object ssa: Merge
func TestKubectlIsOverridden(t *testing.T) {
	for name, tc := range map[string]struct {
		marker string
		stays  bool
	}{"by default": {"", false}, "not with ssa Merge": {"annotations: {" + markerPrefix + "ssa: Merge}", true}} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			set := w.objects("apiVersion: v1\nkind: ConfigMap\nmetadata: {name: cm, " + tc.marker + "}\ndata: {k: v}\n")
			w.run(set)
			maps := w.kube.CoreV1().ConfigMaps(w.ns)
			if _, err := maps.Patch(t.Context(), "cm", types.MergePatchType, []byte(`{"data":{"added":"x"}}`), metav1.PatchOptions{FieldManager: "kubectl-edit"}); err != nil {
				t.Fatal(err)
			}
			if !tc.stays {
				w.event(Drifted, "cm")
			} else {
				w.until("the view sees the edit", func() bool {
					e, _ := w.look("ConfigMap", "cm")
					cm, err := maps.Get(t.Context(), "cm", metav1.GetOptions{})
					return err == nil && strconv.FormatUint(e.version, 10) == cm.ResourceVersion
				})
			}
			w.run(set)
			cm, err := maps.Get(t.Context(), "cm", metav1.GetOptions{})
			if err != nil {
				t.Fatal(err)
			}
			if _, there := cm.Data["added"]; there != tc.stays {
				t.Errorf("what kubectl added: %v", cm.Data)
			}
			w.rec.take()
			if p, _ := w.run(set); p.Changed() || len(w.rec.take()) != 0 {
				t.Error("it does not come to rest")
			}
		})
	}
}

// ownLabels are the fields of the labels that we put on everything.
const ownLabels = `"f:metadata":{"f:labels":{"f:kustomize.toolkit.fluxcd.io/name":{},"f:kustomize.toolkit.fluxcd.io/namespace":{}}}`

// ownFields compares who owns which fields of an object, exactly.
func ownFields(t *testing.T, managed []metav1.ManagedFieldsEntry, want map[string]string) {
	t.Helper()
	got := map[string]string{}
	for _, f := range managed {
		got[strings.TrimSpace(f.Manager+" "+string(f.Operation)+" "+f.Subresource)] += f.FieldsV1.GetRawString()
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("fields: %s", diff)
	}
}

// A cluster that kubectl apply filled is taken over without creating anything anew.
func TestAdoptsWhatKubectlApplied(t *testing.T) {
	w := newWorld(t)
	body := `{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"cm","namespace":"` + w.ns + `","annotations":{"kubectl.kubernetes.io/last-applied-configuration":"{}"}},"data":{"k":"v","old":"x"}}`
	if err := w.kube.CoreV1().RESTClient().Post().Namespace(w.ns).Resource("configmaps").Param("fieldManager", "kubectl-client-side-apply").Body([]byte(body)).Do(t.Context()).Error(); err != nil {
		t.Fatal(err)
	}
	before, _ := w.kube.CoreV1().ConfigMaps(w.ns).Get(t.Context(), "cm", metav1.GetOptions{})
	set := w.objects("apiVersion: v1\nkind: ConfigMap\nmetadata: {name: cm}\ndata: {k: v}\n")
	if _, done := w.run(set); len(done) != 1 || done[0].Action != manifest.Configured {
		t.Fatalf("%v", done)
	}
	cm, err := w.kube.CoreV1().ConfigMaps(w.ns).Get(t.Context(), "cm", metav1.GetOptions{})
	if err != nil || cm.UID != before.UID {
		t.Fatalf("it was made anew: %v", err)
	}
	if diff := cmp.Diff(map[string]string{"k": "v"}, cm.Data); diff != "" || len(cm.Annotations) != 0 {
		t.Errorf("%s annotations %v", diff, cm.Annotations)
	}
	ownFields(t, cm.ManagedFields, map[string]string{"kustomize-controller Apply": `{"f:data":{"f:k":{}},` + ownLabels + `}`})
	w.rec.take()
	if p, _ := w.run(set); p.Changed() || len(w.rec.take()) != 0 {
		t.Error("it does not come to rest")
	}
}

func TestTenantWithoutRightsWritesNothing(t *testing.T) {
	w := newWorld(t)
	w.grant = w.tenant("norights-"+w.ns, nil, rbacv1.PolicyRule{APIGroups: []string{""}, Resources: []string{"configmaps"}, Verbs: []string{"*"}})
	set := w.resolve(w.objects(configMaps(2) + "apiVersion: v1\nkind: Secret\nmetadata: {name: s}\nstringData: {k: secretsecret}\n"))
	_, err := w.client.Plan(t.Context(), w.grant, w.owner, set, nil)
	kindOf(t, err, fault.Denied)
	if !strings.Contains(err.Error(), "Secret/"+w.ns+"/s (app.yaml:") || strings.Contains(err.Error(), "secretsecret") {
		t.Errorf("the error is %q", err)
	}
	list, err := w.kube.CoreV1().ConfigMaps(w.ns).List(t.Context(), metav1.ListOptions{LabelSelector: markerPrefix + "name"})
	if err != nil || len(list.Items) != 0 {
		t.Errorf("something was written: %d %v", len(list.Items), err)
	}
	if _, err := w.client.as(tenantless()); fault.KindOf(err) != fault.Denied {
		t.Errorf("a grant without a user acts: %v", err)
	}
}

// contract: Object reconcile: disabled, live reconcile: disabled, ssa: IfNotPresent
func TestMarkers(t *testing.T) {
	w := newWorld(t)
	set := w.objects(`
apiVersion: v1
kind: ConfigMap
metadata: {name: once, annotations: {` + markerPrefix + `ssa: IfNotPresent}}
data: {k: v}
---
apiVersion: v1
kind: ConfigMap
metadata: {name: never, annotations: {` + markerPrefix + `reconcile: disabled}}
---
apiVersion: v1
kind: ConfigMap
metadata: {name: live}
data: {k: v}
`)
	if _, done := w.run(set); len(done) != 2 {
		t.Fatalf("%v", done)
	}
	maps := w.kube.CoreV1().ConfigMaps(w.ns)
	for name, patch := range map[string]string{"once": `{"data":{"k":"theirs"}}`, "live": `{"data":{"k":"theirs"},"metadata":{"annotations":{"` + markerPrefix + `reconcile":"disabled"}}}`} {
		cm, err := maps.Patch(t.Context(), name, types.MergePatchType, []byte(patch), metav1.PatchOptions{FieldManager: "x"})
		if err != nil {
			t.Fatal(err)
		}
		w.seen(name, cm.ResourceVersion)
	}
	p, done := w.run(set)
	if len(done) != 0 || actions(p)[manifest.Skipped] != 3 {
		t.Errorf("%v %v", done, actions(p))
	}
}

func TestViewThatMayNotWatchReadsAsTheTenant(t *testing.T) {
	w := newWorld(t)
	// A controller that may impersonate and discover, and nothing else.
	user := "blind-controller-" + w.ns
	_, err := w.kube.RbacV1().ClusterRoles().Create(t.Context(), &rbacv1.ClusterRole{ObjectMeta: metav1.ObjectMeta{Name: user}, Rules: []rbacv1.PolicyRule{{APIGroups: []string{""}, Resources: []string{"users", "serviceaccounts"}, Verbs: []string{"impersonate"}}}}, metav1.CreateOptions{})
	if err == nil {
		_, err = w.kube.RbacV1().ClusterRoleBindings().Create(t.Context(), &rbacv1.ClusterRoleBinding{ObjectMeta: metav1.ObjectMeta{Name: user}, RoleRef: rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: user}, Subjects: []rbacv1.Subject{{Kind: "ServiceAccount", Namespace: w.ns, Name: "default"}}}, metav1.CreateOptions{})
	}
	if err != nil {
		t.Fatal(err)
	}
	w.until("the service account exists", func() bool {
		_, err := w.kube.CoreV1().ServiceAccounts(w.ns).Get(t.Context(), "default", metav1.GetOptions{})
		return err == nil
	})
	token, err := w.client.Token(t.Context(), w.ns, "default", nil)
	if err != nil {
		t.Fatal(err)
	}
	config := *testkit.Cluster(t).Config
	config.CertData, config.KeyData, config.CertFile, config.KeyFile = nil, nil, "", ""
	config.BearerToken = string(token.Reveal())
	w.client = w.open(&config, plaintext.NewKey([]byte("k")))
	set := w.objects(configMaps(2))
	w.run(set)
	if kinds := w.client.View().Unwatched(w.ns, "app"); len(kinds) != 1 || kinds[0] != "configmaps" {
		t.Errorf("unwatched: %v", kinds)
	}
	if kinds := w.client.View().Unwatched(w.ns, "other"); len(kinds) != 0 {
		t.Errorf("unwatched for somebody who has none: %v", kinds)
	}
	w.rec.take()
	p := w.plan(set)
	if seen := w.rec.take(); p.Changed() || len(seen) != 2 {
		t.Errorf("plans %v with %v", actions(p), seen)
	}
}

func TestApplyStopsAndTellsWhatItDid(t *testing.T) {
	w := newWorld(t)
	p := w.plan(w.objects(configMaps(1) + "apiVersion: v1\nkind: Service\nmetadata: {name: s}\nspec: {ports: [{port: 80}]}\n"))
	stop := errors.New("stop")
	done, err := w.client.Apply(t.Context(), w.grant, p, func(_ context.Context, stage int) error {
		if stage == stageOwners {
			return stop
		}
		return nil
	})
	if !errors.Is(err, stop) || len(done) != 1 || done[0].ID.Kind != "ConfigMap" {
		t.Errorf("%v %v", done, err)
	}
}
