package template

import (
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"
)

// listOf returns a list of any element type as []any.
func listOf(v any) ([]any, error) {
	switch l := v.(type) {
	case []any:
		return l, nil
	case nil:
		return nil, nil
	}
	return nil, refuse("an argument is not a list")
}

// dictOf returns a copy of a mapping.
func dictOf(v any) (map[string]any, error) {
	switch m := v.(type) {
	case map[string]any:
		return maps.Clone(m), nil
	case map[string]string:
		out := make(map[string]any, len(m))
		for k, s := range m {
			out[k] = s
		}
		return out, nil
	}
	return nil, refuse("an argument is not a dictionary")
}

func texts(list []string) []any {
	out := make([]any, len(list))
	for i, s := range list {
		out[i] = s
	}
	return out
}

func makeList(_ *meter, a []any) (any, error) { return slices.Clone(a), nil }

func join(m *meter, a []any) (any, error) {
	l, err := listOf(a[1])
	if err != nil {
		return str(a[1]), nil //nolint:nilerr // one value is a list of one
	}
	sep := str(a[0])
	if err := m.pay(len(sep) * len(l)); err != nil {
		return nil, err
	}
	var parts []string
	for _, v := range l {
		if v != nil {
			parts = append(parts, str(v))
		}
	}
	return strings.Join(parts, sep), nil
}

func splitList(_ *meter, a []any) (any, error) {
	return texts(strings.Split(str(a[1]), str(a[0]))), nil
}

// split returns a dictionary with the keys _0, _1 and so on.
func split(_ *meter, a []any) (any, error) {
	return numbered(strings.Split(str(a[1]), str(a[0]))), nil
}

func splitN(_ *meter, a []any) (any, error) {
	n, err := integer(a[1])
	if err != nil {
		return nil, err
	}
	return numbered(strings.SplitN(str(a[2]), str(a[0]), int(n))), nil
}

func numbered(parts []string) map[string]any {
	out := make(map[string]any, len(parts))
	for i, p := range parts {
		out[fmt.Sprintf("_%d", i)] = p
	}
	return out
}

func toStrings(_ *meter, a []any) (any, error) {
	l, err := listOf(a[0])
	if err != nil {
		return nil, err
	}
	out := make([]any, len(l))
	for i, v := range l {
		out[i] = str(v)
	}
	return out, nil
}

func sortAlpha(m *meter, a []any) (any, error) {
	v, err := toStrings(m, a)
	if err != nil {
		return nil, err
	}
	l, _ := v.([]any)
	slices.SortFunc(l, func(x, y any) int { return strings.Compare(str(x), str(y)) })
	return l, nil
}

// part makes a function that returns part of a list.
func part(a []any, cut func(l []any) any) (any, error) {
	l, err := listOf(a[0])
	if err != nil {
		return nil, err
	}
	if len(l) == 0 {
		return cut([]any{}), nil
	}
	return cut(slices.Clone(l)), nil
}

func first(_ *meter, a []any) (any, error) {
	return part(a, func(l []any) any {
		if len(l) == 0 {
			return nil
		}
		return l[0]
	})
}

func last(_ *meter, a []any) (any, error) {
	return part(a, func(l []any) any {
		if len(l) == 0 {
			return nil
		}
		return l[len(l)-1]
	})
}

func rest(_ *meter, a []any) (any, error) {
	return part(a, func(l []any) any { return l[min(1, len(l)):] })
}

func initial(_ *meter, a []any) (any, error) {
	return part(a, func(l []any) any { return l[:max(0, len(l)-1)] })
}

func reverse(_ *meter, a []any) (any, error) {
	return part(a, func(l []any) any { slices.Reverse(l); return l })
}

func compact(_ *meter, a []any) (any, error) {
	return part(a, func(l []any) any { return slices.DeleteFunc(l, hollow) })
}

func appendTo(_ *meter, a []any) (any, error) {
	return part(a, func(l []any) any { return append(l, a[1]) })
}

func prepend(_ *meter, a []any) (any, error) {
	return part(a, func(l []any) any { return append([]any{a[1]}, l...) })
}

func concat(_ *meter, a []any) (any, error) {
	var out []any
	for _, v := range a {
		l, err := listOf(v)
		if err != nil {
			return nil, err
		}
		out = append(out, l...)
	}
	return out, nil
}

// maxCompared bounds the lists whose elements are compared with each other.
const maxCompared = 1000

func uniq(_ *meter, a []any) (any, error) {
	l, err := listOf(a[0])
	if err != nil {
		return nil, err
	}
	if len(l) > maxCompared {
		return nil, refuse("the list is too long")
	}
	out := []any{}
	for _, v := range l {
		if !contained(out, v) {
			out = append(out, v)
		}
	}
	return out, nil
}

func contained(l []any, v any) bool {
	return slices.ContainsFunc(l, func(each any) bool { return reflect.DeepEqual(each, v) })
}

func has(_ *meter, a []any) (any, error) {
	l, err := listOf(a[1])
	return contained(l, a[0]), err
}

