package cluster

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"sealock.dev/sealock/manifest"
	"sealock.dev/sealock/plaintext"
)

func TestDecide(t *testing.T) {
	d1, d2 := digest{1}, digest{2}
	live := func(change func(*entry)) *entry {
		e := entry{uid: "u", owner: "ns/app", owned: d2}
		change(&e)
		return &e
	}
	same := func(*entry) {}
	base := &Baseline{Desired: d1, Owned: d2, UID: "u"}
	for name, tc := range map[string]struct {
		o    observed
		want question
	}{
		"in place":                       {observed{live: live(same), base: base, desired: d1}, inPlace},
		"changed in Git":                 {observed{live: live(same), base: base, desired: d2}, dryRun},
		"changed in the cluster":         {observed{live: live(func(e *entry) { e.owned = d1 }), base: base, desired: d1}, dryRun},
		"made anew by somebody":          {observed{live: live(func(e *entry) { e.uid = "v" }), base: base, desired: d1}, dryRun},
		"owned by another Kustomization": {observed{live: live(func(e *entry) { e.owner = "ns/other" }), base: base, desired: d1}, dryRun},
		"we own nothing there":           {observed{live: live(func(e *entry) { e.owned = digest{} }), base: &Baseline{Desired: d1, UID: "u"}, desired: d1}, dryRun},
		"absent":                         {observed{base: base, desired: d1}, dryRun},
		"no baseline":                    {observed{live: live(same), desired: d1}, dryRun},
		"kubectl was there":              {observed{live: live(func(e *entry) { e.marks = markOverridden }), base: base, desired: d1}, dryRun},
		"kubectl may stay":               {observed{live: live(func(e *entry) { e.marks = markOverridden }), base: base, desired: d1, wanted: markMerge}, inPlace},
		"disabled in Git":                {observed{wanted: markDisabled}, leaveAlone},
		"disabled in the cluster":        {observed{live: live(func(e *entry) { e.marks = markDisabled })}, leaveAlone},
		"once, and there":                {observed{live: live(same), wanted: markAbsentOnly}, leaveAlone},
		"once, and absent":               {observed{wanted: markAbsentOnly}, dryRun},
		"theirs over our definition":     {observed{live: live(func(e *entry) { e.marks = markServed }), desired: d1}, leaveAlone},
		"ours over our definition":       {observed{live: live(func(e *entry) { e.marks = markServed }), desired: d1, wanted: markServed}, dryRun},
		"ours over their definition":     {observed{live: live(same), desired: d1, wanted: markServed}, dryRun},
		"nobody to ask yet":              {observed{unasked: true}, trust},
	} {
		tc.o.ownerKey = "ns/app"
		if got := decide(tc.o); got != tc.want {
			t.Errorf("%s: %v, want %v", name, got, tc.want)
		}
	}
}

func TestCondemn(t *testing.T) {
	for name, tc := range map[string]struct {
		live entry
		want doomed
	}{
		"ours":            {entry{owner: "ns/app"}, deleteIt},
		"somebody else's": {entry{owner: "ns/other"}, forgetIt},
		"nobody's":        {entry{}, forgetIt},
		"to be kept":      {entry{owner: "ns/app", marks: markKeep}, forgetIt},
		"disabled":        {entry{owner: "ns/app", marks: markDisabled}, forgetIt},
		"our definition":  {entry{owner: "ns/app", marks: markServed}, forgetIt},
		"going":           {entry{owner: "ns/app", marks: markTerminating}, goneIt},
	} {
		if got := condemn(tc.live, "ns/app"); got != tc.want {
			t.Errorf("%s: %v, want %v", name, got, tc.want)
		}
	}
	if condemn(entry{}, "") != forgetIt {
		t.Error("an owner without a name owns everything")
	}
}

