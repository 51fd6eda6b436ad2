package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"

	"sealock.dev/sealock/fault"
)

type reconcileOptions struct {
	personFlags
	withSource bool
	all        bool
	everywhere bool
	timeout    time.Duration
	output     string
}

func newReconcileCommand() *cobra.Command {
	var o reconcileOptions
	list := []kind{gitRepositoryKind, kustomizationKind}
	cmd := &cobra.Command{
		Use:   "reconcile",
		Short: "Have a source fetched or a Kustomization applied now, and wait for the outcome",
		Long: `reconcile asks the controller to look at an object at once, waits until it has, and prints the revision that it stands
at. What takes longer than a second is told on standard error.

With --all it does so for everything that is not suspended, sources first, and lists what did not get ready.

The exit code says what came of it: 0 ready, 1 denied, 2 the commit is not valid, 4 something is missing, 5 not ready or
not in time; with --all the first of these that happened, 0 for none.`,
		Example: `  sealock reconcile ks app --with-source
  sealock reconcile --all -A
  sealock reconcile source git app -n team-a --timeout 1m`,
	}
	byKind(cmd, "source", []kind{kustomizationKind, gitRepositoryKind}, newReconcileKind)
	o.bind(cmd)
	cmd.FParseErrWhitelist.UnknownFlags = false // this one does something by itself
	cmd.Args = func(cmd *cobra.Command, args []string) error {
		if len(args) > 0 || !o.all {
			return knownNoun(cmd, args)
		}
		return nil
	}
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		return reconcileAll{&o, list}.run(cmd.Context(), cmd.OutOrStdout(), cmd.ErrOrStderr())
	}
	return cmd
}

func newReconcileKind(k kind, use string) *cobra.Command {
	var o reconcileOptions
	cmd := &cobra.Command{
		Use: use + " NAME", Short: "Reconcile a " + k.name + " now", Args: o.nameOrAll,
		ValidArgsFunction: o.names(k),
		RunE: func(cmd *cobra.Command, args []string) error {
			if o.all {
				return reconcileAll{&o, []kind{k}}.run(cmd.Context(), cmd.OutOrStdout(), cmd.ErrOrStderr())
			}
			return o.run(cmd.Context(), k, args[0], cmd.OutOrStdout(), cmd.ErrOrStderr())
		},
	}
	o.bind(cmd)
	if k.name == kustomizationKind.name {
		cmd.Flags().BoolVar(&o.withSource, "with-source", false, "Have the source fetched first.")
		cmd.Example = "  sealock reconcile ks app --with-source\n  sealock reconcile ks --all -n team-a"
	} else {
		cmd.Example = "  sealock reconcile source git app\n  sealock reconcile source git --all -A"
	}
	return cmd
}

func (o *reconcileOptions) bind(cmd *cobra.Command) {
	flags := cmd.Flags()
	o.add(flags)
	flags.BoolVar(&o.all, "all", false, "All objects of the namespace that are not suspended.")
	flags.BoolVarP(&o.everywhere, "all-namespaces", "A", false, "With --all, those of all namespaces.")
	flags.DurationVar(&o.timeout, "timeout", 5*time.Minute, "How long to wait for the outcome; with --all, of all of one kind.")
	formatFlag(cmd, &o.output, "", "Format: json or yaml; lines for people without it.", "json", "yaml")
}

// outcomeOf is what reconcile, suspend and resume print for machines.
type outcomeOf struct {
	Kind      string `json:"kind"`
	Namespace string `json:"namespace,omitempty"`
	Name      string `json:"name"`
	Suspended bool   `json:"suspended"`
	Ready     string `json:"ready,omitempty"`
	Reason    string `json:"reason,omitempty"`
	Message   string `json:"message,omitempty"`
	Revision  string `json:"revision,omitempty"`
}

func (k kind) outcome(obj *unstructured.Unstructured) outcomeOf {
	c, _ := conditionOf(obj, k.condition)
	return outcomeOf{
		Kind: k.name, Namespace: obj.GetNamespace(), Name: obj.GetName(), Suspended: suspended(obj),
		Ready: string(c.Status), Reason: c.Reason, Message: c.Message, Revision: k.revisionOf(obj),
	}
}

func (o *reconcileOptions) run(ctx context.Context, k kind, name string, out, progress io.Writer) error {
	if err := knownFormat(o.output, "json", "yaml"); err != nil {
		return err
	}
	s, err := o.open()
	if err != nil {
		return err
	}
	if o.withSource {
		if err := o.source(ctx, s, name, out, progress); err != nil {
			return err
		}
	}
	obj, err := o.one(ctx, s, k, s.namespace, name, progress)
	if obj != nil && o.output != "" {
		if bad := printAs(out, o.output, k.outcome(obj)); bad != nil {
			return bad
		}
	}
	if err == nil && o.output == "" {
		_, err = fmt.Fprintf(out, "%s is ready at %s\n", k.ref(obj.GetNamespace(), name), revisionText(k, obj))
	}
	return err
}

func revisionText(k kind, obj *unstructured.Unstructured) string {
	if r := k.revisionOf(obj); r != "" {
		return short(r)
	}
	return "no revision"
}

// source has the source of a Kustomization fetched.
func (o *reconcileOptions) source(ctx context.Context, s *session, name string, out, progress io.Writer) error {
	ks, err := s.get(ctx, kustomizationKind, s.namespace, name)
	if err != nil {
		return err
	}
	if err := refuseSuspended(kustomizationKind, ks); err != nil {
		return err
	}
	namespace, source, err := sourceOf(ks)
	if err != nil {
		return err
	}
	obj, err := o.one(ctx, s, gitRepositoryKind, namespace, source, progress)
	if err == nil && o.output == "" {
		_, err = fmt.Fprintf(out, "%s is ready at %s\n", gitRepositoryKind.ref(namespace, source), revisionText(gitRepositoryKind, obj))
	}
	return err
}

