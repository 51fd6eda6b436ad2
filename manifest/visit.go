package manifest

import (
	"fmt"
	"sort"
	"strings"
)

// PodSpec is one pod specification inside an object, and where it stands.
type PodSpec struct {
	Path string // dotted, "spec" for a Pod itself
	Spec map[string]any
}

// podSpecPaths lists, for each kind that makes pods, where its pod specification stands.
// Source: the workload types of Kubernetes, and the workload kinds of the field that copy a pod template.
var podSpecPaths = map[string][]string{ //nolint:gochecknoglobals // a constant table
	"/Pod":                        {"spec"},
	"/PodTemplate":                {"template.spec"},
	"/ReplicationController":      {"spec.template.spec"},
	"apps/Deployment":             {"spec.template.spec"},
	"apps/StatefulSet":            {"spec.template.spec"},
	"apps/DaemonSet":              {"spec.template.spec"},
	"apps/ReplicaSet":             {"spec.template.spec"},
	"batch/Job":                   {"spec.template.spec"},
	"batch/CronJob":               {"spec.jobTemplate.spec.template.spec"},
	"argoproj.io/Rollout":         {"spec.template.spec"},
	"serving.knative.dev/Service": {"spec.template.spec"},
}

// PodSpecs returns the pod specifications of a body: of the kinds that are known, and, for any other kind, wherever a
// mapping has a list of containers, so that a workload kind which nobody listed does not evade a rule.
func PodSpecs(body map[string]any) []PodSpec {
	group := ""
	if g, _, ok := strings.Cut(str(body["apiVersion"]), "/"); ok {
		group = g
	}
	if paths, known := podSpecPaths[group+"/"+str(body["kind"])]; known {
		var out []PodSpec
		for _, p := range paths {
			if spec, ok := get(body, strings.Split(p, ".")).(map[string]any); ok {
				out = append(out, PodSpec{Path: p, Spec: spec})
			}
		}
		return out
	}
	var out []PodSpec
	search(body, nil, &out)
	return out
}

func search(v any, path []string, out *[]PodSpec) {
	switch node := v.(type) {
	case map[string]any:
		if list, ok := node["containers"].([]any); ok && len(list) > 0 {
			if _, ok := list[0].(map[string]any); ok {
				*out = append(*out, PodSpec{Path: strings.Join(path, "."), Spec: node})
				return
			}
		}
		for _, k := range slicesSorted(node) {
			search(node[k], append(path[:len(path):len(path)], k), out)
		}
	case []any:
		for i := range node {
			search(node[i], append(path[:len(path):len(path)], fmt.Sprint(i)), out)
		}
	}
}

// SecretRefs returns the names of the Secrets that a pod specification refers to: env, envFrom, volumes, projected
// volumes, CSI and storage drivers, and image pull secrets, of every kind of container.
func SecretRefs(spec map[string]any) []string {
	names := map[string]struct{}{}
	add := func(v any) {
		if s := str(v); s != "" {
			names[s] = struct{}{}
		}
	}
	for _, list := range []string{"containers", "initContainers", "ephemeralContainers"} {
		for _, c := range mappings(spec[list]) {
			for _, e := range mappings(c["env"]) {
				add(get(e, []string{"valueFrom", "secretKeyRef", "name"}))
			}
			for _, e := range mappings(c["envFrom"]) {
				add(get(e, []string{"secretRef", "name"}))
			}
		}
	}
	for _, v := range mappings(spec["volumes"]) {
		add(get(v, []string{"secret", "secretName"}))
		for _, p := range mappings(get(v, []string{"projected", "sources"})) {
			add(get(p, []string{"secret", "name"}))
		}
		add(get(v, []string{"csi", "nodePublishSecretRef", "name"}))
		add(get(v, []string{"azureFile", "secretName"}))
		for _, driver := range []string{"rbd", "cephfs", "flexVolume", "iscsi", "scaleIO", "storageos"} {
			add(get(v, []string{driver, "secretRef", "name"}))
		}
	}
	for _, p := range mappings(spec["imagePullSecrets"]) {
		add(p["name"])
	}
	out := make([]string, 0, len(names))
	for n := range names {
		out = append(out, n)
	}
	sort.Strings(out)
	return out
}

// mappings returns the mappings of a list.
func mappings(v any) []map[string]any {
	list, _ := v.([]any)
	var out []map[string]any
	for _, each := range list {
		if m, ok := each.(map[string]any); ok {
			out = append(out, m)
		}
	}
	return out
}
