package source

import (
	"cmp"
	"crypto/sha256"
	"regexp"
	"strings"

	"github.com/Masterminds/semver/v3"
	"github.com/go-git/go-git/v5/plumbing"
	"github.com/go-git/go-git/v5/plumbing/protocol/packp"

	"sealock.dev/sealock/fault"
)

// Ref says what to check out. Commit goes before Name, Name before SemVer, SemVer before Tag, Tag before Branch; none
// is the branch master. Commit may come with Branch, where servers that hand out no commit by hash find it.
type Ref struct {
	Branch, Tag, SemVer, Name, Commit string
	// Again is a revision that the reference meant before: exactly that one is fetched, wherever the reference has moved.
	Again string
}

const headsPrefix, tagsPrefix = "refs/heads/", "refs/tags/"

// selection is what a Ref means to one reference listing.
type selection struct {
	want   plumbing.Hash // what to ask the server for: a commit, or the object of an annotated tag
	commit plumbing.Hash // zero when only the tag object tells
	label  string        // what the revision begins with; "" for a commit alone
	// branch is set when a commit has to be in the history of one.
	branch string
	// history is the references whose history holds the commit; set only when want is not advertised.
	history []plumbing.Hash
}

// digest tells apart what was looked for, and in which history.
func (s selection) digest() string {
	sum := sha256.New()
	plumbing.HashesSort(s.history)
	for _, h := range append(s.history, s.want) {
		_, _ = sum.Write(h[:]) // a hash takes everything
	}
	return string(sum.Sum(nil))
}

// revision returns the revision string that Flux's APIs carry.
func (s selection) revision(commit plumbing.Hash) string {
	if s.label == "" {
		return "sha1:" + commit.String()
	}
	return s.label + "@sha1:" + commit.String()
}

var commitShape = regexp.MustCompile(`^[0-9a-f]{40}$`)

// CommitOf returns the commit hash of a revision: main@sha1:<hex>, v1@sha1:<hex>, refs/heads/x@sha1:<hex> or sha1:<hex>.
func CommitOf(revision string) (string, bool) {
	at := strings.LastIndex(revision, "@")
	sum, ok := strings.CutPrefix(revision[at+1:], "sha1:")
	if !ok || !commitShape.MatchString(sum) || at == 0 {
		return "", false
	}
	return sum, true
}

// Validate says whether the fields can mean anything.
func (r Ref) Validate() error {
	switch {
	case r.Commit != "" && !commitShape.MatchString(strings.ToLower(r.Commit)):
		return badRef("commit", "it is not a full SHA-1 of 40 hex digits")
	case r.Name != "" && !strings.HasPrefix(r.Name, "refs/"):
		return badRef("name", "it does not begin with refs/")
	case r.SemVer != "":
		if _, err := semver.NewConstraint(r.SemVer); err != nil {
			return badRef("semver", "it is not a version range")
		}
	}
	return nil
}

func badRef(field, why string) *fault.Error {
	return fail(fault.Invalid, ReasonOperation, "the reference cannot be used: "+why).At("spec.ref." + field)
}

// byTag reports whether a tag is checked out as such, so that its own signature can be asked for.
func (r Ref) byTag() bool { return r.Commit == "" && r.Name == "" && (r.SemVer != "" || r.Tag != "") }

// choose applies the precedence to a reference listing.
func (r Ref) choose(refs *packp.AdvRefs) (selection, error) {
	switch {
	case r.Again != "":
		return r.chooseAgain(refs)
	case r.Commit != "":
		return r.chooseCommit(refs)
	case r.Name != "":
		return advertised(refs, r.Name, r.Name, "name")
	case r.SemVer != "":
		tag, err := r.newest(refs)
		if err != nil {
			return selection{}, err
		}
		return advertised(refs, tagsPrefix+tag, tag, "semver")
	case r.Tag != "":
		return advertised(refs, tagsPrefix+r.Tag, r.Tag, "tag")
	case r.Branch != "":
		return advertised(refs, headsPrefix+r.Branch, r.Branch, "branch")
	}
	return advertised(refs, headsPrefix+"master", "master", "branch")
}

