package main

import (
	"context"
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/client-go/kubernetes"

	"sealock.dev/sealock/fault"
)

// Annotations of an adopted Deployment of Flux.
const (
	// rememberedReplicas is how many it had.
	rememberedReplicas = "sealock.dev/flux-replicas"
	// rememberedReconcile is what the annotation reconcileAnnotation was before; empty when there was none.
	rememberedReconcile = "sealock.dev/flux-reconcile"
	// reconcileAnnotation, when disabled, keeps a Kustomization from applying the object. Flux's own manifests stand in Git
	// as a rule, with one replica: whoever reconciles that Kustomization would start Flux again.
	reconcileAnnotation = "kustomize.toolkit.fluxcd.io/reconcile"

	ownerName      = "kustomize.toolkit.fluxcd.io/name"
	ownerNamespace = "kustomize.toolkit.fluxcd.io/namespace"

	adoptManager = "sealock-adopt"
	adoptLook    = 500 * time.Millisecond
)

// scaleFluxDown scales the Deployments to zero, and returns when they have no pod and hold no Lease any more.
func scaleFluxDown(ctx context.Context, kube kubernetes.Interface, list []fluxController, timeout time.Duration) ([]fluxController, error) {
	for i, c := range list {
		if c.Deployment == "" || c.Replicas == 0 {
			continue
		}
		d, err := kube.AppsV1().Deployments(c.Namespace).Get(ctx, c.Deployment, metav1.GetOptions{})
		if err != nil {
			return nil, cannotRead("Deployment "+c.Namespace+"/"+c.Deployment, err)
		}
		annotations := map[string]any{rememberedReplicas: strconv.Itoa(int(c.Replicas)), reconcileAnnotation: "disabled"}
		if _, adopted := d.Annotations[rememberedReplicas]; !adopted {
			annotations[rememberedReconcile] = d.Annotations[reconcileAnnotation]
		}
		if err := patchDeployment(ctx, kube, c, annotations, 0); err != nil {
			return nil, err
		}
		replicas := c.Replicas
		list[i].Remembered, list[i].Replicas = &replicas, 0
	}
	return list, waitUntilStopped(ctx, kube, list, timeout)
}

// scaleFluxUp gives the Deployments the replicas that they had.
func scaleFluxUp(ctx context.Context, kube kubernetes.Interface, namespace string) ([]fluxController, error) {
	if err := refuseBesideSealock(ctx, kube); err != nil {
		return nil, err
	}
	found, err := fluxControllers(ctx, kube, time.Now())
	if err != nil {
		return nil, err
	}
	list := []fluxController{}
	for _, c := range found {
		if c.Namespace != namespace || c.Remembered == nil {
			continue
		}
		d, err := kube.AppsV1().Deployments(c.Namespace).Get(ctx, c.Deployment, metav1.GetOptions{})
		if err != nil {
			return nil, cannotRead("Deployment "+c.Namespace+"/"+c.Deployment, err)
		}
		annotations := map[string]any{rememberedReplicas: nil, rememberedReconcile: nil, reconcileAnnotation: nil}
		if before := d.Annotations[rememberedReconcile]; before != "" {
			annotations[reconcileAnnotation] = before
		}
		if err := patchDeployment(ctx, kube, c, annotations, *c.Remembered); err != nil {
			return nil, err
		}
		c.Replicas, c.Remembered = *c.Remembered, nil
		list = append(list, c)
	}
	return list, nil
}

// refuseBesideSealock fails while Sealock reconciles.
func refuseBesideSealock(ctx context.Context, kube kubernetes.Interface) error {
	leases, err := kube.CoordinationV1().Leases("").List(ctx, metav1.ListOptions{FieldSelector: "metadata.namespace!=kube-node-lease"})
	if err != nil {
		return cannotRead("Leases", err)
	}
	for i := range leases.Items {
		l := &leases.Items[i]
		if holder, held := holderOf(l, time.Now()); held && (l.Name == leaseName || strings.HasPrefix(l.Name, leaseName+"-")) {
			return fault.New("", fault.Denied, fault.Ref{}, "Sealock is live: Lease %s/%s is held by %s", l.Namespace, l.Name, holder).
				Fix("stop it first: kubectl -n %s scale deployment sealock-controller --replicas 0", l.Namespace)
		}
	}
	return nil
}

func patchDeployment(ctx context.Context, kube kubernetes.Interface, c fluxController, annotations map[string]any, replicas int32) error {
	body, err := json.Marshal(map[string]any{
		"metadata": map[string]any{"annotations": annotations},
		"spec":     map[string]any{"replicas": replicas},
	})
	if err != nil {
		return err
	}
	_, err = kube.AppsV1().Deployments(c.Namespace).Patch(ctx, c.Deployment, types.MergePatchType, body, metav1.PatchOptions{FieldManager: adoptManager})
	if err != nil {
		return cannotRead(fmt.Sprintf("and scaling Deployment %s/%s", c.Namespace, c.Deployment), err)
	}
	return nil
}

// waitUntilStopped returns when none of the controllers lives, whoever runs it.
func waitUntilStopped(ctx context.Context, kube kubernetes.Interface, list []fluxController, timeout time.Duration) error {
	ours := map[string]bool{}
	for _, c := range list {
		ours[c.Namespace+"/"+c.Component] = true
	}
	var left fluxController
	err := wait.PollUntilContextTimeout(ctx, adoptLook, timeout, true, func(ctx context.Context) (bool, error) {
		now, err := fluxControllers(ctx, kube, time.Now())
		if err != nil {
			return false, err
		}
		for _, c := range now {
			if ours[c.Namespace+"/"+c.Component] && c.live() {
				left = c
				return false, nil
			}
		}
		return true, nil
	})
	if wait.Interrupted(err) {
		return fault.New("", fault.Transient, fault.Ref{}, "after %s Flux's %s has not stopped: %s", timeout, left.Component, left).
			Fix("see why with `kubectl -n %s get pods`, and repeat the command", left.Namespace)
	}
	return err
}
