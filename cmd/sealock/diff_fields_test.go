package main

import (
	"encoding/json"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestFieldsOf(t *testing.T) {
	m := func(text string) (out any) {
		if err := json.Unmarshal([]byte(text), &out); err != nil {
			t.Fatal(err)
		}
		return out
	}
	for _, tc := range []struct {
		name, from, to string
		want           []change
	}{
		{"equal", `{"a":[1,{"b":2}]}`, `{"a":[1,{"b":2}]}`, nil},
		{"null is absent", `{"a":null}`, `{}`, nil},
		{"value", `{"a":{"b":1}}`, `{"a":{"b":2}}`, []change{{"a.b", 1.0, 2.0}}},
		{"added below", `{}`, `{"a":{"b":{"c":1}}}`, []change{{"a.b.c", nil, 1.0}}},
		{"added empty", `{}`, `{"a":{}}`, []change{{"a", nil, map[string]any{}}}},
		{"filled", `{"a":{}}`, `{"a":{"b":1}}`, []change{{"a.b", nil, 1.0}}},
		{"emptied", `{"a":{"b":1}}`, `{"a":{}}`, []change{{"a.b", 1.0, nil}}},
		{"removed", `{"a":[1,2]}`, `{"a":[1]}`, []change{{"a[1]", 2.0, nil}}},
		{"another type", `{"a":{"b":1}}`, `{"a":"x"}`, []change{{"a", map[string]any{"b": 1.0}, "x"}}},
		{"by name", `{"l":[{"name":"x","v":1},{"name":"y","v":2}]}`, `{"l":[{"name":"new","v":0},{"name":"x","v":1},{"name":"y","v":3}]}`, []change{{"l[new].name", nil, "new"}, {"l[new].v", nil, 0.0}, {"l[y].v", 2.0, 3.0}}},
		{"a key with dots", `{"labels":{"a.b/c":"1"}}`, `{"labels":{"a.b/c":"2"}}`, []change{{`labels["a.b/c"]`, "1", "2"}}},
	} {
		if diff := cmp.Diff(tc.want, fieldsOf("", m(tc.from), m(tc.to))); diff != "" {
			t.Errorf("%s: %s", tc.name, diff)
		}
	}
}

func TestDiffLines(t *testing.T) {
	got := diffLines([]string{"a", "b", "c", "d", "e"}, []string{"a", "b", "x", "d", "e", "f"})
	if diff := cmp.Diff([]string{" b", "-c", "+x", " d", " e", "+f"}, got); diff != "" {
		t.Error(diff)
	}
	long := make([]string, mostLines+1)
	if got := diffLines(long, nil); len(got) != 2 {
		t.Errorf("%d lines", len(got))
	}
}
