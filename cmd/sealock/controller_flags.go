package main

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	ctrl "sigs.k8s.io/controller-runtime"

	"sealock.dev/sealock/fault"
	"sealock.dev/sealock/internal/buildinfo"
	"sealock.dev/sealock/pipeline"
	"sealock.dev/sealock/source"
	"sealock.dev/sealock/tenants"
)

// controllerOptions are the flags of `sealock controller`.
type controllerOptions struct {
	kubeconfig         string
	namespace          string
	platformNamespaces []string
	cacheDir           string
	cacheSize          resource.QuantityValue
	concurrent         int
	leaderElect        bool
	logLevel           string

	webhookAddr, webhookURL              string
	healthAddr, metricsAddr, pprofAddr   string
	sealingAddr, artifactAddr, advertise string
	artifactAnonymous                    []string
	keyBits                              int
	keyRenewal                           time.Duration

	fluxOptions
	flags *pflag.FlagSet // which of them were set
}

func newControllerCommand() *cobra.Command {
	o := controllerOptions{}
	cmd := &cobra.Command{
		Use:   "controller",
		Short: "Run everything in one process: reconcilers, admission webhook, sealing",
		Long: `Run everything in one process, in a cluster or beside it.

In a cluster the Deployment of "sealock install" runs it. Outside, name a kubeconfig, and let the API server reach the
webhook by URL.

The flags of Flux's kustomize-controller and source-controller are accepted. One that changes nothing here is logged with
the reason. While such a controller is live the process refuses to start: see "sealock adopt flux".`,
		Example: `  # beside a cluster, after: sealock install --apply --webhook-url https://127.0.0.1:9443
  sealock controller --kubeconfig ~/.kube/config --webhook-addr 127.0.0.1:9443 --webhook-url https://127.0.0.1:9443`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return runController(cmd.Context(), o) },
	}
	f := cmd.Flags()
	o.flags = f
	o.bindAll(f)
	return cmd
}

func (o *controllerOptions) bindAll(f *pflag.FlagSet) {
	o.bind(f)
	f.StringVar(&o.kubeconfig, "kubeconfig", "", "Path of a kubeconfig; by default the service account of the pod, else as kubectl finds it.")
	f.StringVar(&o.namespace, "namespace", "", "Namespace of this installation; by default $POD_NAMESPACE, else sealock-system.")
	f.StringSliceVar(&o.platformNamespaces, "platform-namespaces", tenants.DefaultSettings().PlatformNamespaces, "Namespaces whose objects act as the platform when they name no service account.")
	f.StringVar(&o.cacheDir, "cache-dir", "", "Folder for bare Git repositories and artifacts, which hold what Git holds; by default one below the temporary folder.")
	o.cacheSize.Quantity = *resource.NewQuantity(source.DefaultLimits().Disk, resource.BinarySI)
	f.Var(&o.cacheSize, "cache-size", "How much of the disk that folder may take, artifacts and what arrives included; what was not used for longest goes first.")
	f.IntVar(&o.concurrent, "concurrent", 4, "How many objects of one kind are reconciled at a time.")
	f.BoolVar(&o.leaderElect, "leader-elect", true, "Reconcile only while holding the Lease sealock-controller; the webhook and the certificate are served by every replica.")
	f.BoolVar(&o.leaderElect, "enable-leader-election", true, "The same as --leader-elect.")
	f.StringVar(&o.logLevel, "log-level", "info", "trace, debug, info or error.")
	f.StringVar(&o.webhookAddr, "webhook-addr", ":9443", "Where the admission webhook listens (HTTPS).")
	f.StringVar(&o.webhookURL, "webhook-url", "", "Address by which the API server reaches the webhook from outside the cluster; by default the Service.")
	f.StringVar(&o.healthAddr, "health-addr", ":9440", "Where /healthz and /readyz are served.")
	f.StringVar(&o.metricsAddr, "metrics-addr", ":8080", "Where /metrics is served.")
	f.StringVar(&o.pprofAddr, "pprof-addr", "", "Where profiles are served, on a loopback address only; by default nowhere. A heap profile holds no value, but names what runs.")
	f.StringVar(&o.sealingAddr, "sealing-addr", ":8081", "Where /v1/cert.pem and /v1/verify are served for kubeseal (HTTP).")
	f.StringVar(&o.artifactAddr, "artifact-addr", ":9090", "Where artifacts are served to those who may get their GitRepository (HTTP).")
	f.StringSliceVar(&o.artifactAnonymous, "artifact-anonymous-namespaces", nil, "Namespaces whose artifacts are served without authentication, for consumers that know none, such as Flux's helm-controller.")
	f.StringVar(&o.artifactAddr, "storage-addr", ":9090", "The same as --artifact-addr.")
	f.StringVar(&o.advertise, "storage-adv-addr", "", "Host and port of artifacts in status.artifact.url; by default the Service sealock-source.")
	f.IntVar(&o.keyBits, "key-size", 4096, "Bits of a sealing key that is made.")
	f.DurationVar(&o.keyRenewal, "key-renew-period", 30*24*time.Hour, "Age at which a new sealing key is made; old ones stay. 0 is never.")
}

