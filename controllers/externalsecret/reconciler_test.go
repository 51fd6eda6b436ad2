package externalsecret

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/record"
	"k8s.io/client-go/util/workqueue"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"
	"sigs.k8s.io/controller-runtime/pkg/event"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	v1 "sealock.dev/sealock/api/externalsecrets/v1"
	"sealock.dev/sealock/externalsecrets"
	"sealock.dev/sealock/fault"
	"sealock.dev/sealock/internal/testkit"
	"sealock.dev/sealock/manifest"
	"sealock.dev/sealock/plaintext"
	"sealock.dev/sealock/tenants"
)

// stub is an Opener and a SecretWriter that count and fail on demand.
type stub struct {
	reads     []time.Duration // maxAge of each
	checks    int             // of intact
	writes    int
	value     string
	err       error // of reading
	writeErr  error
	untouched bool
	keep      bool
	action    manifest.Action
	version   string // of the Secret that was written
	ownerUID  string // that came with it
	verified  bool
	verify    error
	logins    int
}

func (s *stub) Refresh(_ context.Context, _ tenants.Grant, obj manifest.Object, maxAge time.Duration) (manifest.Produced, error) {
	s.reads = append(s.reads, maxAge)
	if s.err != nil {
		return manifest.Produced{}, s.err
	}
	data := map[string]plaintext.Value{"password": plaintext.FromString(s.value)}
	return manifest.Produced{Owner: obj.Ref(), Keep: s.keep, Secret: manifest.NewSecret(obj.Namespace(), obj.Name(), "", data, manifest.External, manifest.Source{})}, nil
}

func (s *stub) Intact(context.Context, manifest.Object) (bool, error) {
	s.checks++
	return s.untouched, nil
}

func (s *stub) Verify(context.Context, tenants.Grant, manifest.Object) (bool, error) {
	s.logins++
	return s.verified, s.verify
}

func (s *stub) WriteSecret(_ context.Context, p manifest.Produced, _ bool) (manifest.Change, error) {
	s.writes++
	s.ownerUID = p.OwnerUID
	return manifest.Change{ID: p.Secret.ID(), Action: s.action, Version: s.version}, s.writeErr
}

type bench struct {
	*Reconciler
	*stub
	cluster client.Client
	record  *record.FakeRecorder
	patches int
	clock   time.Time
}

var at = types.NamespacedName{Namespace: "team-a", Name: "db"}

func newBench(t *testing.T, objects ...client.Object) *bench {
	t.Helper()
	scheme := runtime.NewScheme()
	if err := errors.Join(corev1.AddToScheme(scheme), v1.AddToScheme(scheme)); err != nil {
		t.Fatal(err)
	}
	b := &bench{stub: &stub{action: manifest.Created, untouched: true, value: "v"}, record: record.NewFakeRecorder(20), clock: time.Unix(1_700_000_000, 0)}
	builder := fake.NewClientBuilder().WithScheme(scheme).WithObjects(objects...).
		WithStatusSubresource(newObject("ExternalSecret"), newObject(kindStore), newObject(kindClusterStore)).
		WithInterceptorFuncs(interceptor.Funcs{SubResourcePatch: func(ctx context.Context, c client.Client, sub string, obj client.Object, patch client.Patch, opts ...client.SubResourcePatchOption) error {
			b.patches++
			return c.SubResource(sub).Patch(ctx, obj, patch, opts...)
		}})
	for _, i := range indexes() {
		builder = builder.WithIndex(newObject(i.kind), i.field, i.extract)
	}
	b.cluster = builder.Build()
	b.Reconciler = New(Options{
		Client: b.cluster, Opener: b.stub, Writer: b.stub, Events: b.record, Now: func() time.Time { return b.clock },
		Grants: func(namespace string) tenants.Grant {
			return tenants.NewIndex(nil, tenants.DefaultSettings()).GrantFor(namespace)
		},
	})
	return b
}

