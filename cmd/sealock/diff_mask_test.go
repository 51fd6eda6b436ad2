package main

import (
	"encoding/json"
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/yaml"

	"sealock.dev/sealock/internal/testkit"
	"sealock.dev/sealock/manifest"
	"sealock.dev/sealock/plaintext"
)

// maskCase is an object in Git, in which NEW is a secret, and the same on the cluster, in which OLD was one.
type maskCase struct {
	name, git, live, after string
	shows                  []string
	hides                  []string
	known                  bool // OLD is the value of a Secret that could be read
}

const configMapHead = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a, namespace: x}\n"

// TestDiffHidesSecretsOfEarlierCommits: where a secret stands in the new set says nothing about where the old one stood.
func TestDiffHidesSecretsOfEarlierCommits(t *testing.T) {
	for _, tc := range []maskCase{
		{
			name: "a key is renamed", git: `data: {dsn: NEW, mode: fast}`, live: `data: {url: OLD, mode: slow}`, after: `data: {dsn: NEW, mode: fast}`,
			shows: []string{"+ data.mode: fast", "- data.mode: [secret ", "- data.url: [secret "},
		},
		{
			name: "an item goes before it", git: `env: [{name: A, value: NEW}, {name: B, value: b}]`, live: `env: [{name: X, value: x}, {name: A, value: OLD}, {name: B, value: c}]`,
			after: `env: [{name: A, value: NEW}, {name: B, value: b}]`, shows: []string{"+ env[B].value: b", "env[A].value: [secret "}, hides: []string{"env[B].name"},
		},
		{
			name: "an item of somebody else stands before it", git: `env: [{name: A, value: NEW}]`, live: `env: [{name: X, value: x}, {name: A, value: OLD}]`,
			after: `env: [{name: X, value: x}, {name: A, value: NEW}]`, shows: []string{"+ env[A].value: [secret "}, hides: []string{"env[[secret"},
		},
		{name: "a list of texts", git: `args: [--port=1, NEW]`, live: `args: [OLD, --port=1]`, after: `args: [--port=1, NEW]`, shows: []string{"--port=1"}},
		{name: "in a number", git: `spec: {password: NEW, pin: 1234}`, live: `spec: {password: OLD, pin: 98765}`, after: `spec: {password: NEW, pin: 1234}`, shows: []string{"+ spec.pin: 1234"}, hides: []string{"98765"}},
		{name: "it is no secret any more, and known", known: true, git: `data: {dsn: none}`, live: `data: {dsn: "user:OLD@db", mode: slow}`, after: `data: {dsn: none}`, shows: []string{"+ data.dsn: none"}, hides: []string{"slow"}},
		{name: "nothing was ever a secret", git: `data: {mode: fast}`, live: `data: {mode: slow}`, after: `data: {mode: fast}`, shows: []string{"- data.mode: slow", "+ data.mode: fast"}},
	} {
		t.Run(tc.name, func(t *testing.T) { tc.check(t) })
	}
}

func (tc maskCase) check(t *testing.T) {
	t.Helper()
	before, next := testkit.NewCanary(), testkit.NewCanary()
	quoted := func(c testkit.Canary) string {
		text, _ := json.Marshal(c.String())
		return strings.Trim(string(text), `"`)
	}
	tokens := plaintext.NewTokens(plaintext.RandomKey())
	object := func(text, secret string) *unstructured.Unstructured {
		text = strings.NewReplacer("NEW", `"`+secret+`"`, "user:OLD@db", "user:"+quoted(before)+"@db", "OLD", `"`+quoted(before)+`"`).Replace(text)
		u := &unstructured.Unstructured{}
		if err := yaml.Unmarshal([]byte(configMapHead+text), &u.Object); err != nil {
			t.Fatal(err)
		}
		return u
	}
	o, err := manifest.New(object(tc.git, tokens.Issue(next.Value())).Object, manifest.Source{}, tokens)
	if err != nil {
		t.Fatal(err)
	}
	j := &comparer{key: plaintext.RandomKey(), want: wanted{scrub: plaintext.NewScrubber(), known: plaintext.NewScrubber()}}
	j.want.learn(o.Values()...)
	if tc.known {
		j.want.learn(before.Value())
	}
	changes, err := j.changes(o, object(tc.live, ""), object(tc.after, quoted(next)))
	if err != nil {
		t.Fatal(err)
	}
	var out strings.Builder
	for _, c := range changes {
		out.WriteString(strings.Join(c.lines(), "\n") + "\n")
	}
	if found := append(before.FindIn(out.String()), next.FindIn(out.String())...); found != nil {
		t.Errorf("a value is printed: %q\n%s", found, out.String())
	}
	for _, want := range tc.shows {
		if !strings.Contains(out.String(), want) {
			t.Errorf("%q is not in\n%s", want, out.String())
		}
	}
	for _, not := range tc.hides {
		if strings.Contains(out.String(), not) {
			t.Errorf("%q is in\n%s", not, out.String())
		}
	}
}

// TestDiffOfASecretShowsNothingOfIt: not even what is no payload.
func TestDiffOfASecretShowsNothingOfIt(t *testing.T) {
	read := func(text string) *unstructured.Unstructured {
		u := &unstructured.Unstructured{}
		if err := yaml.Unmarshal([]byte(text), &u.Object); err != nil {
			t.Fatal(err)
		}
		return u
	}
	canary := testkit.NewCanary()
	live := read("apiVersion: v1\nkind: Secret\nmetadata: {name: a, annotations: {note: '" + canary.String() + "', kept: same}}\ndata: {gone: aHVzaA==}\n")
	after := read("apiVersion: v1\nkind: Secret\nmetadata: {name: a, annotations: {kept: same}}\ndata: {}\n")
	o, err := manifest.New(after.DeepCopy().Object, manifest.Source{}, nil)
	if err != nil {
		t.Fatal(err)
	}
	j := &comparer{key: plaintext.RandomKey(), want: wanted{scrub: plaintext.NewScrubber(), known: plaintext.NewScrubber()}}
	changes, err := j.changes(o, live, after)
	if err != nil || len(changes) != 2 {
		t.Fatalf("%v %v", changes, err)
	}
	for _, c := range changes {
		if text, _ := c.From.(string); !strings.HasPrefix(text, "[secret ") {
			t.Errorf("%s: %v", c.Path, c.From)
		}
	}
}
