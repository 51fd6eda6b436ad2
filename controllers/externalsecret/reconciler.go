// Package externalsecret reconciles ExternalSecrets, whether a commit or kubectl brought them, and tells in SecretStores
// and ClusterSecretStores whether a login succeeds.
//
// It exists so that the Secret of an ExternalSecret follows its provider: at its interval, after a change of itself or of
// its store, and after somebody edited or deleted the Secret. It reads with the same opener and writes with the same
// writer as the commit. It must not write a Secret itself, and a provider that fails never empties or deletes one.
package externalsecret

import (
	"context"
	"errors"
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

	v1 "sealock.dev/sealock/api/externalsecrets/v1"
	"sealock.dev/sealock/externalsecrets"
	"sealock.dev/sealock/fault"
	"sealock.dev/sealock/manifest"
	"sealock.dev/sealock/plaintext"
	"sealock.dev/sealock/tenants"
)

// Opener makes the Secret of an ExternalSecret, and logs in to stores. It is *externalsecrets.Opener.
type Opener interface {
	Refresh(ctx context.Context, grant tenants.Grant, obj manifest.Object, maxAge time.Duration) (manifest.Produced, error)
	Intact(ctx context.Context, obj manifest.Object) (bool, error)
	Verify(ctx context.Context, grant tenants.Grant, store manifest.Object) (checked bool, err error)
}

// SecretWriter is the one writer of produced Secrets.
type SecretWriter interface {
	WriteSecret(ctx context.Context, p manifest.Produced, dryRun bool) (manifest.Change, error)
}

// Options are what a Reconciler works with.
type Options struct {
	Client client.Client
	Opener Opener
	Writer SecretWriter
	Grants func(namespace string) tenants.Grant
	Events record.EventRecorder
	Now    func() time.Time // nil: time.Now
	Memory Memory           // nil: every Secret is read once after a restart
}

// Memory remembers lines beyond a restart. It must not block in Note.
type Memory interface {
	Recall(ctx context.Context, namespace, name string) (string, error)
	Note(namespace, name, line string)
}

// Reconciler keeps the Secrets of ExternalSecrets. Make it with New.
type Reconciler struct {
	client client.Client // writes
	reader client.Reader // the cache: ExternalSecrets and stores unstructured, Secrets as metadata
	opener Opener
	writer SecretWriter
	grants func(namespace string) tenants.Grant
	events record.EventRecorder
	now    func() time.Time
	memory Memory

	mu    sync.Mutex
	dirty map[types.NamespacedName]int    // it was touched, or its store changed, so often; gone after a success that saw the last change
	valid map[types.NamespacedName]string // the version of its Secret that was found valid
}

// New returns a Reconciler.
func New(o Options) *Reconciler {
	if o.Now == nil {
		o.Now = time.Now
	}
	return &Reconciler{
		client: o.Client, reader: o.Client, opener: o.Opener, writer: o.Writer, grants: o.Grants, events: o.Events, now: o.Now, memory: o.Memory,
		dirty: map[types.NamespacedName]int{}, valid: map[types.NamespacedName]string{},
	}
}

// coalesce is how old an answer of a provider may be that nobody asked for anew.
const coalesce = 2 * time.Second

// Reconcile is called for a change of an ExternalSecret, of its Secret or of its stores, and when a refresh is due.
func (r *Reconciler) Reconcile(ctx context.Context, req ctrl.Request) (ctrl.Result, error) {
	live := newObject("ExternalSecret")
	if err := r.reader.Get(ctx, req.NamespacedName, live); err != nil {
		if apierrors.IsNotFound(err) {
			r.forget(req.NamespacedName) // the garbage collector deletes the Secret
			return ctrl.Result{}, nil
		}
		return ctrl.Result{}, fmt.Errorf("reading the ExternalSecret %s: %w", req.NamespacedName, err)
	}
	if live.GetDeletionTimestamp() != nil {
		r.forget(req.NamespacedName)
		return ctrl.Result{}, nil
	}
	obj, spec, err := decode(live)
	if err != nil {
		return ctrl.Result{}, r.report(ctx, live, outcome{err: err}) // nothing to do until it changes
	}
	was, changes := statusOf(live), r.changes(req.NamespacedName)
	why := due(live, spec, was, r.now())
	if why == notDue && changes > 0 {
		why = dueAgain
	}
	if why == notDue {
		intact, err := r.intact(ctx, req.NamespacedName, obj, spec)
		if err != nil {
			return ctrl.Result{}, err
		}
		if intact {
			return ctrl.Result{RequeueAfter: untilNext(spec, was, r.now())}, nil
		}
	}
	did := r.refresh(ctx, live.GetUID(), obj, why)
	if errors.Is(did.err, externalsecrets.ErrForeignClass) {
		r.forget(req.NamespacedName)
		return ctrl.Result{}, nil
	}
	if err := r.report(ctx, live, did); err != nil {
		return ctrl.Result{}, err
	}
	if did.err != nil {
		return ctrl.Result{}, did.err // tried again with back-off, whatever it is: what is wrong may be in the provider
	}
	r.settle(req.NamespacedName, changes)
	r.found(req.NamespacedName, did.version)
	return ctrl.Result{RequeueAfter: untilNext(spec, v1.ExternalSecretStatus{RefreshTime: metav1.NewTime(r.now())}, r.now())}, nil
}

