package main

import (
	"context"
	"os"
	"strings"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"sealock.dev/sealock/api/sealock/v1alpha1"
	"sealock.dev/sealock/cluster"
	"sealock.dev/sealock/fault"
	"sealock.dev/sealock/manifest"
	"sealock.dev/sealock/plaintext"
)

// judged says what the fences of the tenant and the policies of the cluster think of the set, in the words of the
// controller. Who may not read the policies is told so: that is no reason to hide what would change.
func (s *session) judged(ctx context.Context, want *wanted) (*verdict, error) {
	unknown := func(err error) (*verdict, error) {
		want.notes = append(want.notes, "what policies say is not known: "+want.safe(err).Error())
		return nil, ctx.Err()
	}
	var found []v1alpha1.Policy
	if err := list(ctx, s.objects, "policies", &found); err != nil {
		return unknown(err)
	}
	if !want.tenants {
		want.notes = append(want.notes, "the Tenants cannot be read: what holds for tenants alone is not judged")
	}
	objects, err := cluster.New(ctx, cluster.Options{Config: s.config, Key: plaintext.RandomKey()})
	if err != nil {
		return unknown(err)
	}
	v, err := judge(ctx, judges{policies: found, resolve: objects.Resolve}, want.grant, want.set)
	if err != nil {
		return unknown(err)
	}
	return v, nil
}

// kustomizationIn reads a Kustomization from a file. What the cluster knows of it, its inventory above all, stays.
func kustomizationIn(file, namespace, name string, live *unstructured.Unstructured) (*unstructured.Unstructured, error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, fault.New("", fault.NotFound, fault.Ref{File: file}, "the file cannot be read").At("--kustomization-file")
	}
	docs, err := manifest.Decode(file, text, manifest.DefaultLimits)
	if err != nil {
		return nil, err
	}
	for _, d := range docs {
		ks := &unstructured.Unstructured{Object: d.Body}
		if ks.GetName() != name || ks.GetKind() != kustomizationKind.name || !strings.HasPrefix(ks.GetAPIVersion(), kustomizeGroup+"/") {
			continue
		}
		ks.SetNamespace(namespace)
		delete(ks.Object, "status")
		if live != nil {
			ks.SetUID(live.GetUID())
			ks.Object["status"] = live.Object["status"]
		}
		return ks, nil
	}
	return nil, fault.New("", fault.NotFound, fault.Ref{File: file}, "there is no Kustomization %q in it", name).At("--kustomization-file").Fix("name the file with it, or leave the flag out")
}
