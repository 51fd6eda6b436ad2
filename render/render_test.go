package render

import (
	"context"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/google/go-cmp/cmp"

	"sealock.dev/sealock/fault"
	"sealock.dev/sealock/manifest"
	"sealock.dev/sealock/plaintext"
)

func repo(files map[string]string) fstest.MapFS {
	out := fstest.MapFS{}
	for name, data := range files {
		out[name] = &fstest.MapFile{Data: []byte(data)}
	}
	return out
}

func newTokens() *plaintext.Tokens { return plaintext.NewTokens(plaintext.NewKey([]byte("test"))) }

func build(files fs.FS, o Options, tokens *plaintext.Tokens) ([]manifest.Object, string, error) {
	return New(o).Render(context.Background(), files, tokens)
}

func mustBuild(t testing.TB, files fs.FS, o Options, tokens *plaintext.Tokens) []manifest.Object {
	t.Helper()
	set, digest, err := build(files, o, tokens)
	if err != nil {
		t.Fatal(err)
	}
	if !strings.HasPrefix(digest, "sha256:") || len(digest) != len("sha256:")+64 {
		t.Fatalf("digest %q", digest)
	}
	return set
}

func refs(set []manifest.Object) []string {
	out := make([]string, len(set))
	for i, o := range set {
		out[i] = o.Ref().String()
	}
	return out
}

func find(t testing.TB, set []manifest.Object, kind string) manifest.Object {
	t.Helper()
	for _, o := range set {
		if o.Kind() == kind {
			return o
		}
	}
	t.Fatalf("no %s in %v", kind, refs(set))
	return manifest.Object{}
}

func configMap(name string) string {
	return "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: " + name + "}\n"
}

const deployment = `apiVersion: apps/v1
kind: Deployment
metadata:
  name: api-server
spec:
  replicas: 1
  selector: {matchLabels: {tier: api}}
  template:
    metadata: {labels: {tier: api}}
    spec:
      containers:
      - name: api
        image: example.com/api:1.0
        envFrom: [{configMapRef: {name: api-config}}]
`

func TestPlainFolderKeepsOrderFileAndLine(t *testing.T) {
	files := repo(map[string]string{
		"app/b.yaml":                  "# comment\n" + configMap("b1") + "---\n---\n" + configMap("b2"),
		"app/a.yml":                   "kind: List\napiVersion: v1\nitems:\n- " + strings.ReplaceAll(strings.TrimSpace(configMap("a")), "\n", "\n  ") + "\n",
		"app/sub/c.yaml":              configMap("c"),
		"app/sub/not.json":            `{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"json"}}`,
		"app/sub/not.YAML":            configMap("upper"),
		"app/unit/kustomization.yaml": "namePrefix: x-\nresources: [d.yaml]\n",
		"app/unit/d.yaml":             "\n" + configMap("d"),
		"app/unit/ignored.yaml":       "not: a manifest\n",
		"app/.hidden.yaml":            configMap("hidden"),
		"app/.hidden/e.yaml":          configMap("below"),
		"app/readme.md":               "text",
		"app/comp.yaml":               "apiVersion: kustomize.config.k8s.io/v1alpha1\nkind: Component\nmetadata: {name: c}\n",
		"other/e.yaml":                configMap("e"),
	})
	want := []string{
		"ConfigMap/below (app/.hidden/e.yaml:1)", "ConfigMap/hidden (app/.hidden.yaml:1)",
		"ConfigMap/a (app/a.yml:1)", "ConfigMap/b1 (app/b.yaml:2)", "ConfigMap/b2 (app/b.yaml:7)",
		"ConfigMap/c (app/sub/c.yaml:1)", "ConfigMap/x-d (app/unit/d.yaml:2)",
	}
	for _, dir := range []string{"app", "./app", "./app/"} {
		if d := cmp.Diff(want, refs(mustBuild(t, files, Options{Dir: dir}, nil))); d != "" {
			t.Errorf("%s: %s", dir, d)
		}
	}
}

