package fault

import (
	"errors"
	"fmt"
	"testing"
)

func TestErrorText(t *testing.T) {
	e := New(StageDecrypt, NoKey, Ref{Kind: "Secret", Namespace: "team-a", Name: "db", File: "deploy/db.yaml", Line: 3}, "no key opens it").
		At("data.password").Fix("add the recipient %s", "age1x")
	want := "Secret/team-a/db (deploy/db.yaml:3): data.password: no key opens it; add the recipient age1x"
	if e.Error() != want {
		t.Errorf("got  %s\nwant %s", e.Error(), want)
	}
	for ref, want := range map[Ref]string{
		{File: "a.yaml"}:                     "a.yaml",
		{Kind: "Namespace", Name: "x"}:       "Namespace/x",
		{}:                                   "",
		{File: "a.yaml", Line: 2, Kind: "X"}: "X (a.yaml:2)",
	} {
		if ref.String() != want {
			t.Errorf("%+v: %q", ref, ref.String())
		}
	}
}

func TestKindOfJoinedErrors(t *testing.T) {
	transient := New(StageOpen, Transient, Ref{}, "vault is away")
	denied := New(StageJudge, Denied, Ref{}, "no")
	for name, c := range map[string]struct {
		err   error
		kind  Kind
		stage Stage
		n     int
	}{
		"nil":          {nil, Internal, "", 0},
		"unclassified": {errors.New("x"), Internal, "", 0},
		"wrapped":      {fmt.Errorf("a: %w", transient), Transient, StageOpen, 1},
		"joined":       {errors.Join(transient, fmt.Errorf("b: %w", errors.Join(denied, transient))), Denied, StageOpen, 3},
	} {
		if KindOf(c.err) != c.kind || StageOf(c.err) != c.stage || len(All(c.err)) != c.n {
			t.Errorf("%s: %v %v %d", name, KindOf(c.err), StageOf(c.err), len(All(c.err)))
		}
	}
	if Denied.ExitCode() != 1 || Transient.ExitCode() != 5 {
		t.Error("what follows from a kind")
	}
}

func TestDenialListsEveryViolationInOrder(t *testing.T) {
	v := []Violation{
		{Policy: "b", Ref: Ref{Kind: "Pod", Name: "x"}, Message: "two"},
		{Policy: "a", Ref: Ref{Kind: "Pod", Name: "x"}, Message: "one"},
		{Policy: "c", Ref: Ref{Kind: "Pod", Name: "a"}, Message: "warned", Warn: true},
	}
	err := Denial(v)
	if want := "Pod/x: [a] one\nPod/x: [b] two"; err == nil || err.Error() != want {
		t.Errorf("got %v", err)
	}
	if KindOf(err) != Denied || StageOf(err) != StageJudge {
		t.Error("kind and stage")
	}
	if Denial(v[2:]) != nil {
		t.Error("a warning denies")
	}
	if got := Lines(err, 1); got != "Pod/x: [a] one\n(and 1 more)" {
		t.Errorf("Lines: %q", got)
	}
}
