package externalsecrets

import (
	"context"
	"slices"
	"testing"

	"k8s.io/apimachinery/pkg/runtime/schema"

	"sealock.dev/sealock/fault"
	"sealock.dev/sealock/manifest"
)

// accounts notes whether a ServiceAccount was asked for as one that a commit brings, and has none.
type accounts struct {
	objects
	upcoming []bool
}

func (a *accounts) UID(_ context.Context, _ schema.GroupVersionKind, _, _ string, upcoming bool) (string, error) {
	a.upcoming = append(a.upcoming, upcoming)
	return "", fault.New("", fault.NotFound, fault.Ref{}, "absent")
}

// An account may be taken for absent without asking only where the commit applies it before it is used: together with its
// store, so that it is among the prerequisites.
func TestAccountOfTheCommitIsAPrerequisite(t *testing.T) {
	account := one(t, "apiVersion: v1\nkind: ServiceAccount\nmetadata: {name: app, namespace: team-a}\n")
	store := one(t, `
apiVersion: external-secrets.io/v1
kind: SecretStore
metadata: {name: vault, namespace: team-a}
spec: {provider: {vault: {server: 'https://v', path: secret, auth: {kubernetes: {role: team-a, serviceAccountRef: {name: app}}}}}}
`)
	es := one(t, esYAML("  data: [{secretKey: password, remoteRef: {key: team-a/app, property: password}}]\n"))
	for name, c := range map[string]struct {
		set, live []manifest.Object
		upcoming  bool
		needs     int
	}{
		"both come with the commit":   {set: []manifest.Object{account, store}, upcoming: true, needs: 2},
		"the store is in the cluster": {set: []manifest.Object{account}, live: []manifest.Object{store}},
		"the account is not in it":    {set: []manifest.Object{store}, needs: 1},
	} {
		lookup := &accounts{objects: objects{list: c.live}}
		o := opener(&lookup.objects)
		o.Lookup = lookup
		_, err := o.Open(t.Context(), tenant("https://v"), es, c.set)
		if fault.KindOf(err) != fault.NotFound || !slices.Equal(lookup.upcoming, []bool{c.upcoming}) {
			t.Errorf("%s: asked %v, want %v; %v", name, lookup.upcoming, c.upcoming, err)
		}
		if needs := o.Prerequisites(es, c.set); len(needs) != c.needs {
			t.Errorf("%s: prerequisites %v, want %d", name, needs, c.needs)
		}
	}
}
