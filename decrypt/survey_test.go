package decrypt

import (
	"testing"
	"testing/fstest"

	"github.com/google/go-cmp/cmp"
)

// What is surveyed of a plain folder is what render reads of it: package render has the same list in a test.
func TestSurveyOfAPlainFolder(t *testing.T) {
	files := fstest.MapFS{}
	for _, name := range []string{"a.yaml", ".b.yaml", ".c/d.yml", "sub/e.yaml", "f.json", "g.YAML"} {
		files[name] = &fstest.MapFile{}
	}
	if d := cmp.Diff([]string{".b.yaml", ".c/d.yml", "a.yaml", "sub/e.yaml"}, survey(files, ".", nil).order); d != "" {
		t.Error(d)
	}
}
