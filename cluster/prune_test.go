package cluster

import (
	"slices"
	"strings"
	"testing"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/dynamic"

	"sealock.dev/sealock/fault"
	"sealock.dev/sealock/internal/testkit"
	"sealock.dev/sealock/manifest"
)

// contract: Object live prune: disabled
func TestPruneGuards(t *testing.T) {
	w := newWorld(t)
	names := []string{"plain", "kept", "disabled", "foreign", "unlabelled", "gone"}
	var text strings.Builder
	for _, n := range names {
		text.WriteString("apiVersion: v1\nkind: ConfigMap\nmetadata: {name: " + n + "}\n---\n")
	}
	p, _ := w.run(w.objects(text.String()))
	maps := w.kube.CoreV1().ConfigMaps(w.ns)
	patch := func(name, body string) {
		t.Helper()
		if _, err := maps.Patch(t.Context(), name, types.MergePatchType, []byte(body), metav1.PatchOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	patch("kept", `{"metadata":{"annotations":{"`+markerPrefix+`prune":"Disabled"}}}`)
	patch("disabled", `{"metadata":{"labels":{"`+markerPrefix+`reconcile":"disabled"}}}`)
	patch("foreign", `{"metadata":{"labels":{"`+markerPrefix+`name":"other"}}}`)
	patch("unlabelled", `{"metadata":{"labels":{"`+markerPrefix+`name":null}}}`)
	if err := maps.Delete(t.Context(), "gone", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	next := w.plan(w.objects(configMaps(1)), p.Union...)
	if len(next.Prune) != len(names) || len(next.Union) != len(names)+1 || next.Union[0].Name != "cm-00" {
		t.Fatalf("prune %v, union %v", next.Prune, next.Union)
	}
	deleted, survivors, err := w.client.Prune(t.Context(), w.grant, next)
	if err != nil || len(survivors) != 0 || len(deleted) != 1 || deleted[0].ID.Name != "plain" {
		t.Errorf("deleted %v, survivors %v, error %v", deleted, survivors, err)
	}
	for _, n := range []string{"kept", "disabled", "foreign", "unlabelled"} {
		if _, err := maps.Get(t.Context(), n, metav1.GetOptions{}); err != nil {
			t.Errorf("%s: %v", n, err)
		}
	}
	if _, err := maps.Get(t.Context(), "plain", metav1.GetOptions{}); !apierrors.IsNotFound(err) {
		t.Errorf("plain is still there: %v", err)
	}
}

// An error never deletes, and never lets go of what it could not delete.
func TestPruneKeepsWhatItMayNotRead(t *testing.T) {
	w := newWorld(t)
	p, _ := w.run(w.objects(configMaps(2)))
	next := w.plan(nil, p.Union...)
	grant := w.tenant("blind-"+w.ns, nil)
	deleted, survivors, err := w.client.Prune(t.Context(), grant, next)
	if len(deleted) != 0 || len(survivors) != 2 {
		t.Errorf("deleted %v, survivors %v", deleted, survivors)
	}
	kindOf(t, err, fault.Denied)
}

// Inventories stand in a status: a name in one must not lead to another object.
func TestPruneFollowsNoPath(t *testing.T) {
	w := newWorld(t)
	w.run(w.objects("apiVersion: v1\nkind: Secret\nmetadata: {name: s}\nstringData: {k: v}\n"))
	plan := manifest.Plan{Owner: w.owner, Prune: []manifest.ID{{Namespace: w.ns, Name: "../secrets/s", Kind: "ConfigMap", Version: "v1"}}}
	deleted, survivors, err := w.client.Prune(t.Context(), w.grant, plan)
	if len(deleted) != 0 || len(survivors) != 1 || fault.KindOf(err) != fault.Invalid {
		t.Errorf("%v %v %v", deleted, survivors, err)
	}
	w.secret("s")
}

// A kind that goes takes its objects along: what is pruned later is done with, although the kind was known before.
func TestPruneOfAKindThatIsGone(t *testing.T) {
	w := newWorld(t)
	crds, err := dynamic.NewForConfig(testkit.Cluster(t).Config)
	if err != nil {
		t.Fatal(err)
	}
	group := w.ns + ".example.org"
	definition := boats(group)
	w.run(w.objects(definition))
	p, _ := w.run(w.objects("apiVersion: " + group + "/v1\nkind: Boat\nmetadata: {name: b}\n"))
	of := crds.Resource(schema.GroupVersionResource{Group: "apiextensions.k8s.io", Version: "v1", Resource: "customresourcedefinitions"})
	if err := of.Delete(t.Context(), "boats."+group, metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	w.until("the kind to be gone", func() bool {
		groups, err := w.kube.Discovery().ServerGroups()
		return err == nil && !slices.ContainsFunc(groups.Groups, func(g metav1.APIGroup) bool { return g.Name == group })
	})
	next := w.plan(nil, p.Union...)
	w.until("the object to be done with", func() bool { // discovery is read again every other second, at most
		deleted, left, err := w.client.Prune(t.Context(), w.grant, next)
		return err == nil && len(left)+len(deleted) == 0
	})
}

// Hazard of flux.md 1.4: an object that is served under two groups and moves from one to the other is two ids and one object,
// and what is pruned as the old one is what was just applied as the new one.
func TestHazard_ObjectUnderTwoGroups(t *testing.T) {
	w := newWorld(t)
	old, _ := w.run(w.objects(`
apiVersion: v1
kind: Event
metadata: {name: e}
involvedObject: {apiVersion: v1, kind: Namespace, name: ${NS}, namespace: ${NS}}
eventTime: "2026-01-01T00:00:00.000000Z"
reportingComponent: example.org/test
reportingInstance: a
action: Moving
reason: Moved
type: Normal
message: m
`))
	before, err := w.kube.CoreV1().Events(w.ns).Get(t.Context(), "e", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	p, _ := w.run(w.objects(`
apiVersion: events.k8s.io/v1
kind: Event
metadata: {name: e}
regarding: {apiVersion: v1, kind: Namespace, name: ${NS}, namespace: ${NS}}
eventTime: "2026-01-01T00:00:00.000000Z"
reportingController: example.org/test
reportingInstance: a
action: Moving
reason: Moved
type: Normal
note: m
`), old.Union...)
	if len(p.Prune) != 1 || p.Prune[0].Group != "" {
		t.Fatalf("prune %v", p.Prune)
	}
	deleted, left, err := w.client.Prune(t.Context(), w.grant, p)
	if err != nil || len(deleted)+len(left) != 0 {
		t.Errorf("deleted %v, left %v: %v", deleted, left, err)
	}
	if after, err := w.kube.CoreV1().Events(w.ns).Get(t.Context(), "e", metav1.GetOptions{}); err != nil || after.UID != before.UID {
		t.Errorf("it was deleted: %v", err)
	}
}

// An object that moves to another Kustomization stays the same object when the new owner takes it first, or when it is marked to
// be kept before it moves, whichever comes first (docs/spec/kustomization.md).
func TestMoveBetweenOwners(t *testing.T) {
	for name, c := range map[string]struct {
		marker   string
		newFirst bool
	}{"the new owner first": {newFirst: true}, "the old owner first, marked": {marker: "annotations: {" + markerPrefix + "prune: disabled}"}} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			text := func(marker string) []manifest.Object {
				return w.objects("apiVersion: v1\nkind: ConfigMap\nmetadata: {name: cm, " + marker + "}\ndata: {k: v}\n")
			}
			p, _ := w.run(text(c.marker))
			before, err := w.kube.CoreV1().ConfigMaps(w.ns).Get(t.Context(), "cm", metav1.GetOptions{})
			if err != nil {
				t.Fatal(err)
			}
			old, heir := w.owner, ownerNamed(w.ns, "heir")
			prune := func() {
				w.owner = old
				if deleted, left, err := w.client.Prune(t.Context(), w.grant, w.plan(nil, p.Union...)); err != nil || len(deleted)+len(left) != 0 {
					t.Errorf("deleted %v, left %v: %v", deleted, left, err)
				}
			}
			if !c.newFirst {
				prune()
			}
			w.owner = heir
			w.run(text(""))
			if c.newFirst {
				prune()
			}
			after, err := w.kube.CoreV1().ConfigMaps(w.ns).Get(t.Context(), "cm", metav1.GetOptions{})
			if err != nil || after.UID != before.UID || after.Labels[markerPrefix+"name"] != "heir" || len(after.Annotations) != 0 {
				t.Errorf("%v: %v", after, err)
			}
		})
	}
}
