package webhook

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	admissionv1 "k8s.io/api/admission/v1"
	authenticationv1 "k8s.io/api/authentication/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"

	"sealock.dev/sealock/api/sealock/v1alpha1"
	"sealock.dev/sealock/fault"
	"sealock.dev/sealock/manifest"
	"sealock.dev/sealock/plaintext"
	"sealock.dev/sealock/policies"
	"sealock.dev/sealock/policies/builtin"
	"sealock.dev/sealock/tenants"
)

const (
	controller = "system:serviceaccount:sealock-system:sealock-controller"
	systemSAs  = "system:serviceaccounts:sealock-system"
)

var shipped = sync.OnceValue(func() *policies.Engine {
	snap, _ := builtin.Load(nil, []v1alpha1.Policy{
		{ObjectMeta: metav1.ObjectMeta{Name: "own-words"}, Spec: v1alpha1.PolicySpec{
			Rego:  "package sealock\ndeny contains \"b\" if input.review.object.data.bad\ndeny contains \"a\" if input.review.object.data.bad",
			Match: v1alpha1.PolicyMatch{TenantsOnly: true, Kinds: []v1alpha1.KindMatch{{Kinds: []string{"ConfigMap"}}}},
		}},
		{ObjectMeta: metav1.ObjectMeta{Name: "own-warning"}, Spec: v1alpha1.PolicySpec{
			Rego:        "package sealock\ndeny contains \"careful\" if input.review.object.data.odd",
			Match:       v1alpha1.PolicyMatch{TenantsOnly: true, Operations: []string{"*"}},
			Enforcement: v1alpha1.PolicyEnforcement{Admission: v1alpha1.ActionWarn},
		}},
		{ObjectMeta: metav1.ObjectMeta{Name: "own-connect"}, Spec: v1alpha1.PolicySpec{
			Rego:  "package sealock\ndeny contains sprintf(\"no %s of %s\", [input.review.subResource, input.review.name])",
			Match: v1alpha1.PolicyMatch{TenantsOnly: true, Operations: []string{"CONNECT", "DELETE"}},
		}},
	})
	e := policies.NewEngine(policies.Options{Key: plaintext.NewKey([]byte("test"))})
	e.Use(snap)
	return e
})

func index() *tenants.Index {
	tenant := v1alpha1.Tenant{ObjectMeta: metav1.ObjectMeta{Name: "team-a"}}
	tenant.Spec.Namespaces = []v1alpha1.TenantNamespace{{Name: "team-a"}}
	tenant.Spec.ServiceAccounts, tenant.Spec.RoleCeiling = []string{"deployer"}, []string{"edit"}
	return tenants.NewIndex([]v1alpha1.Tenant{tenant}, tenants.DefaultSettings())
}

func options() Options {
	return Options{
		Engine: shipped(), Tenants: index,
		Exempt: []string{controller, "system:serviceaccount:sealock-system:sealock-platform", "kubernetes-admin"},
	}
}

// request is a review of an object by alice.
func request(operation admissionv1.Operation, object, old string) *admissionv1.AdmissionRequest {
	req := &admissionv1.AdmissionRequest{UID: "u-1", Operation: operation, UserInfo: authenticationv1.UserInfo{Username: "alice", Groups: []string{"system:authenticated"}}}
	for _, text := range []string{old, object} {
		var m metav1.PartialObjectMetadata
		if json.Unmarshal([]byte(text), &m) == nil {
			gvk := m.GroupVersionKind()
			req.Kind = metav1.GroupVersionKind{Group: gvk.Group, Version: gvk.Version, Kind: gvk.Kind}
			req.Resource = metav1.GroupVersionResource{Group: gvk.Group, Version: gvk.Version, Resource: strings.ToLower(gvk.Kind) + "s"}
			req.Name, req.Namespace = m.Name, m.Namespace
		}
	}
	if object != "" {
		req.Object = runtime.RawExtension{Raw: []byte(object)}
	}
	if old != "" {
		req.OldObject = runtime.RawExtension{Raw: []byte(old)}
	}
	return req
}