func (b *bench) run(t *testing.T) (ctrl.Result, error) {
	t.Helper()
	return b.Reconcile(t.Context(), ctrl.Request{NamespacedName: at})
}

func (b *bench) status(t *testing.T) v1.ExternalSecretStatus {
	t.Helper()
	o := newObject("ExternalSecret")
	if err := b.cluster.Get(t.Context(), at, o); err != nil {
		t.Fatal(err)
	}
	return statusOf(o)
}

func (b *bench) eventTexts() []string {
	var out []string
	for {
		select {
		case e := <-b.record.Events:
			out = append(out, e)
		default:
			return out
		}
	}
}

func externalSecret(change func(o *unstructured.Unstructured)) *unstructured.Unstructured {
	o := newObject("ExternalSecret")
	o.SetNamespace(at.Namespace)
	o.SetName(at.Name)
	o.SetGeneration(1)
	o.Object["spec"] = map[string]any{
		"secretStoreRef":  map[string]any{"name": "vault"},
		"refreshInterval": "1h",
		"data":            []any{map[string]any{"secretKey": "password", "remoteRef": map[string]any{"key": "app"}}},
	}
	if change != nil {
		change(o)
	}
	return o
}

func (b *bench) edit(t *testing.T, change func(o *unstructured.Unstructured)) {
	t.Helper()
	o := newObject("ExternalSecret")
	if err := b.cluster.Get(t.Context(), at, o); err != nil {
		t.Fatal(err)
	}
	change(o)
	if err := b.cluster.Update(t.Context(), o); err != nil {
		t.Fatal(err)
	}
}

func TestOneLife(t *testing.T) {
	b := newBench(t, externalSecret(nil))
	result, err := b.run(t)
	if err != nil || result.RequeueAfter != time.Hour || len(b.reads) != 1 || b.writes != 1 {
		t.Fatalf("first: %v %v, %d reads", result, err, len(b.reads))
	}
	s := b.status(t)
	want := []v1.Condition{{Type: "Ready", Status: "True", Reason: "SecretSynced", Message: "secret synced", LastTransitionTime: metav1.NewTime(b.clock)}}
	if diff := cmp.Diff(want, s.Conditions); diff != "" || s.SyncedResourceVersion != externalsecrets.SyncedResourceVersion(1, nil, nil) || !s.RefreshTime.Time.Equal(b.clock) {
		t.Errorf("status %+v %s", s, diff)
	}
	if got := b.eventTexts(); len(got) != 1 || got[0] != "Normal Created secret created" {
		t.Errorf("events %q", got)
	}

	b.clock = b.clock.Add(20 * time.Minute)
	result, err = b.run(t)
	if err != nil || result.RequeueAfter != 40*time.Minute || len(b.reads) != 1 || b.patches != 1 || b.checks != 1 {
		t.Errorf("nothing changed: %v %v, %d reads, %d patches", result, err, len(b.reads), b.patches)
	}

	b.clock = b.clock.Add(40 * time.Minute)
	b.action = manifest.Unchanged
	if _, err = b.run(t); err != nil || len(b.reads) != 2 || b.reads[1] != coalesce || len(b.eventTexts()) != 0 {
		t.Errorf("after the interval: %v, reads %v", err, b.reads)
	}

	b.edit(t, func(o *unstructured.Unstructured) { o.SetAnnotations(map[string]string{"force-sync": "1"}) })
	b.action = manifest.Configured
	if _, err = b.run(t); err != nil || len(b.reads) != 3 || b.reads[2] != 0 {
		t.Errorf("after an annotation: %v, reads %v, want one that asks anew", err, b.reads)
	}
	if got := b.eventTexts(); len(got) != 1 || got[0] != "Normal Updated secret updated" {
		t.Errorf("events %q", got)
	}

	b.untouched = false // somebody edited the Secret
	if _, err = b.run(t); err != nil || len(b.reads) != 4 || b.writes != 4 {
		t.Errorf("after an edit of the Secret: %v, %d reads, %d writes", err, len(b.reads), b.writes)
	}
}

