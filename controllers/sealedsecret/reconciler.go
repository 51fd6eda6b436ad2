// Package sealedsecret reconciles SealedSecrets, whether a commit or kubectl brought them, and keeps the sealing keys.
//
// It exists so that a SealedSecret has its Secret at all times: after a change of either, after a key arrived, after
// somebody deleted or edited the Secret. It opens and writes with the same opener and the same writer as the commit. It
// must not decide what may be opened, write a Secret itself, or hold an opened value longer than one reconcile.
package sealedsecret

import (
	"context"
	"fmt"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/record"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/event"

	"sealock.dev/sealock/api/sealing/v1alpha1"
	"sealock.dev/sealock/fault"
	"sealock.dev/sealock/manifest"
	"sealock.dev/sealock/plaintext"
	"sealock.dev/sealock/sealing"
	"sealock.dev/sealock/tenants"
)

// Opener makes the Secret of a SealedSecret.
type Opener interface {
	Open(ctx context.Context, grant tenants.Grant, o manifest.Object, set []manifest.Object) (manifest.Produced, error)
}

// SecretWriter is the one writer of produced Secrets.
type SecretWriter interface {
	WriteSecret(ctx context.Context, p manifest.Produced, dryRun bool) (manifest.Change, error)
}

// Reconciler keeps the Secrets of SealedSecrets. Make it with New.
type Reconciler struct {
	client client.Client // writes
	reader client.Reader // the cache: SealedSecrets unstructured, Secrets as metadata
	ring   *sealing.KeyRing
	opener Opener
	writer SecretWriter
	grants func(namespace string) tenants.Grant
	events record.EventRecorder
	now    func() time.Time
	memory Memory

	again chan event.GenericEvent

	mu     sync.Mutex
	seen   map[types.NamespacedName]state
	failed map[types.NamespacedName]bool
}

// state is everything that the last complete reconcile depended on. Equal states need no work.
type state struct {
	uid        types.UID
	generation int64
	scope      sealing.Scope
	allowed    bool
	ring       string
	secret     string // resourceVersion, "" when there is none
}

// String is the line by which the state is remembered beyond a restart. It holds no value.
func (s state) String() string {
	return fmt.Sprintf("%s/%d/%s/%t/%s/%s", s.uid, s.generation, s.scope, s.allowed, s.ring, s.secret)
}

// Memory remembers lines beyond a restart, so that what is in place is not opened again. It must not block in Note.
type Memory interface {
	Recall(ctx context.Context, namespace, name string) (string, error)
	Note(namespace, name, line string)
}

// Options are what a Reconciler works with.
type Options struct {
	Client client.Client
	Ring   *sealing.KeyRing
	Opener Opener
	Writer SecretWriter
	Grants func(namespace string) tenants.Grant
	Events record.EventRecorder
	Now    func() time.Time // nil: time.Now
	Memory Memory           // nil: everything is opened once after a restart
}

// New returns a Reconciler.
func New(o Options) *Reconciler {
	if o.Now == nil {
		o.Now = time.Now
	}
	return &Reconciler{
		client: o.Client, reader: o.Client, ring: o.Ring, opener: o.Opener, writer: o.Writer, grants: o.Grants, events: o.Events, now: o.Now, memory: o.Memory,
		again: make(chan event.GenericEvent, 1024),
		seen:  map[types.NamespacedName]state{}, failed: map[types.NamespacedName]bool{},
	}
}

// Reconcile is called for a change of a SealedSecret or of the Secret with its name.
func (r *Reconciler) Reconcile(ctx context.Context, req ctrl.Request) (ctrl.Result, error) {
	live := newSealedSecret()
	if err := r.reader.Get(ctx, req.NamespacedName, live); err != nil {
		if apierrors.IsNotFound(err) {
			r.forget(req.NamespacedName) // the garbage collector deletes the Secret
			return ctrl.Result{}, nil
		}
		return ctrl.Result{}, fmt.Errorf("reading the SealedSecret %s: %w", req.NamespacedName, err)
	}
	if live.GetDeletionTimestamp() != nil {
		r.forget(req.NamespacedName)
		return ctrl.Result{}, nil
	}
	if !r.ring.Ready() {
		r.remember(req.NamespacedName, state{}, true) // RetryFailed follows the first load
		return ctrl.Result{}, nil
	}
	now, known := r.observe(ctx, live)
	if known && observed(live) {
		return ctrl.Result{}, nil
	}
	change, err := r.open(ctx, live)
	if fault.KindOf(err) == fault.Transient && err != nil && change.reason == reasonOpen {
		return ctrl.Result{}, err // nothing is known yet about the SealedSecret
	}
	statusErr := r.report(ctx, live, change, err)
	if statusErr != nil {
		r.remember(req.NamespacedName, state{}, err != nil)
		return ctrl.Result{}, statusErr
	}
	if err != nil {
		now = state{}
	}
	// After a write the version differs from the one in now, so that the next reconcile compares once more.
	r.remember(req.NamespacedName, now, err != nil)
	if err != nil && retried(change.reason, err) {
		return ctrl.Result{}, err
	}
	return ctrl.Result{}, nil
}

