package notify

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/go-logr/logr"
	"github.com/go-logr/logr/funcr"
	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/tools/record"
)

// receiver is a real HTTP server that answers with the given codes, then with 202.
type receiver struct {
	*httptest.Server
	mu     sync.Mutex
	codes  []int
	bodies chan []byte
}

func newReceiver(t *testing.T, codes ...int) *receiver {
	t.Helper()
	r := &receiver{codes: codes, bodies: make(chan []byte, 64)}
	r.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		body, err := io.ReadAll(req.Body)
		if err != nil || req.Method != http.MethodPost || req.Header.Get("Content-Type") != "application/json" {
			t.Errorf("request %s %v: %v", req.Method, req.Header, err)
		}
		r.mu.Lock()
		code := http.StatusAccepted
		if len(r.codes) > 0 {
			code, r.codes = r.codes[0], r.codes[1:]
		}
		r.mu.Unlock()
		w.Header().Set("Location", "/elsewhere")
		w.WriteHeader(code)
		r.bodies <- body
	}))
	t.Cleanup(r.Close)
	return r
}

func (r *receiver) next(t *testing.T) map[string]any {
	t.Helper()
	select {
	case body := <-r.bodies:
		var out map[string]any
		if err := json.Unmarshal(body, &out); err != nil {
			t.Fatal(err)
		}
		return out
	case <-time.After(20 * time.Second):
		t.Fatal("nothing was posted")
		return nil
	}
}

