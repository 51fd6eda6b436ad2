package source

import (
	"bytes"
	"net/url"
	"path"
	"slices"
	"strings"

	"github.com/go-git/go-git/v5/plumbing"
	"github.com/go-git/go-git/v5/plumbing/filemode"
	gitconfig "github.com/go-git/go-git/v5/plumbing/format/config"
	"github.com/go-git/go-git/v5/plumbing/object"

	"sealock.dev/sealock/fault"
)

const (
	modulesFile = ".gitmodules"
	// maxModulesFile, maxSubmodules and maxModuleDepth bound what a stranger may make us fetch.
	maxModulesFile = 64 << 10
	maxSubmodules  = 100
	maxModuleDepth = 8
)

// modules are the entries of a .gitmodules file: path to URL.
type modules map[string]string

func badModule(what, text string) *fault.Error {
	e := inFile(fault.Invalid, modulesFile, text+": '"+printable(what)+"'")
	return e.Fix("correct .gitmodules, or set spec.recurseSubmodules to false")
}

// printable returns the beginning of a stranger's text, fit for a status.
func printable(text string) string { return subject(text) }

// parseModules reads a .gitmodules file. Entries that could mean something outside of the repository, or to a program
// that reads options, are refused, whether a submodule uses them or not.
func parseModules(text []byte) (m modules, err error) {
	defer func() {
		if recover() != nil { // the parser is fed by strangers
			m, err = nil, badModule("", "the file cannot be read")
		}
	}()
	cfg := gitconfig.New()
	if gitconfig.NewDecoder(bytes.NewReader(text)).Decode(cfg) != nil {
		return nil, badModule("", "the file cannot be read")
	}
	m = modules{}
	for _, s := range cfg.Section("submodule").Subsections {
		at, from := s.Option("path"), s.Option("url")
		if strings.HasPrefix(at, "-") || strings.HasPrefix(from, "-") {
			return nil, badModule(s.Name, "a submodule has a path or URL that looks like an option")
		}
		if slices.Contains(strings.Split(s.Name, "/"), "..") {
			return nil, badModule(s.Name, "the name of a submodule leaves the repository")
		}
		clean, ok := cleanPath(at)
		if !ok || clean == "." {
			return nil, badModule(at, "the path of a submodule leaves the repository, or is no path")
		}
		if _, twice := m[clean]; twice {
			return nil, badModule(at, "two submodules have one path")
		}
		m[clean] = from
	}
	return m, nil
}

// resolveModule returns the URL of a submodule. Relative ones are relative to the repository that names them, as in Git.
func resolveModule(parent, from string) (string, error) {
	if from == "" {
		return "", badModule(from, "a submodule has no URL")
	}
	if strings.HasPrefix(from, "./") || strings.HasPrefix(from, "../") {
		return relativeModule(parent, from)
	}
	if !strings.Contains(from, "://") {
		host, at, ok := strings.Cut(from, ":")
		if !ok || strings.Contains(host, "/") || at == "" || strings.HasPrefix(at, ":") {
			return "", badModule(from, "the URL of a submodule is a path of a machine, which is never read")
		}
		from = "ssh://" + host + "/" + strings.TrimPrefix(at, "/") // the short form of ssh
	}
	return from, checkModule(from)
}

func relativeModule(parent, from string) (string, error) {
	u, err := url.Parse(parent)
	if err != nil {
		return "", badURL("it cannot be parsed")
	}
	at := strings.TrimSuffix(u.Path, "/")
	for {
		if rest, ok := strings.CutPrefix(from, "./"); ok {
			from = rest
			continue
		}
		rest, ok := strings.CutPrefix(from, "../")
		if !ok {
			break
		}
		if at == "" {
			return "", badModule(from, "the relative URL of a submodule leaves its server")
		}
		at, from = at[:strings.LastIndex(at, "/")], rest
	}
	target := *u
	target.Path, target.RawPath = path.Join("/", at, from), ""
	if slices.Contains(strings.Split(from, "/"), "..") {
		return "", badModule(from, "the relative URL of a submodule leaves its server")
	}
	out := target.String()
	return out, checkModule(out)
}

