package pipeline

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"slices"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/google/go-cmp/cmp"

	"sealock.dev/sealock/fault"
	"sealock.dev/sealock/manifest"
	"sealock.dev/sealock/plaintext"
	"sealock.dev/sealock/tenants"
)

const canary = "hunter2-canary-value"

// stages stands in for all stages: what is tested here is the line itself, its order and what stops it. The real
// stages run in cmd/sealock and in e2e.
type stages struct {
	log     []string
	fail    map[string]error
	once    map[string]error // as fail, the first time only
	panics  string
	set     []manifest.Object
	plan    manifest.Plan
	needs   []int
	keep    bool
	waits   bool // opening needs what a first wave applies
	unread  []manifest.Unready
	targets func(applied []manifest.ID) []manifest.ID // nil: for all
	pruned  []manifest.ID
	opens   func(o manifest.Object) manifest.Object // what is encrypted in a Secret
	judges  func(set []manifest.Object)
}

func (s *stages) at(name string) error {
	s.log = append(s.log, name)
	if s.panics == name {
		panic("boom " + canary)
	}
	if err := s.once[name]; err != nil {
		delete(s.once, name)
		return err
	}
	return s.fail[name]
}

func (s *stages) Tree(context.Context) (fs.FS, string, error) {
	return fstest.MapFS{}, "main@sha1:1", s.at("source")
}

func (s *stages) OpenFiles(_ context.Context, f fs.FS, tokens *plaintext.Tokens) (fs.FS, error) {
	tokens.Issue(plaintext.FromString(canary))
	return f, s.at("decrypt")
}

func (s *stages) OpenSecrets(_ context.Context, set []manifest.Object) ([]manifest.Object, error) {
	out := slices.Clone(set)
	for i := range out {
		if s.opens != nil {
			out[i] = s.opens(out[i])
		}
	}
	return out, s.at("decrypt secrets")
}

func (s *stages) Render(context.Context, fs.FS, *plaintext.Tokens) ([]manifest.Object, string, error) {
	return s.set, "sha256:x", s.at("render")
}
func (s *stages) Opens(o manifest.Object) bool { return o.Kind() == "SealedSecret" }
func (s *stages) Prerequisites(manifest.Object, []manifest.Object) []int {
	return s.needs
}

func (s *stages) Open(_ context.Context, _ tenants.Grant, o manifest.Object, _ []manifest.Object) (manifest.Produced, error) {
	data := map[string]plaintext.Value{"p": plaintext.FromString(canary)}
	err := s.at("open " + o.Name())
	if s.waits && !slices.Contains(s.log, "apply 1") {
		err = fault.New(fault.StageOpen, fault.NotFound, o.Ref(), "no service account")
	}
	return manifest.Produced{Owner: o.Ref(), Keep: s.keep, Secret: manifest.NewSecret(o.Namespace(), o.Name(), "", data, manifest.Sealed, o.Source)}, err
}

func (s *stages) Judge(_ context.Context, _ tenants.Grant, set []manifest.Object, _ string) ([]fault.Violation, error) {
	err := s.at(fmt.Sprintf("judge %d", len(set)))
	if s.judges != nil {
		s.judges(set)
	}
	var violation *fault.Error
	deny := errors.Join(s.fail["deny"], s.once["deny"])
	delete(s.once, "deny")
	if errors.As(deny, &violation) {
		return []fault.Violation{{Policy: "p", Ref: violation.Ref, Message: "because " + canary}}, nil
	}
	return []fault.Violation{{Policy: "w", Message: "careful", Warn: true}}, err
}

func (s *stages) Resolve(_ context.Context, _ tenants.Grant, set []manifest.Object) ([]manifest.Object, error) {
	return set, s.at("resolve")
}

func (s *stages) Plan(_ context.Context, _ tenants.Grant, owner manifest.Owner, set []manifest.Object, old []manifest.ID) (manifest.Plan, error) {
	plan := s.plan
	plan.Owner = owner
	for _, o := range set {
		plan.Steps = append(plan.Steps, manifest.Step{Object: o, Action: manifest.Created})
		plan.Union = append(plan.Union, o.ID())
	}
	plan.Union = append(plan.Union, old...)
	return plan, s.at(fmt.Sprintf("plan %d", len(set)))
}

func (s *stages) Apply(ctx context.Context, _ tenants.Grant, plan manifest.Plan, after func(context.Context, int) error) ([]manifest.Change, error) {
	failed := s.at(fmt.Sprintf("apply %d", len(plan.Steps)))
	if failed != nil && !plan.Owner.Partial {
		return nil, failed
	}
	for stage := range 4 {
		if err := after(ctx, stage); err != nil {
			return nil, err
		}
	}
	return []manifest.Change{{Action: manifest.Created}}, failed
}