// started returns a recorder over a Poster that runs, with the events that reach the cluster.
func started(t *testing.T, address string, log logr.Logger) (record.EventRecorder, chan string) {
	t.Helper()
	p, err := New(Options{Address: address, Instance: "pod-1", Scheme: scheme.Scheme, Log: log, Wait: func(ctx context.Context, _ time.Duration) error { return ctx.Err() }})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- p.Start(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	cluster := record.NewFakeRecorder(64)
	return p.Recorder("kustomize-controller", cluster), cluster.Events
}

func object(annotations map[string]string) *corev1.ConfigMap {
	return &corev1.ConfigMap{
		TypeMeta:   metav1.TypeMeta{APIVersion: "v1", Kind: "ConfigMap"},
		ObjectMeta: metav1.ObjectMeta{Namespace: "team", Name: "app", UID: "u-1", ResourceVersion: "7", Annotations: annotations},
	}
}

// TestBody: every field of the body, and the annotations of the object that are meant for events.
// contract: Kustomization event posted
func TestBody(t *testing.T) {
	r := newReceiver(t)
	rec, cluster := started(t, r.URL, logr.Discard())
	annotations := map[string]string{"kustomize.toolkit.fluxcd.io/revision": "main@sha1:abc"}
	rec.AnnotatedEventf(object(map[string]string{"event.toolkit.fluxcd.io/team": "a", "other": "b"}), annotations, "Warning", "BuildFailed", "it %s", "failed")
	got := r.next(t)
	at, err := time.Parse(time.RFC3339, fmt.Sprint(got["timestamp"]))
	if err != nil || time.Since(at) > time.Hour {
		t.Errorf("timestamp %v: %v", got["timestamp"], err)
	}
	delete(got, "timestamp")
	want := map[string]any{
		"involvedObject": map[string]any{"apiVersion": "v1", "kind": "ConfigMap", "namespace": "team", "name": "app", "uid": "u-1", "resourceVersion": "7"},
		"severity":       "error", "message": "it failed", "reason": "BuildFailed",
		"metadata":            map[string]any{"kustomize.toolkit.fluxcd.io/revision": "main@sha1:abc", "event.toolkit.fluxcd.io/team": "a"},
		"reportingController": "kustomize-controller", "reportingInstance": "pod-1",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	if len(annotations) != 1 {
		t.Errorf("the caller's annotations were changed: %v", annotations)
	}
	if e := <-cluster; !strings.HasPrefix(e, "Warning BuildFailed it failed") {
		t.Errorf("in the cluster: %s", e)
	}
	rec.Event(object(nil), "Normal", "", "100% done")
	if got := r.next(t); got["severity"] != "info" || got["reason"] != "info" || got["message"] != "100% done" || got["metadata"] != nil {
		t.Errorf("without reason and annotations: %v", got)
	}
}

// TestTraceIsNotPosted: it is a Normal event of the cluster and nothing else.
func TestTraceIsNotPosted(t *testing.T) {
	r := newReceiver(t)
	rec, cluster := started(t, r.URL, logr.Discard())
	rec.Event(object(nil), Trace, "ArtifactUpToDate", "nothing new")
	rec.Event(object(nil), "Normal", "NewArtifact", "news")
	if got := r.next(t); got["message"] != "news" {
		t.Errorf("posted: %v", got)
	}
	if e := <-cluster; e != "Normal ArtifactUpToDate nothing new" {
		t.Errorf("in the cluster: %s", e)
	}
}

// TestPostedIsNotInTheCluster: it is posted as information and costs the API server nothing.
func TestPostedIsNotInTheCluster(t *testing.T) {
	r := newReceiver(t)
	rec, cluster := started(t, r.URL, logr.Discard())
	rec.Event(object(nil), Posted, "ReconciliationSucceeded", "nothing new")
	if got := r.next(t); got["message"] != "nothing new" || got["severity"] != "info" || got["reason"] != "ReconciliationSucceeded" {
		t.Errorf("posted: %v", got)
	}
	rec.Event(object(nil), "Normal", "NewArtifact", "news")
	if e := <-cluster; e != "Normal NewArtifact news" {
		t.Errorf("in the cluster: %s", e)
	}
}

// TestMessageBounds: 39,000 bytes are posted and 1,024 go to the cluster, cut between characters.
func TestMessageBounds(t *testing.T) {
	r := newReceiver(t)
	rec, cluster := started(t, r.URL, logr.Discard())
	rec.Event(object(nil), "Normal", "r", strings.Repeat("ü", 30_000))
	posted, _ := r.next(t)["message"].(string)
	if len(posted) > 39_000 || len(posted) < 38_990 || !utf8.ValidString(posted) {
		t.Errorf("%d bytes are posted", len(posted))
	}
	inCluster := strings.TrimPrefix(<-cluster, "Normal r ")
	if len(inCluster) > 1024 || len(inCluster) < 1000 || !utf8.ValidString(inCluster) {
		t.Errorf("%d bytes go to the cluster", len(inCluster))
	}
}

// TestAnswers: what is tried again, and what is taken as it is.
func TestAnswers(t *testing.T) {
	for _, tc := range []struct {
		name  string
		codes []int
		posts int
		told  string
	}{
		{"taken", []int{202}, 1, ""},
		{"a duplicate, 429, is success", []int{429}, 1, ""},
		{"a server that comes back", []int{503, 500, 200}, 3, ""},
		{"a server that does not", []int{500, 500, 500, 500, 500}, 5, "status 500"},
		{"refused", []int{400}, 1, "status 400"},
		{"a redirect is not followed", []int{307}, 1, "status 307"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			r := newReceiver(t, tc.codes...)
			logged := make(chan string, 64)
			rec, _ := started(t, r.URL, funcr.New(func(_, line string) { logged <- line }, funcr.Options{}))
			rec.Event(object(nil), "Normal", "r", "first")
			rec.Event(object(nil), "Normal", "r", "second")
			for i := range tc.posts {
				if got := r.next(t); got["message"] != "first" {
					t.Fatalf("post %d: %v", i, got)
				}
			}
			if got := r.next(t); got["message"] != "second" {
				t.Errorf("one more: %v", got)
			}
			line := ""
			if len(logged) > 0 {
				line = <-logged
			}
			if !strings.Contains(line, tc.told) || tc.told == "" && line != "" || strings.Contains(line, r.URL) {
				t.Errorf("logged %q, want %q", line, tc.told)
			}
		})
	}
}

// TestNobodyWaits: a receiver that never answers holds up neither who tells nor the end of the process.
func TestNobodyWaits(t *testing.T) {
	hold := make(chan struct{})
	s := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { <-hold }))
	t.Cleanup(s.Close)
	t.Cleanup(func() { close(hold) })
	logged := make(chan string, 4096)
	p, err := New(Options{Address: s.URL, Scheme: scheme.Scheme, Log: funcr.New(func(_, line string) { logged <- line }, funcr.Options{})})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- p.Start(ctx) }()
	rec := p.Recorder("c", &record.FakeRecorder{})
	for range queued + 2 {
		rec.Event(object(nil), "Normal", "r", "m")
	}
	if line := <-logged; !strings.Contains(line, "too many wait") {
		t.Errorf("logged %s", line)
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

// TestAddresses: a wrong one is refused without being repeated; none means that nothing is posted.
func TestAddresses(t *testing.T) {
	for _, wrong := range []string{"notification-controller:80", "ftp://user:pw@host/", "http://", "http://a b/"} {
		if _, err := New(Options{Address: wrong}); err == nil || strings.Contains(err.Error(), "pw") || strings.Contains(err.Error(), "a b") {
			t.Errorf("%q: %v", wrong, err)
		}
	}
	rec, cluster := started(t, "", logr.Discard())
	rec.Eventf(object(nil), "Normal", "r", "%d", 1)
	if e := <-cluster; e != "Normal r 1" {
		t.Error(e)
	}
}
