package main

import (
	"context"
	"encoding/json"
	"strings"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"sealock.dev/sealock/fault"
	"sealock.dev/sealock/internal/testkit"
)

// fluxDeployment makes a Deployment as Flux's manifests do. Its pods become ready by the kubelet of the devcluster.
func fluxDeployment(t *testing.T, kube kubernetes.Interface, namespace, name string, replicas int32, args ...string) *appsv1.Deployment {
	t.Helper()
	labels := map[string]string{"app.kubernetes.io/part-of": "flux", "app.kubernetes.io/component": name, "app.kubernetes.io/instance": namespace, ownerName: "flux-system", ownerNamespace: "flux-system"}
	d, err := kube.AppsV1().Deployments(namespace).Create(t.Context(), &appsv1.Deployment{
		ObjectMeta: metav1.ObjectMeta{Name: name, Labels: labels},
		Spec: appsv1.DeploymentSpec{
			Replicas: &replicas, Selector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": name}},
			Template: corev1.PodTemplateSpec{
				ObjectMeta: metav1.ObjectMeta{Labels: map[string]string{"app": name}},
				Spec:       corev1.PodSpec{Containers: []corev1.Container{{Name: "manager", Image: "ghcr.io/fluxcd/" + name + ":v1.9.5", Args: args}}},
			},
		},
	}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		// Other tests of this cluster start controllers. The context of the test is done by now.
		if err := kube.AppsV1().Deployments(namespace).Delete(context.WithoutCancel(t.Context()), name, metav1.DeleteOptions{}); err != nil {
			t.Error(err)
		}
	})
	return d
}

