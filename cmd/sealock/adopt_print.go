package main

import (
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
)

// shownObjects is how many objects of a finding the table names; JSON has all of them.
const shownObjects = 5

func (o adoptFlux) print(out io.Writer, a adoption) error {
	if o.output == "json" {
		encoder := json.NewEncoder(out)
		encoder.SetIndent("", "  ")
		return encoder.Encode(a)
	}
	if o.undo {
		return printScaled(out, a.Controllers, "is back")
	}
	if err := printFindings(out, a.Findings); err != nil {
		return err
	}
	fmt.Fprintf(out, "\nRun the controller with\n")
	for _, arg := range a.Arguments {
		fmt.Fprintf(out, "  %s\n", arg)
	}
	if !o.yes || len(a.standing(o.accept)) > 0 {
		fmt.Fprintln(out, "\nNothing was changed.")
		return nil
	}
	fmt.Fprintln(out)
	if err := printScaled(out, a.Controllers, "is down"); err != nil {
		return err
	}
	fmt.Fprintln(out, "\nNow start Sealock, for instance:")
	fmt.Fprint(out, "  sealock install --apply --image IMAGE")
	for _, arg := range a.Arguments {
		fmt.Fprintf(out, " \\\n    --controller-arg='%s'", arg)
	}
	fmt.Fprintln(out)
	return nil
}

func printFindings(out io.Writer, list []adoptFinding) error {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "CHECK\tLEVEL\tWHAT")
	for _, f := range list {
		what := f.Message
		if len(f.Objects) == 1 {
			what = f.Objects[0] + ": " + what
		}
		fmt.Fprintf(w, "%s\t%s\t%s\n", f.Check, f.Level, what)
		if len(f.Objects) > 1 {
			names, more := f.Objects, ""
			if len(names) > shownObjects {
				names, more = names[:shownObjects], fmt.Sprintf(", and %d more", len(f.Objects)-shownObjects)
			}
			fmt.Fprintf(w, "\t\t%s%s\n", strings.Join(names, ", "), more)
		}
		if f.Remedy != "" {
			fmt.Fprintf(w, "\t\t-> %s\n", f.Remedy)
		}
	}
	return w.Flush()
}

func printScaled(out io.Writer, list []fluxController, what string) error {
	if len(list) == 0 {
		fmt.Fprintln(out, "No Deployment of Flux was scaled by an adoption.")
		return nil
	}
	for _, c := range list {
		remembered := ""
		if c.Remembered != nil {
			remembered = fmt.Sprintf(", %d replicas are remembered", *c.Remembered)
		}
		if _, err := fmt.Fprintf(out, "Deployment %s/%s %s: %d replicas%s\n", c.Namespace, c.Deployment, what, c.Replicas, remembered); err != nil {
			return err
		}
	}
	return nil
}
