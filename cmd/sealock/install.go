package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/url"
	"slices"

	"github.com/spf13/cobra"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/yaml"

	"sealock.dev/sealock/config"
	"sealock.dev/sealock/fault"
	"sealock.dev/sealock/manifest"
	"sealock.dev/sealock/policies/builtin"
)

// systemNamespace is the one that the files of config/ are written for.
const systemNamespace = "sealock-system"

type installOptions struct {
	clusterFlags
	apply      bool
	webhookURL string
	namespace  string
	output     string
	image      string
	arguments  []string
}

func newInstallCommand() *cobra.Command {
	var o installOptions
	cmd := &cobra.Command{
		Use:   "install",
		Short: "Print or apply everything that a cluster needs",
		Long: `install prints what a cluster needs to be served by Sealock: CRDs, rights, the Deployment with its Services, the built-in
policies and the admission webhook. With --apply it writes them, and says what changed. It can be repeated at any time;
built-in policies that somebody has changed in the cluster are left as they are.

With --webhook-url the controller runs outside of the cluster: Deployment and Services are left out and the webhook is
registered by that address. The controller fills in the CA of the webhook's certificate when it starts.`,
		Example: `  sealock install | less
  sealock install --apply --image registry.example.com/sealock:v0.1.0
  sealock install --apply --image registry.example.com/sealock:v0.1.0 --controller-arg=--platform-namespaces=flux-system,apps
  sealock install --apply --kubeconfig ./kubeconfig --webhook-url https://127.0.0.1:9443`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return o.run(cmd.Context(), cmd.OutOrStdout(), cmd.ErrOrStderr())
		},
	}
	flags := cmd.Flags()
	o.add(flags)
	flags.BoolVar(&o.apply, "apply", false, "Write the objects to the cluster instead of printing them.")
	flags.StringVar(&o.webhookURL, "webhook-url", "", "Address at which the API server reaches a controller outside of the cluster.")
	flags.StringVar(&o.image, "image", "", "Image of the controller; by default a placeholder, since none is published.")
	flags.StringArrayVar(&o.arguments, "controller-arg", nil, "Further argument of the controller, as --controller-arg=--platform-namespaces=flux-system,apps; may be repeated.")
	flags.StringVarP(&o.namespace, "namespace", "n", systemNamespace, "Namespace of the installation.")
	flags.StringVarP(&o.output, "output", "o", "yaml", "Format of the objects when they are printed: yaml.")
	return cmd
}

// placeholderImage is that of config/manager, which no registry has.
const placeholderImage = "ghcr.io/sealock/sealock:v0.0.0-dev"

// warn says what will not run.
func warn(objects []*unstructured.Unstructured, notes io.Writer) {
	for _, obj := range objects {
		containers, _, _ := unstructured.NestedSlice(obj.Object, "spec", "template", "spec", "containers")
		for _, each := range containers {
			if c, _ := each.(map[string]any); c["image"] == placeholderImage {
				fmt.Fprintf(notes, "warning: Deployment/%s/%s gets the image %s, which no registry has, so that its pods will not start: build one, see docs/install.md, and name it with --image\n",
					obj.GetNamespace(), obj.GetName(), placeholderImage)
			}
		}
	}
}

func (o installOptions) run(ctx context.Context, out, notes io.Writer) error {
	if o.output != "yaml" {
		return wrongUse("-o %s is not a format of this command", o.output).Fix("leave it out, or write -o yaml")
	}
	objects, err := o.objects()
	if err != nil {
		return err
	}
	if !o.apply {
		return printYAML(out, objects)
	}
	rest, err := o.config()
	if err != nil {
		return err
	}
	in, err := newInstaller(rest)
	if err != nil {
		return err
	}
	warn(objects, notes)
	return report(out, func(line func(outcome)) error { return in.apply(ctx, objects, line) })
}

// objects returns everything in the order in which it has to be written.
func (o installOptions) objects() ([]*unstructured.Unstructured, error) {
	text, err := config.Build(config.Default)
	if err != nil {
		return nil, err
	}
	text = append(append(text, "\n---\n"...), builtin.YAML()...)
	if o.namespace != systemNamespace {
		// The namespace also stands inside of user names and match conditions, which no transformer of fields finds.
		text = bytes.ReplaceAll(text, []byte(systemNamespace), []byte(o.namespace))
	}
	docs, err := manifest.Decode("config", text, manifest.DefaultLimits)
	if err != nil {
		return nil, err
	}
	var objects []*unstructured.Unstructured
	for _, d := range docs {
		objects = append(objects, &unstructured.Unstructured{Object: d.Body})
	}
	for _, obj := range objects {
		if obj.GetKind() == "Deployment" {
			if err := o.deployment(obj); err != nil {
				return nil, err
			}
		}
	}
	if o.webhookURL != "" {
		if objects, err = outside(objects, o.webhookURL); err != nil {
			return nil, err
		}
	}
	slices.SortStableFunc(objects, func(a, b *unstructured.Unstructured) int { return order(a) - order(b) })
	return objects, nil
}

