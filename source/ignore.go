package source

import (
	"crypto/sha256"
	"encoding/hex"
	"strings"

	"github.com/go-git/go-git/v5/plumbing/format/gitignore"

	"sealock.dev/sealock/fault"
)

// ignoreFile holds patterns for its folder, in the repository.
const ignoreFile = ".sourceignore"

const (
	maxIgnoreFile = 64 << 10
	maxPatterns   = 2_000
	maxPattern    = 1 << 10
)

// What is left out of every tree, and what is left out where the repository and the source say nothing. These lists are
// Flux's contract. Note .sops.yaml: creation rules are for people who encrypt, and do not reach the cluster.
const (
	excludeVCS = ".git/ .gitignore .gitmodules .gitattributes"

	excludeDefault = "*.jpg *.jpeg *.gif *.png *.wmv *.flv *.tar.gz *.zip " +
		".github/ .circleci/ .travis.yml .gitlab-ci.yml appveyor.yml .drone.yml cloudbuild.yaml codeship-services.yml codeship-steps.yml " +
		"**/.goreleaser.yml **/.sops.yaml **/.flux.yaml"
)

// rules decide which files of a tree are seen. A path is judged by itself, not by its folder: "!/deploy/a.yaml" after
// "/*" shows that file, as in Flux and unlike in git.
type rules struct {
	matcher gitignore.Matcher
	digest  string
}

// rulesBuilder collects patterns in ascending priority.
type rulesBuilder struct {
	patterns []gitignore.Pattern
	text     strings.Builder
}

// add reads the patterns of one text for one folder.
func (b *rulesBuilder) add(text string, domain []string) error {
	b.text.WriteString(strings.Join(domain, "/") + "\x00" + text + "\x00")
	for line := range strings.Lines(text) {
		line = strings.TrimRight(line, "\r\n")
		if strings.HasPrefix(line, "#") || strings.TrimSpace(line) == "" {
			continue
		}
		if len(line) > maxPattern || len(b.patterns) >= maxPatterns {
			return fail(fault.Invalid, ReasonInvalid, "there are too many ignore patterns, or one is too long").
				Fix("keep to %d patterns of at most %d bytes", maxPatterns, maxPattern)
		}
		b.patterns = append(b.patterns, gitignore.ParsePattern(line, domain))
	}
	return nil
}

// rules returns the rules of the files in the repository and of the text of the source, which has the last word.
func (b *rulesBuilder) rules(ignore *string) (*rules, error) {
	if ignore != nil {
		if err := b.add(*ignore, nil); err != nil {
			return nil, atField(err, "spec.ignore")
		}
	}
	all := b.patterns[:len(b.patterns):len(b.patterns)]
	if len(all) == 0 {
		all = parsePatterns(excludeDefault)
	}
	// Last, so that "!/deploy" does not bring them back.
	all = append(all, parsePatterns(excludeVCS)...)
	sum := sha256.Sum256([]byte(b.text.String()))
	return &rules{matcher: gitignore.NewMatcher(all), digest: hex.EncodeToString(sum[:8])}, nil
}

func parsePatterns(list string) []gitignore.Pattern {
	var out []gitignore.Pattern
	for _, p := range strings.Fields(list) {
		out = append(out, gitignore.ParsePattern(p, nil))
	}
	return out
}

// hides reports whether the rules leave the path out.
func (r *rules) hides(path []string, isDir bool) bool {
	return len(path) > 0 && r.matcher.Match(path, isDir)
}

func atField(err error, field string) error {
	for _, f := range fault.All(err) {
		return f.At(field)
	}
	return err
}