func (s *stages) WriteSecret(_ context.Context, p manifest.Produced, dryRun bool) (manifest.Change, error) {
	name := "write " + p.Secret.Name()
	if dryRun {
		name = "dry " + p.Secret.Name()
	}
	return manifest.Change{Action: manifest.Created}, s.at(name)
}

func (s *stages) Prune(_ context.Context, _ tenants.Grant, plan manifest.Plan) ([]manifest.Change, []manifest.ID, error) {
	s.pruned = plan.Prune
	return nil, plan.Prune, s.at("prune")
}

func (s *stages) Settled(context.Context, tenants.Grant, manifest.Owner, []manifest.ID) (bool, error) {
	return false, nil
}

func (s *stages) Unready(context.Context, tenants.Grant, manifest.Owner, []manifest.ID) ([]manifest.Unready, error) {
	return s.unread, s.at("health")
}

func object(t *testing.T, kind, name string) manifest.Object {
	t.Helper()
	o, err := manifest.New(map[string]any{"apiVersion": "example.com/v1", "kind": kind, "metadata": map[string]any{"name": name, "namespace": "n"}}, manifest.Source{File: name + ".yaml", Line: 1}, nil)
	if err != nil {
		t.Fatal(err)
	}
	return o
}

func runWith(t *testing.T, s *stages, tenant bool) Result {
	t.Helper()
	if tenant {
		return runAs(t, s, tenants.Grant{Tenant: "a"})
	}
	return runAs(t, s, tenants.Grant{Platform: true})
}

func runAs(t *testing.T, s *stages, grant tenants.Grant) Result {
	t.Helper()
	e := &Engine{Openers: []Opener{s}, Judge: s, Cluster: s, Key: plaintext.NewKey([]byte("k"))}
	req := Request{
		Grant: grant, Source: s, Decrypter: s, Renderer: s, Prune: true,
		Owner:     manifest.Owner{Ref: fault.Ref{Kind: "Kustomization", Name: "k"}},
		Inventory: []manifest.ID{{Kind: "Old", Name: "o"}},
		Health:    func(a []manifest.ID) []manifest.ID { return a },
		Record:    func(_ context.Context, ids []manifest.ID) error { return s.at(fmt.Sprintf("record %d", len(ids))) },
	}
	if s.targets != nil {
		req.Health = s.targets
	}
	return e.Run(context.Background(), req)
}

func set(t *testing.T) []manifest.Object {
	return []manifest.Object{object(t, "Deployment", "app"), object(t, "SealedSecret", "one"), object(t, "SealedSecret", "two")}
}

func TestOneCommitThroughTheHouse(t *testing.T) {
	s := &stages{set: set(t), plan: manifest.Plan{Prune: []manifest.ID{{Kind: "Old", Name: "o"}}}}
	res := runWith(t, s, true)
	want := []string{
		"source", "decrypt", "render", "resolve", "decrypt secrets", "open one", "open two", "judge 5", "plan 3", "dry one", "dry two",
		"record 4", "apply 3", "write one", "write two", "prune", "health",
	}
	if diff := cmp.Diff(want, s.log); diff != "" {
		t.Error(diff)
	}
	if res.Err != nil || len(res.Inventory) != 4 || res.Untouched || len(res.Warnings) != 1 || res.Revision == "" || len(res.Secrets) != 2 {
		t.Errorf("%+v", res)
	}
}

func TestUpToThePlanNothingIsWritten(t *testing.T) {
	for _, stage := range []string{"source", "decrypt", "render", "resolve", "decrypt secrets", "open one", "open two", "judge 5", "deny", "plan 3", "dry one", "record 4"} {
		t.Run(stage, func(t *testing.T) {
			s := &stages{set: set(t), fail: map[string]error{stage: &fault.Error{Kind: fault.Denied, Ref: fault.Ref{Kind: "X"}, Err: errors.New("because " + canary)}}}
			res := runWith(t, s, true)
			known := stage != "source" // before anything is decrypted there is no value to remove
			if res.Err == nil || known && strings.Contains(res.Err.Error(), canary) || fault.StageOf(res.Err) == "" {
				t.Errorf("error: %v", res.Err)
			}
			for _, step := range s.log {
				if strings.HasPrefix(step, "apply") || strings.HasPrefix(step, "write") || step == "prune" {
					t.Errorf("%s happened after %s failed", step, stage)
				}
			}
			if !res.Untouched && stage != "record 4" {
				t.Error("the inventory of the last run must still hold")
			}
		})
	}
}

