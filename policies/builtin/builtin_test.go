package builtin

import (
	"context"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"sealock.dev/sealock/api/sealock/v1alpha1"
	"sealock.dev/sealock/fault"
	"sealock.dev/sealock/manifest"
	"sealock.dev/sealock/plaintext"
	"sealock.dev/sealock/policies"
	"sealock.dev/sealock/tenants"
)

// loaded is compiled once for all tests: nothing changes it.
var loaded = sync.OnceValues(func() (*policies.Engine, []policies.Problem) {
	snap, problems := Load(nil, nil)
	e := policies.NewEngine(policies.Options{Key: plaintext.NewKey([]byte("test"))})
	e.Use(snap)
	return e, problems
})

func engine(t testing.TB) *policies.Engine {
	t.Helper()
	e, problems := loaded()
	for _, p := range problems {
		t.Fatalf("%s: %s", p.Reason, p.Err)
	}
	return e
}

func index() *tenants.Index {
	tenant := func(name string, ns ...string) v1alpha1.Tenant {
		t := v1alpha1.Tenant{ObjectMeta: metav1.ObjectMeta{Name: name}}
		for _, n := range ns {
			t.Spec.Namespaces = append(t.Spec.Namespaces, v1alpha1.TenantNamespace{Name: n, Labels: map[string]string{"pod-security.kubernetes.io/enforce": "baseline"}})
		}
		t.Spec.ServiceAccounts, t.Spec.RoleCeiling = []string{"deployer"}, []string{"view", "edit"}
		return t
	}
	return tenants.NewIndex([]v1alpha1.Tenant{tenant("team-a", "team-a", "team-a-test"), tenant("team-b", "team-b")}, tenants.DefaultSettings())
}

func object(t testing.TB, text string) manifest.Object {
	t.Helper()
	docs, err := manifest.Decode("app.yaml", []byte(text), manifest.DefaultLimits)
	if err != nil || len(docs) != 1 {
		t.Fatalf("%d documents, %v", len(docs), err)
	}
	o, err := manifest.New(docs[0].Body, manifest.Source{File: "app.yaml", Line: docs[0].Line}, nil)
	if err != nil {
		t.Fatal(err)
	}
	return o
}

// everywhere returns what is said of the object at the three points.
func everywhere(t testing.TB, o manifest.Object) map[policies.Point][]string {
	t.Helper()
	e, grant := engine(t), index().GrantFor("team-a")
	out := map[policies.Point][]string{}
	for _, point := range []policies.Point{policies.Commit, policies.Reconcile} {
		found, err := e.JudgeAt(context.Background(), point, grant, []manifest.Object{o}, "main@sha1:abc")
		if err != nil {
			t.Fatal(err)
		}
		out[point] = words(found)
	}
	out[policies.Admission] = words(e.Admit(context.Background(), policies.Review{
		Kind: o.GVK(), Name: o.Name(), Namespace: o.Namespace(), Operation: "CREATE", Object: &o,
		User: policies.User{Username: "alice", Groups: []string{"system:authenticated"}}, Grant: grant,
	}))
	return out
}

func words(list []fault.Violation) []string {
	var out []string
	for _, v := range list {
		text := v.String()
		if v.Errored {
			text = "ERROR " + text
		}
		out = append(out, text)
	}
	return out
}

// same wants the words at each point; nil is none.
func same(t *testing.T, o manifest.Object, want ...string) {
	t.Helper()
	for point, got := range everywhere(t, o) {
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s at %s: -want +got\n%s", o.Ref(), point, diff)
		}
	}
}

func TestShippedPoliciesHoldTheirOwnTests(t *testing.T) {
	engine(t)
	for _, p := range Policies() {
		if !p.Spec.Match.TenantsOnly || p.Spec.Description == "" {
			t.Errorf("%s: not for tenants only, or without description", p.Name)
		}
		good, bad := 0, 0
		for _, c := range p.Spec.Tests {
			if len(c.Deny) == 0 {
				good++
			} else {
				bad++
			}
		}
		if good < 2 || bad < 2 {
			t.Errorf("%s: %d tests that allow and %d that deny", p.Name, good, bad)
		}
	}
}

