package policies

import (
	"context"
	"encoding/json"
	"fmt"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"sealock.dev/sealock/api/sealock/v1alpha1"
	"sealock.dev/sealock/fault"
	"sealock.dev/sealock/manifest"
	"sealock.dev/sealock/plaintext"
	"sealock.dev/sealock/tenants"
)

const module = "package sealock\n\n"

func policy(name, rego string, edits ...func(*v1alpha1.PolicySpec)) v1alpha1.Policy {
	p := v1alpha1.Policy{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: v1alpha1.PolicySpec{Rego: module + rego}}
	for _, edit := range edits {
		edit(&p.Spec)
	}
	return p
}

func engine(t testing.TB, list ...v1alpha1.Policy) *Engine {
	t.Helper()
	snap, problems := Compile(list)
	for _, p := range problems {
		t.Fatalf("%s: %s", p.Reason, p.Err)
	}
	e := NewEngine(Options{Key: plaintext.NewKey([]byte("test"))})
	e.Use(snap)
	return e
}

func object(t testing.TB, text string) manifest.Object {
	t.Helper()
	docs, err := manifest.Decode("dir/app.yaml", []byte(text), manifest.DefaultLimits)
	if err != nil || len(docs) != 1 {
		t.Fatalf("%d documents, %v", len(docs), err)
	}
	o, err := manifest.New(docs[0].Body, manifest.Source{File: "dir/app.yaml", Line: docs[0].Line}, nil)
	if err != nil {
		t.Fatal(err)
	}
	return o
}

func grant() tenants.Grant {
	t := v1alpha1.Tenant{ObjectMeta: metav1.ObjectMeta{Name: "a"}}
	t.Spec.Namespaces = []v1alpha1.TenantNamespace{{Name: "team-a"}}
	return tenants.NewIndex([]v1alpha1.Tenant{t}, tenants.DefaultSettings()).GrantFor("team-a")
}

// say returns what the engine says of one object before apply.
func say(t testing.TB, e *Engine, o manifest.Object) []string {
	t.Helper()
	found, err := e.Judge(context.Background(), grant(), []manifest.Object{o}, "main@sha1:1")
	if err != nil {
		t.Fatal(err)
	}
	return texts(found)
}

func texts(list []fault.Violation) []string {
	var out []string
	for _, v := range list {
		out = append(out, v.String())
	}
	return out
}

const configMap = `{apiVersion: v1, kind: ConfigMap, metadata: {name: x, namespace: team-a, labels: {app: web}}, data: {n: "1"}}`

func TestInputDocumentBeforeApply(t *testing.T) {
	e := engine(t, policy("dump", `deny contains json.marshal(input)`, func(s *v1alpha1.PolicySpec) {
		s.Parameters = &apiextensionsv1.JSON{Raw: []byte(`{"max": 9007199254740993}`)}
	}))
	found, err := e.JudgeAt(context.Background(), Commit, grant(), []manifest.Object{object(t, `
apiVersion: example.com/v1
kind: Worker
metadata:
  name: x
  namespace: team-a
  managedFields: [{manager: m}]
  annotations: {kubectl.kubernetes.io/last-applied-configuration: "{}", keep: "yes"}
spec:
  jobs:
  - containers: [{name: c, env: [{name: A, valueFrom: {secretKeyRef: {name: s}}}]}]
`)}, "main@sha1:1")
	if err != nil || len(found) != 1 {
		t.Fatalf("%v, %v", found, err)
	}
	spec := `{"containers":[{"env":[{"name":"A","valueFrom":{"secretKeyRef":{"name":"s"}}}],"name":"c"}]}`
	want := `{"origin":"plain","parameters":{"max":9007199254740993},"point":"commit","pods":[{"path":"spec.jobs.0","spec":` + spec + `}],` +
		`"review":{"kind":{"group":"example.com","kind":"Worker","version":"v1"},"name":"x","namespace":"team-a",` +
		`"object":{"apiVersion":"example.com/v1","kind":"Worker","metadata":{"annotations":{"keep":"yes"},"name":"x","namespace":"team-a"},"spec":{"jobs":[` + spec + `]}},` +
		`"operation":"CREATE","userInfo":{"username":"sealock:tenant:a"}},` +
		`"secretRefs":["s"],"serviceAccounts":[{"at":"spec.jobs.0","name":"default"}],` +
		`"source":{"file":"dir/app.yaml","line":2,"revision":"main@sha1:1"},` +
		`"tenant":{"identity":"sealock:tenant:a","name":"a","namespaceLabels":{"team-a":{}},"namespaces":["team-a"],"reservedServiceAccounts":[],"role":"sealock-tenant","roleCeiling":[]}}`
	if diff := cmp.Diff(indent(t, want), indent(t, found[0].Message)); diff != "" {
		t.Errorf("-want +got\n%s", diff)
	}
	if want := (fault.Ref{APIVersion: "example.com/v1", Kind: "Worker", Namespace: "team-a", Name: "x", File: "dir/app.yaml", Line: 2}); found[0].Ref != want {
		t.Errorf("ref %+v", found[0].Ref)
	}
}

