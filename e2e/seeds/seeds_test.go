package main

import (
	"slices"
	"testing"
)

func TestSplitTakesSeedsByTheirComment(t *testing.T) {
	got := split(`# S0-Y01
kind: A
spec: |
  # S0-Y99 is text of a value, not an id
---
# S1-Y31 (.sops.yaml)
rules: []
---
kind: without id
---
# S1-Y02
# a second comment stays
kind: C
`)
	want := map[string]string{
		"S0-Y01": "kind: A\nspec: |\n  # S0-Y99 is text of a value, not an id\n",
		"S1-Y31": "rules: []\n",
		"S1-Y02": "# a second comment stays\nkind: C\n",
	}
	for id, text := range want {
		if got[id] != text {
			t.Errorf("%s is %q, want %q", id, got[id], text)
		}
	}
	if len(got) != len(want) {
		t.Errorf("%d seeds, want %d", len(got), len(want))
	}
}

func TestDifferencesAllowDefaultsOnly(t *testing.T) {
	want := map[string]any{"a": int64(1), "list": []any{map[string]any{"b": "x"}}, "gone": true}
	got := map[string]any{"a": float64(1), "list": []any{map[string]any{"b": "y", "default": 1}}, "default": "z"}
	if d := differences(want, got, ""); !slices.Equal(d, []string{".gone", ".list[0].b"}) {
		t.Errorf("differences are %v", d)
	}
}