// retried reports whether time alone may help. A key that arrives, a grant that widens and a Secret that is changed or
// deleted come as events of their own; a quota or a webhook that refused the write does not.
func retried(reason string, err error) bool {
	switch fault.KindOf(err) {
	case fault.Transient, fault.Internal, fault.NotFound, fault.Unhealthy:
		return true
	case fault.Invalid, fault.NoKey, fault.Denied:
		return reason == reasonUpdate
	case fault.Conflict:
		return false
	}
	return true
}

// The reasons of events; those of the peer.
const (
	reasonOpened = "Unsealed"
	reasonOpen   = "ErrUnsealFailed"
	reasonUpdate = "ErrUpdateFailed"
)

// outcome is what one reconcile did.
type outcome struct {
	action manifest.Action
	reason string
}

// open opens the SealedSecret and writes its Secret.
func (r *Reconciler) open(ctx context.Context, live *unstructured.Unstructured) (outcome, error) {
	o, err := objectOf(live)
	if err != nil {
		return outcome{reason: reasonOpen}, err
	}
	produced, err := r.opener.Open(ctx, r.grants(live.GetNamespace()), o, nil)
	if err != nil {
		return outcome{reason: reasonOpen}, err
	}
	produced.OwnerUID = string(live.GetUID())
	change, err := r.writer.WriteSecret(ctx, produced, false)
	if err != nil {
		return outcome{reason: reasonUpdate}, scrubbed(err, produced.Secret.Values())
	}
	return outcome{action: change.Action, reason: reasonOpened}, nil
}

// objectOf makes an Object of the body as it is, less the status. A typed decoder would drop what has a wrong type, and
// fail the whole list for one object.
func objectOf(live *unstructured.Unstructured) (manifest.Object, error) {
	body := live.DeepCopy().Object
	delete(body, "status")
	return manifest.New(body, manifest.Source{}, nil)
}

// scrubbed is the last net under the writer's own.
func scrubbed(err error, values []plaintext.Value) error {
	scrub := plaintext.NewScrubber(values...)
	faults := fault.All(err)
	if len(faults) == 0 {
		return fault.New(fault.StageApply, fault.Internal, fault.Ref{}, "%s", scrub.Scrub(err.Error()))
	}
	out := make([]error, 0, len(faults))
	for _, f := range faults {
		c := *f
		if f.Err != nil {
			c.Err = fmt.Errorf("%s", scrub.Scrub(f.Err.Error()))
		}
		c.Remedy = scrub.Scrub(f.Remedy)
		out = append(out, &c)
	}
	return fault.Join(out...)
}

// observe returns the state of now, and whether the last reconcile saw the same.
func (r *Reconciler) observe(ctx context.Context, live *unstructured.Unstructured) (state, bool) {
	scope := sealing.ScopeOf(live.GetAnnotations())
	s := state{
		uid: live.GetUID(), generation: live.GetGeneration(), scope: scope, ring: r.ring.Generation(),
		allowed: r.grants(live.GetNamespace()).AllowsSealScope(string(scope)),
	}
	version, ok := r.SecretVersion(ctx, live.GetNamespace(), live.GetName())
	s.secret = version
	name := client.ObjectKeyFromObject(live)
	r.mu.Lock()
	seen, looked := r.seen[name]
	r.mu.Unlock()
	if looked || r.memory == nil || !ok {
		return s, ok && seen == s
	}
	line, err := r.memory.Recall(ctx, name.Namespace, name.Name)
	if err != nil || line != s.String() {
		return s, false // what is not remembered is opened
	}
	r.mu.Lock()
	r.seen[name] = s
	r.mu.Unlock()
	return s, true
}

// SecretVersion returns the resourceVersion of a Secret as the watch shows it.
func (r *Reconciler) SecretVersion(ctx context.Context, namespace, name string) (string, bool) {
	m := &metav1.PartialObjectMetadata{}
	m.SetGroupVersionKind(corev1.SchemeGroupVersion.WithKind("Secret"))
	if err := r.reader.Get(ctx, types.NamespacedName{Namespace: namespace, Name: name}, m); err != nil {
		return "", false
	}
	return m.ResourceVersion, true
}

func (r *Reconciler) remember(name types.NamespacedName, s state, failed bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.seen[name] = s
	if failed {
		r.failed[name] = true
	} else {
		delete(r.failed, name)
	}
	if r.memory == nil {
		return
	}
	line := ""
	if s != (state{}) {
		line = s.String()
	}
	r.memory.Note(name.Namespace, name.Name, line)
}

func (r *Reconciler) forget(name types.NamespacedName) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.seen, name)
	delete(r.failed, name)
	if r.memory != nil {
		r.memory.Note(name.Namespace, name.Name, "")
	}
}

// RetryFailed has every SealedSecret that failed tried again, as after a change of the key ring or of the tenants. It
// returns when all are handed over, or when ctx is done.
func (r *Reconciler) RetryFailed(ctx context.Context) {
	r.mu.Lock()
	names := make([]types.NamespacedName, 0, len(r.failed))
	for n := range r.failed {
		names = append(names, n)
	}
	r.mu.Unlock()
	for _, n := range names {
		o := newSealedSecret()
		o.SetNamespace(n.Namespace)
		o.SetName(n.Name)
		select {
		case r.again <- event.GenericEvent{Object: o}:
		case <-ctx.Done():
			return
		}
	}
}

func newSealedSecret() *unstructured.Unstructured {
	o := &unstructured.Unstructured{}
	o.SetGroupVersionKind(v1alpha1.GroupVersion.WithKind("SealedSecret"))
	return o
}