func indent(t testing.TB, text string) string {
	t.Helper()
	var v any
	dec := json.NewDecoder(strings.NewReader(text))
	dec.UseNumber()
	if err := dec.Decode(&v); err != nil {
		t.Fatalf("%v in %s", err, text)
	}
	out, _ := json.MarshalIndent(v, "", " ")
	return string(out)
}

func TestInputDocumentAtAdmission(t *testing.T) {
	e := engine(t, policy("dump", `deny contains json.marshal(object.remove(input.review, ["object"]))`), policy("rest", `deny contains json.marshal({"point": input.point, "all": sort(object.keys(input))})`))
	o, old := object(t, configMap), object(t, configMap)
	got := e.Admit(context.Background(), Review{
		Kind: o.GVK(), Resource: o.GVK().GroupVersion().WithResource("configmaps"), SubResource: "status", Name: "x", Namespace: "team-a", Operation: "UPDATE",
		Object: &o, OldObject: &old, DryRun: true, User: User{Username: "alice", UID: "1", Groups: []string{"g"}, Extra: map[string][]string{"k": {"v"}}},
	})
	want := []string{
		`[dump] {"dryRun":true,"kind":{"group":"","kind":"ConfigMap","version":"v1"},"name":"x","namespace":"team-a","oldObject":` +
			`{"apiVersion":"v1","data":{"n":"1"},"kind":"ConfigMap","metadata":{"labels":{"app":"web"},"name":"x","namespace":"team-a"}},"operation":"UPDATE",` +
			`"resource":{"group":"","resource":"configmaps","version":"v1"},"subResource":"status","userInfo":{"extra":{"k":["v"]},"groups":["g"],"uid":"1","username":"alice"}}`,
		// Neither tenant nor origin: nobody knows them here.
		`[rest] {"all":["parameters","pods","point","review","secretRefs","serviceAccounts","source"],"point":"admission"}`,
	}
	if diff := cmp.Diff(want, texts(got)); diff != "" {
		t.Error(diff)
	}
}

func TestT41_PoliciesNeverSeeAPayload(t *testing.T) {
	const canary = "canary-5f2c9d"
	e := engine(t, policy("leak", `deny contains sprintf("%v", [input])`))
	secret := object(t, `{apiVersion: v1, kind: Secret, metadata: {name: x, namespace: team-a, annotations: {kubectl.kubernetes.io/last-applied-configuration: "`+canary+`"}}, stringData: {password: `+canary+`}}`)
	tokens := plaintext.NewTokens(plaintext.NewKey([]byte("k")))
	token := tokens.Issue(plaintext.FromString(canary))
	elsewhere, err := manifest.New(map[string]any{"apiVersion": "v1", "kind": "ConfigMap", "metadata": map[string]any{"name": "x"}, "data": map[string]any{"a": "b" + token}}, manifest.Source{}, tokens)
	if err != nil {
		t.Fatal(err)
	}
	seen := 0
	for _, o := range []manifest.Object{secret, elsewhere} {
		said := say(t, e, o)
		said = append(said, texts(e.Admit(context.Background(), Review{Kind: o.GVK(), Name: "x", Operation: "UPDATE", Object: &o, OldObject: &o}))...)
		for _, text := range said {
			seen++
			for _, form := range plaintext.Encodings([]byte(canary)) {
				if strings.Contains(text, form) {
					t.Errorf("found %q in %s", form, text)
				}
			}
		}
	}
	if seen != 4 {
		t.Errorf("%d messages", seen)
	}
}

