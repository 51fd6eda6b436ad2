package main

import (
	"context"
	"fmt"
	"io"

	"github.com/spf13/cobra"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"sealock.dev/sealock/fault"
)

type exportOptions struct {
	personFlags
	all    bool
	output string
}

func newExportCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "export",
		Short: "Print objects as they would stand in Git",
		Long: `export prints manifests: without a status, and without what the API server and other programs keep in an object. Secrets
that the objects refer to are not printed.`,
		Example: `  sealock export ks app > app.yaml
  sealock export source git --all`,
	}
	byKind(cmd, "source", kinds(), newExportKind)
	return cmd
}

func newExportKind(k kind, use string) *cobra.Command {
	var o exportOptions
	cmd := &cobra.Command{
		Use: use + " [NAME...]", Short: "Print " + k.name + " objects as manifests", ValidArgsFunction: o.names(k),
		Args: func(cmd *cobra.Command, args []string) error {
			if (len(args) > 0) == o.all {
				return wrongUse("name objects, or all of them").Fix("write `%s NAME`, or --all", cmd.CommandPath())
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			return o.run(cmd.Context(), k, args, cmd.OutOrStdout())
		},
	}
	flags := cmd.Flags()
	o.add(flags)
	flags.BoolVar(&o.all, "all", false, "All objects of the namespace.")
	formatFlag(cmd, &o.output, "yaml", "Format: yaml or json.", "yaml", "json")
	return cmd
}

func (o *exportOptions) run(ctx context.Context, k kind, names []string, out io.Writer) error {
	if err := knownFormat(o.output, "yaml", "json"); err != nil {
		return err
	}
	s, err := o.open()
	if err != nil {
		return err
	}
	var found []map[string]any
	if o.all {
		list, err := s.of(k, s.namespace).List(ctx, metav1.ListOptions{})
		if err != nil {
			return unanswered(err, k.ref(s.namespace, ""), "list")
		}
		for i := range list.Items {
			found = append(found, asManifest(&list.Items[i]))
		}
		if len(found) == 0 {
			return fault.New("", fault.NotFound, fault.Ref{}, "no %s in namespace %s", k.name, s.namespace).Fix("name another namespace with -n")
		}
	}
	for _, name := range names {
		obj, err := s.get(ctx, k, s.namespace, name)
		if err != nil {
			return err
		}
		found = append(found, asManifest(obj))
	}
	if o.output == "json" {
		return printAs(out, "json", asList(found))
	}
	for _, each := range found {
		if _, err := fmt.Fprintln(out, "---"); err != nil {
			return err
		}
		if err := printAs(out, "yaml", each); err != nil {
			return err
		}
	}
	return nil
}

// asManifest returns what somebody would write into a file.
func asManifest(obj *unstructured.Unstructured) map[string]any {
	c := &unstructured.Unstructured{Object: map[string]any{"apiVersion": obj.GetAPIVersion(), "kind": obj.GetKind(), "metadata": map[string]any{"name": obj.GetName()}}}
	if ns := obj.GetNamespace(); ns != "" {
		c.SetNamespace(ns)
	}
	labels, annotations := obj.GetLabels(), obj.GetAnnotations()
	for _, ours := range []string{labelOwner, labelOwnerSpace} {
		delete(labels, ours)
	}
	for _, ours := range append([]string{requestedAt}, stale...) {
		delete(annotations, ours)
	}
	if len(labels) > 0 {
		c.SetLabels(labels)
	}
	if len(annotations) > 0 {
		c.SetAnnotations(annotations)
	}
	for field, value := range obj.Object {
		if _, known := c.Object[field]; !known && field != "status" {
			c.Object[field] = value
		}
	}
	return c.Object
}
