package cluster

import "sealock.dev/sealock/manifest"

// observed is everything that is known of one object before the API server is asked about it.
type observed struct {
	wanted   marks  // markers of the manifest
	desired  digest // of the manifest with its secrets
	live     *entry // what the view has; nil: nothing with owner labels is there
	base     *Baseline
	unasked  bool   // kind or namespace come with the same set: there is nobody to ask yet
	ownerKey string // on whose behalf
}

// question is what is to be done before the action of an object is known.
type question int

const (
	leaveAlone question = iota // a marker says so
	inPlace                    // what is live is what was applied
	dryRun                     // ask the API server
	trust                      // it cannot be asked; the first write will tell
)

// String returns the name of the question, for tests.
func (q question) String() string { return [...]string{"leaveAlone", "inPlace", "dryRun", "trust"}[q] }

// downgrades reports a definition of somebody else's, as Flux's own manifests bring along, in the place of one that we came
// with: our objects would lose fields.
func (o observed) downgrades(live entry) bool {
	return live.marks.has(markServed) && !o.wanted.has(markServed)
}

// decide says what to ask. It is pure.
func decide(o observed) question {
	switch {
	case o.wanted.has(markDisabled):
		return leaveAlone
	case o.live != nil && o.live.marks.has(markDisabled):
		return leaveAlone
	case o.live != nil && (o.wanted.has(markAbsentOnly) || o.downgrades(*o.live)):
		return leaveAlone
	case o.unasked:
		return trust
	case o.live == nil || o.base == nil:
		return dryRun
	case o.base.Desired != o.desired || o.base.UID != o.live.uid || o.base.Owned != o.live.owned || o.live.owned == digest{}:
		return dryRun
	case o.live.owner != o.ownerKey:
		return dryRun
	case o.live.marks.has(markOverridden) && !o.wanted.has(markMerge):
		return dryRun
	}
	return inPlace
}

// settle turns the answer to a dry-run into an action. remember is true when live is what the answer shows, so that it
// may serve as the baseline. It is pure.
func settle(o observed, created bool, after entry) (action manifest.Action, remember bool) {
	switch {
	case created:
		return manifest.Created, false
	case after.marks.has(markDisabled), o.wanted.has(markAbsentOnly), o.downgrades(after):
		// Something without owner labels was there, which the view does not show.
		return manifest.Skipped, false
	case o.live == nil || o.live.uid != after.uid || o.live.owned != after.owned || after.owned == digest{}:
		return manifest.Configured, false
	case after.marks.has(markOverridden) && !o.wanted.has(markMerge):
		return manifest.Configured, false
	}
	return manifest.Unchanged, true
}

// doomed is what becomes of an object that the set no longer has.
type doomed int

const (
	deleteIt doomed = iota
	forgetIt        // not ours (any more), or somebody wants to keep it
	goneIt          // it is not there, or going
)

// String returns the name, for tests.
func (d doomed) String() string { return [...]string{"deleteIt", "forgetIt", "goneIt"}[d] }

// condemn decides about a live object of an old inventory by its metadata. It is pure.
func condemn(live entry, ownerKey string) doomed {
	switch {
	case live.owner != ownerKey || live.owner == "":
		return forgetIt
	case live.marks.has(markKeep), live.marks.has(markDisabled), live.marks.has(markServed):
		return forgetIt
	case live.marks.has(markTerminating):
		return goneIt
	}
	return deleteIt
}