// sourceOf names the GitRepository of a Kustomization.
func sourceOf(ks *unstructured.Unstructured) (namespace, name string, err error) {
	ref := kustomizationKind.ref(ks.GetNamespace(), ks.GetName())
	which, _, _ := unstructured.NestedString(ks.Object, "spec", "sourceRef", "kind")
	if which != gitRepositoryKind.name {
		return "", "", fault.New("", fault.Invalid, ref, "its source is a %s, which is not served", which).At("spec.sourceRef.kind").Fix("leave --with-source out")
	}
	name, _, _ = unstructured.NestedString(ks.Object, "spec", "sourceRef", "name")
	namespace, _, _ = unstructured.NestedString(ks.Object, "spec", "sourceRef", "namespace")
	if namespace == "" {
		namespace = ks.GetNamespace()
	}
	return namespace, name, nil
}

func refuseSuspended(k kind, obj *unstructured.Unstructured) error {
	if !suspended(obj) {
		return nil
	}
	what := k.nouns[0]
	if k.source != "" {
		what = "source " + k.source
	}
	return fault.New("", fault.Invalid, k.ref(obj.GetNamespace(), obj.GetName()), "it is suspended").At("spec.suspend").
		Fix("run `sealock resume %s %s -n %s`", what, obj.GetName(), obj.GetNamespace())
}

// one asks for a reconcile and waits for its outcome.
func (o *reconcileOptions) one(ctx context.Context, s *session, k kind, namespace, name string, progress io.Writer) (*unstructured.Unstructured, error) {
	obj, err := s.get(ctx, k, namespace, name)
	if err != nil {
		return nil, err
	}
	if err := refuseSuspended(k, obj); err != nil {
		return nil, err
	}
	asked := time.Now().Format(time.RFC3339Nano)
	if err := s.merge(ctx, k, namespace, name, map[string]any{"metadata": map[string]any{"annotations": map[string]string{requestedAt: asked}}}); err != nil {
		return nil, err
	}
	return s.await(ctx, k, namespace, name, o.timeout, progress, func(obj *unstructured.Unstructured) (bool, string, error) {
		if suspended(obj) {
			return false, "", refuseSuspended(k, obj)
		}
		if handled, _, _ := unstructured.NestedString(obj.Object, "status", "lastHandledReconcileAt"); handled != asked {
			return false, "waiting for the controller to look at it", nil
		}
		return settled(k, obj)
	})
}

// merge patches an object.
func (s *session) merge(ctx context.Context, k kind, namespace, name string, patch map[string]any) error {
	body, err := json.Marshal(patch)
	if err != nil {
		return err
	}
	_, err = s.of(k, namespace).Patch(ctx, name, types.MergePatchType, body, metav1.PatchOptions{FieldManager: personManager})
	if err != nil {
		return unanswered(err, k.ref(namespace, name), "change")
	}
	return nil
}

// settled says whether what the status tells is about the present spec, and is final. Ready=False is: that the controller
// will try again is no reason to keep somebody waiting. Only what waits for another object goes on.
func settled(k kind, obj *unstructured.Unstructured) (bool, string, error) {
	ref, generation := k.ref(obj.GetNamespace(), obj.GetName()), obj.GetGeneration()
	if c, ok := conditionOf(obj, "Stalled"); ok && c.Status == metav1.ConditionTrue && current(c, generation) {
		return false, c.Message, failure(ref, c)
	}
	ready, ok := conditionOf(obj, k.condition)
	if !ok || !current(ready, generation) {
		return false, "waiting for the controller to look at it", nil
	}
	words := ready.Message
	if c, busy := conditionOf(obj, "Reconciling"); busy && c.Status == metav1.ConditionTrue && c.Message != "" {
		words = c.Message
	}
	switch {
	case ready.Status == metav1.ConditionTrue:
		observed, _, _ := unstructured.NestedInt64(obj.Object, "status", "observedGeneration")
		return observed >= generation, words, nil
	case ready.Status == metav1.ConditionFalse && ready.Reason == "DependencyNotReady":
		return false, ready.Message, nil
	case ready.Status == metav1.ConditionFalse:
		return false, words, failure(ref, ready)
	}
	return false, words, nil
}

// current tells a condition about the present spec from one about an older. Zero is a controller that does not say.
func current(c metav1.Condition, generation int64) bool {
	return c.ObservedGeneration == 0 || c.ObservedGeneration >= generation
}

// failure classifies a condition by the reasons that are Flux's and ours.
func failure(ref fault.Ref, c metav1.Condition) error {
	kind := fault.Unhealthy
	switch c.Reason {
	case "AccessDenied", "PolicyDenied":
		kind = fault.Denied
	case "BuildFailed", "InvalidCELExpression", "UnsupportedField", "FeatureGateDisabled", "URLInvalid", "InvalidProviderConfiguration",
		"InvalidVerificationMode", "InvalidCommitSignature", "InvalidTagSignature":
		kind = fault.Invalid
	case "ArtifactFailed":
		kind = fault.NotFound
	case "ReconciliationFailed", "PruneFailed", "GitOperationFailed", "DependencyNotReady", "AuthenticationFailed", "HealthCheckCanceled":
		kind = fault.Transient
	}
	return fault.New("", kind, ref, "%s: %s", c.Reason, short(c.Message)).Fix("see `%s`", eventsOf(ref))
}

// eventsOf is the command that shows the events of an object.
func eventsOf(ref fault.Ref) string {
	text := "sealock events --for " + ref.Kind + "/" + ref.Name
	if ref.Namespace != "" {
		text += " -n " + ref.Namespace
	}
	return text
}
