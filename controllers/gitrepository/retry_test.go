package gitrepository

import (
	"testing"
	"time"

	sourcev1 "github.com/fluxcd/source-controller/api/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// TestBackOff: what is mended elsewhere is looked at again after a moment, then later each time, and with the interval at last.
// contract: GitRepository reason ProgressingWithRetry, spec.interval
func TestBackOff(t *testing.T) {
	b := newBench(t)
	b.push("a.yaml", "one", "one")
	b.create("slow", func(r *sourcev1.GitRepository) { r.Spec.Interval = metav1.Duration{Duration: time.Hour} })
	b.create("quick", func(r *sourcev1.GitRepository) { r.Spec.Interval = metav1.Duration{Duration: 2 * time.Second} })
	waits := func(name string) (out []time.Duration) {
		t.Helper()
		for range 12 {
			_, _, _, res, err := b.reconcile(name) // there is no Secret
			if err != nil {
				t.Fatal(err)
			}
			out = append(out, res.RequeueAfter)
		}
		return out
	}
	slow := waits("slow")
	for i := range slow {
		if slow[i] <= 0 || slow[i] > retryLast || i > 0 && slow[i] < slow[i-1] {
			t.Fatalf("%s", slow)
		}
	}
	if slow[0] > time.Second || slow[11] != retryLast {
		t.Errorf("%s", slow)
	}
	quick := waits("quick")
	if quick[0] > time.Second || quick[11] != 2*time.Second {
		t.Errorf("%s", quick)
	}
	b.secret("git-credentials", b.dc.Env["GIT_PASSWORD"])
	if _, _, _, res, err := b.reconcile("slow"); err != nil || res.RequeueAfter != time.Hour {
		t.Errorf("%s %v", res.RequeueAfter, err)
	}
	b.secret("git-credentials", "wrong")
	if _, _, _, res, _ := b.reconcile("slow"); res.RequeueAfter > time.Second {
		t.Errorf("after a success: %s", res.RequeueAfter)
	}
}
