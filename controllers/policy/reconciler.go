// Package policy keeps the policies that the engine judges by the same as the Policy objects of the cluster, and tells
// each Policy whether it is in force.
//
// It must not judge anything. Every replica compiles for itself, since every replica answers the webhook; only the leader
// writes status.
package policy

import (
	"context"
	"errors"
	"fmt"

	"k8s.io/client-go/tools/record"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"sealock.dev/sealock/api/sealock/v1alpha1"
	"sealock.dev/sealock/policies"
	"sealock.dev/sealock/policies/builtin"
)

const fieldOwner = "sealock"

// Reconciler compiles all policies whenever one of them changed.
type Reconciler struct {
	Client client.Client
	Engine *policies.Engine
	Events record.EventRecorder
	// Changed, when not nil, is told when other policies are in force than before: what was judged is judged again.
	Changed func()
	// Leads is closed once this replica may write. nil: it may.
	Leads <-chan struct{}
}

// Load puts the policies in force before anything runs: what was judged under them before a restart need not be judged
// again.
func (r *Reconciler) Load(ctx context.Context, reader client.Reader) error {
	list := &v1alpha1.PolicyList{}
	if err := reader.List(ctx, list); err != nil {
		return fmt.Errorf("listing policies: %w", err)
	}
	next, _ := builtin.Load(nil, list.Items) // Reconcile reports what is wrong
	r.Engine.Use(next)
	return nil
}

// Reconcile is called for all policies at once, whatever the request names. A policy that became broken stays in force as
// it was, as long as this process lives; a new one that is broken is not in force. Its condition says which.
func (r *Reconciler) Reconcile(ctx context.Context, _ ctrl.Request) (ctrl.Result, error) {
	list := &v1alpha1.PolicyList{}
	if err := r.Client.List(ctx, list); err != nil {
		return ctrl.Result{}, fmt.Errorf("listing policies: %w", err)
	}
	before := r.Engine.Snapshot()
	next, problems := builtin.Load(before, list.Items)
	r.Engine.Use(next)
	if r.Changed != nil && (before == nil || before.ID() != next.ID()) {
		r.Changed()
	}
	if !r.leads() {
		return ctrl.Result{}, nil
	}
	wrong := map[string]*policies.Problem{}
	for i := range problems {
		wrong[problems[i].Policy] = &problems[i]
	}
	var errs []error
	for i := range list.Items {
		p := &list.Items[i]
		if p.DeletionTimestamp.IsZero() {
			errs = append(errs, r.report(ctx, p, wrong[p.Name]))
		}
	}
	return ctrl.Result{}, errors.Join(errs...)
}

func (r *Reconciler) leads() bool {
	if r.Leads == nil {
		return true
	}
	select {
	case <-r.Leads:
		return true
	default:
		return false
	}
}
