package cluster

import (
	"context"
	"slices"
	"sync"
	"time"

	"github.com/go-logr/logr"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/tools/cache"
	"k8s.io/klog/v2"

	"sealock.dev/sealock/manifest"
)

// idle is how long the watch of a kind that nobody needs any more is kept: a set is planned in parts, and comes back.
const idle = 5 * time.Minute

// View knows what is live of the objects that carry owner labels, by one watch for each kind in use, held with the
// controller's rights. It keeps no body and no value.
type View struct {
	ctx       context.Context //nolint:containedctx // the life of the watches, which outlive every call
	dyn       dynamic.Interface
	selector  string
	reduce    reducer
	baselines Baselines
	events    *queue

	mu    sync.Mutex
	kinds map[schema.GroupVersionKind]*watched
	usage map[string]map[schema.GroupVersionKind]struct{} // by owner

	rules sync.Map // owner -> *rules; read at each arrival

	following map[followed]context.CancelFunc // guarded by mu

	departed departures
	reaper   reaper
	jobs     jobs

	idle     time.Duration // how long a watch that nobody needs is kept
	sweeping bool          // guarded by mu: a sweep is on its way
}

func newView(ctx context.Context, dyn dynamic.Interface, opts Options) *View {
	// Errors of a watch may quote what it could not decode. They are kept as state, never logged.
	ctx = klog.NewContext(ctx, logr.Discard())
	v := &View{
		ctx: ctx, dyn: dyn, selector: opts.OwnerLabel, baselines: opts.Baselines, events: newQueue(ctx),
		reduce: reducer{key: opts.Key, manager: opts.FieldManager, override: opts.OverrideManagers, ownerLabel: opts.OwnerLabel, ownerNamespaceLabel: opts.OwnerNamespaceLabel},
		idle:   idle, kinds: map[schema.GroupVersionKind]*watched{}, usage: map[string]map[schema.GroupVersionKind]struct{}{},
	}
	v.reduce.rulesOf = v.rulesOf
	v.reaper.ctx = ctx
	return v
}

// govern sets by which rules the objects of an owner are read from now on.
func (v *View) govern(owner string, by *rules) {
	if by.print == 0 {
		v.rules.Delete(owner)
		return
	}
	v.rules.Store(owner, by)
}

func (v *View) rulesOf(owner string) *rules {
	by, _ := v.rules.Load(owner)
	r, _ := by.(*rules)
	return r
}

// Events returns what happened to live objects, each event once until it is received. There is one reader.
func (v *View) Events() <-chan Event { return v.events.out }

// Unwatched returns the kinds of an owner's objects that the controller may not watch, sorted: such objects are read one
// by one, as the tenant, at the interval.
func (v *View) Unwatched(namespace, name string) []string {
	v.mu.Lock()
	defer v.mu.Unlock()
	var out []string
	for gvk := range v.usage[namespace+"/"+name] {
		if w := v.kinds[gvk]; w != nil {
			if s, _ := w.now(); s == watchForbidden {
				out = append(out, schema.GroupResource{Group: gvk.Group, Resource: w.info.resource}.String())
			}
		}
	}
	slices.Sort(out)
	return out
}

// Contested returns the objects of an owner that somebody keeps changing, each with the field manager that does it. They
// are repaired at the interval only.
func (v *View) Contested(namespace, name string) map[manifest.ID]string {
	return v.events.contested(namespace + "/" + name)
}

// Len returns how many objects are known, for metrics.
func (v *View) Len() int {
	n := 0
	for _, w := range v.all() {
		n += w.len()
	}
	return n
}

func (v *View) all() []*watched {
	v.mu.Lock()
	defer v.mu.Unlock()
	out := make([]*watched, 0, len(v.kinds))
	for _, w := range v.kinds {
		out = append(out, w)
	}
	return out
}

// use notes which kinds an owner needs, and ends the watches that nobody has needed for a while.
func (v *View) use(owner string, kinds map[schema.GroupVersionKind]struct{}) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if len(kinds) == 0 {
		delete(v.usage, owner)
	} else {
		v.usage[owner] = kinds
	}
	v.sweep()
}

// release forgets an owner that is gone, but for what it pruned.
func (v *View) release(owner string) {
	v.use(owner, nil)
	v.rules.Delete(owner)
	v.unfollow(owner, nil)
	v.departed.release(owner)
	v.jobs.planned(owner, nil)
}

// sweep ends the watches that are idle for long enough, and comes back for the others: nobody else may. The caller holds
// the lock.
func (v *View) sweep() {
	waiting := false
	for gvk, w := range v.kinds {
		needed := false
		for _, each := range v.usage {
			if _, needed = each[gvk]; needed {
				break
			}
		}
		switch {
		case needed:
			w.idleSince = time.Time{}
		case w.idleSince.IsZero():
			w.idleSince = time.Now()
			waiting = true
		case time.Since(w.idleSince) >= v.idle:
			w.stop()
			delete(v.kinds, gvk)
		default:
			waiting = true
		}
	}
	if !waiting || v.sweeping || v.ctx.Err() != nil {
		return
	}
	v.sweeping = true
	time.AfterFunc(v.idle, func() {
		v.mu.Lock()
		defer v.mu.Unlock()
		v.sweeping = false
		v.sweep()
	})
}

// watch returns the view of one kind, once its first list is there or has failed.
func (v *View) watch(ctx context.Context, info kindInfo) (*watched, watchState, error) {
	v.mu.Lock()
	w := v.kinds[info.gvk]
	if w == nil {
		w = newWatched(v, info)
		v.kinds[info.gvk] = w
		w.start()
	}
	v.mu.Unlock()
	state, err := w.settled(ctx)
	return w, state, err
}

// peek returns the view of a kind if it is watched and has its first list.
func (v *View) peek(gvk schema.GroupVersionKind) (*watched, bool) {
	v.mu.Lock()
	w := v.kinds[gvk]
	v.mu.Unlock()
	if w == nil {
		return nil, false
	}
	s, _ := w.now()
	return w, s == watchLive
}

// start runs the reflector until the view or this kind ends.
func (w *watched) start() {
	ctx, cancel := context.WithCancel(w.view.ctx)
	w.stop = cancel
	resource := w.view.dyn.Resource(schema.GroupVersionResource{Group: w.info.gvk.Group, Version: w.info.gvk.Version, Resource: w.info.resource})
	lw := &cache.ListWatch{
		ListWithContextFunc: func(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) {
			o.LabelSelector = w.view.selector
			list, err := resource.List(ctx, o)
			if err != nil {
				w.failed(err)
				return nil, err
			}
			return list, nil
		},
		WatchFuncWithContext: func(ctx context.Context, o metav1.ListOptions) (watch.Interface, error) {
			o.LabelSelector = w.view.selector
			stream, err := resource.Watch(ctx, o)
			if err != nil && (o.SendInitialEvents == nil || !onlyUnsupported(err)) {
				w.failed(err)
			}
			return stream, err
		},
	}
	logger := logr.Discard()
	r := cache.NewReflectorWithOptions(lw, &unstructured.Unstructured{}, w, cache.ReflectorOptions{
		Name: "live view", TypeDescription: w.info.gvk.String(), Logger: &logger,
	})
	go r.RunWithContext(ctx)
}
