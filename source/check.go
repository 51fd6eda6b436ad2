package source

import (
	"strings"
	"unicode"

	"github.com/go-git/go-git/v5/plumbing"
	"github.com/go-git/go-git/v5/plumbing/filemode"
	"github.com/go-git/go-git/v5/plumbing/object"

	"sealock.dev/sealock/fault"
)

// complete checks that all below a folder is here and within the limits. Folders that were found complete before are not
// looked at again.
func complete(repo *repository, root plumbing.Hash, limits Limits) (summary, error) {
	s := &survey{repo: repo, limits: limits}
	sum, err := s.walk(root, 0)
	if err == nil && sum.entries > limits.Files {
		err = s.tooMany()
	}
	return sum, err
}

// newTree checks that all below the root is here and within the limits, reads the ignore files, and returns the tree.
func newTree(repo *repository, c *object.Commit, root plumbing.Hash, revision string, ignore *string, limits Limits) (*Tree, error) {
	sum, err := complete(repo, root, limits)
	if err != nil {
		return nil, err
	}
	var b rulesBuilder
	if sum.ignores {
		if err := (&survey{repo: repo, limits: limits}).ignoreFiles(&b, root, nil); err != nil {
			return nil, err
		}
	}
	r, err := b.rules(ignore)
	if err != nil {
		return nil, err
	}
	return &Tree{
		repo: repo, commit: c.Hash, root: root, revision: revision, subject: subject(c.Message),
		ignore: ignore, rules: r, limits: limits,
	}, nil
}

// subject returns the first line of a message, as text that is safe in an event.
func subject(message string) string {
	line, _, _ := strings.Cut(strings.TrimSpace(message), "\n")
	line = strings.Map(func(c rune) rune {
		if !unicode.IsPrint(c) {
			return ' '
		}
		return c
	}, strings.ToValidUTF8(line, " "))
	for len(line) > 200 {
		cut := line[:200]
		line = strings.ToValidUTF8(cut, "")
	}
	return strings.TrimSpace(line)
}

// survey walks the folders of a commit.
type survey struct {
	repo   *repository
	limits Limits
}

func (s *survey) tooMany() error {
	return fail(fault.Invalid, ReasonInvalid, "the repository has more files than the limit").Fix("keep to %d files and folders in a repository", s.limits.Files)
}

func (s *survey) walk(h plumbing.Hash, depth int) (summary, error) {
	if depth > maxDepth {
		return summary{}, fail(fault.Invalid, ReasonInvalid, "the folders of the repository are nested too deeply").Fix("keep to %d levels", maxDepth)
	}
	if known, ok := s.repo.summaryOf(h); ok && known.depth+depth <= maxDepth {
		return known, nil
	}
	entries, err := s.repo.folder(h)
	if err != nil {
		return summary{}, err
	}
	sum := summary{entries: len(entries), depth: 1}
	for _, e := range entries {
		// The sum is checked on the way: equal folders can be nested so that they name more files than there are atoms.
		if sum.entries > s.limits.Files {
			return summary{}, s.tooMany()
		}
		switch {
		case e.mode == filemode.Dir:
			below, err := s.walk(e.hash, depth+1)
			if err != nil {
				return summary{}, err
			}
			sum.entries += below.entries
			sum.depth = max(sum.depth, below.depth+1)
			sum.ignores = sum.ignores || below.ignores
		case e.mode == filemode.Submodule:
		case !s.repo.has(e.hash):
			return summary{}, broken("a file of the repository is missing in what the Git server sent")
		case e.name == ignoreFile && e.mode != filemode.Symlink:
			sum.ignores = true
		}
	}
	s.repo.remember(h, sum)
	return sum, nil
}

// ignoreFiles collects the ignore files from the top down, also in folders that are left out: files in them may be shown.
func (s *survey) ignoreFiles(b *rulesBuilder, h plumbing.Hash, at []string) error {
	entries, err := s.repo.folder(h)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if e.name != ignoreFile || e.isDir() || e.mode == filemode.Symlink {
			continue
		}
		name := strings.Join(append(at[:len(at):len(at)], e.name), "/")
		text, err := s.repo.blob(e.hash, maxIgnoreFile)
		if err != nil {
			return inFile(fault.Invalid, name, "the ignore file cannot be read, or is too large").Fix("keep it under %d KiB", maxIgnoreFile>>10)
		}
		if err := b.add(string(text), at); err != nil {
			f := fault.All(err)[0].At("")
			f.Ref.File = name
			return f
		}
	}
	for _, e := range entries {
		if e.mode != filemode.Dir {
			continue
		}
		below := append(at[:len(at):len(at)], e.name)
		if known, ok := s.repo.summaryOf(e.hash); ok && !known.ignores {
			continue
		}
		if err := s.ignoreFiles(b, e.hash, below); err != nil {
			return err
		}
	}
	return nil
}

func (r *repository) summaryOf(h plumbing.Hash) (summary, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	s, ok := r.known[h]
	return s, ok
}

func (r *repository) remember(h plumbing.Hash, s summary) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.known) < maxSummaries {
		r.known[h] = s
	}
}

// has reports whether the object is in the repository.
func (r *repository) has(h plumbing.Hash) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.store.HasEncodedObject(h) == nil
}
