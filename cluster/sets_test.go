package cluster

import (
	"context"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/dynamic"

	"sealock.dev/sealock/fault"
	"sealock.dev/sealock/internal/testkit"
)

func TestT16_ScopeComesFromDiscovery(t *testing.T) {
	w := newWorld(t)
	grant := w.tenant("scopes-"+w.ns, nil)
	_, err := w.client.Resolve(t.Context(), grant, w.objects(`
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRole
metadata: {name: evil, namespace: ${NS}}
---
apiVersion: v1
kind: ConfigMap
metadata: {name: a, namespace: kube-system}
---
apiVersion: example.org/v1
kind: Nothing
metadata: {name: a}
---
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: nodes.example.org}
spec: {group: "", names: {kind: Node, plural: nodes}, scope: Namespaced, versions: [{name: v1, served: true}]}
---
apiVersion: v1
kind: Node
metadata: {name: n}
`))
	var kinds []string
	for _, f := range fault.All(err) {
		kinds = append(kinds, f.Kind.String()+" "+f.Ref.Kind)
	}
	want := []string{"Denied ClusterRole", "Denied ConfigMap", "NotFound Nothing", "Denied CustomResourceDefinition", "Denied Node"}
	if diff := cmp.Diff(want, kinds); diff != "" {
		t.Errorf("refusals:\n%s\n%v", diff, err)
	}
	allowed := w.tenant("allowed-"+w.ns, []string{"ClusterRole.rbac.authorization.k8s.io"})
	set, err := w.client.Resolve(t.Context(), allowed, w.objects("apiVersion: rbac.authorization.k8s.io/v1\nkind: ClusterRole\nmetadata: {name: x, namespace: ${NS}}\n---\n"+configMaps(1)))
	if err != nil || set[0].Namespace() != "" || set[1].Namespace() != w.ns {
		t.Errorf("resolved %v %v", set, err)
	}
}

// boats is the definition of a kind Boat.
func boats(group string) string {
	return `
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: boats.` + group + `}
spec:
  group: ` + group + `
  names: {kind: Boat, plural: boats}
  scope: Namespaced
  versions: [{name: v1, served: true, storage: true, schema: {openAPIV3Schema: {type: object, x-kubernetes-preserve-unknown-fields: true}}}]
`
}

func TestNamespaceAndDefinitionOfTheSameSet(t *testing.T) {
	w := newWorld(t)
	other := w.ns + "-made"
	t.Cleanup(func() {
		ctx := context.WithoutCancel(t.Context())
		_ = w.kube.CoreV1().Namespaces().Delete(ctx, other, metav1.DeleteOptions{})
	})
	group := w.ns + ".example.org"
	set := w.objects(`
apiVersion: ` + group + `/v1
kind: Boat
metadata: {name: b}
spec: {sails: 3}
---
apiVersion: v1
kind: ConfigMap
metadata: {name: cm, namespace: ` + other + `}
---
apiVersion: v1
kind: Namespace
metadata: {name: ` + other + `}
---
` + boats(group))
	p := w.plan(set)
	var order []string
	for _, s := range p.Steps {
		order = append(order, s.Object.Kind()+" "+string(s.Action))
	}
	want := []string{"CustomResourceDefinition created", "Namespace created", "ConfigMap created", "Boat created"}
	if diff := cmp.Diff(want, order); diff != "" {
		t.Fatal(diff)
	}
	var staged []int
	done, err := w.client.Apply(t.Context(), w.grant, p, func(_ context.Context, stage int) error {
		staged = append(staged, stage)
		return nil
	})
	if err != nil || len(done) != 4 {
		t.Fatalf("%v %v", done, err)
	}
	if diff := cmp.Diff([]int{0, 1, 2, 3, 4}, staged); diff != "" {
		t.Error(diff)
	}
	w.rec.take()
	if p := w.plan(set); p.Changed() || len(w.rec.take()) != 0 {
		t.Errorf("the second run plans %v", actions(p))
	}
}

