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

func (c *clusterFlags) config() (*rest.Config, error) {
	rules := clientcmd.NewDefaultClientConfigLoadingRules()
	rules.ExplicitPath = c.kubeconfig
	config, err := clientcmd.NewNonInteractiveDeferredLoadingClientConfig(rules, &clientcmd.ConfigOverrides{CurrentContext: c.context}).ClientConfig()
	if err != nil {
		// The text of the cause may quote the file, credentials included.
		return nil, fault.New("", fault.NotFound, fault.Ref{File: c.kubeconfig}, "no usable kubeconfig").
			Fix("name one with --kubeconfig or in KUBECONFIG, and check it with `kubectl config view`")
	}
	config.QPS = -1 // the API server's own fairness is the limit
	return config, nil
}
