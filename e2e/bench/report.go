package main

import (
	"encoding/json"
	"fmt"
	"io"
	"strconv"
	"strings"
	"text/tabwriter"
)

// figure is one line of the table.
type figure struct {
	Scenario string  `json:"scenario"`
	Work     string  `json:"work"`
	What     string  `json:"what"`
	Seen     float64 `json:"seen"`
	Unit     string  `json:"unit,omitempty"`
	// Detail tells what Seen is made of.
	Detail string   `json:"detail,omitempty"`
	Goal   *float64 `json:"goal,omitempty"` // at most; with Least, at least
	Least  bool     `json:"least,omitempty"`
	Peer   string   `json:"peer,omitempty"`
	Missed bool     `json:"missed"`
}

// option adds to a figure.
type option func(*figure)

func atMost(v float64) option  { return func(f *figure) { f.Goal = &v } }
func atLeast(v float64) option { return func(f *figure) { f.Goal, f.Least = &v, true } }
func peer(format string, args ...any) option {
	return func(f *figure) { f.Peer = fmt.Sprintf(format, args...) }
}
func detail(format string, args ...any) option {
	return func(f *figure) { f.Detail = fmt.Sprintf(format, args...) }
}

// report collects figures.
type report struct {
	Quick   bool     `json:"quick"`
	Figures []figure `json:"figures"`
}

func newReport(quick bool) *report { return &report{Quick: quick} }

func (r *report) add(f figure, opts ...option) {
	for _, o := range opts {
		o(&f)
	}
	if f.Goal != nil {
		f.Missed = !f.Least && f.Seen > *f.Goal || f.Least && f.Seen < *f.Goal
	}
	r.Figures = append(r.Figures, f)
}

func (r *report) json(out io.Writer) error {
	enc := json.NewEncoder(out)
	enc.SetIndent("", "  ")
	return enc.Encode(r)
}

func (r *report) table(out io.Writer) error {
	if r.Quick {
		fmt.Fprintln(out, "Quick: sizes are a fifth to a tenth of those that the peers' figures are of; goals are scaled.")
	}
	w := tabwriter.NewWriter(out, 0, 4, 2, ' ', 0)
	work, missed, goals := "", 0, 0
	for _, f := range r.Figures {
		if head := f.Scenario + ": " + f.Work; head != work {
			work = head
			fmt.Fprintf(w, "\n%s\tgoal\tpeer\tseen\n", work)
		}
		fmt.Fprintf(w, "  %s\t%s\t%s\t%s\n", f.What, f.goal(), dash(f.Peer), f.seen())
		if f.Goal != nil {
			goals++
		}
		if f.Missed {
			missed++
		}
	}
	if err := w.Flush(); err != nil {
		return err
	}
	_, err := fmt.Fprintf(out, "\n%d of %d goals reached\n", goals-missed, goals)
	return err
}

func (f figure) goal() string {
	switch {
	case f.Goal == nil:
		return "-"
	case f.Least:
		return ">= " + number(*f.Goal)
	case *f.Goal == 0:
		return "0"
	}
	return "<= " + number(*f.Goal)
}

func (f figure) seen() string {
	text := strings.TrimSpace(number(f.Seen) + " " + f.Unit)
	if f.Detail != "" {
		text += "  (" + f.Detail + ")"
	}
	if f.Missed {
		text += "  MISSED"
	}
	return text
}

func dash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}

// number prints three significant digits, and integers whole.
func number(v float64) string {
	if v == float64(int64(v)) {
		return strconv.FormatInt(int64(v), 10)
	}
	if v >= 100 {
		return strconv.FormatFloat(v, 'f', 0, 64)
	}
	return strconv.FormatFloat(v, 'g', 3, 64)
}
