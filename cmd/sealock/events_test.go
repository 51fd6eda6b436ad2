package main

import (
	"context"
	"fmt"
	"io"
	"strings"
	"testing"
	"time"
)

func (p *people) event(name string, k kind, object, typ, reason, message string, ago time.Duration) {
	p.Helper()
	at := time.Now().Add(-ago).UTC().Format(time.RFC3339)
	p.apply(fmt.Sprintf(`apiVersion: v1
kind: Event
metadata: {name: %s}
involvedObject: {apiVersion: %s, kind: %s, name: %s, namespace: %s}
type: %s
reason: %s
message: %q
firstTimestamp: %s
lastTimestamp: %s
`, name, k.resource.GroupVersion(), k.name, object, p.session.namespace, typ, reason, message, at, at), "test", "")
}

func TestEvents(t *testing.T) {
	p := newPeople(t)
	p.repository("src")
	p.kustomization("app")
	p.event("e1", kustomizationKind, "app", "Warning", "BuildFailed", "kustomize build failed:\nno such file", 3*time.Minute)
	p.event("e2", gitRepositoryKind, "src", "Normal", "NewArtifact", "stored artifact for "+revision, 5*time.Minute)
	p.event("e3", kustomizationKind, "other", "Normal", "Progressing", "ConfigMap/x created", time.Minute)
	p.event("e4", secretKind, "pod-of-somebody", "Normal", "Pulled", "image pulled", time.Minute)
	for _, tc := range []struct {
		name string
		args []string
		want []string // in this order
		not  string
	}{
		{"all of ours, oldest first", nil, []string{"LAST SEEN", "5m", "NewArtifact", shortRevision, "3m", "BuildFailed", "Kustomization/app", "failed:; no such file", "Kustomization/other"}, "pulled"},
		{"of one, with its source", []string{"--for", "ks/app"}, []string{"GitRepository/src", "Kustomization/app"}, "other"},
		{"of a kind that the verbs do not know", []string{"--for", "secret/pod-of-somebody"}, []string{"pulled"}, "other"},
		{"warnings", []string{"--types", "Warning"}, []string{"BuildFailed"}, "NewArtifact"},
		{"all namespaces", []string{"-A"}, []string{"NAMESPACE", "LAST SEEN", p.session.namespace}, "pulled"},
		{"yaml", []string{"-o", "yaml", "--for", "Kustomization/other"}, []string{"items:", "reason: Progressing", "kind: List"}, "BuildFailed"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			out := p.ok(append([]string{"events"}, tc.args...)...)
			rest := out
			for _, want := range tc.want {
				_, after, ok := strings.Cut(rest, want)
				if !ok {
					t.Fatalf("%q is not, in order, in\n%s", want, out)
				}
				rest = after
			}
			if strings.Contains(out, tc.not) {
				t.Errorf("%q is in\n%s", tc.not, out)
			}
		})
	}
	for _, tc := range []struct {
		args []string
		code int
		want string
	}{
		{[]string{"--for", "app"}, 2, "KIND/NAME"},
		{[]string{"--for", "blob/x"}, 4, `no kind "blob"`},
		{[]string{"--for", "ks/nobody"}, 4, "no events"},
		{[]string{"--for", "ks/app", "-A"}, 2, "do not go together"},
	} {
		if code, _, errs := p.sealock(append([]string{"events"}, tc.args...)...); code != tc.code || !strings.Contains(errs, tc.want) {
			t.Errorf("%v: exit code %d: %s", tc.args, code, errs)
		}
	}
}

func TestEventsWatchPrintsWhatHappens(t *testing.T) {
	p := newPeople(t)
	p.kustomization("app")
	ctx, cancel := context.WithCancel(t.Context())
	out, code := newLines(), make(chan int)
	go func() {
		code <- run(ctx, []string{"events", "--for", "ks/app", "--watch", "--kubeconfig", p.kubeconfig, "-n", p.session.namespace}, strings.NewReader(""), out, io.Discard)
	}()
	out.wait(t, "LAST SEEN")
	p.event("e1", gitRepositoryKind, "src", "Normal", "NewArtifact", "fetched", 0)
	p.event("e2", kustomizationKind, "app", "Normal", "Progressing", "applied", 0)
	out.wait(t, "fetched")
	out.wait(t, "applied")
	cancel()
	if got := <-code; got != 0 {
		t.Errorf("an interrupted watch ends with %d", got)
	}
}
