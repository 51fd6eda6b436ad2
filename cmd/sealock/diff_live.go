package main

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"slices"
	"strings"

	"golang.org/x/sync/errgroup"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	utiljson "k8s.io/apimachinery/pkg/util/json"
	"k8s.io/client-go/metadata"

	"sealock.dev/sealock/fault"
	"sealock.dev/sealock/manifest"
	"sealock.dev/sealock/plaintext"
)

// compare says what the folder would change as the commit of the Kustomization.
func (s *session) compare(ctx context.Context, ks *unstructured.Unstructured, from clone, keyFile, system string) (*comparison, error) {
	want, err := s.build(ctx, ks, from, keyFile, system)
	if err != nil {
		return nil, err
	}
	mapper, _, err := s.mapper()
	if err != nil {
		return nil, err
	}
	j := &comparer{session: s, mapper: mapper, ks: ks, want: want, key: plaintext.RandomKey(), made: map[schema.GroupKind]bool{}, spaces: map[string]bool{}}
	set, err := j.prepare(want.set)
	if err != nil {
		return nil, err
	}
	v, err := s.judged(ctx, &j.want)
	if err != nil {
		return nil, want.safe(err)
	}
	found, err := j.all(ctx, set)
	pruned, more := j.pruned(ctx, set)
	if err = errors.Join(err, more); err != nil {
		return nil, want.safe(err)
	}
	c := &comparison{Kustomization: ks.GetNamespace() + "/" + ks.GetName(), Folder: from.shown, Revision: from.revision, Notes: j.want.notes, Verdict: v, Objects: []difference{}}
	if v != nil {
		v.Folder = from.shown
	}
	for _, d := range append(found, pruned...) {
		c.count(d)
	}
	return c, nil
}

// all compares the objects. Secrets go first: what they hold now is known when the others are shown.
func (j *comparer) all(ctx context.Context, set []manifest.Object) ([]difference, error) {
	found := make([]difference, len(set))
	errs := make([]error, len(set))
	for _, secrets := range []bool{true, false} {
		var group errgroup.Group
		group.SetLimit(readers)
		for i, o := range set {
			if o.IsSecret() != secrets {
				continue
			}
			group.Go(func() error {
				found[i], errs[i] = j.one(ctx, o)
				return nil
			})
		}
		_ = group.Wait() // the errors are kept in the order of the set
	}
	return found, errors.Join(errs...)
}

func (c *comparison) count(d difference) {
	switch d.Action {
	case "created":
		c.Created++
	case "changed", "recreated":
		c.Changed++
	case "pruned":
		c.Pruned++
	case "skipped":
		c.Skipped++
	default:
		c.Unchanged++
		if d.Note == "" {
			return
		}
	}
	c.Objects = append(c.Objects, d)
}

// comparer compares the objects of one set.
type comparer struct {
	*session
	mapper meta.RESTMapper
	ks     *unstructured.Unstructured
	want   wanted
	key    plaintext.Key // of this call: digests of two calls cannot be compared

	made   map[schema.GroupKind]bool // kinds that the set defines
	spaces map[string]bool           // namespaces that the set brings
}

// prepare makes of the rendered set what is applied: each object in its namespace, with the labels of its owner and
// without what only the API server writes.
func (j *comparer) prepare(set []manifest.Object) ([]manifest.Object, error) {
	scoped := map[schema.GroupKind]bool{}
	for _, o := range set {
		if group, _ := o.Peek("spec", "group").(string); o.Kind() == kindCRD {
			kind, _ := o.Peek("spec", "names", "kind").(string)
			gk := schema.GroupKind{Group: group, Kind: kind}
			j.made[gk], scoped[gk] = true, o.Peek("spec", "scope") == "Cluster"
		}
		if o.Kind() == "Namespace" {
			j.spaces[o.Name()] = true
		}
	}
	seen := map[manifest.ID]fault.Ref{}
	var out []manifest.Object
	var errs []error
	for _, o := range set {
		gk := o.GVK().GroupKind()
		k, err := j.kind(o)
		switch {
		case err == nil && k.clusterWide, err != nil && j.made[gk] && scoped[gk]:
			o = o.WithNamespace("")
		case err != nil && !j.made[gk]:
			errs = append(errs, fault.New("", fault.KindOf(err), o.Ref(), "the cluster does not know %s %s", o.APIVersion(), o.Kind()).Fix("add its CustomResourceDefinition"))
			continue
		case o.Namespace() == "":
			o = o.WithNamespace(j.ks.GetNamespace())
		}
		if first, twice := seen[o.ID()]; twice {
			errs = append(errs, fault.New("", fault.Invalid, o.Ref(), "the object also stands in %s:%d", first.File, first.Line).Fix("remove one of them"))
			continue
		}
		seen[o.ID()] = o.Ref()
		out = append(out, withoutServerFields(o.WithMeta(j.want.owner.Labels, nil)))
	}
	return out, errors.Join(errs...)
}

