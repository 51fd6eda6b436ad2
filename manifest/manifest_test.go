package manifest

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"go.yaml.in/yaml/v3"

	"sealock.dev/sealock/fault"
	"sealock.dev/sealock/plaintext"
)

const canary = "hunter2-canary-value"

func one(t *testing.T, text string, tokens *plaintext.Tokens) Object {
	t.Helper()
	docs, err := Decode("a.yaml", []byte(text), DefaultLimits)
	if err != nil || len(docs) != 1 {
		t.Fatalf("Decode: %d documents, %v", len(docs), err)
	}
	o, err := New(docs[0].Body, Source{File: "a.yaml", Line: docs[0].Line}, tokens)
	if err != nil {
		t.Fatal(err)
	}
	return o
}

func TestDecode(t *testing.T) {
	docs, err := Decode("a.yaml", []byte("# comment\n---\na: 1\n---\n---\nb: {c: [true, 1.5, x, null, 2001-01-01, 0644]}\nd: &x {e: f}\ng: {<<: *x, h: i}\n"), DefaultLimits)
	if err != nil {
		t.Fatal(err)
	}
	got, _ := json.Marshal(docs)
	want := `[{"Body":{"a":1},"Line":3},{"Body":{"b":{"c":[true,1.5,"x",null,"2001-01-01",420]},"d":{"e":"f"},"g":{"e":"f","h":"i"}},"Line":6}]`
	if string(got) != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
}

// A node that somebody else parsed becomes what Decode makes of its text, within the same limits.
func TestFromNode(t *testing.T) {
	var node yaml.Node
	if err := yaml.Unmarshal([]byte("b: {c: [true, 1.5, x, null, 2001-01-01, 0644]}\nd: &x {e: f}\ng: {<<: *x, h: i}\n"), &node); err != nil {
		t.Fatal(err)
	}
	got, err := FromNode("a.yaml", &node, DefaultLimits)
	text, _ := json.Marshal(got)
	if want := `{"b":{"c":[true,1.5,"x",null,"2001-01-01",420]},"d":{"e":"f"},"g":{"e":"f","h":"i"}}`; err != nil || string(text) != want {
		t.Errorf("got  %s, %v\nwant %s", text, err, want)
	}
	if _, err := FromNode("a.yaml", &node, Limits{Nodes: 3, Depth: 10}); fault.KindOf(err) != fault.Invalid {
		t.Errorf("too many values: %v", err)
	}
}

