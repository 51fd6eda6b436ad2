package main

import (
	"github.com/spf13/pflag"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	"sealock.dev/sealock/fault"
)

// clusterFlags say which cluster a verb talks to, as kubectl does: the flag, else KUBECONFIG, else ~/.kube/config.
type clusterFlags struct{ kubeconfig, context string }

func (c *clusterFlags) add(flags *pflag.FlagSet) {
	flags.StringVar(&c.kubeconfig, "kubeconfig", "", "Path of a kubeconfig; by default as kubectl finds it.")
	flags.StringVar(&c.context, "context", "", "Context of the kubeconfig; by default its current one.")
}

// unusable says what is wrong with a kubeconfig, as far as that can be said: the text of a cause may quote the file,
// credentials included.
func unusable(loader clientcmd.ClientConfig, file, context string) error {
	if raw, err := loader.RawConfig(); err == nil && context != "" && raw.Contexts[context] == nil {
		return fault.New("", fault.NotFound, fault.Ref{File: file}, "the kubeconfig has no context %q", context).Fix("see `kubectl config get-contexts`")
	}
	return fault.New("", fault.NotFound, fault.Ref{File: file}, "no usable kubeconfig").
		Fix("name one with --kubeconfig or in KUBECONFIG, and check it with `kubectl config view`")
}

func (c *clusterFlags) config() (*rest.Config, error) {
	rules := clientcmd.NewDefaultClientConfigLoadingRules()
	rules.ExplicitPath = c.kubeconfig
	loader := clientcmd.NewNonInteractiveDeferredLoadingClientConfig(rules, &clientcmd.ConfigOverrides{CurrentContext: c.context})
	config, err := loader.ClientConfig()
	if err != nil {
		return nil, unusable(loader, c.kubeconfig, c.context)
	}
	config.QPS = -1 // the API server's own fairness is the limit
	return config, nil
}