// What kustomize leaves out is left out of a plain folder too, and of lists in it.
func TestLocalConfigIsNotApplied(t *testing.T) {
	marked := func(name, value string) string {
		return "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: " + name + ", annotations: {config.kubernetes.io/local-config: '" + value + "'}}\n"
	}
	list := "apiVersion: v1\nkind: List\nitems: [{apiVersion: v1, kind: ConfigMap, metadata: {name: d, annotations: {config.kubernetes.io/local-config: 'true'}}}]\n"
	files := map[string]string{"a.yaml": marked("a", "true"), "b.yaml": marked("b", "false"), "c.yaml": marked("c", "") + "---\n" + list}
	for name, kustomization := range map[string]string{"plain": "", "overlay": "resources: [a.yaml, b.yaml, c.yaml]\n"} {
		if kustomization != "" {
			files["kustomization.yaml"] = kustomization
		}
		if d := cmp.Diff([]string{"ConfigMap/b (b.yaml:1)"}, refs(mustBuild(t, repo(files), Options{}, nil))); d != "" {
			t.Errorf("%s: %s", name, d)
		}
	}
}

// What kustomize takes for its own, or for nothing, is not applied from a plain folder either.
func TestNotesOfKustomizeAreNotApplied(t *testing.T) {
	files := repo(map[string]string{"a.yaml": "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a, annotations: {internal.config.kubernetes.io/index: '1', config.kubernetes.io/index: '0'}}\n---\n" +
		"apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: b\n  annotations:\ndata: {k: !!binary aGVsbG8=}\n---\n" +
		"apiVersion: v1\nkind: ConfigMap\nmetadata: {name: c, annotations: {internal.config.kubernetes.io/x: '1', own: x}}\n"})
	set := mustBuild(t, files, Options{}, nil)
	for i, want := range []any{nil, nil, map[string]any{"own": "x"}} {
		if d := cmp.Diff(want, set[i].Peek("metadata", "annotations")); d != "" {
			t.Errorf("%s: %s", set[i].Ref(), d)
		}
		if _, there := set[i].Peek("metadata").(map[string]any)["annotations"]; there != (want != nil) {
			t.Errorf("%s: %v", set[i].Ref(), set[i].Body())
		}
	}
	if set[1].Peek("data", "k") != "hello" {
		t.Errorf("%v", set[1].Body())
	}
	if _, _, err := build(repo(map[string]string{"a.yaml": configMap("a") + "data: {k: !!binary /////w==}\n"}), Options{}, nil); fault.KindOf(err) != fault.Invalid {
		t.Errorf("got %v", err)
	}
}

// JSON is applied where a kustomization lists it.
func TestJSONInResources(t *testing.T) {
	files := repo(map[string]string{"kustomization.yaml": "resources: [a.json, B.YAML]\n", "B.YAML": configMap("b"), "a.json": `{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"a"}}`})
	if d := cmp.Diff([]string{"ConfigMap/a (a.json:1)", "ConfigMap/b (B.YAML:1)"}, refs(mustBuild(t, files, Options{}, nil))); d != "" {
		t.Error(d)
	}
}

func TestRootIsTheDefault(t *testing.T) {
	files := repo(map[string]string{"a.yaml": configMap("a")})
	for _, dir := range []string{"", ".", "./", "/"} {
		if got := refs(mustBuild(t, files, Options{Dir: dir}, nil)); got[0] != "ConfigMap/a (a.yaml:1)" {
			t.Errorf("%q: %v", dir, got)
		}
	}
}

