package harness

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	authv1 "k8s.io/api/authentication/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/yaml"
	"k8s.io/client-go/discovery/cached/memory"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/restmapper"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
)

func newMapper(c kubernetes.Interface) *restmapper.DeferredDiscoveryRESTMapper {
	return restmapper.NewDeferredDiscoveryRESTMapper(memory.NewMemCacheClient(c.Discovery()))
}

// ServiceAccountKubeconfig writes a kubeconfig with a token of the service account.
func (w *World) ServiceAccountKubeconfig(ctx context.Context, namespace, name string) (string, error) {
	token, err := w.token(ctx, namespace, name)
	if err != nil {
		return "", err
	}
	path := filepath.Join(w.Dir, name+".kubeconfig")
	return path, w.writeKubeconfig(path, &clientcmdapi.Cluster{Server: w.Config.Host, CertificateAuthorityData: w.Config.CAData}, token, namespace)
}

func (w *World) token(ctx context.Context, namespace, name string) (string, error) {
	seconds := int64(24 * 3600)
	token, err := w.Typed.CoreV1().ServiceAccounts(namespace).CreateToken(ctx, name,
		&authv1.TokenRequest{Spec: authv1.TokenRequestSpec{ExpirationSeconds: &seconds}}, metav1.CreateOptions{})
	if err != nil {
		return "", fmt.Errorf("token of %s/%s: %w", namespace, name, err)
	}
	return token.Status.Token, nil
}

// controllerKubeconfig writes the controller's kubeconfig, once for each proxy.
func (w *World) controllerKubeconfig(ctx context.Context, via *Proxy) (string, error) {
	const name = "sealock-controller"
	if via == nil {
		return w.ServiceAccountKubeconfig(ctx, SystemNamespace, name)
	}
	path := filepath.Join(w.Dir, name+strings.TrimPrefix(via.URL, "https://127.0.0.1")+".kubeconfig")
	if _, err := os.Stat(path); err == nil {
		return path, nil
	}
	token, err := w.token(ctx, SystemNamespace, name)
	if err != nil {
		return "", err
	}
	return path, w.writeKubeconfig(path, &clientcmdapi.Cluster{Server: via.URL, CertificateAuthorityData: via.CA}, token, SystemNamespace)
}

func (w *World) writeKubeconfig(path string, server *clientcmdapi.Cluster, token, namespace string) error {
	cfg := clientcmdapi.NewConfig()
	cfg.Clusters["dev"] = server
	cfg.AuthInfos["sa"] = &clientcmdapi.AuthInfo{Token: token}
	cfg.Contexts["dev"] = &clientcmdapi.Context{Cluster: "dev", AuthInfo: "sa", Namespace: namespace}
	cfg.CurrentContext = "dev"
	return clientcmd.WriteToFile(*cfg, path)
}

// As returns a client that acts as the named user.
func (w *World) As(user string, groups ...string) (dynamic.Interface, error) {
	cfg := rest.CopyConfig(w.Config)
	cfg.Impersonate = rest.ImpersonationConfig{UserName: user, Groups: groups}
	return dynamic.NewForConfig(cfg)
}

// Parse splits YAML into objects.
func Parse(text string) ([]*unstructured.Unstructured, error) {
	var out []*unstructured.Unstructured
	dec := yaml.NewYAMLOrJSONDecoder(strings.NewReader(text), 4096)
	for {
		var body map[string]any
		err := dec.Decode(&body)
		if errors.Is(err, io.EOF) {
			return out, nil
		}
		if err != nil {
			return nil, err
		}
		if len(body) > 0 {
			out = append(out, &unstructured.Unstructured{Object: body})
		}
	}
}

// Resource returns the client of the object's kind.
func (w *World) Resource(gvk schema.GroupVersionKind, namespace string) (dynamic.ResourceInterface, error) {
	return w.resource(w.Dynamic, gvk, namespace)
}

func (w *World) resource(c dynamic.Interface, gvk schema.GroupVersionKind, namespace string) (dynamic.ResourceInterface, error) {
	m, err := w.mapper.RESTMapping(gvk.GroupKind(), gvk.Version)
	if meta.IsNoMatchError(err) {
		w.mapper.Reset()
		m, err = w.mapper.RESTMapping(gvk.GroupKind(), gvk.Version)
	}
	if err != nil {
		return nil, err
	}
	if m.Scope.Name() == meta.RESTScopeNameNamespace {
		return c.Resource(m.Resource).Namespace(namespace), nil
	}
	return c.Resource(m.Resource), nil
}

// Apply applies YAML as administrator, as `kubectl apply --server-side` would.
func (w *World) Apply(ctx context.Context, text string) error { return w.ApplyAs(ctx, w.Dynamic, text) }

