package source

import (
	"fmt"
	"io/fs"
	"testing"
)

// BenchmarkTreeRead is what a build asks of a tree: a folder is walked, every entry looked at and every file read. The
// repository is opened as after a restart, so that nothing was read before.
func BenchmarkTreeRead(b *testing.B) {
	root, dir := b.TempDir(), b.TempDir()
	g := newGitRepo(b, root, "app.git")
	for i := range 300 {
		g.write(fmt.Sprintf("apps/%02d/%03d.yaml", i%30, i), fmt.Sprintf("apiVersion: v1\nkind: ConfigMap\nmetadata: {name: c%d}\ndata: {k: %q}\n", i, noise(400)))
	}
	g.push("files")
	revision := fetch(b, openCache(b, dir, DefaultLimits()), startHTTP(b, root, false).remote("app.git"), Ref{Branch: "main"}).Tree.Revision()
	b.ReportAllocs()
	for b.Loop() {
		tree, err := openCache(b, dir, DefaultLimits()).Open(b.Context(), alice.Namespace, alice.Name, revision)
		if err != nil {
			b.Fatal(err)
		}
		files := 0
		err = fs.WalkDir(tree, ".", func(name string, d fs.DirEntry, err error) error {
			if err != nil || d.IsDir() {
				return err
			}
			if _, err := fs.Stat(tree, name); err != nil {
				return err
			}
			files++
			_, err = fs.ReadFile(tree, name)
			return err
		})
		if err != nil || files != 300 {
			b.Fatal(files, err)
		}
	}
}
