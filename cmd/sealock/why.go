package main

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/duration"
	"k8s.io/client-go/metadata"

	"sealock.dev/sealock/fault"
	"sealock.dev/sealock/manifest"
)

type whyOptions struct {
	personFlags
	path   string
	system string
	output string
}

func newWhyCommand() *cobra.Command {
	var o whyOptions
	cmd := &cobra.Command{
		Use:   "why KIND/NAME",
		Short: "Tell where an object comes from, who judged it and who changed it since",
		Long: `why follows an object to the Kustomization, the commit, the file and the line that brought it. What belongs to another
object is followed to that: a Pod to its Deployment, a Secret to its SealedSecret or ExternalSecret. It names the tenant,
says when the object was last applied, and who else wrote which of its fields. Of the object only metadata is read.

With --path, a clone of the repository, file and line are looked up there where the cluster does not tell them.`,
		Example: `  sealock why deployment/web -n team-a
  sealock why secret/db -n team-a -o json
  sealock why configmap/settings --path ./deploy`,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) == 1 || len(args) == 2 {
				return nil
			}
			return wrongUse("%d arguments, want one object", len(args)).Fix("write `%s KIND/NAME`", cmd.CommandPath())
		},
		ValidArgsFunction: func(cmd *cobra.Command, args []string, begun string) ([]cobra.Completion, cobra.ShellCompDirective) {
			return o.completeBrought(cmd, args, begun)
		},
		RunE: func(cmd *cobra.Command, args []string) error { return o.run(cmd.Context(), args, cmd.OutOrStdout()) },
	}
	flags := cmd.Flags()
	o.add(flags)
	flags.StringVar(&o.path, "path", "", "Folder of this machine that stands for spec.path of the Kustomization.")
	flags.StringVar(&o.system, "system-namespace", systemNamespace, "Namespace of the installation.")
	formatFlag(cmd, &o.output, "", "Format: json or yaml; lines for people without it.", "json", "yaml")
	_ = cmd.MarkFlagDirname("path")
	return cmd
}

// explanation is what why prints. Its JSON is a contract: fields are added, never changed.
type explanation struct {
	Object        string    `json:"object"`
	Through       []string  `json:"through,omitempty"` // the objects that it belongs to, up to the one that a commit brought
	Kustomization string    `json:"kustomization,omitempty"`
	State         string    `json:"state,omitempty"` // of the Kustomization
	Revision      string    `json:"revision,omitempty"`
	Source        string    `json:"source,omitempty"`
	URL           string    `json:"url,omitempty"`
	Ref           string    `json:"ref,omitempty"`
	Path          string    `json:"path,omitempty"`
	File          string    `json:"file,omitempty"`
	Line          int       `json:"line,omitempty"`
	Tenant        string    `json:"tenant,omitempty"`
	Identity      string    `json:"identity,omitempty"`
	Policies      string    `json:"policies,omitempty"`       // the snapshot that judged
	PolicyNames   []string  `json:"policyNames,omitempty"`    // of the snapshot, or, with policyNamesNow, in force now
	NamesAreNow   bool      `json:"policyNamesNow,omitempty"` // the policies have changed since
	Applied       time.Time `json:"applied,omitzero"`
	DriftedAt     time.Time `json:"driftedAt,omitzero"`
	DriftedBy     string    `json:"driftedBy,omitempty"`
	Managers      []manager `json:"managers,omitempty"` // others than the Kustomization
	Events        []string  `json:"events,omitempty"`
	Notes         []string  `json:"notes,omitempty"`
}

func (o *whyOptions) run(ctx context.Context, args []string, out io.Writer) error {
	if err := knownFormat(o.output, "json", "yaml"); err != nil {
		return err
	}
	s, err := o.open()
	if err != nil {
		return err
	}
	k, name, err := s.objectNamed(args)
	if err != nil {
		return err
	}
	var records provenance = fromRecord{session: s, namespace: o.system}
	if o.path != "" {
		records = fromFolder{provenance: records, session: s, dir: o.path, system: o.system}
	}
	a, err := s.why(ctx, k, name, records, o.system)
	if err != nil {
		return err
	}
	if o.output != "" {
		return printAs(out, o.output, a)
	}
	return a.print(out)
}

// asker finds out about one object.
type asker struct {
	*session
	meta metadata.Interface
	explanation
}

