package kustomization

import (
	"context"
	"fmt"
	"net/http"
	"net/url"
	"time"

	kustomizev1 "github.com/fluxcd/kustomize-controller/api/v1"
	fluxmeta "github.com/fluxcd/pkg/apis/meta"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/client-go/tools/clientcmd/api"

	"sealock.dev/sealock/fault"
	"sealock.dev/sealock/plaintext"
	"sealock.dev/sealock/tenants"
)

// remoteTimeout bounds one request to a remote cluster.
const remoteTimeout = 30 * time.Second

// maxKubeconfig bounds what is parsed.
const maxKubeconfig = 256 << 10

// RemoteConfig says how to reach a cluster that a Kustomization names.
type RemoteConfig struct {
	// ID differs where anything else here does, and gives none of it away.
	ID string
	// Config holds credentials. It names no file and starts no program.
	Config *rest.Config
	// User to impersonate there; "" acts as whoever Config is.
	User string
}

// identity returns the grant. For another cluster its credentials are the identity, so that none of this one is needed,
// unless a service account is to be impersonated there.
func (r *Reconciler) identity(ks *kustomizev1.Kustomization) (tenants.Grant, error) {
	index := r.Tenants()
	if ks.Spec.KubeConfig == nil || index.ServiceAccount(ks.Namespace, ks.Spec.ServiceAccountName) != "" {
		return index.Grant(refOf(ks), ks.Spec.ServiceAccountName)
	}
	g := index.GrantFor(ks.Namespace)
	if g.User == "" {
		g.User = "kubeconfig"
	}
	return g, nil
}

// target finds the cluster that the Kustomization is for.
func (r *Reconciler) target(ctx context.Context, ks *kustomizev1.Kustomization, in *inputs) error {
	in.cluster = r.Engine.Cluster
	k := ks.Spec.KubeConfig
	if k == nil {
		return nil
	}
	if r.Remote == nil {
		return fault.New(fault.StageGrant, fault.Invalid, refOf(ks), "this Sealock serves no remote clusters").At("spec.kubeConfig").Fix("leave it out")
	}
	read, field := r.secretConfig, "spec.kubeConfig.secretRef"
	if k.SecretRef == nil {
		read, field = r.workload, "spec.kubeConfig.configMapRef"
	}
	remote, err := read(ctx, ks, in.grant)
	if err != nil {
		return err
	}
	if sa := r.Tenants().ServiceAccount(ks.Namespace, ks.Spec.ServiceAccountName); sa != "" {
		remote.User = tenants.ServiceAccountUser(ks.Namespace, sa)
	}
	remote.ID = r.Engine.Key.Digest([]byte("remote"), []byte(remote.ID), []byte(remote.User))
	in.target = remote.ID
	if in.cluster, err = r.Remote(ctx, remote); err != nil {
		return fault.New(fault.StagePlan, fault.Invalid, refOf(ks), "no client for the remote cluster can be made").At(field).Fix("check certificates and keys")
	}
	return nil
}

// secretConfig reads spec.kubeConfig.secretRef.
func (r *Reconciler) secretConfig(ctx context.Context, ks *kustomizev1.Kustomization, grant tenants.Grant) (RemoteConfig, error) {
	ref := ks.Spec.KubeConfig.SecretRef
	text, err := r.kubeconfig(ctx, ks, ref)
	if err != nil {
		return RemoteConfig{}, err
	}
	config, err := parseKubeconfig(text, grant.Tenant != "", r.InsecureRemoteTLS)
	if err != nil {
		return RemoteConfig{}, fault.New(fault.StagePlan, fault.Invalid, refOf(ks), "the kubeconfig in Secret/%s/%s cannot be used: %w", ks.Namespace, ref.Name, err).
			At("spec.kubeConfig.secretRef").Fix("correct the Secret")
	}
	return RemoteConfig{ID: r.Engine.Key.Digest([]byte(text.Digest(r.Engine.Key)), []byte(fmt.Sprint(grant.Tenant != ""))), Config: config}, nil
}

