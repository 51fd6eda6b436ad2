package main

import (
	"context"
	"errors"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/client-go/discovery"
	"k8s.io/client-go/discovery/cached/memory"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/restmapper"

	"sealock.dev/sealock/fault"
)

const (
	installManager = "sealock-install"
	// settle bounds the wait until the API server serves a kind that it has just been given.
	settle = time.Minute
)

// installer writes the objects of an installation by server-side apply.
type installer struct {
	client dynamic.Interface
	mapper *restmapper.DeferredDiscoveryRESTMapper
}

func newInstaller(config *rest.Config) (*installer, error) {
	client, err := dynamic.NewForConfig(config)
	if err != nil {
		return nil, err
	}
	disco, err := discovery.NewDiscoveryClientForConfig(config)
	if err != nil {
		return nil, err
	}
	return &installer{client: client, mapper: restmapper.NewDeferredDiscoveryRESTMapper(memory.NewMemCacheClient(disco))}, nil
}

// apply writes the objects in their order and tells line what became of each. It stops at the first failure: what comes
// later needs what came before.
func (in *installer) apply(ctx context.Context, objects []*unstructured.Unstructured, line func(outcome)) error {
	for i, obj := range objects {
		done, err := in.one(ctx, obj)
		if err != nil {
			line(outcome{obj: obj, what: "failed"})
			return installFault(obj, err)
		}
		line(done)
		if lastCRD := obj.GetKind() == kindCRD && (i+1 == len(objects) || objects[i+1].GetKind() != kindCRD); lastCRD {
			if err := in.established(ctx, objects[:i+1]); err != nil {
				return err
			}
			in.mapper.Reset()
		}
	}
	return nil
}

func (in *installer) one(ctx context.Context, obj *unstructured.Unstructured) (outcome, error) {
	api, err := in.api(ctx, obj)
	if err != nil {
		return outcome{}, err
	}
	before, err := api.Get(ctx, obj.GetName(), metav1.GetOptions{})
	if err != nil && !apierrors.IsNotFound(err) {
		return outcome{}, err
	}
	existed := err == nil
	body, err := obj.MarshalJSON()
	if err != nil {
		return outcome{}, err
	}
	// Built-in policies are there to be adjusted: what somebody else has set is not taken back.
	force := obj.GetKind() != kindPolicy
	after, err := api.Patch(ctx, obj.GetName(), types.ApplyPatchType, body, metav1.PatchOptions{FieldManager: installManager, Force: &force})
	if apierrors.IsConflict(err) && !force {
		return outcome{obj: obj, what: "kept", note: "changed by " + strings.Join(others(before), ", ")}, nil
	}
	if err != nil {
		return outcome{}, err
	}
	switch {
	case !existed:
		return outcome{obj: obj, what: "created"}, nil
	case same(before, after):
		return outcome{obj: obj, what: "unchanged"}, nil
	}
	return outcome{obj: obj, what: "configured"}, nil
}

// same reports whether the apply changed nothing. The version is no sign of it: a controller may have written a status
// in between.
func same(before, after *unstructured.Unstructured) bool {
	strip := func(o *unstructured.Unstructured) map[string]any {
		c := o.DeepCopy()
		delete(c.Object, "status")
		for _, field := range []string{"resourceVersion", "generation", "managedFields"} {
			unstructured.RemoveNestedField(c.Object, "metadata", field)
		}
		return c.Object
	}
	return equality.Semantic.DeepEqual(strip(before), strip(after))
}

// api finds how the object is served. A kind whose CRD was established a moment ago may take another to appear.
func (in *installer) api(ctx context.Context, obj *unstructured.Unstructured) (dynamic.ResourceInterface, error) {
	gvk := obj.GroupVersionKind()
	var mapping *meta.RESTMapping
	err := wait.PollUntilContextTimeout(ctx, 200*time.Millisecond, settle, true, func(context.Context) (bool, error) {
		var err error
		mapping, err = in.mapper.RESTMapping(gvk.GroupKind(), gvk.Version)
		if meta.IsNoMatchError(err) {
			in.mapper.Reset()
			return false, nil
		}
		return err == nil, err
	})
	if err != nil {
		return nil, err
	}
	if mapping.Scope.Name() == meta.RESTScopeNameNamespace {
		return in.client.Resource(mapping.Resource).Namespace(obj.GetNamespace()), nil
	}
	return in.client.Resource(mapping.Resource), nil
}

// established waits until the API server serves the kinds of the CRDs.
func (in *installer) established(ctx context.Context, crds []*unstructured.Unstructured) error {
	for _, crd := range crds {
		api, err := in.api(ctx, crd)
		if err != nil {
			return installFault(crd, err)
		}
		err = wait.PollUntilContextTimeout(ctx, 100*time.Millisecond, settle, true, func(ctx context.Context) (bool, error) {
			live, err := api.Get(ctx, crd.GetName(), metav1.GetOptions{})
			if err != nil {
				return false, err
			}
			return condition(live, "Established") == "True", nil
		})
		if wait.Interrupted(err) {
			return fault.New(fault.StageApply, fault.Unhealthy, refOf(crd), "the API server does not serve it after %s", settle).
				Fix("look at its conditions with `kubectl get crd %s -o yaml`", crd.GetName())
		}
		if err != nil {
			return installFault(crd, err)
		}
	}
	return nil
}

func condition(obj *unstructured.Unstructured, name string) string {
	list, _, _ := unstructured.NestedSlice(obj.Object, "status", "conditions")
	for _, each := range list {
		if c, ok := each.(map[string]any); ok && c["type"] == name {
			status, _ := c["status"].(string)
			return status
		}
	}
	return ""
}

// others returns who else wrote fields of the spec.
func others(obj *unstructured.Unstructured) []string {
	var names []string
	for _, m := range obj.GetManagedFields() {
		if m.Manager != installManager && m.Subresource == "" {
			names = append(names, m.Manager)
		}
	}
	return names
}

// installFault classifies what the API server said. The objects hold no secret, so that its words may be shown.
func installFault(obj *unstructured.Unstructured, err error) error {
	if ours := (*fault.Error)(nil); errors.As(err, &ours) {
		return err
	}
	kind, remedy := fault.Transient, "check that the API server can be reached, and repeat the command"
	switch {
	case apierrors.IsForbidden(err), apierrors.IsUnauthorized(err):
		kind, remedy = fault.Denied, "install as an administrator of the cluster"
	case apierrors.IsInvalid(err), apierrors.IsBadRequest(err):
		kind, remedy = fault.Invalid, "this cluster may be too old; Kubernetes 1.30 or later is needed"
	case meta.IsNoMatchError(err), wait.Interrupted(err):
		kind, remedy = fault.NotFound, "the cluster does not serve this kind; Kubernetes 1.30 or later is needed"
	}
	return fault.New(fault.StageApply, kind, refOf(obj), "%w", err).Fix("%s", remedy)
}