func TestDecodeRefuses(t *testing.T) {
	bomb := "a: &a [x,x,x,x,x,x,x,x,x,x]\n"
	for i := range 9 {
		bomb += fmt.Sprintf("%c: &%c [%s]\n", 'b'+i, 'b'+i, strings.TrimSuffix(strings.Repeat(fmt.Sprintf("*%c,", 'a'+i), 10), ","))
	}
	for name, c := range map[string]struct{ text, want string }{
		"syntax":        {"a: b\nc: [\n", "a.yaml"},
		"not a mapping": {"- a\n- b\n", "not a mapping"},
		"twice":         {"a: 1\nb: 2\na: 3\n", "a.yaml:3: a key stands twice"},
		"alias bomb":    {bomb, "too many values"},
		"alias cycle":   {"a: &a\n  b: *a\n", "nested deeper"},
		"second cycle":  {"x: y\n---\na: &a\n  b: *a\n", "nested deeper"},
		"deep":          {strings.Repeat("[", 5000) + strings.Repeat("]", 5000), "a.yaml"},
		"nan":           {"a: .nan\n", "not a number"},
		"big":           {"a: \"" + strings.Repeat("x", 6<<20) + "\"", "more than the limit"},
		"binary tag":    {"a: !!binary /////w==\n", "not base64 of a text"},
		"own tag":       {"a: !own aGk=\n", "unsupported YAML tag"},
		"map as key":    {"{a: b}: c\n", "a.yaml"},
	} {
		_, err := Decode("a.yaml", []byte(c.text), DefaultLimits)
		if err == nil || !strings.Contains(err.Error(), c.want) || fault.KindOf(err) != fault.Invalid {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestT41_DecodeNeverEchoesWhatItCannotRead(t *testing.T) {
	for _, text := range []string{
		"password: '" + canary, "a: b: " + canary, "x: !" + canary + " y", "k: @" + canary, canary + ": [", "a: *" + canary, "a: 1\n\t" + canary + ": 2",
		"a: \"" + canary + "\\q\"", "&" + canary + " *" + canary, "? " + canary + "\n- x", "a: !!int " + canary, "a: !!float " + canary, "a: !!bool " + canary,
	} {
		if _, err := Decode("a.yaml", []byte(text), DefaultLimits); err != nil && strings.Contains(err.Error(), canary) {
			t.Errorf("%q: %v", text, err)
		}
	}
}

func TestSecretPayloadsAreLifted(t *testing.T) {
	o := one(t, "apiVersion: v1\nkind: Secret\nmetadata: {name: s, namespace: n}\ndata: {a: aHVudGVyMi1jYW5hcnktdmFsdWU=, e: null}\nstringData: {b: "+canary+"}\n", nil)
	for _, text := range []string{fmt.Sprintf("%v %+v %#v", o, o, o), fmt.Sprint(o.Body())} {
		for _, form := range plaintext.Encodings([]byte(canary)) {
			if strings.Contains(text, form) {
				t.Fatalf("printed: %s", text)
			}
		}
	}
	data := o.SecretData()
	if string(data["a"].Reveal()) != canary || string(data["b"].Reveal()) != canary || len(data) != 3 {
		t.Errorf("data: %d entries", len(data))
	}
	wire, err := o.Wire()
	if err != nil || !strings.Contains(string(wire), `"data":{"a":"aHVudGVyMi1jYW5hcnktdmFsdWU=","b":"aHVudGVyMi1jYW5hcnktdmFsdWU=","e":""}`) {
		t.Errorf("wire: %v", err)
	}
	if o.Origin != Plain {
		t.Errorf("origin %q", o.Origin)
	}
}

func TestTokensBecomeValuesWhereTheyEnd(t *testing.T) {
	tokens := plaintext.NewTokens(plaintext.NewKey([]byte("k")))
	s, n := tokens.Issue(plaintext.FromString(canary)), tokens.IssueJSON(plaintext.FromString("42"))
	b64 := tokens.Issue(plaintext.FromString("aHVudGVyMi1jYW5hcnktdmFsdWU="))
	o := one(t, "apiVersion: v1\nkind: Secret\nmetadata: {name: s}\ndata: {a: "+b64+"}\nstringData: {b: 'x "+s+"'}\n", tokens)
	if o.Origin != SOPS || string(o.SecretData()["a"].Reveal()) != canary || string(o.SecretData()["b"].Reveal()) != "x "+canary {
		t.Errorf("origin %q", o.Origin)
	}
	if _, outside := o.OpenedOutsideSecret(); outside {
		t.Error("the data of a Secret is inside")
	}
	half := one(t, "apiVersion: v1\nkind: Secret\nmetadata: {name: s}\nstringData: {a: "+s+", b: clear}\n", tokens)
	if half.Origin != Plain {
		t.Error("one value in the clear makes it a plain Secret")
	}
	c := one(t, "apiVersion: example.com/v1\nkind: App\nmetadata: {name: s}\nspec: {replicas: "+n+", list: [x, "+s+"], url: 'http://"+s+"'}\n", tokens)
	wire, err := c.Wire()
	want := `{"apiVersion":"example.com/v1","kind":"App","metadata":{"name":"s"},"spec":{"list":["x","` + canary + `"],"replicas":42,"url":"http://` + canary + `"}}`
	if err != nil || string(wire) != want {
		t.Errorf("wire %v\n%s", err, wire)
	}
	if field, outside := c.OpenedOutsideSecret(); !outside || field == "" {
		t.Error("a value outside a Secret is not reported")
	}
	if strings.Contains(fmt.Sprint(c.Body()), canary) {
		t.Error("the body shows the value")
	}
	// A generated Secret carries the token inside its base64.
	gen := one(t, "apiVersion: v1\nkind: Secret\nmetadata: {name: s}\ndata: {f: "+b64of(s)+"}\n", tokens)
	if gen.Origin != SOPS || string(gen.SecretData()["f"].Reveal()) != canary {
		t.Error("token inside base64")
	}
}

// A value in a label or annotation is a value like others: seen in the write only, and reported to who fences.
func TestT41_ValuesInMetadataAreRevealedInTheWriteOnly(t *testing.T) {
	tokens := plaintext.NewTokens(plaintext.NewKey([]byte("k")))
	s, n := tokens.Issue(plaintext.FromString(canary)), tokens.IssueJSON(plaintext.FromString("42"))
	o := one(t, "apiVersion: v1\nkind: Secret\nmetadata: {name: s, labels: {n: "+n+"}, annotations: {external-dns/host: 'x."+s+"'}}\nstringData: {a: b}\n", tokens)
	if o.Annotations()["external-dns/host"] != plaintext.Mask || strings.Contains(fmt.Sprint(o.Body()), canary) || strings.Contains(fmt.Sprintf("%+v", o), canary) {
		t.Errorf("the object shows the value: %v", o.Body())
	}
	if field, outside := o.OpenedOutsideSecret(); !outside || !strings.HasPrefix(field, "metadata.") {
		t.Errorf("not reported: %s", field)
	}
	if len(o.Values()) != 3 {
		t.Errorf("%d values for the scrubber", len(o.Values()))
	}
	wire, err := o.WithMeta(map[string]string{"l": "m"}, nil).Wire()
	if want := `"metadata":{"annotations":{"external-dns/host":"x.` + canary + `"},"labels":{"l":"m","n":"42"},"name":"s"}`; err != nil || !strings.Contains(string(wire), want) {
		t.Errorf("%v %s", err, wire)
	}
}

// TestOpenData: only what stands under data as it is can still be opened, once, and the original stays what it was.
func TestOpenData(t *testing.T) {
	tokens := plaintext.NewTokens(plaintext.NewKey([]byte("k")))
	s := tokens.Issue(plaintext.FromString("token"))
	o := one(t, "apiVersion: v1\nkind: Secret\nmetadata: {name: s}\ndata: {a: "+b64of("a")+", b: "+b64of("b")+", t: "+b64of(s)+", o: "+b64of("under")+"}\nstringData: {c: c, o: over}\n", tokens)
	asked := map[string]string{}
	open := func(only ...string) func(string, plaintext.Value) (plaintext.Value, bool) {
		return func(key string, v plaintext.Value) (plaintext.Value, bool) {
			asked[key] = string(v.Reveal())
			return plaintext.FromString("opened " + key), len(only) == 0 || slices.Contains(only, key)
		}
	}
	half := o.OpenData(open("a"))
	if diff := cmp.Diff(map[string]string{"a": "a", "b": "b"}, asked); diff != "" {
		t.Error(diff)
	}
	if string(o.SecretData()["a"].Reveal()) != "a" || string(half.SecretData()["a"].Reveal()) != "opened a" || string(half.SecretData()["b"].Reveal()) != "b" || half.Origin != Plain {
		t.Errorf("origin %s", half.Origin)
	}
	clear(asked)
	half.WithNamespace("n").OpenData(open())
	if diff := cmp.Diff(map[string]string{"b": "b"}, asked); diff != "" {
		t.Error(diff)
	}
	for text, want := range map[string]Origin{
		"data: {a: " + b64of("a") + ", t: " + b64of(s) + ", e: ''}": SOPS,
		"data: {a: " + b64of("a") + "}\nstringData: {c: c}":         Plain,
		"data: {a: " + b64of("a") + "}\nstringData: {a: " + s + "}": Plain, // what is hidden from the cluster still stands in Git
	} {
		if got := one(t, "apiVersion: v1\nkind: Secret\nmetadata: {name: s}\n"+text+"\n", tokens).OpenData(open("a")); got.Origin != want {
			t.Errorf("%s: %s", text, got.Origin)
		}
	}
	other := one(t, "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: s}\ndata: {a: x}\n", nil)
	if got := other.OpenData(open()); got.Origin != Plain || got.Peek("data", "a") != "x" {
		t.Error("a ConfigMap was opened")
	}
}

func b64of(s string) string {
	b, _ := json.Marshal([]byte(s))
	return strings.Trim(string(b), `"`)
}

func TestForgedAndMisplacedTokensAreRefused(t *testing.T) {
	tokens := plaintext.NewTokens(plaintext.NewKey([]byte("k")))
	s := tokens.Issue(plaintext.FromString(canary))
	forged := "sealock-token-00000000000000000000000000000000-end"
	for name, text := range map[string]string{
		"forged in secret": "apiVersion: v1\nkind: Secret\nmetadata: {name: s}\nstringData: {a: " + forged + "}\n",
		"forged in base64": "apiVersion: v1\nkind: Secret\nmetadata: {name: s}\ndata: {a: " + b64of(forged) + "}\n",
		"forged in body":   "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: s}\ndata: {a: " + forged + "}\n",
		"as key":           "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: s}\ndata: {" + s + ": a}\n",
		"as name":          "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: " + s + "}\n",
		"as namespace":     "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: s, namespace: " + s + "}\n",
		"as owner":         "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: s, ownerReferences: [{name: " + s + "}]}\n",
		"as our label":     "apiVersion: v1\nkind: Secret\nmetadata: {name: s, labels: {sealock.dev/tenant: " + s + "}}\n",
		"as Flux's mark":   "apiVersion: v1\nkind: Secret\nmetadata: {name: s, annotations: {kustomize.toolkit.fluxcd.io/prune: " + s + "}}\n",
	} {
		docs, err := Decode("a.yaml", []byte(text), DefaultLimits)
		if err != nil {
			t.Fatal(err)
		}
		_, err = New(docs[0].Body, Source{File: "a.yaml", Line: 1}, tokens)
		if err == nil || fault.KindOf(err) != fault.Invalid || strings.Contains(err.Error(), canary) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestObjectsAreValues(t *testing.T) {
	o := one(t, "apiVersion: v1\nkind: Secret\nmetadata: {name: s, labels: {a: b}}\nstringData: {p: "+canary+"}\n", nil)
	c := o.WithMeta(map[string]string{"x": "y"}, map[string]string{"n": "m"}).WithNamespace("ns")
	if o.Namespace() != "" || len(o.Labels()) != 1 || c.Namespace() != "ns" || c.Labels()["x"] != "y" || c.Labels()["a"] != "b" || c.Annotations()["n"] != "m" {
		t.Error("With methods")
	}
	if string(c.SecretData()["p"].Reveal()) != canary {
		t.Error("an edit loses the value")
	}
	gone := o.Edit(func(b map[string]any) { delete(b, "data") })
	if len(gone.SecretData()) != 0 {
		t.Error("a value whose place is gone stays")
	}
	k := plaintext.NewKey([]byte("k"))
	other := one(t, "apiVersion: v1\nkind: Secret\nmetadata: {name: s, labels: {a: b}}\nstringData: {p: other}\n", nil)
	if o.Digest(k) == other.Digest(k) || o.Digest(k) != one(t, "apiVersion: v1\nkind: Secret\nmetadata: {name: s, labels: {a: b}}\nstringData: {p: "+canary+"}\n", nil).Digest(k) {
		t.Error("Digest")
	}
}

func TestIdentityIsRequired(t *testing.T) {
	for text, want := range map[string]string{
		"kind: X\nmetadata: {name: a}\n":                 "a.yaml:1: apiVersion: missing",
		"apiVersion: v1\nmetadata: {name: a}\n":          "a.yaml:1: kind: missing",
		"apiVersion: v1\nkind: X\nmetadata: {}\n":        "X (a.yaml:1): metadata.name: missing",
		"apiVersion: v1\nkind: {a: b}\nmetadata: {}\n":   "kind: missing",
		"apiVersion: v1\nkind: Secret\ndata: {a: '%%%'}": "metadata.name: missing",
	} {
		docs, _ := Decode("a.yaml", []byte(text), DefaultLimits)
		_, err := New(docs[0].Body, Source{File: "a.yaml", Line: docs[0].Line}, nil)
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v", text, err)
		}
	}
}

// contract: Object inventory id
func TestInventoryID(t *testing.T) {
	for text, id := range map[string]ID{
		"default_cm__ConfigMap": {Namespace: "default", Name: "cm", Kind: "ConfigMap", Version: "v1"},
		"_ns1__Namespace":       {Name: "ns1", Kind: "Namespace", Version: "v1"},
		"a_b_apps_Deployment":   {Namespace: "a", Name: "b", Group: "apps", Kind: "Deployment", Version: "v1"},
		"_system__node_rbac.authorization.k8s.io_ClusterRole": {Name: "system:node", Group: "rbac.authorization.k8s.io", Kind: "ClusterRole", Version: "v1"},
	} {
		got, err := ParseID(text, "v1")
		if err != nil || got != id || id.String() != text {
			t.Errorf("%s: %+v %v %s", text, got, err, id.String())
		}
	}
	for _, bad := range []string{"", "a", "a_b", "a_b_c", "a___", "a__g_K"} {
		if id, err := ParseID(bad, "v1"); err == nil {
			t.Errorf("%q is read as %+v", bad, id)
		}
	}
}

func TestT38_PodSpecsOfEveryWorkload(t *testing.T) {
	pod := "{containers: [{name: c, image: i}], serviceAccountName: sa}"
	for kind, text := range map[string]string{
		"Pod":        "apiVersion: v1\nkind: Pod\nspec: " + pod,
		"Deployment": "apiVersion: apps/v1\nkind: Deployment\nspec: {template: {spec: " + pod + "}}",
		"CronJob":    "apiVersion: batch/v1\nkind: CronJob\nspec: {jobTemplate: {spec: {template: {spec: " + pod + "}}}}",
		"unknown":    "apiVersion: example.com/v1\nkind: Fleet\nspec: {shards: [{pod: " + pod + "}]}",
	} {
		docs, err := Decode("a.yaml", []byte(text), DefaultLimits)
		if err != nil {
			t.Fatal(err)
		}
		specs := PodSpecs(docs[0].Body)
		if len(specs) != 1 || specs[0].Spec["serviceAccountName"] != "sa" {
			t.Errorf("%s: %v", kind, specs)
		}
	}
}

func TestT37_SecretRefs(t *testing.T) {
	docs, err := Decode("a.yaml", []byte(`
containers: [{env: [{valueFrom: {secretKeyRef: {name: env}}}], envFrom: [{secretRef: {name: from}}]}]
initContainers: [{env: [{valueFrom: {secretKeyRef: {name: init}}}]}]
ephemeralContainers: [{envFrom: [{secretRef: {name: eph}}]}]
volumes: [{secret: {secretName: vol}}, {projected: {sources: [{secret: {name: proj}}]}}, {csi: {nodePublishSecretRef: {name: csi}}}, {rbd: {secretRef: {name: rbd}}}]
imagePullSecrets: [{name: pull}]
`), DefaultLimits)
	if err != nil {
		t.Fatal(err)
	}
	if got := strings.Join(SecretRefs(docs[0].Body), " "); got != "csi env eph from init proj pull rbd vol" {
		t.Errorf("got %s", got)
	}
}

func FuzzDecode(f *testing.F) {
	for _, s := range []string{"a: b", "a: &x [*x]", "- {", "? :", "a: !!binary x", "apiVersion: v1\nkind: Secret\nmetadata: {name: x}\nstringData: {a: b}"} {
		f.Add([]byte(s))
	}
	limits := Limits{Bytes: 1 << 16, Nodes: 10_000, Depth: 50}
	f.Fuzz(func(t *testing.T, data []byte) {
		docs, err := Decode("f.yaml", data, limits)
		if err != nil && fault.KindOf(err) != fault.Invalid {
			t.Fatalf("%v", err)
		}
		for _, d := range docs {
			if _, err := json.Marshal(d.Body); err != nil {
				t.Fatalf("a body that is not JSON: %v", err)
			}
			if o, err := New(d.Body, Source{}, nil); err == nil {
				if _, err := o.Wire(); err != nil {
					t.Fatalf("wire: %v", err)
				}
			}
		}
	})
}

func FuzzParseID(f *testing.F) {
	f.Add("a_b_c_D")
	f.Fuzz(func(t *testing.T, s string) {
		if id, err := ParseID(s, "v1"); err == nil && id.Group != "rbac.authorization.k8s.io" && id.String() != s {
			t.Fatalf("%q -> %q", s, id.String())
		}
	})
}