// Kinds that end in Class are waited for, as definitions are: what is written later may need them. A retry does not go on
// without them either, and does not wait.
func TestClassesAreWaitedFor(t *testing.T) {
	w := newWorld(t)
	group := w.ns + ".example.org"
	definition := strings.NewReplacer("boats", "boatclasses", "Boat", "BoatClass", "type: object,",
		`type: object, properties: {status: {type: object, x-kubernetes-preserve-unknown-fields: true, default: {conditions: [{type: Ready, status: "False"}]}}},`).Replace(boats(group))
	w.run(w.objects(definition))
	class := "apiVersion: " + group + "/v1\nkind: BoatClass\nmetadata: {name: c}\n---\n"
	classes, err := dynamic.NewForConfig(testkit.Cluster(t).Config)
	if err != nil {
		t.Fatal(err)
	}
	of := classes.Resource(schema.GroupVersionResource{Group: group, Version: "v1", Resource: "boatclasses"}).Namespace(w.ns)
	ready := func(status string) {
		t.Helper()
		body := `{"status":{"conditions":[{"type":"Ready","status":"` + status + `"}]}}`
		if _, err := of.Patch(t.Context(), "c", types.MergePatchType, []byte(body), metav1.PatchOptions{FieldManager: "boats"}); err != nil {
			t.Error(err)
		}
	}
	p := w.plan(w.objects(class + configMaps(1)))
	applied := make(chan error, 1)
	go func() {
		_, err := w.client.Apply(t.Context(), w.grant, p, noop)
		applied <- err
	}()
	w.until("the class to be there", func() bool {
		_, err := of.Get(t.Context(), "c", metav1.GetOptions{})
		return err == nil
	})
	if !w.absent("cm-00") {
		t.Error("the rest did not wait")
	}
	ready("True")
	if err := <-applied; err != nil || w.absent("cm-00") {
		t.Fatalf("the rest is not there: %v", err)
	}
	seen := func(want health) {
		t.Helper()
		w.until("the view sees the class "+want.String(), func() bool {
			watched, live := w.client.view.peek(p.Steps[0].Object.GVK())
			if !live {
				return false
			}
			e, _ := watched.lookup(nsName{w.ns, "c"})
			return e.health == want
		})
	}
	ready("False")
	seen(healthInProgress)
	again := w.plan(w.objects(class + configMaps(2)))
	_, err = w.client.Apply(t.Context(), w.grant, again, noop)
	if kindOf(t, err, fault.Transient); !w.absent("cm-01") {
		t.Error("a retry goes on without the class")
	}
	if _, err = w.client.Apply(t.Context(), w.grant, w.plan(w.objects(class+configMaps(1))), noop); err != nil {
		t.Errorf("with nothing to write: %v", err)
	}
	ready("True")
	seen(healthCurrent)
	if e := w.event(Health, "c"); e.OwnerName != "app" { // which wakes the owner
		t.Errorf("told %v", e)
	}
	if _, done := w.run(w.objects(class + configMaps(2))); len(done) != 1 {
		t.Errorf("%v", done)
	}
}

func TestMissingNamespaceAndInvalidFields(t *testing.T) {
	w := newWorld(t)
	canary := testkit.NewCanary()
	plan := func(text string) error {
		_, err := w.client.Plan(t.Context(), w.grant, w.owner, w.resolve(w.objects(text)), nil)
		return err
	}
	err := plan("apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a, namespace: nowhere}\n")
	kindOf(t, err, fault.NotFound)
	err = plan(`
apiVersion: v1
kind: ConfigMap
metadata: {name: a, labels: {x: 'bad ` + canary.String() + `'}}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: a}
spec: {replicas: '` + canary.String() + `'}
---
apiVersion: v1
kind: Service
metadata: {name: a}
spec: {type: '` + canary.String() + `', ports: [{port: 99999999}]}
---
apiVersion: v1
kind: Secret
type: kubernetes.io/tls
metadata: {name: a}
stringData: {tls.crt: '` + canary.String() + `', 'bad key': '` + canary.String() + `'}
`)
	kindOf(t, err, fault.Invalid)
	if found := canary.FindIn(err.Error()); len(found) > 0 {
		t.Errorf("the error shows values: %v", found)
	}
	for _, part := range []string{"metadata.labels: invalid value: a valid label", "spec.replicas: expected numeric", "spec.ports[0].port: invalid value: must be between 1 and 65535", "Secret/" + w.ns + "/a"} {
		if !strings.Contains(err.Error(), part) {
			t.Errorf("missing %q in\n%v", part, err)
		}
	}
}

// A tenant's binding cannot be dry-run before the role that it binds exists; it is not refused for that.
func TestBindingToARoleOfTheSameSet(t *testing.T) {
	w := newWorld(t)
	configMaps := rbacv1.PolicyRule{APIGroups: []string{""}, Resources: []string{"configmaps"}, Verbs: []string{"get"}}
	w.grant = w.tenant("binder-"+w.ns, nil, configMaps, rbacv1.PolicyRule{APIGroups: []string{rbacv1.GroupName}, Resources: []string{"roles", "rolebindings"}, Verbs: []string{"get", "create", "patch", "update"}})
	binding := func(role string) string {
		return `
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {name: reader}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: Role, name: ` + role + `}
subjects: [{kind: ServiceAccount, name: default, namespace: ${NS}}]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata: {name: reader}
rules: [{apiGroups: [""], resources: [configmaps], verbs: [get]}]
`
	}
	_, err := w.client.Plan(t.Context(), w.grant, w.owner, w.resolve(w.objects(binding("nowhere"))), nil)
	kindOf(t, err, fault.NotFound)
	if _, done := w.run(w.objects(binding("reader"))); len(done) != 2 || done[0].ID.Kind != "Role" {
		t.Errorf("%v", done)
	}
}
