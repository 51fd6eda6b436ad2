package main

import (
	"regexp"
	"strings"

	"github.com/spf13/cobra"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"sealock.dev/sealock/fault"
)

// kind is one that the verbs of people know. They read it as the API server sends it, so that a cluster with newer or
// older fields is served as well.
type kind struct {
	name        string   // as in manifests
	nouns       []string // what people type; the first is the command, the others are its aliases
	source      string   // what people type behind "source"; "" where it is none
	resource    schema.GroupVersionResource
	clusterWide bool
	condition   string // the type of the condition that sums up
	delivers    bool   // it can be reconciled on request, suspended and resumed
	revision    []string
}

const (
	kustomizeGroup  = "kustomize.toolkit.fluxcd.io"
	labelOwner      = kustomizeGroup + "/name"
	labelOwnerSpace = kustomizeGroup + "/namespace"
	requestedAt     = "reconcile.fluxcd.io/requestedAt"
	applyManager    = "kustomize-controller" // the field manager of what a Kustomization applies
	personManager   = "sealock-cli"
	readyCondition  = "Ready"
)

// The kinds. The names, conditions and revisions are those that reference/flux.md, section 4, and the peers document.
var (
	kustomizationKind = kind{ //nolint:gochecknoglobals // a constant
		name: "Kustomization", nouns: []string{"kustomizations", "kustomization", "ks"},
		resource:  schema.GroupVersionResource{Group: kustomizeGroup, Version: "v1", Resource: "kustomizations"},
		condition: readyCondition, delivers: true, revision: []string{"status", "lastAppliedRevision"},
	}
	gitRepositoryKind = kind{ //nolint:gochecknoglobals // a constant
		name: "GitRepository", nouns: []string{"gitrepositories", "gitrepository", "gitrepo"}, source: "git",
		resource:  schema.GroupVersionResource{Group: "source.toolkit.fluxcd.io", Version: "v1", Resource: "gitrepositories"},
		condition: readyCondition, delivers: true, revision: []string{"status", "artifact", "revision"},
	}
	sealedSecretKind = kind{ //nolint:gochecknoglobals // a constant
		name: "SealedSecret", nouns: []string{"sealedsecrets", "sealedsecret"},
		resource:  schema.GroupVersionResource{Group: "bitnami.com", Version: "v1alpha1", Resource: "sealedsecrets"},
		condition: "Synced",
	}
	externalSecretKind = kind{ //nolint:gochecknoglobals // a constant
		name: "ExternalSecret", nouns: []string{"externalsecrets", "externalsecret", "es"},
		resource:  schema.GroupVersionResource{Group: "external-secrets.io", Version: "v1", Resource: "externalsecrets"},
		condition: readyCondition, revision: []string{"status", "syncedResourceVersion"},
	}
	tenantKind = kind{ //nolint:gochecknoglobals // a constant
		name: "Tenant", nouns: []string{"tenants", "tenant"}, clusterWide: true,
		resource:  schema.GroupVersionResource{Group: "sealock.dev", Version: "v1alpha1", Resource: "tenants"},
		condition: readyCondition,
	}
	secretKind = kind{ //nolint:gochecknoglobals // a constant
		name: "Secret", nouns: []string{"secrets"}, resource: schema.GroupVersionResource{Version: "v1", Resource: "secrets"},
	}
	configMapKind = kind{ //nolint:gochecknoglobals // a constant
		name: "ConfigMap", nouns: []string{"configmaps"}, resource: schema.GroupVersionResource{Version: "v1", Resource: "configmaps"},
	}
	eventKind = kind{ //nolint:gochecknoglobals // a constant
		name: "Event", nouns: []string{"events"}, resource: schema.GroupVersionResource{Version: "v1", Resource: "events"},
	}
)

// kinds returns those that people list, in the order in which `get all` shows them.
func kinds() []kind {
	return []kind{gitRepositoryKind, kustomizationKind, sealedSecretKind, externalSecretKind, tenantKind}
}

// one is the kind as it is written before a slash: "kustomization/app".
func (k kind) one() string { return strings.ToLower(k.name) }

