package main

import (
	"context"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/watch"

	"sealock.dev/sealock/fault"
)

type getOptions struct {
	personFlags
	everywhere bool
	watch      bool
	selector   string
	status     string
	output     string
	noHeader   bool
}

func newGetCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "get",
		Short: "List what Sealock delivers, and in which state it is",
		Long: `get lists sources, Kustomizations and secrets: the revision that each stands at, whether it is suspended, whether it is
ready and why not. On a terminal the last column is cut to fit; -o json and -o yaml print the objects whole.`,
		Example: `  sealock get kustomizations -A
  sealock get sources git -n team-a
  sealock get all -A --status-selector Ready=False
  sealock get ks --watch`,
	}
	byKind(cmd, "sources", kinds(), func(k kind, use string) *cobra.Command {
		return newGetKinds(use+" [NAME]", "List "+k.name+" objects", []kind{k}, "ks")
	})
	cmd.AddCommand(newGetKinds("all [NAME]", "List everything", kinds(), "all"))
	for _, c := range cmd.Commands() {
		if c.HasSubCommands() {
			c.AddCommand(newGetKinds("all", "List all kinds of sources", []kind{gitRepositoryKind}, "sources all"))
		}
	}
	return cmd
}

func newGetKinds(use, short string, list []kind, example string) *cobra.Command {
	var o getOptions
	cmd := &cobra.Command{
		Use: use, Short: short,
		Example: fmt.Sprintf("  sealock get %s -A\n  sealock get %[1]s --status-selector Ready=False -o name", example),
		Args:    atMostOneName,
		RunE: func(cmd *cobra.Command, args []string) error {
			return o.run(cmd.Context(), list, strings.Join(args, ""), cmd.OutOrStdout())
		},
	}
	if len(list) == 1 {
		cmd.ValidArgsFunction = o.names(list[0])
	}
	flags := cmd.Flags()
	o.add(flags)
	flags.BoolVarP(&o.everywhere, "all-namespaces", "A", false, "List objects of all namespaces.")
	flags.BoolVarP(&o.watch, "watch", "w", false, "Go on, and print what changes.")
	flags.StringVarP(&o.selector, "label-selector", "l", "", "List objects with these labels, as kubectl writes them.")
	flags.StringVar(&o.status, "status-selector", "", "List objects with this condition, such as Ready=False.")
	formatFlag(cmd, &o.output, "", "Format: json, yaml or name; a table without it.", "json", "yaml", "name")
	flags.BoolVar(&o.noHeader, "no-header", false, "Leave out the header of the table.")
	return cmd
}

func atMostOneName(cmd *cobra.Command, args []string) error {
	if len(args) <= 1 {
		return nil
	}
	return wrongUse("%d names, want one or none", len(args)).Fix("see `%s --help`", cmd.CommandPath())
}

func (o *getOptions) run(ctx context.Context, list []kind, name string, out io.Writer) error {
	if err := knownFormat(o.output, "json", "yaml", "name"); err != nil {
		return err
	}
	if o.status != "" && !strings.Contains(o.status, "=") {
		return wrongUse("--status-selector %q is not TYPE=STATUS", o.status).Fix("write for instance Ready=False")
	}
	if o.watch && (o.output == "json" || o.output == "yaml" || len(list) > 1) {
		return wrongUse("--watch shows a table of one kind").Fix("name one kind, and leave -o out")
	}
	s, err := o.open()
	if err != nil {
		return err
	}
	namespace := s.namespace
	if o.everywhere {
		namespace = ""
	}
	opts := metav1.ListOptions{LabelSelector: o.selector}
	if name != "" {
		opts.FieldSelector = fields.OneTermEqualSelector("metadata.name", name).String()
	}
	if o.watch {
		return o.follow(ctx, s, list[0], namespace, opts, out)
	}
	found, err := o.list(ctx, s, list, namespace, opts)
	if err != nil {
		return err
	}
	if machine := o.output == "json" || o.output == "yaml"; total(found) == 0 && (name != "" || !machine) {
		return o.nothing(list, namespace, name)
	}
	return o.print(out, list, found)
}

// list reads the kinds. Of several, one that the cluster does not serve is left out.
func (o *getOptions) list(ctx context.Context, s *session, list []kind, namespace string, opts metav1.ListOptions) ([][]unstructured.Unstructured, error) {
	found := make([][]unstructured.Unstructured, len(list))
	for i, k := range list {
		all, err := s.of(k, namespace).List(ctx, opts)
		if err != nil {
			err = unanswered(err, k.ref(namespace, ""), "list")
			// A tenant may not list tenants; that must not hide the rest.
			if kind := fault.KindOf(err); len(list) > 1 && (kind == fault.NotFound || kind == fault.Denied && k.clusterWide) {
				continue
			}
			return nil, err
		}
		for _, obj := range all.Items {
			if o.selects(&obj) {
				found[i] = append(found[i], obj)
			}
		}
	}
	return found, nil
}

// selects applies --status-selector. A condition that is not there is Unknown.
func (o *getOptions) selects(obj *unstructured.Unstructured) bool {
	if o.status == "" {
		return true
	}
	name, status, _ := strings.Cut(o.status, "=")
	c, ok := conditionOf(obj, name)
	if !ok {
		c.Status = metav1.ConditionUnknown
	}
	return strings.EqualFold(string(c.Status), status)
}