func checkModule(rawURL string) error {
	if _, err := (Remote{URL: rawURL}).parse(); err != nil {
		what := rawURL
		if u, err := url.Parse(rawURL); err == nil {
			what = u.Redacted()
		}
		return badModule(what, "the URL of a submodule is not http, https or ssh, or holds more than it should")
	}
	return nil
}

// module is the remote of a submodule. Credentials go to the server that they were given for, and to no other one.
func (r Remote) module(rawURL string) (Remote, error) {
	own, err := r.parse()
	if err != nil {
		return Remote{}, err
	}
	to, err := url.Parse(rawURL)
	if err != nil {
		return Remote{}, badURL("it cannot be parsed")
	}
	if r.Allows != nil && !r.Allows(rawURL) {
		what := badModule(to.Redacted(), "a submodule is in a place that is not allowed")
		what.Kind = fault.Denied
		return Remote{}, what.Fix("use a repository that spec.git.urls of the Tenant allows")
	}
	out := r
	out.URL = rawURL
	if to.Scheme != own.Scheme || !strings.EqualFold(to.Host, own.Host) {
		if to.Scheme == "ssh" {
			return Remote{}, badModule(to.Redacted(), "a submodule is on another ssh server, to which the credentials are not sent").
				Fix("use a submodule on the same server, or one that https serves to everybody")
		}
		out.Auth = nil
	}
	return out, nil
}

// nesting fetches the submodules of a tree, and theirs.
type nesting struct {
	*fetching
	repo  *repository
	left  int   // how many submodules may still come
	bytes int64 // how many bytes
}

// submodules returns the root with every submodule put in its place.
func (f *fetching) submodules(repo *repository, root plumbing.Hash, c *object.Commit) (plumbing.Hash, error) {
	n := nesting{fetching: f, repo: repo, left: maxSubmodules, bytes: f.entry.all.limits.Transfer}
	return n.expand(root, c.TreeHash, []string{f.remote.URL})
}

// expand works on the tree of one repository. full is its whole root, where .gitmodules is; chain the URLs that led here.
func (n *nesting) expand(root, full plumbing.Hash, chain []string) (plumbing.Hash, error) {
	entries, err := n.repo.folder(full)
	if err != nil {
		return plumbing.ZeroHash, err
	}
	at := slices.IndexFunc(entries, func(e node) bool { return e.name == modulesFile })
	if at < 0 {
		return root, nil
	}
	if entries[at].isDir() || entries[at].mode == filemode.Symlink {
		return plumbing.ZeroHash, badModule("", "it is no file")
	}
	text, err := n.repo.blob(entries[at].hash, maxModulesFile)
	if err != nil {
		return plumbing.ZeroHash, badModule("", "the file cannot be read, or is too large")
	}
	known, err := parseModules(text)
	if err != nil {
		return plumbing.ZeroHash, err
	}
	if err := n.noLinks(full, known); err != nil {
		return plumbing.ZeroHash, err
	}
	return n.replace(root, "", known, chain)
}

// noLinks refuses a submodule at or below a symlink: on a disk it would end up where the link points to.
func (n *nesting) noLinks(root plumbing.Hash, known modules) error {
	for at := range known {
		folder := root
		for _, part := range strings.Split(at, "/") {
			entries, err := n.repo.folder(folder)
			if err != nil {
				return err
			}
			i := slices.IndexFunc(entries, func(e node) bool { return e.name == part })
			if i < 0 || entries[i].mode == filemode.Submodule {
				break
			}
			if entries[i].mode == filemode.Symlink {
				return badModule(at, "the path of a submodule goes over a symlink")
			}
			if entries[i].mode != filemode.Dir {
				break
			}
			folder = entries[i].hash
		}
	}
	return nil
}

