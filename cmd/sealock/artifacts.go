package main

import (
	"context"
	"errors"
	"net/http"
	"slices"
	"strings"

	authenticationv1 "k8s.io/api/authentication/v1"
	authorizationv1 "k8s.io/api/authorization/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"sealock.dev/sealock/fault"
	"sealock.dev/sealock/source"
)

// authorizeArtifact admits a request whose bearer token belongs to somebody who may get the GitRepository. Artifacts of the
// anonymous namespaces go to everybody who reaches the port: consumers of Flux's artifacts, such as helm-controller, send no
// token. That is the platform's choice, by a flag of the controller: what stands in an object, its owner could set.
func authorizeArtifact(kube kubernetes.Interface, anonymous []string) source.Authorizer {
	return func(r *http.Request, namespace, name string) error {
		if slices.Contains(anonymous, namespace) {
			return nil
		}
		token, ok := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
		if !ok || token == "" {
			return source.ErrUnauthenticated
		}
		ctx := r.Context()
		user, err := whose(ctx, kube, token)
		if err != nil {
			return err
		}
		extra := map[string]authorizationv1.ExtraValue{}
		for k, v := range user.Extra {
			extra[k] = authorizationv1.ExtraValue(v)
		}
		answer, err := kube.AuthorizationV1().SubjectAccessReviews().Create(ctx, &authorizationv1.SubjectAccessReview{
			Spec: authorizationv1.SubjectAccessReviewSpec{
				User: user.Username, Groups: user.Groups, UID: user.UID, Extra: extra,
				ResourceAttributes: &authorizationv1.ResourceAttributes{
					Namespace: namespace, Name: name, Verb: "get", Group: "source.toolkit.fluxcd.io", Resource: "gitrepositories",
				},
			},
		}, metav1.CreateOptions{})
		if err != nil {
			return errors.New("the access could not be checked")
		}
		if !answer.Status.Allowed {
			return fault.New(fault.StageGrant, fault.Denied, fault.Ref{}, "this user may not get the GitRepository")
		}
		return nil
	}
}

// artifactAudience is that of tokens which are of use here and nowhere else.
const artifactAudience = "sealock-artifacts"

// whose returns whose token it is: one for artifacts, or one for the API server.
func whose(ctx context.Context, kube kubernetes.Interface, token string) (authenticationv1.UserInfo, error) {
	for _, audiences := range [][]string{{artifactAudience}, nil} {
		review, err := kube.AuthenticationV1().TokenReviews().Create(ctx, &authenticationv1.TokenReview{
			Spec: authenticationv1.TokenReviewSpec{Token: token, Audiences: audiences},
		}, metav1.CreateOptions{})
		if err != nil {
			return authenticationv1.UserInfo{}, errors.New("the token could not be checked")
		}
		// An authenticator that knows no audiences answers without them, and means the API server.
		if s := review.Status; s.Authenticated && (audiences == nil || slices.Contains(s.Audiences, artifactAudience)) {
			return s.User, nil
		}
	}
	return authenticationv1.UserInfo{}, source.ErrUnauthenticated
}
