package cluster

import (
	"context"
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
	w := secretWriter{Client: c, produced: p, key: p.Secret.Namespace() + "/" + p.Secret.Name(), stage: stage, dryRun: dryRun}
	if !dryRun {
		done, err := c.turns.take(ctx, w.key)
		if err != nil {
			return change, clean(stage, err, p.Secret.Ref(), p.Secret)
		}
		defer done()
	}
	w.expected = c.expects(w.key)
	if err := w.findOwner(ctx); err != nil {
		return change, err
	}
	want := digestOf(c.opts.Key, []byte(p.Secret.Digest(c.opts.Key)+w.ownerUID+p.FieldManager))
	if version, still := c.stillThere(w.key, want); still {
		change.Version = version
		return change, nil
	}
	for try := 1; ; try++ {
		action, version, err := w.once(ctx)
		if try < attempts && (apierrors.IsConflict(err) || apierrors.IsAlreadyExists(err)) {
			continue
		}
		if err != nil {
			return change, clean(stage, err, p.Secret.Ref(), p.Secret)
		}
		if version != "" && !dryRun {
			c.written.Add(w.key, wrote{digest: want, version: version})
			change.Version = version
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

// expects reports whether the Secret is to be read before anything else: some watch of the caller's shows it, or we left
// it there. It is a guess that spares a request; what is done about the Secret does not depend on it.
func (c *Client) expects(key string) bool {
	if _, ok := c.written.Get(key); ok {
		return true
	}
	if c.opts.SecretVersion == nil {
		return false
	}
	ns, name, _ := strings.Cut(key, "/")
	_, ok := c.opts.SecretVersion(ns, name)
	return ok
}

// stillThere reports whether some watch of the caller's shows the very version that we left with the same content.
func (c *Client) stillThere(key string, want digest) (version string, still bool) {
	if c.opts.SecretVersion == nil {
		return "", false
	}
	last, ok := c.written.Get(key)
	if !ok || last.(wrote).digest != want { //nolint:forcetypeassert // only these are put there
		return "", false
	}
	ns, name, _ := strings.Cut(key, "/")
	version, ok = c.opts.SecretVersion(ns, name)
	return version, ok && version == last.(wrote).version //nolint:forcetypeassert // as above
}

// secretWriter is the state of one WriteSecret.
type secretWriter struct {
	*Client
	produced manifest.Produced
	key      string
	ownerUID string
	expected bool // see expects
	stage    fault.Stage
	dryRun   bool
}

// findOwner asks the view, then whoever produced the Secret, then the API server. A dry run of a Secret that seems to be new can do without: whether the
// owner may be its controller matters only where there is a Secret already.
func (w *secretWriter) findOwner(ctx context.Context) error {
	owner := w.produced.Owner
	w.ownerUID = w.shownUID(schema.FromAPIVersionAndKind(owner.APIVersion, owner.Kind), owner.Namespace, owner.Name)
	if w.ownerUID == "" {
		w.ownerUID = w.produced.OwnerUID
	}
	if w.ownerUID != "" || w.dryRun && !w.expected && w.produced.CreateIfAbsent {
		return nil
	}
	return w.readOwner(ctx)
}

// readOwner asks the API server for the owner, which may be missing before a dry run.
func (w *secretWriter) readOwner(ctx context.Context) (err error) {
	w.ownerUID, err = w.readUID(ctx, w.produced.Owner)
	if w.dryRun && fault.KindOf(err) == fault.NotFound {
		return nil
	}
	return err
}

// once looks at the Secret, decides and writes. It returns the version that is there afterwards. A Secret that seems to be
// new is not read first: whatever else than success the API server answers to its creation, also that a quota is
// exhausted, may be for one that is there.
func (w *secretWriter) once(ctx context.Context) (manifest.Action, string, error) {
	if w.expected || !w.produced.CreateIfAbsent {
		return w.settle(ctx, nil)
	}
	action, version, err := w.create(ctx)
	if err == nil {
		return action, version, nil
	}
	w.expected = true
	return w.settle(ctx, err)
}

// settle reads the Secret and makes it what it is to be. refused is the answer to a creation that was tried without reading,
// and stands if there is no Secret.
func (w *secretWriter) settle(ctx context.Context, refused error) (manifest.Action, string, error) {
	to := w.place()
	ans, err := w.self.get(ctx, to)
	switch {
	case apierrors.IsNotFound(err) && refused != nil:
		return "", "", refused
	case apierrors.IsNotFound(err):
		return w.create(ctx)
	case err != nil:
		return "", "", err
	}
	live, err := readSecret(ans.body)
	if err != nil {
		return "", "", err
	}
	if refused != nil && w.ownerUID == "" {
		if err := w.readOwner(ctx); err != nil {
			return "", "", err
		}
	}
	next, action, err := merge(w.stage, w.produced, w.ownerUID, live)
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
	if ans, err = w.self.update(ctx, to, body, w.produced.FieldManager, w.dryRun); err != nil {
		return "", "", err
	}
	return action, text(ans.body, "metadata", "resourceVersion"), nil
}

func (w *secretWriter) place() place {
	return place{kind: secretKind(), namespace: w.produced.Secret.Namespace(), name: w.produced.Secret.Name()}
}

func (w *secretWriter) create(ctx context.Context) (manifest.Action, string, error) {
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
	to := w.place()
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
