package source

import (
	"io/fs"
	"slices"
	"strings"
	"testing"
	"testing/fstest"
)

// A folder on disk shows what the tree of its commit would show.
func TestFolder(t *testing.T) {
	files := func(names ...string) fstest.MapFS {
		out := fstest.MapFS{}
		for _, n := range names {
			name, text, _ := strings.Cut(n, "=")
			out[name] = &fstest.MapFile{Data: []byte(text)}
		}
		return out
	}
	for _, c := range []struct {
		name  string
		files fstest.MapFS
		want  string
	}{
		{"default", files("a.yaml", ".b.yaml", ".d/c.yaml", ".git/x.yaml", ".github/w.yml", "d/.sops.yaml", "e.png"), ".b.yaml .d/c.yaml a.yaml"},
		{"own", files(".sourceignore=/*\n!/d\n", "a.yaml", "d/.sourceignore=x.yaml\n", "d/x.yaml", "d/.y.yaml", "d/.git/z.yaml"), "d/.sourceignore d/.y.yaml"},
	} {
		folder, err := NewFolder(c.files)
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		if err := fs.WalkDir(folder, ".", func(name string, e fs.DirEntry, err error) error {
			if err == nil && !e.IsDir() {
				got = append(got, name)
			}
			return err
		}); err != nil || strings.Join(got, " ") != c.want {
			t.Errorf("%s: %v %v", c.name, got, err)
		}
		for name := range c.files {
			if _, err := fs.ReadFile(folder, name); (err == nil) != slices.Contains(got, name) {
				t.Errorf("%s: %s: %v", c.name, name, err)
			}
		}
	}
	big := files(".sourceignore=" + strings.Repeat("x\n", maxIgnoreFile))
	if _, err := NewFolder(big); err == nil {
		t.Error("an ignore file without a bound")
	}
}
