package gitrepository

import (
	"context"
	"path"
	"sync"

	sourcev1 "github.com/fluxcd/source-controller/api/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"sealock.dev/sealock/source"
)

// tidied says that tidy has been here.
type tidied struct {
	mu   sync.Mutex
	done bool
}

// tidy removes from the cache and the storage what an earlier process left and no GitRepository names now: another replica may
// have led meanwhile, and deleted or withdrawn it. It comes before the first reconcile, so that nothing new is there yet.
func (r *Reconciler) tidy(ctx context.Context) error {
	r.tidied.mu.Lock()
	defer r.tidied.mu.Unlock()
	if r.tidied.done {
		return nil
	}
	list := &sourcev1.GitRepositoryList{}
	if err := r.Client.List(ctx, list); err != nil {
		return err
	}
	named := map[source.Owner]string{}
	for i := range list.Items {
		a := list.Items[i].Status.Artifact
		named[source.Owner(client.ObjectKeyFromObject(&list.Items[i]))] = ""
		if a != nil {
			named[source.Owner(client.ObjectKeyFromObject(&list.Items[i]))] = a.Path
		}
	}
	for _, owner := range append(r.Storage.Owners(), r.Repositories.Owners()...) {
		at, there := named[owner]
		if !there {
			if err := r.cleanUp(ctx, types.NamespacedName(owner)); err != nil {
				return err
			}
			continue
		}
		if err := r.Storage.KeepOnly(owner, at); err != nil {
			return err
		}
	}
	r.tidied.done = true
	return nil
}

// Named reports whether the status of a GitRepository names an artifact by this path, or by latest.tar.gz.
func Named(ctx context.Context, c client.Reader, owner source.Owner, name string) bool {
	repo := &sourcev1.GitRepository{}
	if c.Get(ctx, client.ObjectKey(owner), repo) != nil || repo.Status.Artifact == nil {
		return false
	}
	return repo.Status.Artifact.Path == name || path.Base(name) == "latest.tar.gz"
}
