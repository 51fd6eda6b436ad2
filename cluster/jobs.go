package cluster

import (
	"sync"

	"k8s.io/apimachinery/pkg/runtime/schema"

	"sealock.dev/sealock/manifest"
)

// jobs remembers which Jobs may be missing: those that are applied with a time to live, which ends whenever nobody looks,
// and those that were complete when they went.
type jobs struct {
	mu sync.Mutex
	of map[string]map[manifest.ID]bool // by owner
}

func isJob(gk schema.GroupKind) bool { return gk.Group == "batch" && gk.Kind == "Job" }

// planned replaces what is known of an owner: what had gone is made anew.
func (j *jobs) planned(owner string, set []manifest.Object) {
	j.mu.Lock()
	defer j.mu.Unlock()
	delete(j.of, owner)
	for _, o := range set {
		if isJob(o.GVK().GroupKind()) && o.Peek("spec", "ttlSecondsAfterFinished") != nil {
			j.add(owner, o.ID())
		}
	}
}

// done notes a Job that was complete when it went.
func (j *jobs) done(owner string, id manifest.ID) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.add(owner, id)
}

func (j *jobs) add(owner string, id manifest.ID) {
	if j.of == nil {
		j.of = map[string]map[manifest.ID]bool{}
	}
	if j.of[owner] == nil {
		j.of[owner] = map[manifest.ID]bool{}
	}
	j.of[owner][bare(id)] = true
}

// mayBeMissing reports whether the owner's Job is as good as complete when it is not there.
func (j *jobs) mayBeMissing(owner string, id manifest.ID) bool {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.of[owner][bare(id)]
}
