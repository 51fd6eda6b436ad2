package main

import (
	"context"
	"fmt"
	"net"
	"os"
	"strconv"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	discovery "k8s.io/client-go/applyconfigurations/discovery/v1"
	"k8s.io/client-go/kubernetes"
)

// artifactService is the Service of artifacts. It selects no pods: who leads says where it is, as no other one has the artifacts.
const artifactService = "sealock-source"

// publishEndpoint keeps the Service of artifacts pointed at this pod, which leads. Where the pod has no IP that it knows of, on a
// laptop for instance, nothing is written; nor by a shard, whose artifacts have an address of their own.
func (p *parts) publishEndpoint(ctx context.Context) error {
	ip := os.Getenv("POD_IP")
	if ip == "" || p.options.deliveryOnly {
		return nil
	}
	keep(ctx, p.log.WithName("artifacts"), "the EndpointSlice of the Service "+artifactService, func(ctx context.Context) error {
		return applyEndpoint(ctx, p.kube, p.settings.SystemNamespace, ip, p.options.artifactAddr)
	})
	return nil
}

// applyEndpoint writes the one endpoint. There is a slice for each family of addresses, since a slice cannot change its own.
func applyEndpoint(ctx context.Context, kube kubernetes.Interface, namespace, ip, addr string) error {
	_, text, err := net.SplitHostPort(addr)
	if err != nil {
		return fmt.Errorf("--artifact-addr has no port: %w", err)
	}
	port, err := strconv.ParseInt(text, 10, 32)
	if err != nil {
		return fmt.Errorf("--artifact-addr has no number as port: %w", err)
	}
	family, suffix := discoveryv1.AddressTypeIPv4, "-ipv4"
	if net.ParseIP(ip).To4() == nil {
		family, suffix = discoveryv1.AddressTypeIPv6, "-ipv6"
	}
	slice := discovery.EndpointSlice(artifactService+suffix, namespace).
		WithLabels(map[string]string{discoveryv1.LabelServiceName: artifactService, discoveryv1.LabelManagedBy: "sealock"}).
		WithAddressType(family).
		WithEndpoints(discovery.Endpoint().WithAddresses(ip).WithConditions(discovery.EndpointConditions().WithReady(true))).
		WithPorts(discovery.EndpointPort().WithName("http").WithProtocol(corev1.ProtocolTCP).WithPort(int32(port)))
	_, err = kube.DiscoveryV1().EndpointSlices(namespace).Apply(ctx, slice, metav1.ApplyOptions{FieldManager: "sealock", Force: true})
	return err
}
