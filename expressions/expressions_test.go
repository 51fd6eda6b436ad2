package expressions

import (
	"context"
	"strings"
	"testing"

	"sealock.dev/sealock/fault"
)

const canary = "canary-7f3a"

func object() map[string]any {
	return map[string]any{
		"apiVersion": "example.com/v1", "kind": "Thing",
		"metadata": map[string]any{"name": "x", "generation": int64(3), "labels": map[string]any{"secret": canary}},
		"spec":     map[string]any{"replicas": int64(2), "ratio": 0.5, "list": []any{"a", "b"}},
		"status": map[string]any{
			"observedGeneration": int64(3), "phase": "Ready",
			"conditions": []any{map[string]any{"type": "Ready", "status": "True"}},
		},
	}
}

func TestCompiledExpressionsSeeTheirVariables(t *testing.T) {
	dep := object()
	dep["spec"] = map[string]any{"replicas": 2.0}
	for expr, want := range map[string]bool{
		`dep.status.phase == 'Ready'`:                                                        true,
		`dep.metadata.generation == dep.status.observedGeneration`:                           true,
		`dep.spec.replicas == self.spec.replicas`:                                            true, // 2.0 and 2
		`self.spec.replicas > 1.5`:                                                           true, // CrossTypeNumericComparisons
		`dep.status.conditions.filter(c, c.type == 'Ready').all(c, c.status == 'True')`:      true,
		`dep.?status.?nothing.orValue('no') == 'no'`:                                         true, // OptionalTypes
		`has(self.spec.missing)`:                                                             false,
		`sets.contains(self.spec.list, ['a'])`:                                               true, // ext.Sets
		`base64.decode('aGVsbG8=') == b'hello'`:                                              true, // ext.Encoders
		`'A-B'.lowerAscii().split('-').join('+') == 'a+b'`:                                   true, // ext.Strings
		`'x=%d'.format([1]) == 'x=1' && 'aa'.replace('a', 'b') == 'bb' && 'a'.matches('^a')`: true,
		`timestamp('2026-01-01T00:30:00Z').getHours() == 0`:                                  true, // UTC
		`'a' in self.spec.list && 'name' in dep.metadata`:                                    true,
		`self.spec.list != ['a']`:                                                            true,
	} {
		e, err := Compile(expr, "self", "dep")
		if err != nil {
			t.Errorf("%s: %v", expr, err)
			continue
		}
		got, err := e.Eval(context.Background(), map[string]any{"self": object(), "dep": dep})
		if err != nil || got != want {
			t.Errorf("%s: %v %v", expr, got, err)
		}
	}
}

func TestWhatIsWrongIsSaidWithoutEvaluating(t *testing.T) {
	for expr, want := range map[string]string{
		``:                       "empty",
		`self.`:                  "wrong at 1:",
		`other.status`:           "undeclared reference to 'other'",
		`1 + 1`:                  "yields int",
		`[1, 'a'] == []`:         "wrong at", // HomogeneousAggregateLiterals
		`self.x.nothing('a')`:    "undeclared reference to 'nothing'",
		strings.Repeat("(", 200): "wrong at",
		`'` + strings.Repeat("a", maxBytes) + `' == ''`: "longer than",
	} {
		_, err := Compile(expr, "self")
		if err == nil || fault.KindOf(err) != fault.Invalid || !strings.Contains(err.Error(), want) {
			t.Errorf("%.40s: %v", expr, err)
		}
	}
	if _, err := Parse(`status.`); err == nil || fault.KindOf(err) != fault.Invalid {
		t.Errorf("Parse: %v", err)
	}
}

func TestHazard_ValuesInMessages(t *testing.T) {
	for expr, want := range map[string]string{
		`int(metadata.labels.secret) == 1`:                            "cannot be evaluated",
		`metadata.labels[metadata.labels.secret] == 'x'`:              "does not exist",
		`metadata.labels.secret + 1 == 'x'`:                           "another type",
		`metadata.labels.secret`:                                      "something else than true or false",
		`nothing.at.all == 1`:                                         "does not exist",
		`timestamp(metadata.labels.secret) < timestamp('2026-01-01')`: "cannot be evaluated",
		`metadata.labels.secret.matches('[')`:                         "cannot be evaluated",
		`base64.decode(metadata.labels.secret) == b''`:                "cannot be evaluated",
	} {
		e, err := Parse(expr)
		if err != nil {
			t.Errorf("%s: %v", expr, err)
			continue
		}
		_, err = e.Eval(context.Background(), object())
		if err == nil || strings.Contains(err.Error(), canary) || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", expr, err)
		}
	}
}

