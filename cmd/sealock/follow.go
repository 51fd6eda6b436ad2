package main

import (
	"context"
	"fmt"
	"io"
	"sync"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/tools/cache"
	watchtools "k8s.io/client-go/tools/watch"

	"sealock.dev/sealock/fault"
)

// seen is told of objects as they are and as they change. It returns true when it has seen enough.
type seen func(what watch.EventType, obj *unstructured.Unstructured) (done bool, err error)

// follow lists objects and then watches them until each has seen enough. A watch that breaks or expires goes on.
func follow(ctx context.Context, api dynamic.ResourceInterface, opts metav1.ListOptions, ref fault.Ref, each seen) error {
	return followFrom(ctx, api, opts, ref, map[string]*unstructured.Unstructured{}, each)
}

// followFrom is follow for who knows some objects already, by their UID: they are told of when they differ or are gone.
func followFrom(ctx context.Context, api dynamic.ResourceInterface, opts metav1.ListOptions, ref fault.Ref, known map[string]*unstructured.Unstructured, each seen) error {
	for {
		if ctx.Err() != nil {
			return unanswered(ctx.Err(), ref, "watch")
		}
		list, err := api.List(ctx, opts)
		if err != nil {
			return unanswered(err, ref, "list")
		}
		done, err := relisted(list, known, each)
		if done || err != nil {
			return err
		}
		w, err := watchtools.NewRetryWatcherWithContext(ctx, list.GetResourceVersion(), &cache.ListWatch{
			WatchFuncWithContext: func(ctx context.Context, o metav1.ListOptions) (watch.Interface, error) {
				o.FieldSelector, o.LabelSelector = opts.FieldSelector, opts.LabelSelector
				return api.Watch(ctx, o)
			},
		})
		if err != nil {
			return unanswered(err, ref, "watch")
		}
		done, err = drain(ctx, w, ref, known, each)
		w.Stop()
		if done || err != nil {
			return err
		}
	}
}

// relisted tells of what differs from what is known, which at first is everything.
func relisted(list *unstructured.UnstructuredList, known map[string]*unstructured.Unstructured, each seen) (bool, error) {
	here := map[string]bool{}
	for i := range list.Items {
		obj := &list.Items[i]
		uid := string(obj.GetUID())
		here[uid] = true
		what := watch.Added
		if old := known[uid]; old != nil {
			if old.GetResourceVersion() == obj.GetResourceVersion() {
				continue
			}
			what = watch.Modified
		}
		known[uid] = obj
		if done, err := each(what, obj); done || err != nil {
			return done, err
		}
	}
	for uid, obj := range known {
		if here[uid] {
			continue
		}
		delete(known, uid)
		if done, err := each(watch.Deleted, obj); done || err != nil {
			return done, err
		}
	}
	return false, nil
}

// drain passes events on until the watch ends. An expired one ends without an error: the caller lists again.
func drain(ctx context.Context, w watch.Interface, ref fault.Ref, known map[string]*unstructured.Unstructured, each seen) (bool, error) {
	for {
		select {
		case <-ctx.Done():
			return false, unanswered(ctx.Err(), ref, "watch")
		case e, open := <-w.ResultChan():
			if !open {
				return false, nil
			}
			obj, ok := e.Object.(*unstructured.Unstructured)
			if e.Type == watch.Error {
				if err := apierrors.FromObject(e.Object); !apierrors.IsGone(err) && !apierrors.IsResourceExpired(err) {
					return false, unanswered(err, ref, "watch")
				}
				return false, nil
			}
			if !ok || e.Type == watch.Bookmark {
				continue
			}
			known[string(obj.GetUID())] = obj
			if e.Type == watch.Deleted {
				delete(known, string(obj.GetUID()))
			}
			if done, err := each(e.Type, obj); done || err != nil {
				return done, err
			}
		}
	}
}

// await follows one object until check is content, and returns it as it is then. What is waited for is printed once it
// takes longer than a second. check returns words for that line while it is not content.
func (s *session) await(ctx context.Context, k kind, namespace, name string, timeout time.Duration, progress io.Writer,
	check func(obj *unstructured.Unstructured) (done bool, words string, err error),
) (*unstructured.Unstructured, error) {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	ref := k.ref(namespace, name)
	line := newProgress(progress, ref.String())
	defer line.stop()
	var last *unstructured.Unstructured
	opts := metav1.ListOptions{FieldSelector: fields.OneTermEqualSelector("metadata.name", name).String()}
	err := follow(ctx, s.of(k, namespace), opts, ref, func(what watch.EventType, obj *unstructured.Unstructured) (bool, error) {
		if what == watch.Deleted {
			return false, fault.New("", fault.NotFound, ref, "it was deleted meanwhile").Fix("find out by whom: kubectl get events")
		}
		last = obj
		done, words, err := check(obj)
		line.say(words)
		return done, err
	})
	if err != nil && ctx.Err() == context.DeadlineExceeded { // the context's own error is this one
		return last, fault.New("", fault.Transient, ref, "not done after %s: %s", timeout, line.words()).
			Fix("see `%s`, or wait longer with --timeout", eventsOf(ref))
	}
	return last, err
}

// progress prints what is waited for, from the first second on and when it changes.
type progress struct {
	mu    sync.Mutex
	out   io.Writer
	what  string
	now   string
	begun bool
	timer *time.Timer
}

func newProgress(out io.Writer, what string) *progress {
	p := &progress{out: out, what: what, now: "waiting"}
	p.timer = time.AfterFunc(time.Second, func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		p.begun = true
		p.print()
	})
	return p
}

func (p *progress) print() { fmt.Fprintf(p.out, "%s: %s\n", p.what, short(p.now)) }

func (p *progress) say(words string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if words == "" || words == p.now {
		return
	}
	if p.now = words; p.begun {
		p.print()
	}
}

func (p *progress) words() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return short(p.now)
}

// stop ends the printing for good.
func (p *progress) stop() {
	p.timer.Stop()
	p.mu.Lock()
	defer p.mu.Unlock()
	p.out = io.Discard
}
