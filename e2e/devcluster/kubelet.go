package main

import (
	"context"
	"fmt"
	"hash/fnv"
	"log/slog"
	"net"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	listers "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/util/workqueue"
)

const (
	nodeName = "devnode"
	nodeIP   = "10.127.0.1"

	holdAnnotation = "devcluster/hold"
	failAnnotation = "devcluster/fail"

	// secretRecheck is how soon a pod that waits for a Secret looks again.
	secretRecheck  = 500 * time.Millisecond
	kubeletWorkers = 4
)

// kubelet is a stand-in, the one fake of the devcluster: no container runtime is at hand, so nothing ever runs. It is
// scheduler and kubelet of one Node as far as other programs can see them in the API: it binds pods, declares their
// containers running and ready, finishes the pods of Jobs and removes deleted pods. Of a pod's needs it checks only
// Secrets, as Sealock is about those: not images, resources, taints, affinity, probes, ConfigMaps or volumes.
//
// A missing Secret is always reported as CreateContainerConfigError; the real kubelet does so for environment variables
// and says ContainerCreating, with an event, for volumes.
type kubelet struct {
	client kubernetes.Interface
	pods   listers.PodLister
	queue  workqueue.TypedRateLimitingInterface[types.NamespacedName]
	log    *slog.Logger
}

// startKubelet registers the Node and serves its pods.
func startKubelet(ctx context.Context, parts *stack, config *rest.Config, logFile string) error {
	config.ContentType = "application/vnd.kubernetes.protobuf"
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		return err
	}
	if err := registerNode(ctx, client); err != nil {
		return fmt.Errorf("registering node %s: %w", nodeName, err)
	}
	log, err := openLog(logFile)
	if err != nil {
		return err
	}
	factory := informers.NewSharedInformerFactory(client, 0)
	k := &kubelet{
		client: client,
		pods:   factory.Core().V1().Pods().Lister(),
		queue: workqueue.NewTypedRateLimitingQueue(
			workqueue.NewTypedItemExponentialFailureRateLimiter[types.NamespacedName](20*time.Millisecond, 5*time.Second)),
		log: slog.New(slog.NewTextHandler(log, nil)),
	}
	enqueue := func(obj any) {
		if pod, ok := obj.(*corev1.Pod); ok {
			k.queue.Add(types.NamespacedName{Namespace: pod.Namespace, Name: pod.Name})
		}
	}
	if _, err := factory.Core().V1().Pods().Informer().AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc:    enqueue,
		UpdateFunc: func(_, obj any) { enqueue(obj) },
	}); err != nil {
		return err
	}
	parts.run("kubelet stand-in", logFile, func(ctx context.Context) error {
		defer log.Close()
		factory.StartWithContext(ctx)
		factory.WaitForCacheSyncWithContext(ctx)
		for range kubeletWorkers {
			go k.work(ctx)
		}
		<-ctx.Done()
		k.queue.ShutDownWithDrain()
		factory.Shutdown()
		return nil
	})
	return nil
}

// registerNode makes the Node, large enough for anything and always Ready: no controller watches its heartbeat, and none
// removes the taint that admission gives to a new Node.
func registerNode(ctx context.Context, client kubernetes.Interface) error {
	nodes := client.CoreV1().Nodes()
	_, err := nodes.Create(ctx, &corev1.Node{ObjectMeta: metav1.ObjectMeta{
		Name: nodeName,
		Labels: map[string]string{
			corev1.LabelHostname: nodeName, corev1.LabelOSStable: "linux", corev1.LabelArchStable: "amd64",
		},
	}}, metav1.CreateOptions{})
	if err := ignoreExists(err); err != nil {
		return err
	}
	if _, err := nodes.Patch(ctx, nodeName, types.MergePatchType, []byte(`{"spec":{"taints":null}}`), metav1.PatchOptions{}); err != nil {
		return err
	}
	node, err := nodes.Get(ctx, nodeName, metav1.GetOptions{})
	if err != nil {
		return err
	}
	node.Status = nodeStatus()
	_, err = nodes.UpdateStatus(ctx, node, metav1.UpdateOptions{})
	return err
}

func nodeStatus() corev1.NodeStatus {
	room := corev1.ResourceList{
		corev1.ResourceCPU:    resource.MustParse("10k"),
		corev1.ResourceMemory: resource.MustParse("100Ti"),
		corev1.ResourcePods:   resource.MustParse("1M"),
	}
	now := metav1.Now()
	return corev1.NodeStatus{
		Capacity: room, Allocatable: room,
		Addresses: []corev1.NodeAddress{
			{Type: corev1.NodeInternalIP, Address: nodeIP}, {Type: corev1.NodeHostName, Address: nodeName},
		},
		Conditions: []corev1.NodeCondition{{
			Type: corev1.NodeReady, Status: corev1.ConditionTrue, Reason: "StandIn",
			Message: "devcluster's stand-in: no container runs here", LastHeartbeatTime: now, LastTransitionTime: now,
		}},
		NodeInfo: corev1.NodeSystemInfo{
			OperatingSystem: "linux", Architecture: "amd64", ContainerRuntimeVersion: "none://devcluster", KubeletVersion: "stand-in",
		},
	}
}

func (k *kubelet) work(ctx context.Context) {
	for {
		key, stopped := k.queue.Get()
		if stopped {
			return
		}
		err := k.sync(ctx, key)
		switch {
		case err == nil:
			k.queue.Forget(key)
		case ctx.Err() != nil:
		default:
			if !apierrors.IsConflict(err) && !apierrors.IsNotFound(err) {
				k.log.Warn("pod not served, will try again", "pod", key, "error", err)
			}
			k.queue.AddRateLimited(key)
		}
		k.queue.Done(key)
	}
}