// ApplyAs applies YAML with the given client. Unknown fields are errors.
func (w *World) ApplyAs(ctx context.Context, c dynamic.Interface, text string) error {
	objects, err := Parse(text)
	if err != nil {
		return err
	}
	for _, o := range objects {
		r, err := w.resource(c, o.GroupVersionKind(), o.GetNamespace())
		if err != nil {
			return err
		}
		data, err := json.Marshal(o)
		if err != nil {
			return err
		}
		force := true
		_, err = r.Patch(ctx, o.GetName(), types.ApplyPatchType, data, metav1.PatchOptions{FieldManager: "e2e", Force: &force, FieldValidation: "Strict"})
		if err != nil {
			return fmt.Errorf("%s/%s: %w", o.GetKind(), o.GetName(), err)
		}
	}
	return nil
}

// Get reads an object as administrator; nil when there is none.
func (w *World) Get(ctx context.Context, apiVersion, kind, namespace, name string) (*unstructured.Unstructured, error) {
	r, err := w.Resource(schema.FromAPIVersionAndKind(apiVersion, kind), namespace)
	if err != nil {
		return nil, err
	}
	o, err := r.Get(ctx, name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return nil, nil
	}
	return o, err
}

// Condition returns status, reason and message of a condition of the object; empty when there is none.
func Condition(o *unstructured.Unstructured, typ string) (status, reason, message string) {
	if o == nil {
		return "", "", ""
	}
	list, _, _ := unstructured.NestedSlice(o.Object, "status", "conditions")
	for _, each := range list {
		c, ok := each.(map[string]any)
		if ok && c["type"] == typ {
			s, _ := c["status"].(string)
			r, _ := c["reason"].(string)
			m, _ := c["message"].(string)
			return s, r, m
		}
	}
	return "", "", ""
}

// WaitCondition waits until the condition has the status (and the reason, unless empty), and returns its message.
func (w *World) WaitCondition(ctx context.Context, limit time.Duration, apiVersion, kind, namespace, name, typ, status, reason string) (string, error) {
	var last string
	err := w.Wait(ctx, limit, fmt.Sprintf("%s/%s/%s to have %s=%s %s", kind, namespace, name, typ, status, reason), func(ctx context.Context) (bool, error) {
		o, err := w.Get(ctx, apiVersion, kind, namespace, name)
		if err != nil {
			return false, err
		}
		s, r, m := Condition(o, typ)
		last = m
		return s == status && (reason == "" || r == reason), nil
	})
	if err != nil {
		err = fmt.Errorf("%w; last: %q", err, last)
	}
	return last, err
}

// WaitReady waits until the object is Ready at the given revision ("" for any).
func (w *World) WaitReady(ctx context.Context, limit time.Duration, namespace, name, revision string) error {
	const apiVersion = "kustomize.toolkit.fluxcd.io/v1"
	var last string
	err := w.Wait(ctx, limit, fmt.Sprintf("Kustomization %s/%s to be ready at %q", namespace, name, revision), func(ctx context.Context) (bool, error) {
		o, err := w.Get(ctx, apiVersion, "Kustomization", namespace, name)
		if err != nil || o == nil {
			return false, err
		}
		s, r, m := Condition(o, "Ready")
		last = s + " " + r + ": " + m
		applied, _, _ := unstructured.NestedString(o.Object, "status", "lastAppliedRevision")
		return s == "True" && (revision == "" || strings.HasSuffix(applied, revision)), nil
	})
	if err != nil {
		err = fmt.Errorf("%w; last: %s", err, last)
	}
	return err
}

// Reconcile asks for an immediate reconcile, as `flux reconcile` does.
func (w *World) Reconcile(ctx context.Context, apiVersion, kind, namespace, name string) (string, error) {
	token := time.Now().Format(time.RFC3339Nano)
	r, err := w.Resource(schema.FromAPIVersionAndKind(apiVersion, kind), namespace)
	if err != nil {
		return "", err
	}
	patch, _ := json.Marshal(map[string]any{"metadata": map[string]any{"annotations": map[string]any{"reconcile.fluxcd.io/requestedAt": token}}})
	_, err = r.Patch(ctx, name, types.MergePatchType, patch, metav1.PatchOptions{FieldManager: "flux"})
	return token, err
}

// SecretData returns the decoded payloads of a Secret; nil when there is none.
func (w *World) SecretData(ctx context.Context, namespace, name string) (map[string]string, error) {
	s, err := w.Typed.CoreV1().Secrets(namespace).Get(ctx, name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	out := map[string]string{}
	for k, v := range s.Data {
		out[k] = string(v)
	}
	return out, nil
}

// LogLines returns the controller's log lines that are JSON objects.
func (w *World) LogLines() ([]map[string]any, error) {
	data, err := os.ReadFile(w.Log)
	if err != nil {
		return nil, err
	}
	var out []map[string]any
	for _, line := range bytes.Split(data, []byte("\n")) {
		var m map[string]any
		if json.Unmarshal(line, &m) == nil {
			out = append(out, m)
		}
	}
	return out, nil
}

// LogTail returns the last lines of the controller's log.
func (w *World) LogTail(n int) string { return tail(w.Log, n) }
