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
