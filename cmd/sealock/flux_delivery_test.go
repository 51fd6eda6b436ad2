package main

import (
	"slices"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
)

// TestDeliveryFlags: what Flux's controllers are told of fetching and applying is told to Sealock in the same words.
func TestDeliveryFlags(t *testing.T) {
	o, _, err := parsed(t, "--interval-jitter-percentage=10", "--min-retry-delay=2s", "--max-retry-delay=1h", "--watch-configs-label-selector=owner!=helm",
		"--override-manager=argocd", "--override-manager=helm", "--custom-apply-stage-kinds=policy/PodDisruptionBudget,/Pod", "--sops-age-secret=age",
		"--artifact-retention-ttl=5m", "--artifact-retention-records=3")
	if err != nil {
		t.Fatal(err)
	}
	if o.jitter() != 0.1 || o.minRetry != 2*time.Second || o.maxRetry != time.Hour || o.artifactTTL != 5*time.Minute || o.artifactRecords != 3 {
		t.Errorf("%+v", o.fluxDelivery)
	}
	if !o.configs.Matches(labels.Set{"x": "y"}) || o.configs.Matches(labels.Set{"owner": "helm"}) {
		t.Errorf("configs %v", o.configs)
	}
	if !slices.Equal(o.overrideManagers, []string{"argocd", "helm"}) || !slices.Equal(o.stageKinds, []schema.GroupKind{{Group: "policy", Kind: "PodDisruptionBudget"}, {Kind: "Pod"}}) {
		t.Errorf("managers %v, kinds %v", o.overrideManagers, o.stageKinds)
	}
	if got := o.ageSecret("flux-system"); got != (types.NamespacedName{Namespace: "flux-system", Name: "age"}) {
		t.Error(got)
	}
	o.sopsAgeSecret = "keys/age"
	if got := o.ageSecret("flux-system"); got != (types.NamespacedName{Namespace: "keys", Name: "age"}) {
		t.Error(got)
	}
	if o, _, err = parsed(t); err != nil || o.ageSecret("x").Name != "" || o.jitter() != 0.05 || !o.configs.Matches(labels.Set{"reconcile.fluxcd.io/watch": "Enabled"}) {
		t.Errorf("by default: %+v %v", o, err)
	}
}
