package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"
	"time"

	"github.com/go-logr/logr"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/metrics"

	"sealock.dev/sealock/cluster"
	"sealock.dev/sealock/controllers/externalsecret"
	"sealock.dev/sealock/controllers/gitrepository"
	"sealock.dev/sealock/controllers/kustomization"
	"sealock.dev/sealock/controllers/policy"
	"sealock.dev/sealock/controllers/sealedsecret"
	"sealock.dev/sealock/controllers/tenant"
	"sealock.dev/sealock/decrypt"
	"sealock.dev/sealock/externalsecrets"
	"sealock.dev/sealock/notify"
	"sealock.dev/sealock/pipeline"
	"sealock.dev/sealock/plaintext"
	"sealock.dev/sealock/policies"
	"sealock.dev/sealock/sealing"
	"sealock.dev/sealock/source"
	"sealock.dev/sealock/template"
	"sealock.dev/sealock/tenants"
	"sealock.dev/sealock/vault"
)

// parts is everything that runs in the controller, put together by run. Each field is made once and shared.
type parts struct {
	options  controllerOptions
	settings tenants.Settings
	config   *rest.Config
	kube     kubernetes.Interface
	key      plaintext.Key
	log      logr.Logger

	mgr          ctrl.Manager
	access       access
	registry     *tenant.Registry
	records      *cluster.Records
	cluster      *cluster.Client
	remotes      *cluster.Remotes
	policies     *policies.Engine
	ring         *sealing.KeyRing
	sealed       *sealing.Opener
	external     *externalsecrets.Opener
	engine       *pipeline.Engine
	repositories *source.Repositories
	artifacts    *source.Storage
	requeue      chan types.NamespacedName
	poster       *notify.Poster
	durations    durations
	commits      *kustomization.Reconciler
	unseal       *sealedsecret.Reconciler
	judges       *policy.Reconciler
}

// run is THE LIST of everything that runs in one process.
func (p *parts) run(ctx context.Context) error {
	var err error
	if p.mgr, err = newManager(p.config, p.options, p.settings); err != nil {
		return fmt.Errorf("making the manager: %w", err)
	}
	for _, part := range []struct {
		name string
		add  func(context.Context) error
	}{
		{"events", p.addEvents},                    // posted as well, to --events-addr
		{"tenants", p.addTenants},                  // the index that every grant comes from
		{"policies", p.addPolicies},                // that everything is judged by
		{"sources", p.addSources},                  // GitRepository
		{"commits", p.addCommits},                  // Kustomization
		{"sealed secrets", p.addSealedSecrets},     // SealedSecret, key ring
		{"external secrets", p.addExternalSecrets}, // ExternalSecret, SecretStore, ClusterSecretStore
		{"webhook", p.addWebhook},                  // admission; on every replica
		{"servers", p.addServers},                  // certificate, artifacts, probes
	} {
		if p.options.deliveryOnly && slices.Contains(elsewhere, part.name) {
			continue
		}
		if err := part.add(ctx); err != nil {
			return fmt.Errorf("adding the %s: %w", part.name, err)
		}
	}
	end := p.fillCache(ctx)
	defer end()
	if err := p.learn(ctx); err != nil {
		return err
	}
	p.log.Info("running")
	if err := p.mgr.Start(ctx); err != nil {
		return fmt.Errorf("the controller stopped: %w", err)
	}
	p.log.Info("stopped")
	return nil
}

// fillCache starts the cache, which outlives what the manager runs.
func (p *parts) fillCache(ctx context.Context) (end func()) {
	early, ok := p.mgr.GetCache().(earlyCache)
	if !ok {
		return func() {}
	}
	ctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		if err := early.begin(ctx); err != nil {
			p.log.Error(err, "filling the cache")
		}
	}()
	return func() {
		cancel()
		<-ended
	}
}

// learnTime is how long the API server may take to list tenants and policies at a start.
const learnTime = time.Minute

