package stories

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/dynamic"

	"sealock.dev/sealock/e2e/harness"
)

// fluxCLI is a stand-in for the flux program, which cannot be built from the registries here. It makes the requests that
// section 4 of reference/flux.md lists, and judges the answers as that program does: no more is known of it.
type fluxCLI struct{ *team }

// kustomizations and repositories are the kinds of the two APIs.
const (
	kustomizations = "Kustomization"
	repositories   = "GitRepository"
)

func (f fluxCLI) api(kind string) dynamic.ResourceInterface {
	f.Helper()
	apiVersion := ksAPI
	if kind == repositories {
		apiVersion = srcAPI
	}
	r, err := f.Resource(schema.FromAPIVersionAndKind(apiVersion, kind), f.name)
	f.ok(err)
	return r
}

// get is `flux get`: a LIST with a field selector.
func (f fluxCLI) get(kind, name string) *unstructured.Unstructured {
	f.Helper()
	list, err := f.api(kind).List(f.ctx, metav1.ListOptions{FieldSelector: "metadata.name=" + name})
	f.ok(err)
	if len(list.Items) != 1 {
		f.Fatalf("%d objects of kind %s are named %s", len(list.Items), kind, name)
	}
	return &list.Items[0]
}

// reconcile is `flux reconcile`: it annotates, waits until the request was handled and the object is current, and returns
// what it prints. A suspended object is refused.
func (f fluxCLI) reconcile(kind, name string) (revision string, err error) {
	f.Helper()
	o := f.get(kind, name)
	if suspended(o) {
		return "", fmt.Errorf("resource is suspended")
	}
	before := str(o.Object, "status", "lastHandledReconcileAt")
	f.patch(kind, name, map[string]any{"metadata": map[string]any{"annotations": map[string]any{"reconcile.fluxcd.io/requestedAt": time.Now().Format(time.RFC3339Nano)}}})
	err = f.Wait(f.ctx, patience, "flux reconcile "+kind+" "+name, func(context.Context) (bool, error) {
		o = f.get(kind, name)
		if str(o.Object, "status", "lastHandledReconcileAt") == before {
			return false, nil
		}
		switch status := kstatus(o); status {
		case "Current":
			return true, nil
		case "Failed":
			_, _, message := harness.Condition(o, "Ready")
			return false, fmt.Errorf("failed: %s", message)
		}
		return false, nil
	})
	return revisionOf(o), err
}

// resume is `flux resume`: it waits for a Ready condition of this generation.
func (f fluxCLI) resume(kind, name string) string {
	f.Helper()
	f.suspend(kind, name, false)
	var o *unstructured.Unstructured
	f.ok(f.Wait(f.ctx, patience, "flux resume "+kind+" "+name, func(context.Context) (bool, error) {
		o = f.get(kind, name)
		observed, _, _ := unstructured.NestedInt64(o.Object, "status", "observedGeneration")
		c := conditionOf(o, "Ready")
		at, _ := c["observedGeneration"].(int64)
		return observed >= 1 && c["status"] == "True" && at == o.GetGeneration(), nil
	}))
	return revisionOf(o)
}

func (f fluxCLI) suspend(kind, name string, on bool) {
	f.Helper()
	f.patch(kind, name, map[string]any{"spec": map[string]any{"suspend": on}})
}

func (f fluxCLI) patch(kind, name string, body map[string]any) {
	f.Helper()
	data, err := json.Marshal(body)
	f.ok(err)
	_, err = f.api(kind).Patch(f.ctx, name, types.MergePatchType, data, metav1.PatchOptions{FieldManager: "flux"})
	f.ok(err)
}

// tree is `flux tree`: the inventory, and those of the Kustomizations in it.
func (f fluxCLI) tree(name string) []string {
	f.Helper()
	var out []string
	entries, _, _ := unstructured.NestedSlice(f.get(kustomizations, name).Object, "status", "inventory", "entries")
	for _, each := range entries {
		entry, _ := each.(map[string]any)
		id, _ := entry["id"].(string)
		part := strings.Split(id, "_") // namespace, name, group, kind; names hold no underscore but for a colon of RBAC
		if len(part) < 4 || entry["v"] == "" {
			f.Fatalf("an entry of the inventory that flux cannot read: %v", entry)
		}
		namespace, group, kind := part[0], part[len(part)-2], part[len(part)-1]
		object := strings.ReplaceAll(strings.Join(part[1:len(part)-2], "_"), "__", ":")
		out = append(out, strings.TrimPrefix(kind+"."+group, ".")+"/"+namespace+"/"+object)
		if kind == kustomizations && strings.HasPrefix(group, "kustomize.toolkit.") {
			for _, below := range f.tree(object) {
				out = append(out, "  "+below)
			}
		}
	}
	return out
}

