package main

import (
	"context"
	"fmt"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/selection"
	"k8s.io/client-go/kubernetes"

	"sealock.dev/sealock/fault"
)

// What Flux's own manifests write: reference/flux.md, section 4, row check.
const (
	partOfFlux     = "app.kubernetes.io/part-of=flux"
	componentLabel = "app.kubernetes.io/component"
	leaseSuffix    = "-leader-election"
)

// replacedControllers are the controllers of Flux that reconcile the kinds which Sealock serves.
var replacedControllers = []string{"kustomize-controller", "source-controller"} //nolint:gochecknoglobals // a constant table

// fluxController is one of them: a Deployment, or a Lease that is held by a process which no Deployment accounts for.
type fluxController struct {
	Component  string `json:"component"`
	Namespace  string `json:"namespace"`
	Deployment string `json:"deployment,omitempty"`
	Version    string `json:"version,omitempty"`
	Replicas   int32  `json:"replicas"`
	Ready      int32  `json:"readyReplicas"`
	// Remembered is how many replicas it had before an adoption; nil when there was none.
	Remembered *int32 `json:"rememberedReplicas,omitempty"`
	// Holder of a Lease that was renewed within its time.
	Holder string `json:"leaseHolder,omitempty"`
	// AppliedBy is the Kustomization, namespace/name, that has the Deployment in Git.
	AppliedBy string `json:"appliedBy,omitempty"`

	lease string
	args  []string
	proxy string // the variable of the environment that names one
}

// live reports whether it reconciles, or is about to.
func (c fluxController) live() bool { return c.Replicas > 0 || c.Ready > 0 || c.Holder != "" }

func (c fluxController) String() string {
	switch {
	case c.Deployment == "":
		return fmt.Sprintf("Lease %s/%s is held by %s", c.Namespace, c.lease, c.Holder)
	case c.Ready > 0:
		return fmt.Sprintf("Deployment %s/%s has %d ready replicas", c.Namespace, c.Deployment, c.Ready)
	case c.Replicas > 0:
		return fmt.Sprintf("Deployment %s/%s wants %d replicas", c.Namespace, c.Deployment, c.Replicas)
	}
	return fmt.Sprintf("Deployment %s/%s is scaled down, and its Lease is still held by %s", c.Namespace, c.Deployment, c.Holder)
}

// flag returns the last value that the Deployment passes for a flag of the controller.
func (c fluxController) flag(name string) (value string, ok bool) {
	for i, arg := range c.args {
		bare, found := strings.CutPrefix(strings.TrimLeft(arg, "-"), name)
		switch {
		case !strings.HasPrefix(arg, "-") || !found:
		case strings.HasPrefix(bare, "="):
			value, ok = bare[1:], true
		case bare == "" && i+1 < len(c.args) && !strings.HasPrefix(c.args[i+1], "-"):
			value, ok = c.args[i+1], true
		case bare == "":
			value, ok = "true", true
		}
	}
	return strings.ReplaceAll(value, "$(RUNTIME_NAMESPACE)", c.Namespace), ok
}

// fluxControllers finds Flux's controllers of the kinds that Sealock serves, in every namespace.
func fluxControllers(ctx context.Context, kube kubernetes.Interface, now time.Time) ([]fluxController, error) {
	deployments, err := kube.AppsV1().Deployments("").List(ctx, metav1.ListOptions{LabelSelector: partOfFlux})
	if err != nil {
		return nil, cannotRead("Deployments", err)
	}
	var found []fluxController
	for i := range deployments.Items {
		if c, ok := controllerOf(&deployments.Items[i]); ok {
			found = append(found, c)
		}
	}
	// Nodes renew a Lease each, and there may be many nodes.
	leases, err := kube.CoordinationV1().Leases("").List(ctx, metav1.ListOptions{FieldSelector: "metadata.namespace!=kube-node-lease"})
	if err != nil {
		return nil, cannotRead("Leases", err)
	}
	for i := range leases.Items {
		found = withLease(found, &leases.Items[i], now)
	}
	return found, nil
}

// proxyVariable returns the variable that names a proxy; what it says may hold a password.
func proxyVariable(env []corev1.EnvVar) string {
	for _, v := range env {
		if name := strings.ToUpper(v.Name); (name == "HTTPS_PROXY" || name == "HTTP_PROXY" || name == "ALL_PROXY") && (v.Value != "" || v.ValueFrom != nil) {
			return v.Name
		}
	}
	return ""
}