func (k kind) ref(namespace, name string) fault.Ref {
	if k.clusterWide {
		namespace = ""
	}
	return fault.Ref{APIVersion: k.resource.GroupVersion().String(), Kind: k.name, Namespace: namespace, Name: name}
}

// revisionOf returns the revision that the object stands at, "" when it has none.
func (k kind) revisionOf(obj *unstructured.Unstructured) string {
	if len(k.revision) == 0 {
		return ""
	}
	text, _, _ := unstructured.NestedString(obj.Object, k.revision...)
	return text
}

func suspended(obj *unstructured.Unstructured) bool {
	yes, _, _ := unstructured.NestedBool(obj.Object, "spec", "suspend")
	return yes
}

// conditionOf returns the condition of the type; ok is false when the object has none.
func conditionOf(obj *unstructured.Unstructured, name string) (c metav1.Condition, ok bool) {
	list, _, _ := unstructured.NestedSlice(obj.Object, "status", "conditions")
	for _, each := range list {
		m, isMap := each.(map[string]any)
		if !isMap || m["type"] != name {
			continue
		}
		if runtime.DefaultUnstructuredConverter.FromUnstructured(m, &c) == nil {
			return c, true
		}
	}
	return metav1.Condition{}, false
}

var longDigest = regexp.MustCompile(`(sha1|sha256):([0-9a-f]{8})[0-9a-f]{32,}`)

// short shortens every revision in a text to what people compare by eye.
func short(text string) string { return longDigest.ReplaceAllString(text, "$1:$2") }

// byKind adds to parent one command for each kind that fits, as Flux's users type them: those of sources stand behind
// "source" and, besides, under their own name.
func byKind(parent *cobra.Command, group string, list []kind, build func(k kind, use string) *cobra.Command) {
	sources := &cobra.Command{
		Use: group, Short: parent.Short + ": sources", Args: knownNoun, RunE: knownNoun,
	}
	sources.Aliases = []string{"sources"}
	if group == "sources" {
		sources.Aliases = []string{"source"}
	}
	for _, k := range list {
		cmd := build(k, k.nouns[0])
		cmd.Aliases = k.nouns[1:]
		parent.AddCommand(cmd)
		if k.source != "" {
			sources.AddCommand(build(k, k.source))
		}
	}
	if sources.HasSubCommands() {
		parent.AddCommand(sources)
	}
	parent.Use += " KIND [NAME]"
	sources.Example = examplesOf(parent, group)
	// A kind that is misspelt is what is wrong, not the flags behind it.
	parent.FParseErrWhitelist.UnknownFlags, sources.FParseErrWhitelist.UnknownFlags = true, true
	parent.Args, parent.RunE = knownNoun, knownNoun
}

// examplesOf returns the examples of a command that are about sources.
func examplesOf(cmd *cobra.Command, group string) string {
	var out []string
	for line := range strings.Lines(cmd.Example) {
		if strings.Contains(line, " "+group+" ") {
			out = append(out, strings.TrimRight(line, "\n"))
		}
	}
	return strings.Join(out, "\n")
}

// knownNoun refuses a kind that the verb does not know, and a verb without one.
func knownNoun(cmd *cobra.Command, args []string) error {
	var nouns []string
	for _, c := range cmd.Commands() {
		nouns = append(nouns, c.Name())
	}
	verb := strings.TrimPrefix(cmd.CommandPath(), cmd.Root().Name()+" ")
	if len(args) == 0 {
		return wrongUse("%s what?", verb).Fix("write one of: %s; see `%s --help`", strings.Join(nouns, ", "), cmd.CommandPath())
	}
	return wrongUse("%q is not something to %s", args[0], verb).Fix("write one of: %s", strings.Join(nouns, ", "))
}

// oneName is the argument check of verbs that take one object.
func oneName(cmd *cobra.Command, args []string) error {
	if len(args) == 1 {
		return nil
	}
	return wrongUse("%d names, want one", len(args)).Fix("write `%s NAME`", cmd.CommandPath())
}
