package cluster

import (
	"reflect"

	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/kubernetes/scheme"

	"sealock.dev/sealock/manifest"
)

// portKinds says, for each kind in which a port has a protocol that Flux writes out where the manifest leaves it to the
// API server, where the lists of ports are: in the containers below a path, or at the path itself.
var portKinds = map[schema.GroupKind]struct { //nolint:gochecknoglobals // a constant table
	path       []string
	containers bool
}{
	{Kind: "Pod"}:                        {[]string{"spec", "containers"}, true},
	{Group: "apps", Kind: "Deployment"}:  {[]string{"spec", "template", "spec", "containers"}, true},
	{Group: "apps", Kind: "StatefulSet"}: {[]string{"spec", "template", "spec", "containers"}, true},
	{Group: "apps", Kind: "DaemonSet"}:   {[]string{"spec", "template", "spec", "containers"}, true},
	{Group: "apps", Kind: "ReplicaSet"}:  {[]string{"spec", "template", "spec", "containers"}, true},
	{Group: "batch", Kind: "Job"}:        {[]string{"spec", "template", "spec", "containers"}, true},
	{Group: "batch", Kind: "CronJob"}:    {[]string{"spec", "jobTemplate", "spec", "template", "spec", "containers"}, true},
	{Kind: "Service"}:                    {[]string{"spec", "ports"}, false},
}

// verbatim are the kinds that Flux sends as they stand, and Secrets, in which the typed struct has nothing to add and the
// masked values are no base64.
var verbatim = map[schema.GroupKind]bool{ //nolint:gochecknoglobals // a constant table
	{Group: "rbac.authorization.k8s.io", Kind: "Role"}:        true,
	{Group: "rbac.authorization.k8s.io", Kind: "ClusterRole"}: true,
	{Kind: "Secret"}: true,
}

// normal adds to the body of a native kind the fields that Flux sends beside those of the manifest (reference/flux.md,
// section 1.7), so that the same fields are ours and taking over writes nothing. Flux takes an object through the typed
// struct of its kind, which prints some empty fields, and writes out the default protocol of ports. Nothing of the manifest
// is changed or dropped: a field that the kind does not have is for the API server to refuse.
func normal(gvk schema.GroupVersionKind, body map[string]any) {
	if verbatim[gvk.GroupKind()] {
		return
	}
	typed, err := scheme.Scheme.New(gvk)
	if err != nil || runtime.DefaultUnstructuredConverter.FromUnstructured(body, typed) != nil {
		return // not native, or with a value that the API server will refuse
	}
	printed, err := runtime.DefaultUnstructuredConverter.ToUnstructured(typed)
	if err != nil {
		return
	}
	delete(printed, "status")
	fillIn(body, printed)
	if where, known := portKinds[gvk.GroupKind()]; known {
		protocols(dig(body, where.path...), where.containers)
	}
}

// fillIn adds to a the fields that only b has. All of them are empty.
func fillIn(a, b any) {
	switch to := a.(type) {
	case map[string]any:
		from, _ := b.(map[string]any)
		for k, v := range from {
			switch mine, has := to[k]; {
			case has:
				fillIn(mine, v)
			case v == nil || !empty(v):
			default:
				to[k] = withoutNulls(v)
			}
		}
	case []any:
		from, _ := b.([]any)
		if len(from) != len(to) {
			return
		}
		for i := range to {
			fillIn(to[i], from[i])
		}
	}
}

// empty reports a value that holds nothing but empty ones.
func empty(v any) bool {
	if m, ok := v.(map[string]any); ok {
		for _, each := range m {
			if !empty(each) {
				return false
			}
		}
		return true
	}
	return v == nil || reflect.ValueOf(v).IsZero()
}

func withoutNulls(v any) any {
	m, ok := v.(map[string]any)
	if !ok {
		return v
	}
	out := map[string]any{}
	for k, each := range m {
		if each != nil {
			out[k] = withoutNulls(each)
		}
	}
	return out
}

// protocols writes the default protocol into the ports of a list, or of a list of containers.
func protocols(v any, containers bool) {
	list, _ := v.([]any)
	for _, each := range list {
		m, ok := each.(map[string]any)
		switch {
		case !ok:
		case containers:
			protocols(m["ports"], false)
		case m["protocol"] == nil || m["protocol"] == "":
			m["protocol"] = "TCP"
		}
	}
}

// dropNulls removes the creation time that client-go prints as null into every metadata, also that of a pod template.
func dropNulls(v any) {
	switch node := v.(type) {
	case map[string]any:
		if meta, ok := node["metadata"].(map[string]any); ok {
			if at, has := meta["creationTimestamp"]; has && at == nil {
				delete(meta, "creationTimestamp")
			}
		}
		for _, each := range node {
			dropNulls(each)
		}
	case []any:
		for _, each := range node {
			dropNulls(each)
		}
	}
}

// prepare makes of a resolved object what is applied: with the owner's labels and the fields that Flux adds, and without
// those that only the API server writes.
func prepare(o manifest.Object, owner manifest.Owner) manifest.Object {
	serverOnly := []string{"creationTimestamp", "managedFields", "resourceVersion", "uid", "generation", "selfLink", "deletionTimestamp", "deletionGracePeriodSeconds"}
	return o.WithMeta(owner.Labels, nil).Edit(func(body map[string]any) {
		if !isCRD(o.GVK().GroupKind()) {
			delete(body, "status")
		}
		meta, _ := body["metadata"].(map[string]any)
		for _, f := range serverOnly {
			delete(meta, f)
		}
		dropNulls(body["spec"])
		normal(o.GVK(), body)
	})
}
