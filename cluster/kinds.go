package cluster

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/discovery"
	"k8s.io/client-go/discovery/cached/memory"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/restmapper"

	"sealock.dev/sealock/manifest"
)

// relearn is how often, at most, an unknown kind makes discovery be read again: a tenant who names a kind that does not
// exist must not turn each of his reconciles into discovery.
const relearn = 2 * time.Second

// kindInfo is how the API server serves a kind.
type kindInfo struct {
	gvk        schema.GroupVersionKind
	resource   string
	namespaced bool
}

// errNoKind says that discovery was read and does not list the kind.
var errNoKind = errors.New("the cluster does not know the kind")

// kinds is the one discovery of the process, held with the controller's rights.
type kinds struct {
	cached discovery.CachedDiscoveryInterfaceWithContext
	mapper *restmapper.DeferredDiscoveryRESTMapper

	mu      sync.Mutex
	learned time.Time
	found   map[askedKind]kindInfo // the mapper allocates kilobytes for each answer
}

// askedKind is what find is asked.
type askedKind struct {
	gvk        schema.GroupVersionKind
	anyVersion bool
}

func newKinds(config *rest.Config, httpClient *http.Client) (*kinds, error) {
	client, err := discovery.NewDiscoveryClientForConfigAndClient(config, httpClient)
	if err != nil {
		return nil, fmt.Errorf("cluster: %w", err)
	}
	cached := memory.NewMemCacheClientWithContext(client)
	return &kinds{cached: cached, mapper: restmapper.NewDeferredDiscoveryRESTMapperWithContext(cached), found: map[askedKind]kindInfo{}}, nil
}

// lookup finds the kind; a version that is not served (any more) falls back to the preferred one only if anyVersion.
func (k *kinds) lookup(ctx context.Context, gvk schema.GroupVersionKind, anyVersion bool) (kindInfo, error) {
	info, err := k.find(ctx, gvk, anyVersion)
	if !errors.Is(err, errNoKind) || !k.stale() {
		return info, err
	}
	k.forget(ctx)
	return k.find(ctx, gvk, anyVersion)
}

func (k *kinds) find(ctx context.Context, gvk schema.GroupVersionKind, anyVersion bool) (kindInfo, error) {
	asked := askedKind{gvk, anyVersion}
	k.mu.Lock()
	info, known := k.found[asked]
	k.mu.Unlock()
	if known {
		return info, nil
	}
	info, err := k.discover(ctx, gvk, anyVersion)
	if err == nil {
		k.mu.Lock()
		k.found[asked] = info
		k.mu.Unlock()
	}
	return info, err
}

func (k *kinds) discover(ctx context.Context, gvk schema.GroupVersionKind, anyVersion bool) (kindInfo, error) {
	mapping, err := k.mapper.RESTMappingWithContext(ctx, gvk.GroupKind(), gvk.Version)
	if meta.IsNoMatchError(err) && anyVersion {
		mapping, err = k.mapper.RESTMappingWithContext(ctx, gvk.GroupKind())
	}
	switch {
	case meta.IsNoMatchError(err):
		return kindInfo{}, errNoKind
	case err != nil:
		return kindInfo{}, err
	case !anyVersion && mapping.GroupVersionKind.Version != gvk.Version:
		return kindInfo{}, errNoKind
	}
	return kindInfo{gvk: mapping.GroupVersionKind, resource: mapping.Resource.Resource, namespaced: mapping.Scope.Name() == meta.RESTScopeNameNamespace}, nil
}

// stale reports whether discovery may be read again, and notes that it will be.
func (k *kinds) stale() bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	if time.Since(k.learned) < relearn {
		return false
	}
	k.learned = time.Now()
	return true
}

// forget makes the next lookup read discovery.
func (k *kinds) forget(ctx context.Context) {
	k.mapper.ResetWithContext(ctx)
	k.mu.Lock()
	defer k.mu.Unlock()
	clear(k.found)
}

// surelyGone reports whether the whole of discovery could be read and no version of the kind is in it. When a group
// could not be read the answer is false: an empty answer is not an empty set.
func (k *kinds) surelyGone(ctx context.Context, gk schema.GroupKind) bool {
	_, lists, err := k.cached.ServerGroupsAndResourcesWithContext(ctx)
	if err != nil || len(lists) == 0 {
		return false
	}
	for _, list := range lists {
		gv, err := schema.ParseGroupVersion(list.GroupVersion)
		if err != nil {
			return false
		}
		for _, r := range list.APIResources {
			group := gv.Group
			if r.Group != "" {
				group = r.Group
			}
			if r.Kind == gk.Kind && group == gk.Group && !strings.Contains(r.Name, "/") {
				return false
			}
		}
	}
	return true
}

// scopes knows the kinds of the cluster and those that the set itself defines.
type scopes struct {
	kinds *kinds
	own   map[schema.GroupVersionKind]kindInfo
	crd   map[schema.GroupKind]manifest.ID // the definition in the set
}

// scopesOf reads the CustomResourceDefinitions of the set.
func (k *kinds) scopesOf(set []manifest.Object) scopes {
	s := scopes{kinds: k, own: map[schema.GroupVersionKind]kindInfo{}, crd: map[schema.GroupKind]manifest.ID{}}
	for _, o := range set {
		if !isCRD(o.GVK().GroupKind()) {
			continue
		}
		group, _ := o.Peek("spec", "group").(string)
		kind, _ := o.Peek("spec", "names", "kind").(string)
		plural, _ := o.Peek("spec", "names", "plural").(string)
		scope, _ := o.Peek("spec", "scope").(string)
		versions, _ := o.Peek("spec", "versions").([]any)
		if group == "" || kind == "" || plural == "" {
			continue // the API server says why, better than we could
		}
		s.crd[schema.GroupKind{Group: group, Kind: kind}] = o.ID()
		for _, v := range versions {
			m, _ := v.(map[string]any)
			name, _ := m["name"].(string)
			if served, _ := m["served"].(bool); name == "" || !served {
				continue
			}
			gvk := schema.GroupVersionKind{Group: group, Version: name, Kind: kind}
			s.own[gvk] = kindInfo{gvk: gvk, resource: plural, namespaced: scope != "Cluster"}
		}
	}
	return s
}

// lookup prefers what the cluster serves: a definition in the set cannot lie about a kind that exists. future is true
// when only the set knows the kind.
func (s scopes) lookup(ctx context.Context, gvk schema.GroupVersionKind) (info kindInfo, future bool, err error) {
	info, err = s.kinds.lookup(ctx, gvk, false)
	if own, ours := s.own[gvk]; ours && errors.Is(err, errNoKind) {
		return own, true, nil
	}
	return info, false, err
}

func isCRD(gk schema.GroupKind) bool {
	return gk.Group == "apiextensions.k8s.io" && gk.Kind == "CustomResourceDefinition"
}