func controllerOf(d *appsv1.Deployment) (fluxController, bool) {
	c := fluxController{Namespace: d.Namespace, Deployment: d.Name, Replicas: 1, Ready: d.Status.ReadyReplicas}
	if d.Spec.Replicas != nil {
		c.Replicas = *d.Spec.Replicas
	}
	for _, container := range d.Spec.Template.Spec.Containers {
		repository, tag, _ := strings.Cut(path.Base(container.Image), ":")
		for _, name := range replacedControllers {
			if repository == name || d.Labels[componentLabel] == name && container.Name == "manager" {
				c.Component, c.args = name, append(slices.Clone(container.Command), container.Args...)
				c.Version, _, _ = strings.Cut(tag, "@")
				c.proxy = proxyVariable(container.Env)
			}
		}
	}
	if n, err := strconv.ParseInt(d.Annotations[rememberedReplicas], 10, 32); err == nil {
		replicas := int32(n)
		c.Remembered = &replicas
	}
	if name := d.Labels[ownerName]; name != "" {
		c.AppliedBy = d.Labels[ownerNamespace] + "/" + name
	}
	return c, c.Component != ""
}

// withLease notes who holds a Lease of a controller. Those of shards have a hash behind their name.
func withLease(found []fluxController, l *coordinationv1.Lease, now time.Time) []fluxController {
	component := ""
	for _, name := range replacedControllers {
		if rest, ok := strings.CutPrefix(l.Name, name+leaseSuffix); ok && (rest == "" || rest[0] == '-') {
			component = name
		}
	}
	holder, held := holderOf(l, now)
	if component == "" || !held {
		return found
	}
	accounted := false
	for i, c := range found {
		if c.Namespace == l.Namespace && c.Component == component {
			found[i].Holder, found[i].lease, accounted = holder, l.Name, true
		}
	}
	if accounted {
		return found
	}
	return append(found, fluxController{Component: component, Namespace: l.Namespace, Holder: holder, lease: l.Name})
}

// holderOf returns who holds the Lease; nobody does when it was not renewed within its time.
func holderOf(l *coordinationv1.Lease, now time.Time) (holder string, held bool) {
	s := l.Spec
	if s.HolderIdentity == nil || *s.HolderIdentity == "" || s.RenewTime == nil || s.LeaseDurationSeconds == nil {
		return "", false
	}
	return *s.HolderIdentity, !now.After(s.RenewTime.Add(time.Duration(*s.LeaseDurationSeconds) * time.Second))
}

// refuseBesideFlux fails while a controller of Flux reconciles the kinds that this process is about to reconcile. Two
// of them would take objects from each other. With beside, the labels of both have to keep them apart.
func refuseBesideFlux(ctx context.Context, kube kubernetes.Interface, beside bool, ours string) error {
	found, err := fluxControllers(ctx, kube, time.Now())
	if err != nil {
		return err
	}
	for _, c := range found {
		if !c.live() {
			continue
		}
		refused := fault.New("", fault.Denied, fault.Ref{}, "Flux's %s is live: %s", c.Component, c)
		if !beside {
			return refused.Fix("take over from it with `sealock adopt flux`, or share the objects with it by label, see --beside-flux")
		}
		if c.Deployment == "" {
			continue // what a process that is no Deployment selects cannot be seen
		}
		theirs, _ := c.flag("watch-label-selector")
		if apart, err := disjoint(ours, theirs); err != nil || !apart {
			return refused.At("--watch-label-selector").
				Fix("give both selectors that cannot match the same object, such as sharding.fluxcd.io/key=sealock here and '!sharding.fluxcd.io/key' there; now they are %q and %q", ours, theirs)
		}
	}
	return nil
}

// disjoint reports whether no set of labels can match both selectors. It is sure when it says yes.
func disjoint(a, b string) (bool, error) {
	x, err := labels.ParseToRequirements(a)
	if err != nil {
		return false, err
	}
	y, err := labels.ParseToRequirements(b)
	if err != nil {
		return false, err
	}
	for _, p := range x {
		for _, q := range y {
			if p.Key() == q.Key() && (exclude(p, q) || exclude(q, p)) {
				return true, nil
			}
		}
	}
	return false, nil
}

// exclude reports whether a value that p asks for is one that q forbids.
func exclude(p, q labels.Requirement) bool {
	switch p.Operator() {
	case selection.Exists, selection.GreaterThan, selection.LessThan:
		return q.Operator() == selection.DoesNotExist
	case selection.In, selection.Equals, selection.DoubleEquals:
	default:
		return false
	}
	return !slices.ContainsFunc(p.ValuesUnsorted(), func(value string) bool { return q.Matches(labels.Set{q.Key(): value}) })
}

// cannotRead classifies why a list could not be had. The objects hold no secret, so that the words may be shown.
func cannotRead(what string, err error) error {
	kind, remedy := fault.Transient, "check that the API server can be reached, and repeat the command"
	if apierrors.IsForbidden(err) || apierrors.IsUnauthorized(err) {
		kind, remedy = fault.Denied, "do it as an administrator of the cluster"
	}
	return fault.New("", kind, fault.Ref{}, "reading %s: %w", what, err).Fix("%s", remedy)
}
