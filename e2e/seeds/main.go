// Program seeds applies manifests that the field uses, unchanged, to a real API server with Sealock installed, and says
// what became of each: accepted as it is, or refused naming the field.
//
// It exists to hold the promise that existing manifests apply, against a folder that is not part of this repository; the
// tests hold the same shapes with manifests of our own. It must not import Sealock's own packages, and must not change a
// seed: what is incomplete is completed around it.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"sealock.dev/sealock/e2e/harness"
)

const usage = "usage: seeds DIR, where DIR holds S0.yaml, S1.yaml and S1-rest.yaml"

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, os.Args[1:])
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "seeds:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string) (err error) {
	if len(args) != 1 {
		return errors.New(usage)
	}
	seeds, err := read(args[0], "S0.yaml", "S1.yaml", "S1-rest.yaml")
	if err != nil {
		return fmt.Errorf("%w; %s", err, usage)
	}
	dir, err := os.MkdirTemp("", "sealock-seeds-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	bin, err := filepath.Abs(filepath.Join("..", "bin"))
	if err != nil {
		return err
	}
	began := time.Now()
	w, err := harness.Start(ctx, harness.Options{Dir: dir, Bin: bin, Devcluster: []string{"--without=vault,git"}})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, w.Stop()) }()
	fmt.Printf("control plane and controller up after %s\n\n", time.Since(began).Round(100*time.Millisecond))

	c := &checker{World: w, seeds: seeds, dir: dir}
	if err := c.namespaces(ctx, "flux-system", "production", "team-a"); err != nil {
		return err
	}
	wrong := 0
	for _, e := range expectations {
		what, err := c.check(ctx, e)
		mark := "ok"
		if err != nil {
			mark, what = "WRONG", err.Error()
			wrong++
		}
		fmt.Printf("%-5s  %-6s  %-46s  %s\n", mark, e.id, e.object, strings.ReplaceAll(what, "\n", " "))
	}
	fmt.Printf("\n%d seeds, %d not as expected\n", len(expectations), wrong)
	if wrong > 0 {
		return fmt.Errorf("%d of %d seeds were not treated as expected", wrong, len(expectations))
	}
	return nil
}
