package cluster

import (
	"fmt"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"sealock.dev/sealock/fault"
	"sealock.dev/sealock/manifest"
)

const lockedMap = `
apiVersion: v1
kind: ConfigMap
metadata: {name: locked, annotations: {why: test}}
immutable: true
data: {k: VALUE}
`

// spec.force: an immutable object is made anew, with force only.
// contract: Kustomization spec.force
func TestForceRecreatesWhatMayNotChange(t *testing.T) {
	w := newWorld(t)
	w.run(w.objects(strings.ReplaceAll(lockedMap, "VALUE", "one")))
	before, err := w.kube.CoreV1().ConfigMaps(w.ns).Get(t.Context(), "locked", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	second := w.resolve(w.objects(strings.ReplaceAll(lockedMap, "VALUE", "two")))
	_, err = w.client.Plan(t.Context(), w.grant, w.owner, second, nil)
	kindOf(t, err, fault.Invalid)

	w.owner.Force = true
	p, changes := w.run(w.objects(strings.ReplaceAll(lockedMap, "VALUE", "two")))
	if !p.Steps[0].Recreate || len(changes) != 1 || changes[0].Action != manifest.Created {
		t.Fatalf("plan %+v, changes %v", p.Steps[0], changes)
	}
	after, err := w.kube.CoreV1().ConfigMaps(w.ns).Get(t.Context(), "locked", metav1.GetOptions{})
	if err != nil || after.UID == before.UID || after.Data["k"] != "two" {
		t.Fatalf("live is %v (%v), was %v", after.Data, after.UID, before.UID)
	}
	if p := w.plan(w.objects(strings.ReplaceAll(lockedMap, "VALUE", "two"))); actions(p)[manifest.Unchanged] != 1 {
		t.Errorf("afterwards: %v", actions(p))
	}
}

// The marker on the object does the same for this object alone.
// contract: Object force: enabled
func TestForceMarker(t *testing.T) {
	w := newWorld(t)
	marked := func(value string) []manifest.Object {
		text := strings.ReplaceAll(lockedMap, "why: test", `"kustomize.toolkit.fluxcd.io/force": Enabled`)
		return w.objects(strings.ReplaceAll(text, "VALUE", value) + "---" + strings.ReplaceAll(strings.ReplaceAll(lockedMap, "locked", "other"), "VALUE", "same"))
	}
	w.run(marked("one"))
	p, changes := w.run(marked("two"))
	if actions(p)[manifest.Created] != 1 || actions(p)[manifest.Unchanged] != 1 || len(changes) != 1 {
		t.Errorf("plan %v, changes %v", actions(p), changes)
	}
}

// What is there without our labels is protected by its markers as anything else is, with force and without, although the
// API server refuses the change.
func TestForceLeavesWhatIsMarked(t *testing.T) {
	const marker = "kustomize.toolkit.fluxcd.io/"
	for name, c := range map[string]struct{ wanted, live string }{
		"if not present": {wanted: marker + "ssa: IfNotPresent"},
		"disabled":       {live: marker + "reconcile"},
		"ignored":        {live: marker + "ssa"},
	} {
		for _, force := range []bool{true, false} {
			t.Run(fmt.Sprintf("%s, force %v", name, force), func(t *testing.T) {
				w := newWorld(t)
				w.owner.Force = force
				immutable := true
				theirs := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "locked"}, Immutable: &immutable, Data: map[string]string{"k": "theirs"}}
				if c.live != "" {
					theirs.Annotations = map[string]string{c.live: map[string]string{marker + "reconcile": "disabled", marker + "ssa": "Ignore"}[c.live]}
				}
				maps := w.kube.CoreV1().ConfigMaps(w.ns)
				before, err := maps.Create(t.Context(), theirs, metav1.CreateOptions{})
				if err != nil {
					t.Fatal(err)
				}
				p, changes := w.run(w.objects(strings.NewReplacer("why: test", c.wanted, "VALUE", "ours").Replace(lockedMap)))
				if actions(p)[manifest.Skipped] != 1 || len(changes) != 0 {
					t.Errorf("plan %v, changes %v", actions(p), changes)
				}
				after, err := maps.Get(t.Context(), "locked", metav1.GetOptions{})
				if err != nil || after.UID != before.UID || after.ResourceVersion != before.ResourceVersion {
					t.Errorf("%v: %v", after, err)
				}
			})
		}
	}
}