func (s *session) why(ctx context.Context, k kind, name string, records provenance, system string) (*explanation, error) {
	client, err := metadata.NewForConfig(s.config)
	if err != nil {
		return nil, fault.New("", fault.Invalid, fault.Ref{}, "the kubeconfig is not usable").Fix("check it with `kubectl config view`")
	}
	a := &asker{session: s, meta: client}
	obj, err := a.read(ctx, k, s.namespace, name)
	if err != nil {
		return nil, err
	}
	a.Object = k.ref(obj.Namespace, name).String()
	applied, others := managersOf(obj)
	a.Applied, a.Managers = applied, others
	brought, id, ks, err := a.brought(ctx, k, obj)
	if err != nil {
		return nil, err
	}
	if ks == nil {
		a.Notes = append(a.Notes, "no Kustomization brings it")
		a.events(ctx, k, obj, nil)
		return &a.explanation, nil
	}
	if brought.UID != obj.UID {
		a.Applied, _ = managersOf(brought)
	}
	a.kustomization(ctx, ks)
	known, err := records.of(ctx, types.NamespacedName{Namespace: ks.GetNamespace(), Name: ks.GetName()}, id)
	if err != nil {
		a.Notes = append(a.Notes, "file and line are not known: "+err.Error())
	}
	a.take(known)
	if a.Identity == "" {
		a.tenant(ctx, ks, system)
	}
	a.policies(ctx)
	a.events(ctx, k, obj, ks)
	return &a.explanation, nil
}

func (a *asker) read(ctx context.Context, k kind, namespace, name string) (*metav1.PartialObjectMetadata, error) {
	if k.clusterWide {
		namespace = ""
	}
	obj, err := a.meta.Resource(k.resource).Namespace(namespace).Get(ctx, name, metav1.GetOptions{})
	if err != nil {
		return nil, unanswered(err, k.ref(namespace, name), "read")
	}
	return obj, nil
}

// longestChain bounds how far owners are followed.
const longestChain = 10

// brought follows an object to the one that stands in the inventory of a Kustomization. Labels alone prove nothing: they
// are copied to what an object makes.
func (a *asker) brought(ctx context.Context, k kind, obj *metav1.PartialObjectMetadata) (*metav1.PartialObjectMetadata, manifest.ID, *unstructured.Unstructured, error) {
	labelled := ""
	for range longestChain {
		id := manifest.ID{Namespace: obj.Namespace, Name: obj.Name, Group: k.resource.Group, Kind: k.name, Version: k.resource.Version}
		if owner := obj.Labels[labelOwner]; owner != "" {
			labelled = "Kustomization/" + obj.Labels[labelOwnerSpace] + "/" + owner
			ks, err := a.get(ctx, kustomizationKind, obj.Labels[labelOwnerSpace], owner)
			if err != nil && fault.KindOf(err) != fault.NotFound {
				return nil, id, nil, err
			}
			if ks != nil && inInventory(ks, id) {
				return obj, id, ks, nil
			}
		}
		up := metav1.GetControllerOfNoCopy(obj)
		if up == nil && len(obj.OwnerReferences) > 0 {
			up = &obj.OwnerReferences[0]
		}
		if up == nil {
			break
		}
		next, above, err := a.owner(ctx, obj.Namespace, up)
		if err != nil {
			a.Notes = append(a.Notes, fmt.Sprintf("it belongs to %s/%s, which cannot be read: %v", up.Kind, up.Name, err))
			break
		}
		a.Through = append(a.Through, above.ref(next.Namespace, next.Name).String())
		obj, k = next, above
	}
	if labelled != "" {
		a.Notes = append(a.Notes, "it carries the labels of "+labelled+", which does not have it in its inventory")
	}
	return nil, manifest.ID{}, nil, nil
}

func inInventory(ks *unstructured.Unstructured, id manifest.ID) bool {
	ids, _ := inventoryOf(ks)
	return slices.ContainsFunc(ids, func(each manifest.ID) bool { return each.String() == id.String() })
}

func (a *asker) owner(ctx context.Context, namespace string, up *metav1.OwnerReference) (*metav1.PartialObjectMetadata, kind, error) {
	mapper, _, err := a.mapper()
	if err != nil {
		return nil, kind{}, err
	}
	k, err := kindServed(mapper, schema.FromAPIVersionAndKind(up.APIVersion, up.Kind))
	if err != nil {
		return nil, k, err
	}
	obj, err := a.read(ctx, k, namespace, up.Name)
	return obj, k, err
}

// kustomization tells commit and source.
func (a *asker) kustomization(ctx context.Context, ks *unstructured.Unstructured) {
	a.Kustomization = kustomizationKind.ref(ks.GetNamespace(), ks.GetName()).String()
	ready, _ := conditionOf(ks, readyCondition)
	switch {
	case suspended(ks):
		a.State = "suspended"
	case ready.Status == metav1.ConditionTrue:
		a.State = "ready"
	default:
		a.State = "not ready: " + short(ready.Message)
	}
	a.Revision, a.Path = kustomizationKind.revisionOf(ks), cmp.Or(field(ks, "spec", "path"), "./")
	namespace, name, err := sourceOf(ks)
	if err != nil {
		return
	}
	a.Source = gitRepositoryKind.ref(namespace, name).String()
	repo, err := a.get(ctx, gitRepositoryKind, namespace, name)
	if err != nil {
		a.Notes = append(a.Notes, "the source cannot be read: "+err.Error())
		return
	}
	a.URL = withoutUser(field(repo, "spec", "url"))
	ref, _, _ := unstructured.NestedStringMap(repo.Object, "spec", "ref")
	for _, what := range []string{"commit", "name", "semver", "tag", "branch"} { // Flux's precedence
		if ref[what] != "" && a.Ref == "" {
			a.Ref = what + " " + ref[what]
		}
	}
}

