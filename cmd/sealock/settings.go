package main

import (
	"context"
	"io"

	"github.com/spf13/pflag"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"sealock.dev/sealock/fault"
	"sealock.dev/sealock/tenants"
)

// ourDeployments selects what `sealock install` makes of the controller.
const ourDeployments = "app.kubernetes.io/name=sealock,app.kubernetes.io/component=controller"

// settings are those that the controller runs with, by the arguments of its Deployment. On an error they are those of the
// shipped manifests.
func (s *session) settings(ctx context.Context, system string) (tenants.Settings, error) {
	deployments := kind{name: "Deployment", resource: schema.GroupVersionResource{Group: "apps", Version: "v1", Resource: "deployments"}}
	list, err := s.of(deployments, system).List(ctx, metav1.ListOptions{LabelSelector: ourDeployments})
	if err != nil {
		return tenants.DefaultSettings(), unanswered(err, deployments.ref(system, ""), "list")
	}
	for i := range list.Items {
		containers, _, _ := unstructured.NestedSlice(list.Items[i].Object, "spec", "template", "spec", "containers")
		for _, each := range containers {
			if c, _ := each.(map[string]any); c["name"] == "manager" {
				args, _, _ := unstructured.NestedStringSlice(c, "args")
				return settingsIn(args, system), nil
			}
		}
	}
	return tenants.DefaultSettings(), fault.New("", fault.NotFound, deployments.ref(system, ""), "the controller does not run there").Fix("name the namespace of the installation with --system-namespace")
}

// settingsIn reads the arguments of a controller as that does. Flags of another version are left alone.
func settingsIn(args []string, system string) tenants.Settings {
	o := controllerOptions{}
	flags := pflag.NewFlagSet("controller", pflag.ContinueOnError)
	flags.SetOutput(io.Discard)
	flags.ParseErrorsAllowlist.UnknownFlags = true
	o.bindAll(flags)
	if err := flags.Parse(args); err != nil {
		return tenants.DefaultSettings() // such a controller does not start
	}
	if o.namespace == "" {
		o.namespace = system
	}
	return o.settings()
}
