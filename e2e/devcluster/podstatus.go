package main

import (
	"slices"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// outcome is what the stand-in makes of a pod.
type outcome int

const (
	running outcome = iota
	crashing
	waitingForSecret
	succeeded
	failed
)

// podOutcome decides what becomes of a pod that has been bound. Pods of a Job are over at once.
func podOutcome(pod *corev1.Pod, missing string) outcome {
	ofJob := slices.ContainsFunc(pod.OwnerReferences, func(o metav1.OwnerReference) bool { return o.Kind == "Job" })
	fails := pod.Annotations[failAnnotation] == "true"
	switch {
	case missing != "":
		return waitingForSecret
	case fails && ofJob && pod.Spec.RestartPolicy == corev1.RestartPolicyNever:
		return failed
	case fails:
		return crashing
	case ofJob:
		return succeeded
	default:
		return running
	}
}

// podStatus is the status that a kubelet would report. Times that have not changed their meaning are kept.
func podStatus(pod *corev1.Pod, missing string) corev1.PodStatus {
	end := podOutcome(pod, missing)
	status := *pod.Status.DeepCopy()
	if status.StartTime == nil {
		now := metav1.Now()
		status.StartTime = &now
	}
	status.ObservedGeneration = pod.Generation
	status.HostIP, status.HostIPs = nodeIP, []corev1.HostIP{{IP: nodeIP}}
	ip := podIP(pod.UID)
	if pod.Spec.HostNetwork {
		ip = nodeIP
	}
	status.PodIP, status.PodIPs = ip, []corev1.PodIP{{IP: ip}}
	status.Phase = map[outcome]corev1.PodPhase{
		running: corev1.PodRunning, crashing: corev1.PodRunning, waitingForSecret: corev1.PodPending,
		succeeded: corev1.PodSucceeded, failed: corev1.PodFailed,
	}[end]

	ready, reason := corev1.ConditionFalse, "ContainersNotReady"
	switch end {
	case running:
		ready, reason = corev1.ConditionTrue, ""
	case succeeded:
		reason = "PodCompleted"
	case failed:
		reason = "PodFailed"
	}
	setPodCondition(&status, corev1.PodScheduled, corev1.ConditionTrue, "")
	setPodCondition(&status, corev1.PodInitialized, corev1.ConditionTrue, "")
	setPodCondition(&status, corev1.ContainersReady, ready, reason)
	setPodCondition(&status, corev1.PodReady, ready, reason)

	status.InitContainerStatuses = containerStatuses(pod.Spec.InitContainers, status.InitContainerStatuses, *status.StartTime,
		func(c corev1.Container) (outcome, string) {
			sidecar := c.RestartPolicy != nil && *c.RestartPolicy == corev1.ContainerRestartPolicyAlways
			if end == waitingForSecret || sidecar && end != crashing {
				return end, missing
			}
			return succeeded, ""
		})
	status.ContainerStatuses = containerStatuses(pod.Spec.Containers, status.ContainerStatuses, *status.StartTime,
		func(corev1.Container) (outcome, string) { return end, missing })
	return status
}

func containerStatuses(containers []corev1.Container, old []corev1.ContainerStatus, since metav1.Time,
	decide func(corev1.Container) (outcome, string),
) []corev1.ContainerStatus {
	var statuses []corev1.ContainerStatus
	for _, container := range containers {
		end, message := decide(container)
		status := corev1.ContainerStatus{Name: container.Name, Image: container.Image, ImageID: "none", ContainerID: "none://" + container.Name}
		if i := slices.IndexFunc(old, func(s corev1.ContainerStatus) bool { return s.Name == container.Name }); i >= 0 {
			status.RestartCount = old[i].RestartCount
		}
		started := end == running
		status.Ready, status.Started = started, &started
		switch end {
		case running:
			status.State.Running = &corev1.ContainerStateRunning{StartedAt: since}
		case crashing:
			status.RestartCount = max(status.RestartCount, 5)
			status.State.Waiting = &corev1.ContainerStateWaiting{Reason: "CrashLoopBackOff", Message: "annotation " + failAnnotation}
			status.LastTerminationState.Terminated = terminated(1, "Error", since)
		case waitingForSecret:
			status.ContainerID, status.ImageID = "", ""
			status.State.Waiting = &corev1.ContainerStateWaiting{Reason: "CreateContainerConfigError", Message: message}
		case succeeded:
			status.State.Terminated = terminated(0, "Completed", since)
		case failed:
			status.State.Terminated = terminated(1, "Error", since)
		}
		statuses = append(statuses, status)
	}
	return statuses
}

func terminated(code int32, reason string, at metav1.Time) *corev1.ContainerStateTerminated {
	return &corev1.ContainerStateTerminated{ExitCode: code, Reason: reason, StartedAt: at, FinishedAt: at}
}

// setPodCondition keeps the transition time of a condition that stays as it is.
func setPodCondition(status *corev1.PodStatus, kind corev1.PodConditionType, value corev1.ConditionStatus, reason string) {
	for i := range status.Conditions {
		if c := &status.Conditions[i]; c.Type == kind {
			if c.Status != value {
				c.LastTransitionTime = metav1.Now()
			}
			c.Status, c.Reason, c.ObservedGeneration = value, reason, status.ObservedGeneration
			return
		}
	}
	status.Conditions = append(status.Conditions, corev1.PodCondition{
		Type: kind, Status: value, Reason: reason, ObservedGeneration: status.ObservedGeneration, LastTransitionTime: metav1.Now(),
	})
}

func sameStatus(a, b corev1.PodStatus) bool { return equality.Semantic.DeepEqual(a, b) }
