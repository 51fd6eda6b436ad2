// Command demo tells, on this machine and with real parts, what Sealock does with one commit: a tenant's repository with
// a SOPS secret, a SealedSecret, an ExternalSecret and a Deployment that uses all three goes from Git into a cluster;
// then a commit that a policy denies does not.
//
// It exists so that a stranger sees the main job happen with one command. Each step checks what it says: with ONCE=1 the
// program ends after the story, with 0 only if every step held. It must not show anything that did not happen.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	"sealock.dev/sealock/e2e/harness"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, os.Interrupt)
	defer stop()
	if err := run(ctx); err != nil {
		fmt.Fprintf(os.Stderr, "\ndemo: %v\n", err)
		os.Exit(1)
	}
}

func run(ctx context.Context) error {
	root, err := repositoryRoot()
	if err != nil {
		return err
	}
	dir := filepath.Join(root, ".demo")
	if err := os.RemoveAll(dir); err != nil {
		return fmt.Errorf("clearing %s of an earlier demo: %w", dir, err)
	}
	t := newTeller()
	t.chapter("A control plane on this machine")
	t.say("etcd, kube-apiserver, kube-controller-manager, Vault and a Git server start on loopback ports.")
	began := time.Now()
	w, err := harness.Start(ctx, harness.Options{Dir: dir, Bin: filepath.Join(root, "bin")})
	if err != nil {
		return err
	}
	defer func() {
		if err := w.Stop(); err != nil {
			fmt.Fprintln(os.Stderr, "demo: stopping:", err)
		}
	}()
	t.done("up in %s, Sealock installed, its controller ready with the rights of its own service account", time.Since(began).Round(100*time.Millisecond))

	s := &story{World: w, teller: t, samples: filepath.Join(root, "config", "samples")}
	for _, step := range []func(context.Context) error{s.platform, s.secrets, s.firstCommit, s.whatRuns, s.deniedCommit, s.directAttempt} {
		if err := step(ctx); err != nil {
			return err
		}
	}
	t.chapter("The end")
	t.done("every step held, in %s", time.Since(began).Round(time.Second))
	if os.Getenv("ONCE") != "" {
		return nil
	}
	lookAround(w, root)
	<-ctx.Done()
	fmt.Println("\nstopping everything")
	return nil
}

func lookAround(w *harness.World, root string) {
	k := filepath.Join(root, "bin", "devcluster") + " kubectl"
	fmt.Printf(`
Everything keeps running until Ctrl-C. In another terminal:

  export KUBECONFIG=%s
  %s get tenants,policies
  %s -n team-a get gitrepositories,kustomizations,sealedsecrets,externalsecrets,secrets,pods
  %s -n team-a get events
  %s verify %s -n team-a
  less %s

`, w.Kubeconfig, k, k, k, filepath.Join(root, "bin", "sealock"), filepath.Join(w.Dir, "clones", "team-a"), w.Log)
}

// repositoryRoot finds the folder that holds config/samples, from here upwards.
func repositoryRoot() (string, error) {
	dir, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for {
		if _, err := os.Stat(filepath.Join(dir, "config", "samples")); err == nil {
			return dir, nil
		}
		parent := filepath.Dir(dir)
		if parent == dir {
			return "", fmt.Errorf("config/samples is not above the working directory; run `make demo` in the repository")
		}
		dir = parent
	}
}