// Who may not look whether an object is marked does not make it anew.
func TestForceNeedsTheRightToLook(t *testing.T) {
	w := newWorld(t)
	w.owner.Force = true
	w.grant = w.tenant("cannot-look-"+w.ns, nil, rbacv1.PolicyRule{APIGroups: []string{""}, Resources: []string{"configmaps"}, Verbs: []string{"create", "patch", "delete"}})
	immutable := true
	theirs := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "locked"}, Immutable: &immutable, Data: map[string]string{"k": "theirs"}}
	if _, err := w.kube.CoreV1().ConfigMaps(w.ns).Create(t.Context(), theirs, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	_, err := w.client.Plan(t.Context(), w.grant, w.owner, w.resolve(w.objects(strings.ReplaceAll(lockedMap, "VALUE", "ours"))), nil)
	kindOf(t, err, fault.Invalid)
}

// A marker that comes between the plan and the write counts.
func TestForceLooksAgainBeforeItDeletes(t *testing.T) {
	w := newWorld(t)
	w.owner.Force = true
	w.run(w.objects(strings.ReplaceAll(lockedMap, "VALUE", "one")))
	p := w.plan(w.objects(strings.ReplaceAll(lockedMap, "VALUE", "two")))
	if !p.Steps[0].Recreate {
		t.Fatalf("plan %+v", p.Steps[0])
	}
	w.mark("locked", `{"metadata":{"annotations":{"kustomize.toolkit.fluxcd.io/reconcile":"disabled"}}}`)
	_, err := w.client.Apply(t.Context(), w.grant, p, noop)
	kindOf(t, err, fault.Conflict)
	if cm, err := w.kube.CoreV1().ConfigMaps(w.ns).Get(t.Context(), "locked", metav1.GetOptions{}); err != nil || cm.Data["k"] != "one" {
		t.Errorf("%v: %v", cm, err)
	}
}

// Hazard of flux.md 1.7: there any invalid manifest deletes the live object when force is set.
func TestHazard_ForceDoesNotDeleteOnATypo(t *testing.T) {
	w := newWorld(t)
	w.owner.Force = true
	const service = `
apiVersion: v1
kind: Service
metadata: {name: web}
spec: {selector: {app: web}, ports: [{port: PORT}]}
`
	w.run(w.objects(strings.ReplaceAll(service, "PORT", "80")))
	before, err := w.kube.CoreV1().Services(w.ns).Get(t.Context(), "web", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	for _, bad := range []string{
		strings.ReplaceAll(service, "PORT", "808080"),
		// Both at once: what may not change, and a mistake.
		strings.ReplaceAll(strings.ReplaceAll(service, "selector:", "clusterIP: None, selector:"), "PORT", "808080"),
	} {
		_, err = w.client.Plan(t.Context(), w.grant, w.owner, w.resolve(w.objects(bad)), nil)
		kindOf(t, err, fault.Invalid)
	}
	after, err := w.kube.CoreV1().Services(w.ns).Get(t.Context(), "web", metav1.GetOptions{})
	if err != nil || after.UID != before.UID {
		t.Fatalf("the live object was touched: %v", err)
	}
	// What may not change alone is made anew, though the live one holds the address that the new one wants.
	p, _ := w.run(w.objects(strings.ReplaceAll(strings.ReplaceAll(service, "selector:", "clusterIP: None, selector:"), "PORT", "80")))
	if !p.Steps[0].Recreate {
		t.Errorf("not recreated: %+v", p.Steps[0].Action)
	}
}

// Whoever may not see an object does not learn by that that it is absent: Flux takes a failed GET for absence (flux.md 1.7). The
// identity may write: only that it cannot read keeps it from overwriting what is marked.
func TestHazard_FailedReadIsNotAbsence(t *testing.T) {
	w := newWorld(t)
	text := "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: mine}\ndata: {k: VALUE}"
	set := w.objects(strings.ReplaceAll(text, "VALUE", "ours"))
	w.run(set)
	w.mark("mine", `{"data":{"k":"theirs"},"metadata":{"annotations":{"`+markerPrefix+`reconcile":"disabled"}}}`)
	// The view is taken away: objects are read one by one, as the identity.
	watched, _ := w.client.view.peek(set[0].GVK())
	watched.mu.Lock()
	watched.state = watchForbidden
	watched.mu.Unlock()
	w.grant = w.tenant("blind-"+w.ns, nil, rbacv1.PolicyRule{APIGroups: []string{""}, Resources: []string{"configmaps"}, Verbs: []string{"create", "patch"}})
	_, err := w.client.Plan(t.Context(), w.grant, w.owner, w.resolve(w.objects(strings.ReplaceAll(text, "VALUE", "other"))), nil)
	kindOf(t, err, fault.Denied)
	if !strings.Contains(err.Error(), `cannot get resource "configmaps"`) {
		t.Errorf("it is not the read that is refused: %v", err)
	}
	if cm, err := w.kube.CoreV1().ConfigMaps(w.ns).Get(t.Context(), "mine", metav1.GetOptions{}); err != nil || cm.Data["k"] != "theirs" {
		t.Errorf("%v: %v", cm, err)
	}
}
