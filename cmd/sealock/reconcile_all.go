package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/watch"

	"sealock.dev/sealock/fault"
)

// reconcileAll is `sealock reconcile --all`, of all kinds that are delivered or of one.
type reconcileAll struct {
	*reconcileOptions
	list []kind // in the order in which they are asked for: Kustomizations need what sources bring
}

// nameOrAll is the argument check of a verb that takes one object, or --all.
func (o *reconcileOptions) nameOrAll(cmd *cobra.Command, args []string) error {
	if o.everywhere && !o.all || o.all && o.withSource {
		return wrongUse("-A goes with --all, and --with-source with a name").Fix("see `%s --help`", cmd.CommandPath())
	}
	if o.all && len(args) > 0 {
		return wrongUse("%q is one argument too many beside --all", args[0]).Fix("name an object, or leave the name out")
	}
	if o.all {
		return nil
	}
	return oneName(cmd, args)
}

func (o reconcileAll) run(ctx context.Context, out, progress io.Writer) error {
	if err := knownFormat(o.output, "json", "yaml"); err != nil {
		return err
	}
	s, err := o.open()
	if err != nil {
		return err
	}
	namespace := s.namespace
	if o.everywhere {
		namespace = ""
	}
	r := &round{session: s, namespace: namespace, asked: time.Now().Format(time.RFC3339Nano)}
	for _, k := range o.list {
		if err := r.kind(ctx, k, o.timeout, progress); err != nil {
			return err
		}
	}
	if len(r.done) == 0 {
		return r.nothing()
	}
	return o.report(out, r)
}

// report prints what became of the objects, those that failed for people and all for machines.
func (o reconcileAll) report(out io.Writer, r *round) error {
	var errs []error
	var rows [][]string
	outcomes := []outcomeOf{}
	for _, d := range r.done {
		outcomes = append(outcomes, d.outcome())
		if d.err != nil {
			errs = append(errs, d.err)
			rows = append(rows, []string{d.k.ref(d.obj.GetNamespace(), d.obj.GetName()).String(), d.reason(), short(d.message())})
		}
	}
	var err error
	if o.output != "" {
		err = printAs(out, o.output, outcomes)
	} else {
		err = r.print(out, rows)
	}
	if err != nil || len(errs) == 0 {
		return err
	}
	return &ended{code: fault.KindOf(errors.Join(errs...)).ExitCode()}
}

func (r *round) print(out io.Writer, failed [][]string) error {
	if len(failed) > 0 {
		if err := newTable(out, []string{"OBJECT", "REASON", "MESSAGE"}, failed).print(failed); err != nil {
			return err
		}
	}
	text := fmt.Sprintf("%d of %d are ready", len(r.done)-len(failed), len(r.done))
	if r.suspended > 0 {
		text += fmt.Sprintf("; %d suspended were left alone", r.suspended)
	}
	_, err := fmt.Fprintln(out, text)
	return err
}

// round asks for a reconcile of many objects at once and waits for each.
type round struct {
	*session
	namespace string // "" is all
	asked     string
	done      []ofRound
	suspended int
}

// ofRound is what became of one object. err is nil when it is ready.
type ofRound struct {
	k   kind
	obj *unstructured.Unstructured
	err error
}

func (d ofRound) outcome() outcomeOf {
	out := d.k.outcome(d.obj)
	if d.err != nil && out.Ready == string(metav1.ConditionTrue) { // of before
		out.Ready, out.Reason, out.Message = string(metav1.ConditionUnknown), d.reason(), d.message()
	}
	return out
}

// reason is that of the Ready condition, where the failure is what it says.
func (d ofRound) reason() string {
	if c, ok := conditionOf(d.obj, d.k.condition); ok && c.Status != metav1.ConditionTrue {
		return c.Reason
	}
	return fault.KindOf(d.err).String()
}

func (d ofRound) message() string {
	all := fault.All(d.err)
	if len(all) == 0 {
		return d.err.Error()
	}
	text := all[0].Err.Error()
	return strings.TrimPrefix(text, d.reason()+": ")
}

func (r *round) nothing() error {
	where := "in namespace " + r.namespace
	if r.namespace == "" {
		where = "in any namespace"
	}
	return fault.New("", fault.NotFound, fault.Ref{}, "nothing to reconcile %s, %d suspended", where, r.suspended).Fix("name another namespace with -n, or all of them with -A")
}

