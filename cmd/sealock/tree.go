package main

import (
	"context"
	"io"
	"slices"

	"github.com/fluxcd/cli-utils/pkg/kstatus/status"
	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/client-go/metadata"

	"sealock.dev/sealock/fault"
	"sealock.dev/sealock/manifest"
)

// readers is how many objects are read at once.
const readers = 8

func newTreeCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "tree",
		Short:   "Show everything that a Kustomization brought, and how it is doing",
		Example: "  sealock tree ks app\n  sealock tree ks flux-system -n flux-system -o json",
	}
	byKind(cmd, "source", []kind{kustomizationKind}, newTreeKind)
	return cmd
}

func newTreeKind(k kind, use string) *cobra.Command {
	var flags personFlags
	var output string
	cmd := &cobra.Command{
		Use: use + " NAME", Short: "Show the objects of a " + k.name + ", and theirs",
		Long: `tree shows what stands in the inventory of a Kustomization; Kustomizations in it with what they brought, and below a
SealedSecret or an ExternalSecret the Secret that it yields. The status is that of the moment, in the words of kstatus.
Of Secrets only the metadata is read.`,
		Example: "  sealock tree ks app -n team-a",
		Args:    oneName, ValidArgsFunction: flags.names(k),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := knownFormat(output, "json", "yaml"); err != nil {
				return err
			}
			s, err := flags.open()
			if err != nil {
				return err
			}
			root, err := s.tree(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			if output != "" {
				return printAs(cmd.OutOrStdout(), output, root)
			}
			return root.print(cmd.OutOrStdout())
		},
	}
	flags.add(cmd.Flags())
	formatFlag(cmd, &output, "", "Format: json or yaml; a drawing without it.", "json", "yaml")
	return cmd
}

// node is one object of a tree. Its JSON is a contract: fields are added, never changed.
type node struct {
	APIVersion string  `json:"apiVersion"`
	Kind       string  `json:"kind"`
	Namespace  string  `json:"namespace,omitempty"`
	Name       string  `json:"name"`
	Status     string  `json:"status"`
	Message    string  `json:"message,omitempty"`
	Revision   string  `json:"revision,omitempty"`
	Children   []*node `json:"children,omitempty"`
}

func nodeOf(ref fault.Ref) *node {
	return &node{APIVersion: ref.APIVersion, Kind: ref.Kind, Namespace: ref.Namespace, Name: ref.Name, Status: string(status.UnknownStatus)}
}

// tree reads the Kustomization and everything below it.
func (s *session) tree(ctx context.Context, name string) (*node, error) {
	ks, err := s.get(ctx, kustomizationKind, s.namespace, name)
	if err != nil {
		return nil, err
	}
	mapper, _, err := s.mapper()
	if err != nil {
		return nil, err
	}
	secrets, err := metadata.NewForConfig(s.config)
	if err != nil {
		return nil, fault.New("", fault.Invalid, fault.Ref{}, "the kubeconfig is not usable").Fix("check it with `kubectl config view`")
	}
	g := &grower{session: s, mapper: mapper, secrets: secrets.Resource(secretKind.resource), path: map[fault.Ref]bool{}}
	root := nodeOf(kustomizationKind.ref(s.namespace, name))
	g.take(root, ks)
	return root, g.kustomization(ctx, root, ks)
}

// grower reads a tree. path are the Kustomizations above the one that is read: one that brings itself ends there.
type grower struct {
	*session
	mapper  meta.RESTMapper
	secrets metadata.Getter
	path    map[fault.Ref]bool
}

func (g *grower) kustomization(ctx context.Context, n *node, ks *unstructured.Unstructured) error {
	ref := kustomizationKind.ref(n.Namespace, n.Name)
	if g.path[ref] {
		return nil
	}
	g.path[ref] = true
	defer delete(g.path, ref)
	ids, err := inventoryOf(ks)
	if err != nil {
		return err
	}
	live := make([]*unstructured.Unstructured, len(ids))
	n.Children = make([]*node, len(ids))
	var group errgroup.Group
	group.SetLimit(readers)
	for i, id := range ids {
		n.Children[i] = nodeOf(id.Ref())
		group.Go(func() error {
			live[i] = g.read(ctx, n.Children[i], id)
			return nil
		})
	}
	_ = group.Wait() // what cannot be read says so in its node
	for i, child := range n.Children {
		if live[i] == nil {
			continue
		}
		switch child.Kind {
		case kustomizationKind.name:
			if err := g.kustomization(ctx, child, live[i]); err != nil {
				return err
			}
		case sealedSecretKind.name, externalSecretKind.name:
			child.Children = g.yielded(ctx, live[i])
		}
	}
	return ctx.Err()
}