// learn reads tenants and policies before anything runs: an index without tenants would let everybody through every
// fence, and policies are compiled before anything is judged. It takes them from the watches that keep them.
func (p *parts) learn(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, learnTime)
	defer cancel()
	if !p.mgr.GetCache().WaitForCacheSync(ctx) {
		return errors.New("the API server did not list what is to be watched in time; the log says what it answered")
	}
	if _, err := p.registry.Reload(ctx, p.mgr.GetCache()); err != nil {
		return err
	}
	return p.judges.Load(ctx, p.mgr.GetCache())
}

// elsewhere are the parts that a shard leaves to the instance which runs everything. It keeps what a commit needs: tenants,
// policies, the sealing keys, artifacts.
var elsewhere = []string{"external secrets", "webhook"} //nolint:gochecknoglobals // a constant table

// stages makes the stages of the pipeline, and the engine over them.
func (p *parts) stages(ctx context.Context, extra []pipeline.Opener) (err error) {
	p.access = access{kube: p.kube}
	p.registry = tenant.NewRegistry(p.settings)
	p.requeue = make(chan types.NamespacedName, 1024)
	if p.records, err = cluster.NewRecords(p.config, p.settings.SystemNamespace, p.log.WithName("records")); err != nil {
		return err
	}
	if p.cluster, err = cluster.New(ctx, cluster.Options{
		Config: p.config, Key: p.key, Baselines: p.records, SecretVersion: p.secretVersion,
		OverrideManagers: p.options.overrideManagers, StageKinds: p.options.stageKinds,
	}); err != nil {
		return err
	}
	p.remotes = cluster.NewRemotes(ctx, cluster.Options{Key: p.key, OverrideManagers: p.options.overrideManagers, StageKinds: p.options.stageKinds}, func(e cluster.Event) { p.disturbed(ctx, e) })
	p.policies = policies.NewEngine(policies.Options{Key: p.key, Now: time.Now})
	dir, limits := p.options.cacheDir, source.DefaultLimits()
	limits.Disk = p.options.cacheSize.Value()
	if p.repositories, err = source.NewRepositories(filepath.Join(dir, "git"), p.key, limits); err != nil {
		return err
	}
	if p.artifacts, err = source.NewStorage(filepath.Join(dir, "artifacts")); err != nil {
		return err
	}
	if p.durations, err = newDurations(metrics.Registry); err != nil {
		return err
	}
	p.repositories.Share(p.artifacts)
	p.artifacts.Retain(p.options.artifactRecords, p.options.artifactTTL)
	templates := template.Engine{}
	p.ring = sealing.NewKeyRing(p.key)
	p.sealed = sealing.NewOpener(p.ring, templates)
	p.external = &externalsecrets.Opener{
		Providers: []externalsecrets.Provider{externalsecrets.NewVault(vault.New(vault.Options{}))},
		Lookup:    p.cluster,
		Tokens:    serviceAccountTokens{p.cluster},
		Templates: templates,
		Fence:     p.grantFor,
	}
	p.engine = &pipeline.Engine{
		Openers: append([]pipeline.Opener{p.sealed, p.external}, extra...),
		Judge:   p.policies,
		Cluster: p.cluster,
		Key:     p.key,
	}
	return nil
}

func (p *parts) grantFor(namespace string) tenants.Grant {
	return p.registry.Index().GrantFor(namespace)
}

// serviceAccountTokens gives external secrets the tokens that the cluster makes.
type serviceAccountTokens struct{ *cluster.Client }

func (s serviceAccountTokens) ServiceAccountToken(ctx context.Context, namespace, name string, audiences []string) (plaintext.Value, error) {
	return s.Token(ctx, namespace, name, audiences)
}

func (p *parts) addTenants(context.Context) error {
	r := &tenant.Reconciler{
		Client: p.mgr.GetClient(), Registry: p.registry, Changed: p.reconsiderAll,
		Events: p.mgr.GetEventRecorderFor("sealock"), //nolint:staticcheck // core events are what kubectl and flux read
	}
	return r.SetupWithManager(p.mgr)
}