// post returns the answer to a body.
func post(t testing.TB, o Options, body []byte) *httptest.ResponseRecorder {
	t.Helper()
	r := httptest.NewRequestWithContext(t.Context(), http.MethodPost, Path, bytes.NewReader(body))
	r.Header.Set("Content-Type", "application/json")
	w := httptest.NewRecorder()
	NewHandler(o).ServeHTTP(w, r)
	return w
}

func ask(t testing.TB, o Options, req *admissionv1.AdmissionRequest) *admissionv1.AdmissionResponse {
	t.Helper()
	body, err := json.Marshal(admissionv1.AdmissionReview{TypeMeta: metav1.TypeMeta{APIVersion: "admission.k8s.io/v1", Kind: "AdmissionReview"}, Request: req})
	if err != nil {
		t.Fatal(err)
	}
	w := post(t, o, body)
	if w.Code != http.StatusOK {
		t.Fatalf("%d: %s", w.Code, w.Body)
	}
	var got admissionv1.AdmissionReview
	if err := json.Unmarshal(w.Body.Bytes(), &got); err != nil {
		t.Fatal(err)
	}
	if got.Kind != "AdmissionReview" || got.APIVersion != "admission.k8s.io/v1" || got.Response == nil || got.Response.UID != "u-1" {
		t.Fatalf("answer %+v", got)
	}
	return got.Response
}

// denial returns the words of a denial, "" when the request was allowed.
func denial(t testing.TB, r *admissionv1.AdmissionResponse) string {
	t.Helper()
	if r.Allowed {
		return ""
	}
	if r.Result == nil || r.Result.Code != 403 || r.Result.Reason != metav1.StatusReasonForbidden || r.Result.Status != metav1.StatusFailure {
		t.Errorf("denied as %+v", r.Result)
	}
	return r.Result.Message
}

const (
	badPod  = `{"apiVersion":"v1","kind":"Pod","metadata":{"name":"p","namespace":"team-a"},"spec":{"serviceAccountName":"deployer","containers":[{"name":"c"}]}}`
	goodPod = `{"apiVersion":"v1","kind":"Pod","metadata":{"name":"p","namespace":"team-a"},"spec":{"serviceAccountName":"app","containers":[{"name":"c"}]}}`
	badWord = "[sealock-service-accounts] spec uses the service account deployer, which is reserved for commits of tenant team-a"
)

func TestTheAnswerHasTheWordsOfTheReconciler(t *testing.T) {
	if got := denial(t, ask(t, options(), request("CREATE", badPod, ""))); got != badWord {
		t.Errorf("%q", got)
	}
	if got := denial(t, ask(t, options(), request("CREATE", goodPod, ""))); got != "" {
		t.Errorf("%q", got)
	}
	// The same object in a commit.
	var body map[string]any
	if err := json.Unmarshal([]byte(badPod), &body); err != nil {
		t.Fatal(err)
	}
	o, err := manifest.New(body, manifest.Source{File: "p.yaml"}, nil)
	if err != nil {
		t.Fatal(err)
	}
	found, err := shipped().Judge(context.Background(), index().GrantFor("team-a"), []manifest.Object{o}, "")
	if err != nil || len(found) != 1 || found[0].String() != badWord {
		t.Errorf("%v, %v", found, err)
	}
	// Several are joined, and sorted.
	both := `{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"c","namespace":"team-a"},"data":{"bad":"1","odd":"1"}}`
	r := ask(t, options(), request("UPDATE", both, both))
	if diff := cmp.Diff("[own-words] a\n[own-words] b", denial(t, r)); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff([]string{"[own-warning] careful"}, r.Warnings); diff != "" {
		t.Error(diff)
	}
	odd := `{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"c","namespace":"team-a"},"data":{"odd":"1"}}`
	if r := ask(t, options(), request("CREATE", odd, "")); !r.Allowed || len(r.Warnings) != 1 {
		t.Errorf("%+v", r)
	}
}

func TestPlatformNamespacesAreLeftAlone(t *testing.T) {
	for _, ns := range []string{"flux-system", "sealock-system"} {
		if got := denial(t, ask(t, options(), request("CREATE", strings.ReplaceAll(badPod, "team-a", ns), ""))); got != "" {
			t.Errorf("%s: %s", ns, got)
		}
	}
}

