package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"

	"sigs.k8s.io/yaml"

	"sealock.dev/sealock/fault"
)

// verdict is what verify prints. Its JSON is a contract: fields are added, never changed.
type verdict struct {
	Folder    string    `json:"folder"`
	Tenant    string    `json:"tenant,omitempty"`
	Namespace string    `json:"namespace"`
	Objects   int       `json:"objects"`
	Denied    int       `json:"denied"`
	Warned    int       `json:"warned"`
	Policies  []string  `json:"policies"`           // in force
	Problems  []string  `json:"problems,omitempty"` // policies that are not in force, and why
	Findings  []finding `json:"findings"`
}

// finding is one thing that is wrong with one object.
type finding struct {
	Action     string `json:"action"`           // deny or warn
	Policy     string `json:"policy,omitempty"` // empty: a fence of the tenant
	APIVersion string `json:"apiVersion"`
	Kind       string `json:"kind"`
	Namespace  string `json:"namespace,omitempty"`
	Name       string `json:"name"`
	File       string `json:"file,omitempty"`
	Line       int    `json:"line,omitempty"`
	Message    string `json:"message"`
	Errored    bool   `json:"errored,omitempty"` // the policy could not be evaluated
}

func findingAt(ref fault.Ref, action, message string) finding {
	return finding{Action: action, APIVersion: ref.APIVersion, Kind: ref.Kind, Namespace: ref.Namespace, Name: ref.Name, File: ref.File, Line: ref.Line, Message: message}
}

func (v *verdict) add(each fault.Violation) {
	action := "deny"
	if each.Warn {
		action = "warn"
		v.Warned++
	} else {
		v.Denied++
	}
	f := findingAt(each.Ref, action, each.String())
	f.Policy, f.Errored = each.Policy, each.Errored
	v.Findings = append(v.Findings, f)
}

// refuse takes denials of fences as findings, and returns an error that is none.
func (v *verdict) refuse(err error) error {
	for _, f := range fault.All(err) {
		if f.Kind != fault.Denied {
			return err
		}
	}
	for _, f := range fault.All(err) {
		bare := *f
		bare.Ref = fault.Ref{}
		v.Denied++
		v.Findings = append(v.Findings, findingAt(f.Ref, "deny", bare.Error()))
	}
	if v.Denied == 0 {
		return err
	}
	return nil
}

// err is the exit code: a denial before a policy that is not valid.
func (v *verdict) err() error {
	if v.Denied > 0 {
		return fault.New(fault.StageJudge, fault.Denied, fault.Ref{}, "%s, nothing of this would be applied", plural(v.Denied, "denial"))
	}
	if len(v.Problems) > 0 {
		return fault.New(fault.StageJudge, fault.Invalid, fault.Ref{}, "%s not in force, see above", plural(len(v.Problems), "policy is", "policies are"))
	}
	return nil
}

func plural(n int, one string, many ...string) string {
	if n != 1 {
		if one += "s"; len(many) > 0 {
			one = many[0]
		}
	}
	return fmt.Sprintf("%d %s", n, one)
}

func (v *verdict) print(out io.Writer, format string) error {
	if v.Findings == nil {
		v.Findings = []finding{} // machines expect a list
	}
	switch format {
	case "json":
		enc := json.NewEncoder(out)
		enc.SetIndent("", "  ")
		return enc.Encode(v)
	case "yaml":
		text, err := yaml.Marshal(v)
		if err != nil {
			return err
		}
		_, err = out.Write(text)
		return err
	}
	return v.printText(out)
}

// width is that of the smallest terminal that people use.
const width = 80

func (v *verdict) printText(out io.Writer) error {
	w := &errWriter{out: out}
	v.list(w)
	w.printf("%s of %s, %s\n", plural(v.Objects, "object"), v.Folder, v.sum())
	return w.err
}

// list prints what is wrong.
func (v *verdict) list(w *errWriter) {
	for _, p := range v.Problems {
		w.printf("policy not in force\n%s", wrap(p, "      "))
	}
	for _, f := range v.Findings {
		object := fault.Ref{Kind: f.Kind, Namespace: f.Namespace, Name: f.Name}.String()
		w.printf("%-5s %s\n", f.Action, object)
		if f.File != "" {
			w.printf("      %s:%d\n", f.File, f.Line)
		}
		w.printf("%s", wrap(f.Message, "      "))
	}
}

func (v *verdict) sum() string {
	who := "no tenant"
	if v.Tenant != "" {
		who = "tenant " + v.Tenant
	}
	return fmt.Sprintf("judged for %s in namespace %s by %s: %d denied, %d warned", who, v.Namespace, plural(len(v.Policies), "policy", "policies"), v.Denied, v.Warned)
}

// wrap breaks text at spaces so that it fits the width, each line indented. A long word stays whole, to be copied.
func wrap(text, indent string) string {
	var b strings.Builder
	column := 0
	for _, word := range strings.Fields(text) {
		if column > 0 && len(indent)+column+1+len(word) > width {
			b.WriteString("\n")
			column = 0
		}
		if column == 0 {
			b.WriteString(indent)
		} else {
			b.WriteString(" ")
			column++
		}
		b.WriteString(word)
		column += len(word)
	}
	b.WriteString("\n")
	return b.String()
}

// errWriter keeps the first error, so that printing reads like printing.
type errWriter struct {
	out io.Writer
	err error
}

func (w *errWriter) printf(format string, args ...any) {
	_, err := fmt.Fprintf(w.out, format, args...)
	w.err = errors.Join(w.err, err)
}
