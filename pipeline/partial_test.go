package pipeline

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"

	"sealock.dev/sealock/fault"
	"sealock.dev/sealock/manifest"
	"sealock.dev/sealock/plaintext"
)

func partial(t *testing.T, s *stages, old ...manifest.ID) Result {
	t.Helper()
	e := &Engine{Openers: []Opener{s}, Judge: s, Cluster: s, Key: plaintext.NewKey([]byte("k"))}
	return e.Run(context.Background(), Request{
		Source: s, Decrypter: s, Renderer: s, Prune: true, Inventory: old,
		Owner: manifest.Owner{Ref: fault.Ref{Kind: "Kustomization", Name: "k"}, Partial: true},
	})
}

func names(ids []manifest.ID) string {
	var out []string
	for _, id := range ids {
		out = append(out, id.Name)
	}
	slices.Sort(out)
	return strings.Join(out, " ")
}

// TestPartial: one object that fails, at any stage, is neither written nor pruned, stays in the inventory if it was
// there, and the rest goes on; its Secret is not written either.
func TestPartial(t *testing.T) {
	for stage, c := range map[string]struct {
		kind  fault.Kind
		wrote bool // the object was on its way: it stays in the inventory also when it was not there before
	}{
		"decrypt secrets": {fault.NoKey, false}, "open one": {fault.NoKey, false}, "resolve": {fault.Denied, false}, "plan 3": {fault.Invalid, false}, "dry one": {fault.Denied, false}, "apply 3": {fault.Denied, true},
	} {
		for _, was := range []bool{true, false} {
			objects := set(t)
			s := &stages{set: objects, once: map[string]error{stage: fault.New("", c.kind, objects[1].Ref(), "it fails")}}
			old := []manifest.ID{{Kind: "Old", Name: "gone", Namespace: "n"}}
			s.plan.Prune = old[:1:1]
			if was {
				old = append(old, objects[1].ID())
				if !c.wrote { // as a plan without the object says
					s.plan.Prune = append(s.plan.Prune, objects[1].ID())
				}
			}
			res := partial(t, s, old...)
			if !res.Partial || len(fault.All(res.Err)) != 1 || fault.KindOf(res.Err) != c.kind {
				t.Errorf("%s: %v %v", stage, res.Partial, res.Err)
			}
			want, pruned := "app gone two", "gone"
			if was || c.wrote {
				want = "app gone one two"
			}
			if stage == "resolve" { // nobody knows what the object is called in the inventory
				pruned = ""
			}
			if names(s.pruned) != pruned {
				t.Errorf("%s: pruned %v", stage, s.pruned)
			}
			if got := names(res.Inventory); got != want {
				t.Errorf("%s, there before %v: inventory %q, want %q", stage, was, got, want)
			}
			if !c.wrote && slices.Contains(s.log, "write one") || !slices.Contains(s.log, "write two") {
				t.Errorf("%s: %v", stage, s.log)
			}
		}
	}
}

// TestPartialStopsForWhatConcernsAll: an error about no object of the set, or one that nobody classified.
func TestPartialStopsForWhatConcernsAll(t *testing.T) {
	for name, err := range map[string]error{
		"set":          fault.New("", fault.Transient, fault.Ref{}, "the API server is away"),
		"owner":        fault.New("", fault.Denied, fault.Ref{Kind: "Kustomization", Name: "k"}, "no identity"),
		"unclassified": errors.New("x"),
		"both":         errors.Join(fault.New("", fault.Invalid, set(t)[1].Ref(), "it fails"), errors.New("x")),
	} {
		for _, stage := range []string{"render", "resolve", "decrypt secrets", "open one", "judge 5", "plan 3", "dry one"} {
			if name == "both" && stage == "open one" || stage == "dry one" && name != "unclassified" || stage == "open one" && name == "set" {
				continue // such an error is about the object that is opened
			}
			s := &stages{set: set(t), once: map[string]error{stage: err}}
			if stage == "render" {
				s.set = nil
			}
			res := partial(t, s)
			if res.Err == nil || res.Partial || strings.Contains(strings.Join(s.log, " "), "apply") {
				t.Errorf("%s at %s: %v %v", name, stage, res.Err, s.log)
			}
		}
	}
}

// TestPartialJudgesTheRestAgain: a policy may have counted on what was taken out.
func TestPartialJudgesTheRestAgain(t *testing.T) {
	objects := set(t)
	s := &stages{set: objects, once: map[string]error{"deny": &fault.Error{Kind: fault.Denied, Ref: objects[1].Ref()}}}
	res := partial(t, s)
	if !res.Partial || !slices.Contains(s.log, "judge 5") || !slices.Contains(s.log, "judge 3") || slices.Contains(s.log, "write one") || strings.Contains(res.Err.Error(), canary) {
		t.Errorf("%v %v", res.Err, s.log)
	}
}