// withoutUser returns a URL without a credential that somebody wrote into it.
func withoutUser(raw string) string {
	u, err := url.Parse(raw)
	if err != nil {
		return ""
	}
	if _, secret := u.User.Password(); secret || u.Scheme != "ssh" {
		u.User = nil
	}
	return u.String()
}

// take adds what the controller noted.
func (a *asker) take(known origin) {
	a.File, a.Line, a.Policies, a.DriftedAt, a.DriftedBy = known.File, known.Line, known.Policies, known.DriftedAt, known.DriftedBy
	a.Revision, a.Tenant, a.Identity = cmp.Or(known.Revision, a.Revision), cmp.Or(known.Tenant, a.Tenant), cmp.Or(known.Identity, a.Identity)
	if !known.Applied.IsZero() {
		a.Applied = known.Applied
	}
}

// mostEvents bounds what is shown of events; `sealock events` shows all.
const mostEvents = 5

// events tells what was reported of the object, and of the Kustomization where it names the object.
func (a *asker) events(ctx context.Context, k kind, obj *metav1.PartialObjectMetadata, ks *unstructured.Unstructured) {
	namespace := cmp.Or(obj.Namespace, metav1.NamespaceDefault)
	var found []unstructured.Unstructured
	if list, err := a.of(eventKind, namespace).List(ctx, metav1.ListOptions{FieldSelector: involving(k, obj.Name)}); err == nil {
		found = list.Items
	}
	if ks != nil {
		if list, err := a.of(eventKind, ks.GetNamespace()).List(ctx, metav1.ListOptions{FieldSelector: involving(kustomizationKind, ks.GetName())}); err == nil {
			for _, e := range list.Items {
				if slices.ContainsFunc(strings.Fields(field(&e, "message")), func(word string) bool { return strings.Trim(word, ":,;'") == a.Object }) {
					found = append(found, e)
				}
			}
		}
	}
	slices.SortStableFunc(found, func(x, y unstructured.Unstructured) int { return lastSeen(&x).Compare(lastSeen(&y)) })
	for _, e := range found[max(0, len(found)-mostEvents):] {
		a.Events = append(a.Events, fmt.Sprintf("%s ago  %s %s  %s", duration.HumanDuration(time.Since(lastSeen(&e))), field(&e, "type"), field(&e, "reason"), a.about(short(field(&e, "message")))))
	}
}

// about keeps the lines of a message that name the object, where there are such lines.
func (a *asker) about(message string) string {
	var lines []string
	for line := range strings.Lines(message) {
		if strings.Contains(line, a.Object) {
			lines = append(lines, strings.TrimSpace(line))
		}
	}
	if len(lines) == 0 {
		return strings.ReplaceAll(strings.TrimSpace(message), "\n", "; ")
	}
	return strings.Join(lines, "; ")
}

// mostFields bounds what is shown of the fields of one manager.
const mostFields = 6

func (a *explanation) print(out io.Writer) error {
	w := &errWriter{out: out}
	say := func(label, text string) {
		if text != "" {
			w.printf("  %-9s %s\n", label, text)
		}
	}
	w.printf("%s\n", a.Object)
	say("through", strings.Join(a.Through, ", "))
	if a.Kustomization != "" {
		say("from", a.Kustomization+", "+a.State)
	}
	say("commit", a.commit())
	if a.File != "" {
		say("file", fmt.Sprintf("%s:%d", a.File, a.Line))
	}
	say("tenant", a.Tenant)
	say("acts as", a.Identity)
	say("policies", a.policyText())
	say("applied", since(a.Applied))
	if !a.DriftedAt.IsZero() {
		say("drifted", since(a.DriftedAt)+" by "+a.DriftedBy)
	}
	for _, m := range a.Managers {
		say("changed", m.text())
	}
	for _, e := range a.Events {
		say("event", e)
	}
	for _, n := range a.Notes {
		say("note", n)
	}
	return w.err
}

func (a *explanation) commit() string {
	if a.Kustomization == "" {
		return ""
	}
	text := cmp.Or(short(a.Revision), "none yet")
	if a.URL != "" {
		text += " of " + a.URL
	}
	if a.Ref != "" {
		text += " (" + a.Ref + ")"
	}
	return text + ", path " + a.Path
}

func since(at time.Time) string {
	if at.IsZero() {
		return ""
	}
	return fmt.Sprintf("%s (%s ago)", at.UTC().Format(time.RFC3339), duration.HumanDuration(time.Since(at)))
}

func (m manager) text() string {
	fields := m.Fields
	if len(fields) > mostFields {
		fields = append(slices.Clone(fields[:mostFields]), fmt.Sprintf("and %d more", len(m.Fields)-mostFields))
	}
	text := "by " + m.Name
	if !m.At.IsZero() {
		text += " " + duration.HumanDuration(time.Since(m.At)) + " ago"
	}
	text += ": " + strings.Join(fields, ", ")
	if m.Overridden {
		text += " (taken back by the next apply)"
	}
	return text
}
