package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"time"

	"github.com/spf13/pflag"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	corev1client "k8s.io/client-go/kubernetes/typed/core/v1"
	"k8s.io/client-go/rest"

	"sealock.dev/sealock/controllers/sealedsecret"
	"sealock.dev/sealock/fault"
	"sealock.dev/sealock/sealing"
)

const (
	certificateTimeout = 30 * time.Second
	maxCertificate     = 1 << 20
)

// certificateSource says where the certificate comes from.
type certificateSource struct {
	cert            string
	namespace, name string
	config          func() (*rest.Config, error)
	progress        io.Writer // never stdout, which may be a file that goes to Git
}

// fromEnvironment takes what kubeseal takes from it, where no flag was given.
func (s *certificateSource) fromEnvironment(flags *pflag.FlagSet) {
	for flag, target := range map[string]*string{
		"cert": &s.cert, "controller-namespace": &s.namespace, "controller-name": &s.name,
	} {
		env := "SEALED_SECRETS_" + strings.ToUpper(strings.ReplaceAll(flag, "-", "_"))
		if v := os.Getenv(env); v != "" && !flags.Changed(flag) {
			*target = v
		}
	}
}

func (s *certificateSource) certificate(ctx context.Context) (*sealing.Certificate, error) {
	ctx, cancel := context.WithTimeout(ctx, certificateTimeout)
	defer cancel()
	text, from, err := s.read(ctx)
	if err != nil {
		return nil, err
	}
	cert, err := sealing.ParseCertificate(text)
	if err != nil {
		return nil, fault.New("", fault.Invalid, fault.Ref{File: from}, "%w", err).Fix("give the PEM certificate of the cluster, as --fetch-cert prints it")
	}
	fmt.Fprintf(s.progress, "sealing with the %s from %s\n", cert, from)
	return cert, nil
}

func (s *certificateSource) read(ctx context.Context) (text []byte, from string, err error) {
	switch {
	case s.cert == "":
		return s.fromCluster(ctx)
	case strings.HasPrefix(s.cert, "http://"), strings.HasPrefix(s.cert, "https://"):
		text, err = s.fromURL(ctx)
	default:
		path := strings.TrimPrefix(s.cert, "file://")
		if text, err = os.ReadFile(path); err != nil {
			err = fileFault(path, err)
		}
	}
	return text, s.cert, err
}

func (s *certificateSource) fromURL(ctx context.Context) ([]byte, error) {
	if strings.HasPrefix(s.cert, "http://") {
		fmt.Fprintln(s.progress, "warning: over plain http anybody on the way can put in their own certificate, and read what is sealed with it")
	}
	failed := fault.New("", fault.Transient, fault.Ref{File: s.cert}, "the certificate could not be fetched").Fix("check the address, or fetch it with --fetch-cert where it is reachable")
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, s.cert, nil)
	if err != nil {
		return nil, wrongUse("--cert is not a URL").Fix("write https://HOST/v1/cert.pem")
	}
	resp, err := (&http.Client{}).Do(req)
	if err != nil {
		return nil, failed
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		failed.Err = fmt.Errorf("the server answered %d instead of the certificate", resp.StatusCode)
		if resp.StatusCode == http.StatusNotFound {
			failed.Kind = fault.NotFound
		}
		return nil, failed
	}
	text, err := io.ReadAll(io.LimitReader(resp.Body, maxCertificate))
	if err != nil {
		return nil, failed
	}
	return text, nil
}

// fromCluster asks the controller by the service proxy, as kubeseal does, and then the ConfigMap that it publishes: an API
// server outside the cluster's network cannot reach the Service.
func (s *certificateSource) fromCluster(ctx context.Context) ([]byte, string, error) {
	config, err := s.config()
	if err != nil {
		return nil, "", fault.New("", fault.KindOf(err), fault.Ref{}, "no certificate is given and no cluster can be asked: %w", err).
			Fix("give --cert, or a kubeconfig")
	}
	core, err := corev1client.NewForConfig(config)
	if err != nil {
		return nil, "", fault.New("", fault.Invalid, fault.Ref{}, "the kubeconfig is not usable").Fix("give --cert, or another kubeconfig")
	}
	text, proxyErr := s.fromService(ctx, core)
	if proxyErr == nil {
		return text, "the Service " + s.namespace + "/" + s.name, nil
	}
	name := s.namespace + "/" + sealedsecret.CertificateConfigMap
	cm, err := core.ConfigMaps(s.namespace).Get(ctx, sealedsecret.CertificateConfigMap, metav1.GetOptions{})
	if err == nil && cm.Data[sealedsecret.CertificateKey] != "" {
		return []byte(cm.Data[sealedsecret.CertificateKey]), "the ConfigMap " + name, nil
	}
	if err == nil {
		err = errors.New("it has no " + sealedsecret.CertificateKey)
	}
	return nil, "", fault.New("", kindOfAPI(err), fault.Ref{}, "no certificate: the Service %s/%s: %s; the ConfigMap %s: %s",
		s.namespace, s.name, reason(proxyErr), name, reason(err)).
		Fix("check --controller-namespace and --controller-name, or give --cert")
}

func (s *certificateSource) fromService(ctx context.Context, core *corev1client.CoreV1Client) ([]byte, error) {
	svc, err := core.Services(s.namespace).Get(ctx, s.name, metav1.GetOptions{})
	if err != nil {
		return nil, err
	}
	port := ""
	if len(svc.Spec.Ports) > 0 {
		port = svc.Spec.Ports[0].Name
	}
	stream, err := core.Services(s.namespace).ProxyGet("http", s.name, port, "/v1/cert.pem", nil).Stream(ctx)
	if err != nil {
		return nil, err
	}
	defer stream.Close()
	text, err := io.ReadAll(io.LimitReader(stream, maxCertificate))
	if err != nil {
		return nil, err
	}
	// A proxy that answers a page of its own is no answer.
	_, err = sealing.ParseCertificate(text)
	return text, err
}

// reason says why a request failed, without the body that came back.
func reason(err error) string {
	if r := apierrors.ReasonForError(err); r != metav1.StatusReasonUnknown {
		return strings.ToLower(string(r))
	}
	var status apierrors.APIStatus
	if errors.As(err, &status) {
		return fmt.Sprintf("answered %d", status.Status().Code)
	}
	return "no usable answer"
}

func kindOfAPI(err error) fault.Kind {
	switch {
	case apierrors.IsNotFound(err):
		return fault.NotFound
	case apierrors.IsForbidden(err), apierrors.IsUnauthorized(err):
		return fault.Denied
	}
	return fault.Transient
}
