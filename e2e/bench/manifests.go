package main

import (
	"fmt"
	"slices"
	"strings"
)

// kinds are those of the peers' measurement, in equal parts.
const kinds = 5

// object returns a small manifest, the i-th of its namespace.
func object(namespace string, i, version int) (file, text string) {
	name := fmt.Sprintf("obj-%05d", i)
	head := func(apiVersion, kind string) string {
		return fmt.Sprintf("apiVersion: %s\nkind: %s\nmetadata:\n  name: %s\n  namespace: %s\n  labels: {app.kubernetes.io/name: %s, app.kubernetes.io/part-of: fleet}\n", apiVersion, kind, name, namespace, name)
	}
	switch i % kinds {
	case 0:
		text = head("v1", "ConfigMap") + fmt.Sprintf("data:\n  version: \"%d\"\n  settings.yaml: |\n    listen: 0.0.0.0:8080\n    level: info\n    name: %s\n", version, name)
	case 1:
		text = head("v1", "Secret") + fmt.Sprintf("type: Opaque\nstringData:\n  version: \"%d\"\n  password: not-secret-%d\n", version, i)
	case 2:
		text = head("v1", "ServiceAccount") + "automountServiceAccountToken: false\n"
	case 3:
		text = head("rbac.authorization.k8s.io/v1", "Role") + "rules:\n- apiGroups: [\"\"]\n  resources: [configmaps]\n  verbs: [get, list, watch]\n"
	case 4:
		text = head("rbac.authorization.k8s.io/v1", "RoleBinding") + fmt.Sprintf("roleRef: {apiGroup: rbac.authorization.k8s.io, kind: Role, name: obj-%05d}\nsubjects:\n- {kind: ServiceAccount, name: obj-%05d, namespace: %s}\n", i-1, i-2, namespace)
	}
	return name + ".yaml", text
}

// fill adds objects [from, to) of a namespace below a folder.
func fill(files map[string]string, dir, namespace string, from, to, version int) {
	for i := from; i < to; i++ {
		name, text := object(namespace, i, version)
		files[dir+"/"+name] = text
	}
}

// overlay adds a kustomization file to a folder.
func overlay(files map[string]string, dir string) {
	var names []string
	for path := range files {
		if name, below := strings.CutPrefix(path, dir+"/"); below {
			names = append(names, "- "+name)
		}
	}
	slices.Sort(names)
	files[dir+"/kustomization.yaml"] = "apiVersion: kustomize.config.k8s.io/v1beta1\nkind: Kustomization\nlabels:\n- pairs: {team: fleet}\nresources:\n" + strings.Join(names, "\n") + "\n"
}

// workload is the four objects of an application that runs nothing: it is healthy without a node.
func workload(namespace, name string) string {
	return fmt.Sprintf(`apiVersion: v1
kind: ServiceAccount
metadata: {name: %[1]s, namespace: %[2]s}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: %[1]s, namespace: %[2]s}
spec:
  replicas: 0
  selector: {matchLabels: {app: %[1]s}}
  template:
    metadata: {labels: {app: %[1]s}}
    spec:
      serviceAccountName: %[1]s
      containers:
      - name: main
        image: example.com/app:1
        ports: [{containerPort: 8080}]
        resources: {requests: {cpu: 10m, memory: 16Mi}, limits: {memory: 64Mi}}
---
apiVersion: v1
kind: Service
metadata: {name: %[1]s, namespace: %[2]s}
spec:
  selector: {app: %[1]s}
  ports: [{name: http, port: 80, targetPort: 8080}]
---
apiVersion: networking.k8s.io/v1
kind: Ingress
metadata: {name: %[1]s, namespace: %[2]s}
spec:
  rules:
  - host: %[1]s.example.com
    http: {paths: [{path: /, pathType: Prefix, backend: {service: {name: %[1]s, port: {name: http}}}}]}
`, name, namespace)
}
