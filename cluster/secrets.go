package cluster

import (
	"context"
	"errors"
	"slices"
	"strings"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"sealock.dev/sealock/fault"
	"sealock.dev/sealock/manifest"
)

// attempts is how often a Secret that somebody else writes at the same moment is read and written again.
const attempts = 3

// secretKind is served by every API server.
func secretKind() kindInfo {
	return kindInfo{gvk: schema.GroupVersionKind{Version: "v1", Kind: "Secret"}, resource: "secrets", namespaced: true}
}

// wrote is what was last written to a Secret, and the version that it had then.
type wrote struct {
	digest  digest
	version string
}

// WriteSecret is the one writer of the Secrets that SealedSecrets and ExternalSecrets yield. It writes with the
// controller's rights, what the tenant's checks have passed, as an Update of the peer's field manager. The owner must
// exist. With dryRun nothing is written, and an owner or namespace that the same commit brings may be missing.
func (c *Client) WriteSecret(ctx context.Context, p manifest.Produced, dryRun bool) (manifest.Change, error) {
	stage := fault.StageApply
	if dryRun {
		stage = fault.StagePlan
	}
	change := manifest.Change{ID: p.Secret.ID(), Action: manifest.Unchanged}
	if p.Keep {
		return change, nil
	}
	if err := forbidden(stage, p); err != nil {
		return change, err
	}
	key := p.Secret.Namespace() + "/" + p.Secret.Name()
	uid, err := c.ownerUID(ctx, p.Owner)
	if err != nil && !(dryRun && fault.KindOf(err) == fault.NotFound) {
		return change, err
	}
	want := digestOf(c.opts.Key, []byte(p.Secret.Digest(c.opts.Key)+uid+p.FieldManager))
	if c.stillThere(key, want) {
		return change, nil
	}
	w := secretWriter{Client: c, produced: p, ownerUID: uid, stage: stage, dryRun: dryRun}
	for try := 1; ; try++ {
		action, version, err := w.once(ctx)
		if try < attempts && (apierrors.IsConflict(err) || apierrors.IsAlreadyExists(err)) {
			continue
		}
		if err != nil {
			return change, clean(stage, err, p.Secret.Ref(), p.Secret)
		}
		if version != "" && !dryRun {
			c.written.Add(key, wrote{digest: want, version: version})
		}
		change.Action = action
		return change, nil
	}
}

// forbidden refuses what no opener may make, whoever asks (threat T2).
func forbidden(stage fault.Stage, p manifest.Produced) error {
	typ, _ := p.Secret.Peek("type").(string)
	switch {
	case typ == "kubernetes.io/service-account-token" || typ == "bootstrap.kubernetes.io/token":
		return fault.New(stage, fault.Denied, p.Owner, "a Secret of type %q is not made from a sealed or external one", typ).
			Fix("use another type: the API server would turn it into a credential")
	case p.Owner.Namespace == "" || p.Owner.Namespace != p.Secret.Namespace():
		return fault.New(stage, fault.Denied, p.Owner, "a Secret in another namespace than its owner is not written").Fix("put both into one namespace")
	}
	return nil
}

// ownerUID asks the view, then the API server.
func (c *Client) ownerUID(ctx context.Context, ref fault.Ref) (string, error) {
	gvk := schema.FromAPIVersionAndKind(ref.APIVersion, ref.Kind)
	if w, live := c.view.peek(gvk); live {
		if e, ok := w.lookup(nsName{ref.Namespace, ref.Name}); ok && !e.marks.has(markTerminating) {
			return e.uid, nil
		}
	}
	info, err := c.kinds.lookup(ctx, gvk, true)
	if errors.Is(err, errNoKind) {
		return "", fault.New(fault.StageApply, fault.NotFound, ref, "the cluster does not know the kind").Fix("install its CustomResourceDefinition")
	}
	if err != nil {
		return "", clean(fault.StageApply, err, ref)
	}
	ans, err := c.self.getMeta(ctx, place{kind: info, namespace: ref.Namespace, name: ref.Name})
	if apierrors.IsNotFound(err) {
		return "", fault.New(fault.StageApply, fault.NotFound, ref, "the object that owns the Secret does not exist").Fix("it is tried again when it does")
	}
	if err != nil {
		return "", clean(fault.StageApply, err, ref)
	}
	return text(ans.body, "metadata", "uid"), nil
}

