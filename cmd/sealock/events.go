package main

import (
	"cmp"
	"context"
	"io"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/util/duration"
	"k8s.io/apimachinery/pkg/watch"

	"sealock.dev/sealock/fault"
)

type eventOptions struct {
	personFlags
	everywhere bool
	watch      bool
	object     string
	types      []string
	output     string
}

func newEventsCommand() *cobra.Command {
	var o eventOptions
	cmd := &cobra.Command{
		Use:   "events",
		Short: "Show what happened to sources, Kustomizations and secrets",
		Long: `events shows what the controller reported, oldest first. With --for it shows the events of one object; for a Kustomization
also those of its source. Kubernetes keeps events for an hour.`,
		Example: `  sealock events -n team-a
  sealock events --for ks/app --watch
  sealock events -A --types Warning`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return o.run(cmd.Context(), cmd.OutOrStdout()) },
	}
	flags := cmd.Flags()
	o.add(flags)
	flags.BoolVarP(&o.everywhere, "all-namespaces", "A", false, "Show events of all namespaces.")
	flags.BoolVarP(&o.watch, "watch", "w", false, "Go on, and print what happens.")
	flags.StringVar(&o.object, "for", "", "Show events of this object, KIND/NAME.")
	flags.StringSliceVar(&o.types, "types", nil, "Show events of these types only: Normal, Warning.")
	formatFlag(cmd, &o.output, "", "Format: json or yaml; a table without it.", "json", "yaml")
	_ = cmd.RegisterFlagCompletionFunc("for", o.completeObject)
	return cmd
}

// completeObject completes KIND/NAME for the kinds that the verbs know.
func (o *eventOptions) completeObject(cmd *cobra.Command, args []string, begun string) ([]cobra.Completion, cobra.ShellCompDirective) {
	var out []cobra.Completion
	word, rest, named := strings.Cut(begun, "/")
	for _, k := range kinds() {
		switch {
		case !named && strings.HasPrefix(strings.ToLower(k.name), strings.ToLower(word)):
			out = append(out, k.name+"/")
		case named && (strings.EqualFold(word, k.name) || slices.Contains(k.nouns, word)):
			names, _ := o.names(k)(cmd, args, rest)
			for _, name := range names {
				out = append(out, word+"/"+name)
			}
		}
	}
	return out, cobra.ShellCompDirectiveNoFileComp | cobra.ShellCompDirectiveNoSpace
}

// about is a list of events: a namespace, and what in it.
type about struct {
	namespace string
	selector  string
}

func (o *eventOptions) run(ctx context.Context, out io.Writer) error {
	if err := knownFormat(o.output, "json", "yaml"); err != nil {
		return err
	}
	if o.watch && o.output != "" || o.object != "" && o.everywhere {
		return wrongUse("these flags do not go together").Fix("use --watch without -o, and --for without -A")
	}
	s, err := o.open()
	if err != nil {
		return err
	}
	lists, err := o.lists(ctx, s)
	if err != nil {
		return err
	}
	var found []unstructured.Unstructured
	for _, l := range lists {
		list, err := s.of(eventKind, l.namespace).List(ctx, metav1.ListOptions{FieldSelector: l.selector})
		if err != nil {
			return unanswered(err, eventKind.ref(l.namespace, ""), "list")
		}
		for _, e := range list.Items {
			if o.selects(&e) {
				found = append(found, e)
			}
		}
	}
	slices.SortStableFunc(found, func(a, b unstructured.Unstructured) int {
		return cmp.Or(lastSeen(&a).Compare(lastSeen(&b)), cmp.Compare(a.GetName(), b.GetName()))
	})
	if o.output != "" {
		var all []map[string]any
		for i := range found {
			all = append(all, asStored(&found[i]))
		}
		return printAs(out, o.output, asList(all))
	}
	if len(found) == 0 && !o.watch {
		return fault.New("", fault.NotFound, fault.Ref{}, "no events").Fix("name another namespace with -n, or all of them with -A; Kubernetes keeps events for an hour")
	}
	var rows [][]string
	for i := range found {
		rows = append(rows, o.row(&found[i]))
	}
	t := newTable(out, o.header(), rows)
	if err := t.print(rows); err != nil || !o.watch {
		return err
	}
	return o.follow(ctx, s, lists, found, t)
}

