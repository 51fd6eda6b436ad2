// Package kustomization is the front end for Flux's Kustomization: it translates the object into a pipeline.Request and
// the pipeline.Result into status, and decides nothing in between.
//
// It exists so that the engine never sees a Flux type. It must not render, decrypt, judge or write objects itself.
// The contract is reference/flux.md, sections 1.1 to 1.13.
package kustomization

import (
	"context"
	"io/fs"
	"strconv"
	"sync"
	"time"

	kustomizev1 "github.com/fluxcd/kustomize-controller/api/v1"
	sourcev1 "github.com/fluxcd/source-controller/api/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/client-go/tools/record"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller/controllerutil"

	"sealock.dev/sealock/fault"
	"sealock.dev/sealock/manifest"
	"sealock.dev/sealock/pipeline"
	"sealock.dev/sealock/plaintext"
	"sealock.dev/sealock/tenants"
)

// Strings that clients of Flux rely on.
const (
	finalizer          = "finalizers.fluxcd.io"
	statusOwner        = "gotk-kustomize-controller"
	fieldManager       = "kustomize-controller"
	labelName          = "kustomize.toolkit.fluxcd.io/name"
	labelNamespace     = "kustomize.toolkit.fluxcd.io/namespace"
	requestedAt        = "reconcile.fluxcd.io/requestedAt"
	annotationRevision = "kustomize.toolkit.fluxcd.io/revision"
	annotationOrigin   = "kustomize.toolkit.fluxcd.io/originRevision"
	annotationCommit   = "kustomize.toolkit.fluxcd.io/commit_status"
	eventPrefix        = "event.toolkit.fluxcd.io/"
	originMetadata     = "org.opencontainers.image.revision"
)

// Strings of our own.
const (
	onError         = "sealock.dev/on-error"
	onErrorContinue = "continue"

	generatorSuffix = "sealock.dev/generator-suffix"
	suffixKustomize = "kustomize"
	// decryptedValues has decrypted values expanded like all other text, as Flux does.
	decryptedValues = "sealock.dev/decrypted-values"
	valuesTemplate  = "template"
)

// Decryption is what a decrypter needs to know of a Kustomization.
type Decryption struct {
	Dir        string                     // the build root in the repository
	Components []string                   // further directories of the build, relative to Dir
	Keys       map[string]plaintext.Value // entries of the Secret with the keys
	KeySource  fault.Ref                  // the Secret that holds them
	Recipients []string                   // the only recipients allowed; empty: any
	Tenant     bool                       // the stricter rules for files of tenants hold
}

// Data reads Secrets and ConfigMaps with the controller's rights. NotFound is a fault.Error of that kind.
type Data interface {
	Secret(ctx context.Context, namespace, name string) (map[string]plaintext.Value, error)
	ConfigMap(ctx context.Context, namespace, name string) (map[string]string, error)
}

// Reconciler brings what Kustomizations point at into the cluster.
type Reconciler struct {
	Client    client.Client
	APIReader client.Reader // past the cache, for the inventory before a run
	Engine    *pipeline.Engine
	Tenants   func() *tenants.Index
	Data      Data
	// Tree opens the files of an artifact that a GitRepository advertises.
	Tree func(ctx context.Context, namespace, name, revision string) (fs.FS, error)
	// Decrypter makes the opener of encrypted files.
	Decrypter func(Decryption) (pipeline.FileOpener, error)
	// Tokens logs in to remote clusters that trust service accounts of this one.
	Tokens Tokens
	// Forget drops what the live view knows of an owner that is gone.
	Forget func(namespace, name string)
	// Snapshot identifies the policies in force; a change of it means that everything is judged again.
	Snapshot func() string
	Events   record.EventRecorder
	// Requeue brings objects that must be looked at although they did not change.
	Requeue <-chan types.NamespacedName

	// Contested returns the objects that somebody else keeps changing, each with the field manager. It may be nil.
	Contested func(namespace, name string) map[manifest.ID]string
	// Unwatched returns the kinds of its objects that the live view may not watch. It may be nil.
	Unwatched func(namespace, name string) []string
	// Remote returns the client of another cluster. nil: none is served.
	Remote func(ctx context.Context, config RemoteConfig) (pipeline.Cluster, error)
	// RemoteServiceAccount is that whose tokens spec.kubeConfig.configMapRef uses where the ConfigMap names none; "" for none.
	RemoteServiceAccount string
	// InsecureRemoteTLS lets a kubeconfig switch off the verification of its server, or use plain HTTP.
	InsecureRemoteTLS bool
	// Jitter is how much of an interval the next reconcile may be early or late, as a share of it, below a half.
	Jitter float64
	// Configs selects the Secrets and ConfigMaps whose changes are followed at once. nil: those with Flux's watch label.
	Configs labels.Selector
	// MinRetry is the wait after the first of failures that may heal by themselves, 0 for a second; MaxRetry bounds it
	// besides the retry interval, 0 for not.
	MinRetry, MaxRetry time.Duration
	// FallbackKeys names a Secret with age identities, which open the files of Kustomizations in platform namespaces that name
	// no keys. Empty: there is none.
	FallbackKeys types.NamespacedName
	// Sharded says that the cache has a part of the Kustomizations only. A dependency that it lacks is read past it, and as
	// no watch tells of it, looked at again after otherShard.
	Sharded bool
	// Measure is told how long each reconcile took, and when an object is gone. It may be nil.
	Measure func(key types.NamespacedName, took time.Duration, gone bool)
	// Memory outlives the process. nil: everything is run once after a start.
	Memory Memory

	mu     sync.Mutex
	memory map[types.NamespacedName]*memory
	noted  int // how much all of reads are
}

