package main

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"unicode/utf8"

	"golang.org/x/term"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/yaml"
)

// printAs prints a value as json or yaml.
func printAs(out io.Writer, format string, value any) error {
	if format == "json" {
		enc := json.NewEncoder(out)
		enc.SetIndent("", "  ")
		return enc.Encode(value)
	}
	text, err := yaml.Marshal(value)
	if err != nil {
		return err
	}
	_, err = out.Write(text)
	return err
}

// knownFormat checks -o; "" is text for people.
func knownFormat(format string, formats ...string) error {
	if format == "" || slices.Contains(formats, format) {
		return nil
	}
	return wrongUse("-o %s is not a format of this command", format).Fix("leave it out, or write one of: %s", strings.Join(formats, ", "))
}

// asStored returns the object as people read it: without the bookkeeping of fields, as kubectl prints it.
func asStored(obj *unstructured.Unstructured) map[string]any {
	c := obj.DeepCopy()
	c.SetManagedFields(nil)
	return c.Object
}

// asList returns objects as `kubectl get -o json` does.
func asList(list []map[string]any) map[string]any {
	items := make([]any, 0, len(list))
	for _, each := range list {
		items = append(items, each)
	}
	return map[string]any{"apiVersion": "v1", "kind": "List", "items": items}
}

// table prints rows under a header, each column as wide as its widest cell. Only the last column is cut, and only on a
// terminal: what goes into a pipe is whole.
type table struct {
	out    io.Writer
	header []string
	widths []int
}

const gap = "   "

// newTable measures the rows; those that come later, in a watch, are printed in the same columns.
func newTable(out io.Writer, header []string, rows [][]string) *table {
	t := &table{out: out, header: header, widths: make([]int, len(header))}
	for _, row := range append([][]string{header}, rows...) {
		for i, cell := range row {
			t.widths[i] = max(t.widths[i], utf8.RuneCountInString(cell))
		}
	}
	return t
}

func (t *table) print(rows [][]string) error {
	if err := t.row(t.header); err != nil {
		return err
	}
	for _, row := range rows {
		if err := t.row(row); err != nil {
			return err
		}
	}
	return nil
}

func (t *table) row(cells []string) error {
	var b strings.Builder
	for i, cell := range cells {
		cell = strings.ReplaceAll(cell, "\n", "; ")
		if i == len(cells)-1 {
			b.WriteString(cell)
			break
		}
		b.WriteString(cell + strings.Repeat(" ", max(0, t.widths[i]-utf8.RuneCountInString(cell))) + gap)
	}
	line := []rune(strings.TrimRight(b.String(), " "))
	if limit := terminalWidth(t.out); limit > 0 && len(line) > limit {
		line = append(line[:limit-3], []rune("...")...)
	}
	_, err := fmt.Fprintln(t.out, string(line))
	return err
}

// terminalWidth returns the columns of the terminal that out writes to, 0 when it is none.
func terminalWidth(out io.Writer) int {
	file, ok := out.(*os.File)
	if !ok {
		return 0
	}
	columns, _, err := term.GetSize(int(file.Fd())) // a descriptor fits
	if err != nil || columns < width/2 {
		return 0
	}
	return columns
}