// We are asked about namespaces with the label of a tenant. One that the index gives to nobody means a stale index.
func TestANamespaceThatNobodyOwnsIsNotLetPass(t *testing.T) {
	for _, ns := range []string{"other", "kube-system", "team-a2"} {
		body, _ := json.Marshal(admissionv1.AdmissionReview{
			TypeMeta: metav1.TypeMeta{APIVersion: "admission.k8s.io/v1", Kind: "AdmissionReview"}, Request: request("CREATE", strings.ReplaceAll(goodPod, "team-a", ns), ""),
		})
		w := post(t, options(), body)
		if w.Code != http.StatusServiceUnavailable || w.Body.String() != "sealock: the namespace carries the label of a tenant that is not loaded yet\n" {
			t.Errorf("%s: %d %q", ns, w.Code, w.Body)
		}
	}
}

func TestT13_EphemeralContainersAreJudgedAsUpdate(t *testing.T) {
	req := request("UPDATE", badPod, goodPod)
	req.SubResource = "ephemeralcontainers"
	if got := denial(t, ask(t, options(), req)); got != badWord {
		t.Errorf("%q", got)
	}
}

func TestT15_ConnectWithoutMetadata(t *testing.T) {
	req := request("CONNECT", `{"apiVersion":"v1","kind":"PodExecOptions","container":"c","command":["sh"]}`, "")
	req.Kind, req.SubResource = metav1.GroupVersionKind{Version: "v1", Kind: "PodExecOptions"}, "exec"
	for name, tc := range map[string]struct{ ns, want string }{"p": {"team-a", "[own-connect] no exec of p"}, "q": {"flux-system", ""}} {
		req.Name, req.Namespace = name, tc.ns
		if got := denial(t, ask(t, options(), req)); got != tc.want {
			t.Errorf("%q", got)
		}
	}
	// attach without any body at all
	req.Object, req.Name, req.Namespace = runtime.RawExtension{}, "p", "team-a"
	if got := denial(t, ask(t, options(), req)); got != "[own-connect] no exec of p" {
		t.Errorf("%q", got)
	}
}

func TestDeleteIsJudgedByTheOldObject(t *testing.T) {
	req := request("DELETE", "", strings.Replace(goodPod, `"spec"`, `"data":{"odd":"1"},"spec"`, 1))
	r := ask(t, options(), req)
	if diff := cmp.Diff([]string{"[own-warning] careful"}, r.Warnings); diff != "" {
		t.Error(diff)
	}
	req.OldObject.Raw = nil
	if got := denial(t, ask(t, options(), req)); got != "the request to delete does not say what" {
		t.Errorf("%q", got)
	}
}

func TestAnObjectThatTheAPIServerWillName(t *testing.T) {
	req := request("CREATE", strings.Replace(badPod, `"name":"p",`, `"generateName":"p-",`, 1), "")
	if got := denial(t, ask(t, options(), req)); got != badWord {
		t.Errorf("%q", got)
	}
}

func TestT3_TokenOfAReservedServiceAccount(t *testing.T) {
	req := request("CREATE", `{"apiVersion":"authentication.k8s.io/v1","kind":"TokenRequest","metadata":{"creationTimestamp":null},"spec":{"audiences":["vault"]}}`, "")
	req.SubResource, req.Namespace = "token", "team-a"
	for name, want := range map[string]string{"deployer": "[sealock-service-accounts] the token is for the service account deployer, which is reserved for commits of tenant team-a", "app": ""} {
		req.Name = name
		if got := denial(t, ask(t, options(), req)); got != want {
			t.Errorf("%s: %q", name, got)
		}
	}
}