func total(found [][]unstructured.Unstructured) (n int) {
	for _, list := range found {
		n += len(list)
	}
	return n
}

// nothing is an error, as with `flux get`, unless a list for machines was asked for.
func (o *getOptions) nothing(list []kind, namespace, name string) error {
	where := "in namespace " + namespace
	if namespace == "" {
		where = "in any namespace"
	}
	if len(list) == 1 && list[0].clusterWide {
		where = "in the cluster"
	}
	what := "nothing"
	if len(list) == 1 {
		what = "no " + list[0].name
	}
	if name != "" {
		what += fmt.Sprintf(" %q", name)
	}
	if o.status != "" {
		what += " with " + o.status
	}
	return fault.New("", fault.NotFound, fault.Ref{}, "%s %s", what, where).Fix("name another namespace with -n, or all of them with -A")
}

func (o *getOptions) print(out io.Writer, list []kind, found [][]unstructured.Unstructured) error {
	switch o.output {
	case "json", "yaml":
		var all []map[string]any
		for _, objects := range found {
			for i := range objects {
				all = append(all, asStored(&objects[i]))
			}
		}
		return printAs(out, o.output, asList(all))
	case "name":
		for i, k := range list {
			for _, obj := range found[i] {
				if _, err := fmt.Fprintln(out, k.resourceName(obj.GetName())); err != nil {
					return err
				}
			}
		}
		return nil
	}
	first := true
	for i, k := range list {
		if len(found[i]) == 0 {
			continue
		}
		if !first {
			fmt.Fprintln(out)
		}
		first = false
		if err := o.table(out, k, found[i], len(list) > 1); err != nil {
			return err
		}
	}
	return nil
}

// resourceName is how kubectl names an object to itself.
func (k kind) resourceName(name string) string {
	if k.resource.Group == "" {
		return k.one() + "/" + name
	}
	return k.one() + "." + k.resource.Group + "/" + name
}

func (o *getOptions) table(out io.Writer, k kind, objects []unstructured.Unstructured, prefixed bool) error {
	rows := make([][]string, 0, len(objects))
	for i := range objects {
		rows = append(rows, o.row(k, &objects[i], prefixed))
	}
	t := newTable(out, o.header(k), rows)
	if o.noHeader {
		for _, row := range rows {
			if err := t.row(row); err != nil {
				return err
			}
		}
		return nil
	}
	return t.print(rows)
}

func (o *getOptions) header(k kind) []string {
	header := []string{"NAME"}
	if o.everywhere && !k.clusterWide {
		header = []string{"NAMESPACE", "NAME"}
	}
	if len(k.revision) > 0 {
		header = append(header, "REVISION")
	}
	if k.delivers {
		header = append(header, "SUSPENDED")
	}
	return append(header, strings.ToUpper(k.condition), "MESSAGE")
}

func (o *getOptions) row(k kind, obj *unstructured.Unstructured, prefixed bool) []string {
	name := obj.GetName()
	if prefixed {
		name = k.one() + "/" + name
	}
	row := []string{name}
	if o.everywhere && !k.clusterWide {
		row = slices.Insert(row, 0, obj.GetNamespace())
	}
	if len(k.revision) > 0 {
		row = append(row, short(k.revisionOf(obj)))
	}
	if k.delivers {
		row = append(row, yesNo(suspended(obj)))
	}
	c, ok := conditionOf(obj, k.condition)
	if !ok {
		c.Status, c.Message = metav1.ConditionUnknown, "waiting to be reconciled"
	}
	return append(row, string(c.Status), short(c.Message))
}

func yesNo(b bool) string {
	if b {
		return "True"
	}
	return "False"
}

// follow prints what is there, and then a row for each change, until it is interrupted.
func (o *getOptions) follow(ctx context.Context, s *session, k kind, namespace string, opts metav1.ListOptions, out io.Writer) error {
	now, err := s.of(k, namespace).List(ctx, metav1.ListOptions{LabelSelector: opts.LabelSelector, FieldSelector: opts.FieldSelector})
	if err != nil {
		return unanswered(err, k.ref(namespace, ""), "list")
	}
	var rows [][]string
	for i := range now.Items {
		rows = append(rows, o.row(k, &now.Items[i], false))
	}
	t := newTable(out, o.header(k), rows)
	if o.output != "name" && !o.noHeader {
		if err := t.row(t.header); err != nil {
			return err
		}
	}
	shown := map[string]string{}
	err = follow(ctx, s.of(k, namespace), opts, k.ref(namespace, ""), func(what watch.EventType, obj *unstructured.Unstructured) (bool, error) {
		row := o.row(k, obj, false)
		if what == watch.Deleted {
			row[len(row)-2], row[len(row)-1] = "-", "deleted"
		}
		// What does not show in the table is no change to who reads it.
		if text := strings.Join(row, "\x00"); !o.selects(obj) || shown[string(obj.GetUID())] == text {
			return false, nil
		}
		shown[string(obj.GetUID())] = strings.Join(row, "\x00")
		if o.output == "name" {
			_, err := fmt.Fprintln(out, k.resourceName(obj.GetName()))
			return false, err
		}
		return false, t.row(row)
	})
	if ctx.Err() != nil {
		return nil //nolint:nilerr // this is how a watch ends
	}
	return err
}
