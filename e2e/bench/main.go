// Command bench measures what DESIGN.md, section 7, promises: it starts the embedded control plane and the built sealock
// program, gives them the work that the peers were given, and prints one table with goal, peer and what was seen.
//
// It exists so that a figure is a command and not a claim. Requests are counted from the API server's audit log, CPU and
// memory are the kernel's own account of the process. It must not import Sealock's own packages, decide whether a build
// passes (a missed goal is printed, and the exit code stays 0), or leave anything behind.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"sealock.dev/sealock/e2e/harness"
)

// options are the command line.
type options struct {
	only    string
	output  string
	quick   bool
	keep    bool
	profile string
	flags   string
}

func main() {
	var o options
	flag.StringVar(&o.only, "only", "", "run these scenarios, separated by commas")
	flag.StringVar(&o.output, "o", "table", "table or json")
	flag.BoolVar(&o.quick, "quick", false, "a fifth to a tenth of every size, to try something out")
	flag.BoolVar(&o.keep, "keep", false, "keep the folder with logs and the audit log, and say where it is")
	flag.StringVar(&o.profile, "profile", "", "folder for a CPU profile of the first seconds of each piece of work, and allocation profiles around it")
	flag.StringVar(&o.flags, "controller", "", "further flags of `sealock controller`, separated by spaces, to compare with")
	flag.Usage = func() {
		fmt.Fprintln(os.Stderr, "usage: bench [--only NAME,...] [--quick] [-o table|json] [--profile DIR] [--controller FLAGS] [--keep]")
		flag.PrintDefaults()
		fmt.Fprintln(os.Stderr, "\nscenarios:")
		for _, s := range scenarios() {
			fmt.Fprintf(os.Stderr, "  %-14s %s\n", s.name, s.about)
		}
	}
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, o, os.Stdout)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

// scenario is a piece of the bench in a world of its own.
type scenario struct {
	name, about string
	run         func(ctx context.Context, s *site) error
	bare        bool // it starts no control plane
}

// scenarios are in the order in which they run: those that a reader waits for come first.
func scenarios() []scenario {
	return []scenario{
		{name: "program", about: "size of the binary, cost of one render, one unsealing, one verdict", run: program, bare: true},
		{name: "idle", about: "start-up, and nothing to do", run: idle},
		{name: "fivehundred", about: "one Kustomization of 500 objects: first, no-op, one changed, restart", run: fiveHundred},
		{name: "hundred", about: "100 Kustomizations of 10 objects: first, no-op, a commit for one, restart", run: hundred},
		{name: "overlays", about: "the same with a kustomization file in each folder", run: overlays},
		{name: "secrets", about: "SOPS, sealed and Vault secrets: first, no-op, restart", run: secrets},
		{name: "latency", about: "from a reconcile request to the object in the cluster", run: latency},
		{name: "prune", about: "1,500 objects leave Git", run: prune},
		{name: "thousand", about: "1,000 Kustomizations of 4 objects that are waited for", run: thousand},
		{name: "tenthousand", about: "10,000 objects in 1,000 Kustomizations: memory, drift, restart", run: tenThousand},
	}
}

func run(ctx context.Context, o options, out io.Writer) error {
	if o.output != "table" && o.output != "json" {
		return fmt.Errorf("-o %q: choose table or json", o.output)
	}
	root, err := repositoryRoot()
	if err != nil {
		return err
	}
	if o.profile != "" {
		if o.profile, err = filepath.Abs(o.profile); err != nil {
			return err
		}
		if err := os.MkdirAll(o.profile, 0o700); err != nil {
			return err
		}
	}
	r := newReport(o.quick)
	var failed []error
	ran := 0
	for _, sc := range scenarios() {
		if !selected(o.only, sc.name) {
			continue
		}
		ran++
		began := time.Now()
		fmt.Fprintf(os.Stderr, "bench: %s: %s\n", sc.name, sc.about)
		if err := runOne(ctx, o, root, sc, r); err != nil {
			failed = append(failed, fmt.Errorf("%s: %w", sc.name, err))
			fmt.Fprintf(os.Stderr, "bench: %s FAILED: %v\n", sc.name, err)
		}
		fmt.Fprintf(os.Stderr, "bench: %s took %s\n", sc.name, time.Since(began).Round(time.Second))
		if ctx.Err() != nil {
			break
		}
	}
	if ran == 0 {
		return fmt.Errorf("--only %q selects nothing; see --help", o.only)
	}
	if o.output == "json" {
		err = r.json(out)
	} else {
		err = r.table(out)
	}
	return errors.Join(append(failed, err)...)
}

// selected reports whether a name is one of those that were asked for; nothing asked for is all.
func selected(only, name string) bool {
	return only == "" || slices.Contains(strings.Split(strings.ReplaceAll(only, " ", ""), ","), name)
}

// runOne gives a scenario a control plane of its own: what an earlier one left would be in its figures.
func runOne(ctx context.Context, o options, root string, sc scenario, r *report) (err error) {
	dir, err := os.MkdirTemp("", "bench-"+sc.name+"-")
	if err != nil {
		return err
	}
	if o.keep {
		fmt.Fprintln(os.Stderr, "bench: kept:", dir)
	} else {
		defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	}
	s := &site{report: r, scenario: sc.name, quick: o.quick, root: root, profiles: o.profile, extra: strings.Fields(o.flags)}
	if sc.bare {
		return sc.run(ctx, s)
	}
	if s.pprof, err = freeAddr(); err != nil {
		return err
	}
	s.World, err = harness.Start(ctx, harness.Options{
		Dir: dir, Bin: filepath.Join(root, "bin"), Devcluster: append([]string{"--audit-log"}, s.without(sc.name)...), Controller: s.flags(),
	})
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = fmt.Errorf("%w\nlast lines of the controller's log:\n%s", err, s.LogTail(5))
		}
		err = errors.Join(err, s.Stop())
	}()
	if err := s.prepare(ctx); err != nil {
		return err
	}
	return sc.run(ctx, s)
}

// repositoryRoot finds the folder that holds bin and config, from here upwards.
func repositoryRoot() (string, error) {
	dir, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for {
		if _, err := os.Stat(filepath.Join(dir, "config", "rbac")); err == nil {
			return dir, nil
		}
		parent := filepath.Dir(dir)
		if parent == dir {
			return "", errors.New("config/rbac is not above the working directory; run `make bench` in the repository")
		}
		dir = parent
	}
}