func (p *parts) addPolicies(context.Context) error {
	p.judges = &policy.Reconciler{
		Client: p.mgr.GetClient(), Engine: p.policies, Changed: p.reconsiderAll,
		Events: p.mgr.GetEventRecorderFor("sealock"), //nolint:staticcheck // as above
	}
	return p.judges.SetupWithManager(p.mgr)
}

// reconsiderAll has everything looked at again that a change of tenants or policies may have allowed or forbidden.
func (p *parts) reconsiderAll() {
	go func() { // the queue is bounded, and the caller holds a worker
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		p.unseal.RetryFailed(ctx)
		names, err := kustomization.Names(ctx, p.mgr.GetClient())
		if err != nil {
			p.log.Error(err, "listing what to judge again")
			return
		}
		for _, name := range names {
			select {
			case p.requeue <- name:
			case <-ctx.Done():
				return
			}
		}
	}()
}

func (p *parts) addSources(ctx context.Context) error {
	return gitrepository.New(gitrepository.Options{
		Client: p.mgr.GetClient(), APIReader: p.mgr.GetAPIReader(),
		Repositories: p.repositories, Storage: p.artifacts,
		Grants: p.grantFor,
		Host:   p.options.artifactHost(p.settings.SystemNamespace),
		Events: p.recorder("source-controller"),
		Jitter: p.options.jitter(), Configs: p.options.configs, MinRetry: p.options.minRetry, MaxRetry: p.options.maxRetry,
		Measure: p.durations.of("GitRepository"),
	}).SetupWithManager(p.mgr, p.options.concurrent)
}

func (p *parts) addCommits(ctx context.Context) error {
	p.commits = &kustomization.Reconciler{
		Client: p.mgr.GetClient(), APIReader: p.mgr.GetAPIReader(), Engine: p.engine, Tenants: p.registry.Index, Data: p.access,
		Tree: func(ctx context.Context, namespace, name, revision string) (fs.FS, error) {
			return p.repositories.Open(ctx, namespace, name, revision)
		},
		Decrypter: newDecrypter,
		Remote: func(_ context.Context, c kustomization.RemoteConfig) (pipeline.Cluster, error) {
			return p.remotes.Get(c.ID, c.Config, c.User)
		},
		Tokens: p.cluster.Token,
		Forget: func(namespace, name string) {
			p.cluster.Release(kustomization.OwnerOf(namespace, name))
			p.remotes.Release(namespace, name)
		},
		Contested: p.cluster.View().Contested,
		Unwatched: p.cluster.View().Unwatched,
		Memory:    p.records,
		Snapshot: func() string {
			if s := p.policies.Snapshot(); s != nil {
				return s.ID()
			}
			return ""
		},
		Events:  p.recorder("kustomize-controller"),
		Requeue: p.requeue,
		Jitter:  p.options.jitter(), Configs: p.options.configs, MinRetry: p.options.minRetry, MaxRetry: p.options.maxRetry,
		Sharded:              p.options.sharded(),
		Measure:              p.durations.of("Kustomization"),
		RemoteServiceAccount: p.options.remoteServiceAccount,
		FallbackKeys:         p.options.ageSecret(p.options.runtimeNamespace(p.settings)),
	}
	for _, task := range []leaderTask{p.watchObjects, p.records.Run, p.dropRecords, p.publishEndpoint} {
		if err := p.mgr.Add(task); err != nil {
			return err
		}
	}
	return p.commits.SetupWithManager(ctx, p.mgr, p.options.concurrent)
}

// watchObjects tells Kustomizations of what happened to their objects.
func (p *parts) watchObjects(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case e := <-p.cluster.View().Events():
			p.disturbed(ctx, e)
		}
	}
}

