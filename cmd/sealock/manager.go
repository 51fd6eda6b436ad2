package main

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/go-logr/logr"
	"go.uber.org/zap/zapcore"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/selection"
	"k8s.io/apimachinery/pkg/types"
	clientgoscheme "k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"
	"k8s.io/klog/v2"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/config"
	"sigs.k8s.io/controller-runtime/pkg/log/zap"
	metricsserver "sigs.k8s.io/controller-runtime/pkg/metrics/server"

	externalsecretsv1 "sealock.dev/sealock/api/externalsecrets/v1"
	sealingv1 "sealock.dev/sealock/api/sealing/v1alpha1"
	"sealock.dev/sealock/api/sealock/v1alpha1"
	"sealock.dev/sealock/controllers/gitrepository"
	"sealock.dev/sealock/controllers/kustomization"
	"sealock.dev/sealock/fault"
	"sealock.dev/sealock/tenants"
)

// gracePeriod is how long runs may go on after a stop was asked for. The Deployment allows more.
const gracePeriod = 30 * time.Second

// leaseName is held by the replica that reconciles. A shard's has a hash of its selector behind it.
const leaseName = "sealock-controller"

// newManager returns a manager whose cache holds our kinds and little else: Secrets and ConfigMaps are never cached
// whole, and only the role bindings of tenants are.
func newManager(cfg *rest.Config, o controllerOptions, settings tenants.Settings) (ctrl.Manager, error) {
	scheme, err := newScheme()
	if err != nil {
		return nil, err
	}
	ofTenants, err := labels.NewRequirement(v1alpha1.TenantLabel, selection.Exists, nil)
	if err != nil {
		return nil, fmt.Errorf("selecting by the tenant label: %w", err)
	}
	byObject, err := o.watched(scheme, settings)
	if err != nil {
		return nil, err
	}
	byObject[&rbacv1.RoleBinding{}] = cache.ByObject{Label: labels.NewSelector().Add(*ofTenants)}
	grace := gracePeriod
	recoverPanic := true
	return ctrl.NewManager(cfg, ctrl.Options{
		Scheme:                        scheme,
		NewCache:                      newEarlyCache,
		Metrics:                       metricsserver.Options{BindAddress: o.metricsAddr},
		HealthProbeBindAddress:        o.healthAddr,
		PprofBindAddress:              o.pprofAddr,
		LeaderElection:                o.leaderElect,
		LeaderElectionID:              o.leaseName(),
		LeaderElectionNamespace:       settings.SystemNamespace,
		LeaderElectionReleaseOnCancel: o.releaseOnCancel,
		LeaseDuration:                 positive(o.leaseDuration),
		RenewDeadline:                 positive(o.renewDeadline),
		RetryPeriod:                   positive(o.retryAfter),
		GracefulShutdownTimeout:       &grace,
		Controller:                    config.Controller{RecoverPanic: &recoverPanic},
		Cache: cache.Options{
			DefaultTransform: cache.TransformStripManagedFields(),
			ByObject:         byObject,
		},
		Client: client.Options{Cache: &client.CacheOptions{DisableFor: []client.Object{&corev1.Secret{}, &corev1.ConfigMap{}}, Unstructured: true}},
	})
}

// earlyCache is started before the manager, which finds it running: tenants and policies are read from it before anything
// else runs.
type earlyCache struct{ cache.Cache }

func newEarlyCache(cfg *rest.Config, options cache.Options) (cache.Cache, error) {
	c, err := cache.New(cfg, options)
	return earlyCache{c}, err
}

// Start waits for the end. It is the manager's; begin is ours.
func (c earlyCache) Start(ctx context.Context) error {
	<-ctx.Done()
	return nil
}

// begin fills the cache until ctx is done.
func (c earlyCache) begin(ctx context.Context) error { return c.Cache.Start(ctx) }

// watched limits the cache to the Kustomizations and GitRepositories that this instance serves.
func (o controllerOptions) watched(scheme *runtime.Scheme, settings tenants.Settings) (map[client.Object]cache.ByObject, error) {
	only := cache.ByObject{}
	if o.watchLabelSelector != "" {
		selector, err := labels.Parse(o.watchLabelSelector)
		if err != nil {
			return nil, err
		}
		only.Label = selector
	}
	if o.flags != nil && !o.watchAllNamespaces {
		only.Namespaces = map[string]cache.Config{o.runtimeNamespace(settings): {}}
	}
	byObject := map[client.Object]cache.ByObject{}
	for _, gv := range [][3]string{{kustomizeGroup, "v1", "Kustomization"}, {sourceGroup, "v1", "GitRepository"}} {
		object, err := newObject(scheme, schema.GroupVersionKind{Group: gv[0], Version: gv[1], Kind: gv[2]})
		if err != nil {
			return nil, err
		}
		byObject[object] = only
	}
	return byObject, nil
}