func TestT10_NamespacesBelongToWhoListsOrLabelsThem(t *testing.T) {
	ns := func(name, labels string) string {
		return `{"apiVersion":"v1","kind":"Namespace","metadata":{"name":"` + name + `","labels":{` + labels + `}}}`
	}
	said := func(key string) string {
		return "[sealock-namespace-labels] label " + key + " is protected: only the platform may set, change or remove it"
	}
	const psa, own = `"pod-security.kubernetes.io/enforce"`, `"sealock.dev/tenant"`
	for _, c := range []struct{ name, object, old, want string }{
		{"listed, not labelled yet", ns("team-a", psa+`:"privileged"`), ns("team-a", ""), said("pod-security.kubernetes.io/enforce")},
		{"labelled before", ns("x", ""), ns("x", own+`:"team-a"`), said("sealock.dev/tenant")},
		{"labelled now", ns("x", own+`:"team-a"`), ns("x", ""), said("sealock.dev/tenant")},
		{"labelled with a tenant that does not exist", ns("x", own+`:"ghost"`), ns("x", ""), said("sealock.dev/tenant")},
		{"labelled with nothing", ns("x", own+`:""`), ns("x", ""), said("sealock.dev/tenant")},
		{"handed over", ns("x", own+`:"team-b"`), ns("x", own+`:"team-a"`), said("sealock.dev/tenant")},
		{"nobody's", ns("x", psa+`:"privileged"`), ns("x", ""), ""},
		{"another label", ns("team-a", `"a":"b"`), ns("team-a", ""), ""},
	} {
		for _, sub := range []string{"", "status", "finalize"} {
			req := request("UPDATE", c.object, c.old)
			req.SubResource, req.Namespace = sub, req.Name // as the API server says it for namespaces
			if got := denial(t, ask(t, options(), req)); got != c.want {
				t.Errorf("%s, %q: %q", c.name, sub, got)
			}
		}
	}
}

func TestT6_ClusterScopedWritesOfATenant(t *testing.T) {
	req := request("CREATE", `{"apiVersion":"rbac.authorization.k8s.io/v1","kind":"ClusterRoleBinding","metadata":{"name":"b"},"roleRef":{"kind":"ClusterRole","name":"edit"}}`, "")
	if got := denial(t, ask(t, options(), req)); got != "" {
		t.Errorf("alice is no tenant: %s", got)
	}
	for _, tenant := range []string{"team-a", "ghost"} {
		req.UserInfo.Username = tenants.User(tenant)
		if got := denial(t, ask(t, options(), req)); got != "[sealock-role-ceiling] a ClusterRoleBinding gives rights in every namespace, which is above the ceiling of tenant "+tenant {
			t.Errorf("%q", got)
		}
	}
}

func TestT31_OnlyExactIdentitiesAreExempt(t *testing.T) {
	for _, c := range []struct {
		user   string
		groups []string
		want   bool
	}{
		{controller, []string{"system:serviceaccounts", systemSAs, "system:authenticated"}, true},
		{"kubernetes-admin", nil, true},
		{controller, []string{"system:authenticated"}, false}, // a name from another authenticator
		{controller, []string{"system:serviceaccounts:sealock-system-evil"}, false},
		{controller + "2", []string{systemSAs}, false},
		{"system:serviceaccount:sealock-system2:sealock-controller", []string{systemSAs, "system:serviceaccounts:sealock-system2"}, false},
		{"system:serviceaccount:sealock-system:", []string{systemSAs}, false},
		{"system:serviceaccount:sealock-system", []string{systemSAs}, false},
		{strings.ToUpper(controller), []string{systemSAs}, false},
		{" " + controller, []string{systemSAs}, false},
		{"kubernetes-admin2", nil, false},
		{"", nil, false},
	} {
		req := request("CREATE", badPod, "")
		req.UserInfo = authenticationv1.UserInfo{Username: c.user, Groups: c.groups}
		if got := ask(t, options(), req).Allowed; got != c.want {
			t.Errorf("%q %v: allowed %v", c.user, c.groups, got)
		}
	}
	o := options()
	o.Exempt = append(o.Exempt, "")
	req := request("CREATE", badPod, "")
	req.UserInfo = authenticationv1.UserInfo{}
	if ask(t, o, req).Allowed {
		t.Error("nobody is exempt")
	}
}