// dropRecords drops what is remembered of Kustomizations that went while nobody looked.
func (p *parts) dropRecords(ctx context.Context) error {
	if p.options.sharded() {
		return nil // what this instance does not see may be another's
	}
	if err := p.records.Load(ctx); err != nil {
		p.log.Error(err, "reading the records; they are read again when they are needed")
		return nil
	}
	owners := p.records.Owners()
	names, err := kustomization.Names(ctx, p.mgr.GetClient())
	if err != nil {
		p.log.Error(err, "listing the Kustomizations")
		return nil
	}
	there := map[string]bool{}
	for _, n := range names {
		there[n.String()] = true
	}
	for _, owner := range owners {
		if !there[owner] {
			p.records.Drop(owner)
		}
	}
	return nil
}

func (p *parts) disturbed(ctx context.Context, e cluster.Event) {
	key := types.NamespacedName{Namespace: e.OwnerNamespace, Name: e.OwnerName}
	if !p.ofThisShard(ctx, key) {
		return
	}
	p.commits.Disturbed(key, e.Kind.Mend())
	select {
	case p.requeue <- key:
	case <-ctx.Done():
	}
}

// secretVersion is the version of a Secret that the watch of the sealed secrets' controller shows.
func (p *parts) secretVersion(namespace, name string) (string, bool) {
	if p.unseal == nil || p.options.deliveryOnly { // a shard has no such watch
		return "", false
	}
	return p.unseal.SecretVersion(context.Background(), namespace, name) // from the cache
}

// newDecrypter makes the opener of SOPS files of one Kustomization.
func newDecrypter(d kustomization.Decryption) (pipeline.FileOpener, error) {
	keys, err := decrypt.ParseKeys(d.KeySource, d.Keys)
	if err != nil {
		return nil, err
	}
	return decrypt.New(decrypt.Options{Dir: d.Dir, Components: d.Components, Keys: keys, Recipients: d.Recipients, Tenant: d.Tenant}), nil
}

func (p *parts) addSealedSecrets(context.Context) error {
	p.unseal = sealedsecret.New(sealedsecret.Options{
		Client: p.mgr.GetClient(), Ring: p.ring, Opener: p.sealed, Writer: p.cluster, Grants: p.grantFor,
		Events: p.mgr.GetEventRecorderFor("sealed-secrets"), //nolint:staticcheck // as above
		Memory: p.records.Notes("sealedsecret"),
	})
	renewal := p.options.keyRenewal
	if p.options.deliveryOnly {
		renewal = 0
	}
	keys := &sealedsecret.KeyStore{
		Namespace: p.settings.SystemNamespace, Ring: p.ring, Bits: p.options.keyBits, RenewAfter: renewal, Changed: p.unseal.RetryFailed,
	}
	if err := keys.SetupWithManager(p.mgr); err != nil {
		return err
	}
	if p.options.deliveryOnly {
		return nil // the other instance unseals what is no part of a commit
	}
	return p.unseal.SetupWithManager(p.mgr, p.options.concurrent)
}

func (p *parts) addExternalSecrets(ctx context.Context) error {
	p.external.Lookup = externalsecret.Lookup{Lookup: p.cluster, Cache: p.mgr.GetCache()}
	return externalsecret.New(externalsecret.Options{
		Client: p.mgr.GetClient(), Opener: p.external, Writer: p.cluster, Grants: p.grantFor,
		Events: p.mgr.GetEventRecorderFor("external-secrets"), //nolint:staticcheck // as above
		Memory: p.records.Notes("externalsecret"),
	}).SetupWithManager(ctx, p.mgr, p.options.concurrent)
}

// leaderTask is a function that runs on the leader until ctx is done.
type leaderTask func(ctx context.Context) error

func (f leaderTask) Start(ctx context.Context) error { return f(ctx) }

// everywhere is a function that runs on every replica until ctx is done.
type everywhere func(ctx context.Context) error

func (f everywhere) Start(ctx context.Context) error { return f(ctx) }

// NeedLeaderElection says that every replica runs it.
func (everywhere) NeedLeaderElection() bool { return false }
