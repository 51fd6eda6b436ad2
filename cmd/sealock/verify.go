package main

import (
	"context"
	"errors"
	"io"
	"time"

	"github.com/spf13/cobra"

	"sealock.dev/sealock/api/sealock/v1alpha1"
	"sealock.dev/sealock/fault"
	"sealock.dev/sealock/manifest"
	"sealock.dev/sealock/plaintext"
	"sealock.dev/sealock/policies"
	"sealock.dev/sealock/policies/builtin"
	"sealock.dev/sealock/tenants"
)

type verifyOptions struct {
	clusterFlags
	policies  string
	tenant    string
	namespace string
	output    string
}

func newVerifyCommand() *cobra.Command {
	var o verifyOptions
	cmd := &cobra.Command{
		Use:   "verify DIR",
		Short: "Say what the policies of a cluster think of a folder",
		Long: `verify renders a folder and judges it as the controller would judge the commit, with the same policies and the same words.
Policies and Tenants come from the cluster, or, with --policies, from files; the built-in policies hold in both cases.

Say for whom the folder is with --tenant or --namespace: policies for tenants, and the fences of a tenant, hold only then.
Secrets that a SealedSecret or an ExternalSecret yields are judged in the cluster only, since no key is here.

Exit code 1 means that something is denied, 2 that the folder or a policy is not valid.`,
		Example: `  sealock verify . --tenant team-a
  sealock verify overlays/production --policies ../platform/policies --tenant team-a -o json`,
		Args: oneDir,
		RunE: func(cmd *cobra.Command, args []string) error { return o.run(cmd.Context(), args[0], cmd.OutOrStdout()) },
	}
	flags := cmd.Flags()
	o.add(flags)
	flags.StringVar(&o.policies, "policies", "", "Folder with Policies and Tenants to use instead of a cluster's.")
	flags.StringVar(&o.tenant, "tenant", "", "Tenant whose commit this would be.")
	flags.StringVarP(&o.namespace, "namespace", "n", "", "Namespace of objects that name none; by default the tenant's first.")
	formatFlag(cmd, &o.output, "text", "Format: text, json or yaml.", "text", "json", "yaml")
	return cmd
}

// judges is what a verdict needs to know of a cluster, or of the files that stand in for one.
type judges struct {
	policies []v1alpha1.Policy
	tenants  []v1alpha1.Tenant
	// resolve sets namespaces and refuses what the grant does not allow.
	resolve func(ctx context.Context, grant tenants.Grant, set []manifest.Object) ([]manifest.Object, error)
}

func (o verifyOptions) run(ctx context.Context, dir string, out io.Writer) error {
	if o.output != "text" && o.output != "json" && o.output != "yaml" {
		return wrongUse("-o %s is not a format of this command", o.output).Fix("write text, json or yaml")
	}
	set, err := renderDir(ctx, dir)
	if err != nil {
		return err
	}
	with, err := o.judges(ctx)
	if err != nil {
		return err
	}
	grant, err := o.grant(with.tenants)
	if err != nil {
		return err
	}
	v, err := judge(ctx, with, grant, set)
	if err != nil {
		return err
	}
	v.Folder = dir
	for i := range v.Findings {
		v.Findings[i].File = relative(dir, v.Findings[i].File)
	}
	if err := v.print(out, o.output); err != nil {
		return err
	}
	return v.err()
}

func (o verifyOptions) judges(ctx context.Context) (judges, error) {
	if o.policies != "" {
		return judgesOfFiles(ctx, o.policies)
	}
	config, err := o.config()
	if err != nil {
		var f *fault.Error
		if errors.As(err, &f) {
			return judges{}, f.Fix("name a cluster with --kubeconfig, or files with --policies")
		}
		return judges{}, err
	}
	return judgesOfCluster(ctx, config)
}

// grant is that of a Kustomization in the namespace which names no service account.
func (o verifyOptions) grant(list []v1alpha1.Tenant) (tenants.Grant, error) {
	index := tenants.NewIndex(list, tenants.DefaultSettings())
	if o.tenant == "" {
		ns := o.namespace
		if ns == "" {
			ns = "default"
		}
		return index.GrantFor(ns), nil
	}
	owned := index.NamespacesOf(o.tenant)
	if index.Get(o.tenant) == nil || len(owned) == 0 {
		return tenants.Grant{}, fault.New(fault.StageGrant, fault.NotFound, fault.Ref{Kind: "Tenant", Name: o.tenant}, "no such tenant, or one without a namespace").
			At("--tenant").Fix("name one of the cluster, see `kubectl get tenants`, or one of the files of --policies")
	}
	ns := o.namespace
	if ns == "" {
		ns = index.Get(o.tenant).Spec.Namespaces[0].Name
	}
	grant := index.GrantFor(ns)
	if grant.Tenant != o.tenant {
		return tenants.Grant{}, fault.New(fault.StageGrant, fault.Invalid, fault.Ref{Kind: "Namespace", Name: ns}, "it does not belong to tenant %q", o.tenant).
			At("--namespace").Fix("leave it out, or name a namespace of the tenant")
	}
	return grant, nil
}

// judge gives the verdict. A failure that is no verdict is returned as an error.
func judge(ctx context.Context, with judges, grant tenants.Grant, set []manifest.Object) (*verdict, error) {
	snapshot, problems := builtin.Load(nil, with.policies)
	v := &verdict{Tenant: grant.Tenant, Namespace: grant.Namespace, Objects: len(set), Policies: snapshot.Names()}
	for _, p := range problems {
		v.Problems = append(v.Problems, p.Err.Error())
	}
	resolved, err := with.resolve(ctx, grant, set)
	if err != nil {
		// Fences are judged before policies, as in the controller.
		return v, v.refuse(err)
	}
	engine := policies.NewEngine(policies.Options{Key: plaintext.RandomKey(), Now: time.Now})
	engine.Use(snapshot)
	violations, err := engine.JudgeAt(ctx, policies.Commit, grant, resolved, "")
	if err != nil {
		return nil, err
	}
	scrub := plaintext.NewScrubber()
	for _, o := range resolved {
		scrub.Add(o.Values()...)
	}
	for _, each := range violations {
		each.Message = scrub.Scrub(each.Message)
		v.add(each)
	}
	return v, nil
}
