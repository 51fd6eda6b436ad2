package kustomization

import (
	"context"
	"time"

	kustomizev1 "github.com/fluxcd/kustomize-controller/api/v1"
	fluxmeta "github.com/fluxcd/pkg/apis/meta"
	"k8s.io/apimachinery/pkg/api/meta"
	ctrl "sigs.k8s.io/controller-runtime"

	"sealock.dev/sealock/manifest"
	"sealock.dev/sealock/tenants"
)

// Memory outlives the process. It keeps, for each Kustomization, a keyed digest of what the last whole run depended on.
type Memory interface {
	Recall(namespace, name string) (fingerprint string, ok bool)
	Remember(namespace, name, fingerprint string)
}

// watcher is a cluster that starts to watch what an earlier process applied, and tells what has changed since then.
type watcher interface {
	Watch(ctx context.Context, grant tenants.Grant, owner manifest.Owner, ids []manifest.ID) error
}

// recall spares the first run after a restart: nothing that it would depend on has changed since a run that got through
// at this revision, and what changed in the cluster meanwhile arrives as an event. What was skipped on purpose then is
// not known, so that health is assumed, and a doubt about it leads to a run.
func (r *Reconciler) recall(ctx context.Context, ks *kustomizev1.Kustomization, m *memory, in inputs) {
	if r.Memory == nil || ks.Spec.KubeConfig != nil {
		return
	}
	s := ks.Status
	if s.ObservedGeneration != ks.Generation || s.LastAppliedRevision != in.revision || !meta.IsStatusConditionTrue(s.Conditions, fluxmeta.ReadyCondition) {
		return
	}
	if was, ok := r.Memory.Recall(ks.Namespace, ks.Name); !ok || was != in.fingerprint {
		return
	}
	old, err := inventoryOf(ks)
	if err != nil {
		return
	}
	w, ok := in.cluster.(watcher)
	if !ok {
		return
	}
	if err := w.Watch(ctx, in.grant, owner(ks, in.revision), old); err != nil {
		return // the run will say what is the matter
	}
	ctrl.LoggerFrom(ctx).Info("nothing changed since the last run of an earlier process", "revision", in.revision)
	m.fingerprint, m.revision, m.ranAt = in.fingerprint, in.revision, time.Now()
	m.waitFor, m.waitSince, m.settled, m.assumed = healthTargets(ks, old), time.Now(), true, true
}
