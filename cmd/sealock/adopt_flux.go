package main

import (
	"context"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"k8s.io/client-go/kubernetes"

	"sealock.dev/sealock/fault"
)

func newAdoptCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "adopt",
		Short: "Take over from another tool, in place",
		Args:  knownNoun,
		RunE:  knownNoun,
	}
	cmd.AddCommand(newAdoptFluxCommand())
	return cmd
}

// adoptFlux are the flags of `sealock adopt flux`.
type adoptFlux struct {
	clusterFlags
	namespace       string
	plan, yes, undo bool
	accept          []string
	output          string
	timeout         time.Duration
}

func newAdoptFluxCommand() *cobra.Command {
	var o adoptFlux
	cmd := &cobra.Command{
		Use:   "flux",
		Short: "Take over what Flux's kustomize-controller and source-controller reconcile",
		Long: `flux checks whether Sealock can take over Kustomizations and GitRepositories, and shows the plan: what stands in the way, with
which arguments the controller has to run, and what will differ. It changes nothing.

With --yes it scales kustomize-controller and source-controller down, and nothing else: no object is created, changed,
restarted or deleted. How many replicas they had is kept in an annotation, and --undo scales them up again. Both can be repeated.

Exit code 1 says that something stands in the way. What you accept all the same is named with --accept.`,
		Example: `  sealock adopt flux                        # look; the same as --plan
  sealock adopt flux -o json | jq -r '.arguments[]'
  sealock adopt flux --yes
  sealock adopt flux --yes --accept helm-charts
  sealock adopt flux --undo                 # stop Sealock first`,
		Args: func(cmd *cobra.Command, args []string) error {
			if err := o.check(); err != nil {
				return err
			}
			return noArgs(cmd, args)
		},
		RunE: func(cmd *cobra.Command, _ []string) error { return o.run(cmd.Context(), cmd.OutOrStdout()) },
	}
	flags := cmd.Flags()
	o.add(flags)
	flags.StringVarP(&o.namespace, "namespace", "n", "flux-system", "Namespace of the Flux installation.")
	flags.BoolVar(&o.plan, "plan", false, "Show the plan and change nothing; the default.")
	flags.BoolVar(&o.yes, "yes", false, "Scale Flux's controllers down.")
	flags.BoolVar(&o.undo, "undo", false, "Scale Flux's controllers up again.")
	flags.StringSliceVar(&o.accept, "accept", nil, "Names of checks that stand in the way and that you accept.")
	formatFlag(cmd, &o.output, "table", "Format: table or json.", "table", "json")
	_ = cmd.RegisterFlagCompletionFunc("accept", cobra.FixedCompletions(stoppingChecks, cobra.ShellCompDirectiveNoFileComp))
	flags.DurationVar(&o.timeout, "timeout", 2*time.Minute, "How long to wait until Flux's controllers have stopped.")
	return cmd
}

// stoppingChecks are those that may stand in the way.
var stoppingChecks = []string{ //nolint:gochecknoglobals // a constant table
	"controllers", "crds", "differing-flags", "fields", "flags", "generated-names", "helm-charts", "operator", "other-sources", "server",
}

func (o *adoptFlux) check() error {
	if o.plan && (o.yes || o.undo) || o.yes && o.undo {
		return wrongUse("--plan, --yes and --undo do not go together").Fix("write one of them")
	}
	for _, name := range o.accept {
		if !slices.Contains(stoppingChecks, name) {
			return wrongUse("--accept %s is not a check that stands in the way", name).Fix("write one of: %s", strings.Join(stoppingChecks, ", "))
		}
	}
	return nil
}

func (o adoptFlux) run(ctx context.Context, out io.Writer) error {
	if o.output != "table" && o.output != "json" {
		return wrongUse("-o %s is not a format of this command", o.output).Fix("leave it out, or write -o json")
	}
	config, err := o.config()
	if err != nil {
		return err
	}
	kube, err := kubernetes.NewForConfig(config)
	if err != nil {
		return err
	}
	if o.undo {
		done, err := scaleFluxUp(ctx, kube, o.namespace)
		if err != nil {
			return err
		}
		return o.print(out, adoption{Controllers: done})
	}
	state, err := readFlux(ctx, config, kube, o.namespace)
	if err != nil {
		return err
	}
	plan := state.plan()
	standing := plan.standing(o.accept)
	if !o.yes || len(standing) > 0 {
		if err := o.print(out, plan); err != nil {
			return err
		}
		if len(standing) == 0 {
			return nil
		}
		return fault.New("", fault.Denied, fault.Ref{}, "%d checks stand in the way: %s", len(standing), strings.Join(standing, ", ")).
			Fix("do what the plan says beside each, or accept it with --accept %s", strings.Join(standing, ","))
	}
	plan.Controllers, err = scaleFluxDown(ctx, kube, plan.Controllers, o.timeout)
	if err != nil {
		return err
	}
	return o.print(out, plan)
}

// level says what a finding means for the adoption.
type level string

const (
	fine    level = "ok"
	note    level = "note"    // good to know
	warning level = "warning" // something will differ
	stops   level = "stop"    // stands in the way, unless it is accepted
)

// adoptFinding is one thing that a check found.
type adoptFinding struct {
	Check   string `json:"check"`
	Level   level  `json:"level"`
	Message string `json:"message"`
	// Objects that it is about, kind/namespace/name.
	Objects []string `json:"objects,omitempty"`
	Remedy  string   `json:"remedy,omitempty"`
}

// adoption is the plan, and what came of it.
type adoption struct {
	Findings []adoptFinding `json:"findings"`
	// PlatformNamespaces are those whose objects act as the platform: they name no service account, or refer to other namespaces.
	PlatformNamespaces []string `json:"platformNamespaces"`
	// Arguments that `sealock controller` needs to serve what is here.
	Arguments []string `json:"arguments"`
	// Renamed are the generated objects whose name will get another suffix.
	Renamed     []string         `json:"renamed"`
	Controllers []fluxController `json:"controllers"`
}

// standing returns the names of the checks that stand in the way and are not accepted.
func (a adoption) standing(accepted []string) []string {
	var names []string
	for _, f := range a.Findings {
		if f.Level == stops && !slices.Contains(accepted, f.Check) && !slices.Contains(names, f.Check) {
			names = append(names, f.Check)
		}
	}
	return names
}

func (a *adoption) found(check string, l level, objects []string, remedy, format string, args ...any) {
	a.Findings = append(a.Findings, adoptFinding{Check: check, Level: l, Message: fmt.Sprintf(format, args...), Objects: objects, Remedy: remedy})
}
