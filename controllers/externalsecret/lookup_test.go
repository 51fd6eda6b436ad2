package externalsecret

import (
	"context"
	"testing"

	"k8s.io/apimachinery/pkg/runtime/schema"

	v1 "sealock.dev/sealock/api/externalsecrets/v1"
	"sealock.dev/sealock/externalsecrets"
	"sealock.dev/sealock/fault"
	"sealock.dev/sealock/manifest"
)

// server is the API server: it has nothing, and counts.
type server struct {
	externalsecrets.Lookup
	times int
}

func (a *server) Get(context.Context, schema.GroupVersionKind, string, string) (manifest.Object, error) {
	a.times++
	return manifest.Object{}, fault.New("", fault.NotFound, fault.Ref{}, "absent")
}

// What the controller watches is not asked about, but for a store that no watch shows yet.
func TestWhatIsWatchedIsNotAskedAbout(t *testing.T) {
	b := newBench(t, store(kindStore, "team-a", ""), externalSecret(nil))
	for _, c := range []struct {
		gvk   schema.GroupVersionKind
		name  string
		found bool
		asked int
	}{
		{v1.GroupVersion.WithKind(kindStore), "vault", true, 0},
		{v1.GroupVersion.WithKind("ExternalSecret"), at.Name, true, 0},
		{v1.GroupVersion.WithKind("ExternalSecret"), "new", false, 0},
		{v1.GroupVersion.WithKind(kindStore), "new", false, 1},
		{schema.GroupVersionKind{Version: "v1", Kind: "Secret"}, "token", false, 1},
	} {
		api := &server{}
		got, err := Lookup{Lookup: api, Cache: b.cluster}.Get(t.Context(), c.gvk, "team-a", c.name)
		if c.found && (err != nil || got.Name() != c.name) || !c.found && (err == nil || fault.KindOf(err) != fault.NotFound) || api.times != c.asked {
			t.Errorf("%s %s: %v, %d requests, want %d", c.gvk.Kind, c.name, err, api.times, c.asked)
		}
	}
}