func TestADirectoryOfTheDisk(t *testing.T) {
	dir := t.TempDir()
	for name, data := range map[string]string{"plain/a.yaml": configMap("a"), "over/kustomization.yaml": "resources: [../base]\n", "base/kustomization.yaml": "resources: [b.yaml]\n", "base/b.yaml": configMap("b")} {
		if err := os.MkdirAll(filepath.Join(dir, filepath.Dir(name)), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, name), []byte(data), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for sub, want := range map[string]string{"plain": "ConfigMap/a (plain/a.yaml:1)", "over": "ConfigMap/b (base/b.yaml:1)"} {
		if got := refs(mustBuild(t, os.DirFS(dir), Options{Dir: sub}, nil)); got[0] != want {
			t.Errorf("%s: %v", sub, got)
		}
	}
}

// The shapes of a base with common labels and an overlay with a prefix, path patches and a generated ConfigMap.
func overlay() fstest.MapFS {
	return repo(map[string]string{
		"base/kustomization.yaml": "apiVersion: kustomize.config.k8s.io/v1beta1\nkind: Kustomization\nresources: [deployment.yaml, service.yaml]\ncommonLabels: {app: api-server}\n",
		"base/deployment.yaml":    deployment,
		"base/service.yaml":       "apiVersion: v1\nkind: Service\nmetadata: {name: api-server}\nspec: {ports: [{port: 80}]}\n---\n" + strings.Replace(configMap("other"), "{name", "{creationTimestamp: null, name", 1),
		"overlays/production/kustomization.yaml": `apiVersion: kustomize.config.k8s.io/v1beta1
kind: Kustomization
resources: [../../base]
namePrefix: prod-
patches: [{path: patches/replicas.yaml}, {path: patches/resources.yaml}, {path: patches/image.yaml}]
configMapGenerator:
  - name: api-config
    literals: [LOG_LEVEL=warn, ENVIRONMENT=production]
`,
		"overlays/production/patches/replicas.yaml":  "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: api-server}\nspec: {replicas: 5}\n",
		"overlays/production/patches/resources.yaml": "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: api-server}\nspec: {template: {spec: {containers: [{name: api, resources: {limits: {cpu: 1}}}]}}}\n",
		"overlays/production/patches/image.yaml":     "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: api-server}\nspec: {template: {spec: {containers: [{name: api, image: \"example.com/api:2.0\"}]}}}\n",
	})
}

func TestOverlay(t *testing.T) {
	set := mustBuild(t, overlay(), Options{Dir: "./overlays/production"}, nil)
	d := find(t, set, "Deployment")
	if d.Ref().String() != "Deployment/prod-api-server (base/deployment.yaml:1)" {
		t.Errorf("got %s", d.Ref())
	}
	if d.Peek("spec", "replicas") != int64(5) {
		t.Errorf("replicas %v", d.Peek("spec", "replicas"))
	}
	if got := fmt.Sprint(d.Peek("spec", "selector", "matchLabels")); got != "map[app:api-server tier:api]" {
		t.Errorf("selector %s", got)
	}
	generated := ""
	for _, o := range set {
		if o.Kind() == "ConfigMap" && strings.HasPrefix(o.Name(), "prod-api-config-") {
			generated = o.Name()
			if o.Source.File != "overlays/production/kustomization.yaml" {
				t.Errorf("generated in %s", o.Source.File)
			}
		}
		if o.Kind() == "ConfigMap" && o.Name() == "prod-other" {
			if o.Source.Line != 6 || o.Peek("metadata", "annotations") != nil {
				t.Errorf("line %d, annotations %v", o.Source.Line, o.Peek("metadata", "annotations"))
			}
			if _, present := o.Peek("metadata").(map[string]any)["creationTimestamp"]; present {
				t.Error("creationTimestamp: null is still there")
			}
		}
	}
	if generated == "" || !strings.Contains(fmt.Sprint(d.Body()), generated) {
		t.Errorf("the reference does not follow %q", generated)
	}
}

func TestOptionsAreMergedAsFluxDoes(t *testing.T) {
	o := Options{
		Dir: "overlays/production", TargetNamespace: "prod", NameSuffix: "-v2",
		Patches: []Patch{
			{Patch: "apiVersion: apps/v1\nkind: Deployment\nmetadata:\n  name: api-server\nspec:\n  replicas: 7\n", Target: &Target{Kind: "Deployment", Name: "api-server"}},
			{Patch: "- op: add\n  path: /metadata/annotations\n  value: {a: b}\n", Target: &Target{Kind: "Service"}},
		},
		Images:        []Image{{Name: "example.com/api", NewTag: "3.0"}},
		Labels:        map[string]string{"l": "v"},
		BuildMetadata: []string{"originAnnotations"},
	}
	set := mustBuild(t, overlay(), o, nil)
	d := find(t, set, "Deployment")
	if d.Name() != "prod-api-server-v2" || d.Namespace() != "prod" || d.Peek("spec", "replicas") != int64(7) || d.Labels()["l"] != "v" {
		t.Errorf("got %v", d.Body())
	}
	if !strings.Contains(fmt.Sprint(d.Body()), "example.com/api:3.0") || d.Annotations()[originAnnotation] == "" {
		t.Errorf("got %v", d.Body())
	}
	if find(t, set, "Service").Annotations()["a"] != "b" {
		t.Error("the JSON 6902 patch is missing")
	}
}

func TestOptionsOnAPlainFolder(t *testing.T) {
	files := repo(map[string]string{
		"app/d.yaml": deployment, "app/sub/c.yaml": configMap("c"), "app/x.json": "{}", "app/unit/kustomization.yaml": "resources: [e.yaml]", "app/unit/e.yaml": configMap("e"),
		"app/comp/kustomization.yaml": "kind: Component\nnamePrefix: c-\n",
	})
	o := Options{Dir: "app", NamePrefix: "p-", Patches: []Patch{{Patch: `[{"op":"replace","path":"/spec/replicas","value":5}]`, Target: &Target{Kind: "Deployment"}}}}
	delete(files, "app/comp/kustomization.yaml")
	set := mustBuild(t, files, o, nil)
	want := []string{"Deployment/p-api-server (app/d.yaml:1)", "ConfigMap/p-c (app/sub/c.yaml:1)", "ConfigMap/p-e (app/unit/e.yaml:1)"}
	if d := cmp.Diff(want, refs(set)); d != "" {
		t.Error(d)
	}
	if set[0].Peek("spec", "replicas") != int64(5) {
		t.Error("the patch was not applied")
	}
}

func TestComponents(t *testing.T) {
	files := repo(map[string]string{
		"app/kustomization.yaml":  "resources: [a.yaml]\n",
		"app/a.yaml":              configMap("a"),
		"comp/kustomization.yaml": "apiVersion: kustomize.config.k8s.io/v1alpha1\nkind: Component\nnamePrefix: c-\n",
	})
	o := Options{Dir: "app", Components: []string{"../comp", "../missing"}, IgnoreMissingComponents: true}
	if got := mustBuild(t, files, o, nil); got[0].Name() != "c-a" {
		t.Errorf("got %v", refs(got))
	}
	o.IgnoreMissingComponents = false
	if _, _, err := build(files, o, nil); fault.KindOf(err) != fault.Invalid || !strings.Contains(err.Error(), "../missing") {
		t.Errorf("got %v", err)
	}
}

func TestBadInputIsNamed(t *testing.T) {
	nested := "a: " + strings.Repeat("[", 400) + strings.Repeat("]", 400) + "\n"
	bomb := "a: &a [x,x,x,x,x,x,x,x,x,x]\nb: &b [*a,*a,*a,*a,*a,*a,*a,*a,*a,*a]\nc: &c [*b,*b,*b,*b,*b,*b,*b,*b,*b,*b]\nd: &d [*c,*c,*c,*c,*c,*c,*c,*c,*c,*c]\ne: &e [*d,*d,*d,*d,*d,*d,*d,*d,*d,*d]\nf: &f [*e,*e,*e,*e,*e,*e,*e,*e,*e,*e]\n"
	k := func(resource string) map[string]string {
		return map[string]string{"kustomization.yaml": "resources: [a.yaml]\n", "a.yaml": resource}
	}
	for _, c := range []struct {
		name  string
		files map[string]string
		opts  Options
		kind  fault.Kind
		want  string
	}{
		{"no such path", map[string]string{"a.yaml": configMap("a")}, Options{Dir: "./missing"}, fault.NotFound, `path "missing" does not exist`},
		{"a file as path", map[string]string{"a.yaml": configMap("a")}, Options{Dir: "a.yaml"}, fault.Invalid, "is not a directory"},
		{"path leaves", map[string]string{"a.yaml": configMap("a")}, Options{Dir: "../x"}, fault.Denied, "leaves the repository"},
		{"empty", map[string]string{"x/readme.md": "x"}, Options{Dir: "x"}, fault.Invalid, `no manifests found under "x"`},
		{"empty kustomization", map[string]string{"kustomization.yaml": "resources: []\n"}, Options{}, fault.Invalid, "no manifests found"},
		{"no kind", map[string]string{"a.yaml": configMap("a") + "---\napiVersion: v1\nmetadata: {name: b}\n"}, Options{}, fault.Invalid, "(a.yaml:5): kind: missing"},
		{"no kind, kustomize", k(configMap("a") + "---\napiVersion: v1\nmetadata: {name: b}\n"), Options{}, fault.Invalid, "(a.yaml:5): kind: missing"},
		{"no name", k("apiVersion: v1\nkind: ConfigMap\n"), Options{}, fault.Invalid, "metadata.name"},
		{"syntax", map[string]string{"a.yaml": "a: [canary"}, Options{}, fault.Invalid, "a.yaml"},
		{"syntax, kustomize", k("a: [canary"), Options{}, fault.Invalid, "a.yaml"},
		{"bomb", map[string]string{"a.yaml": bomb}, Options{}, fault.Invalid, "aliases"},
		{"bomb, kustomize", k(bomb), Options{}, fault.Invalid, "aliases"},
		{"bomb in a patch", map[string]string{"kustomization.yaml": "resources: [a.yaml]\npatches: [{path: p.yaml}]\nconfigMapGenerator: [{name: x, files: [p.yaml]}]\n", "a.yaml": configMap("a"), "p.yaml": bomb}, Options{}, fault.Invalid, "p.yaml"},
		{"bomb in spec.patches", k(configMap("a")), Options{Patches: []Patch{{Patch: bomb}}}, fault.Invalid, "aliases"},
		{"bomb in the kustomization", map[string]string{"kustomization.yaml": bomb}, Options{}, fault.Invalid, "kustomization.yaml"},
		{"cycle of aliases", map[string]string{"kustomization.yaml": "resources: [a.yaml]\npatches: [{path: p.yaml}]\n", "a.yaml": configMap("a"), "p.yaml": "a: &a {b: *a}\n"}, Options{}, fault.Invalid, "p.yaml"},
		{"deep", map[string]string{"a.yaml": nested}, Options{}, fault.Invalid, "nested deeper"},
		{"two kustomizations", map[string]string{"kustomization.yaml": "resources: []\n", "Kustomization": "resources: []\n"}, Options{}, fault.Invalid, "two kustomization files"},
		{"two below", map[string]string{"kustomization.yaml": "resources: [x]\n", "x/kustomization.yaml": "resources: []\n", "x/Kustomization": "resources: []\n"}, Options{}, fault.Invalid, "two kustomization files"},
		{"missing resource", map[string]string{"kustomization.yaml": "resources: [gone.yaml]\n"}, Options{}, fault.Invalid, `resources: "gone.yaml" does not exist`},
		{"missing patch", map[string]string{"kustomization.yaml": "patches: [{path: gone.yaml}]\n"}, Options{}, fault.Invalid, `patches: "gone.yaml" does not exist`},
		{"missing below", map[string]string{"kustomization.yaml": "resources: [x]\n", "x/kustomization.yaml": "resources: [gone.yaml]\n"}, Options{}, fault.Invalid, `x/kustomization.yaml: resources: "gone.yaml"`},
		{"unknown field", map[string]string{"kustomization.yaml": "resource: [x]\n"}, Options{}, fault.Invalid, "resource"},
		{"folder without one", map[string]string{"kustomization.yaml": "resources: [x]\n", "x/a.yaml": configMap("a")}, Options{}, fault.Invalid, "no kustomization file"},
		{"cycle", map[string]string{"kustomization.yaml": "resources: [x]\n", "x/kustomization.yaml": "resources: [../x]\n"}, Options{}, fault.Invalid, "cycle"},
		{"twice", map[string]string{"kustomization.yaml": "resources: [a.yaml, b.yaml]\n", "a.yaml": configMap("a"), "b.yaml": configMap("a")}, Options{}, fault.Invalid, "already registered"},
		{"encrypted", map[string]string{"a.yaml": "apiVersion: v1\nkind: Secret\nmetadata: {name: a}\nstringData: {k: ENC}\nsops: {mac: x}\n"}, Options{}, fault.Invalid, "is SOPS encrypted; set spec.decryption"},
		{"encrypted, kustomize", k("apiVersion: v1\nkind: Secret\nmetadata: {name: a}\nstringData: {k: ENC}\nsops: {mac: x}\n"), Options{}, fault.Invalid, "is SOPS encrypted; set spec.decryption"},
		{"encrypted file, yaml", map[string]string{"kustomization.yaml": "secretGenerator: [{name: x, files: [k=f]}]\n", "f": "a: b\nsops:\n    mac: ENC[AES256_GCM,data:x]\n"}, Options{}, fault.Invalid, "is SOPS encrypted; set spec.decryption"},
		{"encrypted file, json", map[string]string{"kustomization.yaml": "secretGenerator: [{name: x, files: [f]}]\n", "f": `{"data":"x","sops":{"mac":"ENC[AES256_GCM,data:x]"}}`}, Options{}, fault.Invalid, "is SOPS encrypted; set spec.decryption"},
		{"encrypted file, env", map[string]string{"kustomization.yaml": "secretGenerator: [{name: x, envs: [f]}]\n", "f": "A=b\nsops_mac=ENC[AES256_GCM,data:x]\n"}, Options{}, fault.Invalid, "is SOPS encrypted; set spec.decryption"},
		{"encrypted file, ini", map[string]string{"kustomization.yaml": "secretGenerator: [{name: x, files: [f]}]\n", "f": "[sops]\nmac = ENC[AES256_GCM,data:x]\n"}, Options{}, fault.Invalid, "is SOPS encrypted; set spec.decryption"},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, _, err := build(repo(c.files), c.opts, newTokens())
			if fault.KindOf(err) != c.kind || !strings.Contains(fmt.Sprint(err), c.want) {
				t.Errorf("got %v", err)
			}
			for _, f := range fault.All(err) {
				if f.Remedy == "" || f.Stage != fault.StageRender {
					t.Errorf("no remedy or another stage: %#v", f)
				}
			}
			if strings.Contains(fmt.Sprint(err), "canary") || strings.Contains(fmt.Sprint(err), mount) {
				t.Errorf("shows too much: %v", err)
			}
		})
	}
}

