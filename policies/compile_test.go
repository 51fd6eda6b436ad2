package policies

import (
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/open-policy-agent/opa/v1/ast"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"sealock.dev/sealock/api/sealock/v1alpha1"
	"sealock.dev/sealock/fault"
)

// problemOf compiles one policy, which has to fail.
func problemOf(t testing.TB, p v1alpha1.Policy) Problem {
	t.Helper()
	snap, problems := Compile([]v1alpha1.Policy{p})
	if len(problems) != 1 || len(snap.Names()) != 0 {
		t.Fatalf("accepted: %s", p.Spec.Rego)
	}
	if problems[0].Err.Kind != fault.Invalid {
		t.Errorf("kind %s", problems[0].Err.Kind)
	}
	return problems[0]
}

func TestT29_BuiltinsThatReachOutDoNotCompile(t *testing.T) {
	for name, call := range map[string]string{
		"http.send":                      `http.send({"method": "GET", "url": "http://169.254.169.254"})`,
		"net.lookup_ip_addr":             `net.lookup_ip_addr("example.com")`,
		"opa.runtime":                    `opa.runtime()`,
		"rand.intn":                      `rand.intn("x", 5)`,
		"uuid.rfc4122":                   `uuid.rfc4122("x")`,
		"trace":                          `trace("x")`,
		"rego.parse_module":              `rego.parse_module("x", "package x")`,
		"io.jwt.encode_sign":             `io.jwt.encode_sign({}, {}, {})`,
		"io.jwt.encode_sign_raw":         `io.jwt.encode_sign_raw("{}", "{}", "{}")`,
		"io.jwt.decode_verify":           `io.jwt.decode_verify("x", {})`,
		"json.match_schema":              `json.match_schema({}, {"$ref": "http://example.com/s"})`,
		"crypto.x509.parse_certificates": `crypto.x509.parse_certificates("x")`,
		"net.cidr_expand":                `net.cidr_expand("10.0.0.0/8")`,
		"providers.aws.sign_req":         `providers.aws.sign_req({}, {}, 1)`,
	} {
		p := problemOf(t, policy("p", `deny contains "x" if `+call))
		if want := "line 3: the built-in " + name + " is not available to policies"; !strings.Contains(p.Err.Error(), want) || p.Reason != ReasonCompileFailed {
			t.Errorf("%s: %s", name, p.Err)
		}
		if p.Err.Ref.String() != "Policy/p" || p.Err.Field != "spec.rego" {
			t.Errorf("%+v", p.Err)
		}
	}
	// OPA CVE-2022-36085: a mock brought a forbidden built-in back.
	for _, rego := range []string{
		`deny contains "x" if count("x") == 1 with count as http.send`,
		`deny contains "x" if http.send({}) with http.send as http.send`,
		`deny contains "x" if http.send({}) with http.send as mock
mock(_) := true`,
		`deny contains "x" if f("x") with f as opa.runtime
f(x) := x`,
		`deny contains "x" if f({}) with f as http.send
f(x) := data.sealock.g(x)
g(x) := x`,
		`deny contains x if some x in [http.send]`,
		`deny contains "x" if lower("a") with lower as net.lookup_ip_addr`,
	} {
		problemOf(t, policy("p", rego))
	}
}

// A newer OPA may bring built-ins that are not as harmless as those of today: this fails until somebody has looked.
func TestEveryBuiltinWasLookedAt(t *testing.T) {
	allowed, refused := 0, 0
	for _, b := range ast.CapabilitiesForThisVersion().Builtins {
		if isAllowedBuiltin(b.Name) {
			allowed++
			if b.Nondeterministic && b.Name != "time.now_ns" {
				t.Errorf("%s is not deterministic", b.Name)
			}
		} else {
			refused++
		}
	}
	if allowed != 149 || refused != 57 {
		t.Errorf("%d built-ins are allowed and %d refused: look at what is new, then correct these figures", allowed, refused)
	}
	for _, name := range allowedBuiltins {
		if !strings.HasSuffix(name, ".") && !slices.ContainsFunc(ast.CapabilitiesForThisVersion().Builtins, func(b *ast.Builtin) bool { return b.Name == name }) {
			t.Errorf("%s does not exist", name)
		}
	}
}

