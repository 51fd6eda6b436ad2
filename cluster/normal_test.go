package cluster

import (
	"context"
	"encoding/json"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/dynamic"

	"sealock.dev/sealock/internal/testkit"
	"sealock.dev/sealock/manifest"
)

const takenOver = `apiVersion: v1
kind: Service
metadata: {name: app, creationTimestamp: null}
spec: {selector: {app: app}, ports: [{name: http, port: 80}, {name: dns, port: 53, protocol: UDP}]}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: app}
spec:
  replicas: 0
  selector: {matchLabels: {app: app}}
  template:
    metadata: {labels: {app: app}, creationTimestamp: null}
    spec:
      initContainers: [{name: init, image: x, ports: [{containerPort: 81}]}]
      containers: [{name: c, image: x, ports: [{containerPort: 80}, {containerPort: 53, protocol: UDP}]}]
---
apiVersion: batch/v1
kind: CronJob
metadata: {name: app}
spec: {schedule: "0 0 1 1 *", suspend: true, jobTemplate: {spec: {template: {spec: {restartPolicy: Never, containers: [{name: c, image: x, ports: [{containerPort: 80}]}]}}}}}
---
apiVersion: v1
kind: Secret
metadata: {name: app}
data: {a: YQ==}
stringData: {b: b}
`

// TestTakeoverOfNormalisedObjects: what was applied as Flux does it, through the typed structs of the kinds, with the default
// protocol of ports written out and stringData folded into data, is in place for us: nothing is written, and the resource
// versions stay.
func TestTakeoverOfNormalisedObjects(t *testing.T) {
	w := newWorld(t)
	dyn, err := dynamic.NewForConfig(testkit.Cluster(t).Config)
	if err != nil {
		t.Fatal(err)
	}
	set := w.objects(takenOver)
	versions := func() map[string]string {
		out := map[string]string{}
		for _, o := range set {
			live, err := dyn.Resource(resourceOf(o)).Namespace(w.ns).Get(t.Context(), o.Name(), metav1.GetOptions{})
			if err != nil {
				t.Fatal(err)
			}
			out[o.Kind()] = live.GetResourceVersion()
		}
		return out
	}
	for _, o := range w.resolve(set) {
		applyAsFlux(t.Context(), t, dyn, o.WithMeta(w.owner.Labels, nil))
	}
	before := versions()
	p, done := w.run(set)
	for _, s := range p.Steps {
		if s.Action != manifest.Unchanged {
			t.Errorf("%s is %s", s.Object.Ref(), s.Action)
		}
	}
	after := versions()
	for kind, v := range before {
		if kind != "Deployment" && kind != "CronJob" && after[kind] != v { // their controllers write status
			t.Errorf("%s was written", kind)
		}
	}
	if len(done) > 0 {
		t.Errorf("written: %v", done)
	}
}

func resourceOf(o manifest.Object) schema.GroupVersionResource {
	plural := map[string]string{"Service": "services", "Deployment": "deployments", "CronJob": "cronjobs", "Secret": "secrets"}
	return o.GVK().GroupVersion().WithResource(plural[o.Kind()])
}

// applyAsFlux applies an object as kustomize-controller normalises it.
func applyAsFlux(ctx context.Context, t *testing.T, dyn dynamic.Interface, o manifest.Object) {
	t.Helper()
	raw, err := o.Wire()
	if err != nil {
		t.Fatal(err)
	}
	protocol := func(ports []corev1.ContainerPort) {
		for i := range ports {
			if ports[i].Protocol == "" {
				ports[i].Protocol = corev1.ProtocolTCP
			}
		}
	}
	var typed runtime.Object
	switch o.Kind() {
	case "Service":
		s := &corev1.Service{}
		typed, err = s, json.Unmarshal(raw, s)
		s.Spec.Ports[0].Protocol = corev1.ProtocolTCP
	case "Deployment":
		d := &appsv1.Deployment{}
		typed, err = d, json.Unmarshal(raw, d)
		protocol(d.Spec.Template.Spec.Containers[0].Ports)
	case "CronJob":
		c := &batchv1.CronJob{}
		typed, err = c, json.Unmarshal(raw, c)
		protocol(c.Spec.JobTemplate.Spec.Template.Spec.Containers[0].Ports)
	case "Secret":
		s := &corev1.Secret{}
		typed, err = s, json.Unmarshal(raw, s)
	}
	if err != nil {
		t.Fatal(err)
	}
	body, err := runtime.DefaultUnstructuredConverter.ToUnstructured(typed)
	if err != nil {
		t.Fatal(err)
	}
	u := &unstructured.Unstructured{Object: body}
	_ = unstructured.SetNestedField(u.Object, nil, "metadata", "creationTimestamp")
	unstructured.RemoveNestedField(u.Object, "status")
	if _, err := dyn.Resource(resourceOf(o)).Namespace(o.Namespace()).Apply(ctx, o.Name(), u, metav1.ApplyOptions{FieldManager: "kustomize-controller", Force: true}); err != nil {
		t.Fatal(err)
	}
}