// inventoryOf reads status.inventory.
func inventoryOf(ks *unstructured.Unstructured) ([]manifest.ID, error) {
	entries, _, _ := unstructured.NestedSlice(ks.Object, "status", "inventory", "entries")
	var ids []manifest.ID
	for _, each := range entries {
		entry, _ := each.(map[string]any)
		text, _ := entry["id"].(string)
		version, _ := entry["v"].(string)
		id, err := manifest.ParseID(text, version)
		if err != nil {
			return nil, fault.New("", fault.Invalid, kustomizationKind.ref(ks.GetNamespace(), ks.GetName()), "%w", err).At("status.inventory").Fix("remove the entry; no reconciler wrote it")
		}
		ids = append(ids, id)
	}
	return ids, nil
}

// read fills the node with what is live, and returns that, nil when it cannot be read or is a Secret.
func (g *grower) read(ctx context.Context, n *node, id manifest.ID) *unstructured.Unstructured {
	if id.Kind == secretKind.name && id.Group == "" {
		g.secret(ctx, n)
		return nil
	}
	k, err := kindServed(g.mapper, id.GVK())
	if err != nil {
		n.Status, n.Message = string(status.NotFoundStatus), "the cluster does not serve this kind"
		return nil
	}
	obj, err := g.get(ctx, k, id.Namespace, id.Name)
	if err != nil {
		n.unread(err)
		return nil
	}
	g.take(n, obj)
	return obj
}

// take sets the status of the node by the live object.
func (g *grower) take(n *node, obj *unstructured.Unstructured) {
	if res, err := status.Compute(obj); err == nil && res != nil {
		n.Status = string(res.Status)
		if res.Status != status.CurrentStatus {
			n.Message = short(res.Message)
		}
	}
	for _, k := range kinds() {
		if k.name == n.Kind {
			n.Revision = k.revisionOf(obj)
		}
	}
	if suspended(obj) {
		n.Message = "suspended"
	}
}

func (n *node) unread(err error) {
	switch fault.KindOf(err) {
	case fault.NotFound:
		n.Status = string(status.NotFoundStatus)
	case fault.Denied:
		n.Message = "you may not read it"
	default:
		n.Message = "the API server did not answer"
	}
}

// secret reads the metadata of a Secret.
func (g *grower) secret(ctx context.Context, n *node) *metav1.PartialObjectMetadata {
	found, err := g.secrets.Namespace(n.Namespace).Get(ctx, n.Name, metav1.GetOptions{})
	if err != nil {
		n.unread(unanswered(err, secretKind.ref(n.Namespace, n.Name), "read"))
		return nil
	}
	if n.Status = string(status.CurrentStatus); found.DeletionTimestamp != nil {
		n.Status = string(status.TerminatingStatus)
	}
	return found
}

// yielded returns the Secret of a SealedSecret or an ExternalSecret.
func (g *grower) yielded(ctx context.Context, owner *unstructured.Unstructured) []*node {
	n := nodeOf(secretKind.ref(owner.GetNamespace(), secretOf(owner)))
	if found := g.secret(ctx, n); found != nil && len(found.OwnerReferences) > 0 {
		owned := slices.ContainsFunc(found.OwnerReferences, func(r metav1.OwnerReference) bool { return r.UID == owner.GetUID() })
		if !owned {
			n.Message = "it belongs to " + found.OwnerReferences[0].Kind + "/" + found.OwnerReferences[0].Name
		}
	}
	return []*node{n}
}

// secretOf returns the name of the Secret that a SealedSecret or an ExternalSecret yields.
func secretOf(owner *unstructured.Unstructured) string {
	path := []string{"spec", "target", "name"}
	if owner.GetKind() == sealedSecretKind.name {
		path = []string{"spec", "template", "metadata", "name"}
	}
	if name, _, _ := unstructured.NestedString(owner.Object, path...); name != "" {
		return name
	}
	return owner.GetName()
}

// print draws the tree.
func (n *node) print(out io.Writer) error {
	rows := n.rows("", "")
	return newTable(out, []string{"OBJECT", "STATUS", "MESSAGE"}, rows).print(rows)
}

func (n *node) rows(branch, below string) [][]string {
	name := fault.Ref{Kind: n.Kind, Namespace: n.Namespace, Name: n.Name}.String()
	message := n.Message
	if message == "" {
		message = short(n.Revision)
	}
	rows := [][]string{{branch + name, n.Status, message}}
	for i, child := range n.Children {
		if i == len(n.Children)-1 {
			rows = append(rows, child.rows(below+"└── ", below+"    ")...)
			continue
		}
		rows = append(rows, child.rows(below+"├── ", below+"│   ")...)
	}
	return rows
}