func TestT27_ADryRunGetsTheSameVerdict(t *testing.T) {
	yes := true
	for object, want := range map[string]string{badPod: badWord, goodPod: ""} {
		req := request("CREATE", object, "")
		req.DryRun = &yes
		var seen []Answer
		o := options()
		o.Observe = func(a Answer) { seen = append(seen, a) }
		if got := denial(t, ask(t, o, req)); got != want {
			t.Errorf("%q", got)
		}
		if len(seen) != 1 || !seen[0].DryRun || seen[0].Allowed != (want == "") || seen[0].Tenant != "team-a" || seen[0].User != "alice" || seen[0].Ref.String() != "Pod/team-a/p" {
			t.Errorf("%+v", seen)
		}
	}
}

func TestT41_ValuesOfSecretsStayInside(t *testing.T) {
	const canary = "canary-9c41e07ab3"
	spill := v1alpha1.Policy{ObjectMeta: metav1.ObjectMeta{Name: "spill"}, Spec: v1alpha1.PolicySpec{
		Rego: "package sealock\ndeny contains sprintf(\"%v\", [input])\ndeny contains msg if msg := concat(\"\", [\"canary-9c4\", \"1e07ab3\"])",
	}}
	snap, problems := policies.Compile([]v1alpha1.Policy{spill})
	if len(problems) > 0 {
		t.Fatal(problems[0].Err)
	}
	e := policies.NewEngine(policies.Options{Key: plaintext.NewKey([]byte("k"))})
	e.Use(snap)
	secret := `{"apiVersion":"v1","kind":"Secret","metadata":{"name":"s","namespace":"team-a","annotations":{"kubectl.kubernetes.io/last-applied-configuration":"` + canary + `"}},"data":{"p":"` +
		base64.StdEncoding.EncodeToString([]byte(canary)) + `"}}`
	o := options()
	o.Engine = e
	var seen []Answer
	o.Observe = func(a Answer) { seen = append(seen, a) }
	answer, _ := json.Marshal(ask(t, o, request("UPDATE", secret, secret)))
	// A kind that lies in the object changes nothing: the request says what it is.
	lying := request("CREATE", strings.Replace(secret, `"kind":"Secret"`, `"kind":"ConfigMap"`, 1), "")
	lying.Kind.Kind = "Secret"
	second, _ := json.Marshal(ask(t, o, lying))
	told, _ := json.Marshal(seen)
	for _, text := range []string{string(answer), string(second), string(told)} {
		if !strings.Contains(text, "[plaintext]") {
			t.Errorf("the policy did not speak: %s", text)
		}
		for _, form := range plaintext.Encodings([]byte(canary)) {
			if strings.Contains(text, form) {
				t.Errorf("found %q in %s", form, text)
			}
		}
	}
	// What cannot be read is not quoted.
	for _, broken := range []string{
		`{"apiVersion":"v1","kind":"Secret","metadata":{"name":"s","namespace":"team-a"},"data":{"p":"` + canary + `!"}}`,
		`{"apiVersion":"v1","kind":"Secret","metadata":{"name":"s"},"data":"` + canary + `"}`,
		`{"apiVersion":"v1","kind":"Secret","metadata":{"name":"s"},"` + canary + `":1,"` + canary + `":2}`,
	} {
		req := request("CREATE", broken, "")
		req.Kind = metav1.GroupVersionKind{Version: "v1", Kind: "Secret"}
		r := ask(t, o, req)
		if text := denial(t, r); text == "" || strings.Contains(text, canary) {
			t.Errorf("%q", text)
		}
	}
}

// admit is an Admitter made of a function.
type admit func(context.Context, policies.Review) []fault.Violation

func (f admit) Admit(ctx context.Context, r policies.Review) []fault.Violation { return f(ctx, r) }