func TestAFailingProviderIsReportedAndTouchesNothing(t *testing.T) {
	b := newBench(t, externalSecret(nil))
	if _, err := b.run(t); err != nil {
		t.Fatal(err)
	}
	good := b.status(t)
	b.eventTexts()
	b.clock = b.clock.Add(time.Hour)
	b.err = fault.New(fault.StageOpen, fault.Transient, fault.Ref{Kind: "ExternalSecret", Name: "db"}, "secret key %q: Vault is away", "password").Fix("wait")
	for range 3 {
		if _, err := b.run(t); fault.KindOf(err) != fault.Transient {
			t.Errorf("got %v, want it tried again with back-off", err)
		}
	}
	s := b.status(t)
	if c := s.Conditions[0]; c.Status != "False" || c.Reason != "SecretSyncedError" || !strings.Contains(c.Message, "Vault is away; wait") {
		t.Errorf("condition %+v", c)
	}
	if !s.RefreshTime.Equal(&good.RefreshTime) || s.SyncedResourceVersion != good.SyncedResourceVersion || b.writes != 1 || b.patches != 2 {
		t.Errorf("a failure left %+v after %d writes and %d patches", s, b.writes, b.patches)
	}
	if got := b.eventTexts(); len(got) != 1 || !strings.HasPrefix(got[0], "Warning UpdateFailed") {
		t.Errorf("events %q, want one", got)
	}
	b.err = nil
	b.action = manifest.Unchanged
	if _, err := b.run(t); err != nil || b.status(t).Conditions[0].Status != "True" {
		t.Errorf("after it came back: %v %+v", err, b.status(t))
	}
}

func TestT41_NothingIsShownOfAValue(t *testing.T) {
	c := testkit.NewCanary()
	b := newBench(t, externalSecret(nil))
	b.value = c.String()
	b.writeErr = errors.New("admission webhook denied: " + c.String())
	_, err := b.run(t)
	text := err.Error() + b.status(t).Conditions[0].Message + strings.Join(b.eventTexts(), " ")
	if found := c.FindIn(text); found != nil {
		t.Errorf("found %q in %s", found, text)
	}
	if !strings.Contains(text, "admission webhook denied") {
		t.Errorf("the reason is lost: %s", text)
	}
}

func TestAWrongSpecWaitsForAChange(t *testing.T) {
	b := newBench(t, externalSecret(func(o *unstructured.Unstructured) {
		_ = unstructured.SetNestedSlice(o.Object, []any{map[string]any{"extract": map[string]any{"key": "x"}}}, "spec", "dataFrom")
	}))
	for range 2 {
		if result, err := b.run(t); err != nil || result.RequeueAfter != 0 {
			t.Errorf("got %v %v", result, err)
		}
	}
	if c := b.status(t).Conditions[0]; c.Status != "False" || !strings.Contains(c.Message, "spec.dataFrom: not served yet") || b.patches != 1 || len(b.reads) != 0 {
		t.Errorf("condition %+v after %d patches", c, b.patches)
	}
}

func TestAStoreOfAnotherClassIsLeftAlone(t *testing.T) {
	b := newBench(t, externalSecret(nil))
	b.err = externalsecrets.ErrForeignClass
	if _, err := b.run(t); err != nil || b.patches != 0 || b.writes != 0 {
		t.Errorf("%v, %d patches", err, b.patches)
	}
}

func TestWhatIsOnlyCompletedMayBeMissing(t *testing.T) {
	b := newBench(t, externalSecret(nil))
	b.action = manifest.Skipped
	if _, err := b.run(t); err != nil || b.status(t).Conditions[0].Reason != "SecretMissing" || b.status(t).Conditions[0].Status != "True" {
		t.Errorf("%v %+v", err, b.status(t))
	}
}