// kubeconfig reads the Secret, of the own namespace, as Flux does: the key that is named, else value, else value.yaml.
func (r *Reconciler) kubeconfig(ctx context.Context, ks *kustomizev1.Kustomization, ref *fluxmeta.SecretKeyReference) (plaintext.Value, error) {
	fail := func(kind fault.Kind, format string, args ...any) error {
		return fault.New(fault.StagePlan, kind, refOf(ks), format, args...).At("spec.kubeConfig.secretRef").Fix("put the kubeconfig into it")
	}
	data, err := r.Data.Secret(ctx, ks.Namespace, ref.Name)
	if fault.KindOf(err) == fault.NotFound && err != nil {
		return plaintext.Value{}, fail(fault.NotFound, "the Secret %s/%s with the kubeconfig does not exist", ks.Namespace, ref.Name)
	}
	if err != nil {
		return plaintext.Value{}, fail(fault.KindOf(err), "the Secret %s/%s with the kubeconfig cannot be read", ks.Namespace, ref.Name)
	}
	keys := []string{ref.Key}
	if ref.Key == "" {
		keys = []string{"value", "value.yaml"}
	}
	for _, key := range keys {
		if v, ok := data[key]; ok {
			return v, nil
		}
	}
	return plaintext.Value{}, fail(fault.NotFound, "the Secret %s/%s has no entry %q", ks.Namespace, ref.Name, keys[0])
}

// problem is what is wrong with a kubeconfig, in words that hold nothing of it.
type problem string

func (p problem) Error() string { return string(p) }

// parseKubeconfig takes what a kubeconfig says of its current context. Nothing in it can start a program or name a file
// of the controller: exec is left out, as in Flux by default, and the rest is refused.
func parseKubeconfig(text plaintext.Value, tenant, insecureTLS bool) (*rest.Config, error) {
	raw := text.Reveal()
	if len(raw) > maxKubeconfig {
		return nil, problem("it is too large")
	}
	k, err := clientcmd.Load(raw)
	if err != nil {
		return nil, problem("it is not valid")
	}
	context := k.Contexts[k.CurrentContext]
	if context == nil {
		return nil, problem("it has no current context")
	}
	cluster, user := k.Clusters[context.Cluster], k.AuthInfos[context.AuthInfo]
	if cluster == nil || user == nil {
		return nil, problem("its current context names a cluster or a user that it does not have")
	}
	if err := acceptable(cluster, user, tenant, insecureTLS); err != nil {
		return nil, err
	}
	user.Exec = nil
	if !insecureTLS {
		cluster.InsecureSkipTLSVerify = false
	}
	only := api.NewConfig()
	only.Clusters["c"], only.AuthInfos["u"] = cluster, user
	only.Contexts["x"], only.CurrentContext = &api.Context{Cluster: "c", AuthInfo: "u"}, "x"
	config, err := clientcmd.NewDefaultClientConfig(*only, &clientcmd.ConfigOverrides{}).ClientConfig()
	if err != nil {
		return nil, problem("it is not complete")
	}
	config.Timeout = remoteTimeout
	if config.Proxy == nil {
		config.Proxy = http.ProxyURL(nil) // none, whatever the environment of the controller says
	}
	return config, nil
}

// acceptable refuses what would reach into the controller.
func acceptable(cluster *api.Cluster, user *api.AuthInfo, tenant, insecureTLS bool) error {
	server, err := url.Parse(cluster.Server)
	if err != nil || server.Host == "" || server.User != nil {
		return problem("its server is not a URL without credentials")
	}
	switch {
	case server.Scheme != "https" && !insecureTLS:
		return problem("its server is not https")
	case cluster.CertificateAuthority != "" || user.ClientCertificate != "" || user.ClientKey != "" || user.TokenFile != "":
		return problem("it names files; put their contents into it with the fields that end in -data, and the token itself")
	case user.AuthProvider != nil:
		return problem("it has an auth-provider, which is not served")
	case cluster.ProxyURL != "" && tenant:
		return problem("it has a proxy-url, which tenants may not use")
	case user.Exec != nil && user.Token == "" && len(user.ClientCertificateData) == 0 && user.Username == "":
		return problem("its only credential is a program (exec), and none is ever started; use a token or a client certificate")
	}
	return nil
}