// stillThere reports whether some watch of the caller's shows the very version that we left with the same content.
func (c *Client) stillThere(key string, want digest) bool {
	if c.opts.SecretVersion == nil {
		return false
	}
	last, ok := c.written.Get(key)
	if !ok || last.(wrote).digest != want { //nolint:forcetypeassert // only these are put there
		return false
	}
	ns, name, _ := strings.Cut(key, "/")
	version, ok := c.opts.SecretVersion(ns, name)
	return ok && version == last.(wrote).version //nolint:forcetypeassert // as above
}

// secretWriter is the state of one WriteSecret.
type secretWriter struct {
	*Client
	produced manifest.Produced
	ownerUID string
	stage    fault.Stage
	dryRun   bool
}

// once reads the Secret, decides and writes. It returns the version that is there afterwards.
func (w secretWriter) once(ctx context.Context) (manifest.Action, string, error) {
	p := w.produced
	to := place{kind: secretKind(), namespace: p.Secret.Namespace(), name: p.Secret.Name()}
	ans, err := w.self.get(ctx, to)
	switch {
	case apierrors.IsNotFound(err):
		return w.create(ctx, to)
	case err != nil:
		return "", "", err
	}
	live, err := readSecret(ans.body)
	if err != nil {
		return "", "", err
	}
	next, action, err := merge(w.stage, p, w.ownerUID, live)
	if err != nil {
		return "", "", err
	}
	if action == manifest.Unchanged {
		return action, live.version, nil
	}
	body, err := next.Wire()
	if err != nil {
		return "", "", err
	}
	if ans, err = w.self.update(ctx, to, body, p.FieldManager, w.dryRun); err != nil {
		return "", "", err
	}
	return action, text(ans.body, "metadata", "resourceVersion"), nil
}

func (w secretWriter) create(ctx context.Context, to place) (manifest.Action, string, error) {
	p := w.produced
	if !p.CreateIfAbsent {
		return manifest.Skipped, "", nil
	}
	o := p.Secret.Edit(func(body map[string]any) {
		if p.Immutable {
			body["immutable"] = true
		}
		meta, _ := body["metadata"].(map[string]any)
		if p.OwnerReference && w.ownerUID != "" {
			meta["ownerReferences"] = []any{reference(p, w.ownerUID)}
		}
	})
	body, err := o.Wire()
	if err != nil {
		return "", "", err
	}
	to.name = ""
	ans, err := w.self.create(ctx, to, body, p.FieldManager, w.dryRun)
	if w.dryRun && apierrors.IsNotFound(err) {
		return manifest.Created, "", nil // its namespace comes with the same commit
	}
	if err != nil {
		return "", "", err
	}
	return manifest.Created, text(ans.body, "metadata", "resourceVersion"), nil
}

// reference is the owner reference in the peer's form: external-secrets blocks the owner's deletion, sealed-secrets does not.
func reference(p manifest.Produced, uid string) map[string]any {
	ref := map[string]any{"apiVersion": p.Owner.APIVersion, "kind": p.Owner.Kind, "name": p.Owner.Name, "uid": uid, "controller": true}
	if p.Owner.Kind == "ExternalSecret" {
		ref["blockOwnerDeletion"] = true
	}
	return ref
}

// liveSecret is an existing Secret: its values are lifted, its metadata is not secret.
type liveSecret struct {
	object     manifest.Object
	version    string
	typ        string
	immutable  bool
	owners     []owner
	references []any
}

func readSecret(body map[string]any) (liveSecret, error) {
	l := liveSecret{
		version: text(body, "metadata", "resourceVersion"), typ: text(body, "type"), owners: ownersOf(body),
		references: slices.Clone(listOf(dig(body, "metadata", "ownerReferences"))),
	}
	l.immutable, _ = body["immutable"].(bool)
	meta, _ := body["metadata"].(map[string]any)
	delete(meta, "managedFields")
	var err error
	l.object, err = manifest.New(body, manifest.Source{}, nil)
	return l, err
}

func listOf(v any) []any { list, _ := v.([]any); return list }

// controller returns the reference of the controlling owner, nil when there is none.
func (l liveSecret) controller() map[string]any {
	for _, each := range l.references {
		m, _ := each.(map[string]any)
		if m["controller"] == true {
			return m
		}
	}
	return nil
}