func TestASecretLooksTheSameAtEveryPoint(t *testing.T) {
	e := engine(t, policy("digest", `deny contains json.marshal(input.review.object.data)`))
	key := plaintext.NewKey([]byte("test"))
	git := manifest.NewSecret("team-a", "x", "", map[string]plaintext.Value{"password": plaintext.FromString("hunter2")}, manifest.Sealed, manifest.Source{})
	live := object(t, `{apiVersion: v1, kind: Secret, metadata: {name: x, namespace: team-a}, data: {password: aHVudGVyMg==}}`)
	want := []string{`[digest] {"password":{"digest":"` + plaintext.FromString("hunter2").Digest(key) + `","length":7}}`}
	if diff := cmp.Diff(want, say(t, e, git)); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff(want, texts(e.Admit(context.Background(), Review{Kind: live.GVK(), Name: "x", Operation: "CREATE", Object: &live}))); diff != "" {
		t.Error(diff)
	}
}

func TestOperations(t *testing.T) {
	ops := func(list ...string) func(*v1alpha1.PolicySpec) {
		return func(s *v1alpha1.PolicySpec) { s.Match.Operations = list }
	}
	const rego = `deny contains input.review.operation`
	e := engine(t, policy("default", rego), policy("update", rego, ops("UPDATE")), policy("delete", rego, ops("DELETE")), policy("all", rego, ops("*")))
	o := object(t, configMap)
	if diff := cmp.Diff([]string{"[all] CREATE", "[default] CREATE", "[update] UPDATE"}, say(t, e, o)); diff != "" {
		t.Error("before apply", diff)
	}
	for op, want := range map[string][]string{
		"CREATE":  {"[all] CREATE", "[default] CREATE"},
		"UPDATE":  {"[all] UPDATE", "[default] UPDATE", "[update] UPDATE"},
		"DELETE":  {"[all] DELETE", "[delete] DELETE"},
		"CONNECT": {"[all] CONNECT"},
	} {
		r := Review{Kind: o.GVK(), Operation: op, Object: &o, OldObject: &o}
		if op == "CONNECT" {
			r.Object, r.OldObject = nil, nil
		}
		if op == "DELETE" {
			r.Object = nil
		}
		if diff := cmp.Diff(want, texts(e.Admit(context.Background(), r))); diff != "" {
			t.Error(op, diff)
		}
	}
}

func TestDeleteShowsTheOldObject(t *testing.T) {
	e := engine(t, policy("p", `deny contains input.review.object.metadata.name`, func(s *v1alpha1.PolicySpec) { s.Match.Operations = []string{"DELETE"} }))
	o := object(t, configMap)
	if diff := cmp.Diff([]string{"[p] x"}, texts(e.Admit(context.Background(), Review{Kind: o.GVK(), Operation: "DELETE", OldObject: &o}))); diff != "" {
		t.Error(diff)
	}
	if got := e.Admit(context.Background(), Review{Kind: o.GVK(), Operation: "DELETE"}); len(got) != 1 || !got[0].Errored {
		t.Errorf("deleting nothing is allowed: %v", got)
	}
}