func advertised(refs *packp.AdvRefs, name, label, field string) (selection, error) {
	hash, ok := refs.References[name]
	if !ok {
		return selection{}, fail(fault.NotFound, ReasonOperation, "the Git repository has no reference '"+name+"'").At("spec.ref." + field).
			Fix("push it, or correct spec.ref")
	}
	s := selection{want: hash, commit: hash, label: label}
	if peeled, ok := refs.Peeled[name]; ok {
		s.commit = peeled
	}
	return s, nil
}

// chooseAgain finds what a revision was made of: a reference that still stands there, so that the object of a tag can be
// verified, or else the commit alone.
func (r Ref) chooseAgain(refs *packp.AdvRefs) (selection, error) {
	hex, ok := CommitOf(r.Again)
	if !ok {
		return selection{}, badRef("commit", "the revision that was fetched before names no commit")
	}
	label := r.Again[:max(strings.LastIndex(r.Again, "@"), 0)]
	for _, name := range []string{label, tagsPrefix + label, headsPrefix + label} {
		if s, err := advertised(refs, name, label, "name"); err == nil && s.commit.String() == hex {
			return s, nil
		}
	}
	s, err := Ref{Commit: hex}.chooseCommit(refs)
	s.label = label
	return s, err
}

func (r Ref) chooseCommit(refs *packp.AdvRefs) (selection, error) {
	hash := plumbing.NewHash(r.Commit)
	s := selection{want: hash, commit: hash, label: r.Branch, branch: r.Branch}
	if r.Branch != "" {
		branch, err := advertised(refs, headsPrefix+r.Branch, r.Branch, "branch")
		if err != nil {
			return selection{}, err
		}
		if branch.want == hash {
			return s, nil
		}
		s.history = []plumbing.Hash{branch.want}
		return s, nil
	}
	for name, tip := range refs.References {
		if tip == hash {
			return selection{want: hash, commit: hash}, nil
		}
		if strings.HasPrefix(name, headsPrefix) || strings.HasPrefix(name, tagsPrefix) {
			s.history = append(s.history, tip)
		}
	}
	return s, nil
}

// newest returns the tag of the highest version in the range. A tag counts when it is a whole version, with or without a v in
// front: 20240101 and v3 are none. Of equal versions the one with the higher build metadata is taken: the listing tells no times.
func (r Ref) newest(refs *packp.AdvRefs) (string, error) {
	limit, err := semver.NewConstraint(r.SemVer)
	if err != nil {
		return "", badRef("semver", "it is not a version range")
	}
	var best *semver.Version
	var tag string
	for name := range refs.References {
		short, ok := strings.CutPrefix(name, tagsPrefix)
		if !ok {
			continue
		}
		v, err := semver.StrictNewVersion(strings.TrimPrefix(short, "v"))
		if err != nil || !limit.Check(v) {
			continue
		}
		// v1.0.0 and 1.0.0 are told apart by name, always alike.
		if best == nil || cmp.Or(v.Compare(best), byNumbers(v.Metadata(), best.Metadata()), cmp.Compare(short, tag)) > 0 {
			best, tag = v, short
		}
	}
	if best == nil {
		return "", fail(fault.NotFound, ReasonOperation, "no tag of the Git repository is in the version range").At("spec.ref.semver").Fix("push such a tag, or widen the range")
	}
	return tag, nil
}

// byNumbers compares texts so that the numbers in them count as numbers: b9 comes before b10.
func byNumbers(a, b string) int {
	for a != "" && b != "" {
		x, y := leading(a), leading(b)
		a, b = a[len(x):], b[len(y):]
		if number(x) && number(y) {
			x, y = strings.TrimLeft(x, "0"), strings.TrimLeft(y, "0")
			if c := cmp.Compare(len(x), len(y)); c != 0 {
				return c
			}
		}
		if c := cmp.Compare(x, y); c != 0 {
			return c
		}
	}
	return cmp.Compare(len(a), len(b))
}

// leading returns the digits that a text begins with, or else its first byte.
func leading(text string) string {
	n := len(text) - len(strings.TrimLeft(text, "0123456789"))
	return text[:max(n, 1)]
}

func number(text string) bool { return text[0] >= '0' && text[0] <= '9' }
