package main

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/watch"

	"sealock.dev/sealock/fault"
)

type deleteOptions struct {
	personFlags
	silent  bool
	wait    bool
	timeout time.Duration
}

func newDeleteCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "delete",
		Short: "Delete a source or a Kustomization",
		Long: `delete removes an object after it has said what goes with it, and asked. With a Kustomization go the objects that it
brought, as its deletionPolicy says.`,
		Example: `  sealock delete ks app -n team-a
  sealock delete source git app --silent`,
	}
	byKind(cmd, "source", []kind{kustomizationKind, gitRepositoryKind}, newDeleteKind)
	return cmd
}

func newDeleteKind(k kind, use string) *cobra.Command {
	var o deleteOptions
	cmd := &cobra.Command{
		Use: use + " NAME", Short: "Delete a " + k.name, Args: oneName, ValidArgsFunction: o.names(k),
		RunE: func(cmd *cobra.Command, args []string) error {
			return o.run(cmd.Context(), k, args[0], cmd.InOrStdin(), cmd.OutOrStdout())
		},
	}
	flags := cmd.Flags()
	o.add(flags)
	flags.BoolVarP(&o.silent, "silent", "s", false, "Do not ask.")
	flags.BoolVar(&o.wait, "wait", true, "Wait until it is gone.")
	flags.DurationVar(&o.timeout, "timeout", 5*time.Minute, "How long to wait.")
	return cmd
}

func (o *deleteOptions) run(ctx context.Context, k kind, name string, in io.Reader, out io.Writer) error {
	s, err := o.open()
	if err != nil {
		return err
	}
	obj, err := s.get(ctx, k, s.namespace, name)
	if err != nil {
		return err
	}
	ref := k.ref(s.namespace, name)
	if !o.silent {
		fmt.Fprintf(out, "%s will be deleted%s. Go on? [y/N] ", ref, goesAlong(k, obj))
		answer, _ := bufio.NewReader(in).ReadString('\n') // no answer is one
		if a := strings.ToLower(strings.TrimSpace(answer)); a != "y" && a != "yes" {
			return fault.New("", fault.Invalid, ref, "not deleted").Fix("answer y, or use --silent")
		}
	}
	uid := obj.GetUID() // what was asked about, and not what has come in its place
	if err := s.of(k, s.namespace).Delete(ctx, name, metav1.DeleteOptions{Preconditions: &metav1.Preconditions{UID: &uid}}); err != nil {
		return unanswered(err, ref, "delete")
	}
	if o.wait {
		if err := s.gone(ctx, k, obj, o.timeout); err != nil {
			return err
		}
	}
	_, err = fmt.Fprintf(out, "%s is deleted\n", ref)
	return err
}

// goesAlong says what a deletion does beyond the object.
func goesAlong(k kind, obj *unstructured.Unstructured) string {
	if k.name != kustomizationKind.name {
		return ""
	}
	ids, _ := inventoryOf(obj)
	prune, _, _ := unstructured.NestedBool(obj.Object, "spec", "prune")
	policy := field(obj, "spec", "deletionPolicy")
	switch {
	case suspended(obj), policy == "Orphan", (policy == "" || policy == "MirrorPrune") && !prune:
		return fmt.Sprintf(", and the %s that it brought will stay", plural(len(ids), "object"))
	}
	return fmt.Sprintf(", and with it the %s that it brought", plural(len(ids), "object"))
}

// gone waits until the object is not there any more.
func (s *session) gone(ctx context.Context, k kind, obj *unstructured.Unstructured, timeout time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	ref := k.ref(obj.GetNamespace(), obj.GetName())
	// Known from the start, it is told of as gone although the list may not have it any more.
	opts := metav1.ListOptions{FieldSelector: fields.OneTermEqualSelector("metadata.name", obj.GetName()).String()}
	known := map[string]*unstructured.Unstructured{string(obj.GetUID()): obj}
	err := followFrom(ctx, s.of(k, obj.GetNamespace()), opts, ref, known, func(what watch.EventType, each *unstructured.Unstructured) (bool, error) {
		return what == watch.Deleted && each.GetUID() == obj.GetUID(), nil
	})
	if err != nil && ctx.Err() == context.DeadlineExceeded { // the context's own error is this one
		return fault.New("", fault.Transient, ref, "it is being deleted, and not gone after %s", timeout).Fix("see `sealock events --for %s/%s`", k.name, obj.GetName())
	}
	return err
}