func TestTokensThroughAGenerator(t *testing.T) {
	names := map[string]bool{}
	for range 2 {
		tokens := newTokens()
		token := tokens.Issue(plaintext.FromString("canary-generated"))
		files := repo(map[string]string{
			"kustomization.yaml": "secretGenerator: [{name: s, files: [k=f], envs: [e.env]}]\nresources: [d.yaml]\n",
			"f":                  token, "e.env": "E=" + token + "\n",
			"d.yaml": strings.ReplaceAll(deployment, "configMapRef: {name: api-config}", "secretRef: {name: s}"),
		})
		set, digest, err := build(files, Options{}, tokens)
		if err != nil {
			t.Fatal(err)
		}
		s := find(t, set, "Secret")
		names[s.Name()+digest] = true
		data := s.SecretData()
		if !data["k"].Equal(plaintext.FromString("canary-generated")) || !data["E"].Equal(data["k"]) || s.Origin != manifest.SOPS {
			t.Errorf("values are not restored: %s", s.Origin)
		}
		if !strings.Contains(fmt.Sprint(find(t, set, "Deployment").Body()), s.Name()) {
			t.Error("the reference does not follow the name")
		}
	}
	if len(names) != 1 {
		t.Errorf("names or digests differ between runs: %v", names)
	}
}