// memory is what a process remembers of a Kustomization. Losing it costs a run, nothing else. Only the worker that has
// the Kustomization touches it, but for what the mutex guards.
type memory struct {
	dirty     bool   // guarded: something that we manage changed in the cluster
	lastEvent string // guarded

	compiled    *compiled
	fingerprint string    // of the inputs of the last run that was applied whole, but for the revision
	revision    string    // of that run, or of a later commit that touched nothing of it
	content     string    // of the artifact then
	digest      string    // of what it rendered
	ranAt       time.Time // when it was
	started     time.Time // of the present attempt
	foreign     bool      // a dependency is of another shard
	failures    int       // since the last run that got through

	written string  // version of the object after our last write of its status
	reads   []noted // of the last build

	waitFor   []manifest.ID
	waitSince time.Time
	assumed   bool // waitFor and the health of its objects are taken over from an earlier process
	settled   bool // all of waitFor were healthy at the last look
	rolling   bool // they were, and Ready still says so

	deleting      []manifest.ID // deleted by the finalizer
	deletingSince time.Time     // when it began to wait for them to go
}

// history notes how an attempt ended. A build that failed has no digest, and leaves no trace.
func (m *memory) history(s *kustomizev1.KustomizationStatus, digest, status string, about revisions) {
	if digest == "" {
		return
	}
	metadata := map[string]string{"revision": about.revision}
	if about.origin != "" {
		metadata["originRevision"] = about.origin
	}
	s.History.Upsert(digest, time.Now(), time.Since(m.started).Round(time.Millisecond), status, metadata)
}

func (r *Reconciler) remember(key types.NamespacedName) *memory {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.memory == nil {
		r.memory = map[types.NamespacedName]*memory{}
	}
	m := r.memory[key]
	if m == nil {
		m = &memory{}
		r.memory[key] = m
	}
	return m
}

func (r *Reconciler) forget(key types.NamespacedName) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if m := r.memory[key]; m != nil {
		r.noted -= len(m.reads)
	}
	delete(r.memory, key)
	if r.Forget != nil {
		r.Forget(key.Namespace, key.Name)
	}
}

// Disturbed notes that an object of the Kustomization changed in the cluster, so that the next reconcile looks. One that
// nothing is remembered of is gone, or is looked at as after a restart anyway.
func (r *Reconciler) Disturbed(key types.NamespacedName, drifted bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if m := r.memory[key]; m != nil {
		m.dirty = m.dirty || drifted
	}
}

