package main

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/spf13/cobra"
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

// formatFlag adds -o to a command, with the formats that a shell may complete.
func formatFlag(cmd *cobra.Command, into *string, value, help string, formats ...string) {
	cmd.Flags().StringVarP(into, "output", "o", value, help)
	_ = cmd.RegisterFlagCompletionFunc("output", cobra.FixedCompletions(slices.Sorted(slices.Values(formats)), cobra.ShellCompDirectiveNoFileComp))
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

// table prints rows under a header, each column as wide as its widest cell. On a terminal the last column is cut, and, where
// too little of it would be left, the widest of the others: what goes into a pipe is whole.
type table struct {
	out    io.Writer
	header []string
	widths []int
	limit  int // columns of the terminal, 0 when it is none
}

const (
	gap         = "   "
	leastOfLast = 20 // what a terminal shows of the last column
	leastOfCell = 12 // what it shows of any other
)

// newTable measures the rows; those that come later, in a watch, are printed in the same columns.
func newTable(out io.Writer, header []string, rows [][]string) *table {
	t := &table{out: out, header: header, widths: make([]int, len(header)), limit: terminalWidth(out)}
	for _, row := range append([][]string{header}, rows...) {
		for i, cell := range row {
			t.widths[i] = max(t.widths[i], utf8.RuneCountInString(cell))
		}
	}
	t.fit()
	return t
}

// fit makes the widest columns narrower until the last one has its least.
func (t *table) fit() {
	others := t.widths[:len(t.widths)-1]
	for t.limit > 0 {
		taken := leastOfLast
		for _, w := range others {
			taken += w + len(gap)
		}
		widest := slices.Index(others, slices.Max(append([]int{0}, others...)))
		if taken <= t.limit || widest < 0 || others[widest] <= leastOfCell {
			return
		}
		others[widest]--
	}
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
		if wide := utf8.RuneCountInString(cell); t.limit > 0 && wide > t.widths[i] {
			cell = string([]rune(cell)[:t.widths[i]-3]) + "..."
		}
		b.WriteString(cell + strings.Repeat(" ", max(0, t.widths[i]-utf8.RuneCountInString(cell))) + gap)
	}
	line := []rune(strings.TrimRight(b.String(), " "))
	if t.limit > 0 && len(line) > t.limit {
		line = append(line[:t.limit-3], []rune("...")...)
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
