// Package builtin holds the policies that Sealock ships for tenants.
//
// It exists so that a tenant is fenced from the first minute, also before anybody wrote a policy. They are ordinary
// Policy objects, installed with the rest so that everybody can read them and the platform team can adjust them: a Policy
// in the cluster replaces the shipped one of its name. One that is deleted holds all the same; to switch one off, set
// its enforcement to off. The package must hold no rule in Go.
package builtin

import (
	"bytes"
	"embed"
	"encoding/json"
	"errors"

	kjson "sigs.k8s.io/json"
	"sigs.k8s.io/yaml"

	"sealock.dev/sealock/api/sealock/v1alpha1"
	"sealock.dev/sealock/manifest"
	"sealock.dev/sealock/policies"
)

//go:embed *.yaml
var files embed.FS

// YAML returns the shipped policies as one file without aliases, for sealock install.
func YAML() []byte {
	var out bytes.Buffer
	for _, body := range bodies() {
		text, err := yaml.Marshal(body)
		if err != nil {
			panic("builtin: " + err.Error()) // what was decoded can be encoded
		}
		out.WriteString("---\n")
		out.Write(text)
	}
	return out.Bytes()
}

// Policies returns the shipped policies, sorted by file name. The caller may change them.
func Policies() []v1alpha1.Policy {
	var out []v1alpha1.Policy
	for _, body := range bodies() {
		p, err := policy(body)
		if err != nil {
			panic("builtin: " + err.Error()) // the tests read every file
		}
		out = append(out, p)
	}
	return out
}

func bodies() []map[string]any {
	entries, err := files.ReadDir(".")
	if err != nil {
		panic("builtin: " + err.Error()) // an embedded folder does not go away
	}
	var out []map[string]any
	for _, e := range entries {
		text, err := files.ReadFile(e.Name())
		if err != nil {
			panic("builtin: " + err.Error())
		}
		docs, err := manifest.Decode(e.Name(), text, manifest.DefaultLimits)
		if err != nil {
			panic("builtin: " + err.Error()) // the tests read every file
		}
		for _, d := range docs {
			out = append(out, d.Body)
		}
	}
	return out
}

func policy(body map[string]any) (v1alpha1.Policy, error) {
	var p v1alpha1.Policy
	text, err := json.Marshal(body)
	if err != nil {
		return p, err
	}
	strict, err := kjson.UnmarshalStrict(text, &p)
	return p, errors.Join(append(strict, err)...)
}

// Merge returns the list, and the shipped policies whose names it lacks.
func Merge(list []v1alpha1.Policy) []v1alpha1.Policy {
	have := map[string]bool{}
	for i := range list {
		have[list[i].Name] = true
	}
	out := append([]v1alpha1.Policy(nil), list...)
	for _, p := range Policies() {
		if !have[p.Name] {
			out = append(out, p)
		}
	}
	return out
}

// Load compiles the policies of a cluster, and the shipped ones that it lacks, after prev, which may be nil. Where a
// cluster's version of a shipped policy is broken and there is no good one from before, the shipped one is in force.
func Load(prev *policies.Snapshot, list []v1alpha1.Policy) (*policies.Snapshot, []policies.Problem) {
	if prev == nil {
		shipped, problems := policies.Compile(Policies())
		if len(problems) > 0 {
			return shipped, problems // a bug of ours, which the tests of this package find
		}
		prev = shipped
	}
	return prev.Next(Merge(list))
}
