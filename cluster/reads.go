package cluster

import (
	"context"
	"encoding/json"
	"errors"

	authenticationv1 "k8s.io/api/authentication/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"sealock.dev/sealock/fault"
	"sealock.dev/sealock/manifest"
	"sealock.dev/sealock/plaintext"
)

// tokenSeconds is the shortest life that the API server gives a token.
const tokenSeconds = 600

// Token asks, with the controller's rights, for a token of a ServiceAccount for the audiences; it lives ten minutes.
// Whether the asking object may use the ServiceAccount is the caller's to check.
func (c *Client) Token(ctx context.Context, namespace, serviceAccount string, audiences []string) (plaintext.Value, error) {
	ref := fault.Ref{APIVersion: "v1", Kind: "ServiceAccount", Namespace: namespace, Name: serviceAccount}
	life := int64(tokenSeconds)
	body, err := json.Marshal(authenticationv1.TokenRequest{
		TypeMeta: metav1.TypeMeta{APIVersion: "authentication.k8s.io/v1", Kind: "TokenRequest"},
		Spec:     authenticationv1.TokenRequestSpec{Audiences: audiences, ExpirationSeconds: &life},
	})
	if err != nil {
		return plaintext.Value{}, fault.New(fault.StageOpen, fault.Internal, ref, "the token request cannot be encoded")
	}
	kind := kindInfo{gvk: schema.GroupVersionKind{Version: "v1", Kind: "ServiceAccount"}, resource: "serviceaccounts", namespaced: true}
	if serviceAccount == "" {
		return plaintext.Value{}, fault.New(fault.StageOpen, fault.Invalid, ref, "no service account is named").Fix("name one")
	}
	ans, err := c.self.create(ctx, place{kind: kind, namespace: namespace, name: serviceAccount, sub: "token"}, body, "", false)
	if err != nil {
		return plaintext.Value{}, clean(fault.StageOpen, err, ref)
	}
	token := text(ans.body, "status", "token")
	if token == "" {
		return plaintext.Value{}, fault.New(fault.StageOpen, fault.Transient, ref, "the API server returned no token").Fix("it is tried again")
	}
	return plaintext.FromString(token), nil
}

// Get reads one object with the controller's rights; the payloads of a Secret are lifted. What does not exist is
// NotFound. Whether the asking object may read it is the caller's to check.
func (c *Client) Get(ctx context.Context, gvk schema.GroupVersionKind, namespace, name string) (manifest.Object, error) {
	ref := fault.Ref{APIVersion: gvk.GroupVersion().String(), Kind: gvk.Kind, Namespace: namespace, Name: name}
	info, err := c.kinds.lookup(ctx, gvk, false)
	if errors.Is(err, errNoKind) {
		return manifest.Object{}, fault.New(fault.StageOpen, fault.NotFound, ref, "the cluster does not know the kind").Fix("install its CustomResourceDefinition")
	}
	if err != nil {
		return manifest.Object{}, clean(fault.StageOpen, err, ref)
	}
	if name == "" {
		return manifest.Object{}, fault.New(fault.StageOpen, fault.Invalid, ref, "no name is given").Fix("name the object")
	}
	ans, err := c.self.get(ctx, place{kind: info, namespace: namespace, name: name})
	if apierrors.IsNotFound(err) {
		return manifest.Object{}, fault.New(fault.StageOpen, fault.NotFound, ref, "it does not exist").Fix("create it, or correct the reference")
	}
	if err != nil {
		return manifest.Object{}, clean(fault.StageOpen, err, ref)
	}
	if meta, ok := ans.body["metadata"].(map[string]any); ok {
		delete(meta, "managedFields")
	}
	return manifest.New(ans.body, manifest.Source{}, nil)
}

// UID returns the uid of an object, from the view if that shows it. upcoming says that the caller's commit applies the
// object: where the kind is watched, one that no commit has applied yet counts as absent, and nobody is asked.
func (c *Client) UID(ctx context.Context, gvk schema.GroupVersionKind, namespace, name string, upcoming bool) (string, error) {
	ref := fault.Ref{APIVersion: gvk.GroupVersion().String(), Kind: gvk.Kind, Namespace: namespace, Name: name}
	watched := false
	if upcoming {
		info, err := c.kinds.lookup(ctx, gvk, false)
		if err == nil {
			_, state, _ := c.view.watch(ctx, info)
			watched = state == watchLive
		}
	}
	if uid := c.shownUID(gvk, namespace, name); uid != "" {
		return uid, nil
	}
	if watched {
		return "", noSuchObject(ref)
	}
	return c.readUID(ctx, ref)
}

func noSuchObject(ref fault.Ref) error {
	return fault.New(fault.StageApply, fault.NotFound, ref, "it does not exist").Fix("it is tried again when it does")
}

// shownUID returns the uid of an object as the view shows it, "" when it does not.
func (c *Client) shownUID(gvk schema.GroupVersionKind, namespace, name string) string {
	w, live := c.view.peek(gvk)
	if !live {
		return ""
	}
	e, ok := w.lookup(nsName{namespace, name})
	if !ok || e.marks.has(markTerminating) {
		return ""
	}
	return e.uid
}

// readUID asks the API server for the uid of an object.
func (c *Client) readUID(ctx context.Context, ref fault.Ref) (string, error) {
	info, err := c.kinds.lookup(ctx, schema.FromAPIVersionAndKind(ref.APIVersion, ref.Kind), true)
	if errors.Is(err, errNoKind) {
		return "", fault.New(fault.StageApply, fault.NotFound, ref, "the cluster does not know the kind").Fix("install its CustomResourceDefinition")
	}
	if err != nil {
		return "", clean(fault.StageApply, err, ref)
	}
	ans, err := c.self.getMeta(ctx, place{kind: info, namespace: ref.Namespace, name: ref.Name})
	if apierrors.IsNotFound(err) {
		return "", noSuchObject(ref)
	}
	if err != nil {
		return "", clean(fault.StageApply, err, ref)
	}
	return text(ans.body, "metadata", "uid"), nil
}