// The decision table of reference/external-secrets.md, section 1.2.
func TestDue(t *testing.T) {
	now := time.Unix(1_700_000_000, 0)
	current := externalsecrets.SyncedResourceVersion(1, nil, nil)
	for name, c := range map[string]struct {
		policy, interval, synced string
		ago                      time.Duration
		ready                    corev1.ConditionStatus
		want                     reason
	}{
		"periodic, never":            {"", "1h", "", 0, "", dueFirst},
		"periodic, fresh":            {"Periodic", "1h", current, time.Minute, "True", notDue},
		"periodic, over":             {"Periodic", "1h", current, time.Hour, "True", dueTime},
		"periodic, future":           {"Periodic", "1h", current, -time.Minute, "True", dueTime},
		"periodic, changed":          {"Periodic", "1h", "0-x", time.Minute, "True", dueChanged},
		"periodic, interval 0":       {"Periodic", "0", current, 100 * time.Hour, "True", notDue},
		"periodic, 0 and changed":    {"Periodic", "0", "0-x", time.Minute, "True", dueChanged},
		"periodic, failed":           {"Periodic", "1h", current, time.Minute, "False", dueAgain},
		"periodic, failed, changed":  {"Periodic", "1h", "0-x", time.Minute, "False", dueChanged},
		"on change, same":            {"OnChange", "1h", current, 100 * time.Hour, "True", notDue},
		"on change, changed":         {"OnChange", "1h", "0-x", time.Minute, "True", dueChanged},
		"created once, never":        {"CreatedOnce", "1h", "", 0, "", dueFirst},
		"created once, changed":      {"CreatedOnce", "1h", "0-x", 100 * time.Hour, "True", notDue},
		"created once, failed later": {"CreatedOnce", "1h", current, time.Hour, "False", dueAgain},
	} {
		live := externalSecret(func(o *unstructured.Unstructured) {
			_ = unstructured.SetNestedField(o.Object, c.interval, "spec", "refreshInterval")
			if c.policy != "" {
				_ = unstructured.SetNestedField(o.Object, c.policy, "spec", "refreshPolicy")
			}
		})
		_, spec, err := decode(live)
		if err != nil {
			t.Fatal(name, err)
		}
		was := v1.ExternalSecretStatus{SyncedResourceVersion: c.synced}
		if c.synced != "" {
			was.RefreshTime = metav1.NewTime(now.Add(-c.ago))
			was.Conditions = []v1.Condition{{Type: "Ready", Status: c.ready}}
		}
		if got := due(live, spec, was, now); got != c.want {
			t.Errorf("%s: got %d, want %d", name, got, c.want)
		}
	}
}

func store(kind, namespace, secretNamespace string) *unstructured.Unstructured {
	o := newObject(kind)
	o.SetNamespace(namespace)
	o.SetName("vault")
	o.SetGeneration(1)
	ref := map[string]any{"name": "token", "key": "token"}
	if secretNamespace != "" {
		ref["namespace"] = secretNamespace
	}
	o.Object["spec"] = map[string]any{"provider": map[string]any{"vault": map[string]any{"server": "https://v", "auth": map[string]any{"tokenSecretRef": ref}}}}
	return o
}

func secretMeta(namespace, name string) client.Object {
	return &metav1.PartialObjectMetadata{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name}}
}

func TestWhoIsToldOfWhat(t *testing.T) {
	own := externalSecret(nil)
	other := externalSecret(func(o *unstructured.Unstructured) {
		o.SetNamespace("team-b")
		_ = unstructured.SetNestedField(o.Object, "renamed", "spec", "target", "name")
		_ = unstructured.SetNestedField(o.Object, kindClusterStore, "spec", "secretStoreRef", "kind")
	})
	b := newBench(t, own, other, store(kindStore, "team-a", ""), store(kindClusterStore, "", "platform"))
	ownReq, otherReq := reconcile.Request{NamespacedName: at}, reconcile.Request{NamespacedName: types.NamespacedName{Namespace: "team-b", Name: "db"}}
	for name, c := range map[string]struct {
		secret client.Object
		want   []reconcile.Request
	}{
		"own target":             {secretMeta("team-a", "db"), []reconcile.Request{ownReq}},
		"target of another name": {secretMeta("team-b", "renamed"), []reconcile.Request{otherReq}},
		"not its target":         {secretMeta("team-b", "db"), nil},
		"credential":             {secretMeta("team-a", "token"), []reconcile.Request{ownReq}},
		"cluster credential":     {secretMeta("platform", "token"), []reconcile.Request{otherReq}},
		"foreign credential":     {secretMeta("team-c", "token"), nil},
	} {
		got := b.usersOfSecret(t.Context(), c.secret)
		if len(got) == 0 && len(c.want) == 0 {
			continue
		}
		if diff := cmp.Diff(c.want, got); diff != "" {
			t.Errorf("%s: %s", name, diff)
		}
	}
}

