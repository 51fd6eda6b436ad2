package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/go-logr/logr/funcr"
	"github.com/spf13/pflag"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/log/zap"

	"sealock.dev/sealock/tenants"
)

// parsed returns the options and flags of a controller with the given arguments.
func parsed(t *testing.T, args ...string) (*fluxOptions, *pflag.FlagSet, error) {
	t.Helper()
	o := &fluxOptions{}
	flags := pflag.NewFlagSet("controller", pflag.ContinueOnError)
	o.bind(flags)
	if err := flags.Parse(args); err != nil {
		return o, flags, err
	}
	return o, flags, o.check()
}

// TestFluxDeploymentArguments: the arguments that Flux's own manifests pass are accepted as they are, section 1.11.
func TestFluxDeploymentArguments(t *testing.T) {
	cmd := newControllerCommand()
	for _, args := range [][]string{
		{"--events-addr=http://notification-controller.flux-system.svc.cluster.local./", "--watch-all-namespaces=true", "--log-level=info", "--log-encoding=json", "--enable-leader-election"},
		{"--storage-path=/data", "--storage-adv-addr=source-controller.flux-system.svc.cluster.local.", "--storage-addr=:9090"},
		{"--concurrent=20", "--concurrent-ssa=8", "--requeue-dependency=5s", "--http-retry=3", "--no-remote-bases=true", "--no-cross-namespace-refs=true", "--default-service-account=default"},
		{"--default-decryption-service-account=x", "--default-kubeconfig-service-account=x", "--sops-age-secret=sops-age", "--sops-vault-configmap=vault", "--override-manager=argocd", "--override-manager=helm"},
		{"--custom-apply-stage-kinds=rbac.authorization.k8s.io/Role", "--watch-label-selector=sharding.fluxcd.io/key=shard1", "--watch-configs-label-selector=owner!=helm", "--metrics-addr=:8080", "--health-addr=:9440"},
		{"--interval-jitter-percentage=10", "--min-retry-delay=1s", "--max-retry-delay=1h", "--kube-api-qps=500", "--kube-api-burst=1000", "--token-cache-max-size=10", "--token-cache-max-duration=1h"},
		{"--leader-election-lease-duration=60s", "--leader-election-renew-deadline=50s", "--leader-election-retry-period=10s", "--leader-election-release-on-cancel=true"},
		{"--insecure-kubeconfig-exec=false", "--insecure-kubeconfig-tls=false", "--feature-gates=GroupChangeLog=true,DisableConfigWatchers=false"},
		{"--artifact-retention-ttl=60s", "--artifact-retention-records=2", "--artifact-digest-algo=sha256", "--ssh-kex-algos=a,b", "--ssh-hostkey-algos=a", "--helm-cache-max-size=10", "--helm-cache-ttl=60m", "--helm-cache-purge-interval=5m"},
		{"--helm-index-max-size=1", "--helm-chart-max-size=1", "--helm-chart-file-max-size=1", "--insecure-allow-http=true"},
	} {
		if err := cmd.Flags().Parse(args); err != nil {
			t.Errorf("%v: %v", args, err)
		}
	}
}

// TestFlagsWithoutEffectAreTold: nothing is dropped in silence, and nothing is told that was not set.
func TestFlagsWithoutEffectAreTold(t *testing.T) {
	told := func(args ...string) string {
		var lines []string
		o, flags, err := parsed(t, args...)
		if err != nil {
			t.Fatal(err)
		}
		o.sayWhatChangesNothing(funcr.New(func(_, line string) { lines = append(lines, line) }, funcr.Options{}), flags)
		return strings.Join(lines, "\n")
	}
	for _, a := range acceptedFlags {
		value := map[bool]string{true: "7", false: "x"}[isNumber(a.value)]
		switch v := a.value.(type) {
		case bool:
			value = map[bool]string{true: "false", false: "true"}[v]
		case time.Duration:
			value = "7h"
		}
		if out := told("--" + a.name + "=" + value); !strings.Contains(out, a.name) || !strings.Contains(out, a.why) || strings.Count(out, "\n") > 0 {
			t.Errorf("--%s=%s: %q", a.name, value, out)
		}
	}
	if out := told("--events-addr=http://x", "--requeue-dependency=30s", "--feature-gates=StrictPostBuildSubstitutions=true"); out != "" {
		t.Errorf("told: %s", out)
	}
	for _, g := range fluxGates {
		value := map[bool]string{true: "false", false: "true"}[g.is]
		if out := told("--feature-gates=" + g.name + "=" + value); !strings.Contains(out, g.name) || !strings.Contains(out, g.why) {
			t.Errorf("gate %s: %q", g.name, out)
		}
	}
}

// TestFlagsWithoutEffectAreToldAtAnyLevel: a log that is quiet otherwise, too.
func TestFlagsWithoutEffectAreToldAtAnyLevel(t *testing.T) {
	for _, level := range []string{"error", "info", "trace"} {
		o := controllerOptions{logLevel: level, flags: pflag.NewFlagSet("controller", pflag.ContinueOnError)}
		o.bind(o.flags)
		if err := o.flags.Parse([]string{"--requeue-dependency=7s", "--feature-gates=GroupChangeLog=true"}); err != nil {
			t.Fatal(err)
		}
		var out bytes.Buffer
		if err := o.tellFlags(&out); err != nil || !strings.Contains(out.String(), "requeue-dependency") || !strings.Contains(out.String(), "GroupChangeLog") {
			t.Errorf("%s: %v %s", level, err, out.String())
		}
	}
}