func TestProblemsSayWhatIsWrong(t *testing.T) {
	whole := func(text string) v1alpha1.Policy {
		return v1alpha1.Policy{ObjectMeta: metav1.ObjectMeta{Name: "p"}, Spec: v1alpha1.PolicySpec{Rego: text}}
	}
	for _, c := range []struct {
		name string
		p    v1alpha1.Policy
		want string
	}{
		{"syntax", policy("p", `deny contains "x" if {`), "spec.rego: line 3:"},
		{"version 0", policy("p", `deny[msg] { msg := "x" }`), "`if` keyword is required before rule body"},
		{"package", whole("package other\ndeny contains 1"), "the package is not sealock; begin the module with: package sealock"},
		{"empty", whole(" "), "spec.rego:"},
		{"only a comment", whole("# x"), "spec.rego:"},
		{"no deny", policy("p", `violation contains "x"`), "there is no rule deny"},
		{"deny is no set", policy("p", `deny := ["x"]`), "line 3: deny is not a set"},
		{"deny is a function", policy("p", `deny(x) := x`), "line 3: deny is not a set"},
		{"deny has a field", policy("p", `deny.x contains "y"`), "line 3: deny is not a set"},
		{"typo in a path", policy("p", `deny contains "x" if input.reveiw.object.spec`), "line 3: undefined ref: input.reveiw"},
		{"typo in review", policy("p", `deny contains "x" if input.review.objekt.spec`), "line 3: undefined ref: input.review.objekt"},
		{"unsafe variable", policy("p", `deny contains msg if true`), "var msg is unsafe"},
		{"other data", policy("p", `deny contains "x" if data.secrets.x`), "line 3: data holds nothing but the package itself"},
		{"other data inside", policy("p", "x := {}\ndeny contains \"x\" if data.sealock.x[data.secrets.y]"), "line 4: data holds nothing"},
		{"all data", policy("p", `deny contains k if some k, _ in data`), "line 3: data holds nothing"},
		{"data itself", policy("p", `deny contains json.marshal(data)`), "line 3: data holds nothing"},
		{"imported data", policy("p", "import data.secrets\ndeny contains secrets.x"), "line 3: data holds nothing"},
		{"size", policy("p", strings.Repeat("#", maxModule)), "more than the limit of 65536"},
		{"namespace pattern", policy("p", `deny contains "x"`, func(s *v1alpha1.PolicySpec) { s.Match.Namespaces = []string{"*-a"} }), `spec.match: the namespace pattern "*-a"`},
		{"operation", policy("p", `deny contains "x"`, func(s *v1alpha1.PolicySpec) { s.Match.Operations = []string{"PATCH"} }), `spec.match: the operation "PATCH" is unknown`},
		{"selector", policy("p", `deny contains "x"`, func(s *v1alpha1.PolicySpec) {
			s.Match.LabelSelector = &metav1.LabelSelector{MatchExpressions: []metav1.LabelSelectorRequirement{{Key: "a", Operator: "Near"}}}
		}), "spec.match: the labelSelector is wrong"},
		{"parameters", policy("p", `deny contains "x"`, func(s *v1alpha1.PolicySpec) { s.Parameters = &apiextensionsv1.JSON{Raw: []byte(`[1]`)} }), "spec.parameters: not a mapping"},
	} {
		if got := problemOf(t, c.p).Err.Error(); !strings.Contains(got, c.want) {
			t.Errorf("%s: %s", c.name, got)
		}
	}
}

func TestABrokenPolicyTakesNoOtherDown(t *testing.T) {
	list := []v1alpha1.Policy{policy("a", `deny contains "a"`), policy("broken", `deny contains`), policy("z", `deny contains "z"`)}
	snap, problems := Compile(list)
	if diff := cmp.Diff([]string{"a", "z"}, snap.Names()); diff != "" || len(problems) != 1 || problems[0].Policy != "broken" || problems[0].Kept {
		t.Errorf("%s %v", diff, problems)
	}
}

func TestNextKeepsTheLastGoodVersion(t *testing.T) {
	first, _ := Compile([]v1alpha1.Policy{policy("a", `deny contains "one"`), policy("b", `deny contains "b"`)})
	second, problems := first.Next([]v1alpha1.Policy{policy("a", `deny contains`), policy("b", `deny contains "b"`)})
	if len(problems) != 1 || !problems[0].Kept || second.ID() != first.ID() {
		t.Fatalf("%v, same %v", problems, second.ID() == first.ID())
	}
	// Still broken, in another way: what holds is still the first version.
	third, problems := second.Next([]v1alpha1.Policy{policy("a", `nonsense`), policy("b", `deny contains "c"`)})
	if len(problems) != 1 || !problems[0].Kept || third.ID() == first.ID() {
		t.Fatalf("%v", problems)
	}
	e := engine(t)
	e.Use(third)
	if diff := cmp.Diff([]string{"[a] one", "[b] c"}, say(t, e, object(t, configMap))); diff != "" {
		t.Error(diff)
	}
	if third.all[0] != first.all[0] {
		t.Error("what did not change was compiled again")
	}
	// What is gone is gone.
	fourth, problems := third.Next(nil)
	if len(problems) > 0 || len(fourth.Names()) > 0 {
		t.Errorf("%v %v", problems, fourth.Names())
	}
}