func TestYAMLIsWhatPoliciesAre(t *testing.T) {
	docs, err := manifest.Decode("install.yaml", YAML(), manifest.DefaultLimits)
	if err != nil {
		t.Fatal(err)
	}
	var got []v1alpha1.Policy
	for _, d := range docs {
		p, err := policy(d.Body)
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, p)
	}
	if diff := cmp.Diff(Policies(), got); diff != "" {
		t.Error(diff)
	}
	if strings.Contains(string(YAML()), "<<") {
		t.Error("an alias is left for others to follow")
	}
}

func TestT1_NoPodRunsAsAReservedServiceAccount(t *testing.T) {
	const said = "[sealock-service-accounts] %s uses the service account deployer, which is reserved for commits of tenant team-a"
	pod := func(field string) string { return `{` + field + `: deployer, containers: [{name: c, image: i}]}` }
	for _, c := range []struct{ head, place, at string }{
		{"{apiVersion: v1, kind: Pod, metadata: {name: x, namespace: team-a}, ", "spec: %}", "spec"},
		{"{apiVersion: apps/v1, kind: Deployment, metadata: {name: x, namespace: team-a}, ", "spec: {template: {spec: %}}}", "spec.template.spec"},
		{"{apiVersion: apps/v1, kind: StatefulSet, metadata: {name: x, namespace: team-a}, ", "spec: {template: {spec: %}}}", "spec.template.spec"},
		{"{apiVersion: apps/v1, kind: DaemonSet, metadata: {name: x, namespace: team-a}, ", "spec: {template: {spec: %}}}", "spec.template.spec"},
		{"{apiVersion: apps/v1, kind: ReplicaSet, metadata: {name: x, namespace: team-a}, ", "spec: {template: {spec: %}}}", "spec.template.spec"},
		{"{apiVersion: batch/v1, kind: Job, metadata: {name: x, namespace: team-a}, ", "spec: {template: {spec: %}}}", "spec.template.spec"},
		{"{apiVersion: batch/v1, kind: CronJob, metadata: {name: x, namespace: team-a}, ", "spec: {jobTemplate: {spec: {template: {spec: %}}}}}", "spec.jobTemplate.spec.template.spec"},
		{"{apiVersion: v1, kind: PodTemplate, metadata: {name: x, namespace: team-a}, ", "template: {spec: %}}", "template.spec"},
		{"{apiVersion: argoproj.io/v1alpha1, kind: Rollout, metadata: {name: x, namespace: team-a}, ", "spec: {template: {spec: %}}}", "spec.template.spec"},
		{"{apiVersion: example.com/v1, kind: Unheard, metadata: {name: x, namespace: team-a}, ", "spec: {deep: [{er: %}]}}", "spec.deep.0.er"},
	} {
		for _, field := range []string{"serviceAccountName", "serviceAccount"} {
			text := c.head + strings.Replace(c.place, "%", pod(field), 1)
			same(t, object(t, text), strings.Replace(said, "%s", c.at, 1))
			same(t, object(t, strings.ReplaceAll(text, "deployer", "app")))
		}
	}
	// Without containers it makes no pod that we know of, and still names the account.
	same(t, object(t, `{apiVersion: tekton.dev/v1, kind: TaskRun, metadata: {name: x, namespace: team-a}, spec: {serviceAccountName: deployer}}`),
		strings.Replace(said, "%s", "spec", 1))
	same(t, object(t, `{apiVersion: kustomize.toolkit.fluxcd.io/v1, kind: Kustomization, metadata: {name: x, namespace: team-a}, spec: {serviceAccountName: deployer}}`))
}

func TestT1_AServiceAccountHiddenBehindADottedKey(t *testing.T) {
	o := object(t, `{apiVersion: example.com/v1, kind: X, metadata: {name: x, namespace: team-a},
		a.b: {containers: [{name: c}], serviceAccountName: deployer}, a: {b: {containers: [{name: c}], serviceAccountName: app}}}`)
	same(t, o, "[sealock-service-accounts] a.b uses the service account deployer, which is reserved for commits of tenant team-a")
}