// Reconcile is called for every change of a Kustomization, of what it refers to and of what it manages.
func (r *Reconciler) Reconcile(ctx context.Context, req ctrl.Request) (ctrl.Result, error) {
	ks := &kustomizev1.Kustomization{}
	if err := r.Client.Get(ctx, req.NamespacedName, ks); err != nil {
		if apierrors.IsNotFound(err) {
			r.forget(req.NamespacedName)
			r.measure(req.NamespacedName, 0, true)
		}
		return ctrl.Result{}, client.IgnoreNotFound(err)
	}
	began := time.Now()
	defer func() { r.measure(req.NamespacedName, time.Since(began), false) }()
	if !ks.DeletionTimestamp.IsZero() {
		return r.finalize(ctx, ks)
	}
	if !controllerutil.ContainsFinalizer(ks, finalizer) {
		patch := client.MergeFromWithOptions(ks.DeepCopy(), client.MergeFromWithOptimisticLock{})
		controllerutil.AddFinalizer(ks, finalizer)
		if err := r.Client.Patch(ctx, ks, patch, client.FieldOwner(statusOwner)); err != nil {
			return ctrl.Result{}, client.IgnoreNotFound(err)
		}
		r.remember(req.NamespacedName).written = ks.ResourceVersion
	}
	if ks.Spec.Suspend {
		return ctrl.Result{}, r.patchStatus(ctx, ks, func(*kustomizev1.KustomizationStatus) {})
	}
	return r.deliver(ctx, ks)
}

func (r *Reconciler) measure(key types.NamespacedName, took time.Duration, gone bool) {
	if r.Measure != nil {
		r.Measure(key, took, gone)
	}
}

// deliver runs the pipeline if anything that it depends on changed, and otherwise only looks at health.
func (r *Reconciler) deliver(ctx context.Context, ks *kustomizev1.Kustomization) (ctrl.Result, error) {
	key := client.ObjectKeyFromObject(ks)
	m := r.remember(key)
	m.started = time.Now()
	if older(ks.ResourceVersion, m.written) { // the cache is behind our own last write
		if err := r.APIReader.Get(ctx, key, ks); err != nil {
			return ctrl.Result{}, client.IgnoreNotFound(err)
		}
	}
	in, err := r.inputs(ctx, ks, m)
	if err != nil {
		return r.failed(ctx, ks, m, in, pipeline.Result{Untouched: true, Revision: in.revision, Err: err})
	}
	r.mu.Lock()
	forced := m.dirty
	m.dirty = false
	r.mu.Unlock()
	// The interval is the safety net: it also repairs a field that somebody took back too often to be fought over at once,
	// and what the view cannot watch. If all is as it was applied, it costs a look into the view.
	due := time.Since(m.ranAt) > time.Duration(float64(ks.GetRequeueAfter())*(1-2*r.Jitter))
	if (due || requested(ks)) && !forced && m.fingerprint == in.fingerprint {
		if forced = !r.intact(ctx, ks, in); !forced {
			m.ranAt = time.Now()
		}
	}
	if m.fingerprint == in.fingerprint && !forced && (m.revision == in.revision && m.content == in.content || r.untouched(ctx, m, in)) {
		if m.content != in.content {
			m.revision, m.content = in.revision, in.content
			r.advanced(ks, in)
		}
		if done, result, err := r.look(ctx, ks, m, in); done {
			return result, err
		}
	}
	// An inventory that is too old would orphan objects.
	generation := ks.Generation
	if err := r.APIReader.Get(ctx, key, ks); err != nil {
		r.Disturbed(key, forced)
		return ctrl.Result{}, client.IgnoreNotFound(err)
	}
	if ks.Generation != generation {
		r.Disturbed(key, true) // the inputs are those of an older spec; the event of the newer one is on its way
		return ctrl.Result{}, nil
	}
	res := r.run(ctx, ks, in)
	m.digest, m.assumed = res.Digest, false
	if res.Err != nil {
		m.fingerprint, m.waitFor = "", nil
		return r.failed(ctx, ks, m, in, res)
	}
	m.fingerprint, m.revision, m.content, m.ranAt = in.fingerprint, in.revision, in.content, time.Now()
	r.keep(m, in.reads.done())
	r.through(ks, in, res.Inventory)
	result, err := r.applied(ctx, ks, m, in, res)
	if err != nil {
		m.fingerprint = "" // what the status could not be told is not done: a look without a run would leave the old inventory
	}
	return result, err
}

// older reports whether a version of an object comes before another; both are numbers that grow.
func older(version, than string) bool {
	a, errA := strconv.ParseUint(version, 10, 64)
	b, errB := strconv.ParseUint(than, 10, 64)
	return errA == nil && errB == nil && a < b
}

