package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"time"

	"github.com/go-logr/logr"
	"k8s.io/client-go/tools/record"
	"sigs.k8s.io/controller-runtime/pkg/healthz"

	"sealock.dev/sealock/controllers/gitrepository"
	"sealock.dev/sealock/fault"
	"sealock.dev/sealock/notify"
	"sealock.dev/sealock/sealing"
	"sealock.dev/sealock/source"
	"sealock.dev/sealock/tenants"
	"sealock.dev/sealock/webhook"
)

// controllerServiceAccount is the identity of the controller in config/rbac.
const controllerServiceAccount = "sealock-controller"

// addWebhook serves admission on every replica, with a certificate that all of them share.
func (p *parts) addWebhook(ctx context.Context) error {
	hosts := webhook.ServiceHosts(p.settings.SystemNamespace)
	if p.options.webhookURL != "" {
		u, err := url.Parse(p.options.webhookURL)
		if err != nil || u.Scheme != "https" || u.Hostname() == "" {
			return fmt.Errorf("--webhook-url %q is not https://host:port", p.options.webhookURL)
		}
		hosts = append(hosts, u.Hostname())
	}
	certs := &webhook.Certificates{Namespace: p.settings.SystemNamespace, Hosts: hosts, Now: time.Now}
	handler := webhook.NewHandler(webhook.Options{
		Engine:  p.policies,
		Tenants: func() *tenants.Index { return p.registry.Index() },
		Exempt:  []string{tenants.ServiceAccountUser(p.settings.SystemNamespace, controllerServiceAccount), p.settings.PlatformUser()},
		Observe: func(a webhook.Answer) {
			if !a.Allowed {
				p.log.WithName("webhook").Info("denied", "object", a.Ref.String(), "operation", a.Operation, "user", a.User, "tenant", a.Tenant, "violations", len(a.Denials), "failure", a.Failure)
			}
		},
	})
	mux := http.NewServeMux()
	mux.Handle(webhook.Path, handler)
	server := &http.Server{
		Addr: p.options.webhookAddr, Handler: mux, ReadHeaderTimeout: 5 * time.Second,
		TLSConfig: &tls.Config{MinVersion: tls.VersionTLS12, GetCertificate: certs.GetCertificate},
	}
	if err := p.mgr.Add(everywhere(func(ctx context.Context) error {
		keep(ctx, p.log.WithName("webhook"), "the serving certificate", func(ctx context.Context) error { return certs.Ensure(ctx, p.mgr.GetClient()) })
		return nil
	})); err != nil {
		return err
	}
	ready := func(*http.Request) error {
		if _, err := certs.GetCertificate(nil); err != nil {
			return errors.New("no serving certificate yet")
		}
		if p.policies.Snapshot() == nil {
			return errors.New("policies are not loaded yet")
		}
		return nil
	}
	if err := p.mgr.AddReadyzCheck("webhook", ready); err != nil {
		return err
	}
	return p.mgr.Add(serve(server))
}

// addEvents posts what the controllers of Flux's kinds tell, on every replica.
func (p *parts) addEvents(context.Context) error {
	instance, err := os.Hostname()
	if err != nil {
		return fmt.Errorf("reading the name of this host: %w", err)
	}
	p.poster, err = notify.New(notify.Options{
		Address: p.options.eventsAddr, Instance: instance, Scheme: p.mgr.GetScheme(), Log: p.log.WithName("events"), Proxy: http.ProxyFromEnvironment,
	})
	if err != nil {
		return fault.New("", fault.Invalid, fault.Ref{}, "--events-addr: %w", err).Fix("write for instance http://notification-controller.flux-system.svc.cluster.local./")
	}
	return p.mgr.Add(everywhere(p.poster.Start))
}

// recorder tells events under the name of the controller of Flux whose kind it is: clients look for that.
func (p *parts) recorder(controller string) record.EventRecorder {
	return p.poster.Recorder(controller, p.mgr.GetEventRecorderFor(controller)) //nolint:staticcheck // core events are what kubectl and flux read
}

// keep keeps something as it should be, until ctx is done.
func keep(ctx context.Context, log logr.Logger, what string, ensure func(context.Context) error) {
	const often, retry = 10 * time.Minute, 2 * time.Second
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
		}
		next := often
		if err := ensure(ctx); err != nil && ctx.Err() == nil {
			log.Error(err, what+" is not in order")
			next = retry
		}
		timer.Reset(next)
	}
}

// addServers serves the certificate for kubeseal, artifacts, and the probes.
func (p *parts) addServers(context.Context) error {
	p.artifacts.Serve(func() bool {
		select {
		case <-p.mgr.Elected():
			return true
		default:
			return false
		}
	}, func(ctx context.Context, o source.Owner, name string) bool {
		return gitrepository.Named(ctx, p.mgr.GetClient(), o, name)
	})
	for _, s := range []struct {
		addr    string
		handler http.Handler
	}{
		{p.options.sealingAddr, sealing.NewHandler(p.ring)},
		{p.options.artifactAddr, p.artifacts.Handler(authorizeArtifact(p.kube, p.options.artifactAnonymous))},
	} {
		if err := p.mgr.Add(serve(&http.Server{Addr: s.addr, Handler: s.handler, ReadHeaderTimeout: 5 * time.Second, ReadTimeout: time.Minute})); err != nil {
			return err
		}
	}
	ready := func(*http.Request) error {
		if !p.ring.Ready() {
			return errors.New("no sealing key yet")
		}
		return nil
	}
	return errors.Join(p.mgr.AddHealthzCheck("ping", healthz.Ping), p.mgr.AddReadyzCheck("sealing", ready))
}

// serve runs a server on every replica, and lets it finish its requests at the end.
func serve(server *http.Server) everywhere {
	return func(ctx context.Context) error {
		listener, err := (&net.ListenConfig{}).Listen(ctx, "tcp", server.Addr)
		if err != nil {
			return fmt.Errorf("listening on %s: %w", server.Addr, err)
		}
		ended := make(chan error, 1)
		go func() {
			if server.TLSConfig != nil {
				ended <- server.ServeTLS(listener, "", "")
				return
			}
			ended <- server.Serve(listener)
		}()
		select {
		case err := <-ended:
			return err
		case <-ctx.Done():
		}
		last, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
		defer cancel()
		return server.Shutdown(last)
	}
}

// artifactHost is the host and port in the URLs of artifacts.
func (o controllerOptions) artifactHost(namespace string) string {
	if o.advertise != "" {
		return o.advertise
	}
	if host, port, err := net.SplitHostPort(o.artifactAddr); err == nil && host != "" {
		return net.JoinHostPort(host, port)
	}
	return fmt.Sprintf("%s.%s.svc.cluster.local.:9090", artifactService, namespace)
}

// defaultCacheDir is where the Deployment has room for it, else below the temporary folder.
func defaultCacheDir() string {
	const mounted = "/var/cache/sealock"
	if info, err := os.Stat(mounted); err == nil && info.IsDir() {
		return mounted
	}
	return filepath.Join(os.TempDir(), "sealock")
}
