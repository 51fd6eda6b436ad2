package kustomization

import (
	"context"
	"time"

	kustomizev1 "github.com/fluxcd/kustomize-controller/api/v1"
	fluxmeta "github.com/fluxcd/pkg/apis/meta"
	"k8s.io/apimachinery/pkg/api/meta"
	ctrl "sigs.k8s.io/controller-runtime"

	"sealock.dev/sealock/cluster"
	"sealock.dev/sealock/manifest"
)

// Memory outlives the process. It keeps, for each Kustomization, a keyed digest of what the last whole run depended on.
type Memory interface {
	// Recall returns "" when there is none.
	Recall(ctx context.Context, namespace, name string) (fingerprint string, err error)
	Remember(namespace, name, fingerprint string, judged cluster.Judged)
	// Advance replaces the fingerprint after a commit that touched nothing. It need not survive a kill.
	Advance(namespace, name, fingerprint string)
}

// kept is what is remembered of a run: its inputs, the artifact that it knows, and the inventory that it left. With another
// inventory the run was not the last one.
func (r *Reconciler) kept(in inputs, inventory []manifest.ID) string {
	parts := [][]byte{[]byte(in.fingerprint), []byte(in.content)}
	for _, id := range inventory {
		parts = append(parts, []byte(id.String()))
	}
	return r.Engine.Key.Digest(parts...)
}

// begun notes that something is about to be written, through that all of it was.
func (r *Reconciler) begun(ks *kustomizev1.Kustomization, in inputs) { r.note(ks, in, "") }

func (r *Reconciler) through(ks *kustomizev1.Kustomization, in inputs, inventory []manifest.ID) {
	r.note(ks, in, r.kept(in, inventory))
}

// advanced notes that a commit touched nothing of what is applied.
func (r *Reconciler) advanced(ks *kustomizev1.Kustomization, in inputs) {
	if ids, err := inventoryOf(ks); err == nil && r.Memory != nil {
		r.Memory.Advance(ks.Namespace, ks.Name, r.kept(in, ids))
	}
}

func (r *Reconciler) note(ks *kustomizev1.Kustomization, in inputs, kept string) {
	if r.Memory != nil {
		r.Memory.Remember(ks.Namespace, ks.Name, kept, cluster.Judged{Tenant: in.grant.Tenant, Identity: in.grant.User, Policies: r.Snapshot()})
	}
}

// intact reports whether everything that was applied is live as it was, by the live view alone.
func (r *Reconciler) intact(ctx context.Context, ks *kustomizev1.Kustomization, in inputs) bool {
	ids, err := inventoryOf(ks)
	if err != nil {
		return false
	}
	settled, err := in.cluster.Settled(ctx, in.grant, owner(ks, in.revision), ids)
	return err == nil && settled
}

// remembers reports whether a run that got through at this revision may be known from an earlier process.
func (r *Reconciler) remembers(ks *kustomizev1.Kustomization, in inputs) bool {
	s := ks.Status
	return r.Memory != nil && ks.Spec.KubeConfig == nil &&
		s.ObservedGeneration == ks.Generation && s.LastAppliedRevision == in.revision && meta.IsStatusConditionTrue(s.Conditions, fluxmeta.ReadyCondition)
}

// recall reports whether a run of an earlier process that got through at this revision had the same inputs. It spares the
// first run after a restart where what was applied is intact as well. What was skipped on purpose then is not known, so that
// health is assumed, and a doubt about it leads to a run.
func (r *Reconciler) recall(ctx context.Context, ks *kustomizev1.Kustomization, m *memory, in inputs) bool {
	old, err := inventoryOf(ks)
	if err != nil {
		return false
	}
	if was, err := r.Memory.Recall(ctx, ks.Namespace, ks.Name); err != nil || was != r.kept(in, old) {
		return false
	}
	if !r.intact(ctx, ks, in) {
		return true // the run repairs it, or says what is the matter
	}
	ctrl.LoggerFrom(ctx).Info("nothing changed since the last run of an earlier process", "revision", in.revision)
	m.fingerprint, m.revision, m.content, m.ranAt = in.fingerprint, in.revision, in.content, time.Now()
	m.waitFor, m.waitSince, m.settled, m.assumed = healthTargets(ks, old), time.Now(), true, true
	return true
}