// replace returns the folder with the submodules in it, and below, fetched and in their places.
func (n *nesting) replace(folder plumbing.Hash, at string, known modules, chain []string) (plumbing.Hash, error) {
	entries, err := n.repo.folder(folder)
	if err != nil {
		return plumbing.ZeroHash, err
	}
	changed := false
	for i, e := range entries {
		name := path.Join(at, e.name)
		below := false
		for each := range known {
			below = below || strings.HasPrefix(each, name+"/")
		}
		from, is := known[name]
		switch {
		case e.mode == filemode.Dir && below:
			h, err := n.replace(e.hash, name, known, chain)
			if err != nil {
				return plumbing.ZeroHash, err
			}
			changed = changed || h != e.hash
			entries[i].hash = h
		case e.mode == filemode.Submodule && is:
			h, err := n.fetch(from, e.hash, chain)
			if err != nil {
				return plumbing.ZeroHash, inModule(name, err)
			}
			changed = true
			entries[i] = node{name: e.name, mode: filemode.Dir, hash: h}
		}
	}
	if !changed {
		return folder, nil
	}
	return n.repo.putTree(entries)
}

// inModule says in which submodule it went wrong.
func inModule(at string, err error) error {
	all := fault.All(err)
	if len(all) == 0 {
		return err
	}
	named := all[0].At(all[0].Field)
	if named.Ref.File == "" {
		named.Ref.File = at
	}
	if named.Field == "spec.url" || strings.HasPrefix(named.Field, "spec.ref") {
		named.Field = "spec.recurseSubmodules"
	}
	return named
}

// fetch brings the commit of one submodule, and returns its tree with its own submodules in place.
func (n *nesting) fetch(from string, commit plumbing.Hash, chain []string) (plumbing.Hash, error) {
	rawURL, err := resolveModule(chain[len(chain)-1], from)
	if err != nil {
		return plumbing.ZeroHash, err
	}
	seen := 0
	for _, each := range chain {
		if each == rawURL {
			seen++
		}
	}
	// A repository may hold an older state of itself; more than that goes round in circles.
	if len(chain) > maxModuleDepth || seen > 1 {
		return plumbing.ZeroHash, badModule(from, "the submodules lead into a loop, or are nested too deeply")
	}
	if n.left--; n.left < 0 {
		return plumbing.ZeroHash, badModule(from, "there are too many submodules")
	}
	if !n.repo.hasPart(commit, rawURL) {
		if err := n.receive(rawURL, commit); err != nil {
			return plumbing.ZeroHash, classify(n.ctx, err)
		}
	}
	c, err := n.repo.peel(commit)
	if err != nil {
		return plumbing.ZeroHash, err
	}
	return n.expand(c.TreeHash, c.TreeHash, append(chain[:len(chain):len(chain)], rawURL))
}

// receive asks the server of a submodule for a commit.
func (n *nesting) receive(rawURL string, commit plumbing.Hash) error {
	remote, err := n.remote.module(rawURL)
	if err != nil {
		return err
	}
	f := &fetching{entry: n.entry, ctx: n.ctx, remote: remote, limit: max(n.bytes, 1)}
	if err := f.connect(); err != nil {
		return err
	}
	defer f.close()
	sel, err := f.choose(Ref{Commit: commit.String()})
	if err != nil {
		return err
	}
	ask := f.request(sel)
	if ask.shallow && f.negotiates() {
		ask.haves = n.repo.partsOf(rawURL)
	}
	before := n.repo.size()
	if err := f.ask(n.repo, ask, sel); err != nil {
		return err
	}
	n.bytes -= n.repo.size() - before
	c, err := f.check(n.repo, sel)
	if err != nil {
		return err
	}
	if c.Hash != commit {
		return broken("the submodule names no commit")
	}
	n.repo.settlePart(commit, rawURL)
	return nil
}

func (r *repository) hasPart(commit plumbing.Hash, rawURL string) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.parts[commit] == rawURL
}

func (r *repository) settlePart(commit plumbing.Hash, rawURL string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.parts[commit] = rawURL
	r.grown++
}

// partsOf returns the commits of a submodule that are here.
func (r *repository) partsOf(rawURL string) []plumbing.Hash {
	r.mu.Lock()
	defer r.mu.Unlock()
	var out []plumbing.Hash
	for commit, from := range r.parts {
		if from == rawURL {
			out = append(out, commit)
		}
	}
	plumbing.HashesSort(out)
	return out
}