// trace is `flux trace`: from an object over its labels to the Kustomization, the source, and the revision.
func (f fluxCLI) trace(apiVersion, kind, name string) (url, revision string) {
	f.Helper()
	labels := (&unstructured.Unstructured{Object: f.exists(apiVersion, kind, name)}).GetLabels()
	owner, namespace := labels["kustomize.toolkit.fluxcd.io/name"], labels["kustomize.toolkit.fluxcd.io/namespace"]
	if owner == "" || namespace != f.name {
		f.Fatalf("%s %s is not labelled: %v", kind, name, labels)
	}
	ks := f.get(kustomizations, owner)
	source := f.get(repositories, str(ks.Object, "spec", "sourceRef", "name"))
	return str(source.Object, "spec", "url"), str(ks.Object, "status", "lastAppliedRevision")
}

// events is `flux events --for`: core events by the object that they are about.
func (f fluxCLI) events(kind, name string) []corev1.Event {
	f.Helper()
	list, err := f.Typed.CoreV1().Events(f.name).List(f.ctx, metav1.ListOptions{FieldSelector: "involvedObject.kind=" + kind + ",involvedObject.name=" + name})
	f.ok(err)
	return list.Items
}

// diff is `flux diff ks`: a dry run of an object with the manager of kustomize-controller, compared with what is live in
// labels, annotations and all but metadata and status.
func (f fluxCLI) diff(ks string, object *unstructured.Unstructured) (drifted bool) {
	f.Helper()
	object = object.DeepCopy()
	object.SetNamespace(f.name)
	labels := object.GetLabels()
	if labels == nil {
		labels = map[string]string{}
	}
	labels["kustomize.toolkit.fluxcd.io/name"], labels["kustomize.toolkit.fluxcd.io/namespace"] = ks, f.name
	object.SetLabels(labels)
	body, err := object.MarshalJSON()
	f.ok(err)
	r, err := f.Resource(object.GroupVersionKind(), f.name)
	f.ok(err)
	force := true
	dry, err := r.Patch(f.ctx, object.GetName(), types.ApplyPatchType, body, metav1.PatchOptions{FieldManager: "kustomize-controller", Force: &force, DryRun: []string{metav1.DryRunAll}})
	f.ok(err)
	live, err := r.Get(f.ctx, object.GetName(), metav1.GetOptions{})
	f.ok(err)
	compared := func(o *unstructured.Unstructured) string {
		rest := o.DeepCopy().Object
		delete(rest, "metadata")
		delete(rest, "status")
		data, err := json.Marshal([]any{o.GetLabels(), o.GetAnnotations(), rest})
		f.ok(err)
		return string(data)
	}
	return compared(dry) != compared(live)
}

func revisionOf(o *unstructured.Unstructured) string {
	if o.GetKind() == repositories {
		return str(o.Object, "status", "artifact", "revision")
	}
	return str(o.Object, "status", "lastAppliedRevision")
}

func suspended(o *unstructured.Unstructured) bool {
	on, _, _ := unstructured.NestedBool(o.Object, "spec", "suspend")
	return on
}

func conditionOf(o *unstructured.Unstructured, kind string) map[string]any {
	list, _, _ := unstructured.NestedSlice(o.Object, "status", "conditions")
	for _, each := range list {
		if c, ok := each.(map[string]any); ok && c["type"] == kind {
			return c
		}
	}
	return nil
}

// kstatus judges an object as the library of that name does.
func kstatus(o *unstructured.Unstructured) string {
	observed, _, _ := unstructured.NestedInt64(o.Object, "status", "observedGeneration")
	is := func(kind, status string) bool { return conditionOf(o, kind)["status"] == status }
	switch {
	case o.GetDeletionTimestamp() != nil:
		return "Terminating"
	case observed != o.GetGeneration():
		return "InProgress"
	case is("Stalled", "True"):
		return "Failed"
	case is("Reconciling", "True"):
		return "InProgress"
	case is("Ready", "False"), is("Ready", "Unknown"):
		return "InProgress"
	}
	return "Current"
}

// receiver stands in for Flux's notification-controller.
type receiver struct {
	*httptest.Server
	mu     sync.Mutex
	posted []map[string]any
}

func newReceiver() *receiver {
	r := &receiver{}
	r.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		body, _ := io.ReadAll(req.Body)
		var event map[string]any
		if json.Unmarshal(body, &event) == nil {
			r.mu.Lock()
			r.posted = append(r.posted, event)
			r.mu.Unlock()
		}
		w.WriteHeader(http.StatusAccepted)
	}))
	return r
}

// about returns what was posted about an object of a namespace.
func (r *receiver) about(kind, namespace string) []map[string]any {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.DeleteFunc(slices.Clone(r.posted), func(e map[string]any) bool {
		return str(e, "involvedObject", "kind") != kind || str(e, "involvedObject", "namespace") != namespace
	})
}