// lists says where the events are that are asked for.
func (o *eventOptions) lists(ctx context.Context, s *session) ([]about, error) {
	if o.object == "" {
		if o.everywhere {
			return []about{{}}, nil
		}
		return []about{{namespace: s.namespace}}, nil
	}
	k, name, err := s.objectNamed([]string{o.object})
	if err != nil {
		return nil, err
	}
	namespace := s.namespace
	if k.clusterWide {
		namespace = metav1.NamespaceDefault // where events of objects without a namespace are kept
	}
	out := []about{{namespace, involving(k, name)}}
	if k.name != kustomizationKind.name {
		return out, nil
	}
	ks, err := s.get(ctx, k, namespace, name)
	if fault.KindOf(err) == fault.NotFound {
		return out, nil // its events outlive it
	}
	if err != nil {
		return nil, err
	}
	if ns, source, err := sourceOf(ks); err == nil {
		out = append(out, about{ns, involving(gitRepositoryKind, source)})
	}
	return out, nil
}

func involving(k kind, name string) string {
	return fields.Set{"involvedObject.kind": k.name, "involvedObject.name": name}.AsSelector().String()
}

// selects drops what is about other products, unless an object was named.
func (o *eventOptions) selects(e *unstructured.Unstructured) bool {
	if len(o.types) > 0 && !slices.ContainsFunc(o.types, func(t string) bool { return strings.EqualFold(t, field(e, "type")) }) {
		return false
	}
	if o.object != "" {
		return true
	}
	group, _, _ := strings.Cut(field(e, "involvedObject", "apiVersion"), "/")
	return slices.ContainsFunc(kinds(), func(k kind) bool { return k.resource.Group == group })
}

func field(obj *unstructured.Unstructured, path ...string) string {
	text, _, _ := unstructured.NestedString(obj.Object, path...)
	return text
}

// lastSeen returns when an event happened last. Which field says so depends on the API that wrote it.
func lastSeen(e *unstructured.Unstructured) time.Time {
	for _, path := range [][]string{{"series", "lastObservedTime"}, {"lastTimestamp"}, {"eventTime"}, {"metadata", "creationTimestamp"}} {
		if at, err := time.Parse(time.RFC3339, field(e, path...)); err == nil {
			return at
		}
	}
	return time.Time{}
}

func (o *eventOptions) header() []string {
	header := []string{"LAST SEEN", "TYPE", "REASON", "OBJECT", "MESSAGE"}
	if o.everywhere {
		header = slices.Insert(header, 0, "NAMESPACE")
	}
	return header
}

func (o *eventOptions) row(e *unstructured.Unstructured) []string {
	row := []string{
		duration.HumanDuration(time.Since(lastSeen(e))), field(e, "type"), field(e, "reason"),
		field(e, "involvedObject", "kind") + "/" + field(e, "involvedObject", "name"), short(strings.TrimSpace(field(e, "message"))),
	}
	if o.everywhere {
		row = slices.Insert(row, 0, field(e, "involvedObject", "namespace"))
	}
	return row
}

// follow prints what happens from now on, until it is interrupted.
func (o *eventOptions) follow(ctx context.Context, s *session, lists []about, shown []unstructured.Unstructured, t *table) error {
	var mu sync.Mutex
	known := map[string]bool{}
	for i := range shown {
		known[string(shown[i].GetUID())+shown[i].GetResourceVersion()] = true
	}
	group, inner := errgroup.WithContext(ctx)
	for _, l := range lists {
		group.Go(func() error {
			opts := metav1.ListOptions{FieldSelector: l.selector}
			return follow(inner, s.of(eventKind, l.namespace), opts, eventKind.ref(l.namespace, ""), func(what watch.EventType, e *unstructured.Unstructured) (bool, error) {
				mu.Lock()
				defer mu.Unlock()
				if what == watch.Deleted || known[string(e.GetUID())+e.GetResourceVersion()] || !o.selects(e) {
					return false, nil
				}
				return false, t.row(o.row(e))
			})
		})
	}
	err := group.Wait()
	if ctx.Err() != nil {
		return nil //nolint:nilerr // this is how a watch ends
	}
	return err
}
