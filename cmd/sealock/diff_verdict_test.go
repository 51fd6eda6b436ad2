package main

import (
	"context"
	"encoding/json"
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"sealock.dev/sealock/api/sealock/v1alpha1"
)

// TestDiffTellsWhatPoliciesSay: in the words of verify, with an exit code that differences alone do not have.
func TestDiffTellsWhatPoliciesSay(t *testing.T) {
	p := newPeople(t)
	ns := p.session.namespace
	p.kustomization("app")
	p.apply(`apiVersion: sealock.dev/v1alpha1
kind: Policy
metadata: {name: `+ns+`}
spec:
  match: {namespaces: [`+ns+`], kinds: [{apiGroups: [""], kinds: [ConfigMap]}]}
  rego: |
    package sealock
    deny contains "no such key" if input.review.object.data.forbidden
`, "test", "")
	t.Cleanup(func() {
		_ = p.objects.Resource(v1alpha1.GroupVersion.WithResource("policies")).Delete(context.WithoutCancel(t.Context()), ns, metav1.DeleteOptions{})
	})
	bad := folder(t, map[string]string{"a.yaml": "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a}\ndata: {forbidden: x}\n"})
	code, out, errs := p.sealock("diff", "ks", "app", "--path", bad)
	for _, want := range []string{"created   ConfigMap/" + ns + "/a", "deny  ConfigMap/" + ns + "/a", "[" + ns + "] no such key", ": 1 denied, 0 warned"} {
		if !strings.Contains(out, want) {
			t.Errorf("%q is not in\n%s", want, out)
		}
	}
	if code != 2 {
		t.Errorf("exit code %d\n%s", code, errs)
	}
	_, out, _ = p.sealock("diff", "ks", "app", "--path", bad, "-o", "json")
	var c comparison
	if err := json.Unmarshal([]byte(out), &c); err != nil || c.Verdict == nil || c.Verdict.Denied != 1 || c.Created != 1 {
		t.Errorf("%v %s", err, out)
	}
	p.apply(`apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata: {name: all}
rules: [{apiGroups: ["*"], resources: ["*"], verbs: ["*"]}]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {name: all}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: Role, name: all}
subjects: [{apiGroup: rbac.authorization.k8s.io, kind: User, name: ann}]
`, "test", "")
	p.allowed("ann")
	if code, out, errs := p.sealock("diff", "ks", "app", "--path", bad, "--as", "ann"); code != 1 || !strings.Contains(errs, "what policies say is not known: you may not list policies") {
		t.Errorf("without the right to read policies: exit code %d\n%s%s", code, out, errs)
	}
}

// TestDiffWithAKustomizationOfAFile: it need not be on the cluster; where it is, its inventory counts.
func TestDiffWithAKustomizationOfAFile(t *testing.T) {
	p := newPeople(t)
	p.kustomization("app")
	p.apply("apiVersion: v1\nkind: ConfigMap\nmetadata: {name: old}\n", applyManager, "app")
	p.inventory("app", 1, p.session.namespace+"_old__ConfigMap/v1")
	dir := folder(t, map[string]string{"deploy/a.yaml": "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a}\n", "ks.yaml": `
apiVersion: kustomize.toolkit.fluxcd.io/v1
kind: Kustomization
metadata: {name: app}
spec: {interval: 1h, prune: true, path: ./deploy, namePrefix: x-, sourceRef: {kind: GitRepository, name: src}}
---
apiVersion: kustomize.toolkit.fluxcd.io/v1
kind: Kustomization
metadata: {name: new}
spec: {interval: 1h, prune: true, path: ./deploy, namePrefix: y-, sourceRef: {kind: GitRepository, name: src}}
`})
	with := []string{"--kustomization-file", dir + "/ks.yaml"}
	if c, _ := p.compared("app", dir+"/deploy", with...); strings.Join(c.actions(), ", ") != "created ConfigMap/x-a, pruned ConfigMap/old" {
		t.Errorf("%v", c.actions())
	}
	if c, _ := p.compared("new", dir+"/deploy", with...); strings.Join(c.actions(), ", ") != "created ConfigMap/y-a" {
		t.Errorf("%v", c.actions())
	}
	if code, _, errs := p.sealock("diff", "ks", "other", "--path", dir+"/deploy", "--kustomization-file", dir+"/ks.yaml"); code != 4 || !strings.Contains(errs, `no Kustomization "other"`) {
		t.Errorf("exit code %d: %s", code, errs)
	}
}
