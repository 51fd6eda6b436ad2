package cluster

import (
	"bufio"
	"context"
	"strings"
	"time"

	"sealock.dev/sealock/manifest"
)

// againAfter is when a watch of one object that ended or was refused is begun anew.
const againAfter = 10 * time.Second

// longestLine bounds one event of a watch that asks for metadata only.
const longestLine = 4 << 20

// followed is an object that an owner waits for and did not apply.
type followed struct {
	owner string
	id    manifest.ID
}

// follow tells the owner of each change of an object that is not in the view, watched as the identity that may see it.
// It ends when unfollow no longer wants it.
func (v *View) follow(owner string, id manifest.ID, as conn, at place) {
	v.mu.Lock()
	defer v.mu.Unlock()
	key := followed{owner, id}
	if _, already := v.following[key]; already {
		return
	}
	ctx, cancel := context.WithCancel(v.ctx)
	if v.following == nil {
		v.following = map[followed]context.CancelFunc{}
	}
	v.following[key] = cancel
	go v.attend(ctx, key, as, at)
}

// unfollow ends what the owner follows and does not want any more.
func (v *View) unfollow(owner string, wanted map[manifest.ID]struct{}) {
	v.mu.Lock()
	defer v.mu.Unlock()
	for key, cancel := range v.following {
		if _, still := wanted[key.id]; key.owner == owner && !still {
			cancel()
			delete(v.following, key)
		}
	}
}

// attend watches until ctx is done. An identity that may not watch is served by looking again now and then.
func (v *View) attend(ctx context.Context, key followed, as conn, at place) {
	ns, name, _ := strings.Cut(key.owner, "/")
	changed := func() { v.events.put(Event{OwnerNamespace: ns, OwnerName: name, ID: key.id, Kind: Health}) }
	for {
		if stream, err := as.watch(ctx, at); err == nil {
			lines := bufio.NewScanner(stream)
			lines.Buffer(nil, longestLine)
			for lines.Scan() {
				changed()
			}
			_ = stream.Close()
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(againAfter):
			changed()
		}
	}
}
