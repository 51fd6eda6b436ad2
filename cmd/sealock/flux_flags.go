package main

import (
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/go-logr/logr"
	"github.com/spf13/pflag"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/client-go/rest"
)

// fluxOptions are the flags of kustomize-controller and source-controller that do for Sealock what they do there
// (reference/flux.md, section 1.11), so that the arguments of an existing Deployment can be passed on as they are.
type fluxOptions struct {
	eventsAddr                               string
	logEncoding                              string
	watchLabelSelector                       string
	watchAllNamespaces                       bool
	qps                                      float32
	burst                                    int
	leaseDuration, renewDeadline, retryAfter time.Duration
	releaseOnCancel                          bool
	noCrossNamespaceRefs                     bool
	defaultServiceAccount                    string
	remoteServiceAccount                     string
	storagePath                              string
	featureGates                             string

	fluxDelivery

	besideFlux, deliveryOnly bool
}

func (o *fluxOptions) bind(f *pflag.FlagSet) {
	f.StringVar(&o.eventsAddr, "events-addr", "", "Address to which events are posted as well, in Flux's format, such as that of Flux's notification-controller.")
	f.StringVar(&o.logEncoding, "log-encoding", "json", "json or console.")
	f.StringVar(&o.watchLabelSelector, "watch-label-selector", "", "Only Kustomizations and GitRepositories whose labels match, for shards: sharding.fluxcd.io/key=shard1.")
	f.BoolVar(&o.watchAllNamespaces, "watch-all-namespaces", true, "Kustomizations and GitRepositories of all namespaces; else those of $RUNTIME_NAMESPACE.")
	f.Float32Var(&o.qps, "kube-api-qps", 0, "Limit of requests to the API server in a second; by default there is none but the server's own.")
	f.IntVar(&o.burst, "kube-api-burst", 0, "How many requests may exceed --kube-api-qps for a moment.")
	f.DurationVar(&o.leaseDuration, "leader-election-lease-duration", 35*time.Second, "How long the others wait for a leader that does not renew its Lease.")
	f.DurationVar(&o.renewDeadline, "leader-election-renew-deadline", 30*time.Second, "How long the leader tries to renew it.")
	f.DurationVar(&o.retryAfter, "leader-election-retry-period", 5*time.Second, "How long to wait between two tries.")
	f.BoolVar(&o.releaseOnCancel, "leader-election-release-on-cancel", true, "Give the Lease back at the end.")
	f.BoolVar(&o.noCrossNamespaceRefs, "no-cross-namespace-refs", false, "Refuse sources of other namespaces, and a readyExpr about other namespaces, in platform namespaces too.")
	f.StringVar(&o.defaultServiceAccount, "default-service-account", "", "Service account of the own namespace that Kustomizations outside tenants act as when they name none.")
	f.StringVar(&o.remoteServiceAccount, "default-kubeconfig-service-account", "", "Service account of the own namespace whose tokens are used for a remote cluster where the ConfigMap of spec.kubeConfig names none.")
	f.StringVar(&o.storagePath, "storage-path", "", "The same as --cache-dir.")
	f.StringVar(&o.featureGates, "feature-gates", "", "Feature gates of Flux, Name=true,Name=false.")
	f.BoolVar(&o.besideFlux, "beside-flux", false, "Run beside Flux's controllers, which needs a --watch-label-selector here and there that cannot match the same object.")
	f.BoolVar(&o.deliveryOnly, "delivery-only", false, "Run Kustomizations and GitRepositories alone: for a shard, while another instance runs the rest.")
	o.fluxDelivery.bind(f)
	for _, a := range acceptedFlags {
		switch value := a.value.(type) {
		case string:
			f.String(a.name, value, a.why)
		case bool:
			f.Bool(a.name, value, a.why)
		case int:
			f.Int(a.name, value, a.why)
		case time.Duration:
			f.Duration(a.name, value, a.why)
		case []string:
			f.StringSlice(a.name, value, a.why)
		}
		_ = f.MarkHidden(a.name) // it exists: it was added a line above
	}
}

// acceptedFlag is one that Flux's Deployments pass and that changes nothing here. Why not is logged when it is set.
type acceptedFlag struct {
	name  string
	value any // the default of Flux
	why   string
}