func TestAStoreThatChangesHasItsUsersRead(t *testing.T) {
	b := newBench(t, externalSecret(nil), store(kindStore, "team-a", ""))
	if _, err := b.run(t); err != nil {
		t.Fatal(err)
	}
	queue := workqueue.NewTypedRateLimitingQueue(workqueue.DefaultTypedControllerRateLimiter[reconcile.Request]())
	defer queue.ShutDown()
	h := b.usersOfStore(kindStore)
	old, changed := store(kindStore, "team-a", ""), store(kindStore, "team-a", "")
	h.Create(t.Context(), event.CreateEvent{Object: old}, queue) // as after a restart
	if _, err := b.run(t); err != nil || len(b.reads) != 1 {
		t.Errorf("a store that appears: %v, %d reads, want 1", err, len(b.reads))
	}
	changed.SetGeneration(2)
	h.Update(t.Context(), event.UpdateEvent{ObjectOld: old, ObjectNew: changed}, queue)
	if _, err := b.run(t); err != nil || len(b.reads) != 2 || queue.Len() != 1 {
		t.Errorf("a store that changes: %v, %d reads, want 2", err, len(b.reads))
	}
	if _, err := b.run(t); err != nil || len(b.reads) != 2 {
		t.Errorf("afterwards: %v, %d reads, want 2", err, len(b.reads))
	}
}

func TestStatusOfAStore(t *testing.T) {
	b := newBench(t, store(kindStore, "team-a", ""))
	s := &storeReconciler{Reconciler: b.Reconciler, kind: kindStore}
	name := types.NamespacedName{Namespace: "team-a", Name: "vault"}
	for _, step := range []struct {
		what     string
		verified bool
		err      error
		reason   string
		patches  int
		retried  bool
	}{
		{"good", true, nil, "Valid", 1, false},
		{"still good", true, nil, "Valid", 1, false},
		{"away", true, fault.New(fault.StageOpen, fault.Transient, fault.Ref{}, "Vault is away"), "InvalidProviderConfig", 2, true},
		{"still away", true, fault.New(fault.StageOpen, fault.Transient, fault.Ref{}, "Vault is away"), "InvalidProviderConfig", 2, true},
		{"wrong", false, fault.New(fault.StageOpen, fault.Invalid, fault.Ref{}, "ProviderNotSupported"), "InvalidProviderConfig", 3, false},
		{"referent", false, nil, "ValidationUnknown", 4, false},
		{"foreign", false, externalsecrets.ErrForeignClass, "ValidationUnknown", 4, false},
	} {
		b.verified, b.verify = step.verified, step.err
		_, err := s.Reconcile(t.Context(), ctrl.Request{NamespacedName: name})
		o := newObject(kindStore)
		if getErr := b.cluster.Get(t.Context(), name, o); getErr != nil {
			t.Fatal(getErr)
		}
		list, _, _ := unstructured.NestedSlice(o.Object, "status", "conditions")
		c, _ := list[0].(map[string]any)
		if (err != nil) != step.retried || c["reason"] != step.reason || b.patches != step.patches {
			t.Errorf("%s: %v, %v, %d patches; want %+v", step.what, err, c, b.patches, step)
		}
	}
	if got := b.eventTexts(); len(got) != 4 {
		t.Errorf("events %q, want one for each change", got)
	}
}
