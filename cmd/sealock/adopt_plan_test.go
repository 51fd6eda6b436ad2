package main

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/yaml"
)

// object reads one object of a test from YAML.
func fluxObject(t *testing.T, text string) unstructured.Unstructured {
	t.Helper()
	o := unstructured.Unstructured{}
	if err := yaml.Unmarshal([]byte(text), &o.Object); err != nil {
		t.Fatal(err)
	}
	return o
}

func ready(t *testing.T, kind, namespace, name, spec, status string) unstructured.Unstructured {
	t.Helper()
	if kind == "Kustomization" && !strings.Contains(spec, "sourceRef") {
		spec += ", sourceRef: {kind: GitRepository, name: a}"
	}
	return fluxObject(t, `
apiVersion: any/v1
kind: `+kind+`
metadata: {name: `+name+`, namespace: `+namespace+`, finalizers: [finalizers.fluxcd.io]}
spec: {`+spec+`}
status: {conditions: [{type: Ready, status: "True"}]`+status+`}
`)
}

// TestAdoptPlan: each thing that an adoption has to tell is found, and only where it is.
func TestAdoptPlan(t *testing.T) {
	const kc = "kustomize-controller"
	for _, tc := range []struct {
		name     string
		change   func(t *testing.T, s *fluxState)
		check    string
		level    level
		says     string
		platform string
		renamed  string
		fix      string
		argument string
		accepted string // what stands in the way besides
	}{
		{name: "an old API server", change: func(_ *testing.T, s *fluxState) { s.server = "v1.27.3" }, check: "server", level: stops, says: "1.27.3"},
		{name: "a supported one", check: "server", level: fine},
		{
			name: "a version that ours do not have is stored", check: "crds", level: stops, says: "v1beta2",
			change: func(t *testing.T, s *fluxState) {
				s.crds = append(s.crds, fluxObject(t, `{metadata: {name: kustomizations.kustomize.toolkit.fluxcd.io}, status: {storedVersions: [v1beta2, v1]}}`))
			},
		},
		{
			name: "a CRD that stands in Git", check: "crds", level: note, says: "Kustomization flux-system/flux-system",
			change: func(t *testing.T, s *fluxState) {
				s.crds = append(s.crds, fluxObject(t, `{metadata: {name: kustomizations.kustomize.toolkit.fluxcd.io, labels: {kustomize.toolkit.fluxcd.io/name: flux-system, kustomize.toolkit.fluxcd.io/namespace: flux-system}}, status: {storedVersions: [v1]}}`))
			},
		},
		{
			name: "a chart from a GitRepository", check: "artifacts", level: warning, says: "source-controller makes them", accepted: "helm-charts",
			change: func(t *testing.T, s *fluxState) {
				s.add(ready(t, "HelmChart", "apps", "a", "sourceRef: {kind: GitRepository, name: a}", ""))
			},
		},
		{
			name: "another Flux", check: "controllers", level: stops, says: "has 1 ready replicas",
			change: func(_ *testing.T, s *fluxState) {
				s.controllers = append(s.controllers, fluxController{Component: kc, Namespace: "elsewhere", Deployment: kc, Ready: 1})
			},
		},
		{
			name: "a process without a Deployment", check: "controllers", level: stops, says: "without a Deployment",
			change: func(_ *testing.T, s *fluxState) {
				s.controllers = []fluxController{{Component: kc, Namespace: "flux-system", Holder: "laptop"}}
			},
		},
		{
			name: "Flux's own manifests in Git", check: "controllers", level: note, says: "keeps it down",
			change: func(_ *testing.T, s *fluxState) { s.controllers[0].AppliedBy = "flux-system/flux-system" },
		},
		{
			name: "the Flux operator", check: "operator", level: stops,
			change: func(t *testing.T, s *fluxState) { s.add(ready(t, "FluxInstance", "flux-system", "flux", "", "")) },
		},
		{
			name: "not Ready", check: "objects", level: warning, says: "not Ready",
			change: func(t *testing.T, s *fluxState) {
				o := ready(t, "Kustomization", "flux-system", "a", "interval: 1m", "")
				delete(o.Object, "status")
				s.add(o)
			},
		},
		{
			name: "a field that is not served", check: "fields", level: stops, says: "spec.provider",
			change: func(t *testing.T, s *fluxState) {
				s.add(ready(t, "GitRepository", "flux-system", "a", "provider: azure, interval: 1m", ""))
			},
		},
		{
			name: "another kind of source", check: "other-sources", level: stops,
			change: func(t *testing.T, s *fluxState) { s.add(ready(t, "OCIRepository", "apps", "a", "", "")) },
		},
		{
			name: "charts", check: "helm-charts", level: stops, says: "HelmReleases",
			change: func(t *testing.T, s *fluxState) { s.add(ready(t, "HelmChart", "apps", "a", "", "")) },
		},
		{
			name: "no service account", check: "identity", level: note, says: "sealock-platform", platform: "apps",
			change: func(t *testing.T, s *fluxState) { s.add(ready(t, "Kustomization", "apps", "a", "interval: 1m", "")) },
		},
		{
			name: "a service account", platform: "-apps",
			change: func(t *testing.T, s *fluxState) {
				s.add(ready(t, "Kustomization", "apps", "a", "interval: 1m, serviceAccountName: deployer", ""))
			},
		},
		{
			name: "a default service account", platform: "-apps", argument: "--default-service-account=deployer",
			change: func(t *testing.T, s *fluxState) {
				s.controllers[0].args = []string{"--default-service-account=deployer"}
				s.add(ready(t, "Kustomization", "apps", "a", "interval: 1m", ""))
			},
		},
		{
			name: "a source elsewhere", check: "references", level: note, platform: "apps",
			change: func(t *testing.T, s *fluxState) {
				s.add(ready(t, "Kustomization", "apps", "a", "interval: 1m, serviceAccountName: x, sourceRef: {kind: GitRepository, name: a, namespace: flux-system}", ""))
			},
		},
		{
			name: "a dependency elsewhere", check: "references", level: note, platform: "apps",
			change: func(t *testing.T, s *fluxState) {
				s.add(ready(t, "Kustomization", "apps", "a", "interval: 1m, serviceAccountName: x, dependsOn: [{name: a, namespace: flux-system}]", ""))
			},
		},
		{
			name: "a namespace of a Tenant", check: "tenants", level: note, platform: "-apps",
			change: func(t *testing.T, s *fluxState) {
				s.tenants = map[string]string{"apps": "team"}
				s.add(ready(t, "Kustomization", "apps", "a", "interval: 1m", ""))
			},
		},
		{
			name: "a generated Secret", check: "generated-names", level: stops, fix: "sealock.dev/generator-suffix: kustomize", renamed: "Secret/apps/db-5h2f9c4k7t",
			change: func(t *testing.T, s *fluxState) {
				s.add(ready(t, "Kustomization", "apps", "a", "interval: 1m, decryption: {provider: sops}", ", inventory: {entries: [{id: apps_db-5h2f9c4k7t__Secret, v: v1}, {id: apps_plain__Secret, v: v1}, {id: apps_cm-5h2f9c4k7t__ConfigMap, v: v1}]}"))
			},
		},
		{
			name: "a generated Secret that keeps its name", renamed: "-",
			change: func(t *testing.T, s *fluxState) {
				s.add(ready(t, "Kustomization", "apps", "a, annotations: {sealock.dev/generator-suffix: kustomize}", "interval: 1m, decryption: {provider: sops}", ", inventory: {entries: [{id: apps_db-5h2f9c4k7t__Secret, v: v1}]}"))
			},
		},
		{
			name: "a generated Secret that was never encrypted", renamed: "-",
			change: func(t *testing.T, s *fluxState) {
				s.add(ready(t, "Kustomization", "apps", "a", "interval: 1m", ", inventory: {entries: [{id: apps_db-5h2f9c4k7t__Secret, v: v1}]}"))
			},
		},
		{
			name: "arguments with the namespace in them", argument: "--events-addr=http://notification-controller.flux-system.svc.cluster.local./",
			change: func(_ *testing.T, s *fluxState) {
				s.controllers[0].args = []string{"--log-level=debug", "--events-addr=http://notification-controller.$(RUNTIME_NAMESPACE).svc.cluster.local./"}
			},
		},
		{
			name: "a flag that changes nothing here", check: "flags", level: warning, says: "--concurrent-ssa=9",
			change: func(_ *testing.T, s *fluxState) {
				s.controllers[0].args = []string{"--concurrent-ssa=9", "--requeue-dependency=30s"}
			},
		},
		{
			name: "keys that only a flag names", check: "flags", level: stops, says: "--sops-vault-configmap=vault",
			change: func(t *testing.T, s *fluxState) {
				s.controllers[0].args = []string{"--sops-vault-configmap", "vault"}
				s.add(ready(t, "Kustomization", "flux-system", "a", "interval: 1m, decryption: {provider: sops}", ""))
			},
		},
		{
			name: "an age key that only a flag names", argument: "--sops-age-secret=flux-system/age",
			change: func(t *testing.T, s *fluxState) {
				s.controllers[0].args = []string{"--sops-age-secret", "age"}
				s.add(ready(t, "Kustomization", "flux-system", "a", "interval: 1m, decryption: {provider: sops}", ""))
			},
		},
		{
			name: "a key that the object names as well", check: "flags", level: warning,
			change: func(t *testing.T, s *fluxState) {
				s.controllers[0].args = []string{"--sops-vault-configmap=vault"}
				s.add(ready(t, "Kustomization", "flux-system", "a", "interval: 1m, decryption: {provider: sops, secretRef: {name: age}}", ""))
			},
		},
		{
			name: "shards", check: "shards", level: note, says: "one Sealock serves all of it", argument: "---watch-label-selector=!sharding.fluxcd.io/key",
			change: func(_ *testing.T, s *fluxState) {
				s.shard(kc, "!sharding.fluxcd.io/key", "sharding.fluxcd.io/key=shard1", "sharding.fluxcd.io/key in (shard2, shard3)")
				s.shard("source-controller", "!sharding.fluxcd.io/key", "sharding.fluxcd.io/key")
			},
		},
		{
			name: "an object of no shard", check: "shards", level: warning, says: "no shard serves them",
			change: func(t *testing.T, s *fluxState) {
				s.shard(kc, "!sharding.fluxcd.io/key", "sharding.fluxcd.io/key=shard1")
				s.add(ready(t, "Kustomization", "flux-system", "a, labels: {sharding.fluxcd.io/key: shard7}", "interval: 1m", ""))
			},
		},
		{
			name: "one selector", argument: "--watch-label-selector=team=a",
			change: func(_ *testing.T, s *fluxState) { s.shard(kc, "team=a"); s.shard("source-controller", "team=a") },
		},
		{
			name: "selectors that leave something out", check: "differing-flags", level: stops, says: kc + "-0 has key=a, " + kc + "-1 has key=b",
			change: func(_ *testing.T, s *fluxState) { s.shard(kc, "key=a", "key=b") },
		},
		{
			name: "two controllers that select other objects", check: "differing-flags", level: stops, says: `"team=a" and ""`,
			change: func(_ *testing.T, s *fluxState) { s.shard(kc, "team=a"); s.shard("source-controller", "") },
		},
		{
			name: "a shard with fewer rights", check: "differing-flags", level: stops, says: "--no-cross-namespace-refs: " + kc + "-0 has true, " + kc + "-1 does not set it",
			change: func(_ *testing.T, s *fluxState) {
				s.shard(kc, "!sharding.fluxcd.io/key", "sharding.fluxcd.io/key=shard1")
				s.controllers[0].args = append(s.controllers[0].args, "--no-cross-namespace-refs=true")
			},
		},
		{
			name: "a proxy in the environment", check: "proxy", level: warning, says: "HTTPS_PROXY", fix: "spec.proxySecretRef",
			change: func(t *testing.T, s *fluxState) {
				d := appsv1.Deployment{}
				d.Name, d.Namespace = "source-controller", "flux-system"
				d.Spec.Template.Spec.Containers = []corev1.Container{{Image: "ghcr.io/fluxcd/source-controller:v1.9.5", Env: []corev1.EnvVar{{Name: "NO_PROXY", Value: ".svc"}, {Name: "HTTPS_PROXY", Value: "http://proxy:3128"}}}}
				c, ok := controllerOf(&d)
				if !ok {
					t.Fatal("not recognised")
				}
				s.controllers = append(s.controllers, c)
				s.add(ready(t, "GitRepository", "flux-system", "a", "interval: 1m, url: https://git.example.com/a", ""))
			},
		},
		{
			name: "lax substitution", check: "substitution", level: warning,
			change: func(_ *testing.T, s *fluxState) {
				s.controllers[0].args = []string{"--feature-gates=StrictPostBuildSubstitutions=false"}
			},
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			s := &fluxState{
				namespace: "flux-system", server: "v1.36.3", sealock: true, objects: map[string][]unstructured.Unstructured{},
				controllers: []fluxController{{Component: kc, Namespace: "flux-system", Deployment: kc, Replicas: 1, Ready: 1}},
			}
			if tc.change != nil {
				tc.change(t, s)
			}
			plan := s.plan()
			if tc.check != "" && !slices.ContainsFunc(plan.Findings, func(f adoptFinding) bool {
				return f.Check == tc.check && f.Level == tc.level && strings.Contains(f.Message, tc.says) && strings.Contains(f.Remedy, tc.fix)
			}) {
				t.Errorf("no %s %s says %q: %+v", tc.level, tc.check, tc.says, plan.Findings)
			}
			if tc.level != stops && len(plan.standing([]string{tc.accepted})) > 0 {
				t.Errorf("stands in the way: %v", plan.standing(nil))
			}
			for _, f := range plan.Findings {
				if f.Level == stops && !slices.Contains(stoppingChecks, f.Check) {
					t.Errorf("--accept does not know %s", f.Check)
				}
			}
			if tc.level == stops && len(plan.standing([]string{tc.check})) > 0 {
				t.Errorf("stands in the way although accepted: %v", plan.standing([]string{tc.check}))
			}
			contains(t, "platform namespaces", plan.PlatformNamespaces, tc.platform)
			contains(t, "renamed", plan.Renamed, tc.renamed)
			contains(t, "arguments", plan.Arguments, tc.argument)
			if !slices.Contains(plan.PlatformNamespaces, "flux-system") {
				t.Error("flux-system is no platform namespace")
			}
		})
	}
}

