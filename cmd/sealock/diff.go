package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"sealock.dev/sealock/fault"
)

type diffOptions struct {
	personFlags
	path     string
	revision string
	keys     string
	file     string
	system   string
	output   string
}

func newDiffCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "diff",
		Short:   "Show what a folder would change on the cluster",
		Example: "  sealock diff ks app --path ./deploy",
	}
	byKind(cmd, "source", []kind{kustomizationKind}, newDiffKind)
	return cmd
}

func newDiffKind(k kind, use string) *cobra.Command {
	var o diffOptions
	cmd := &cobra.Command{
		Use: use + " NAME", Short: "Show what a folder would change as the commit of a " + k.name,
		Long: `diff builds a folder of this machine as the controller would build the commit: with the patches, images, variables and keys
of the Kustomization on the cluster. It has the API server dry-run each object, and shows what differs from what is live:
what would be created, which fields would change, and what would be pruned. Nothing is written.

Everything is read, and dry-run, with your own rights; --as sealock:tenant:NAME shows it as the tenant's commits see it.

Values of secrets are not shown. Each stands as a short digest, so that two different values are told apart; the digests
of another call are others. Encrypted files that no key at hand opens are shown as **SOPS** and not compared.

Fences of the tenant and policies are asked as well, as far as you may read them, and say what they would deny.

The exit code is 0 without a difference, 1 with differences, and above 1 when something is denied or it could not be found
out.`,
		Example: `  sealock diff ks app --path ./deploy
  sealock diff ks app                      # in a clone of the repository: the folder that spec.path names
  sealock diff ks app --revision my-branch
  sealock diff ks app --path ./deploy --kustomization-file ./app.yaml
  sealock diff ks app --path . --decryption-keys ~/.config/sops/age/keys.txt -o json`,
		Args: oneName, ValidArgsFunction: o.names(k),
		RunE: func(cmd *cobra.Command, args []string) error {
			err := o.run(cmd.Context(), args[0], cmd.OutOrStdout(), cmd.ErrOrStderr())
			if err == nil || errors.As(err, new(*ended)) {
				return err
			}
			return &ended{code: max(2, fault.KindOf(err).ExitCode()), because: err}
		},
	}
	flags := cmd.Flags()
	o.add(flags)
	flags.StringVar(&o.path, "path", "", "Folder that stands for spec.path; by default that folder of the Git repository around you.")
	flags.StringVar(&o.revision, "revision", "", "Branch, tag or commit of the clone to take instead of what is checked out.")
	flags.StringVar(&o.keys, "decryption-keys", "", "File with age identities, instead of the Secret on the cluster.")
	flags.StringVar(&o.file, "kustomization-file", "", "File with the Kustomization, instead of the one on the cluster, which need not exist then.")
	flags.StringVar(&o.system, "system-namespace", systemNamespace, "Namespace of the installation.")
	formatFlag(cmd, &o.output, "", "Format: json or yaml; lines for people without it.", "json", "yaml")
	_ = cmd.MarkFlagDirname("path")
	return cmd
}

// ended is the end of a verb whose exit code says more than the class of its failure.
type ended struct {
	code    int
	because error // nil: everything is said
}

func (e *ended) Error() string {
	if e.because == nil {
		return fmt.Sprintf("exit code %d", e.code)
	}
	return e.because.Error()
}

func (e *ended) Unwrap() error { return e.because }

// comparison is what diff prints. Its JSON is a contract: fields are added, never changed.
type comparison struct {
	Kustomization string       `json:"kustomization"` // namespace/name
	Folder        string       `json:"folder"`
	Revision      string       `json:"revision,omitempty"` // of the clone; empty: what is checked out
	Created       int          `json:"created"`
	Changed       int          `json:"changed"`
	Pruned        int          `json:"pruned"`
	Skipped       int          `json:"skipped"`
	Unchanged     int          `json:"unchanged"`
	Notes         []string     `json:"notes,omitempty"`
	Verdict       *verdict     `json:"verdict,omitempty"` // as that of verify; none where the policies cannot be read
	Objects       []difference `json:"objects"`           // without those that are unchanged
}