// serverFields of metadata are written by the API server alone.
var serverFields = []string{ //nolint:gochecknoglobals // a constant table
	"creationTimestamp", "managedFields", "resourceVersion", "uid", "generation", "selfLink", "deletionTimestamp", "deletionGracePeriodSeconds",
}

func withoutServerFields(o manifest.Object) manifest.Object {
	return o.Edit(func(body map[string]any) {
		if o.Kind() != kindCRD {
			delete(body, "status")
		}
		metadata, _ := body["metadata"].(map[string]any)
		for _, f := range serverFields {
			delete(metadata, f)
		}
	})
}

// marked reports a marker of Flux, which may be a label or an annotation.
func marked(obj metav1.Object, key, value string) bool {
	key = kustomizeGroup + "/" + key
	return strings.EqualFold(obj.GetLabels()[key], value) || strings.EqualFold(obj.GetAnnotations()[key], value)
}

// one compares one object.
func (j *comparer) one(ctx context.Context, o manifest.Object) (difference, error) {
	d := differenceOf(o.Ref(), "skipped")
	desired := &unstructured.Unstructured{Object: o.Body()}
	disabled := func(obj metav1.Object) bool {
		return marked(obj, "reconcile", "disabled") || marked(obj, "ssa", "Ignore")
	}
	if disabled(desired) {
		d.Note = "it is marked to be left alone"
		return d, nil
	}
	k, err := j.kind(o)
	if err != nil || !k.clusterWide && j.spaces[o.Namespace()] && !j.serves(ctx, o.Namespace()) {
		d.Action = "created" // its kind or its namespace comes with it
		return d, nil        //nolint:nilerr // as that says
	}
	for range attempts {
		live, err := j.of(k, o.Namespace()).Get(ctx, o.Name(), metav1.GetOptions{})
		if apierrors.IsNotFound(err) {
			live, err = nil, nil
		}
		if err != nil {
			return d, unanswered(err, o.Ref(), "read")
		}
		if live != nil && o.IsSecret() {
			j.want.learn(valuesOf(live)...)
		}
		switch {
		case live != nil && disabled(live):
			d.Note = "it is marked, on the cluster, to be left alone"
			return d, nil
		case live != nil && marked(desired, "ssa", "IfNotPresent"):
			d.Note = "it exists, and is only ever created"
			return d, nil
		}
		found, moved, err := j.ask(ctx, d, o, k, live)
		if !moved || err != nil {
			return found, err
		}
	}
	return d, fault.New("", fault.Conflict, o.Ref(), "it keeps changing while it is compared").Fix("repeat the command")
}

// attempts bounds how often an object is compared that changes between the two requests.
const attempts = 10

// kind is that of an object in the version that it is written in; another would not take it.
func (j *comparer) kind(o manifest.Object) (kind, error) {
	k, err := kindServed(j.mapper, o.GVK())
	if err == nil && k.resource.Version != o.GVK().Version {
		err = fault.New("", fault.NotFound, o.Ref(), "the version is not served")
	}
	return k, err
}

func (j *comparer) serves(ctx context.Context, namespace string) bool {
	_, err := j.objects.Resource(schema.GroupVersionResource{Version: "v1", Resource: "namespaces"}).Get(ctx, namespace, metav1.GetOptions{})
	return err == nil
}

// ask has the API server dry-run the object, and compares the answer with what is live. moved says that somebody changed
// the object in between: what differs is then not what the apply would change.
func (j *comparer) ask(ctx context.Context, d difference, o manifest.Object, k kind, live *unstructured.Unstructured) (found difference, moved bool, err error) {
	body, hidden, err := j.wire(o, live)
	if err != nil {
		return d, false, err
	}
	after, err := j.of(k, o.Namespace()).Patch(ctx, o.Name(), types.ApplyPatchType, body, metav1.PatchOptions{
		FieldManager: j.want.owner.FieldManager, Force: new(true), DryRun: []string{metav1.DryRunAll},
	})
	switch {
	case err == nil && live != nil && after.GetResourceVersion() != live.GetResourceVersion(): // a dry run gives no new one
		return d, true, nil
	case err == nil:
	case live != nil && apierrors.IsInvalid(err) && immutable(err) && (j.want.owner.Force || marked(live, "force", "enabled") || marked(&unstructured.Unstructured{Object: o.Body()}, "force", "enabled")):
		d.Action, d.Note = "recreated", "a field that cannot change would, and force is set"
		return d, false, nil
	default:
		return d, false, j.refused(err, o)
	}
	if d.Action = "created"; live != nil {
		d.Action = "unchanged"
		if d.Changes, err = j.changes(o, live, after); err != nil {
			return d, false, err
		}
		if len(d.Changes) > 0 {
			d.Action = "changed"
		}
	}
	if hidden > 0 {
		d.Note = plural(hidden, "value") + " encrypted for somebody else: **SOPS**, not compared"
	}
	return d, false, nil
}