// settings are those that say who may do what.
func (o *controllerOptions) settings() tenants.Settings {
	s := tenants.DefaultSettings()
	s.SystemNamespace = cmp.Or(o.namespace, s.SystemNamespace)
	s.PlatformNamespaces = o.platformNamespaces
	s.NoCrossNamespaceRefs, s.DefaultServiceAccount = o.noCrossNamespaceRefs, o.defaultServiceAccount
	return s
}

// runController starts everything and returns when ctx is done and all of it has stopped.
func runController(ctx context.Context, o controllerOptions) error {
	cutEnvironment()
	p, err := o.parts(ctx)
	if err != nil {
		return err
	}
	return p.run(ctx)
}

// parts connects to the cluster and makes everything that does not run by itself. extra are further openers, for tests.
func (o controllerOptions) parts(ctx context.Context, extra ...pipeline.Opener) (*parts, error) {
	if err := o.check(); err != nil {
		return nil, err
	}
	log, err := newLogger(o.logLevel, o.logEncoding)
	if err != nil {
		return nil, err
	}
	if o.cacheSize.Value() <= 0 {
		return nil, wrongUse("--cache-size %q leaves no room", o.cacheSize.String()).Fix("write for instance 3Gi")
	}
	if err := loopback("--pprof-addr", o.pprofAddr); err != nil {
		return nil, err
	}
	ctrl.SetLogger(log)
	if err := o.tellFlags(os.Stderr); err != nil {
		return nil, err
	}
	o.namespace = cmp.Or(o.namespace, os.Getenv("POD_NAMESPACE"))
	settings := o.settings()
	if o.cacheDir == "" {
		o.cacheDir = o.storagePath
	}
	if o.cacheDir == "" {
		o.cacheDir = defaultCacheDir()
	}
	config, err := o.config()
	if err != nil {
		return nil, err
	}
	kube, err := kubernetes.NewForConfig(config)
	if err != nil {
		return nil, fault.New("", fault.Invalid, fault.Ref{}, "the kubeconfig does not describe a cluster")
	}
	if err := refuseBesideFlux(ctx, kube, o.besideFlux, o.watchLabelSelector); err != nil {
		return nil, err
	}
	key, err := installationDigestKey(ctx, kube, settings.SystemNamespace)
	if err != nil {
		return nil, err
	}
	log.Info("starting", "version", buildinfo.Version(), "namespace", settings.SystemNamespace, "platformNamespaces", strings.Join(o.platformNamespaces, ","))
	p := &parts{options: o, settings: settings, config: config, kube: kube, key: key, log: log}
	return p, p.stages(ctx, extra)
}

// tellFlags says which flags change nothing, whatever --log-level is: nothing that was asked for is dropped in silence.
func (o controllerOptions) tellFlags(to io.Writer) error {
	log, err := makeLogger(to, "info", o.logEncoding)
	if err == nil && o.flags != nil {
		o.sayWhatChangesNothing(log, o.flags)
	}
	return err
}

func (o controllerOptions) config() (*rest.Config, error) {
	var config *rest.Config
	var err error
	if o.kubeconfig == "" {
		config, err = rest.InClusterConfig()
	}
	if config == nil {
		rules := clientcmd.NewDefaultClientConfigLoadingRules()
		rules.ExplicitPath = o.kubeconfig
		config, err = clientcmd.NewNonInteractiveDeferredLoadingClientConfig(rules, nil).ClientConfig()
	}
	if err != nil {
		// The cause may quote the file, credentials included.
		return nil, fault.New("", fault.NotFound, fault.Ref{File: o.kubeconfig}, "no way to reach a cluster").Fix("run it in a pod, or name a kubeconfig with --kubeconfig")
	}
	o.limit(config)
	config.UserAgent = fmt.Sprintf("sealock/%s", buildinfo.Version())
	return config, nil
}

// loopback refuses an address that others can reach: profiles are for who is on the machine already.
func loopback(flag, addr string) error {
	if addr == "" {
		return nil
	}
	host, _, err := net.SplitHostPort(addr)
	ip := net.ParseIP(host)
	if err != nil || ip == nil || !ip.IsLoopback() {
		return fault.New("", fault.Invalid, fault.Ref{}, "%s %q is not a loopback address", flag, addr).Fix("use 127.0.0.1:PORT")
	}
	return nil
}