func TestMatch(t *testing.T) {
	cluster := `{apiVersion: v1, kind: Namespace, metadata: {name: team-a}}`
	for _, c := range []struct {
		name   string
		match  v1alpha1.PolicyMatch
		object string
		want   bool
	}{
		{"nothing", v1alpha1.PolicyMatch{}, configMap, true},
		{"kind", v1alpha1.PolicyMatch{Kinds: []v1alpha1.KindMatch{{APIGroups: []string{""}, Kinds: []string{"ConfigMap"}}}}, configMap, true},
		{"kind, any group", v1alpha1.PolicyMatch{Kinds: []v1alpha1.KindMatch{{Kinds: []string{"ConfigMap"}}}}, configMap, true},
		{"group, any kind", v1alpha1.PolicyMatch{Kinds: []v1alpha1.KindMatch{{APIGroups: []string{""}}}}, configMap, true},
		{"stars", v1alpha1.PolicyMatch{Kinds: []v1alpha1.KindMatch{{APIGroups: []string{"*"}, Kinds: []string{"*"}}}}, configMap, true},
		{"second entry", v1alpha1.PolicyMatch{Kinds: []v1alpha1.KindMatch{{APIGroups: []string{"apps"}, Kinds: []string{"*"}}, {APIGroups: []string{""}, Kinds: []string{"ConfigMap"}}}}, configMap, true},
		{"other group", v1alpha1.PolicyMatch{Kinds: []v1alpha1.KindMatch{{APIGroups: []string{"apps"}, Kinds: []string{"ConfigMap"}}}}, configMap, false},
		{"other kind", v1alpha1.PolicyMatch{Kinds: []v1alpha1.KindMatch{{APIGroups: []string{""}, Kinds: []string{"Secret"}}}}, configMap, false},
		{"namespace", v1alpha1.PolicyMatch{Namespaces: []string{"team-a"}}, configMap, true},
		{"namespace prefix", v1alpha1.PolicyMatch{Namespaces: []string{"team-*"}}, configMap, true},
		{"other namespace", v1alpha1.PolicyMatch{Namespaces: []string{"team", "team-ab", "*-a*"}[:2]}, configMap, false},
		{"cluster-scoped has no namespace", v1alpha1.PolicyMatch{Namespaces: []string{"*"}}, cluster, false},
		{"excluded", v1alpha1.PolicyMatch{ExcludedNamespaces: []string{"team-*"}}, configMap, false},
		{"cluster-scoped is not excluded", v1alpha1.PolicyMatch{ExcludedNamespaces: []string{"*"}}, cluster, true},
		{"label", v1alpha1.PolicyMatch{LabelSelector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": "web"}}}, configMap, true},
		{"other label", v1alpha1.PolicyMatch{LabelSelector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": "db"}}}, configMap, false},
		{"tenants", v1alpha1.PolicyMatch{TenantsOnly: true}, configMap, true},
	} {
		e := engine(t, policy("p", `deny contains "no"`, func(s *v1alpha1.PolicySpec) { s.Match = c.match }))
		if got := len(say(t, e, object(t, c.object))) > 0; got != c.want {
			t.Errorf("%s: %v", c.name, got)
		}
	}
	// Without a tenant, and by the labels of the old object.
	e := engine(t, policy("tenants", `deny contains "no"`, func(s *v1alpha1.PolicySpec) { s.Match.TenantsOnly = true }),
		policy("label", `deny contains "no"`, func(s *v1alpha1.PolicySpec) {
			s.Match.LabelSelector = &metav1.LabelSelector{MatchLabels: map[string]string{"app": "web"}}
		}))
	old := object(t, configMap)
	bare := object(t, `{apiVersion: v1, kind: ConfigMap, metadata: {name: x, namespace: team-a}}`)
	if diff := cmp.Diff([]string{"[label] no"}, texts(e.Admit(context.Background(), Review{Kind: old.GVK(), Operation: "UPDATE", Object: &bare, OldObject: &old}))); diff != "" {
		t.Error(diff)
	}
}

func TestEnforcement(t *testing.T) {
	e := engine(t,
		policy("deny", `deny contains "d"`),
		policy("warn", `deny contains "w"`, func(s *v1alpha1.PolicySpec) { s.Enforcement.Reconcile = v1alpha1.ActionWarn }),
		policy("off", `deny contains "o"`, func(s *v1alpha1.PolicySpec) { s.Enforcement.Reconcile = v1alpha1.ActionOff }),
		policy("unknown", `deny contains "u"`, func(s *v1alpha1.PolicySpec) { s.Enforcement.Reconcile = "dryrun" }),
	)
	set := []manifest.Object{object(t, configMap)}
	found, err := e.Judge(context.Background(), grant(), set, "")
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"[deny] d", "[unknown] u", "[warn] w"}, texts(found)); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff([]string{"[deny] d", "[unknown] u"}, texts(fault.Denials(found))); diff != "" {
		t.Error(diff)
	}
	found, _ = e.JudgeAt(context.Background(), Commit, grant(), set, "")
	if len(fault.Denials(found)) != 4 {
		t.Errorf("another point: %v", found)
	}
}

func TestWhatCannotBeEvaluatedDenies(t *testing.T) {
	warn := func(s *v1alpha1.PolicySpec) { s.OnError = v1alpha1.ActionWarn }
	for _, c := range []struct {
		name, rego, want string
	}{
		{"built-in error", `deny contains "no" if to_number(input.review.object.metadata.name) > 4`, "could not be evaluated: eval_builtin_error in line 3"},
		{"conflict", "f(x) := 1 if x\nf(x) := 2 if x\ndeny contains \"no\" if f(input.review) == 1", "could not be evaluated: eval_conflict_error in line 4"},
		{"number", `deny contains 5`, "could not be evaluated: an entry of deny is neither a text nor an object with msg"},
		{"no msg", `deny contains {"message": "x"}`, "could not be evaluated: an entry of deny is neither a text nor an object with msg"},
		{"empty text", `deny contains " "`, "could not be evaluated: an entry of deny is neither a text nor an object with msg"},
	} {
		for _, soft := range []bool{false, true} {
			p := policy("p", c.rego)
			if soft {
				warn(&p.Spec)
			}
			e := engine(t, p, policy("other", `deny contains "other"`))
			found, err := e.Judge(context.Background(), grant(), []manifest.Object{object(t, configMap)}, "")
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff([]string{"[other] other", "[p] " + c.want}, texts(found)); diff != "" {
				t.Errorf("%s: %s", c.name, diff)
			}
			if got := found[1]; !got.Errored || got.Warn != soft {
				t.Errorf("%s: errored %v, warn %v", c.name, got.Errored, got.Warn)
			}
		}
	}
}

func TestT30_EndlessPoliciesEndAndDeny(t *testing.T) {
	for name, rego := range map[string]string{
		"loops":   `deny contains "x" if { some a in numbers.range(1, 3000); some b in numbers.range(1, 3000); some c in numbers.range(1, 3000); a + b + c == 0 }`,
		"range":   `deny contains "x" if count(numbers.range(1, 2000000000)) < 0`,
		"strings": `deny contains "x" if { some i in numbers.range(1, 1000000); s := concat("", [sprintf("%d", [j]) | some j in numbers.range(1, 100000)]); contains(s, "y") }`,
	} {
		e := engine(t, policy("slow", rego), policy("other", `deny contains "other"`))
		want := []string{"[other] other", "[slow] could not be evaluated within 500ms"}
		if diff := cmp.Diff(want, say(t, e, object(t, configMap))); diff != "" {
			t.Errorf("%s: %s", name, diff)
		}
	}
}

func TestNoTimeIsNoVerdict(t *testing.T) {
	e := engine(t, policy("p", `deny contains "no" if input.review.name == "y"`))
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	o := object(t, configMap)
	if _, err := e.Judge(ctx, grant(), []manifest.Object{o}, ""); fault.KindOf(err) != fault.Transient || err == nil {
		t.Errorf("judged: %v", err)
	}
	if got := e.Admit(ctx, Review{Kind: o.GVK(), Operation: "CREATE", Object: &o}); len(fault.Denials(got)) != 1 {
		t.Errorf("admitted: %v", got)
	}
	empty := NewEngine(Options{Key: plaintext.NewKey([]byte("k"))})
	if _, err := empty.Judge(context.Background(), grant(), nil, ""); err == nil {
		t.Error("judged without policies")
	}
	if got := empty.Admit(context.Background(), Review{Kind: o.GVK(), Operation: "CREATE", Object: &o}); len(fault.Denials(got)) != 1 {
		t.Errorf("admitted without policies: %v", got)
	}
}

func TestMessagesAreBoundedAndCannotPose(t *testing.T) {
	e := engine(t,
		policy("long", `deny contains sprintf("%s", [concat("", [x | some i in numbers.range(1, 3000); x := sprintf("é%v", [i % 10])])])`),
		policy("many", `deny contains sprintf("m%04d", [i]) if some i in numbers.range(1, 500)`),
		policy("pose", `deny contains "a\n[other] b"`),
	)
	got := say(t, e, object(t, configMap))
	if len(got) != 1+101+1 {
		t.Fatalf("%d messages", len(got))
	}
	if n := len(got[0]); n > maxMessage+len("[long] ") || !strings.HasSuffix(got[0], "…") || !strings.HasPrefix(got[0], "[long] é1") {
		t.Errorf("%d bytes: %.40q", n, got[0])
	}
	if !slices.Contains(got, "[many] (and 400 more)") || !slices.Contains(got, "[many] m0100") || slices.Contains(got, "[many] m0101") {
		t.Error("the wrong hundred")
	}
	if last := got[len(got)-1]; last != "[pose] a [other] b" {
		t.Errorf("%q", last)
	}
}

func TestTimeIsPinned(t *testing.T) {
	p := policy("p", `deny contains time.format(time.now_ns())`)
	if diff := cmp.Diff([]string{"[p] 1970-01-01T00:00:00Z"}, say(t, engine(t, p), object(t, configMap))); diff != "" {
		t.Error(diff)
	}
	snap, _ := Compile([]v1alpha1.Policy{p})
	e := NewEngine(Options{Key: plaintext.NewKey([]byte("k")), Now: func() time.Time { return time.Date(2030, 1, 2, 3, 4, 5, 0, time.UTC) }})
	e.Use(snap)
	if diff := cmp.Diff([]string{"[p] 2030-01-02T03:04:05Z"}, say(t, e, object(t, configMap))); diff != "" {
		t.Error(diff)
	}
}

func TestAWholeSetInParallelIsInOrder(t *testing.T) {
	e := engine(t, policy("b", `deny contains sprintf("%s in %s", [input.review.name, input.tenant.name])`), policy("a", `deny contains input.parameters.p`, func(s *v1alpha1.PolicySpec) {
		s.Parameters = &apiextensionsv1.JSON{Raw: []byte(`{"p": "shared"}`)}
	}))
	var set []manifest.Object
	var want []string
	for i := range 300 {
		name := fmt.Sprintf("x%03d", i)
		set = append(set, object(t, strings.Replace(configMap, "name: x", "name: "+name, 1)))
		want = append(want, "[a] shared", "[b] "+name+" in a")
	}
	slices.Reverse(set)
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(4))
	found, err := e.Judge(context.Background(), grant(), set, "")
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, texts(found)); diff != "" {
		t.Error(diff)
	}
}

// A path is dotted, and so may a key be: the pod under one must not be taken for the pod under the other.
func TestPodsBehindDottedKeys(t *testing.T) {
	e := engine(t, policy("p", `deny contains pod.spec.containers[0].name if some pod in input.pods`))
	o := object(t, `{apiVersion: example.com/v1, kind: X, metadata: {name: x, namespace: team-a}, a.b: {containers: [{name: hidden}]}, a: {b: {containers: [{name: shown}]}}}`)
	if diff := cmp.Diff([]string{"[p] hidden", "[p] shown"}, say(t, e, o)); diff != "" {
		t.Error(diff)
	}
}
