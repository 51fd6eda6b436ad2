package main

import (
	"strings"
	"time"

	"github.com/spf13/pflag"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
)

// fluxDelivery are those flags of Flux's controllers that say how commits are fetched and applied.
type fluxDelivery struct {
	jitterPercentage     int
	minRetry, maxRetry   time.Duration
	configsLabelSelector string
	overrideManagers     []string
	stageKindsText       string
	sopsAgeSecret        string
	artifactTTL          time.Duration
	artifactRecords      int

	configs    labels.Selector
	stageKinds []schema.GroupKind
}

// configsSelector is the default of --watch-configs-label-selector.
const configsSelector = "reconcile.fluxcd.io/watch=Enabled"

func (o *fluxDelivery) bind(f *pflag.FlagSet) {
	f.IntVar(&o.jitterPercentage, "interval-jitter-percentage", 5, "How much of its interval an object may be reconciled early or late, 0 to 49.")
	f.DurationVar(&o.minRetry, "min-retry-delay", 0, "Wait after the first of failures that may heal by themselves; by default about a second.")
	f.DurationVar(&o.maxRetry, "max-retry-delay", 0, "Longest wait after such failures; by default the retry interval.")
	f.StringVar(&o.configsLabelSelector, "watch-configs-label-selector", configsSelector, "Secrets and ConfigMaps whose changes are followed at once.")
	f.StringSliceVar(&o.overrideManagers, "override-manager", nil, "Field managers whose fields are taken back, besides those of kubectl.")
	f.StringVar(&o.stageKindsText, "custom-apply-stage-kinds", "", "Kinds to apply in a stage of their own, before everything but definitions and classes: group/Kind,group/Kind.")
	f.StringVar(&o.sopsAgeSecret, "sops-age-secret", "", "Secret whose entries *.agekey open the SOPS files of Kustomizations in platform namespaces that name no keys: a name in $RUNTIME_NAMESPACE, or namespace/name.")
	f.DurationVar(&o.artifactTTL, "artifact-retention-ttl", time.Minute, "How long an artifact stays after it was followed by another.")
	f.IntVar(&o.artifactRecords, "artifact-retention-records", 2, "How many artifacts of a source there are at most.")
}

// check reads what is more than text.
func (o *fluxDelivery) check() error {
	if o.jitterPercentage < 0 || o.jitterPercentage > 49 {
		return wrongUse("--interval-jitter-percentage %d is not within 0 and 49", o.jitterPercentage).Fix("5 is usual")
	}
	if o.minRetry < 0 || o.maxRetry < 0 || o.maxRetry > 0 && o.minRetry > o.maxRetry {
		return wrongUse("--min-retry-delay is longer than --max-retry-delay, or one of them is negative").Fix("leave them out")
	}
	if o.artifactRecords < 0 || o.artifactTTL < 0 {
		return wrongUse("--artifact-retention-records or --artifact-retention-ttl is negative").Fix("leave them out")
	}
	var err error
	if o.configs, err = labels.Parse(o.configsLabelSelector); err != nil {
		return wrongUse("--watch-configs-label-selector %q is no label selector", o.configsLabelSelector).Fix("write for instance %s", configsSelector)
	}
	o.stageKinds = nil
	for _, each := range strings.FieldsFunc(o.stageKindsText, func(r rune) bool { return r == ',' }) {
		group, kind, ok := strings.Cut(strings.TrimSpace(each), "/")
		if !ok || kind == "" || strings.Contains(kind, "/") {
			return wrongUse("--custom-apply-stage-kinds: %q is not group/Kind", each).Fix("write for instance policy/PodDisruptionBudget, and /Pod without a group")
		}
		o.stageKinds = append(o.stageKinds, schema.GroupKind{Group: group, Kind: kind})
	}
	if strings.Count(o.sopsAgeSecret, "/") > 1 {
		return wrongUse("--sops-age-secret %q is no name", o.sopsAgeSecret).Fix("write name, or namespace/name")
	}
	return nil
}

// ageSecret returns where --sops-age-secret is; runtime is the namespace of a plain name.
func (o *fluxDelivery) ageSecret(runtime string) types.NamespacedName {
	if o.sopsAgeSecret == "" {
		return types.NamespacedName{}
	}
	if namespace, name, ok := strings.Cut(o.sopsAgeSecret, "/"); ok {
		return types.NamespacedName{Namespace: namespace, Name: name}
	}
	return types.NamespacedName{Namespace: runtime, Name: o.sopsAgeSecret}
}

// jitter is the share of an interval.
func (o *fluxDelivery) jitter() float64 { return float64(o.jitterPercentage) / 100 }
