package policies

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/open-policy-agent/opa/v1/ast"

	"sealock.dev/sealock/api/sealock/v1alpha1"
	"sealock.dev/sealock/manifest"
	"sealock.dev/sealock/plaintext"
)

// testInput is what spec.tests[].input may set. Everything else follows from the objects of the test.
type testInput struct {
	Tenant      map[string]any  `json:"tenant"`
	Origin      manifest.Origin `json:"origin"`
	Point       Point           `json:"point"`
	UserInfo    *testUser       `json:"userInfo"`
	Operation   string          `json:"operation"`
	SubResource string          `json:"subResource"`
	Name        string          `json:"name"`
	Namespace   string          `json:"namespace"`
	DryRun      bool            `json:"dryRun"`
	Parameters  map[string]any  `json:"parameters"` // over those of the policy, name by name
}

type testUser struct {
	Username string              `json:"username"`
	UID      string              `json:"uid"`
	Groups   []string            `json:"groups"`
	Extra    map[string][]string `json:"extra"`
}

// runTests runs the tests of the policy, as the point of the test would: match first, then the rule. It reports the
// first that fails. The enforcement does not matter: the rule is tested.
func runTests(c *compiled, p *v1alpha1.Policy) *Problem {
	for i := range p.Spec.Tests {
		t := &p.Spec.Tests[i]
		if text := runTest(c, t); text != "" {
			problem := broken(p, fmt.Sprintf("spec.tests[%d]", i), "%q: %s", t.Name, clean(text))
			problem.Reason = ReasonTestsFailed
			return problem.fix("correct the rule or the test")
		}
	}
	return nil
}

// runTest returns what is wrong, "" when nothing is.
func runTest(c *compiled, t *v1alpha1.PolicyTest) string {
	s, parameters, err := testSubject(c, t)
	if err != nil {
		return err.Error()
	}
	operation := c.match.operation(s.operation)
	var got []string
	matched := operation != "" && c.match.matchesKind(s.gvk.GroupKind()) && c.match.matches(s)
	if matched {
		doc, err := newDocument(s, plaintext.NewKey([]byte("tests of a policy")))
		if err != nil {
			return "the object is not JSON"
		}
		got, err = c.evaluate(context.Background(), doc.input(operation, parameters), time.Unix(0, 0).UTC())
		if err != nil {
			return err.Error()
		}
	}
	for _, want := range t.Deny {
		if !slices.ContainsFunc(got, func(m string) bool { return strings.Contains(m, want) }) {
			if !matched {
				return fmt.Sprintf("expected a denial with %q, but spec.match does not select the object", want)
			}
			return fmt.Sprintf("expected a denial with %q, got %s", want, quoted(got))
		}
	}
	for _, m := range got {
		if !slices.ContainsFunc(t.Deny, func(want string) bool { return strings.Contains(m, want) }) {
			return fmt.Sprintf("expected %s, got also %q", quoted(t.Deny), m)
		}
	}
	return ""
}

func quoted(list []string) string {
	if len(list) == 0 {
		return "no denial"
	}
	text, _ := json.Marshal(list) // strings always marshal
	return string(text)
}

func testSubject(c *compiled, t *v1alpha1.PolicyTest) (*subject, *ast.Term, error) {
	in, parameters := testInput{Point: Reconcile}, c.parameters
	if t.Input != nil && len(t.Input.Raw) > 0 {
		if err := decodeKnown(t.Input.Raw, &in); err != nil {
			return nil, nil, fmt.Errorf("input: only tenant, origin, point, userInfo, operation, subResource, name, namespace, dryRun and parameters can be set")
		}
	}
	if in.Parameters != nil {
		value, err := ast.InterfaceToValue(in.Parameters)
		if err != nil {
			return nil, nil, fmt.Errorf("input.parameters: not JSON")
		}
		over, isObject := value.(ast.Object)
		own, ownIsObject := c.parameters.Value.(ast.Object)
		if isObject && ownIsObject {
			merged := ast.NewObject()
			own.Foreach(func(k, v *ast.Term) { merged.Insert(k, v) })
			over.Foreach(func(k, v *ast.Term) { merged.Insert(k, v) })
			parameters = ast.NewTerm(merged)
		}
	}
	object, err := testObject("object", t.Object.Raw)
	if err != nil {
		return nil, nil, err
	}
	s := &subject{
		point: in.Point, operation: in.Operation, gvk: object.GVK(), sub: in.SubResource, name: object.Name(), namespace: object.Namespace(),
		object: object, dryRun: in.DryRun, origin: in.Origin, ref: object.Ref(),
	}
	if in.Name != "" {
		s.name = in.Name
	}
	if in.Namespace != "" {
		s.namespace = in.Namespace
	}
	if t.OldObject != nil && len(t.OldObject.Raw) > 0 {
		if s.old, err = testObject("oldObject", t.OldObject.Raw); err != nil {
			return nil, nil, err
		}
		if s.operation == "" {
			s.operation = opUpdate
		}
	}
	if s.origin == "" && s.point != Admission {
		s.origin = manifest.Plain
	}
	if in.UserInfo != nil {
		s.user = &User{Username: in.UserInfo.Username, UID: in.UserInfo.UID, Groups: in.UserInfo.Groups, Extra: in.UserInfo.Extra}
	}
	if in.Tenant != nil {
		name, _ := in.Tenant["name"].(string)
		value, err := ast.InterfaceToValue(in.Tenant)
		if err != nil || name == "" {
			return nil, nil, fmt.Errorf("input.tenant: name is missing")
		}
		s.tenant, s.facts = name, ast.NewTerm(value)
	}
	return s, parameters, nil
}

// testObject makes an object of a test's JSON. A name may be missing: most rules do not look at it.
func testObject(field string, raw []byte) (*manifest.Object, error) {
	var body map[string]any
	if err := decodeJSON(raw, &body); err != nil || body == nil {
		return nil, fmt.Errorf("%s: not a mapping", field)
	}
	meta, _ := body["metadata"].(map[string]any)
	if meta == nil {
		meta = map[string]any{}
		body["metadata"] = meta
	}
	if meta["name"] == nil {
		meta["name"] = "test"
	}
	o, err := manifest.New(body, manifest.Source{}, nil)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", field, err)
	}
	return &o, nil
}