func TestOrder(t *testing.T) {
	kinds := []string{
		"/Service", "bitnami.com/SealedSecret", "apps/Deployment", "/Secret", "networking.k8s.io/IngressClass", "/Namespace", "example.org/Boat", "/ServiceAccount",
		"admissionregistration.k8s.io/ValidatingWebhookConfiguration", "rbac.authorization.k8s.io/ClusterRole", "apiextensions.k8s.io/CustomResourceDefinition", "/ConfigMap",
		"external-secrets.io/SecretStore", "rbac.authorization.k8s.io/RoleBinding", "rbac.authorization.k8s.io/Role", "policy/PodDisruptionBudget",
	}
	want := []string{
		"CustomResourceDefinition", "Namespace", "ClusterRole", "IngressClass", "ServiceAccount", "Role", "RoleBinding", "ConfigMap", "Secret", "SealedSecret", "SecretStore",
		"Service", "Deployment", "PodDisruptionBudget", "Boat", "ValidatingWebhookConfiguration",
	}
	var ids []manifest.ID
	for _, k := range kinds {
		group, kind, _ := strings.Cut(k, "/")
		ids = append(ids, manifest.ID{Group: group, Kind: kind, Name: "x", Version: "v1"})
	}
	prune, union := order{}.inventories(nil, ids)
	slices.SortFunc(union, order{}.compare)
	var got []string
	for _, id := range union {
		got = append(got, id.Kind)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	slices.Reverse(prune)
	if diff := cmp.Diff(union, prune); diff != "" {
		t.Errorf("deletion is not the reverse: %s", diff)
	}
	chosen := order{{Group: "example.com", Kind: "Widget"}}
	for i, k := range []int{
		chosen.stageOf(schema.GroupKind{Kind: "Namespace"}), chosen.stageOf(schema.GroupKind{Kind: "StorageClass"}), chosen.stageOf(chosen[0]),
		chosen.stageOf(schema.GroupKind{Kind: "Secret"}), chosen.stageOf(schema.GroupKind{Kind: "Widget"}),
	} {
		if k != i {
			t.Errorf("stage %d where %d is expected", k, i)
		}
	}
}

func TestInventoriesCompareByText(t *testing.T) {
	old := []manifest.ID{{Namespace: "n", Name: "a", Group: "g", Kind: "K", Version: "v1"}, {Namespace: "n", Name: "b", Group: "g", Kind: "K", Version: "v1"}, {Namespace: "n", Name: "b", Group: "g", Kind: "K", Version: "v1"}}
	fresh := []manifest.ID{{Namespace: "n", Name: "a", Group: "g", Kind: "K", Version: "v2"}}
	prune, union := order{}.inventories(fresh, old)
	if len(prune) != 1 || prune[0].Name != "b" || len(union) != 2 || union[0].Version != "v2" {
		t.Errorf("prune %v, union %v", prune, union)
	}
}

const podFields = `{"f:metadata":{"f:labels":{"f:a":{}}},"f:spec":{"f:containers":{"k:{\"name\":\"c\"}":{".":{},"f:image":{},"f:name":{},"f:ports":{"k:{\"containerPort\":80,\"protocol\":\"TCP\"}":{".":{},"f:containerPort":{}}}}},"f:set":{"v:\"x\"":{}}}}`

func pod(change func(spec map[string]any)) map[string]any {
	spec := map[string]any{
		"containers": []any{
			map[string]any{"name": "sidecar", "image": "theirs"},
			map[string]any{"name": "c", "image": "i", "ports": []any{map[string]any{"containerPort": int64(80), "protocol": "TCP"}}},
		},
		"set": []any{"x", "y"},
	}
	change(spec)
	return map[string]any{"metadata": map[string]any{"labels": map[string]any{"a": "1", "b": "2"}}, "spec": spec}
}

func TestOwnedDigestFollowsOurFieldsOnly(t *testing.T) {
	key := plaintext.NewKey([]byte("k"))
	owners := []owner{{Manager: "other", Operation: "Apply", FieldsV1: []byte(`{}`)}, {Manager: "m", Operation: "Apply", FieldsV1: []byte(podFields)}}
	of := func(change func(map[string]any)) digest { return ownedDigest(key, pod(change), owners, "m", nil) }
	container := func(spec map[string]any) map[string]any { return spec["containers"].([]any)[1].(map[string]any) }
	before := of(func(map[string]any) {})
	if before == (digest{}) {
		t.Fatal("no digest")
	}
	for name, change := range map[string]func(map[string]any){
		"another container": func(s map[string]any) { s["containers"].([]any)[0].(map[string]any)["image"] = "new" },
		"the order":         func(s map[string]any) { slices.Reverse(s["containers"].([]any)) },
		"a foreign field":   func(s map[string]any) { container(s)["tty"] = true },
		"a foreign member":  func(s map[string]any) { s["set"] = []any{"x", "z"} },
	} {
		if of(change) != before {
			t.Errorf("%s changes the digest", name)
		}
	}
	for name, change := range map[string]func(map[string]any){
		"our image":            func(s map[string]any) { container(s)["image"] = "new" },
		"our container":        func(s map[string]any) { s["containers"] = s["containers"].([]any)[:1] },
		"our port":             func(s map[string]any) { container(s)["ports"] = nil },
		"our member":           func(s map[string]any) { s["set"] = []any{"y"} },
		"the type of a value":  func(s map[string]any) { container(s)["image"] = int64(1) },
		"a list that is a map": func(s map[string]any) { s["containers"] = map[string]any{} },
	} {
		if of(change) == before {
			t.Errorf("%s does not change the digest", name)
		}
	}
	if ownedDigest(plaintext.NewKey([]byte("other")), pod(func(map[string]any) {}), owners, "m", nil) == before {
		t.Error("the digest is not keyed")
	}
	if ownedDigest(key, pod(func(map[string]any) {}), owners, "nobody", nil) != (digest{}) {
		t.Error("a manager that applied nothing has a digest")
	}
}

func TestTakeOver(t *testing.T) {
	ours := owner{Manager: "m", Operation: "Apply", APIVersion: "v1", FieldsV1: []byte(`{"f:data":{"f:a":{}}}`)}
	kubectl := owner{Manager: "kubectl-edit", Operation: "Update", FieldsV1: []byte(`{"f:data":{"f:b":{}}}`)}
	scale := owner{Manager: "kubectl", Operation: "Update", Subresource: "scale", FieldsV1: []byte(`{"f:spec":{"f:replicas":{}}}`)}
	hpa := owner{Manager: "hpa", Operation: "Update", FieldsV1: []byte(`{"f:spec":{}}`)}
	out, changed, leftover := takeOver([]owner{ours, kubectl, scale, hpa}, "m", "v1")
	if !changed || !leftover || len(out) != 3 || out[2].Manager != "m" || string(out[2].FieldsV1) != `{"f:data":{"f:a":{},"f:b":{}}}` {
		t.Errorf("%v %v %+v", changed, leftover, out)
	}
	kubectl.FieldsV1 = ours.FieldsV1
	if _, changed, leftover = takeOver([]owner{kubectl, ours}, "m", "v1"); !changed || leftover {
		t.Error("fields that we have anyway are left over")
	}
	if _, changed, _ = takeOver([]owner{ours, scale, hpa}, "m", "v1"); changed {
		t.Error("something is taken from a manager that is not overridden")
	}
	if out, changed, _ = takeOver([]owner{kubectl}, "m", "v1"); !changed || len(out) != 1 || out[0].Manager != "m" || out[0].Operation != "Apply" {
		t.Errorf("adoption of what kubectl made alone: %+v", out)
	}
}

func TestRepairsAreBounded(t *testing.T) {
	q := newQueue(t.Context())
	id := manifest.ID{Kind: "K", Name: "n"}
	got := map[EventKind]int{}
	drifted := Event{OwnerNamespace: "ns", OwnerName: "app", ID: id, Kind: Drifted, By: "hpa"}
	for range 3 * repairs {
		q.put(drifted)
		q.put(drifted) // waiting already
		q.put(Event{ID: manifest.ID{Kind: "K", Name: "sentinel"}, Kind: Health})
		for e := range q.out {
			if e.Kind == Health {
				break
			}
			got[e.Kind]++
		}
	}
	if got[Drifted] != repairs || got[Contested] != 1 {
		t.Errorf("%v, want %d repairs and to be told once that they end", got, repairs)
	}
	if by := q.contested("ns/app"); len(by) != 1 || by[id] != "hpa" {
		t.Errorf("contested: %v", by)
	}
	if by := q.contested("ns/other"); len(by) != 0 {
		t.Errorf("somebody else's: %v", by)
	}
}

// Nobody reads for longer than the window: that an object is contested waits once, and the second time it is not told.
func TestContestedWaitsOnce(t *testing.T) {
	q := &queue{wake: make(chan struct{}, 1), waiting: map[Event]struct{}{}, drifts: map[manifest.ID]drift{}}
	id := manifest.ID{Kind: "K", Name: "n"}
	window := func() (told bool) {
		for i := range repairs {
			q.put(Event{ID: id, Kind: Drifted, By: fmt.Sprint("x-", i, len(q.order))})
		}
		return q.put(Event{ID: id, Kind: Drifted, By: "hpa"})
	}
	if !window() {
		t.Fatal("not told at all")
	}
	d := q.drifts[id]
	d.since = d.since.Add(-repairsWindow - time.Second)
	q.drifts[id] = d
	if window() {
		t.Error("told again")
	}
	n := 0
	for e, more := q.take(); more; e, more = q.take() {
		if e.Kind == Contested {
			n++
		}
	}
	if n != 1 {
		t.Errorf("%d times in the queue", n)
	}
}
