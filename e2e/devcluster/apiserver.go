package main

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/pflag"
	utilerrors "k8s.io/apimachinery/pkg/util/errors"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/klog/v2"
	"k8s.io/klog/v2/textlogger"
	"k8s.io/kubernetes/cmd/kube-apiserver/app"
	"k8s.io/kubernetes/cmd/kube-apiserver/app/options"
)

const serviceCIDR = "10.0.0.0/16"

// firstServiceIP is the address that the Service kubernetes gets, named in the server's certificate.
var firstServiceIP = net.IPv4(10, 0, 0, 1)

// auditPolicy logs every request once when it ends, and a watch also when it begins (it may never end). Who counts
// requests counts the lines with stage ResponseComplete.
const auditPolicy = `apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived]
rules:
- level: Metadata
`

// apiserverArgs are the flags of a small cluster. No endpoint reconciler runs: Kubernetes refuses loopback addresses in
// Endpoints, so the Service kubernetes has none.
func apiserverArgs(p *pki, etcdURL string, port int) []string {
	return []string{
		"--etcd-servers=" + etcdURL,
		"--bind-address=127.0.0.1",
		fmt.Sprintf("--secure-port=%d", port),
		"--advertise-address=127.0.0.1",
		"--endpoint-reconciler-type=none",
		"--tls-cert-file=" + p.file("apiserver.crt"),
		"--tls-private-key-file=" + p.file("apiserver.key"),
		"--client-ca-file=" + p.file("ca.crt"),
		"--authorization-mode=RBAC",
		"--service-account-issuer=https://kubernetes.default.svc.cluster.local",
		"--service-account-key-file=" + p.file("sa.key"),
		"--service-account-signing-key-file=" + p.file("sa.key"),
		"--service-cluster-ip-range=" + serviceCIDR,
		"--allow-privileged=true",
		"--profiling=false",
	}
}

// auditArgs append to the log of an earlier up and never rotate it: tests count its lines.
func auditArgs(dir string) ([]string, error) {
	policy := filepath.Join(dir, "audit-policy.yaml")
	if err := writeFileAtomic(policy, []byte(auditPolicy)); err != nil {
		return nil, err
	}
	return []string{
		"--audit-policy-file=" + policy,
		"--audit-log-path=" + filepath.Join(dir, "audit.log"),
		"--audit-log-mode=blocking",
		"--audit-log-maxsize=100000",
	}, nil
}

// startAPIServer runs kube-apiserver in this process on the given listener and returns when /readyz says ok.
func startAPIServer(ctx context.Context, parts *stack, ln net.Listener, args []string, admin *rest.Config, logFile string) error {
	log, err := openLog(logFile)
	if err != nil {
		return err
	}
	// All of Kubernetes' libraries in this process log through klog.
	klog.SetLoggerWithOptions(textlogger.NewLogger(textlogger.NewConfig(textlogger.Output(log))), klog.ContextualLogger(true))
	rest.SetDefaultWarningHandler(rest.NoWarnings{})

	completed, err := completeOptions(ctx, ln, args)
	if err != nil {
		ln.Close()
		return fmt.Errorf("kube-apiserver refuses its flags: %w", err)
	}
	parts.run("kube-apiserver", logFile, func(ctx context.Context) error {
		defer log.Close()
		return app.Run(ctx, completed)
	})
	if err := waitReadyz(ctx, parts, admin); err != nil {
		return fmt.Errorf("kube-apiserver is not ready: %w (see %s)", err, logFile)
	}
	return nil
}

func completeOptions(ctx context.Context, ln net.Listener, args []string) (options.CompletedOptions, error) {
	s := options.NewServerRunOptions()
	flags := pflag.NewFlagSet("kube-apiserver", pflag.ContinueOnError)
	for _, set := range s.Flags().FlagSets {
		flags.AddFlagSet(set)
	}
	if err := flags.Parse(args); err != nil {
		return options.CompletedOptions{}, err
	}
	s.SecureServing.Listener = ln
	if err := s.GenericServerRunOptions.ComponentGlobalsRegistry.Set(); err != nil {
		return options.CompletedOptions{}, err
	}
	completed, err := s.Complete(ctx)
	if err != nil {
		return completed, err
	}
	return completed, utilerrors.NewAggregate(completed.Validate())
}

// waitReadyz waits for the API server's own verdict, hooks included.
func waitReadyz(ctx context.Context, parts *stack, config *rest.Config) error {
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		return err
	}
	return parts.poll(ctx, func(ctx context.Context) error {
		var status int
		result := client.RESTClient().Get().AbsPath("/readyz").Do(ctx).StatusCode(&status)
		if err := result.Error(); err != nil {
			return err
		}
		if status != http.StatusOK {
			return fmt.Errorf("/readyz answers %d", status)
		}
		return nil
	})
}

// openLog opens a log for appending, so that the logs of earlier ups stay readable.
func openLog(path string) (*os.File, error) {
	return os.OpenFile(path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
}

// pollInterval is how often a condition is looked at while something starts.
const pollInterval = 50 * time.Millisecond