func TestDigest(t *testing.T) {
	secret := func(v string) fstest.MapFS {
		return repo(map[string]string{"s.yaml": "apiVersion: v1\nkind: Secret\nmetadata: {name: s}\nstringData: {k: " + v + "}\n"})
	}
	digest := func(files fs.FS, key string) string {
		_, d, err := build(files, Options{}, plaintext.NewTokens(plaintext.NewKey([]byte(key))))
		if err != nil {
			t.Fatal(err)
		}
		return d
	}
	if first, second := digest(secret("a"), "k"), digest(secret("a"), "k"); first != second {
		t.Error("not stable")
	}
	if digest(secret("a"), "k") == digest(secret("b"), "k") {
		t.Error("a change of a plain Secret goes unseen")
	}
	if digest(secret("a"), "k") == digest(secret("a"), "other") {
		t.Error("guesses of a plain Secret can be tested against the digest")
	}
}

func TestBuildsRunSideBySide(t *testing.T) {
	for i := range 8 {
		t.Run(fmt.Sprint(i), func(t *testing.T) {
			t.Parallel()
			mustBuild(t, overlay(), Options{Dir: "overlays/production", TargetNamespace: fmt.Sprintf("ns%d", i)}, nil)
		})
	}
}

func TestStoppedBuild(t *testing.T) {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	for _, dir := range []string{"base", "overlays/production"} {
		if _, _, err := New(Options{Dir: dir}).Render(ctx, overlay(), nil); fault.KindOf(err) != fault.Transient {
			t.Errorf("got %v", err)
		}
	}
}