// deployment sets what runs, and how.
func (o installOptions) deployment(obj *unstructured.Unstructured) error {
	path := []string{"spec", "template", "spec", "containers"}
	containers, _, err := unstructured.NestedSlice(obj.Object, path...)
	if err != nil {
		return err
	}
	for _, each := range containers {
		c, ok := each.(map[string]any)
		if !ok || c["name"] != "manager" {
			continue
		}
		if o.image != "" {
			c["image"] = o.image
		}
		args, _ := c["args"].([]any)
		for _, arg := range o.arguments {
			args = append(args, arg)
		}
		c["args"] = args
	}
	return unstructured.SetNestedSlice(obj.Object, containers, path...)
}

// order puts first what others need. The webhook is last: from then on it has to answer.
func order(o *unstructured.Unstructured) int {
	switch o.GetKind() {
	case kindCRD:
		return 0
	case "Namespace":
		return 1
	case kindPolicy:
		return 3
	case kindWebhook:
		return 4
	}
	return 2
}

// The kinds that are treated in a way of their own.
const (
	kindCRD     = "CustomResourceDefinition"
	kindPolicy  = "Policy"
	kindWebhook = "ValidatingWebhookConfiguration"
)

// outside leaves out what runs in the cluster, and registers the webhook by address.
func outside(objects []*unstructured.Unstructured, address string) ([]*unstructured.Unstructured, error) {
	base, err := url.Parse(address)
	if err != nil || base.Scheme != "https" || base.Host == "" {
		return nil, wrongUse("--webhook-url is not an address that the API server can call").Fix("write https://HOST:PORT")
	}
	var kept []*unstructured.Unstructured
	for _, obj := range objects {
		switch obj.GetKind() {
		case "Deployment", "Service", "PodDisruptionBudget":
			continue
		case kindWebhook:
			if err := byAddress(obj, base); err != nil {
				return nil, err
			}
		}
		kept = append(kept, obj)
	}
	return kept, nil
}

func byAddress(obj *unstructured.Unstructured, base *url.URL) error {
	hooks, _, err := unstructured.NestedSlice(obj.Object, "webhooks")
	if err != nil {
		return err
	}
	for _, each := range hooks {
		hook, ok := each.(map[string]any)
		if !ok {
			continue
		}
		path, _, _ := unstructured.NestedString(hook, "clientConfig", "service", "path")
		hook["clientConfig"] = map[string]any{"url": base.JoinPath(path).String()}
	}
	return unstructured.SetNestedSlice(obj.Object, hooks, "webhooks")
}

func printYAML(out io.Writer, objects []*unstructured.Unstructured) error {
	for _, obj := range objects {
		text, err := yaml.Marshal(obj.Object)
		if err != nil {
			return err
		}
		if _, err := fmt.Fprintf(out, "---\n%s", text); err != nil {
			return err
		}
	}
	return nil
}

// outcome is what became of one object.
type outcome struct {
	obj  *unstructured.Unstructured
	what string // created, configured, unchanged, kept, failed
	note string
}

// report prints a line for each object that is not as it was, and how many were.
func report(out io.Writer, work func(line func(outcome)) error) error {
	unchanged := 0
	err := work(func(o outcome) {
		if o.what == "unchanged" {
			unchanged++
			return
		}
		name := o.obj.GetName()
		if ns := o.obj.GetNamespace(); ns != "" {
			name = ns + "/" + name
		}
		if o.note != "" {
			name += "  (" + o.note + ")"
		}
		fmt.Fprintf(out, "%-10s  %-32s  %s\n", o.what, o.obj.GetKind(), name)
	})
	if unchanged > 0 {
		fmt.Fprintf(out, "%-10s  %d objects\n", "unchanged", unchanged)
	}
	return err
}

func refOf(obj *unstructured.Unstructured) fault.Ref {
	return fault.Ref{APIVersion: obj.GetAPIVersion(), Kind: obj.GetKind(), Namespace: obj.GetNamespace(), Name: obj.GetName()}
}
