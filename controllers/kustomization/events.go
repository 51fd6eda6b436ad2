package kustomization

import (
	"maps"
	"strings"
	"time"

	kustomizev1 "github.com/fluxcd/kustomize-controller/api/v1"
	fluxmeta "github.com/fluxcd/pkg/apis/meta"
	corev1 "k8s.io/api/core/v1"

	"sealock.dev/sealock/manifest"
	"sealock.dev/sealock/notify"
)

// The bounds of what people read in a condition, which the API server takes up to 32 KiB. Those of events are notify's.
const (
	messageLines = 25
	messageBytes = 20_000
)

// revisions say what an event or a status is about.
type revisions struct {
	revision string // of the artifact
	origin   string // what the artifact was made from
}

// event tells what happened. A retry that fails, or waits, in the same way is no news, unless it is about another revision:
// receivers set the status of that commit by it. What was done is told each time.
func (r *Reconciler) event(ks *kustomizev1.Kustomization, m *memory, typ, reason, message string, about revisions) {
	repeats := typ == corev1.EventTypeWarning || reason == fluxmeta.DependencyNotReadyReason
	said := strings.Join([]string{typ, reason, about.revision, message}, "\n")
	r.mu.Lock()
	same := repeats && m.lastEvent == said
	m.lastEvent = said
	r.mu.Unlock()
	if !same {
		r.Events.AnnotatedEventf(ks, annotations(ks, about), typ, reason, "%s", message)
	}
}

// finished tells of a success; receivers of events set the status of the commit by it. They need to hear it of a commit
// that touched nothing as well, as a status that is required for a merge would else be missing; the cluster does not.
func (r *Reconciler) finished(ks *kustomizev1.Kustomization, m *memory, idle bool, about revisions) {
	r.mu.Lock()
	m.lastEvent = ""
	r.mu.Unlock()
	a := annotations(ks, about)
	a[annotationCommit] = "update"
	typ := corev1.EventTypeNormal
	if idle {
		typ = notify.Posted
	}
	took := time.Since(m.started).Round(time.Millisecond)
	r.Events.AnnotatedEventf(ks, a, typ, fluxmeta.ReconciliationSucceededReason, "Reconciliation finished in %s, next run in %s", took, ks.GetRequeueAfter())
}

// annotations are what receivers of events sort them by: the revisions, and what the object asks to be copied.
func annotations(ks *kustomizev1.Kustomization, about revisions) map[string]string {
	out := map[string]string{}
	for k, v := range maps.All(ks.Annotations) {
		if strings.HasPrefix(k, eventPrefix) {
			out[k] = v
		}
	}
	if about.revision != "" {
		out[annotationRevision] = about.revision
	}
	if about.origin != "" {
		out[annotationOrigin] = about.origin
	}
	return out
}

// bounded cuts a text at a whole character.
func bounded(text string, limit int) string {
	if len(text) <= limit {
		return text
	}
	return strings.ToValidUTF8(text[:limit-3], "") + "..."
}

// changeLog returns a line for each change, without the unchanged.
func changeLog(changes []manifest.Change) string {
	var lines []string
	for _, c := range changes {
		if c.Action != manifest.Unchanged && c.Action != manifest.Skipped {
			lines = append(lines, c.String())
		}
	}
	return strings.Join(lines, "\n")
}
