package main

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/discovery"
	"k8s.io/client-go/discovery/cached/memory"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/restmapper"
	"k8s.io/client-go/tools/clientcmd"

	"sealock.dev/sealock/fault"
)

// personFlags say which cluster, as whom and in which namespace, with the flags of kubectl. The verbs of people act with
// the rights of whoever typed them, never with more.
type personFlags struct {
	kubeconfig string
	overrides  clientcmd.ConfigOverrides
}

func (p *personFlags) add(flags *pflag.FlagSet) {
	flags.StringVar(&p.kubeconfig, "kubeconfig", "", "Path of a kubeconfig; by default as kubectl finds it.")
	names := clientcmd.RecommendedConfigOverrideFlags("")
	names.AuthOverrideFlags.Username, names.AuthOverrideFlags.Password = clientcmd.FlagInfo{}, clientcmd.FlagInfo{}
	names.CurrentContext.Description = "Context of the kubeconfig; by default its current one."
	names.ContextOverrideFlags.Namespace.Description = "Namespace; by default that of the context."
	names.AuthOverrideFlags.Impersonate.Description = "User to act as."
	names.AuthOverrideFlags.ImpersonateGroups.Description = "Group to act as; may be repeated."
	clientcmd.BindOverrideFlags(&p.overrides, flags, names)
	for _, rare := range []string{
		clientcmd.FlagClusterName, clientcmd.FlagAuthInfoName, clientcmd.FlagAPIServer, clientcmd.FlagCAFile, clientcmd.FlagCertFile, clientcmd.FlagKeyFile, clientcmd.FlagInsecure,
		clientcmd.FlagTLSServerName, clientcmd.FlagProxyURL, clientcmd.FlagDisableCompression, clientcmd.FlagBearerToken, clientcmd.FlagImpersonateUID, clientcmd.FlagTimeout,
	} {
		_ = flags.MarkHidden(rare) // they work as in kubectl; a help page that lists them hides what matters
	}
}

// session is one person's connection to one cluster.
type session struct {
	config    *rest.Config
	objects   dynamic.Interface
	namespace string

	learn  sync.Once
	served *restmapper.DeferredDiscoveryRESTMapper
	disco  discovery.DiscoveryInterface
}

// open connects. It asks the API server nothing yet.
func (p *personFlags) open() (*session, error) {
	rules := clientcmd.NewDefaultClientConfigLoadingRules()
	rules.ExplicitPath = p.kubeconfig
	loader := clientcmd.NewNonInteractiveDeferredLoadingClientConfig(rules, &p.overrides)
	config, err := loader.ClientConfig()
	if err != nil {
		return nil, unusable(loader, p.kubeconfig, p.overrides.CurrentContext)
	}
	namespace, _, err := loader.Namespace()
	if err != nil {
		namespace = metav1.NamespaceDefault
	}
	config.QPS = -1 // the API server's own fairness is the limit
	config.WarningHandler = rest.NoWarnings{}
	config.WarningHandlerWithContext = rest.NoWarnings{}
	client, err := dynamic.NewForConfig(config)
	if err != nil {
		return nil, fault.New("", fault.Invalid, fault.Ref{File: p.kubeconfig}, "the kubeconfig is not usable").Fix("check it with `kubectl config view`")
	}
	return &session{config: config, objects: client, namespace: namespace}, nil
}

// of returns the API of a kind, in the namespace unless the kind has none; "" is all namespaces.
func (s *session) of(k kind, namespace string) dynamic.ResourceInterface {
	if k.clusterWide || namespace == "" {
		return s.objects.Resource(k.resource)
	}
	return s.objects.Resource(k.resource).Namespace(namespace)
}

// get reads one object.
func (s *session) get(ctx context.Context, k kind, namespace, name string) (*unstructured.Unstructured, error) {
	obj, err := s.of(k, namespace).Get(ctx, name, metav1.GetOptions{})
	if err != nil {
		return nil, unanswered(err, k.ref(namespace, name), "read")
	}
	return obj, nil
}

// mapper finds out how the cluster serves a kind. It reads discovery when it is first asked.
func (s *session) mapper() (*restmapper.DeferredDiscoveryRESTMapper, discovery.DiscoveryInterface, error) {
	s.learn.Do(func() {
		client, err := discovery.NewDiscoveryClientForConfig(s.config)
		if err != nil {
			return
		}
		cached := memory.NewMemCacheClient(client)
		s.served, s.disco = restmapper.NewDeferredDiscoveryRESTMapper(cached), cached
	})
	if s.served == nil {
		return nil, nil, fault.New("", fault.Invalid, fault.Ref{}, "the kubeconfig is not usable").Fix("check it with `kubectl config view`")
	}
	return s.served, s.disco, nil
}

// kindNamed finds a kind by what people type: a kind, a resource or a short name, with or without its group. Those that
// the verbs know cost no request.
func (s *session) kindNamed(word string) (kind, error) {
	for _, k := range append(kinds(), secretKind) {
		if strings.EqualFold(word, k.name) || slices.Contains(k.nouns, strings.ToLower(word)) {
			return k, nil
		}
	}
	deferred, client, err := s.mapper()
	if err != nil {
		return kind{}, err
	}
	unknown := fault.New("", fault.NotFound, fault.Ref{}, "the cluster has no kind %q", word).Fix("see `kubectl api-resources`")
	asked := schema.ParseGroupResource(strings.ToLower(word))
	mapper := restmapper.NewShortcutExpander(deferred, client, nil)
	gvr, err := mapper.ResourceFor(asked.WithVersion(""))
	if err != nil {
		if meta.IsNoMatchError(err) {
			return kind{}, unknown
		}
		return kind{}, unanswered(err, fault.Ref{}, "list")
	}
	gvk, err := mapper.KindFor(gvr)
	if err != nil {
		return kind{}, unknown
	}
	return kindServed(deferred, gvk)
}

