package cluster

import (
	"context"
	"encoding/json"
	"strings"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	utiljson "k8s.io/apimachinery/pkg/util/json"
	"k8s.io/apimachinery/pkg/util/wait"

	"sealock.dev/sealock/fault"
	"sealock.dev/sealock/manifest"
)

func placeOf(info kindInfo, o manifest.Object) place {
	return place{kind: info, namespace: o.Namespace(), name: o.Name()}
}

// payload is what is sent of an object: the manifest, but for the fields that its owner leaves to others. Only an object
// with such fields costs a request.
func (c *Client) payload(ctx context.Context, as conn, by *rules, o manifest.Object, info kindInfo, manager string) ([]byte, error) {
	body, err := o.Wire()
	if err != nil {
		return nil, err
	}
	pointers := by.ignoredOf(o)
	if len(pointers) == 0 {
		return body, nil
	}
	ans, err := as.get(ctx, placeOf(info, o))
	if apierrors.IsNotFound(err) {
		return body, nil // a new object gets the values of the manifest
	}
	if err != nil {
		return nil, err
	}
	var wanted map[string]any
	if utiljson.Unmarshal(body, &wanted) != nil { // its error could quote the body
		return nil, fault.New(fault.StagePlan, fault.Internal, o.Ref(), "the object cannot be encoded")
	}
	yield(wanted, ans.body, pointers, ownersOf(ans.body), manager)
	return json.Marshal(wanted)
}

// replaceable reports whether an object may be made anew: its owner or a marker asks for it, the API server refuses the
// change as invalid, and would take the same object if it were a new one. The last is asked, not guessed from words: a
// manifest with a mistake is refused either way, and then nothing is deleted.
func (p *planner) replaceable(ctx context.Context, o manifest.Object, info kindInfo, seen observed, err error) bool {
	forced := p.owner.Force || seen.wanted.has(markForce) || seen.live != nil && seen.live.marks.has(markForce)
	if !forced || !apierrors.IsInvalid(err) {
		return false
	}
	for _, end := range []string{"x", "y", "z"} { // as long as the name itself, whose length may matter
		name := o.Name()[:len(o.Name())-1] + end
		probe := o.Edit(func(body map[string]any) {
			if meta, ok := body["metadata"].(map[string]any); ok {
				meta["name"] = name
			}
		})
		body, err := probe.Wire()
		if err != nil {
			return false
		}
		ans, err := p.as.apply(ctx, placeOf(info, probe), body, p.owner.FieldManager, true)
		if err != nil {
			return onlyTaken(err)
		}
		if ans.created() {
			return true
		}
	}
	return false
}

// onlyTaken reports whether a new object is refused for nothing but what the live one holds: an address or a port.
func onlyTaken(err error) bool {
	status, ok := err.(apierrors.APIStatus)
	if !ok || !apierrors.IsInvalid(err) || status.Status().Details == nil || len(status.Status().Details.Causes) == 0 {
		return false
	}
	for _, c := range status.Status().Details.Causes {
		if !strings.HasSuffix(c.Message, "is already allocated") {
			return false
		}
	}
	return true
}

// makeWay deletes the live object, unless it was marked since it was planned, and returns when it is gone.
func (a *applier) makeWay(ctx context.Context, o manifest.Object, info kindInfo) error {
	to := placeOf(info, o)
	ans, err := a.as.getMeta(ctx, to)
	if apierrors.IsNotFound(err) {
		return nil
	}
	if err != nil {
		return err
	}
	live := a.view.reduce.reduceAs(ans.body, a.owner.FieldManager, nil)
	if decide(observed{wanted: marksOf(o.Labels(), o.Annotations()), live: &live}) == leaveAlone {
		return fault.New(fault.StageApply, fault.Conflict, o.Ref(), "it was to be made anew, and is marked to be left alone by now").Fix("it is tried again")
	}
	uid := live.uid
	if err := a.as.delete(ctx, to, uid); err != nil && !apierrors.IsNotFound(err) {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, settleTime)
	defer cancel()
	if w, watching := a.view.peek(info.gvk); watching && live.owner != "" {
		err = w.left(ctx, nsName{o.Namespace(), o.Name()}, uid)
	} else { // the view does not show it
		err = wait.PollUntilContextCancel(ctx, settleTime/50, true, func(ctx context.Context) (bool, error) {
			now, err := a.as.getMeta(ctx, to)
			return apierrors.IsNotFound(err) || err == nil && text(now.body, "metadata", "uid") != uid, nil
		})
	}
	if err != nil {
		return fault.New(fault.StageApply, fault.Transient, o.Ref(), "it is to be made anew, and the old one is still being deleted").
			Fix("look for finalizers on the live object; it is tried again")
	}
	return nil
}
