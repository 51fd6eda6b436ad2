//go:build flux

// Package fluxcli has the real flux program as the client: what people type every day, against Sealock on a real control
// plane. `make flux` builds that program and runs this; the build takes minutes, which is why `make test` does not.
//
// It was written beside a machine on which that build did not end in time, and HAS NOT RUN YET: expect the words that it
// looks for to need correction, before anything else is believed of it.
//
// Not here: `flux logs`, since the kubelet of the devcluster keeps no logs, and `flux bootstrap` and `flux install`, whose
// manifests are downloaded when flux itself is released.
package fluxcli

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"sealock.dev/sealock/e2e/harness"
)

const (
	namespace = "flux-system"
	patience  = time.Minute
)

// user is somebody with flux on a laptop.
type user struct {
	*testing.T
	*harness.World
	ctx     context.Context
	program string
}

// TestFlux is a day with flux, in the order in which it is usually spent.
func TestFlux(t *testing.T) {
	u := newUser(t)
	u.says(line("check --pre"), "prerequisites checks passed")
	u.controllers()
	commit := u.create()
	for _, each := range []struct {
		name string
		do   func(u user, commit string) (now string)
	}{
		{"get", user.get}, {"reconcile", user.reconcile}, {"suspend and resume", user.suspend}, {"tree, trace, events", user.look},
		{"debug, stats, export", user.debug}, {"build and diff", user.diff}, {"a commit that fails", user.refused},
		{"migrate", user.migrate}, {"delete and uninstall", user.leave},
	} {
		if !t.Run(each.name, func(t *testing.T) { u.T = t; commit = each.do(u, commit) }) {
			break
		}
	}
}

func newUser(t *testing.T) user {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 8*time.Minute)
	t.Cleanup(cancel)
	dir := t.TempDir()
	bin, err := filepath.Abs("../../bin")
	if err != nil {
		t.Fatal(err)
	}
	world, err := harness.Start(ctx, harness.Options{Dir: dir, Bin: bin})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := world.Stop(); err != nil {
			t.Error(err)
		}
		if t.Failed() {
			t.Logf("last lines of the controller's log:\n%s", world.LogTail(40))
		}
	})
	u := user{T: t, World: world, ctx: ctx, program: filepath.Join(bin, "flux")}
	u.apply("apiVersion: v1\nkind: Namespace\nmetadata: {name: " + namespace + "}\n")
	return u
}

func (u user) ok(err error) {
	u.Helper()
	if err != nil {
		u.Fatal(err)
	}
}

func (u user) apply(text string) { u.Helper(); u.ok(u.Apply(u.ctx, text)) }

func (u user) url() string { return u.Env["GIT_HTTP_URL"] + "/app.git" }

// clone is the folder from which the user pushes.
func (u user) clone(path string) string { return filepath.Join(u.Dir, "clones", "app", path) }

// flux runs the program and returns all that it printed: what people read is on both streams.
func (u user) flux(args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(u.ctx, 2*patience)
	defer cancel()
	cmd := exec.CommandContext(ctx, u.program, append([]string{"--namespace", namespace, "--timeout", patience.String()}, args...)...)
	cmd.Env = append(os.Environ(), "KUBECONFIG="+u.Kubeconfig)
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// says runs flux, which must succeed and print each of the words.
func (u user) says(args []string, words ...string) string {
	u.Helper()
	out, err := u.flux(args...)
	u.contains(args, out, words...)
	if err != nil {
		u.Fatalf("flux %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return out
}

// fails runs flux, which must fail and print each of the words.
func (u user) fails(args []string, words ...string) {
	u.Helper()
	out, err := u.flux(args...)
	if err == nil {
		u.Errorf("flux %s does not fail:\n%s", strings.Join(args, " "), out)
	}
	u.contains(args, out, words...)
}

func (u user) contains(args []string, out string, words ...string) {
	u.Helper()
	for _, w := range words {
		if !strings.Contains(out, w) {
			u.Errorf("flux %s: no %q in\n%s", strings.Join(args, " "), w, out)
		}
	}
}

func (u user) push(files map[string]string) string {
	u.Helper()
	commit, err := u.Push(u.ctx, "app", "change", files)
	u.ok(err)
	return commit
}

func line(text string) []string { return strings.Fields(text) }

func configMap(name, value string) string {
	return fmt.Sprintf("apiVersion: v1\nkind: ConfigMap\nmetadata: {name: %s, namespace: default}\ndata:\n  value: %q\n", name, value)
}