func heldLease(t *testing.T, kube kubernetes.Interface, namespace, name string, renewed time.Time) {
	t.Helper()
	holder, seconds, at := "pod_1", int32(35), metav1.NewMicroTime(renewed)
	_, err := kube.CoordinationV1().Leases(namespace).Create(t.Context(), &coordinationv1.Lease{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec:       coordinationv1.LeaseSpec{HolderIdentity: &holder, LeaseDurationSeconds: &seconds, RenewTime: &at},
	}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
}

func removeLease(t *testing.T, kube kubernetes.Interface, namespace, name string) {
	t.Helper()
	if err := kube.CoordinationV1().Leases(namespace).Delete(t.Context(), name, metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
}

// TestRefusedBesideLiveFlux: the controller does not start while Flux reconciles the same kinds, says who does and what
// helps, and starts when Flux is gone or keeps to other labels.
func TestRefusedBesideLiveFlux(t *testing.T) {
	dc := testkit.Cluster(t)
	kube, err := kubernetes.NewForConfig(dc.Config)
	if err != nil {
		t.Fatal(err)
	}
	ns := dc.Namespace(t, nil)
	// Called directly: a whole controller changes the environment and the logger of the process. e2e/migrate starts one.
	refused := func(what string, beside bool, selector string) {
		t.Helper()
		if err := refuseBesideFlux(t.Context(), kube, beside, selector); fault.KindOf(err) != fault.Denied || !strings.Contains(err.Error(), what) {
			t.Errorf("not refused for %q: %v", what, err)
		}
	}
	heldLease(t, kube, ns, "kustomize-controller-leader-election", time.Now())
	refused("sealock adopt flux", false, "")
	refused(ns+"/kustomize-controller-leader-election is held by pod_1", false, "")
	removeLease(t, kube, ns, "kustomize-controller-leader-election")
	heldLease(t, kube, ns, "source-controller-leader-election-1a2b3c", time.Now())
	refused("source-controller-leader-election-1a2b3c", false, "")
	removeLease(t, kube, ns, "source-controller-leader-election-1a2b3c")

	heldLease(t, kube, ns, "kustomize-controller-leader-election", time.Now().Add(-time.Hour))
	heldLease(t, kube, ns, "helm-controller-leader-election", time.Now())
	if err := refuseBesideFlux(t.Context(), kube, false, ""); err != nil {
		t.Errorf("a Lease that expired, or of a controller that is not replaced: %v", err)
	}

	fluxDeployment(t, kube, ns, "source-controller", 1, "--watch-label-selector=!sharding.fluxcd.io/key")
	refused(ns+"/source-controller", false, "")
	refused("cannot match the same object", true, "team=a")
	if err := refuseBesideFlux(t.Context(), kube, true, "sharding.fluxcd.io/key=sealock"); err != nil {
		t.Errorf("labels that keep both apart: %v", err)
	}
	if err := patchDeployment(t.Context(), kube, fluxController{Namespace: ns, Deployment: "source-controller"}, nil, 0); err != nil {
		t.Fatal(err)
	}
	if err := waitUntilStopped(t.Context(), kube, []fluxController{{Component: "source-controller", Namespace: ns}}, time.Minute); err != nil {
		t.Error(err)
	}
	if err := refuseBesideFlux(t.Context(), kube, false, ""); err != nil {
		t.Errorf("a Deployment without replicas: %v", err)
	}
}

// TestAdoptScales: --yes scales down, once; --undo scales up what it was, and refuses while Sealock is live.
func TestAdoptScales(t *testing.T) {
	dc := testkit.Cluster(t)
	kube, err := kubernetes.NewForConfig(dc.Config)
	if err != nil {
		t.Fatal(err)
	}
	ns := dc.Namespace(t, nil)
	fluxDeployment(t, kube, ns, "kustomize-controller", 2, "--events-addr=http://notification-controller/")
	fluxDeployment(t, kube, ns, "source-controller", 1)
	fluxDeployment(t, kube, ns, "helm-controller", 1)
	adopt := func(want int, args ...string) string {
		t.Helper()
		code, out, errs := sealock(t, append([]string{"adopt", "flux", "--kubeconfig", dc.Kubeconfig, "-n", ns}, args...)...)
		if code != want {
			t.Fatalf("exit code %d: %s%s", code, out, errs)
		}
		return out + errs
	}
	replicas := func(name string) (int32, map[string]string) {
		t.Helper()
		d, err := kube.AppsV1().Deployments(ns).Get(t.Context(), name, metav1.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}
		return *d.Spec.Replicas, d.Annotations
	}
	if out := adopt(0); !strings.Contains(out, "Nothing was changed") || !strings.Contains(out, "--events-addr=http://notification-controller/") {
		t.Errorf("the plan: %s", out)
	}
	if n, _ := replicas("kustomize-controller"); n != 2 {
		t.Errorf("a plan scaled to %d", n)
	}
	for range 2 {
		adopt(0, "--yes")
		for name, before := range map[string]string{"kustomize-controller": "2", "source-controller": "1"} {
			if n, notes := replicas(name); n != 0 || notes[rememberedReplicas] != before || notes[reconcileAnnotation] != "disabled" {
				t.Errorf("%s: %d replicas, annotations %v", name, n, notes)
			}
		}
	}
	if n, _ := replicas("helm-controller"); n != 1 {
		t.Errorf("helm-controller has %d replicas", n)
	}
	var plan adoption
	if err := json.Unmarshal([]byte(adopt(0, "-o", "json")), &plan); err != nil || len(plan.Controllers) != 2 {
		t.Errorf("as JSON: %v %+v", err, plan)
	}
	heldLease(t, kube, ns, "sealock-controller-0a1b2c3d", time.Now())
	if out := adopt(1, "--undo"); !strings.Contains(out, "Sealock is live") {
		t.Error(out)
	}
	removeLease(t, kube, ns, "sealock-controller-0a1b2c3d")
	adopt(0, "--undo")
	adopt(0, "--undo")
	for name, before := range map[string]int32{"kustomize-controller": 2, "source-controller": 1} {
		n, notes := replicas(name)
		if _, left := notes[reconcileAnnotation]; n != before || notes[rememberedReplicas] != "" || left {
			t.Errorf("%s: %d replicas, annotations %v", name, n, notes)
		}
	}
}