// sync takes a pod one step further; the event of that step leads to the next.
func (k *kubelet) sync(ctx context.Context, key types.NamespacedName) error {
	pod, err := k.pods.Pods(key.Namespace).Get(key.Name)
	if apierrors.IsNotFound(err) {
		return nil
	}
	if err != nil {
		return err
	}
	switch {
	case pod.DeletionTimestamp != nil:
		return k.finishDeletion(ctx, pod)
	case pod.Status.Phase == corev1.PodSucceeded, pod.Status.Phase == corev1.PodFailed:
		return nil
	case pod.Annotations[holdAnnotation] == "true", len(pod.Spec.SchedulingGates) > 0:
		return nil
	case pod.Spec.NodeName == "":
		return k.client.CoreV1().Pods(pod.Namespace).Bind(ctx, &corev1.Binding{
			ObjectMeta: metav1.ObjectMeta{Name: pod.Name, Namespace: pod.Namespace, UID: pod.UID},
			Target:     corev1.ObjectReference{Kind: "Node", Name: nodeName},
		}, metav1.CreateOptions{})
	case pod.Spec.NodeName != nodeName:
		return nil
	}
	missing := ""
	if pod.Status.Phase != corev1.PodRunning { // what runs has read its Secrets
		if missing, err = k.missingSecret(ctx, pod); err != nil {
			return err
		}
	}
	if missing != "" {
		k.queue.AddAfter(key, secretRecheck)
	}
	return k.updateStatus(ctx, pod, podStatus(pod, missing))
}

// finishDeletion does what the kubelet does once the containers have stopped.
func (k *kubelet) finishDeletion(ctx context.Context, pod *corev1.Pod) error {
	if pod.DeletionGracePeriodSeconds != nil && *pod.DeletionGracePeriodSeconds == 0 {
		return nil // only finalizers hold it
	}
	now := int64(0)
	err := k.client.CoreV1().Pods(pod.Namespace).Delete(ctx, pod.Name, metav1.DeleteOptions{
		GracePeriodSeconds: &now,
		Preconditions:      &metav1.Preconditions{UID: &pod.UID},
	})
	if apierrors.IsNotFound(err) {
		return nil
	}
	return err
}

func (k *kubelet) updateStatus(ctx context.Context, pod *corev1.Pod, status corev1.PodStatus) error {
	if sameStatus(pod.Status, status) {
		return nil
	}
	pod = pod.DeepCopy()
	pod.Status = status
	_, err := k.client.CoreV1().Pods(pod.Namespace).UpdateStatus(ctx, pod, metav1.UpdateOptions{})
	return err
}

// missingSecret names the first Secret, or key of one, that the pod cannot start without and that is not there.
func (k *kubelet) missingSecret(ctx context.Context, pod *corev1.Pod) (string, error) {
	read := map[string]*corev1.Secret{}
	for _, need := range secretNeeds(pod) {
		secret, ok := read[need.name]
		if !ok {
			found, err := k.client.CoreV1().Secrets(pod.Namespace).Get(ctx, need.name, metav1.GetOptions{})
			if apierrors.IsNotFound(err) {
				return fmt.Sprintf("secret %q not found", need.name), nil
			}
			if err != nil {
				return "", err
			}
			secret = found
			read[need.name] = secret
		}
		for _, key := range need.keys {
			if _, ok := secret.Data[key]; !ok {
				return fmt.Sprintf("couldn't find key %s in Secret %s/%s", key, pod.Namespace, need.name), nil
			}
		}
	}
	return "", nil
}

// secretNeed is a Secret without which a pod does not start, and the keys that it must have.
type secretNeed struct {
	name string
	keys []string
}

func secretNeeds(pod *corev1.Pod) []secretNeed {
	var needs []secretNeed
	need := func(name string, optional *bool, keys ...string) {
		if optional == nil || !*optional {
			needs = append(needs, secretNeed{name, keys})
		}
	}
	for _, container := range append(pod.Spec.InitContainers[:len(pod.Spec.InitContainers):len(pod.Spec.InitContainers)], pod.Spec.Containers...) {
		for _, env := range container.Env {
			if env.ValueFrom != nil && env.ValueFrom.SecretKeyRef != nil {
				ref := env.ValueFrom.SecretKeyRef
				need(ref.Name, ref.Optional, ref.Key)
			}
		}
		for _, from := range container.EnvFrom {
			if from.SecretRef != nil {
				need(from.SecretRef.Name, from.SecretRef.Optional)
			}
		}
	}
	for _, volume := range pod.Spec.Volumes {
		if volume.Secret != nil {
			need(volume.Secret.SecretName, volume.Secret.Optional, itemKeys(volume.Secret.Items)...)
		}
		if volume.Projected == nil {
			continue
		}
		for _, source := range volume.Projected.Sources {
			if source.Secret != nil {
				need(source.Secret.Name, source.Secret.Optional, itemKeys(source.Secret.Items)...)
			}
		}
	}
	return needs
}

func itemKeys(items []corev1.KeyToPath) []string {
	keys := sets.New[string]()
	for _, item := range items {
		keys.Insert(item.Key)
	}
	return sets.List(keys)
}

// podIP is an address that no program has and Kubernetes accepts in EndpointSlices, where it refuses loopback ones. It
// follows from the UID: nothing need be remembered to keep addresses apart.
func podIP(uid types.UID) string {
	hash := fnv.New32a()
	_, _ = hash.Write([]byte(uid))
	sum := hash.Sum32()
	return net.IPv4(10, byte(sum>>16)|0x80, byte(sum>>8), byte(sum)).String()
}
