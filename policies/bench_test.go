package policies

import (
	"context"
	"fmt"
	"strings"
	"testing"

	"sealock.dev/sealock/api/sealock/v1alpha1"
	"sealock.dev/sealock/manifest"
)

// twenty policies of the size of everyday ones, all of which match a Pod and find nothing.
func twenty() []v1alpha1.Policy {
	var list []v1alpha1.Policy
	for i := range 20 {
		list = append(list, policy(fmt.Sprintf("p%02d", i), `
deny contains msg if {
	some pod in input.pods
	some container in containers(pod.spec)
	container.securityContext.privileged
	msg := sprintf("container %s is privileged", [container.name])
}

deny contains msg if {
	some pod in input.pods
	some container in containers(pod.spec)
	not startswith(container.image, "registry.example.com/")
	msg := sprintf("container %s has an image from elsewhere", [container.name])
}

containers(spec) := [c | some list in ["containers", "initContainers", "ephemeralContainers"]; some c in spec[list]]
`, func(s *v1alpha1.PolicySpec) {
			s.Match.Kinds = []v1alpha1.KindMatch{{APIGroups: []string{""}, Kinds: []string{"Pod"}}}
		}))
	}
	return list
}

func pod(t testing.TB) manifest.Object {
	t.Helper()
	container := func(name string) string {
		return `{name: ` + name + `, image: "registry.example.com/app/` + name + `:1.2.3", ports: [{name: http, containerPort: 8080}],
			env: [{name: A, value: "1"}, {name: B, valueFrom: {secretKeyRef: {name: s, key: k}}}],
			resources: {requests: {cpu: 100m, memory: 128Mi}, limits: {memory: 256Mi}}, volumeMounts: [{name: v, mountPath: /v}],
			livenessProbe: {httpGet: {path: /healthz, port: http}}, readinessProbe: {httpGet: {path: /readyz, port: http}},
			securityContext: {allowPrivilegeEscalation: false, runAsNonRoot: true, capabilities: {drop: [ALL]}}}`
	}
	return object(t, `{apiVersion: v1, kind: Pod, metadata: {name: p, namespace: team-a, labels: {app: web, tier: front}, managedFields: [{manager: m, fieldsV1: {`+
		strings.Repeat(`"f:spec": {"f:containers": {"k:name": {}}}, x: {`, 8)+strings.Repeat("}", 8)+`}}]},
		spec: {serviceAccountName: app, containers: [`+container("web")+`, `+container("proxy")+`], volumes: [{name: v, emptyDir: {}}]}}`)
}

// BenchmarkPod20 is one Pod at admission under twenty matching policies, from the decoded object to the verdict.
func BenchmarkPod20(b *testing.B) {
	e, o := engine(b, twenty()...), pod(b)
	r := Review{Kind: o.GVK(), Name: "p", Namespace: "team-a", Operation: "CREATE", Object: &o, Grant: grant()}
	b.ReportAllocs()
	for b.Loop() {
		if got := e.Admit(context.Background(), r); len(got) > 0 {
			b.Fatal(got)
		}
	}
}

// BenchmarkConfigMap20 is an object that none of them looks at.
func BenchmarkConfigMap20(b *testing.B) {
	e, o := engine(b, twenty()...), object(b, configMap)
	r := Review{Kind: o.GVK(), Name: "x", Namespace: "team-a", Operation: "CREATE", Object: &o}
	b.ReportAllocs()
	for b.Loop() {
		e.Admit(context.Background(), r)
	}
}

func BenchmarkCompile(b *testing.B) {
	list := twenty()[:1]
	b.ReportAllocs()
	for b.Loop() {
		Compile(list)
	}
}

// TestAllocationsOfAPod holds the cost of a Pod under twenty policies; unlike time it does not depend on the machine.
func TestAllocationsOfAPod(t *testing.T) {
	e, o := engine(t, twenty()...), pod(t)
	r := Review{Kind: o.GVK(), Name: "p", Namespace: "team-a", Operation: "CREATE", Object: &o, Grant: grant()}
	const limit = 3_400
	if got := testing.AllocsPerRun(20, func() { e.Admit(context.Background(), r) }); got > limit {
		t.Errorf("%.0f allocations, more than %d", got, limit)
	}
}