// runtimeNamespace is where the process runs, as Flux's manifests tell it.
func (o controllerOptions) runtimeNamespace(settings tenants.Settings) string {
	if namespace := os.Getenv("RUNTIME_NAMESPACE"); namespace != "" {
		return namespace
	}
	return settings.SystemNamespace
}

// newObject makes an empty object of a kind of Flux, whose types only the controllers of those kinds import.
func newObject(scheme *runtime.Scheme, kind schema.GroupVersionKind) (client.Object, error) {
	made, err := scheme.New(kind)
	if err != nil {
		return nil, err
	}
	object, ok := made.(client.Object)
	if !ok {
		return nil, fmt.Errorf("%s is no kind of objects", kind)
	}
	return object, nil
}

// sharded reports whether there may be Kustomizations that this instance does not serve.
func (o controllerOptions) sharded() bool {
	return o.watchLabelSelector != "" || o.flags != nil && !o.watchAllNamespaces
}

// ofThisShard reports whether the Kustomization is served here. The live view sees the objects of all of them.
func (p *parts) ofThisShard(ctx context.Context, key types.NamespacedName) bool {
	if !p.options.sharded() {
		return true
	}
	object, err := newObject(p.mgr.GetScheme(), schema.GroupVersionKind{Group: kustomizeGroup, Version: "v1", Kind: "Kustomization"})
	return err == nil && p.mgr.GetClient().Get(ctx, key, object) == nil
}

// leaseName is that of the instance: shards have one each.
func (o controllerOptions) leaseName() string {
	if o.watchLabelSelector == "" {
		return leaseName
	}
	sum := sha256.Sum256([]byte(o.watchLabelSelector))
	return leaseName + "-" + hex.EncodeToString(sum[:4])
}

// positive returns nil for zero, which leaves the default to the manager.
func positive(d time.Duration) *time.Duration {
	if d <= 0 {
		return nil
	}
	return &d
}

func newScheme() (*runtime.Scheme, error) {
	scheme := runtime.NewScheme()
	for _, add := range []func(*runtime.Scheme) error{
		clientgoscheme.AddToScheme, v1alpha1.AddToScheme, sealingv1.AddToScheme, externalsecretsv1.AddToScheme,
		gitrepository.AddToScheme, kustomization.AddToScheme,
	} {
		if err := add(scheme); err != nil {
			return nil, fmt.Errorf("registering kinds: %w", err)
		}
	}
	return scheme, nil
}

// newLogger returns the logger of the process, and has client-go log by it.
func newLogger(level, encoding string) (logr.Logger, error) {
	log, err := makeLogger(os.Stderr, level, encoding)
	if err == nil {
		klog.SetLogger(log.WithName("client-go"))
	}
	return log, err
}

// makeLogger returns a logger that writes what readers of Flux's logs know: one JSON object a line with ts, level, msg,
// error, logger, controllerKind, name and namespace, or the same for people.
func makeLogger(to io.Writer, level, encoding string) (logr.Logger, error) {
	var at zapcore.Level
	if level == "trace" {
		at = zapcore.DebugLevel - 1
	} else if err := at.UnmarshalText([]byte(level)); err != nil {
		return logr.Logger{}, fault.New("", fault.Invalid, fault.Ref{}, "--log-level %q is no level", level).Fix("use trace, debug, info or error")
	}
	encoder := zap.JSONEncoder(logKeys)
	switch encoding {
	case "json", "":
	case "console":
		encoder = zap.ConsoleEncoder(logKeys)
	default:
		return logr.Logger{}, fault.New("", fault.Invalid, fault.Ref{}, "--log-encoding %q is no encoding", encoding).Fix("use json or console")
	}
	return zap.New(zap.WriteTo(to), zap.Level(at), encoder, zap.StacktraceLevel(zapcore.PanicLevel)), nil
}

// logKeys names the keys of a line as Flux does, where zap does not already.
func logKeys(c *zapcore.EncoderConfig) {
	c.TimeKey = "ts"
	c.EncodeTime = zapcore.RFC3339NanoTimeEncoder
}