var acceptedFlags = []acceptedFlag{ //nolint:gochecknoglobals // a constant table
	{"requeue-dependency", 30 * time.Second, "dependencies are watched, nothing is looked at again and again"},
	{"concurrent-ssa", 4, "dry runs and writes of a commit need no number of workers to be set"},
	{"http-retry", 9, "no artifact is fetched over HTTP, files are read where Git left them"},
	{"no-remote-bases", false, "always so: no build opens a connection"},
	{"insecure-kubeconfig-exec", false, "never: no program is started for a kubeconfig"},
	{"insecure-kubeconfig-tls", false, "never: the certificate of a remote cluster is always verified"},
	{"insecure-allow-http", true, "HTTP is allowed by the URL of the source"},
	{"sops-vault-configmap", "", "no login to Vault with a service account for SOPS"},
	{"default-decryption-service-account", "", "no workload identity of a cloud"},
	{"token-cache-max-size", 100, "no workload identity of a cloud, so that there are no tokens of one"},
	{"token-cache-max-duration", time.Hour, "no workload identity of a cloud, so that there are no tokens of one"},
	{"artifact-digest-algo", "sha256", "digests of artifacts are sha256"},
	{"ssh-kex-algos", []string{}, "the algorithms are those of golang.org/x/crypto/ssh"},
	{"ssh-hostkey-algos", []string{}, "the algorithms are those of golang.org/x/crypto/ssh"},
	{"helm-index-max-size", 50 << 20, "no sources of Helm"},
	{"helm-chart-max-size", 10 << 20, "no sources of Helm"},
	{"helm-chart-file-max-size", 5 << 20, "no sources of Helm"},
	{"helm-cache-max-size", 0, "no sources of Helm"},
	{"helm-cache-ttl", "15m", "no sources of Helm"},
	{"helm-cache-purge-interval", "1m", "no sources of Helm"},
}

// gate is a feature gate of Flux, with what is always so here.
type gate struct {
	name string
	is   bool
	why  string
}

var fluxGates = []gate{ //nolint:gochecknoglobals // a constant table
	{"CacheSecretsAndConfigMaps", false, "Secrets are never cached"},
	{"DisableStatusPollerCache", true, "health is watched, not polled"},
	{"DisableFailFastBehavior", false, "what has failed ends the wait"},
	{"StrictPostBuildSubstitutions", true, "a variable that is not set is an error"},
	{"GroupChangeLog", false, "the change log has a line for each object"},
	{"AdditiveCELDependencyCheck", false, "readyExpr replaces the built-in check"},
	{"ExternalArtifact", false, "no sources of kind ExternalArtifact"},
	{"CancelHealthCheckOnNewRevision", true, "a new revision never waits for the health of an older one"},
	{"DisableConfigWatchers", false, "labelled Secrets and ConfigMaps are watched"},
	{"DirectSourceFetch", false, "sources are read from the watch"},
	{"MigrateAPIVersion", false, "the API server converts"},
	{"ObjectLevelWorkloadIdentity", false, "no workload identity of a cloud"},
}

// check refuses what cannot be served without saying something else than was asked for.
func (o *fluxOptions) check() error {
	if _, err := labels.Parse(o.watchLabelSelector); err != nil {
		return wrongUse("--watch-label-selector %q is no label selector", o.watchLabelSelector).Fix("write for instance sharding.fluxcd.io/key=shard1")
	}
	if o.besideFlux && o.watchLabelSelector == "" {
		return wrongUse("--beside-flux without --watch-label-selector: both would reconcile the same objects").Fix("select by a label, as in sharding.fluxcd.io/key=sealock")
	}
	if err := o.fluxDelivery.check(); err != nil {
		return err
	}
	_, err := parseGates(o.featureGates)
	return err
}

// limit sets how fast the API server may be asked.
func (o *fluxOptions) limit(config *rest.Config) {
	config.QPS = -1 // the API server's own fairness is the limit
	if o.qps > 0 {
		config.QPS, config.Burst = o.qps, o.burst
	}
}

// parseGates reads Name=true,Name=false. A name that Flux does not have is an error.
func parseGates(text string) (map[string]bool, error) {
	set := map[string]bool{}
	for _, each := range strings.FieldsFunc(text, func(r rune) bool { return r == ',' }) {
		name, value, _ := strings.Cut(strings.TrimSpace(each), "=")
		on, err := strconv.ParseBool(strings.TrimSpace(value))
		if err != nil {
			return nil, wrongUse("--feature-gates: %q is not Name=true or Name=false", each).Fix("write for instance GroupChangeLog=true")
		}
		if !slices.ContainsFunc(fluxGates, func(g gate) bool { return g.name == name }) {
			return nil, wrongUse("--feature-gates: there is no gate %q", name).Fix("leave it out")
		}
		set[name] = on
	}
	return set, nil
}

// sayWhatChangesNothing logs one line for each flag that is set and has no effect, with the reason.
func (o *fluxOptions) sayWhatChangesNothing(log logr.Logger, flags *pflag.FlagSet) {
	for _, a := range acceptedFlags {
		if f := flags.Lookup(a.name); f != nil && f.Changed && f.Value.String() != f.DefValue {
			log.Info("flag without effect", "flag", a.name, "why", a.why)
		}
	}
	gates, err := parseGates(o.featureGates)
	if err != nil {
		return // check has refused it
	}
	for _, g := range fluxGates {
		if on, set := gates[g.name]; set && on != g.is {
			log.Info("feature gate without effect", "gate", g.name, "why", g.why)
		}
	}
}