func TestT2_NoSecretThatKubernetesFillsWithCredentials(t *testing.T) {
	const said = ": a Secret of type kubernetes.io/service-account-token is refused to tenants, since Kubernetes makes credentials of it"
	for text, at := range map[string]string{
		`{apiVersion: v1, kind: Secret, metadata: {name: x, namespace: team-a}, type: kubernetes.io/service-account-token}`:                                                                "type",
		`{apiVersion: bitnami.com/v1alpha1, kind: SealedSecret, metadata: {name: x, namespace: team-a}, spec: {template: {type: kubernetes.io/service-account-token}}}`:                    "spec.template.type",
		`{apiVersion: external-secrets.io/v1, kind: ExternalSecret, metadata: {name: x, namespace: team-a}, spec: {target: {template: {type: kubernetes.io/service-account-token}}}}`:      "spec.target.template.type",
		`{apiVersion: external-secrets.io/v1beta1, kind: ExternalSecret, metadata: {name: x, namespace: team-a}, spec: {target: {template: {type: kubernetes.io/service-account-token}}}}`: "spec.target.template.type",
	} {
		same(t, object(t, text), "[sealock-secret-types] "+at+said)
		same(t, object(t, strings.ReplaceAll(text, "kubernetes.io/service-account-token", "Opaque")))
	}
	for _, origin := range []manifest.Origin{manifest.SOPS, manifest.Sealed, manifest.External} {
		o := manifest.NewSecret("team-a", "x", "kubernetes.io/service-account-token", map[string]plaintext.Value{"k": plaintext.FromString("v")}, origin, manifest.Source{})
		same(t, o, "[sealock-secret-types] type"+said)
	}
}

func TestT3_T6_T40_NoRuleThatLeadsFurther(t *testing.T) {
	role := func(rule string) manifest.Object {
		return object(t, `{apiVersion: rbac.authorization.k8s.io/v1, kind: Role, metadata: {name: x, namespace: team-a}, rules: [`+rule+`]}`)
	}
	for rule, want := range map[string]string{
		`{apiGroups: [""], resources: [serviceaccounts/token], verbs: [create]}`:      "the resource serviceaccounts/token",
		`{apiGroups: [""], resources: ["*/token"], verbs: [create]}`:                  "the resource */token",
		`{apiGroups: [""], resources: ["*"], verbs: [get]}`:                           "the resource *",
		`{apiGroups: [""], resources: [nodes/proxy], verbs: [get]}`:                   "the resource nodes/proxy",
		`{apiGroups: ["*"], resources: [pods], verbs: [get]}`:                         "the API group *",
		`{apiGroups: [""], resources: [pods], verbs: ["*"]}`:                          "the verb *",
		`{apiGroups: [rbac.authorization.k8s.io], resources: [roles], verbs: [bind]}`: "the verb bind",
		`{apiGroups: [""], resources: [users], verbs: [impersonate]}`:                 "the verb impersonate",
	} {
		same(t, role(rule), "[sealock-role-ceiling] rules[0]: "+want+" is refused to tenants")
	}
	same(t, role(`{apiGroups: ["", apps], resources: [pods, pods/log, deployments], verbs: [get, create]}`))
}