func without(_ *meter, a []any) (any, error) {
	if len(a) > maxCompared {
		return nil, refuse("too many arguments")
	}
	return part(a, func(l []any) any {
		return slices.DeleteFunc(l, func(v any) bool { return contained(a[1:], v) })
	})
}

func dict(_ *meter, a []any) (any, error) {
	out := make(map[string]any, len(a)/2)
	for i := 0; i < len(a); i += 2 {
		if i+1 < len(a) {
			out[str(a[i])] = a[i+1]
		} else {
			out[str(a[i])] = ""
		}
	}
	return out, nil
}

func get(_ *meter, a []any) (any, error) {
	d, err := dictOf(a[0])
	if err != nil {
		return nil, err
	}
	if v, ok := d[str(a[1])]; ok {
		return v, nil
	}
	return "", nil
}

func hasKey(_ *meter, a []any) (any, error) {
	d, err := dictOf(a[0])
	_, ok := d[str(a[1])]
	return ok, err
}

func keysOf(_ *meter, a []any) (any, error) {
	var out []string
	for _, v := range a {
		d, err := dictOf(v)
		if err != nil {
			return nil, err
		}
		out = append(out, slices.Sorted(maps.Keys(d))...)
	}
	return texts(out), nil
}

func valuesOf(_ *meter, a []any) (any, error) {
	d, err := dictOf(a[0])
	if err != nil {
		return nil, err
	}
	out := make([]any, 0, len(d))
	for _, k := range slices.Sorted(maps.Keys(d)) {
		out = append(out, d[k])
	}
	return out, nil
}

// merge returns the dictionaries as one; the first that has a key wins, nested dictionaries are merged.
func merge(_ *meter, a []any) (any, error) {
	out := map[string]any{}
	for _, v := range a {
		d, err := dictOf(v)
		if err != nil {
			return nil, err
		}
		out = mergeInto(out, d)
	}
	return out, nil
}

func mergeInto(first, second map[string]any) map[string]any {
	out := maps.Clone(first)
	for k, v := range second {
		have, ok := out[k]
		if !ok || hollow(have) {
			out[k] = v
			continue
		}
		x, both := have.(map[string]any)
		if y, also := v.(map[string]any); both && also {
			out[k] = mergeInto(x, y)
		}
	}
	return out
}

func pick(_ *meter, a []any) (any, error) {
	d, err := dictOf(a[0])
	out := map[string]any{}
	for _, k := range a[1:] {
		if v, ok := d[str(k)]; ok {
			out[str(k)] = v
		}
	}
	return out, err
}

func omit(_ *meter, a []any) (any, error) {
	d, err := dictOf(a[0])
	for _, k := range a[1:] {
		delete(d, str(k))
	}
	return d, err
}

func pluck(_ *meter, a []any) (any, error) {
	out := []any{}
	for _, each := range a[1:] {
		d, err := dictOf(each)
		if err != nil {
			return nil, err
		}
		if v, ok := d[str(a[0])]; ok {
			out = append(out, v)
		}
	}
	return out, nil
}

// dig follows keys through nested dictionaries: dig "a" "b" default dict.
func dig(_ *meter, a []any) (any, error) {
	v := a[len(a)-1]
	for _, k := range a[:len(a)-2] {
		d, err := dictOf(v)
		if err != nil {
			return nil, err
		}
		next, ok := d[str(k)]
		if !ok {
			return a[len(a)-2], nil
		}
		v = next
	}
	return v, nil
}

// hollow reports what text/template takes for false.
func hollow(v any) bool {
	if v == nil {
		return true
	}
	r := reflect.ValueOf(v)
	switch r.Kind() { //nolint:exhaustive // all other kinds compare with their zero value
	case reflect.Map, reflect.Slice, reflect.String:
		return r.Len() == 0
	}
	return r.IsZero()
}

func isEmpty(_ *meter, a []any) (any, error) { return hollow(a[0]), nil }

func orDefault(_ *meter, a []any) (any, error) {
	if len(a) == 1 || hollow(a[1]) {
		return a[0], nil
	}
	return a[1], nil
}

func coalesce(_ *meter, a []any) (any, error) {
	for _, v := range a {
		if !hollow(v) {
			return v, nil
		}
	}
	return nil, nil
}

func all(_ *meter, a []any) (any, error) { return !slices.ContainsFunc(a, hollow), nil }
func anyOf(_ *meter, a []any) (any, error) {
	return slices.ContainsFunc(a, func(v any) bool { return !hollow(v) }), nil
}

func ternary(_ *meter, a []any) (any, error) {
	if !hollow(a[2]) {
		return a[0], nil
	}
	return a[1], nil
}

func kindOf(_ *meter, a []any) (any, error) { return reflect.ValueOf(a[0]).Kind().String(), nil }

func kindIs(_ *meter, a []any) (any, error) {
	return str(a[0]) == reflect.ValueOf(a[1]).Kind().String(), nil
}

// fail stops the template. Its message may be made of values, so it is dropped.
func fail(*meter, []any) (any, error) { return nil, refuse("the template itself refuses the values") }
