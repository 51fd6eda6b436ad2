package kustomization

import (
	"context"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"

	kustomizev1 "github.com/fluxcd/kustomize-controller/api/v1"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/yaml"

	"sealock.dev/sealock/fault"
	"sealock.dev/sealock/plaintext"
	"sealock.dev/sealock/tenants"
)

// tokenUse is how long one token is used. It lives twice as long.
const tokenUse = 5 * time.Minute

// Tokens makes tokens of service accounts of this cluster, for an audience, that live ten minutes.
type Tokens func(ctx context.Context, namespace, serviceAccount string, audiences []string) (plaintext.Value, error)

// workload reads spec.kubeConfig.configMapRef (reference/flux.md, section 1.10): a cluster that trusts the tokens of
// service accounts of this one. Only the provider generic is served: the others need an identity in a cloud.
func (r *Reconciler) workload(ctx context.Context, ks *kustomizev1.Kustomization, grant tenants.Grant) (RemoteConfig, error) {
	name := ks.Spec.KubeConfig.ConfigMapRef.Name
	fail := func(kind fault.Kind, field, format string, args ...any) error {
		return fault.New(fault.StagePlan, kind, refOf(ks), "ConfigMap/%s/%s: %s", ks.Namespace, name, fmt.Sprintf(format, args...)).
			At("spec.kubeConfig.configMapRef").Fix("correct its entry %s", field)
	}
	data, err := r.Data.ConfigMap(ctx, ks.Namespace, name)
	if err != nil {
		return RemoteConfig{}, fail(fault.KindOf(err), "provider", "it cannot be read, or does not exist")
	}
	if p := data["provider"]; p != "generic" {
		return RemoteConfig{}, fail(fault.Invalid, "provider", "the provider %q needs an identity in a cloud, which is not served; generic is", p)
	}
	address, err := url.Parse(data["address"])
	if err != nil || address.Host == "" || address.User != nil || address.Scheme != "https" {
		return RemoteConfig{}, fail(fault.Invalid, "address", "the address is no https URL without credentials")
	}
	account := data["serviceAccountName"]
	if account == "" {
		account = r.RemoteServiceAccount
	}
	if account == "" {
		return RemoteConfig{}, fail(fault.Invalid, "serviceAccountName", "no service account is named, and the controller's own token is sent to nobody")
	}
	if !grant.AllowsToken(account) {
		return RemoteConfig{}, fail(fault.Denied, "serviceAccountName", "no token of the service account %q is made: it is reserved for the GitOps of a tenant, or the namespace is neither a tenant's nor the platform's", account)
	}
	audiences, err := audiencesOf(data["audiences"], data["address"])
	if err != nil {
		return RemoteConfig{}, fail(fault.Invalid, "audiences", "the audiences are no list of texts")
	}
	config := &rest.Config{Host: data["address"], Timeout: remoteTimeout, Proxy: http.ProxyURL(nil), TLSClientConfig: rest.TLSClientConfig{CAData: []byte(data["ca.crt"])}}
	config.Wrap(func(next http.RoundTripper) http.RoundTripper {
		return &bearer{next: next, token: func(ctx context.Context) (plaintext.Value, error) {
			return r.Tokens(ctx, ks.Namespace, account, audiences)
		}}
	})
	parts := [][]byte{[]byte("workload"), []byte(ks.Namespace), []byte(account), []byte(data["address"]), []byte(data["ca.crt"])}
	for _, a := range audiences {
		parts = append(parts, []byte(a))
	}
	return RemoteConfig{ID: r.Engine.Key.Digest(parts...), Config: config}, nil
}

// audiencesOf reads a YAML list, or lines; without any it is the address.
func audiencesOf(text, address string) ([]string, error) {
	if strings.TrimSpace(text) == "" {
		return []string{address}, nil
	}
	var out []string
	if yaml.Unmarshal([]byte(text), &out) == nil && len(out) > 0 {
		return out, nil
	}
	var one any
	if err := yaml.Unmarshal([]byte(text), &one); err != nil {
		return nil, err
	}
	if _, ok := one.(string); !ok {
		return nil, fmt.Errorf("it is no list")
	}
	return strings.Fields(text), nil
}

// bearer puts a token into each request, and has a new one made in time.
type bearer struct {
	next  http.RoundTripper
	token func(ctx context.Context) (plaintext.Value, error)

	mu   sync.Mutex
	last plaintext.Value
	made time.Time
}

// RoundTrip implements http.RoundTripper.
func (b *bearer) RoundTrip(req *http.Request) (*http.Response, error) {
	token, err := b.current(req.Context())
	if err != nil {
		return nil, err
	}
	req = req.Clone(req.Context())
	req.Header.Set("Authorization", "Bearer "+string(token.Reveal()))
	return b.next.RoundTrip(req)
}

func (b *bearer) current(ctx context.Context) (plaintext.Value, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if !b.made.IsZero() && time.Since(b.made) < tokenUse {
		return b.last, nil
	}
	token, err := b.token(ctx)
	if err != nil {
		return plaintext.Value{}, err
	}
	b.last, b.made = token, time.Now()
	return token, nil
}
