// Package policies judges objects by Policy objects written in Rego.
//
// It exists so that there is one verdict: the same engine, the same policies, the same input document and the same words
// on a laptop, in the reconciler and in the admission webhook. It is pure: it must hold no client, read no file and no
// clock, call no network, and let a policy do none of that either. It sees no secret: payloads reach a policy as keyed
// digests. Whoever asks scrubs the messages once more, because only the asker knows all values of the commit.
package policies

import (
	"crypto/sha256"
	"encoding/hex"
	"slices"
	"sort"

	"k8s.io/apimachinery/pkg/runtime/schema"

	"sealock.dev/sealock/api/sealock/v1alpha1"
)

// Snapshot is a set of compiled policies. It is immutable; a change makes a new one.
type Snapshot struct {
	all   []*compiled // by name
	exact map[schema.GroupKind][]*compiled
	rest  []*compiled // those that may match a kind which nobody lists
	id    string
}

// Compile compiles each policy on its own: a broken one is reported and left out, and takes no other down.
//
// A Policy that does not compile, or whose own tests fail, denies nothing, since nobody knows what it would have denied.
// That is loud, not silent: it is a Problem here, Ready=False on the object, and an error of sealock verify. Where a
// last good version is at hand it stays in force instead: see Next.
func Compile(list []v1alpha1.Policy) (*Snapshot, []Problem) { return (*Snapshot)(nil).Next(list) }

// Next compiles the list after s, which may be nil. What did not change is taken over as it is. A policy that became
// broken stays in force as it was in s, and its Problem says so. A policy that is gone from the list is gone.
func (s *Snapshot) Next(list []v1alpha1.Policy) (*Snapshot, []Problem) {
	before := map[string]*compiled{}
	if s != nil {
		for _, c := range s.all {
			before[c.name] = c
		}
	}
	next := &Snapshot{}
	var problems []Problem
	for i := range list {
		p := &list[i]
		old := before[p.Name]
		if digest := specDigest(p); old != nil && digest != "" && old.digest == digest {
			next.all = append(next.all, old)
			continue
		}
		c, problem := compileBounded(p)
		if problem != nil {
			if c = old; c != nil {
				problem.Kept = true
			}
			problems = append(problems, *problem)
		}
		if c != nil {
			next.all = append(next.all, c)
		}
	}
	sort.Slice(next.all, func(i, j int) bool { return next.all[i].name < next.all[j].name })
	sort.Slice(problems, func(i, j int) bool { return problems[i].Policy < problems[j].Policy })
	next.index()
	return next, problems
}

func (s *Snapshot) index() {
	s.exact = map[schema.GroupKind][]*compiled{}
	hash := sha256.New()
	for _, c := range s.all {
		hash.Write([]byte(c.name + "\x00" + c.digest + "\x00"))
		list, all := c.match.exactKinds()
		for _, gk := range list {
			s.exact[gk] = nil
		}
		if !all {
			s.rest = append(s.rest, c)
		}
	}
	for gk := range s.exact {
		for _, c := range s.all {
			if c.match.matchesKind(gk) {
				s.exact[gk] = append(s.exact[gk], c)
			}
		}
	}
	s.id = hex.EncodeToString(hash.Sum(nil))
}

// ID identifies the policies and their versions: a commit that was judged under another ID has to be judged again.
func (s *Snapshot) ID() string { return s.id }

// Names returns the names of the policies in force, sorted.
func (s *Snapshot) Names() []string {
	names := make([]string, len(s.all))
	for i, c := range s.all {
		names[i] = c.name
	}
	return names
}

// forKind returns the policies that look at the kind, by name.
func (s *Snapshot) forKind(gk schema.GroupKind) []*compiled {
	if list, known := s.exact[gk]; known {
		return list
	}
	return slices.Collect(func(yield func(*compiled) bool) {
		for _, c := range s.rest {
			if c.match.matchesKind(gk) && !yield(c) {
				return
			}
		}
	})
}
