package tenant

import (
	"context"
	"encoding/json"
	"fmt"
	"sync"

	"sigs.k8s.io/controller-runtime/pkg/client"

	"sealock.dev/sealock/api/sealock/v1alpha1"
	"sealock.dev/sealock/tenants"
)

// Registry holds the current index of tenants for everybody in the process.
type Registry struct {
	settings tenants.Settings

	mu    sync.RWMutex
	index *tenants.Index
	specs string
}

// NewRegistry returns a Registry that knows no tenant yet.
func NewRegistry(settings tenants.Settings) *Registry {
	return &Registry{settings: settings, index: tenants.NewIndex(nil, settings)}
}

// Index returns the current index. It is immutable.
func (r *Registry) Index() *tenants.Index {
	r.mu.RLock()
	defer r.mu.RUnlock()
	return r.index
}

// Reload reads all tenants and reports whether the index changed. On an error the old index stays.
func (r *Registry) Reload(ctx context.Context, reader client.Reader) (bool, error) {
	list := &v1alpha1.TenantList{}
	if err := reader.List(ctx, list); err != nil {
		return false, fmt.Errorf("listing tenants: %w", err)
	}
	live := list.Items[:0]
	specs := map[string]any{}
	for _, t := range list.Items {
		if t.DeletionTimestamp.IsZero() {
			live = append(live, t)
			specs[t.Name] = t.Spec
		}
	}
	text, err := json.Marshal(specs)
	if err != nil {
		return false, fmt.Errorf("comparing tenants: %w", err)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if string(text) == r.specs {
		return false, nil
	}
	r.specs, r.index = string(text), tenants.NewIndex(live, r.settings)
	return true, nil
}