func TestT6_T8_NoBindingAboveTheCeilingOrToStrangers(t *testing.T) {
	binding := func(role, subjects string) manifest.Object {
		return object(t, `{apiVersion: rbac.authorization.k8s.io/v1, kind: RoleBinding, metadata: {name: x, namespace: team-a}, roleRef: `+role+`, subjects: [`+subjects+`]}`)
	}
	const edit, own = `{kind: ClusterRole, name: edit}`, `{kind: ServiceAccount, name: app, namespace: team-a}`
	same(t, binding(edit, own))
	same(t, binding(`{kind: Role, name: r}`, `{kind: Group, name: developers}`))
	same(t, binding(`{kind: ClusterRole, name: cluster-admin}`, own), "[sealock-role-ceiling] roleRef: ClusterRole cluster-admin is above the ceiling of tenant team-a")
	same(t, binding(`{kind: ClusterRole, name: sealock-tenant}`, own), "[sealock-role-ceiling] roleRef: ClusterRole sealock-tenant is above the ceiling of tenant team-a")
	same(t, binding(`{}`, own), "[sealock-role-ceiling] roleRef: role without a name is above the ceiling of tenant team-a")
	for subject, said := range map[string]string{
		`{kind: Group, name: "system:masters"}`:                 "Group system:masters",
		`{kind: Group, name: "SYSTEM:masters"}`:                 "Group SYSTEM:masters",
		`{kind: Group, name: "system:authenticated"}`:           "Group system:authenticated",
		`{kind: Group, name: "system:unauthenticated"}`:         "Group system:unauthenticated",
		`{kind: Group, name: "system:serviceaccounts"}`:         "Group system:serviceaccounts",
		`{kind: Group, name: "system:serviceaccounts:team-b"}`:  "Group system:serviceaccounts:team-b",
		`{kind: User, name: "system:anonymous"}`:                "User system:anonymous",
		`{kind: User, name: "sealock:tenant:team-b"}`:           "User sealock:tenant:team-b",
		`{kind: ServiceAccount, name: app, namespace: team-b}`:  "ServiceAccount team-b/app",
		`{kind: ServiceAccount, name: app, namespace: default}`: "ServiceAccount default/app",
	} {
		same(t, binding(edit, subject), "[sealock-role-ceiling] subjects: "+said+" is outside tenant team-a")
	}
	same(t, object(t, `{apiVersion: rbac.authorization.k8s.io/v1, kind: ClusterRoleBinding, metadata: {name: x}, roleRef: `+edit+`, subjects: [`+own+`]}`),
		"[sealock-role-ceiling] a ClusterRoleBinding gives rights in every namespace, which is above the ceiling of tenant team-a")
}

func TestT7_NoClusterRoleThatWidensOthers(t *testing.T) {
	same(t, object(t, `{apiVersion: rbac.authorization.k8s.io/v1, kind: ClusterRole, metadata: {name: x, labels: {rbac.authorization.k8s.io/aggregate-to-admin: "true"}}, rules: []}`),
		"[sealock-role-ceiling] label rbac.authorization.k8s.io/aggregate-to-admin would widen a role of everybody")
	// The same by a patch of an existing role.
	before := object(t, `{apiVersion: rbac.authorization.k8s.io/v1, kind: ClusterRole, metadata: {name: x}}`)
	after := before.WithMeta(map[string]string{"rbac.authorization.k8s.io/aggregate-to-view": "true"}, nil)
	got := engine(t).Admit(context.Background(), policies.Review{Kind: after.GVK(), Name: "x", Operation: "UPDATE", Object: &after, OldObject: &before, Grant: index().GrantFor("team-a")})
	if len(got) != 1 || !strings.Contains(got[0].Message, "aggregate-to-view") {
		t.Errorf("got %v", got)
	}
}

func TestT10_ProtectedLabelsOfNamespaces(t *testing.T) {
	said := func(key string) string {
		return "[sealock-namespace-labels] label " + key + " is protected: only the platform may set, change or remove it"
	}
	for _, key := range []string{"sealock.dev/tenant", "sealock.dev/exempt", "pod-security.kubernetes.io/enforce", "pod-security.kubernetes.io/audit-version", "kubernetes.io/metadata.name"} {
		// In Git and on create.
		same(t, object(t, `{apiVersion: v1, kind: Namespace, metadata: {name: team-a, labels: {`+key+`: other}}}`), said(key))
		// On update, whatever the subresource.
		with := func(v string) manifest.Object {
			return object(t, `{apiVersion: v1, kind: Namespace, metadata: {name: team-a, labels: {team: x`+v+`}}}`)
		}
		for _, change := range []struct{ old, new string }{{"", ", " + key + ": b"}, {", " + key + ": a", ", " + key + ": b"}, {", " + key + ": a", ""}} {
			for _, sub := range []string{"", "status", "finalize"} {
				before, after := with(change.old), with(change.new)
				r := policies.Review{
					Kind: schema.GroupVersionKind{Version: "v1", Kind: "Namespace"}, SubResource: sub, Name: "team-a", Operation: "UPDATE", Object: &after, OldObject: &before,
					Grant: index().GrantFor("team-a"), User: policies.User{Username: "alice"},
				}
				if diff := cmp.Diff([]string{said(key)}, words(engine(t).Admit(context.Background(), r))); diff != "" {
					t.Errorf("%s %q -> %q by %q: %s", key, change.old, change.new, sub, diff)
				}
				// T31: who may is compared exactly.
				for user, groups := range map[string][]string{
					"system:serviceaccount:sealock-system:sealock-controller": nil,
					"anybody": {"system:masters"},
				} {
					r.User = policies.User{Username: user, Groups: groups}
					if got := engine(t).Admit(context.Background(), r); len(got) > 0 {
						t.Errorf("%s may not: %v", user, got)
					}
				}
				for _, user := range []string{"system:serviceaccount:sealock-system:sealock-controller-x", "system:serviceaccount:sealock-system-x:sealock-controller", "SYSTEM:serviceaccount:sealock-system:sealock-controller", ""} {
					r.User = policies.User{Username: user, Groups: []string{"system:masters2", "masters"}}
					if got := engine(t).Admit(context.Background(), r); len(got) != 1 {
						t.Errorf("%q may: %v", user, got)
					}
				}
			}
		}
	}
	// A namespace whose tenant label names nobody is fenced as well.
	o := object(t, `{apiVersion: v1, kind: Namespace, metadata: {name: elsewhere, labels: {sealock.dev/tenant: ghost}}}`)
	got := engine(t).Admit(context.Background(), policies.Review{Kind: o.GVK(), Name: "elsewhere", Operation: "CREATE", Object: &o, Grant: tenants.Grant{Tenant: "ghost"}})
	if diff := cmp.Diff([]string{said("sealock.dev/tenant")}, words(got)); diff != "" {
		t.Error(diff)
	}
}