// kind does it for the objects of one kind.
func (r *round) kind(ctx context.Context, k kind, timeout time.Duration, out io.Writer) error {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	list, err := r.of(k, r.namespace).List(ctx, metav1.ListOptions{})
	if err != nil {
		return unanswered(err, k.ref(r.namespace, ""), "list")
	}
	w := &waiting{round: r, k: k, open: map[string]*unstructured.Unstructured{}, words: map[string]string{}, failed: map[string]bool{}}
	for i := range list.Items {
		switch obj := &list.Items[i]; {
		case suspended(obj):
			r.suspended++
		case obj.GetDeletionTimestamp() == nil:
			w.open[keyOf(obj)] = obj
		}
	}
	w.all = len(w.open)
	w.request(ctx)
	line := newProgress(out, k.name)
	defer line.stop()
	if len(w.open) > 0 {
		err = follow(ctx, r.of(k, r.namespace), metav1.ListOptions{}, k.ref(r.namespace, ""), func(what watch.EventType, obj *unstructured.Unstructured) (bool, error) {
			w.see(what, obj)
			line.say(w.now())
			return len(w.open) == 0, nil
		})
	}
	if err != nil && ctx.Err() != context.DeadlineExceeded { // the context's own error is this one
		return err
	}
	for _, key := range w.left() {
		obj := w.open[key]
		w.close(key, obj, fault.New("", fault.Transient, k.ref(obj.GetNamespace(), obj.GetName()), "not done after %s: %s", timeout, w.words[key]))
	}
	return nil
}

func keyOf(obj *unstructured.Unstructured) string { return obj.GetNamespace() + "/" + obj.GetName() }

// waiting is what is still open of one kind, by namespace and name.
type waiting struct {
	*round
	k      kind
	all    int
	open   map[string]*unstructured.Unstructured
	words  map[string]string
	failed map[string]bool
}

// request annotates the objects. One that may not be changed has failed.
func (w *waiting) request(ctx context.Context) {
	patch := map[string]any{"metadata": map[string]any{"annotations": map[string]string{requestedAt: w.asked}}}
	var list []*unstructured.Unstructured
	for _, obj := range w.open {
		list = append(list, obj)
	}
	errs := make([]error, len(list))
	var group errgroup.Group
	group.SetLimit(readers)
	for i, obj := range list {
		group.Go(func() error {
			errs[i] = w.merge(ctx, w.k, obj.GetNamespace(), obj.GetName(), patch)
			return nil
		})
	}
	_ = group.Wait() // the errors are kept with their objects
	for i, err := range errs {
		if err != nil && ctx.Err() == nil {
			w.close(keyOf(list[i]), list[i], err)
		}
	}
}

func (w *waiting) close(key string, obj *unstructured.Unstructured, err error) {
	delete(w.open, key)
	w.failed[key] = err != nil
	w.done = append(w.done, ofRound{w.k, obj, err})
}

// see takes in how an object is now.
func (w *waiting) see(what watch.EventType, obj *unstructured.Unstructured) {
	key := keyOf(obj)
	if w.open[key] == nil {
		return
	}
	w.open[key] = obj
	if what == watch.Deleted || suspended(obj) {
		delete(w.open, key) // it is nobody's to wait for any more
		w.all--
		return
	}
	w.words[key] = "waiting for the controller to look at it"
	if field(obj, "status", "lastHandledReconcileAt") == w.asked {
		done, words, err := settled(w.k, obj)
		if w.words[key] = words; done || err != nil {
			w.close(key, obj, err)
		}
	}
	w.hopeless()
}

// hopeless gives up on what depends on something that has failed: the controller goes on waiting, for as long as that fails.
func (w *waiting) hopeless() {
	for again := true; again; {
		again = false
		for _, key := range w.left() {
			obj := w.open[key]
			c, _ := conditionOf(obj, w.k.condition)
			if c.Reason != "DependencyNotReady" || !slices.ContainsFunc(dependenciesOf(obj), func(on string) bool { return w.failed[on] }) {
				continue
			}
			w.close(key, obj, failure(w.k.ref(obj.GetNamespace(), obj.GetName()), c))
			again = true
		}
	}
}

// dependenciesOf returns namespace/name of each object that spec.dependsOn names.
func dependenciesOf(obj *unstructured.Unstructured) []string {
	list, _, _ := unstructured.NestedSlice(obj.Object, "spec", "dependsOn")
	var out []string
	for _, each := range list {
		on, _ := each.(map[string]any)
		name, _ := on["name"].(string)
		namespace, _ := on["namespace"].(string)
		if namespace == "" {
			namespace = obj.GetNamespace()
		}
		out = append(out, namespace+"/"+name)
	}
	return out
}

// left lists what is open.
func (w *waiting) left() []string { return slices.Sorted(maps.Keys(w.open)) }

// now is a line about what is open.
func (w *waiting) now() string {
	text := fmt.Sprintf("%d of %d done", w.all-len(w.open), w.all)
	if left := w.left(); len(left) > 0 {
		text += fmt.Sprintf(", %s: %s", left[0], w.words[left[0]])
	}
	return text
}
