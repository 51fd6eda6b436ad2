package main

import (
	"encoding/json"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"
)

// change is one field that differs. A side that is nil does not have the field.
type change struct {
	Path string `json:"path"`
	From any    `json:"from,omitempty"`
	To   any    `json:"to,omitempty"`
}

// fieldsOf compares two decoded values field by field. Lists whose items all have a name are compared by it, others by
// position, so that an inserted container is not a change of all that follow.
func fieldsOf(path string, from, to any) []change {
	if reflect.DeepEqual(from, to) {
		return nil
	}
	a, isA := branches(from)
	b, isB := branches(to)
	comparable := reflect.TypeOf(from) == reflect.TypeOf(to) || from == nil || to == nil
	if !comparable || !isA || !isB || len(a)+len(b) == 0 {
		return []change{{Path: path, From: from, To: to}}
	}
	keys := maps.Clone(a)
	maps.Copy(keys, b)
	var out []change
	for _, k := range slices.Sorted(maps.Keys(keys)) {
		// What is absent is nil, and so is null: the API server makes no difference.
		out = append(out, fieldsOf(strings.TrimPrefix(path+k, "."), a[k], b[k])...)
	}
	return out
}

// branches returns the fields below a mapping or a list, by the text that leads to each in a path. Nothing has none.
func branches(v any) (map[string]any, bool) {
	out := map[string]any{}
	switch node := v.(type) {
	case nil:
	case map[string]any:
		for k, each := range node {
			if strings.ContainsAny(k, "./[") {
				out[fmt.Sprintf("[%q]", k)] = each
			} else {
				out["."+k] = each
			}
		}
	case []any:
		for _, each := range node {
			m, _ := each.(map[string]any)
			name, named := m["name"].(string)
			if _, twice := out["["+name+"]"]; !named || twice {
				return byPosition(node), true
			}
			out["["+name+"]"] = each
		}
	default:
		return nil, false
	}
	return out, true
}

func byPosition(list []any) map[string]any {
	out := make(map[string]any, len(list))
	for i, each := range list {
		out[fmt.Sprintf("[%d]", i)] = each
	}
	return out
}

// longestLine bounds what is printed of a value; -o json has it whole.
const longestLine = 160

// lines returns a change as lines of a diff.
func (c change) lines() []string {
	from, isText := c.From.(string)
	to, alsoText := c.To.(string)
	if isText && alsoText && strings.Contains(from+to, "\n") {
		out := []string{"  " + c.Path + ":"}
		for _, line := range diffLines(strings.Split(from, "\n"), strings.Split(to, "\n")) {
			out = append(out, line[:1]+"     "+cut(line[1:]))
		}
		return out
	}
	var out []string
	if c.From != nil {
		out = append(out, "- "+c.Path+": "+cut(scalar(c.From)))
	}
	if c.To != nil {
		out = append(out, "+ "+c.Path+": "+cut(scalar(c.To)))
	}
	return out
}

// scalar writes a value so that "1" and 1 differ.
func scalar(v any) string {
	if text, ok := v.(string); ok && text != "" && strings.TrimSpace(text) == text && !strings.Contains(text, "\n") && !json.Valid([]byte(text)) {
		return text
	}
	text, err := json.Marshal(v)
	if err != nil {
		return "?"
	}
	return string(text)
}

func cut(text string) string {
	runes := []rune(text)
	if len(runes) <= longestLine {
		return text
	}
	return string(runes[:longestLine-3]) + "..."
}

// mostLines bounds the square that a comparison of two texts takes.
const mostLines = 2000

// diffLines returns the lines that differ, each behind "-" or "+", and one unchanged line before and after, behind " ".
func diffLines(a, b []string) []string {
	if len(a) > mostLines || len(b) > mostLines {
		return []string{fmt.Sprintf("-(%d lines)", len(a)), fmt.Sprintf("+(%d lines)", len(b))}
	}
	// common[i][j] is the length of the longest common subsequence of a[i:] and b[j:].
	common := make([][]int, len(a)+1)
	for i := range common {
		common[i] = make([]int, len(b)+1)
	}
	for i := len(a) - 1; i >= 0; i-- {
		for j := len(b) - 1; j >= 0; j-- {
			if a[i] == b[j] {
				common[i][j] = common[i+1][j+1] + 1
			} else {
				common[i][j] = max(common[i+1][j], common[i][j+1])
			}
		}
	}
	var all []string
	i, j := 0, 0
	for i < len(a) || j < len(b) {
		switch {
		case i < len(a) && j < len(b) && a[i] == b[j]:
			all = append(all, " "+a[i])
			i, j = i+1, j+1
		case i < len(a) && (j == len(b) || common[i+1][j] >= common[i][j+1]):
			all = append(all, "-"+a[i])
			i++
		default:
			all = append(all, "+"+b[j])
			j++
		}
	}
	var out []string
	for n, line := range all {
		near := line[0] != ' ' || n > 0 && all[n-1][0] != ' ' || n+1 < len(all) && all[n+1][0] != ' '
		if near {
			out = append(out, line)
		}
	}
	return out
}
