package kustomization

import (
	"testing"
	"time"

	kustomizev1 "github.com/fluxcd/kustomize-controller/api/v1"
	sourcev1 "github.com/fluxcd/source-controller/api/v1"
	"github.com/google/go-cmp/cmp"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"sealock.dev/sealock/internal/testkit"
)

// TestT33_SendStatus: a status made from an old version is refused when somebody else wrote the status, and goes through when
// people changed the spec or annotations, which stay (ADR 10).
func TestT33_SendStatus(t *testing.T) {
	dc := testkit.Cluster(t)
	dc.InstallCRDs(t)
	ns := dc.Namespace(t, nil)
	kube, err := client.New(dc.Config, client.Options{Scheme: scheme(t)})
	if err != nil {
		t.Fatal(err)
	}
	r := &Reconciler{Client: kube, APIReader: kube}
	for name, c := range map[string]struct {
		meanwhile func(ks *kustomizev1.Kustomization) error
		refused   bool
	}{
		"nothing":  {func(*kustomizev1.Kustomization) error { return nil }, false},
		"the-spec": {func(ks *kustomizev1.Kustomization) error { ks.Spec.Path = "other"; return kube.Update(t.Context(), ks) }, false},
		"annotations": {func(ks *kustomizev1.Kustomization) error {
			ks.Annotations = map[string]string{requestedAt: "now"}
			return kube.Update(t.Context(), ks)
		}, false},
		"the-status": {func(ks *kustomizev1.Kustomization) error {
			ks.Status.LastAppliedRevision = "theirs"
			return kube.Status().Update(t.Context(), ks)
		}, true},
		"another-life": {func(ks *kustomizev1.Kustomization) error { return again(t, kube, ks) }, true},
	} {
		ks := &kustomizev1.Kustomization{ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: name}}
		ks.Spec.Interval, ks.Spec.SourceRef = metav1.Duration{Duration: time.Hour}, kustomizev1.CrossNamespaceSourceReference{Kind: sourcev1.GitRepositoryKind, Name: "x"}
		if err := kube.Create(t.Context(), ks); err != nil {
			t.Fatal(err)
		}
		old := ks.DeepCopy()
		if err := c.meanwhile(ks.DeepCopy()); err != nil {
			t.Fatal(err)
		}
		changed := old.DeepCopy()
		changed.Status.LastAppliedRevision = "ours"
		err := r.sendStatus(t.Context(), &old.Status, changed)
		if apierrors.IsConflict(err) != c.refused || (err != nil) != c.refused {
			t.Errorf("%s: %v", name, err)
		}
		now := &kustomizev1.Kustomization{}
		if err := kube.Get(t.Context(), client.ObjectKeyFromObject(ks), now); err != nil {
			t.Fatal(err)
		}
		if ours := now.Status.LastAppliedRevision == "ours"; ours == c.refused {
			t.Errorf("%s: the status is %+v", name, now.Status)
		}
		if name == "the-spec" && now.Spec.Path != "other" || name == "annotations" && now.Annotations[requestedAt] != "now" {
			t.Errorf("%s: what people changed is lost: %+v", name, now)
		}
	}
}

// again deletes the object and makes one of the same name.
func again(t *testing.T, kube client.Client, ks *kustomizev1.Kustomization) error {
	t.Helper()
	if err := kube.Delete(t.Context(), ks); err != nil {
		return err
	}
	ks.ResourceVersion, ks.UID = "", ""
	return kube.Create(t.Context(), ks)
}

// TestOrderOfConditions: Stalled, Reconciling and Ready come first, the others by their names.
// contract: Kustomization status.conditions[].type
func TestOrderOfConditions(t *testing.T) {
	var list []metav1.Condition
	for _, typ := range []string{"Unwatched", "Healthy", "Ready", "Contested", "Reconciling", "Stalled"} {
		list = append(list, metav1.Condition{Type: typ})
	}
	order(list)
	var got []string
	for _, c := range list {
		got = append(got, c.Type)
	}
	if diff := cmp.Diff([]string{"Stalled", "Reconciling", "Ready", "Contested", "Healthy", "Unwatched"}, got); diff != "" {
		t.Error(diff)
	}
}