func TestAnExpressionIsBounded(t *testing.T) {
	big := object()
	var list []any
	for range 2000 {
		list = append(list, "0123456789")
	}
	big["list"], big["text"] = list, strings.Repeat("a", 100_000)
	double := "[[1]]" + strings.Repeat(".map(a, [a, a])", 40)
	for name, expr := range map[string]string{
		"steps":      `list.all(a, list.all(b, list.all(c, true)))`,
		"replace":    `text.replace('a', text) == ''`,
		"join":       `list.map(x, text).join('') == ''`,
		"separator":  `list.join(text) == ''`,
		"format":     `'%s'.format([list.map(x, text)]) == ''`,
		"doubling":   `['aaaaaaaaaaaaaaaa']` + strings.Repeat(".map(a, a + a)", 40) + `.size() == 0`,
		"equality":   double + ` == ` + double,
		"inequality": double + ` != ` + double,
		"membership": double + ` in [` + double + `]`,
		"sets":       `sets.contains(` + double + `, ` + double + `)`,
		"pattern":    `'a'.matches(text)`,
	} {
		e, err := Parse(expr)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if _, err := e.Eval(context.Background(), big); err == nil || fault.KindOf(err) != fault.Invalid || !(strings.Contains(err.Error(), "costs too much") || strings.Contains(err.Error(), "more than")) {
			t.Errorf("%s: %v", name, err)
		}
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	e, err := Parse(`list.all(a, list.all(b, true))`)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := e.Eval(ctx, big); err == nil || fault.KindOf(err) != fault.Transient {
		t.Errorf("interruption: %v", err)
	}
}

func TestHealth_InProgressFailedCurrentInThatOrder(t *testing.T) {
	const yes, no = "true", "false"
	for name, c := range map[string]struct {
		current, inProgress, failed string
		change                      func(map[string]any)
		want                        Status
	}{
		"current":             {`status.conditions.exists(c, c.type == 'Ready' && c.status == 'True')`, no, no, nil, Current},
		"failed":              {yes, no, yes, nil, Failed},
		"inProgress":          {yes, yes, yes, nil, InProgress},
		"none holds":          {no, no, no, nil, InProgress},
		"only current":        {yes, "", "", nil, Current},
		"observedGeneration":  {yes, no, yes, func(o map[string]any) { o["status"].(map[string]any)["observedGeneration"] = int64(2) }, InProgress},
		"generation as float": {yes, no, no, func(o map[string]any) { o["status"].(map[string]any)["observedGeneration"] = 3.0 }, Current},
		"no generation":       {yes, no, no, func(o map[string]any) { delete(o, "metadata") }, Current},
	} {
		h, err := NewHealth(c.current, c.inProgress, c.failed)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		o := object()
		if c.change != nil {
			c.change(o)
		}
		if got, err := h.Judge(context.Background(), o); got != c.want || err != nil {
			t.Errorf("%s: %q %v", name, got, err)
		}
	}
}

func TestHealthErrorsNameTheField(t *testing.T) {
	for field, e := range map[string][3]string{"current": {"", "", ""}, "inProgress": {"true", "a.", ""}, "failed": {"true", "", "a."}} {
		if _, err := NewHealth(e[0], e[1], e[2]); err == nil || fault.All(err)[0].Field != field {
			t.Errorf("%s: %v", field, err)
		}
	}
	h, err := NewHealth("true", "", "status.nothing.at.all")
	if err != nil {
		t.Fatal(err)
	}
	if s, err := h.Judge(context.Background(), object()); s != "" || err == nil || fault.All(err)[0].Field != "failed" {
		t.Errorf("%q %v", s, err)
	}
}

func FuzzExpression(f *testing.F) {
	for _, s := range []string{`status.phase == 'Ready'`, `metadata.labels.secret.replace('', metadata.labels.secret) == ''`, `spec.list.map(a, [a, a]) == []`, `'%.3f'.format([1.0]) == ''`, `[1][2]`, `{}.x`, `?`} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, expr string) {
		e, err := Parse(expr)
		if err == nil {
			_, err = e.Eval(context.Background(), object())
		}
		if err != nil && strings.Contains(err.Error(), canary) && !strings.Contains(expr, canary) {
			t.Errorf("%q: %v", expr, err)
		}
	})
}
