package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"sealock.dev/sealock/e2e/harness"
)

// What the seeds refer to and do not hold.
const (
	baseDeployment = `apiVersion: apps/v1
kind: Deployment
metadata: {name: api-server}
spec:
  replicas: 1
  selector: {matchLabels: {app: api-server}}
  template:
    metadata: {labels: {app: api-server}}
    spec:
      containers:
      - name: api-server
        image: example.com/api-server:1
        envFrom: [{configMapRef: {name: api-config}}]
---
apiVersion: autoscaling/v2
kind: HorizontalPodAutoscaler
metadata: {name: api-server}
spec: {scaleTargetRef: {apiVersion: apps/v1, kind: Deployment, name: api-server}, minReplicas: 1, maxReplicas: 2}
`
	baseService = `apiVersion: v1
kind: Service
metadata: {name: api-server}
spec: {ports: [{port: 80}]}
`
	resourcesPatch = `apiVersion: apps/v1
kind: Deployment
metadata: {name: api-server}
spec: {template: {spec: {containers: [{name: api-server, resources: {requests: {cpu: 500m}}}]}}}
`
	autoscalerPatch = `apiVersion: autoscaling/v2
kind: HorizontalPodAutoscaler
metadata: {name: api-server}
spec: {maxReplicas: 20}
`
)

// tree writes the seeds S1-Y24 to Y26 and Y31 into a folder, with the rest completed, and returns it.
func (c *checker) tree() (string, error) {
	root := filepath.Join(c.dir, "tree")
	for name, text := range map[string]string{
		".sops.yaml":                                 c.seeds["S1-Y31"],
		".git/HEAD":                                  "ref: refs/heads/main\n",
		"base/kustomization.yaml":                    c.seeds["S1-Y24"],
		"base/deployment.yaml":                       baseDeployment,
		"base/service.yaml":                          baseService,
		"overlays/production/kustomization.yaml":     c.seeds["S1-Y25"],
		"overlays/production/patches/replicas.yaml":  c.seeds["S1-Y26"],
		"overlays/production/patches/resources.yaml": resourcesPatch,
		"overlays/production/patches/hpa.yaml":       autoscalerPatch,
	} {
		file := filepath.Join(root, filepath.FromSlash(name))
		if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
			return "", err
		}
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			return "", err
		}
	}
	return root, nil
}

// render runs `sealock render` and returns the objects by "Kind name".
func (c *checker) render(folder string) (map[string]*unstructured.Unstructured, error) {
	root, err := c.tree()
	if err != nil {
		return nil, err
	}
	out, err := c.Run(context.Background(), nil, "sealock", "render", filepath.Join(root, folder))
	if err != nil {
		return nil, err
	}
	objects, err := harness.Parse(out)
	if err != nil {
		return nil, err
	}
	byName := map[string]*unstructured.Unstructured{}
	for _, o := range objects {
		byName[o.GetKind()+" "+o.GetName()] = o
	}
	return byName, nil
}

func (c *checker) base() (string, error) {
	objects, err := c.render("base")
	if err != nil {
		return "", err
	}
	deployment, service := objects["Deployment api-server"], objects["Service api-server"]
	if deployment == nil || service == nil {
		return "", fmt.Errorf("Deployment or Service is missing")
	}
	for _, path := range [][]string{{"metadata", "labels"}, {"spec", "selector"}} {
		if app, _, _ := unstructured.NestedString(service.Object, append(path, "app")...); app != "api-server" {
			return "", fmt.Errorf("the Service has no label app in %s", strings.Join(path, "."))
		}
	}
	return "builds; the common label stands in metadata and selectors", nil
}

func (c *checker) overlay() (string, error) {
	objects, err := c.render("overlays/production")
	if err != nil {
		return "", err
	}
	deployment, autoscaler := objects["Deployment prod-api-server"], objects["HorizontalPodAutoscaler prod-api-server"]
	if deployment == nil || autoscaler == nil {
		return "", fmt.Errorf("the name prefix is missing")
	}
	if number(autoscaler, "spec", "maxReplicas") != "20" {
		return "", fmt.Errorf("patches/hpa.yaml was not applied")
	}
	name := ""
	for key, o := range objects {
		if strings.HasPrefix(key, "ConfigMap prod-api-config-") && len(o.GetName()) > len("prod-api-config-") {
			name = o.GetName()
		}
	}
	if name == "" {
		return "", fmt.Errorf("no ConfigMap prod-api-config-<hash>")
	}
	containers, _, _ := unstructured.NestedSlice(deployment.Object, "spec", "template", "spec", "containers")
	if !strings.Contains(fmt.Sprint(containers), name) {
		return "", fmt.Errorf("the Deployment does not refer to %s", name)
	}
	return "builds; prefix, patches and " + name, nil
}

func (c *checker) patch() (string, error) {
	objects, err := c.render("overlays/production")
	if err != nil {
		return "", err
	}
	deployment := objects["Deployment prod-api-server"]
	if deployment == nil {
		return "", fmt.Errorf("the Deployment is missing")
	}
	if replicas := number(deployment, "spec", "replicas"); replicas != "5" {
		return "", fmt.Errorf("%s replicas, want 5", replicas)
	}
	if err := os.Remove(filepath.Join(c.dir, "tree", "overlays", "production", "patches", "replicas.yaml")); err != nil {
		return "", err
	}
	_, err = c.Run(context.Background(), nil, "sealock", "render", filepath.Join(c.dir, "tree", "overlays", "production"))
	if err == nil || !strings.Contains(err.Error(), "patches/replicas.yaml") {
		return "", fmt.Errorf("without the file the build does not fail naming it: %v", err)
	}
	return "sets 5 replicas; without it the build fails, naming the file", nil
}

// sopsRules holds that the configuration of the sops program is no manifest: a folder with it renders as one without.
func (c *checker) sopsRules() (string, error) {
	root, err := c.tree()
	if err != nil {
		return "", err
	}
	out, err := c.Run(context.Background(), nil, "sealock", "render", filepath.Join(root, "overlays", "production"))
	if err != nil {
		return "", err
	}
	plain := filepath.Join(c.dir, "plain")
	if err := os.MkdirAll(plain, 0o700); err != nil {
		return "", err
	}
	for name, text := range map[string]string{".sops.yaml": c.seeds["S1-Y31"], "service.yaml": baseService} {
		if err := os.WriteFile(filepath.Join(plain, name), []byte(text), 0o600); err != nil {
			return "", err
		}
	}
	alone, err := c.Run(context.Background(), nil, "sealock", "render", plain)
	if err != nil {
		return "", err
	}
	if strings.Contains(out+alone, "creation_rules") || strings.Count(alone, "kind:") != 1 {
		return "", fmt.Errorf("it is rendered as if it were a manifest")
	}
	return "left alone by the build", nil
}

// number returns a number as text: YAML gives it as one of several types.
func number(o *unstructured.Unstructured, path ...string) string {
	v, _, _ := unstructured.NestedFieldNoCopy(o.Object, path...)
	return fmt.Sprint(v)
}
