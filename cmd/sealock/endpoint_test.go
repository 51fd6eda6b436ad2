package main

import (
	"testing"

	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"sealock.dev/sealock/internal/testkit"
)

// TestTheServiceFollowsTheLeader: one endpoint, which is the last that led, as the real API server takes it.
func TestTheServiceFollowsTheLeader(t *testing.T) {
	dc := testkit.Cluster(t)
	kube, err := kubernetes.NewForConfig(dc.Config)
	if err != nil {
		t.Fatal(err)
	}
	ns := dc.Namespace(t, nil)
	for _, step := range []struct{ ip, name, addr string }{
		{"10.0.0.1", "sealock-source-ipv4", ":9090"}, {"10.0.0.2", "sealock-source-ipv4", ":9191"}, {"fd00::1", "sealock-source-ipv6", "[::]:9090"},
	} {
		if err := applyEndpoint(t.Context(), kube, ns, step.ip, step.addr); err != nil {
			t.Fatal(err)
		}
		got, err := kube.DiscoveryV1().EndpointSlices(ns).Get(t.Context(), step.name, metav1.GetOptions{})
		if err != nil || len(got.Endpoints) != 1 || len(got.Ports) != 1 {
			t.Fatalf("%v %+v", err, got)
		}
		if e := got.Endpoints[0]; len(e.Addresses) != 1 || e.Addresses[0] != step.ip || e.Conditions.Ready == nil || !*e.Conditions.Ready || got.Labels[discoveryv1.LabelServiceName] != artifactService {
			t.Errorf("%+v", got)
		}
	}
	for _, addr := range []string{"9090", ":artifacts", ""} {
		if err := applyEndpoint(t.Context(), kube, ns, "10.0.0.1", addr); err == nil {
			t.Errorf("%q is taken", addr)
		}
	}
	// Without an IP, as on a laptop, nothing is written; nothing waits, either.
	t.Setenv("POD_IP", "")
	if err := (&parts{}).publishEndpoint(t.Context()); err != nil {
		t.Error(err)
	}
}