// requested reports that somebody asked for a run that was not done yet.
func requested(ks *kustomizev1.Kustomization) bool {
	asked := ks.Annotations[requestedAt]
	return asked != "" && asked != ks.Status.LastHandledReconcileAt
}

// runLimit bounds fetching, building and writing, so that a worker comes back from a server that never ends an answer. As in
// Flux spec.timeout is only how long health and termination are waited for: by default it is half a minute at an interval
// of one, and a large set takes longer than that to be applied.
const runLimit = 10 * time.Minute

// run translates the Kustomization into a request, and runs it.
func (r *Reconciler) run(ctx context.Context, ks *kustomizev1.Kustomization, in inputs) pipeline.Result {
	log := ctrl.LoggerFrom(ctx)
	ctx, cancel := context.WithTimeout(ctx, max(ks.GetTimeout(), runLimit))
	defer cancel()
	old, err := inventoryOf(ks)
	if err != nil {
		return pipeline.Result{Untouched: true, Revision: in.revision, Err: err}
	}
	request := pipeline.Request{
		Cluster:   in.cluster,
		Grant:     in.grant,
		Owner:     owner(ks, in.revision),
		Source:    in,
		Decrypter: in.decrypter,
		Renderer:  in.renderer,
		Inventory: old,
		Prune:     ks.Spec.Prune,
		Health:    func(applied []manifest.ID) []manifest.ID { return healthTargets(ks, applied) },
		Progress: func(stage fault.Stage, revision string) {
			log.Info("stage", "stage", string(stage), "revision", revision)
		},
		Record: func(ctx context.Context, union []manifest.ID) error {
			r.begun(ks, in)
			return r.recordInventory(ctx, ks, in, union)
		},
	}
	engine := *r.Engine
	if ks.Spec.KubeConfig != nil {
		// SealedSecrets and ExternalSecrets for another cluster are opened there, with its keys and its identities.
		engine.Openers = nil
	}
	return engine.Run(ctx, request)
}

func refOf(ks *kustomizev1.Kustomization) fault.Ref {
	return fault.Ref{APIVersion: kustomizev1.GroupVersion.String(), Kind: "Kustomization", Namespace: ks.Namespace, Name: ks.Name}
}

func inventoryOf(ks *kustomizev1.Kustomization) ([]manifest.ID, error) {
	if ks.Status.Inventory == nil {
		return nil, nil
	}
	out := make([]manifest.ID, 0, len(ks.Status.Inventory.Entries))
	for _, e := range ks.Status.Inventory.Entries {
		id, err := manifest.ParseID(e.ID, e.Version)
		if err != nil {
			return nil, fault.New(fault.StagePlan, fault.Invalid, refOf(ks), "%w", err).At("status.inventory").Fix("remove the entry; it was not written by a reconciler")
		}
		out = append(out, id)
	}
	return out, nil
}

func entries(ids []manifest.ID) *kustomizev1.ResourceInventory {
	out := &kustomizev1.ResourceInventory{Entries: make([]kustomizev1.ResourceRef, 0, len(ids))}
	for _, id := range ids {
		out.Entries = append(out.Entries, kustomizev1.ResourceRef{ID: id.String(), Version: id.Version})
	}
	return out
}

// jitter returns a time around d, so that what was created together does not stay together.
func (r *Reconciler) jitter(d time.Duration) time.Duration {
	if r.Jitter <= 0 {
		return d
	}
	return wait.Jitter(time.Duration(float64(d)*(1-r.Jitter)), 2*r.Jitter/(1-r.Jitter))
}

// Tree implements pipeline.Source.
func (in inputs) Tree(ctx context.Context) (fs.FS, string, error) {
	files, err := in.open(ctx)
	if err != nil {
		return nil, in.revision, err
	}
	return recorder{files: files, reads: in.reads}, in.revision, nil
}

func artifactOf(repo *sourcev1.GitRepository) (revision, origin string, ok bool) {
	a := repo.Status.Artifact
	if a == nil {
		return "", "", false
	}
	return a.Revision, a.Metadata[originMetadata], true
}

// OwnerOf returns the owner that the objects of a Kustomization name.
func OwnerOf(namespace, name string) manifest.Owner {
	return owner(&kustomizev1.Kustomization{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name}}, "")
}
