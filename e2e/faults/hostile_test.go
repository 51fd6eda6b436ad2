package faults

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// memoryBound is what the whole process may ever have used after all hostile repositories of this package. It is generous:
// what is to be noticed is memory that follows the size of the input.
const memoryBound = 768 << 20

// hostile are repositories that somebody made to hurt: how to write the folder "app", and what the condition has to name.
var hostile = map[string]struct {
	write func(dir string) error
	names []string
}{
	"symlink-out":  {func(dir string) error { return os.Symlink("/etc/passwd", filepath.Join(dir, "evil.yaml")) }, []string{"evil.yaml"}},
	"symlink-up":   {func(dir string) error { return os.Symlink("../../../../etc/passwd", filepath.Join(dir, "evil.yaml")) }, []string{"evil.yaml"}},
	"symlink-loop": {func(dir string) error { return os.Symlink("evil.yaml", filepath.Join(dir, "evil.yaml")) }, []string{"evil.yaml"}},
	"dotdot":       {file("kustomization.yaml", "resources: [../../../etc]\n"), []string{"kustomization.yaml"}},
	"huge-file": {func(dir string) error {
		return os.WriteFile(filepath.Join(dir, "huge.yaml"), make([]byte, 60<<20), 0o600)
	}, []string{"huge.yaml"}},
	"huge-document": {
		file("big.yaml", manifestOf("ConfigMap/x", strings.Repeat("x", 8<<20))), []string{"big.yaml"},
	},
	"deep-tree": {func(dir string) error {
		deep := filepath.Join(dir, strings.Repeat("d/", 1500))
		return writeIn(deep, "x.yaml", manifestOf("ConfigMap/x", "1"))
	}, nil},
	"deep-yaml":  {file("deep.yaml", "a: "+strings.Repeat("[", 200_000)+"\n"), []string{"deep.yaml"}},
	"deep-json":  {file("deep.yaml", strings.Repeat(`{"a":`, 100_000)+"1"+strings.Repeat("}", 100_000)), []string{"deep.yaml"}},
	"alias-bomb": {file("bomb.yaml", bomb()), []string{"bomb.yaml", "alias"}},
	"many-files": {func(dir string) error {
		for i := range 10_000 {
			if err := writeIn(dir, fmt.Sprintf("cm-%05d.yaml", i), manifestOf(fmt.Sprintf("ConfigMap/cm-%05d", i), "1")); err != nil {
				return err
			}
		}
		return writeIn(dir, "plain.yaml", "apiVersion: v1\nkind: Secret\nmetadata: {name: plain}\nstringData: {a: b}\n") // no policy lets it in
	}, []string{"plain"}},
}

func file(name, text string) func(string) error {
	return func(dir string) error { return writeIn(dir, name, text) }
}

func writeIn(dir, name, text string) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600)
}

// bomb is a document that grows tenfold with each of its nine lines.
func bomb() string {
	text := "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: x}\na: &a [x,x,x,x,x,x,x,x,x,x]\n"
	for i := range 9 {
		text += fmt.Sprintf("%c: &%c [%s]\n", 'b'+i, 'b'+i, strings.TrimSuffix(strings.Repeat(fmt.Sprintf("*%c,", 'a'+i), 10), ","))
	}
	return text
}

// TestHostileRepositories: each is refused with a condition that names what is wrong, nothing of it is written, the process
// lives on within its memory, and another tenant's commits go in meanwhile.
func TestHostileRepositories(t *testing.T) {
	t.Parallel()
	now := set{"ConfigMap/a": "0"}
	bystander := begin(t, "bystander", now)
	pid := world.Pid(main)
	t.Run("all", func(t *testing.T) {
		for name, each := range hostile {
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				tm := newTeam(t, "hostile-"+name)
				dir := filepath.Join(tm.Dir, "clones", tm.name)
				tm.push(map[string]string{"app/keep.yaml": manifestOf("ConfigMap/innocent", "1")})
				tm.ok(each.write(filepath.Join(dir, "app")))
				_, err := tm.CommitAndPush(tm.ctx, tm.name, "hostile")
				tm.ok(err)
				tm.apply(tm.source() + tm.sync("app"))
				message := tm.refused()
				for _, want := range each.names {
					if !strings.Contains(message, want) {
						t.Errorf("the conditions do not name %q: %s", want, message)
					}
				}
				if strings.Contains(message, "root:") {
					t.Error("the conditions quote a file of this machine")
				}
				t.Log(message[:min(len(message), 300)])
				if live := tm.live("app"); len(live) > 0 {
					t.Errorf("%d objects of a refused commit were written", len(live))
				}
			})
		}
		t.Run("meanwhile", func(t *testing.T) {
			t.Parallel()
			tm := *bystander
			tm.T = t
			for i := range 5 {
				next := set{"ConfigMap/a": fmt.Sprint(i + 1)}
				tm.deliver(now, next)
				now = next
			}
		})
	})
	if world.Pid(main) != pid {
		t.Fatal("the controller was started anew")
	}
	used, err := world.HighWater(main)
	bystander.ok(err)
	t.Logf("%d MiB at most", used>>20)
	if used > memoryBound {
		t.Errorf("the controller used %d MiB", used>>20)
	}
}

// refused waits until the source or the Kustomization says for good why it is refused, and returns what both say.
func (tm *team) refused() (message string) {
	tm.Helper()
	tm.ok(tm.Wait(tm.ctx, patience, tm.name+" to be refused", func(ctx context.Context) (bool, error) {
		source, err := tm.Get(ctx, srcAPI, "GitRepository", tm.name, "app")
		if err != nil {
			return false, err
		}
		ks, err := tm.Get(ctx, ksAPI, "Kustomization", tm.name, "app")
		if err != nil || ks == nil || source == nil {
			return false, err
		}
		s, _, said := condition(source)
		status, _, built := condition(ks)
		message = said + "\n" + built
		return s == "False" || s == "True" && status == "False" && str(ks.Object, "status", "lastAttemptedRevision") != "", nil
	}))
	return message
}