func TestWithoutAVerdictNothingIsAllowed(t *testing.T) {
	body, _ := json.Marshal(admissionv1.AdmissionReview{TypeMeta: metav1.TypeMeta{APIVersion: "admission.k8s.io/v1", Kind: "AdmissionReview"}, Request: request("CREATE", goodPod, "")})
	var failures []string
	with := func(edit func(*Options)) Options {
		o := options()
		o.Observe = func(a Answer) { failures = append(failures, a.Failure) }
		if edit != nil {
			edit(&o)
		}
		return o
	}
	for _, c := range []struct {
		name string
		o    Options
		body []byte
		code int
		text string
	}{
		{"panic", with(func(o *Options) {
			o.Engine = admit(func(context.Context, policies.Review) []fault.Violation { panic(errors.New("holds a secret")) })
		}), body, 500, "sealock: the webhook panicked\n"},
		{"no tenants", with(func(o *Options) { o.Tenants = func() *tenants.Index { return nil } }), body, 500, "sealock: the tenants are not loaded yet\n"},
		{"not JSON", with(nil), []byte("{"), 400, "sealock: the review is not valid JSON\n"},
		{"twice", with(nil), bytes.Replace(body, []byte(`"uid"`), []byte(`"uid":"u-2","uid"`), 1), 400, "sealock: the review is not valid JSON\n"},
		{"another version", with(nil), bytes.Replace(body, []byte("admission.k8s.io/v1"), []byte("admission.k8s.io/v1beta1"), 1), 400, "sealock: the body is not an AdmissionReview of admission.k8s.io/v1 with a request\n"},
		{"no request", with(nil), []byte(`{"apiVersion":"admission.k8s.io/v1","kind":"AdmissionReview"}`), 400, "sealock: the body is not an AdmissionReview of admission.k8s.io/v1 with a request\n"},
		{"too large", with(nil), append(bytes.Clone(body), bytes.Repeat([]byte(" "), maxBody)...), 413, "sealock: the review is too large\n"},
	} {
		failures = nil
		w := post(t, c.o, c.body)
		if w.Code != c.code || w.Body.String() != c.text {
			t.Errorf("%s: %d %q", c.name, w.Code, w.Body)
		}
		if len(failures) != 1 || !strings.Contains(c.text, failures[0]) || failures[0] == "" {
			t.Errorf("%s: observed %q", c.name, failures)
		}
	}
	// An engine without policies is a denial.
	o := options()
	o.Engine = policies.NewEngine(policies.Options{})
	if got := denial(t, ask(t, o, request("CREATE", goodPod, ""))); got != "[sealock] the policies are not loaded yet" {
		t.Errorf("%q", got)
	}
	// So is a request that brings nothing.
	req := request("CREATE", goodPod, "")
	req.Object.Raw = nil
	if got := denial(t, ask(t, options(), req)); got != "the request brings no object" {
		t.Errorf("%q", got)
	}
}

func TestOnlyJSONByPOST(t *testing.T) {
	for _, c := range []struct {
		method, media string
		code          int
	}{{http.MethodGet, "application/json", 405}, {http.MethodPost, "text/plain", 415}, {http.MethodPost, "", 415}} {
		r := httptest.NewRequestWithContext(t.Context(), c.method, Path, strings.NewReader("{}"))
		r.Header.Set("Content-Type", c.media)
		w := httptest.NewRecorder()
		NewHandler(options()).ServeHTTP(w, r)
		if w.Code != c.code {
			t.Errorf("%s %q: %d", c.method, c.media, w.Code)
		}
	}
}

// FuzzHandler sends bodies: whatever they are, the answer is a verdict or a refusal, never a panic, never an allowed bad pod.
func FuzzHandler(f *testing.F) {
	for _, req := range []*admissionv1.AdmissionRequest{
		request("CREATE", badPod, ""), request("UPDATE", goodPod, badPod), request("DELETE", "", goodPod), request("CONNECT", `{"kind":"PodExecOptions"}`, ""),
	} {
		body, _ := json.Marshal(admissionv1.AdmissionReview{TypeMeta: metav1.TypeMeta{APIVersion: "admission.k8s.io/v1", Kind: "AdmissionReview"}, Request: req})
		f.Add(body)
	}
	f.Add([]byte(`{"apiVersion":"admission.k8s.io/v1","kind":"AdmissionReview","request":{"uid":"u","operation":"CREATE","object":null,"oldObject":[]}}`))
	f.Fuzz(func(t *testing.T, body []byte) {
		o := options()
		o.Observe = func(a Answer) {
			if a.Failure == "the webhook panicked" {
				t.Error(a.Failure)
			}
		}
		post(t, o, body)
	})
}
