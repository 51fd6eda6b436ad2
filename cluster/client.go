// Package cluster compares a set of objects with one Kubernetes cluster, and writes what is missing.
//
// It exists so that there is one place where secret bytes leave for the API server, one identity under which that
// happens, and one answer to the question what is there: the live view, which is watched and never polled. A set is
// planned, dry-run and applied with the rights of its Grant; the controller's own rights serve the view, discovery, and
// the Secrets that openers made. The package must not decide what a policy decides, keep a value of a Secret after a
// call, or put one into an error; and nothing is deleted because of an error or an empty answer.
package cluster

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"time"

	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/rest"
	"k8s.io/utils/lru"

	"sealock.dev/sealock/fault"
	"sealock.dev/sealock/manifest"
	"sealock.dev/sealock/plaintext"
	"sealock.dev/sealock/tenants"
)

const (
	// identities bounds how many identities have a client at hand. Making one costs no request.
	identities = 256
	// requestTimeout bounds one request, whatever the caller's context says.
	requestTimeout = 30 * time.Second
	// parallel is how many requests of one plan or stage are under way at once.
	parallel = 4
)

// Options are what a Client needs.
type Options struct {
	// Config carries the controller's own rights, which include impersonation.
	Config *rest.Config
	// Key of the installation: digests of what is live are made with it.
	Key plaintext.Key
	// OwnerLabel and OwnerNamespaceLabel are the labels by which an applied object names its owner. The view selects by
	// the first. Empty: Flux's.
	OwnerLabel, OwnerNamespaceLabel string
	// FieldManager of the applied objects. Empty: Flux's.
	FieldManager string
	// OverrideManagers are field managers whose fields are taken back, as those of kubectl are. None may be FieldManager.
	OverrideManagers []string
	// StageKinds are applied in a stage of their own, behind definitions and classes and before everything else. It is not
	// waited for.
	StageKinds []schema.GroupKind
	// ActAs, if not nil, is the user to impersonate instead of the grant's; "" is whoever Config is. For remote clusters,
	// where the users of this one mean nothing.
	ActAs *string
	// Baselines keeps what was applied. nil: in memory.
	Baselines Baselines
	// SecretVersion returns the resource version of a Secret that some watch of the caller holds, so that an unchanged
	// one need not be read. nil: it is read.
	SecretVersion func(namespace, name string) (resourceVersion string, ok bool)
}

// Client implements the pipeline's Cluster for one cluster. It is safe for concurrent use.
type Client struct {
	opts    Options
	config  *rest.Config
	self    conn
	users   *lru.Cache // user name -> conn
	kinds   *kinds
	view    *View
	written *lru.Cache // namespace/name of a Secret -> wrote
	turns   turns      // by namespace/name of a Secret that is being written
}

// New returns a Client whose watches end with ctx. It asks the API server nothing.
func New(ctx context.Context, opts Options) (*Client, error) {
	if opts.OwnerLabel == "" {
		opts.OwnerLabel = markerPrefix + "name"
	}
	if opts.OwnerNamespaceLabel == "" {
		opts.OwnerNamespaceLabel = markerPrefix + "namespace"
	}
	if opts.FieldManager == "" {
		opts.FieldManager = "kustomize-controller"
	}
	if opts.Baselines == nil {
		opts.Baselines = NewMemory()
	}
	config := rest.CopyConfig(opts.Config)
	config.QPS = -1 // the API server's own fairness is the limit
	config.WarningHandler = rest.NoWarnings{}
	config.WarningHandlerWithContext = rest.NoWarnings{}
	httpClient, err := rest.HTTPClientFor(config)
	if err != nil {
		return nil, fmt.Errorf("cluster: %w", err)
	}
	c := &Client{opts: opts, config: config, users: lru.New(identities), written: lru.New(4096)}
	if c.self, err = connect(config, httpClient); err != nil {
		return nil, err
	}
	if c.kinds, err = newKinds(config, httpClient); err != nil {
		return nil, err
	}
	dyn, err := dynamic.NewForConfigAndClient(config, httpClient)
	if err != nil {
		return nil, fmt.Errorf("cluster: %w", err)
	}
	c.view = newView(ctx, dyn, opts)
	c.view.reaper.erase = c.erase
	return c, nil
}

// View returns what is live, for controllers that wait for its events.
func (c *Client) View() *View { return c.view }

// enter is the beginning of every call for an owner: its identity, its rules, and what was persisted of it.
func (c *Client) enter(ctx context.Context, grant tenants.Grant, owner manifest.Owner) (conn, *rules, error) {
	as, err := c.as(grant)
	if err != nil {
		return conn{}, nil, err
	}
	key := c.ownerKey(owner)
	by, err := compileRules(owner, c.view.rulesOf(key))
	if err != nil {
		return conn{}, nil, err
	}
	if err := c.opts.Baselines.Load(ctx); err != nil {
		return conn{}, nil, err
	}
	c.view.govern(key, by)
	return as, by, nil
}

// as returns the connection that acts as the grant's identity. A Grant without one gets none: falling back to the
// controller's rights would give a tenant all of them.
func (c *Client) as(grant tenants.Grant) (conn, error) {
	if grant.User == "" {
		return conn{}, fault.New(fault.StageGrant, fault.Denied, fault.Ref{Namespace: grant.Namespace}, "no identity to act as").
			Fix("name a service account, or make the namespace part of a Tenant")
	}
	user := grant.User
	if c.opts.ActAs != nil {
		if user = *c.opts.ActAs; user == "" {
			return c.self, nil
		}
	}
	if known, ok := c.users.Get(user); ok {
		return known.(conn), nil //nolint:forcetypeassert // only conns are put there
	}
	config := rest.CopyConfig(c.config)
	config.Impersonate = rest.ImpersonationConfig{UserName: user}
	// The impersonating round tripper wraps the transport that client-go keeps for this TLS configuration: identities
	// share connections.
	httpClient, err := rest.HTTPClientFor(config)
	if err != nil {
		return conn{}, fault.New(fault.StageGrant, fault.Internal, fault.Ref{}, "no client for the identity could be made")
	}
	made, err := connect(config, httpClient)
	if err != nil {
		return conn{}, err
	}
	c.users.Add(user, made)
	return made, nil
}

func connect(config *rest.Config, httpClient *http.Client) (conn, error) {
	config = rest.CopyConfig(config)
	config.NegotiatedSerializer = statusCodecs()
	client, err := rest.UnversionedRESTClientForConfigAndClient(config, httpClient)
	if err != nil {
		return conn{}, fmt.Errorf("cluster: %w", err)
	}
	return conn{rest: client}, nil
}

// Release forgets an owner that is gone: its baselines, and the watches that nobody else needs.
func (c *Client) Release(owner manifest.Owner) {
	key := c.ownerKey(owner)
	c.view.release(key)
	c.opts.Baselines.Drop(key)
}

// ownerKey names the owner as its objects do: "namespace/name" of the owner labels.
func (c *Client) ownerKey(owner manifest.Owner) string {
	return owner.Labels[c.opts.OwnerNamespaceLabel] + "/" + owner.Labels[c.opts.OwnerLabel]
}

func join(errs []error) error { return errors.Join(errs...) }