// wire is the body of the dry run, values included: it is sent to where it is about to be applied, by who has the key.
// Values that nobody opened are those that are live; hidden counts them.
func (j *comparer) wire(o manifest.Object, live *unstructured.Unstructured) (body []byte, hidden int, err error) {
	body, err = o.Wire()
	if err != nil {
		return nil, 0, err
	}
	var unopened [][]string
	o.View(func(path []string, v plaintext.Value) any {
		if j.want.unknown.is(v) {
			unopened = append(unopened, path)
		}
		return nil
	})
	if len(unopened) == 0 {
		return body, 0, nil
	}
	var sent map[string]any
	if err := utiljson.Unmarshal(body, &sent); err != nil {
		return nil, 0, fault.New("", fault.Internal, o.Ref(), "the object is not JSON")
	}
	for _, path := range unopened {
		var known any = base64.StdEncoding.EncodeToString([]byte("{}")) // valid whatever the type of the Secret
		if live != nil {
			if v, ok, _ := unstructured.NestedFieldNoCopy(live.Object, path...); ok {
				known = v
			}
		}
		_ = unstructured.SetNestedField(sent, known, path...) // inside of a list it stays random, and differs
	}
	body, err = json.Marshal(sent)
	return body, len(unopened), err
}

func immutable(err error) bool {
	return strings.Contains(err.Error(), "immutable") || strings.Contains(err.Error(), "Forbidden: updates to")
}

// refused says why the API server would not take the object. What it says about a Secret may quote it.
func (j *comparer) refused(err error, o manifest.Object) error {
	var status apierrors.APIStatus
	if !errors.As(err, &status) || apierrors.IsUnauthorized(err) {
		return unanswered(err, o.Ref(), "dry-run")
	}
	kind, remedy, words := kindOfAPI(err), "correct the manifest", j.want.scrub.Scrub(status.Status().Message)
	switch {
	case apierrors.IsForbidden(err) && strings.Contains(status.Status().Message, " cannot patch resource "):
		words, remedy = "you may not patch it, which a dry run needs", "ask for the right, or act as who has it with --as"
	case apierrors.IsForbidden(err):
		remedy = "change the object as is asked"
	case apierrors.IsInvalid(err), apierrors.IsBadRequest(err):
		kind = fault.Invalid
	case o.IsSecret():
		words = reason(err)
	}
	if o.IsSecret() && (kind == fault.Invalid || strings.Contains(words, "\"")) {
		words = "the API server refuses it: " + reason(err)
	}
	return fault.New("", kind, o.Ref(), "%s", words).Fix("%s", remedy)
}

// pruned returns what of the inventory is not in the set any more and would be deleted.
func (j *comparer) pruned(ctx context.Context, set []manifest.Object) ([]difference, error) {
	if prune, _, _ := unstructured.NestedBool(j.ks.Object, "spec", "prune"); !prune {
		return nil, nil
	}
	ids, err := inventoryOf(j.ks)
	if err != nil {
		return nil, err
	}
	kept := map[string]bool{}
	for _, o := range set {
		kept[o.ID().String()] = true
	}
	client, err := metadata.NewForConfig(j.config)
	if err != nil {
		return nil, fault.New("", fault.Invalid, fault.Ref{}, "the kubeconfig is not usable").Fix("check it with `kubectl config view`")
	}
	var out []difference
	var errs []error
	for _, id := range slices.Backward(ids) {
		if kept[id.String()] {
			continue
		}
		k, err := kindServed(j.mapper, id.GVK())
		if err != nil {
			continue // a kind that is gone took its objects along
		}
		live, err := client.Resource(k.resource).Namespace(id.Namespace).Get(ctx, id.Name, metav1.GetOptions{})
		if apierrors.IsNotFound(err) {
			continue
		}
		if err != nil {
			errs = append(errs, unanswered(err, id.Ref(), "read"))
			continue
		}
		d := differenceOf(id.Ref(), "pruned")
		if d.Note = spared(live, j.ks); d.Note != "" {
			d.Action = "skipped"
		}
		out = append(out, d)
	}
	return out, errors.Join(errs...)
}