// difference is what would happen to one object.
type difference struct {
	Action     string   `json:"action"` // created, changed, recreated, pruned, skipped or unchanged
	APIVersion string   `json:"apiVersion"`
	Kind       string   `json:"kind"`
	Namespace  string   `json:"namespace,omitempty"`
	Name       string   `json:"name"`
	File       string   `json:"file,omitempty"`
	Line       int      `json:"line,omitempty"`
	Note       string   `json:"note,omitempty"`
	Changes    []change `json:"changes,omitempty"`
}

func differenceOf(ref fault.Ref, action string) difference {
	return difference{Action: action, APIVersion: ref.APIVersion, Kind: ref.Kind, Namespace: ref.Namespace, Name: ref.Name, File: ref.File, Line: ref.Line}
}

func (o *diffOptions) run(ctx context.Context, name string, out, notes io.Writer) error {
	if err := knownFormat(o.output, "json", "yaml"); err != nil {
		return err
	}
	s, err := o.open()
	if err != nil {
		return err
	}
	ks, err := o.kustomization(ctx, s, name)
	if err != nil {
		return err
	}
	if _, remote, _ := unstructured.NestedMap(ks.Object, "spec", "kubeConfig"); remote {
		return fault.New("", fault.Invalid, kustomizationKind.ref(s.namespace, name), "its objects are in another cluster").At("spec.kubeConfig").
			Fix("compare there, with a Kustomization of that cluster")
	}
	from, err := o.clone(ks)
	if err != nil {
		return err
	}
	c, err := s.compare(ctx, ks, from, o.keys, o.system)
	if err != nil {
		return err
	}
	if o.output != "" {
		err = printAs(out, o.output, c)
	} else {
		err = c.print(out, notes)
	}
	switch {
	case err != nil:
		return err
	case c.Verdict != nil && c.Verdict.Denied > 0:
		return &ended{code: 2}
	case c.Created+c.Changed+c.Pruned > 0:
		return &ended{code: 1}
	}
	return nil
}

// kustomization is that of the cluster, or of a file.
func (o *diffOptions) kustomization(ctx context.Context, s *session, name string) (*unstructured.Unstructured, error) {
	live, err := s.get(ctx, kustomizationKind, s.namespace, name)
	if o.file == "" || err != nil && fault.KindOf(err) != fault.NotFound {
		return live, err
	}
	return kustomizationIn(o.file, s.namespace, name, live)
}

// clone returns what is built: --path, or spec.path in the repository around the working directory.
func (o *diffOptions) clone(ks *unstructured.Unstructured) (clone, error) {
	if o.path != "" {
		return cloneAt(o.path, o.revision)
	}
	return cloneHere(field(ks, "spec", "path"), o.revision)
}

func (c *comparison) print(out, notes io.Writer) error {
	for _, n := range c.Notes {
		fmt.Fprintln(notes, "note:", n)
	}
	w := &errWriter{out: out}
	for _, d := range c.Objects {
		ref := fault.Ref{Kind: d.Kind, Namespace: d.Namespace, Name: d.Name, File: d.File, Line: d.Line}
		w.printf("%-9s %s", d.Action, ref)
		if d.Note != "" {
			w.printf(": %s", d.Note)
		}
		w.printf("\n")
		for _, each := range d.Changes {
			w.printf("  %s\n", strings.Join(each.lines(), "\n  "))
		}
	}
	if c.Verdict != nil {
		c.Verdict.list(w)
	}
	folder := c.Folder
	if c.Revision != "" {
		folder += " at " + c.Revision
	}
	w.printf("%s with %s: %d created, %d changed, %d pruned, %d skipped, %d unchanged\n",
		kustomizationKind.name+"/"+c.Kustomization, folder, c.Created, c.Changed, c.Pruned, c.Skipped, c.Unchanged)
	if c.Verdict != nil {
		w.printf("%s\n", c.Verdict.sum())
	}
	return w.err
}