// kindServed describes how the cluster serves a kind, in another version if it does not serve this one.
func kindServed(mapper meta.RESTMapper, gvk schema.GroupVersionKind) (kind, error) {
	mapping, err := mapper.RESTMapping(gvk.GroupKind(), gvk.Version)
	if meta.IsNoMatchError(err) {
		mapping, err = mapper.RESTMapping(gvk.GroupKind())
	}
	if err != nil {
		return kind{}, unanswered(err, fault.Ref{Kind: gvk.Kind}, "find")
	}
	return kind{
		name: mapping.GroupVersionKind.Kind, nouns: []string{mapping.Resource.Resource}, resource: mapping.Resource,
		clusterWide: mapping.Scope.Name() == meta.RESTScopeNameRoot, condition: readyCondition,
	}, nil
}

// objectNamed reads what people type to name one object: "KIND/NAME", or two words.
func (s *session) objectNamed(words []string) (k kind, name string, err error) {
	text := strings.Join(words, "/")
	word, name, ok := strings.Cut(text, "/")
	if !ok || word == "" || name == "" || strings.Contains(name, "/") {
		return kind{}, "", wrongUse("%q names no object", text).Fix("write KIND/NAME, for instance deployment/web")
	}
	k, err = s.kindNamed(word)
	return k, name, err
}

// unanswered says what became of a request that failed. doing is a verb: "read", "list".
func unanswered(err error, ref fault.Ref, doing string) error {
	var done *fault.Error
	var status apierrors.APIStatus
	switch {
	case errors.As(err, &done):
		return err
	case errors.Is(err, context.Canceled):
		return fault.New("", fault.Transient, ref, "interrupted")
	case errors.Is(err, context.DeadlineExceeded):
		return fault.New("", fault.Transient, ref, "the API server did not answer in time").Fix("repeat the command")
	case meta.IsNoMatchError(err), apierrors.IsNotFound(err) && !namesObject(err):
		return fault.New("", fault.NotFound, ref, "the cluster does not serve this kind").Fix("run `sealock install --apply`, or see `kubectl api-resources`")
	case apierrors.IsNotFound(err):
		return fault.New("", fault.NotFound, ref, "not found").Fix("check name and namespace, see `kubectl get %s -A`", strings.ToLower(ref.Kind))
	case apierrors.IsForbidden(err):
		return fault.New("", fault.Denied, ref, "you may not %s it", doing).Fix("ask for the right, see `kubectl auth can-i --list`")
	case apierrors.IsUnauthorized(err):
		return fault.New("", fault.Denied, ref, "the API server does not know you").Fix("log in again, and check the context of the kubeconfig")
	case errors.As(err, &status):
		return fault.New("", kindOfAPI(err), ref, "the API server did not %s it: %s", doing, reason(err)).Fix("repeat the command")
	}
	return fault.New("", fault.Transient, ref, "the API server cannot be reached").Fix("check it with `kubectl version`, and repeat the command")
}

// namesObject tells an object that does not exist from a path that the API server does not serve.
func namesObject(err error) bool {
	var status apierrors.APIStatus
	return errors.As(err, &status) && status.Status().Details != nil && status.Status().Details.Name != ""
}

// completeBrought completes KIND/NAME for what Kustomizations of the namespace have brought, besides the kinds that the
// verbs know.
func (p *personFlags) completeBrought(cmd *cobra.Command, args []string, begun string) ([]cobra.Completion, cobra.ShellCompDirective) {
	e := eventOptions{personFlags: *p}
	out, directive := e.completeObject(cmd, args, begun)
	ctx, cancel := context.WithTimeout(cmd.Context(), patience)
	defer cancel()
	s, err := p.open()
	if err != nil {
		return out, directive
	}
	list, err := s.of(kustomizationKind, s.namespace).List(ctx, metav1.ListOptions{})
	if err != nil {
		return out, directive
	}
	for i := range list.Items {
		ids, _ := inventoryOf(&list.Items[i])
		for _, id := range ids {
			word := strings.ToLower(id.Kind) + "/"
			if strings.Contains(begun, "/") {
				word += id.Name
			}
			if (id.Namespace == s.namespace || id.Namespace == "") && strings.HasPrefix(word, strings.ToLower(begun)) {
				out = append(out, word)
			}
		}
	}
	slices.Sort(out)
	return slices.Compact(out), directive
}

// patience bounds what a shell waits for a completion.
const patience = 3 * time.Second

// names completes the names of objects of a kind, as far as the cluster answers quickly.
func (p *personFlags) names(k kind) cobra.CompletionFunc {
	return func(cmd *cobra.Command, _ []string, begun string) ([]cobra.Completion, cobra.ShellCompDirective) {
		ctx, cancel := context.WithTimeout(cmd.Context(), patience)
		defer cancel()
		s, err := p.open()
		if err != nil {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		list, err := s.of(k, s.namespace).List(ctx, metav1.ListOptions{})
		if err != nil {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		var names []cobra.Completion
		for i := range list.Items {
			if name := list.Items[i].GetName(); strings.HasPrefix(name, begun) {
				names = append(names, name)
			}
		}
		return names, cobra.ShellCompDirectiveNoFileComp
	}
}