func TestAllThatCannotBeOpenedIsReported(t *testing.T) {
	s := &stages{set: set(t), fail: map[string]error{
		"open one": fault.New(fault.StageOpen, fault.NoKey, fault.Ref{Name: "one"}, "no key"),
		"open two": fault.New(fault.StageOpen, fault.Transient, fault.Ref{Name: "two"}, "away"),
	}}
	res := runWith(t, s, false)
	if len(fault.All(res.Err)) != 2 {
		t.Errorf("%v", res.Err)
	}
}

func TestAFailedApplyKeepsEverythingInTheInventory(t *testing.T) {
	for _, stage := range []string{"apply 3", "write one"} {
		s := &stages{set: set(t), plan: manifest.Plan{Prune: []manifest.ID{{Kind: "Old", Name: "o"}}}, fail: map[string]error{stage: fault.New("", fault.Transient, fault.Ref{}, "x")}}
		res := runWith(t, s, false)
		if res.Err == nil || len(res.Inventory) != 4 || res.Untouched {
			t.Errorf("%s: %+v", stage, res)
		}
		for _, step := range s.log {
			if step == "prune" {
				t.Errorf("pruned after %s failed", stage)
			}
		}
	}
}

func TestAPanicIsAnErrorWithoutItsValue(t *testing.T) {
	for _, stage := range []string{"source", "decrypt", "render", "decrypt secrets", "open one", "judge 5", "plan 3", "apply 3", "prune", "health"} {
		s := &stages{set: set(t), panics: stage, plan: manifest.Plan{Prune: []manifest.ID{{Kind: "Old", Name: "o"}}}}
		res := runWith(t, s, false)
		if res.Err == nil || strings.Contains(res.Err.Error(), canary) || fault.KindOf(res.Err) != fault.Internal {
			t.Errorf("%s: %v", stage, res.Err)
		}
	}
}

func TestPrerequisitesFormAJudgedFirstWave(t *testing.T) {
	s := &stages{set: set(t), needs: []int{0}, waits: true}
	if res := runWith(t, s, false); res.Err != nil {
		t.Fatal(res.Err)
	}
	want := []string{"source", "decrypt", "render", "resolve", "decrypt secrets", "open one", "open two", "judge 3", "plan 1", "record 2", "apply 1", "open one", "open two", "judge 5", "plan 3", "dry one", "dry two", "record 4", "apply 3", "write one", "write two", "health"}
	if diff := cmp.Diff(want, s.log); diff != "" {
		t.Error(diff)
	}
	s = &stages{set: set(t), needs: []int{0}}
	if res := runWith(t, s, false); res.Err != nil || slices.Contains(s.log, "apply 1") {
		t.Errorf("a wave although everything could be opened: %v %v", res.Err, s.log)
	}
	s = &stages{set: set(t), needs: []int{0}, fail: map[string]error{"open two": fault.New(fault.StageOpen, fault.NoKey, fault.Ref{}, "no key")}, waits: true}
	s.fail["open one"] = s.fail["open two"]
	s.waits = false
	if res := runWith(t, s, false); res.Err == nil || slices.Contains(s.log, "apply 1") {
		t.Errorf("a wave although something can never be opened: %v", s.log)
	}
	s = &stages{set: set(t), needs: []int{0}, waits: true, fail: map[string]error{"deny": fault.New(fault.StageJudge, fault.Denied, fault.Ref{Kind: "X"}, "no")}}
	if res := runWith(t, s, false); res.Err == nil || strings.Contains(strings.Join(s.log, " "), "apply") {
		t.Errorf("the wave was applied though the set was denied: %v", s.log)
	}
}

// TestHazard_T41_DecryptedValuesOutsideSecrets: only the platform may. A namespace that is nobody's is fenced as one of a
// tenant's: who may make Kustomizations there would read its Secrets by way of a ConfigMap.
func TestHazard_T41_DecryptedValuesOutsideSecrets(t *testing.T) {
	tokens := plaintext.NewTokens(plaintext.NewKey([]byte("k")))
	token := map[string]any{"p": tokens.Issue(plaintext.FromString(canary))}
	for _, body := range []map[string]any{
		{"apiVersion": "v1", "kind": "ConfigMap", "metadata": map[string]any{"name": "c", "namespace": "n"}, "data": maps.Clone(token)},
		{"apiVersion": "v1", "kind": "Secret", "metadata": map[string]any{"name": "c", "namespace": "n", "annotations": maps.Clone(token)}},
	} {
		o, err := manifest.New(body, manifest.Source{}, tokens)
		if err != nil {
			t.Fatal(err)
		}
		for name, c := range map[string]struct {
			grant  tenants.Grant
			denied bool
		}{
			"a tenant's":     {tenants.Grant{Tenant: "a", Namespace: "n"}, true},
			"nobody's":       {tenants.Grant{Namespace: "n", User: tenants.ServiceAccountUser("n", "x")}, true},
			"the platform's": {tenants.Grant{Platform: true, Namespace: "n"}, false},
		} {
			res := runAs(t, &stages{set: []manifest.Object{o}}, c.grant)
			if (fault.KindOf(res.Err) == fault.Denied) != c.denied || (res.Err != nil) != c.denied {
				t.Errorf("%s %s: %v", name, o.Kind(), res.Err)
			}
		}
	}
}

