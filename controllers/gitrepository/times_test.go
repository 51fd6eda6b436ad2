package gitrepository

import (
	"testing"
	"time"

	sourcev1 "github.com/fluxcd/source-controller/api/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// TestTimesOfChange: lastTransitionTime and lastUpdateTime are those of the change, neither those of the last look nor those of
// an earlier state. The object is made old first, since times have seconds.
// contract: GitRepository status.artifact.lastUpdateTime, status.conditions[].lastTransitionTime
func TestTimesOfChange(t *testing.T) {
	b := newBench(t)
	b.secret("git-credentials", b.dc.Env["GIT_PASSWORD"])
	b.push("a.yaml", "one", "one")
	b.create("app", nil)
	old := metav1.NewTime(time.Now().Add(-time.Hour)).Rfc3339Copy()
	aged := func() {
		t.Helper()
		repo := b.get("app")
		for i := range repo.Status.Conditions {
			repo.Status.Conditions[i].LastTransitionTime = old
		}
		repo.Status.Artifact.LastUpdateTime = old
		if err := b.client.Status().Update(t.Context(), repo); err != nil {
			t.Fatal(err)
		}
	}
	expect := func(what string, transition, update bool) {
		t.Helper()
		repo, _, _, _, _ := b.reconcile("app")
		ready := meta.FindStatusCondition(repo.Status.Conditions, "Ready")
		if moved := !ready.LastTransitionTime.Equal(&old); moved != transition {
			t.Errorf("%s: Ready changed at %s", what, ready.LastTransitionTime)
		}
		if moved := !repo.Status.Artifact.LastUpdateTime.Equal(&old); moved != update {
			t.Errorf("%s: the artifact is of %s", what, repo.Status.Artifact.LastUpdateTime)
		}
	}
	if _, _, _, _, err := b.reconcile("app"); err != nil {
		t.Fatal(err)
	}
	aged()
	expect("nothing changed", false, false)
	b.change("app", func(r *sourcev1.GitRepository) { r.Annotations = map[string]string{requestedAt: "now"} })
	expect("asked for", false, false)
	b.push("a.yaml", "two", "two")
	expect("a new commit", true, true)
	aged()
	b.secret("git-credentials", "wrong")
	expect("a failure", true, false)
	aged()
	expect("the same failure", false, false)
	b.change("app", func(r *sourcev1.GitRepository) { r.Spec.Reference.Branch = "gone" })
	b.secret("git-credentials", b.dc.Env["GIT_PASSWORD"])
	expect("another failure: the message is part of the condition in Flux", true, false)
	aged()
	b.change("app", func(r *sourcev1.GitRepository) { r.Spec.Reference.Branch = "main" })
	expect("it is well again, with the same artifact", true, false)
}
