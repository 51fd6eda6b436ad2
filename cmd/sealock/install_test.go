package main

import (
	"bytes"
	"os"
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/dynamic"

	"sealock.dev/sealock/api/sealock/v1alpha1"
	"sealock.dev/sealock/internal/testkit"
)

func TestMain(m *testing.M) { os.Exit(testkit.Main(m)) }

// sealock runs one command line, without input.
func sealock(t *testing.T, args ...string) (code int, stdout, stderr string) {
	t.Helper()
	var out, errs bytes.Buffer
	code = run(t.Context(), args, strings.NewReader(""), &out, &errs)
	return code, out.String(), errs.String()
}

func TestInstallAppliesOnceAndKeepsWhatWasAdjusted(t *testing.T) {
	dc := testkit.Cluster(t)
	args := []string{"install", "--apply", "--kubeconfig", dc.Kubeconfig}
	code, out, errs := sealock(t, args...)
	if code != 0 {
		t.Fatalf("exit code %d: %s%s", code, out, errs)
	}
	// The definitions may be there already: other tests share the cluster.
	for _, want := range []string{"sealock-secret-types", "sealock-system/sealock-controller", "ValidatingWebhookConfiguration"} {
		if !strings.Contains(out, want) {
			t.Errorf("the first run does not name %s:\n%s", want, out)
		}
	}
	code, out, errs = sealock(t, args...)
	if code != 0 || !strings.HasPrefix(out, "unchanged") || strings.Count(out, "\n") != 1 {
		t.Errorf("the second run changes something, exit code %d:\n%s%s", code, out, errs)
	}

	client, err := dynamic.NewForConfig(dc.Config)
	if err != nil {
		t.Fatal(err)
	}
	policies := client.Resource(v1alpha1.GroupVersion.WithResource("policies"))
	adjusted := []byte(`{"spec":{"description":"ours","enforcement":{"admission":"warn"}}}`)
	if _, err := policies.Patch(t.Context(), "sealock-secret-types", types.MergePatchType, adjusted, metav1.PatchOptions{FieldManager: "kubectl-edit"}); err != nil {
		t.Fatal(err)
	}
	_, out, errs = sealock(t, args...)
	if !strings.Contains(out, "kept") || !strings.Contains(out, "kubectl-edit") {
		t.Errorf("the adjusted policy is not reported as kept:\n%s%s", out, errs)
	}
	live, err := policies.Get(t.Context(), "sealock-secret-types", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if got, _, _ := unstructured.NestedString(live.Object, "spec", "enforcement", "admission"); got != "warn" {
		t.Errorf("the adjustment was taken back: admission is %q", got)
	}
}

// TestInstallWithArguments: image and arguments reach the container that flux looks for, the last ones last.
func TestInstallWithArguments(t *testing.T) {
	code, out, errs := sealock(t, "install", "--image", "example.com/sealock:v1.2.3", "--controller-arg=--platform-namespaces=flux-system,apps", "--controller-arg=--concurrent=9")
	if code != 0 {
		t.Fatal(errs)
	}
	_, deployment, _ := strings.Cut(out, "kind: Deployment")
	deployment, _, _ = strings.Cut(deployment, "\n---")
	for _, want := range []string{"app.kubernetes.io/part-of: flux", "name: manager", "image: example.com/sealock:v1.2.3", "- --health-addr=:9440\n        - --platform-namespaces=flux-system,apps\n        - --concurrent=9\n"} {
		if !strings.Contains(deployment, want) {
			t.Errorf("%q is missing:\n%s", want, deployment)
		}
	}
}

func TestInstallOutsideOfTheCluster(t *testing.T) {
	objects, err := installOptions{namespace: "fleet", webhookURL: "https://127.0.0.1:9443"}.objects()
	if err != nil {
		t.Fatal(err)
	}
	hooks := 0
	for _, obj := range objects {
		switch obj.GetKind() {
		case "Deployment", "Service":
			t.Errorf("%s %s is there, but nothing runs in the cluster", obj.GetKind(), obj.GetName())
		case kindWebhook:
			list, _, _ := unstructured.NestedSlice(obj.Object, "webhooks")
			for _, each := range list {
				hooks++
				config, _ := each.(map[string]any)["clientConfig"].(map[string]any)
				if config["url"] != "https://127.0.0.1:9443/validate" || config["service"] != nil {
					t.Errorf("clientConfig is %v", config)
				}
			}
		}
	}
	if hooks == 0 {
		t.Error("no webhook is registered")
	}
	var text bytes.Buffer
	if err := printYAML(&text, objects); err != nil {
		t.Fatal(err)
	}
	if strings.Contains(text.String(), systemNamespace) || !strings.Contains(text.String(), "system:serviceaccount:fleet:sealock-controller") {
		t.Error("--namespace is not followed everywhere")
	}
	if last := objects[len(objects)-1]; last.GetKind() != kindWebhook {
		t.Errorf("the last object is a %s: from the webhook on it has to answer", last.GetKind())
	}
}

func TestUsageErrorsSayWhatToDo(t *testing.T) {
	for _, tc := range []struct {
		args []string
		code int
		want string
	}{
		{[]string{"instal"}, 2, "did you mean install?"},
		{[]string{"nonsense"}, 2, "sealock --help"},
		{[]string{"install", "--aply"}, 2, "sealock install --help"},
		{[]string{"install", "-o", "toml"}, 2, "-o yaml"},
		{[]string{"install", "--webhook-url", "http://127.0.0.1"}, 2, "https://HOST:PORT"},
		{[]string{"install", "--apply", "--kubeconfig", "/nonexistent"}, 4, "--kubeconfig"},
		{[]string{"render"}, 2, "render DIR"},
		{[]string{"render", "/nonexistent"}, 4, "name a folder"},
		{[]string{"version", "x"}, 2, "sealock version --help"},
	} {
		code, _, errs := sealock(t, tc.args...)
		if code != tc.code || !strings.Contains(errs, tc.want) || !strings.HasPrefix(errs, "sealock: ") {
			t.Errorf("sealock %v: exit code %d, want %d; stderr %q, want %q in it", tc.args, code, tc.code, errs, tc.want)
		}
	}
}

// TestInstallWarnsOfAnImageThatNobodyHas: unless one is named, or nothing of it runs in the cluster.
func TestInstallWarnsOfAnImageThatNobodyHas(t *testing.T) {
	for name, tc := range map[string]struct {
		options installOptions
		warned  bool
	}{
		"no image":           {installOptions{namespace: systemNamespace}, true},
		"the placeholder":    {installOptions{namespace: systemNamespace, image: placeholderImage}, true},
		"an image":           {installOptions{namespace: systemNamespace, image: "registry.example.com/sealock:v0.1.0"}, false},
		"beside the cluster": {installOptions{namespace: systemNamespace, webhookURL: "https://127.0.0.1:1"}, false},
		"another namespace":  {installOptions{namespace: "elsewhere"}, true},
	} {
		objects, err := tc.options.objects()
		if err != nil {
			t.Fatal(err)
		}
		var notes strings.Builder
		if warn(objects, &notes); strings.Contains(notes.String(), "--image") != tc.warned {
			t.Errorf("%s: %q", name, notes.String())
		}
	}
}
