package main

import (
	"fmt"
	"time"

	"github.com/go-logr/logr"
	"go.uber.org/zap/zapcore"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/selection"
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
	grace := gracePeriod
	recoverPanic := true
	return ctrl.NewManager(cfg, ctrl.Options{
		Scheme:                        scheme,
		Metrics:                       metricsserver.Options{BindAddress: o.metricsAddr},
		HealthProbeBindAddress:        o.healthAddr,
		LeaderElection:                o.leaderElect,
		LeaderElectionID:              "sealock-controller",
		LeaderElectionNamespace:       settings.SystemNamespace,
		LeaderElectionReleaseOnCancel: true,
		GracefulShutdownTimeout:       &grace,
		Controller:                    config.Controller{RecoverPanic: &recoverPanic},
		Cache: cache.Options{
			DefaultTransform: cache.TransformStripManagedFields(),
			ByObject:         map[client.Object]cache.ByObject{&rbacv1.RoleBinding{}: {Label: labels.NewSelector().Add(*ofTenants)}},
		},
		Client: client.Options{Cache: &client.CacheOptions{DisableFor: []client.Object{&corev1.Secret{}, &corev1.ConfigMap{}}, Unstructured: true}},
	})
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

// newLogger returns a logger that writes one JSON object a line, with the keys that readers of Flux's logs know.
func newLogger(level string) (logr.Logger, error) {
	var at zapcore.Level
	if err := at.UnmarshalText([]byte(level)); err != nil {
		return logr.Logger{}, fault.New("", fault.Invalid, fault.Ref{}, "--log-level %q is no level", level).Fix("use debug, info or error")
	}
	encoder := func(c *zapcore.EncoderConfig) {
		c.TimeKey = "ts"
		c.EncodeTime = zapcore.RFC3339NanoTimeEncoder
	}
	log := zap.New(zap.Level(at), zap.JSONEncoder(encoder), zap.StacktraceLevel(zapcore.PanicLevel))
	klog.SetLogger(log.WithName("client-go"))
	return log, nil
}