func isNumber(v any) bool { _, ok := v.(int); return ok }

// TestWrongFluxFlags: what cannot be meant is refused, by name.
func TestWrongFluxFlags(t *testing.T) {
	for args, says := range map[string]string{
		"--feature-gates=NoSuchGate=true":    `"NoSuchGate"`,
		"--feature-gates=GroupChangeLog":     `"GroupChangeLog"`,
		"--feature-gates=GroupChangeLog=yes": `"GroupChangeLog=yes"`,
		"--watch-label-selector=a=(":         "--watch-label-selector",
		"--beside-flux":                      "--watch-label-selector",
		"--interval-jitter-percentage=50":    "--interval-jitter-percentage",
		"--min-retry-delay=-1s":              "--min-retry-delay",
		"--watch-configs-label-selector=a=(": "--watch-configs-label-selector",
		"--custom-apply-stage-kinds=Role":    `"Role"`,
		"--sops-age-secret=a/b/c":            "--sops-age-secret",
		"--artifact-retention-records=-1":    "--artifact-retention-records",
	} {
		if _, _, err := parsed(t, args); err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("%s: %v", args, err)
		}
	}
}

// TestShards: the label selector and the namespace limit Kustomizations and GitRepositories alone, and each shard has a
// Lease of its own.
// contract: Kustomization label sharding.fluxcd.io/key
func TestShards(t *testing.T) {
	scheme, err := newScheme()
	if err != nil {
		t.Fatal(err)
	}
	t.Setenv("RUNTIME_NAMESPACE", "flux-system")
	flags := pflag.NewFlagSet("controller", pflag.ContinueOnError)
	one := controllerOptions{fluxOptions: fluxOptions{watchLabelSelector: "sharding.fluxcd.io/key=one", watchAllNamespaces: true}, flags: flags}
	two := one
	two.watchLabelSelector, two.watchAllNamespaces = "sharding.fluxcd.io/key=two", false
	if one.leaseName() == two.leaseName() || !strings.HasPrefix(one.leaseName(), "sealock-controller-") || (controllerOptions{}).leaseName() != "sealock-controller" {
		t.Errorf("Leases %q and %q", one.leaseName(), two.leaseName())
	}
	for _, o := range []controllerOptions{one, two} {
		watched, err := o.watched(scheme, tenants.DefaultSettings())
		if err != nil {
			t.Fatal(err)
		}
		var kinds []string
		for object, limit := range watched {
			gvk, _, err := scheme.ObjectKinds(object)
			if err != nil {
				t.Fatal(err)
			}
			kinds = append(kinds, gvk[0].Kind)
			if limit.Label.String() != o.watchLabelSelector {
				t.Errorf("%s: selector %v", gvk[0].Kind, limit.Label)
			}
			if _, only := limit.Namespaces["flux-system"]; only == o.watchAllNamespaces {
				t.Errorf("%s: namespaces %v", gvk[0].Kind, limit.Namespaces)
			}
		}
		slices.Sort(kinds)
		if !slices.Equal(kinds, []string{"GitRepository", "Kustomization"}) {
			t.Errorf("limited kinds %v", kinds)
		}
	}
}

// TestLimitOfRequests: --kube-api-qps and --kube-api-burst limit, and without them the API server alone does.
func TestLimitOfRequests(t *testing.T) {
	config := &rest.Config{}
	(&fluxOptions{}).limit(config)
	if config.QPS != -1 {
		t.Errorf("QPS %v", config.QPS)
	}
	(&fluxOptions{qps: 50, burst: 300}).limit(config)
	if config.QPS != 50 || config.Burst != 300 {
		t.Errorf("QPS %v, burst %v", config.QPS, config.Burst)
	}
}

// TestLogKeys: the keys of a line are those that `flux logs` reads.
func TestLogKeys(t *testing.T) {
	var out bytes.Buffer
	log := zap.New(zap.WriteTo(&out), zap.JSONEncoder(logKeys))
	log.WithName("kustomization").WithValues("controllerKind", "Kustomization", "name", "app", "namespace", "team").Error(errors.New("cause"), "failed")
	var line map[string]any
	if err := json.Unmarshal(out.Bytes(), &line); err != nil {
		t.Fatal(err)
	}
	for _, key := range []string{"ts", "level", "msg", "error", "logger", "controllerKind", "name", "namespace"} {
		if line[key] == nil {
			t.Errorf("no key %s in %s", key, out.String())
		}
	}
	for _, level := range []string{"trace", "debug", "info", "error"} {
		if _, err := newLogger(level, "console"); err != nil {
			t.Errorf("%s: %v", level, err)
		}
	}
	for _, wrong := range [][2]string{{"loud", "json"}, {"info", "xml"}} {
		if _, err := newLogger(wrong[0], wrong[1]); err == nil {
			t.Errorf("%v is accepted", wrong)
		}
	}
}
