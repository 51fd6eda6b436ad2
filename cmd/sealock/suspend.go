package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"sealock.dev/sealock/fault"
)

// suspendOptions serve suspend and its reverse, resume.
type suspendOptions struct {
	personFlags
	suspend bool
	all     bool
	wait    bool
	timeout time.Duration
	output  string
}

func newSuspendCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "suspend",
		Short: "Stop delivering a source or a Kustomization",
		Long: `suspend sets spec.suspend: what is in the cluster stays, and nothing of the object is fetched, applied, repaired or
pruned until it is resumed.`,
		Example: `  sealock suspend ks app -n team-a
  sealock suspend source git --all`,
	}
	byKind(cmd, "source", []kind{kustomizationKind, gitRepositoryKind}, func(k kind, use string) *cobra.Command {
		return newSuspendKind(k, use, suspendOptions{suspend: true})
	})
	return cmd
}

func newResumeCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "resume",
		Short: "Go on delivering what was suspended, and wait for the outcome",
		Long:  `resume takes spec.suspend back, waits until the object is ready, and prints the revision that it stands at.`,
		Example: `  sealock resume ks app -n team-a
  sealock resume source git --all --wait=false`,
	}
	byKind(cmd, "source", []kind{kustomizationKind, gitRepositoryKind}, func(k kind, use string) *cobra.Command {
		return newSuspendKind(k, use, suspendOptions{})
	})
	return cmd
}

func newSuspendKind(k kind, use string, o suspendOptions) *cobra.Command {
	verb := "Resume"
	if o.suspend {
		verb = "Suspend"
	}
	cmd := &cobra.Command{
		Use: use + " [NAME...]", Short: verb + " a " + k.name, ValidArgsFunction: o.names(k),
		Args: func(cmd *cobra.Command, args []string) error {
			if (len(args) > 0) == o.all {
				return wrongUse("name objects, or all of them").Fix("write `%s NAME`, or --all", cmd.CommandPath())
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			return o.run(cmd.Context(), k, args, cmd.OutOrStdout(), cmd.ErrOrStderr())
		},
	}
	flags := cmd.Flags()
	o.add(flags)
	flags.BoolVar(&o.all, "all", false, "All objects of the namespace.")
	formatFlag(cmd, &o.output, "", "Format: json or yaml; lines for people without it.", "json", "yaml")
	if !o.suspend {
		flags.BoolVar(&o.wait, "wait", true, "Wait for the outcome.")
		flags.DurationVar(&o.timeout, "timeout", 5*time.Minute, "How long to wait for the outcome of each.")
	}
	return cmd
}

func (o *suspendOptions) run(ctx context.Context, k kind, names []string, out, progress io.Writer) error {
	if err := knownFormat(o.output, "json", "yaml"); err != nil {
		return err
	}
	s, err := o.open()
	if err != nil {
		return err
	}
	if o.all {
		list, err := s.of(k, s.namespace).List(ctx, metav1.ListOptions{})
		if err != nil {
			return unanswered(err, k.ref(s.namespace, ""), "list")
		}
		for i := range list.Items {
			names = append(names, list.Items[i].GetName())
		}
		if len(names) == 0 {
			return fault.New("", fault.NotFound, fault.Ref{}, "no %s in namespace %s", k.name, s.namespace).Fix("name another namespace with -n")
		}
	}
	var outcomes []outcomeOf
	var errs []error
	// All are changed before one is waited for: of several, one may depend on another.
	for _, name := range names {
		errs = append(errs, s.merge(ctx, k, s.namespace, name, map[string]any{"spec": map[string]any{"suspend": o.suspend}}))
	}
	for i, name := range names {
		if errs[i] != nil {
			continue
		}
		var obj *unstructured.Unstructured
		if obj, errs[i] = o.settle(ctx, s, k, name, progress); obj == nil {
			continue
		}
		outcomes = append(outcomes, k.outcome(obj))
		if o.output == "" && errs[i] == nil {
			fmt.Fprintln(out, o.line(k, obj))
		}
	}
	if o.output != "" {
		errs = append(errs, printAs(out, o.output, outcomes))
	}
	return errors.Join(errs...)
}

func (o *suspendOptions) settle(ctx context.Context, s *session, k kind, name string, progress io.Writer) (*unstructured.Unstructured, error) {
	if o.suspend || !o.wait {
		return s.get(ctx, k, s.namespace, name)
	}
	return s.await(ctx, k, s.namespace, name, o.timeout, progress, func(obj *unstructured.Unstructured) (bool, string, error) {
		return settled(k, obj)
	})
}

func (o *suspendOptions) line(k kind, obj *unstructured.Unstructured) string {
	ref := k.ref(obj.GetNamespace(), obj.GetName())
	switch {
	case o.suspend && ownerOf(obj) != "":
		return fmt.Sprintf("%s is suspended; it comes from %s, whose commit may set spec.suspend again", ref, ownerOf(obj))
	case o.suspend:
		return fmt.Sprintf("%s is suspended", ref)
	case !o.wait:
		return fmt.Sprintf("%s is resumed", ref)
	}
	return fmt.Sprintf("%s is ready at %s", ref, revisionText(k, obj))
}

// ownerOf names the Kustomization that applied an object, "" when none did.
func ownerOf(obj *unstructured.Unstructured) string {
	labels := obj.GetLabels()
	if labels[labelOwner] == "" {
		return ""
	}
	return kustomizationKind.ref(labels[labelOwnerSpace], labels[labelOwner]).String()
}
