// Program sealock brings commits into a Kubernetes cluster, with their secrets opened and their policies judged.
//
// This package exists to put the parts together: one file for each verb, the command table in this file, and the list of
// everything that runs in controller.go. It must not hold logic that a stage, a controller or the webhook needs; nobody
// imports it.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"github.com/go-logr/logr"
	"github.com/spf13/cobra"
	"k8s.io/klog/v2"

	"sealock.dev/sealock/fault"
)

func main() {
	quiet(os.Args[1:])
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	code := run(ctx, os.Args[1:], os.Stdin, os.Stdout, os.Stderr)
	stop()
	os.Exit(code)
}

// quiet keeps libraries from writing to the terminal of a person: a verb says itself what went wrong. The controller logs.
func quiet(args []string) {
	if len(args) == 0 || args[0] != "controller" {
		klog.SetLogger(logr.Discard())
	}
}

// run executes one command line and returns its exit code: 0 done, 1 denied or our bug, 2 the input is wrong, 3 no key
// opens it, 4 something does not exist, 5 try again. The reason goes to stderr, one line for each failure.
func run(ctx context.Context, args []string, stdin io.Reader, stdout, stderr io.Writer) int {
	root := newRootCommand()
	root.SetArgs(args)
	root.SetIn(stdin)
	root.SetOut(stdout)
	root.SetErr(stderr)
	err := root.ExecuteContext(ctx)
	if err == nil {
		return 0
	}
	code := fault.KindOf(err).ExitCode()
	if end := (*ended)(nil); errors.As(err, &end) {
		if code = end.code; end.because == nil {
			return code
		}
	}
	for _, line := range strings.Split(err.Error(), "\n") {
		fmt.Fprintln(stderr, "sealock:", line)
	}
	return code
}

// newRootCommand is the command table.
func newRootCommand() *cobra.Command {
	root := &cobra.Command{
		Use:   "sealock",
		Short: "Bring commits into a cluster, secrets opened and policies judged",
		Long: `Sealock brings commits from Git into a Kubernetes cluster: it opens their secrets in memory, judges the whole set
by policy, and only then writes the first object.`,
		Args:          knownVerb,
		RunE:          func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
		SilenceUsage:  true,
		SilenceErrors: true,
	}
	root.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error {
		return wrongUse("%w", err).Fix("see `%s --help`", cmd.CommandPath())
	})
	root.AddGroup(&cobra.Group{ID: forPeople, Title: "What is delivered:"}, &cobra.Group{ID: forAuthors, Title: "What stands in Git:"}, &cobra.Group{ID: forPlatform, Title: "The installation:"})
	root.AddCommand(
		newAdoptCommand(),
		newControllerCommand(),
		newInstallCommand(),
		newSealCommand(),
		newRenderCommand(),
		newVerifyCommand(),
		newGetCommand(),
		newReconcileCommand(),
		newSuspendCommand(),
		newResumeCommand(),
		newTreeCommand(),
		newEventsCommand(),
		newDiffCommand(),
		newWhyCommand(),
		newExportCommand(),
		newDeleteCommand(),
		newVersionCommand(),
	)
	for _, cmd := range root.Commands() {
		cmd.GroupID = groupOf(cmd.Name())
	}
	return root
}

// The groups of the help page.
const (
	forPeople   = "people"
	forAuthors  = "authors"
	forPlatform = "platform"
)

func groupOf(verb string) string {
	switch verb {
	case "seal", "render", "verify", "diff", "export":
		return forAuthors
	case "adopt", "controller", "install", "version":
		return forPlatform
	}
	return forPeople
}

func knownVerb(cmd *cobra.Command, args []string) error {
	if len(args) == 0 {
		return nil
	}
	if near := cmd.SuggestionsFor(args[0]); len(near) > 0 {
		return wrongUse("there is no command %q", args[0]).Fix("did you mean %s?", strings.Join(near, " or "))
	}
	return wrongUse("there is no command %q", args[0]).Fix("see `sealock --help`")
}

// oneDir is the argument check of verbs that take a folder.
func oneDir(cmd *cobra.Command, args []string) error {
	if len(args) == 1 {
		return nil
	}
	return wrongUse("%d arguments, want one folder", len(args)).Fix("write `%s DIR`, for instance with . as DIR", cmd.CommandPath())
}

// noArgs is the argument check of verbs that take none.
func noArgs(cmd *cobra.Command, args []string) error {
	if len(args) == 0 {
		return nil
	}
	return wrongUse("%q is one argument too many", args[0]).Fix("see `%s --help`", cmd.CommandPath())
}

// wrongUse is a failure that the caller corrects on the command line.
func wrongUse(format string, args ...any) *fault.Error {
	return fault.New("", fault.Invalid, fault.Ref{}, format, args...)
}
