package source

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"

	"github.com/go-git/go-git/v5/plumbing"
)

// state is what a restart needs. It holds a keyed digest of the credentials, and no credential.
type state struct {
	Repositories []repositoryState `json:"repositories"`
	Trees        []treeState       `json:"trees"`
	Verified     string            `json:"verified,omitempty"`
}

type repositoryState struct {
	Name  string            `json:"name"`
	ID    string            `json:"id"`
	Heads map[string]string `json:"heads"`
	Parts map[string]string `json:"parts,omitempty"`
	On    []onState         `json:"on,omitempty"`
}

// onState is a commit that was seen on a branch.
type onState struct {
	Branch string `json:"branch"`
	Commit string `json:"commit"`
}

type treeState struct {
	Repository string  `json:"repository"`
	Revision   string  `json:"revision"`
	Commit     string  `json:"commit"`
	Root       string  `json:"root"`
	Shape      string  `json:"shape,omitempty"`
	Ignore     *string `json:"ignore,omitempty"`
}

const stateFile = "state.json"

// save writes the state. It is called with mu held.
func (e *entryOf) save() error {
	s := state{Verified: e.verified}
	for _, r := range e.repos {
		rs := repositoryState{Name: r.name, ID: r.id, Heads: map[string]string{}, Parts: map[string]string{}}
		r.mu.Lock()
		for want, commit := range r.heads {
			rs.Heads[want.String()] = commit.String()
		}
		for commit, url := range r.parts {
			rs.Parts[commit.String()] = url
		}
		for seen := range r.on {
			rs.On = append(rs.On, onState{seen.branch, seen.commit.String()})
		}
		r.mu.Unlock()
		s.Repositories = append(s.Repositories, rs)
	}
	for _, t := range e.trees {
		s.Trees = append(s.Trees, treeState{
			Repository: t.repo.name, Revision: t.revision, Commit: t.commit.String(), Root: t.root.String(), Shape: t.shape, Ignore: t.ignore,
		})
	}
	text, err := json.Marshal(s)
	if err != nil {
		return cacheFailure("the state of the cache cannot be written", err)
	}
	next := filepath.Join(e.dir, stateFile+".next")
	if err := os.WriteFile(next, text, 0o600); err != nil {
		return cacheFailure("the state of the cache cannot be written", err)
	}
	if err := os.Rename(next, filepath.Join(e.dir, stateFile)); err != nil {
		return cacheFailure("the state of the cache cannot be written", err)
	}
	return nil
}

// restore reads the state that an earlier process left. What does not fit together is left out, and fetched again.
func (e *entryOf) restore() {
	var s state
	text, err := os.ReadFile(filepath.Join(e.dir, stateFile))
	if err == nil {
		err = json.Unmarshal(text, &s)
	}
	if err != nil {
		s = state{}
	}
	byName := map[string]*repository{}
	for _, rs := range s.Repositories {
		if strings.ContainsAny(rs.Name, `/\.`) || rs.Name == "" {
			continue
		}
		repo := e.openRepository(rs.Name, rs.ID)
		for want, commit := range rs.Heads {
			repo.heads[plumbing.NewHash(want)] = plumbing.NewHash(commit)
		}
		for commit, url := range rs.Parts {
			repo.parts[plumbing.NewHash(commit)] = url
		}
		for _, seen := range rs.On {
			repo.on[branchCommit{seen.Branch, plumbing.NewHash(seen.Commit)}] = true
		}
		byName[rs.Name] = repo
		e.repos = append(e.repos, repo)
		e.bytes += repo.size()
	}
	e.saved, e.verified = s.Trees, s.Verified
	e.sweep(byName)
}

// sweep removes what no state names: the rest of a fetch that a crash interrupted.
func (e *entryOf) sweep(keep map[string]*repository) {
	list, _ := os.ReadDir(e.dir)
	for _, each := range list {
		if each.IsDir() && keep[each.Name()] == nil {
			_ = os.RemoveAll(filepath.Join(e.dir, each.Name()))
		}
	}
}