func TestPlaintextSecretIsFoundBeforeApply(t *testing.T) {
	o := object(t, `{apiVersion: v1, kind: Secret, metadata: {name: x, namespace: team-a}, stringData: {password: hunter2, user: u, empty: ""}}`)
	want := []string{"[sealock-plaintext-secrets] a value of the Secret stands in Git in the clear (keys: password, user); encrypt it with sops, seal it, or use an ExternalSecret"}
	for point, got := range everywhere(t, o) {
		if point == policies.Admission {
			if len(got) > 0 {
				t.Errorf("admission cannot know, and said %v", got)
			}
			continue
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s: %s", point, diff)
		}
	}
	for _, origin := range []manifest.Origin{manifest.SOPS, manifest.Sealed, manifest.External} {
		same(t, manifest.NewSecret("team-a", "x", "", map[string]plaintext.Value{"k": plaintext.FromString("v")}, origin, manifest.Source{}))
	}
}

func TestOthersThanTenantsAreLeftAlone(t *testing.T) {
	set := []manifest.Object{
		object(t, `{apiVersion: v1, kind: Secret, metadata: {name: x, namespace: flux-system}, stringData: {a: b}, type: kubernetes.io/service-account-token}`),
		object(t, `{apiVersion: rbac.authorization.k8s.io/v1, kind: ClusterRoleBinding, metadata: {name: x}, roleRef: {kind: ClusterRole, name: cluster-admin}, subjects: [{kind: Group, name: "system:masters"}]}`),
	}
	got, err := engine(t).Judge(context.Background(), index().GrantFor("flux-system"), set, "")
	if err != nil || len(got) > 0 {
		t.Errorf("%v, %v", got, err)
	}
}

func TestLoad(t *testing.T) {
	own := v1alpha1.Policy{ObjectMeta: metav1.ObjectMeta{Name: "own"}, Spec: v1alpha1.PolicySpec{Rego: "package sealock\ndeny contains \"no\" if input.point == \"commit\""}}
	relaxed := Policies()[0]
	relaxed.Spec.Enforcement = v1alpha1.PolicyEnforcement{Commit: "off", Reconcile: "off", Admission: "off"}
	snap, problems := Load(nil, []v1alpha1.Policy{own, relaxed})
	if len(problems) > 0 || len(snap.Names()) != len(Policies())+1 || !slices.Contains(snap.Names(), "own") {
		t.Errorf("%v, %v", snap.Names(), problems)
	}
	// A shipped policy that somebody broke holds as it was shipped.
	relaxed.Spec.Rego = "package sealock\nnonsense("
	snap, problems = Load(nil, []v1alpha1.Policy{relaxed})
	if len(problems) != 1 || !problems[0].Kept || !slices.Contains(snap.Names(), relaxed.Name) {
		t.Errorf("%v, %v", snap.Names(), problems)
	}
}
