package policy

import (
	"context"
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"sealock.dev/sealock/api/sealock/v1alpha1"
	"sealock.dev/sealock/policies"
)

// report writes the status if it says anything new, and an event when the policy became broken or whole.
func (r *Reconciler) report(ctx context.Context, p *v1alpha1.Policy, problem *policies.Problem) error {
	before := p.DeepCopy()
	was := meta.FindStatusCondition(before.Status.Conditions, v1alpha1.ReadyCondition)
	cond := condition(p, problem)
	p.Status.ObservedGeneration = p.Generation
	if !meta.SetStatusCondition(&p.Status.Conditions, cond) && before.Status.ObservedGeneration == p.Generation {
		return nil
	}
	if err := r.Client.Status().Patch(ctx, p, client.MergeFrom(before), client.FieldOwner(fieldOwner)); err != nil {
		return client.IgnoreNotFound(err)
	}
	if r.Events == nil {
		return nil
	}
	switch {
	case problem != nil && (was == nil || was.Message != cond.Message):
		r.Events.Event(p, corev1.EventTypeWarning, cond.Reason, cond.Message)
	case problem == nil && was != nil && was.Status != metav1.ConditionTrue:
		r.Events.Event(p, corev1.EventTypeNormal, cond.Reason, cond.Message)
	}
	return nil
}

func condition(p *v1alpha1.Policy, problem *policies.Problem) metav1.Condition {
	c := metav1.Condition{Type: v1alpha1.ReadyCondition, ObservedGeneration: p.Generation, Status: metav1.ConditionTrue, Reason: policies.ReasonActive, Message: active(p)}
	if problem == nil {
		return c
	}
	c.Status, c.Reason = metav1.ConditionFalse, problem.Reason
	// The condition is on the policy: its name would be said twice.
	c.Message = strings.TrimPrefix(problem.Err.Error(), problem.Err.Ref.String()+": ")
	if problem.Kept {
		c.Message += "; the last good version stays in force until Sealock restarts"
	} else {
		c.Message += "; the policy is not in force"
	}
	return c
}

// active says where the policy is in force, and what it waits for in vain.
func active(p *v1alpha1.Policy) string {
	var points []string
	for _, at := range []struct {
		point  policies.Point
		action v1alpha1.Action
	}{{policies.Commit, p.Spec.Enforcement.Commit}, {policies.Reconcile, p.Spec.Enforcement.Reconcile}, {policies.Admission, p.Spec.Enforcement.Admission}} {
		if at.action == "" {
			at.action = v1alpha1.ActionDeny
		}
		points = append(points, fmt.Sprintf("%s %s", at.point, at.action))
	}
	text := strings.Join(points, ", ")
	if n := len(p.Spec.Tests); n > 0 {
		text += fmt.Sprintf("; tests passed: %d", n)
	}
	for _, op := range []string{"DELETE", "CONNECT"} {
		if slices.Contains(p.Spec.Match.Operations, op) {
			text += fmt.Sprintf("; the shipped webhook configuration does not ask about %s: add a rule to it", op)
		}
	}
	return text
}