// outcome is what one refresh did.
type outcome struct {
	action  manifest.Action
	kept    bool   // nothing was to be written
	version string // of the Secret that was left, "" when it is not known
	err     error
}

func (r *Reconciler) refresh(ctx context.Context, uid types.UID, obj manifest.Object, why reason) outcome {
	maxAge := coalesce
	if why == dueChanged || why == dueAgain {
		maxAge = 0 // whoever touches the object wants what is there now
	}
	produced, err := r.opener.Refresh(ctx, r.grants(obj.Namespace()), obj, maxAge)
	if err != nil {
		return outcome{err: err}
	}
	if produced.Keep {
		return outcome{action: manifest.Unchanged, kept: true}
	}
	produced.OwnerUID = string(uid)
	change, err := r.writer.WriteSecret(ctx, produced, false)
	if err != nil {
		return outcome{err: scrubbed(err, produced.Secret.Values())}
	}
	return outcome{action: change.Action, version: change.Version}
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
			c.Err = errors.New(scrub.Scrub(f.Err.Error()))
		}
		c.Field, c.Remedy = scrub.Scrub(f.Field), scrub.Scrub(f.Remedy)
		out = append(out, &c)
	}
	return fault.Join(out...)
}

// decode reads the live object. It is unstructured, since one object with a value that a type does not take would fail the
// whole list.
func decode(live *unstructured.Unstructured) (manifest.Object, v1.ExternalSecretSpec, error) {
	obj, err := objectOf(live)
	if err != nil {
		return obj, v1.ExternalSecretSpec{}, err
	}
	spec, err := externalsecrets.Spec(obj)
	return obj, spec, err
}

func objectOf(live *unstructured.Unstructured) (manifest.Object, error) {
	body := live.DeepCopy().Object
	delete(body, "status")
	return manifest.New(body, manifest.Source{}, nil)
}

// intact reports whether the Secret is as it was left. The version that the watch shows spares the read.
func (r *Reconciler) intact(ctx context.Context, name types.NamespacedName, obj manifest.Object, spec v1.ExternalSecretSpec) (bool, error) {
	m := watchedSecret()
	err := r.reader.Get(ctx, types.NamespacedName{Namespace: name.Namespace, Name: externalsecrets.TargetName(name.Name, spec)}, m)
	if err == nil && m.ResourceVersion != "" && r.lastFound(ctx, name) == m.ResourceVersion {
		return true, nil
	}
	intact, readErr := r.opener.Intact(ctx, obj)
	if readErr != nil || !intact {
		return false, readErr
	}
	if err == nil {
		r.found(name, m.ResourceVersion)
	}
	return true, nil
}

// found remembers the version of a Secret that was found valid, or made so.
func (r *Reconciler) found(name types.NamespacedName, version string) {
	if version == "" {
		return
	}
	r.mu.Lock()
	r.valid[name] = version
	r.mu.Unlock()
	if r.memory != nil {
		r.memory.Note(name.Namespace, name.Name, version)
	}
}

// lastFound returns the version of the Secret that was found valid, by this process or the one before it.
func (r *Reconciler) lastFound(ctx context.Context, name types.NamespacedName) string {
	r.mu.Lock()
	version, known := r.valid[name]
	r.mu.Unlock()
	if known || r.memory == nil {
		return version
	}
	version, err := r.memory.Recall(ctx, name.Namespace, name.Name)
	if err != nil {
		return "" // it is read
	}
	return version
}

func (r *Reconciler) changes(name types.NamespacedName) int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.dirty[name]
}

// touch notes that a store of the ExternalSecret changed, or its own labels or annotations.
func (r *Reconciler) touch(name types.NamespacedName) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.dirty[name]++
}

// settle forgets the changes that a refresh has seen.
func (r *Reconciler) settle(name types.NamespacedName, seen int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.dirty[name] == seen {
		delete(r.dirty, name)
	}
}

func (r *Reconciler) forget(name types.NamespacedName) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.dirty, name)
	delete(r.valid, name)
	if r.memory != nil {
		r.memory.Note(name.Namespace, name.Name, "")
	}
}

// watchedSecret is what the watch of Secrets shows of one.
func watchedSecret() *metav1.PartialObjectMetadata {
	m := &metav1.PartialObjectMetadata{}
	m.SetGroupVersionKind(corev1.SchemeGroupVersion.WithKind("Secret"))
	return m
}

func newObject(kind string) *unstructured.Unstructured {
	o := &unstructured.Unstructured{}
	o.SetGroupVersionKind(v1.GroupVersion.WithKind(kind))
	return o
}
