package source

import (
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// TestIgnoreFileBelowAHiddenFolder: what is shown in it obeys it.
// contract: GitRepository .sourceignore
func TestIgnoreFileBelowAHiddenFolder(t *testing.T) {
	tree := mustTree(t, nil, func(g *gitRepo) {
		writeAll("deploy/app/a.yaml", "deploy/app/secret.yaml", "deploy/b.yaml", "x.yaml")(g)
		g.write(".sourceignore", "/*\n!/deploy/app\n")
		g.write("deploy/app/.sourceignore", "secret.yaml\n")
	})
	if diff := cmp.Diff([]string{"deploy/app/.sourceignore", "deploy/app/a.yaml"}, files(t, tree)); diff != "" {
		t.Error(diff)
	}
}

// TestDefaultExcludes: each name that Flux leaves out, at the root and below, is left out; what looks alike is not; and a text of
// one's own replaces all but what belongs to Git.
// contract: GitRepository default excludes
func TestDefaultExcludes(t *testing.T) {
	byGit := []string{".gitignore", ".gitmodules", ".gitattributes"}
	byFlux := []string{
		"a.jpg", "a.jpeg", "a.gif", "a.png", "a.wmv", "a.flv", "a.tar.gz", "a.zip",
		".github/workflows/a.yaml", ".circleci/config.yml", ".travis.yml", ".gitlab-ci.yml", "appveyor.yml", ".drone.yml", "cloudbuild.yaml",
		"codeship-services.yml", "codeship-steps.yml", ".goreleaser.yml", ".sops.yaml", ".flux.yaml",
	}
	seen := []string{"a.yaml", "a.tgz", "a.svg", "a.jpg.yaml", "github/a.yaml", ".goreleaser.yaml", "sops.yaml", ".gitkeep", ".drone.yaml", "travis.yml"}
	var all, shown, own []string
	for _, below := range []string{"", "deploy/prod/"} {
		for _, name := range slices.Concat(byGit, byFlux, seen) {
			all = append(all, below+name)
		}
		for _, name := range seen {
			shown = append(shown, below+name)
		}
		for _, name := range slices.Concat(byFlux, seen) {
			own = append(own, below+name)
		}
	}
	tree := mustTree(t, nil, writeAll(all...))
	slices.Sort(shown)
	got := files(t, tree)
	slices.Sort(got)
	if diff := cmp.Diff(shown, got); diff != "" {
		t.Errorf("by default: %s", diff)
	}
	nothing := "never-there"
	tree = mustTree(t, &nothing, writeAll(all...))
	slices.Sort(own)
	got = files(t, tree)
	slices.Sort(got)
	if diff := cmp.Diff(own, got); diff != "" {
		t.Errorf("with spec.ignore: %s", diff)
	}
}
