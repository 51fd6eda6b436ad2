package faults

import (
	"encoding/json"
	"encoding/pem"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	admissionv1 "k8s.io/api/admission/v1"
	hooksv1 "k8s.io/api/admissionregistration/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// hook is somebody else's admission webhook for the ConfigMaps of one namespace. It minds only the one named b.
type hook struct {
	mode atomic.Value // of hookMode
	*httptest.Server
}

type hookMode string

const (
	allows      hookMode = "allows"
	denies      hookMode = "denies"
	deniesWrite hookMode = "denies the real write" // and lets the dry-run pass
	hangs       hookMode = "hangs"
)

func (tm *team) hook() *hook {
	tm.Helper()
	h := &hook{}
	h.mode.Store(allows)
	h.Server = httptest.NewTLSServer(h)
	tm.Cleanup(h.Close)
	url, seconds, fail, none := h.URL, int32(1), hooksv1.Fail, hooksv1.SideEffectClassNoneOnDryRun
	_, err := tm.Typed.AdmissionregistrationV1().ValidatingWebhookConfigurations().Create(tm.ctx, &hooksv1.ValidatingWebhookConfiguration{
		ObjectMeta: metav1.ObjectMeta{Name: tm.name},
		Webhooks: []hooksv1.ValidatingWebhook{{
			Name:                    "b.example.com",
			ClientConfig:            hooksv1.WebhookClientConfig{URL: &url, CABundle: pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: h.Certificate().Raw})},
			NamespaceSelector:       &metav1.LabelSelector{MatchLabels: map[string]string{"kubernetes.io/metadata.name": tm.name}},
			Rules:                   []hooksv1.RuleWithOperations{{Operations: []hooksv1.OperationType{hooksv1.Create, hooksv1.Update}, Rule: hooksv1.Rule{APIGroups: []string{""}, APIVersions: []string{"v1"}, Resources: []string{"configmaps"}}}},
			TimeoutSeconds:          &seconds,
			FailurePolicy:           &fail,
			SideEffects:             &none,
			AdmissionReviewVersions: []string{"v1"},
		}},
	}, metav1.CreateOptions{})
	tm.ok(err)
	return h
}

func (h *hook) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	var review admissionv1.AdmissionReview
	if err := json.NewDecoder(r.Body).Decode(&review); err != nil || review.Request == nil {
		http.Error(w, "no review", http.StatusBadRequest)
		return
	}
	mode, dry := h.mode.Load(), review.Request.DryRun != nil && *review.Request.DryRun
	answer := &admissionv1.AdmissionResponse{UID: review.Request.UID, Allowed: true}
	if review.Request.Name == "b" {
		switch mode {
		case hangs:
			<-r.Context().Done()
			return
		case denies:
			answer.Allowed = false
		case deniesWrite:
			answer.Allowed = dry
		}
	}
	if !answer.Allowed {
		answer.Result = &metav1.Status{Message: "b is not welcome"}
	}
	review.Request, review.Response = nil, answer
	_ = json.NewEncoder(w).Encode(review)
}

// TestWebhookRefuses: what another webhook denies, or does not answer in time, is known by the dry-run: nothing of the
// commit is written. It goes in as soon as the webhook lets it.
func TestWebhookRefuses(t *testing.T) {
	t.Parallel()
	for mode, words := range map[hookMode]string{denies: "b is not welcome", hangs: "webhook"} {
		t.Run(string(mode), func(t *testing.T) {
			t.Parallel()
			first := set{"ConfigMap/a": "1"}
			tm := begin(t, "hook-"+string(mode), first)
			h := tm.hook()
			tm.hooked(h, mode)
			second := set{"ConfigMap/a": "2", "ConfigMap/b": "2"}
			commit := tm.push(second.change("app", first))
			tm.fetch()
			message := tm.failed("app", commit)
			if !strings.Contains(message, "ConfigMap/"+tm.name+"/b") || !strings.Contains(message, words) {
				t.Errorf("message: %s", message)
			}
			tm.sound("app", first)
			h.mode.Store(allows)
			tm.ready("app", commit)
			tm.sound("app", second)
		})
	}
}

// TestWebhookRefusesOnlyTheRealWrite: what nobody can know before is recorded: all that was written, or may have been, is in
// the inventory, and nothing was pruned. (Since admissionregistration v1 every webhook has to answer a dry-run; one that
// minds the real write only is what is left of those that could not.)
func TestWebhookRefusesOnlyTheRealWrite(t *testing.T) {
	t.Parallel()
	first := set{"ConfigMap/a": "1", "ConfigMap/gone": "1"}
	tm := begin(t, "hook-late", first)
	h := tm.hook()
	tm.hooked(h, denies)
	h.mode.Store(deniesWrite)
	second := set{"ConfigMap/a": "2", "ConfigMap/b": "2", "ConfigMap/c": "2"}
	commit := tm.push(second.change("app", first))
	tm.fetch()
	if message := tm.failed("app", commit); !strings.Contains(message, "b is not welcome") {
		t.Errorf("message: %s", message)
	}
	inventory, live := tm.inventory("app"), tm.live("app")
	for id := range live {
		if !slices.Contains(inventory, id) {
			t.Errorf("orphaned: %s", id)
		}
	}
	for _, id := range []string{first.id(tm.name, "ConfigMap/a"), first.id(tm.name, "ConfigMap/gone")} {
		if live[id] == nil {
			t.Errorf("%s was pruned by a commit that failed", id)
		}
	}
	h.mode.Store(allows)
	tm.ready("app", commit)
	tm.sound("app", second)
}

// hooked returns when the API server asks the webhook.
func (tm *team) hooked(h *hook, mode hookMode) {
	tm.Helper()
	h.mode.Store(denies)
	tm.eventually("the webhook to be asked", func() (bool, error) {
		err := tm.Apply(strings.Replace(manifestOf("ConfigMap/b", "x"), "name: b", "name: b, namespace: "+tm.name, 1))
		if err == nil {
			_ = tm.Typed.CoreV1().ConfigMaps(tm.name).Delete(tm.ctx, "b", metav1.DeleteOptions{})
		}
		return err != nil && strings.Contains(err.Error(), "not welcome"), nil
	})
	h.mode.Store(mode)
}

// failed waits until a Kustomization says that the commit is not applied, and returns what it says.
func (tm *team) failed(name, commit string) (message string) {
	tm.Helper()
	tm.eventually("commit "+commit+" to fail", func() (bool, error) {
		o, err := tm.Get(tm.ctx, ksAPI, "Kustomization", tm.name, name)
		if err != nil || o == nil {
			return false, err
		}
		var status string
		status, _, message = condition(o)
		return status == "False" && strings.HasSuffix(str(o.Object, "status", "lastAttemptedRevision"), commit), nil
	})
	return message
}
