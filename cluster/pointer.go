package cluster

import (
	"fmt"
	"reflect"
	"slices"
	"strconv"
	"strings"

	"k8s.io/apimachinery/pkg/runtime"
	"sigs.k8s.io/structured-merge-diff/v6/fieldpath"
)

// pointer is a parsed JSON pointer (RFC 6901).
type pointer []string

func parsePointer(text string) (pointer, error) {
	if !strings.HasPrefix(text, "/") || text == "/" {
		return nil, fmt.Errorf("%q is not a JSON pointer to a field", text)
	}
	unescape := strings.NewReplacer("~1", "/", "~0", "~")
	parts := strings.Split(text[1:], "/")
	for i, p := range parts {
		parts[i] = unescape.Replace(p)
	}
	return parts, nil
}

// get returns what the pointer points at.
func (p pointer) get(body any) (any, bool) {
	for _, part := range p {
		switch v := body.(type) {
		case map[string]any:
			next, ok := v[part]
			if !ok {
				return nil, false
			}
			body = next
		case []any:
			i, err := strconv.Atoi(part)
			if err != nil || i < 0 || i >= len(v) {
				return nil, false
			}
			body = v[i]
		default:
			return nil, false
		}
	}
	return body, true
}

// set puts a value where the pointer points, if its parent is there. An item of a list is replaced.
func (p pointer) set(body map[string]any, value any) {
	parent, ok := p[:len(p)-1].get(body)
	if !ok {
		return
	}
	last := p[len(p)-1]
	switch v := parent.(type) {
	case map[string]any:
		v[last] = value
	case []any:
		if i, err := strconv.Atoi(last); err == nil && i >= 0 && i < len(v) {
			v[i] = value
		}
	}
}

// remove takes out what the pointer points at. An item of a list leaves nil behind, so that its neighbours keep their places.
func (p pointer) remove(body map[string]any) {
	parent, ok := p[:len(p)-1].get(body)
	if !ok {
		return
	}
	if m, ok := parent.(map[string]any); ok {
		delete(m, p[len(p)-1])
		return
	}
	p.set(body, nil)
}

// without returns a copy of body that lacks what the pointers point at; body itself when there are none.
func without(body map[string]any, pointers []pointer) map[string]any {
	if len(pointers) == 0 {
		return body
	}
	body = runtime.DeepCopyJSON(body)
	for _, p := range pointers {
		p.remove(body)
	}
	return body
}

// yield changes what is about to be applied so that ignored fields stay as they are live: a field that another manager
// applies is left to it, any other is adopted with the live value.
func yield(wanted, live map[string]any, pointers []pointer, owners []owner, manager string) {
	for _, p := range pointers {
		want, wanting := p.get(wanted)
		if !wanting {
			continue
		}
		have, there := p.get(live)
		switch {
		case there && reflect.DeepEqual(want, have):
		case !there || appliedByOther(live, p, owners, manager):
			p.remove(wanted)
		default:
			p.set(wanted, have)
		}
	}
}

// appliedByOther reports whether another manager applies the field, something in it, or what it is in.
func appliedByOther(live map[string]any, p pointer, owners []owner, manager string) bool {
	for _, o := range owners {
		if o.Operation != "Apply" || o.isOurs(manager) {
			continue
		}
		set, ok := o.fields()
		if !ok {
			continue
		}
		for path := range set.Leaves().All() {
			if at, ok := pointerOf(live, path); ok && (startsWith(at, p) || startsWith(p, at)) {
				return true
			}
		}
	}
	return false
}

func startsWith(p, prefix pointer) bool {
	return len(p) >= len(prefix) && slices.Equal(p[:len(prefix)], prefix)
}

// isIgnored reports whether a path lies at or below one of the pointers.
func isIgnored(body map[string]any, path fieldpath.Path, ignored []pointer) bool {
	at, ok := pointerOf(body, path)
	return ok && slices.ContainsFunc(ignored, func(p pointer) bool { return startsWith(at, p) })
}

// pointerOf says where in body a path of managed fields leads.
func pointerOf(body any, path fieldpath.Path) (pointer, bool) {
	var out pointer
	for i, pe := range path {
		if pe.FieldName != nil {
			out = append(out, *pe.FieldName)
			continue
		}
		parent, ok := at(body, path[:i])
		list, isList := parent.([]any)
		if !ok || !isList {
			return nil, false
		}
		n := slices.IndexFunc(list, func(item any) bool { return matches(item, pe) })
		if pe.Index != nil {
			n = *pe.Index
		}
		if n < 0 {
			return nil, false
		}
		out = append(out, strconv.Itoa(n))
	}
	return out, true
}