func BenchmarkPlain500(b *testing.B) {
	files := fstest.MapFS{}
	for i := range 500 {
		files[fmt.Sprintf("d%03d.yaml", i)] = &fstest.MapFile{Data: []byte(strings.Replace(deployment, "api-server", fmt.Sprintf("api-%d", i), 1))}
	}
	b.ReportAllocs()
	for b.Loop() {
		if set := mustBuild(b, files, Options{}, nil); len(set) != 500 {
			b.Fatal(len(set))
		}
	}
}

func BenchmarkKustomize(b *testing.B) {
	files := overlay()
	b.ReportAllocs()
	for b.Loop() {
		mustBuild(b, files, Options{Dir: "overlays/production"}, nil)
	}
}

// BenchmarkKustomizeSmall10 is a folder as most are: ten small objects, a label for all.
func BenchmarkKustomizeSmall10(b *testing.B) {
	files := fstest.MapFS{}
	text := "labels: [{pairs: {team: fleet}}]\nresources:\n"
	for i := range 10 {
		name := fmt.Sprintf("obj-%d", i)
		files["app/"+name+".yaml"] = &fstest.MapFile{Data: []byte(configMap(name))}
		text += "- " + name + ".yaml\n"
	}
	files["app/kustomization.yaml"] = &fstest.MapFile{Data: []byte(text)}
	b.ReportAllocs()
	for b.Loop() {
		mustBuild(b, files, Options{Dir: "app"}, nil)
	}
}
