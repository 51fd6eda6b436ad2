package cluster

import (
	"strconv"
	"strings"
	"testing"

	autoscalingv1 "k8s.io/api/autoscaling/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"sealock.dev/sealock/fault"
	"sealock.dev/sealock/manifest"
)

const scaled = `
apiVersion: apps/v1
kind: Deployment
metadata: {name: web, labels: {tier: TIER}}
spec:
  replicas: 2
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec: {containers: [{name: main, image: "nginx:1"}]}
`

// spec.ignore: a field that somebody else manages is no drift, and an apply for another reason leaves it as it is.
// contract: Kustomization spec.ignore[].paths[]
func TestIgnoredFieldsStayWithOthers(t *testing.T) {
	w := newWorld(t)
	w.owner.Ignore = []manifest.IgnoreRule{{Paths: []string{"/spec/replicas"}, Target: &manifest.Selector{Kind: "Deployment", Name: "w.b"}}}
	first := strings.ReplaceAll(scaled, "TIER", "one")
	w.run(w.objects(first))
	deployments := w.kube.AppsV1().Deployments(w.ns)
	if d, err := deployments.Get(t.Context(), "web", metav1.GetOptions{}); err != nil || *d.Spec.Replicas != 2 {
		t.Fatalf("a new object does not get the value of the manifest: %v", err)
	}
	scale, err := deployments.UpdateScale(t.Context(), "web", &autoscalingv1.Scale{
		ObjectMeta: metav1.ObjectMeta{Name: "web", Namespace: w.ns}, Spec: autoscalingv1.ScaleSpec{Replicas: 7},
	}, metav1.UpdateOptions{FieldManager: "autoscaler"})
	if err != nil {
		t.Fatal(err)
	}
	w.until("the scale in the view", func() bool {
		watched, _ := w.client.view.peek(w.objects(first)[0].GVK())
		e, _ := watched.lookup(nsName{w.ns, "web"})
		return e.version >= number(t, scale.ResourceVersion)
	})
	w.rec.take()
	if p := w.plan(w.objects(first)); actions(p)[manifest.Unchanged] != 1 {
		t.Errorf("an ignored field is drift: %v", actions(p))
	}
	if asked := w.rec.take(); len(asked) > 0 {
		t.Errorf("it cost %v", asked)
	}
	w.run(w.objects(strings.ReplaceAll(scaled, "TIER", "two")))
	d, err := deployments.Get(t.Context(), "web", metav1.GetOptions{})
	if err != nil || d.Labels["tier"] != "two" || *d.Spec.Replicas != 7 {
		t.Errorf("labels %v, replicas %d: %v", d.Labels, *d.Spec.Replicas, err)
	}

	// Without the rule the field is ours again.
	w.owner.Ignore = nil
	w.run(w.objects(strings.ReplaceAll(scaled, "TIER", "two")))
	if d, err = deployments.Get(t.Context(), "web", metav1.GetOptions{}); err != nil || *d.Spec.Replicas != 2 {
		t.Errorf("replicas %d: %v", *d.Spec.Replicas, err)
	}
}

// A field that another manager applies is left to it altogether.
// contract: Object field manager kustomize-controller
func TestIgnoredFieldOfAnotherApplierIsNotSent(t *testing.T) {
	w := newWorld(t)
	w.owner.Ignore = []manifest.IgnoreRule{{Paths: []string{"/data/shared"}}}
	set := func(own string) []manifest.Object {
		return w.objects("apiVersion: v1\nkind: ConfigMap\nmetadata: {name: cm}\ndata: {shared: git, own: " + own + "}")
	}
	w.run(set("a"))
	force := true
	body := `{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"cm"},"data":{"shared":"theirs"}}`
	if _, err := w.kube.CoreV1().ConfigMaps(w.ns).Patch(t.Context(), "cm", types.ApplyPatchType, []byte(body), metav1.PatchOptions{FieldManager: "operator", Force: &force}); err != nil {
		t.Fatal(err)
	}
	w.run(set("b"))
	cm, err := w.kube.CoreV1().ConfigMaps(w.ns).Get(t.Context(), "cm", metav1.GetOptions{})
	if err != nil || cm.Data["shared"] != "theirs" || cm.Data["own"] != "b" {
		t.Errorf("data %v: %v", cm.Data, err)
	}
	ownFields(t, cm.ManagedFields, map[string]string{
		"kustomize-controller Apply": `{"f:data":{"f:own":{}},` + ownLabels + `}`, "operator Apply": `{"f:data":{"f:shared":{}}}`,
	})
}

func TestIgnoreRulesAreChecked(t *testing.T) {
	w := newWorld(t)
	for name, c := range map[string]struct {
		rule  manifest.IgnoreRule
		field string
	}{
		"pointer":  {manifest.IgnoreRule{Paths: []string{"spec.replicas"}}, "spec.ignore[0].paths[0]"},
		"regexp":   {manifest.IgnoreRule{Paths: []string{"/spec"}, Target: &manifest.Selector{Name: "("}}, "spec.ignore[0].target"},
		"selector": {manifest.IgnoreRule{Paths: []string{"/spec"}, Target: &manifest.Selector{LabelSelector: "a in"}}, "spec.ignore[0].target"},
	} {
		owner := w.owner
		owner.Ignore = []manifest.IgnoreRule{c.rule}
		_, err := w.client.Plan(t.Context(), w.grant, owner, nil, nil)
		kindOf(t, err, fault.Invalid)
		if !strings.Contains(err.Error(), c.field) {
			t.Errorf("%s: %v does not name %s", name, err, c.field)
		}
	}
}

func FuzzPointer(f *testing.F) {
	f.Add("/spec/replicas")
	f.Add("/a~1b/~0/0")
	f.Add("/metadata/labels/x")
	f.Fuzz(func(t *testing.T, text string) {
		p, err := parsePointer(text)
		if err != nil {
			return
		}
		body := map[string]any{"spec": map[string]any{"list": []any{"a", map[string]any{"b": "c"}}}, "a/b": map[string]any{"~": []any{int64(1)}}}
		rest := without(body, []pointer{p})
		if v, ok := p.get(rest); ok && v != nil {
			t.Fatalf("%q is still there: %v", text, v)
		}
		if _, ok := pointer([]string{"spec", "list", "1", "b"}).get(body); !ok {
			t.Fatal("the original was changed")
		}
	})
}

func number(t *testing.T, version string) uint64 {
	t.Helper()
	n, err := strconv.ParseUint(version, 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	return n
}