func TestInlineTests(t *testing.T) {
	raw := func(s string) *apiextensionsv1.JSON { return &apiextensionsv1.JSON{Raw: []byte(s)} }
	const named = `{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"bad"}}`
	for _, c := range []struct {
		name string
		test v1alpha1.PolicyTest
		want string // part of the problem; "" is none
	}{
		{"denied as expected", v1alpha1.PolicyTest{Object: *raw(named), Deny: []string{"is bad"}}, ""},
		{"allowed as expected", v1alpha1.PolicyTest{Object: *raw(`{"apiVersion":"v1","kind":"ConfigMap"}`)}, ""},
		{"not denied", v1alpha1.PolicyTest{Object: *raw(`{"apiVersion":"v1","kind":"ConfigMap"}`), Deny: []string{"is bad"}}, `"t": expected a denial with "is bad", got no denial`},
		{"denied", v1alpha1.PolicyTest{Object: *raw(named)}, `"t": expected no denial, got also "the name is bad"`},
		{"other words", v1alpha1.PolicyTest{Object: *raw(named), Deny: []string{"is good"}}, `expected a denial with "is good", got ["the name is bad"]`},
		{"one too many", v1alpha1.PolicyTest{Object: *raw(named), Input: raw(`{"parameters":{"more":true}}`), Deny: []string{"the name"}}, `got also "more"`},
		{"not matched", v1alpha1.PolicyTest{Object: *raw(`{"apiVersion":"v1","kind":"Secret","metadata":{"name":"bad"}}`), Deny: []string{"is bad"}}, "spec.match does not select the object"},
		{"parameters are merged", v1alpha1.PolicyTest{Object: *raw(named), Input: raw(`{"parameters":{"other":1}}`), Deny: []string{"the name is bad"}}, ""},
		{"user", v1alpha1.PolicyTest{Object: *raw(named), Input: raw(`{"userInfo":{"username":"root"}}`)}, ""},
		{"update", v1alpha1.PolicyTest{Object: *raw(named), OldObject: raw(named), Deny: []string{"the name is bad", "updated"}}, ""},
		{"typo", v1alpha1.PolicyTest{Object: *raw(named), Input: raw(`{"tenent":{"name":"a"}}`)}, "input: only tenant,"},
		{"no object", v1alpha1.PolicyTest{Object: *raw(`[]`)}, "object: not a mapping"},
		{"no kind", v1alpha1.PolicyTest{Object: *raw(`{"apiVersion":"v1"}`)}, "object: kind: missing"},
		{"an error", v1alpha1.PolicyTest{Object: *raw(`{"apiVersion":"v1","kind":"ConfigMap","data":{"n":"x"}}`)}, "could not be evaluated: eval_builtin_error"},
	} {
		p := policy("p", `
deny contains sprintf("the name is %s", [input.review.name]) if { input.review.name == input.parameters.name; not input.review.userInfo.username == "root" }
deny contains "more" if input.parameters.more
deny contains "updated" if { input.review.operation == "UPDATE"; input.review.oldObject }
deny contains "number" if to_number(input.review.object.data.n) > 4`, func(s *v1alpha1.PolicySpec) {
			s.Match.Kinds = []v1alpha1.KindMatch{{APIGroups: []string{""}, Kinds: []string{"ConfigMap"}}}
			s.Parameters = raw(`{"name": "bad"}`)
			c.test.Name = "t"
			s.Tests = []v1alpha1.PolicyTest{{Name: "good", Object: *raw(`{"apiVersion":"v1","kind":"ConfigMap"}`)}, c.test}
		})
		snap, problems := Compile([]v1alpha1.Policy{p})
		if c.want == "" {
			if len(problems) > 0 {
				t.Errorf("%s: %s", c.name, problems[0].Err)
			}
			continue
		}
		if len(problems) != 1 || problems[0].Reason != ReasonTestsFailed || problems[0].Err.Field != "spec.tests[1]" || !strings.Contains(problems[0].Err.Error(), c.want) || len(snap.Names()) != 0 {
			t.Errorf("%s: %v", c.name, problems)
		}
	}
}

// FuzzCompile feeds modules to the compiler: it may refuse, it must not panic, hang or accept what reaches out.
func FuzzCompile(f *testing.F) {
	for _, seed := range []string{
		module + `deny contains "x"`,
		module + `deny contains x if { some x in input.review.object.metadata.labels; not regex.match("a", x) }`,
		module + "import rego.v1\nimport future.keywords\ndeny contains $\"a {input.point}\" if every x in [1] { x > 0 }",
		module + `deny contains "x" if http.send({}) with http.send as f`,
		module + "# METADATA\n# schemas:\n# - input: {\"$ref\": \"http://127.0.0.1:1/x\"}\ndeny contains 1",
		strings.Repeat("{[(", 2000),
		module + "deny contains " + strings.Repeat("[", 500),
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		p := v1alpha1.Policy{ObjectMeta: metav1.ObjectMeta{Name: "p"}, Spec: v1alpha1.PolicySpec{Rego: text}}
		c, problem := compileBounded(&p)
		if (c == nil) == (problem == nil) {
			t.Fatal("neither compiled nor refused")
		}
		if problem != nil && strings.Contains(problem.Err.Error(), "gave up") {
			t.Errorf("the compiler panicked")
		}
	})
}