// TestWhatASecretHoldsIsOpenedBeforeItIsJudged: the cluster gets the value, later errors do not show it, and without
// something that decrypts nobody looks.
func TestWhatASecretHoldsIsOpenedBeforeItIsJudged(t *testing.T) {
	o, err := manifest.New(map[string]any{"apiVersion": "v1", "kind": "Secret", "metadata": map[string]any{"name": "s", "namespace": "n"}, "data": map[string]any{"k": "eA=="}}, manifest.Source{}, nil)
	if err != nil {
		t.Fatal(err)
	}
	const value = "another-canary-value"
	s := &stages{set: []manifest.Object{o}, fail: map[string]error{"apply 1": fault.New("", fault.Transient, fault.Ref{}, "because %s", value)}, opens: func(o manifest.Object) manifest.Object {
		return o.OpenData(func(string, plaintext.Value) (plaintext.Value, bool) { return plaintext.FromString(value), true })
	}}
	s.judges = func(set []manifest.Object) {
		if set[0].Origin != manifest.SOPS || !set[0].SecretData()["k"].Equal(plaintext.FromString(value)) {
			t.Errorf("judged is what came from Git: %s", set[0].Origin)
		}
	}
	if res := runWith(t, s, true); res.Err == nil || strings.Contains(res.Err.Error(), value) {
		t.Errorf("%v", res.Err)
	}
	s = &stages{set: []manifest.Object{o}}
	e := &Engine{Judge: s, Cluster: s, Key: plaintext.NewKey([]byte("k"))}
	if res := e.Run(t.Context(), Request{Source: s, Renderer: s}); res.Err != nil || slices.Contains(s.log, "decrypt secrets") {
		t.Errorf("%v %v", res.Err, s.log)
	}
}

func TestOneObjectTwiceIsRefused(t *testing.T) {
	s := &stages{set: []manifest.Object{object(t, "X", "a"), object(t, "X", "a")}}
	if res := runWith(t, s, false); res.Err == nil || fault.KindOf(res.Err) != fault.Invalid || !strings.Contains(res.Err.Error(), "a.yaml:1") {
		t.Errorf("%v", res.Err)
	}
}

// One object at two versions of its kind would be applied twice in each run.
func TestOneObjectAtTwoVersionsIsRefused(t *testing.T) {
	other, err := manifest.New(map[string]any{"apiVersion": "example.com/v1beta1", "kind": "X", "metadata": map[string]any{"name": "a", "namespace": "n"}}, manifest.Source{File: "b.yaml", Line: 3}, nil)
	if err != nil {
		t.Fatal(err)
	}
	s := &stages{set: []manifest.Object{object(t, "X", "a"), other}}
	res := runWith(t, s, false)
	if fault.KindOf(res.Err) != fault.Invalid || !strings.Contains(fmt.Sprint(res.Err), "(b.yaml:3): the object also stands in a.yaml:1") {
		t.Errorf("%v", res.Err)
	}
}

// The cluster follows objects of others until it is asked about other ones: it must hear that there are none any more.
func TestNothingToWaitForIsToldToTheCluster(t *testing.T) {
	s := &stages{set: set(t), targets: func([]manifest.ID) []manifest.ID { return nil }}
	if res := runWith(t, s, false); res.Err != nil || s.log[len(s.log)-1] != "health" {
		t.Errorf("%v %v", res.Err, s.log)
	}
}

func TestAKeptSecretIsNotWritten(t *testing.T) {
	s := &stages{set: set(t), keep: true}
	if res := runWith(t, s, false); res.Err != nil || strings.Contains(strings.Join(s.log, " "), "write") || strings.Contains(strings.Join(s.log, " "), "dry") {
		t.Errorf("%v %v", res.Err, s.log)
	}
}