// contains checks that the list has want; with a - before it, that it has not; with - alone, that it is empty.
func contains(t *testing.T, what string, list []string, want string) {
	t.Helper()
	not, inverted := strings.CutPrefix(want, "-")
	if strings.HasPrefix(want, "--") && !strings.HasPrefix(want, "---") {
		not, inverted = "", false
	}
	switch {
	case inverted && not == "" && len(list) > 0, inverted && slices.Contains(list, not):
		t.Errorf("%s: %v has %q", what, list, not)
	case want != "" && !inverted && !slices.Contains(list, want):
		t.Errorf("%s: %v lacks %q", what, list, want)
	}
}

// shard replaces the Deployments of a component by one for each selector.
func (s *fluxState) shard(component string, selectors ...string) {
	s.controllers = slices.DeleteFunc(s.controllers, func(c fluxController) bool { return c.Component == component })
	for i, selector := range selectors {
		c := fluxController{Component: component, Namespace: "flux-system", Deployment: fmt.Sprintf("%s-%d", component, i), Replicas: 1, Ready: 1}
		if selector != "" {
			c.args = []string{"--watch-label-selector=" + selector}
		}
		s.controllers = append(s.controllers, c)
	}
}

func (s *fluxState) add(o unstructured.Unstructured) {
	s.objects[o.GetKind()] = append(s.objects[o.GetKind()], o)
}

