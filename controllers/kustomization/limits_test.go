package kustomization

import (
	"context"
	"io/fs"
	"testing"
	"time"
)

// TestTimeoutIsNotThatOfARun: a short spec.timeout is one for health, and cuts no build or apply; a long one is no obstacle.
// contract: Kustomization spec.timeout
func TestTimeoutIsNotThatOfARun(t *testing.T) {
	left := make(chan time.Duration, 16)
	w := newWorld(t, options{change: func(r *Reconciler) {
		tree := r.Tree
		r.Tree = func(ctx context.Context, namespace, name, revision string) (fs.FS, error) {
			deadline, _ := ctx.Deadline()
			left <- time.Until(deadline)
			return tree(ctx, namespace, name, revision)
		}
	}})
	w.source("app", "main@sha1:1", map[string]string{"short/a.yaml": w.configMapYAML("a", "1"), "unset/a.yaml": w.configMapYAML("b", "1"), "long/a.yaml": w.configMapYAML("c", "1")})
	for name, c := range map[string]struct {
		spec string
		want time.Duration
	}{
		"short": {"timeout: 1s", 10 * time.Minute},
		"unset": {"interval: 1m", 10 * time.Minute},
		"long":  {"timeout: 2h", 2 * time.Hour},
	} {
		w.sync(name, c.spec, "path: "+name)
		w.ready(name, "main@sha1:1")
		if got := <-left; got > c.want || got < c.want-time.Minute {
			t.Errorf("%s: a run has %s", name, got)
		}
	}
}