// TestDisjoint: only what provably cannot match the same object keeps two controllers apart.
func TestDisjoint(t *testing.T) {
	for _, tc := range []struct {
		a, b string
		want bool
	}{
		{"key=a", "key=b", true},
		{"key=a", "key in (b,c)", true},
		{"key in (a,b)", "key in (b,c)", false},
		{"key=a", "key notin (a)", true},
		{"key in (a,b)", "key notin (a)", false},
		{"key=a", "!key", true},
		{"key", "!key", true},
		{"key=a", "other=b", false},
		{"key=a", "", false},
		{"", "", false},
		{"key!=a", "key!=b", false},
		{"x=1,key=a", "key=b,y=2", true},
	} {
		for _, pair := range [][2]string{{tc.a, tc.b}, {tc.b, tc.a}} {
			got, err := disjoint(pair[0], pair[1])
			if err != nil || got != tc.want {
				t.Errorf("%q and %q: %v %v, want %v", pair[0], pair[1], got, err, tc.want)
			}
		}
	}
	if _, err := disjoint("key=a", "("); err == nil {
		t.Error("a selector that cannot be read keeps nothing apart")
	}
}

// TestAdoptFindsConsumersOfArtifacts: by their images, wherever they run.
func TestAdoptFindsConsumersOfArtifacts(t *testing.T) {
	deployment := func(namespace, image string) appsv1.Deployment {
		return appsv1.Deployment{
			ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: "any"},
			Spec:       appsv1.DeploymentSpec{Template: corev1.PodTemplateSpec{Spec: corev1.PodSpec{Containers: []corev1.Container{{Image: image}}}}},
		}
	}
	s := &fluxState{consumers: consumersAmong([]appsv1.Deployment{
		deployment("infra", "ghcr.io/flux-iac/tofu-controller:v0.16.0"), deployment("apps", "nginx:1"), deployment("flux-system", "ghcr.io/fluxcd/source-watcher@sha256:00"),
	})}
	if !slices.Equal(s.consumers, []string{"Deployment/infra/any", "Deployment/flux-system/any"}) {
		t.Errorf("%v", s.consumers)
	}
	if plan := s.plan(); !slices.ContainsFunc(plan.Findings, func(f adoptFinding) bool {
		return f.Check == "artifacts" && f.Level == warning && strings.Contains(f.Remedy, "--artifact-anonymous-namespaces")
	}) {
		t.Errorf("%+v", plan.Findings)
	}
}

// TestAdoptRefusesWhatMakesNoSense with the exit code of a wrong command line, before it asks the cluster.
func TestAdoptRefusesWhatMakesNoSense(t *testing.T) {
	for want, args := range map[string][]string{
		"do not go together":              {"--yes", "--undo"},
		"write one of: controllers, crds": {"--accept", "typo"},
		"one argument too many":           {"now"},
	} {
		code, out, errs := sealock(t, append([]string{"adopt", "flux", "--kubeconfig", "/nowhere"}, args...)...)
		if code != 2 || !strings.Contains(errs, want) {
			t.Errorf("%v: exit code %d: %s%s", args, code, out, errs)
		}
	}
	if code, _, errs := sealock(t, "adopt"); code != 2 || !strings.Contains(errs, "adopt what?") {
		t.Errorf("exit code %d: %s", code, errs)
	}
}
