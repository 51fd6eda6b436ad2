package main

import (
	"bufio"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

const deployment = `
apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
spec:
  replicas: 2
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      containers: [{name: web, image: example.com/web}]
---
apiVersion: v1
kind: Service
metadata: {name: web}
spec: {selector: {app: web}, ports: [{port: 80}]}
`

func TestKubectlCreatesAndGets(t *testing.T) {
	d := sharedCluster(t)
	ns := d.namespace(t)
	d.mustKubectl(t, "", "create", "configmap", "c", "--from-literal=k=v", "-n", ns)
	if got := d.mustKubectl(t, "", "get", "configmap", "c", "-n", ns, "-o", "jsonpath={.data.k}"); got != "v" {
		t.Errorf("the ConfigMap holds %q", got)
	}
	if got := d.mustKubectl(t, "", "version"); strings.Count(got, "v1.36.") != 2 {
		t.Errorf("client and server do not name their version:\n%s", got)
	}
}

func TestDeploymentBecomesAvailable(t *testing.T) {
	d := sharedCluster(t)
	ns := d.namespace(t)
	d.mustKubectl(t, deployment, "apply", "-n", ns, "-f", "-")
	d.mustKubectl(t, "", "wait", "-n", ns, "--for=condition=Available", "--timeout=30s", "deployment/web")
	// The controller-manager accepts the addresses of the pods.
	d.eventually(t, "true true", "get", "endpointslices", "-n", ns, "-o", "jsonpath={.items[*].endpoints[*].conditions.ready}")

	// Deleting the owner reaches its ReplicaSet and pods; deleting the namespace ends.
	d.mustKubectl(t, "", "delete", "deployment", "web", "-n", ns)
	eventually(t, func() error {
		out, err := d.kubectl("", "get", "replicasets,pods", "-n", ns, "-o", "name")
		if err == nil && out != "" {
			err = fmt.Errorf("left over: %s", out)
		}
		return err
	})
	d.mustKubectl(t, "", "delete", "namespace", ns, "--timeout=30s")
}

// pod is a manifest of a pod, with fields of its metadata and of its only container.
func pod(name, metadata, container, volumes string) string {
	return fmt.Sprintf(`{apiVersion: v1, kind: Pod, metadata: {name: %s, %s},
spec: {containers: [{name: c, image: i, %s}], volumes: [%s]}}`, name, metadata, container, volumes)
}

func TestPodWaitsForItsSecrets(t *testing.T) {
	d := sharedCluster(t)
	ns := d.namespace(t)
	pods := map[string]string{
		"env":       pod("env", "", "env: [{name: A, valueFrom: {secretKeyRef: {name: s, key: k}}}]", ""),
		"envfrom":   pod("envfrom", "", "envFrom: [{secretRef: {name: s}}]", ""),
		"volume":    pod("volume", "", "", "{name: v, secret: {secretName: s, items: [{key: k, path: p}]}}"),
		"projected": pod("projected", "", "", "{name: v, projected: {sources: [{secret: {name: s}}]}}"),
	}
	const waiting = "jsonpath={.status.phase} {.status.containerStatuses[0].state.waiting.reason}"
	for _, manifest := range pods {
		d.mustKubectl(t, manifest, "apply", "-n", ns, "-f", "-")
	}
	d.mustKubectl(t, pod("optional", "", "envFrom: [{secretRef: {name: s, optional: true}}]", ""), "apply", "-n", ns, "-f", "-")
	d.eventually(t, "Running", "get", "pod", "optional", "-n", ns, "-o", "jsonpath={.status.phase}")
	for name := range pods {
		d.eventually(t, "Pending CreateContainerConfigError", "get", "pod", name, "-n", ns, "-o", waiting)
	}
	d.mustKubectl(t, "", "create", "secret", "generic", "s", "-n", ns, "--from-literal=other=x")
	d.eventually(t, "Running", "get", "pod", "envfrom", "-n", ns, "-o", "jsonpath={.status.phase}")
	d.eventually(t, `couldn't find key k in Secret `+ns+`/s`,
		"get", "pod", "env", "-n", ns, "-o", "jsonpath={.status.containerStatuses[0].state.waiting.message}")
	d.mustKubectl(t, `{"data":{"k":"eA=="}}`, "patch", "secret", "s", "-n", ns, "-p", `{"data":{"k":"eA=="}}`)
	for name := range pods {
		d.eventually(t, "Running", "get", "pod", name, "-n", ns, "-o", "jsonpath={.status.phase}")
	}
}

func TestPodAnnotationsAndJobs(t *testing.T) {
	d := sharedCluster(t)
	ns := d.namespace(t)
	d.mustKubectl(t, pod("held", `annotations: {devcluster/hold: "true"}`, "", ""), "apply", "-n", ns, "-f", "-")
	d.mustKubectl(t, pod("failing", `annotations: {devcluster/fail: "true"}`, "", ""), "apply", "-n", ns, "-f", "-")
	d.eventually(t, "False CrashLoopBackOff", "get", "pod", "failing", "-n", ns, "-o",
		`jsonpath={.status.conditions[?(@.type=="Ready")].status} {.status.containerStatuses[0].state.waiting.reason}`)
	d.mustKubectl(t, "", "annotate", "pod", "failing", "-n", ns, failAnnotation+"-")
	d.eventually(t, "True", "get", "pod", "failing", "-n", ns, "-o", `jsonpath={.status.conditions[?(@.type=="Ready")].status}`)

	if got := d.mustKubectl(t, "", "get", "pod", "held", "-n", ns, "-o", "jsonpath={.status.phase}"); got != "Pending" {
		t.Errorf("the held pod is %s", got)
	}
	d.mustKubectl(t, "", "annotate", "pod", "held", "-n", ns, holdAnnotation+"-")
	d.eventually(t, "Running", "get", "pod", "held", "-n", ns, "-o", "jsonpath={.status.phase}")

	// The Node has no taint: a pod of a DaemonSet lands there.
	d.mustKubectl(t, `{apiVersion: apps/v1, kind: DaemonSet, metadata: {name: d}, spec: {selector: {matchLabels: {app: d}},
template: {metadata: {labels: {app: d}}, spec: {containers: [{name: c, image: i}]}}}}`, "apply", "-n", ns, "-f", "-")
	d.eventually(t, "1", "get", "daemonset", "d", "-n", ns, "-o", "jsonpath={.status.numberReady}")

	d.mustKubectl(t, "", "create", "job", "j", "-n", ns, "--image=i")
	d.mustKubectl(t, "", "wait", "-n", ns, "--for=condition=Complete", "--timeout=30s", "job/j")
}

func TestWebhookByURL(t *testing.T) {
	d := sharedCluster(t)
	ns := d.namespace(t)
	server := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var review map[string]any
		body, _ := io.ReadAll(r.Body)
		if err := json.Unmarshal(body, &review); err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		request, _ := review["request"].(map[string]any)
		_ = json.NewEncoder(w).Encode(map[string]any{
			"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview",
			"response": map[string]any{"uid": request["uid"], "allowed": false, "status": map[string]any{"message": "refused by the test"}},
		})
	}))
	defer server.Close()
	ca := base64.StdEncoding.EncodeToString(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw}))
	d.mustKubectl(t, fmt.Sprintf(`
apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingWebhookConfiguration
metadata: {name: %[1]s}
webhooks:
- name: test.example.com
  clientConfig: {url: %[2]q, caBundle: %[3]s}
  rules: [{apiGroups: [""], apiVersions: [v1], operations: [CREATE], resources: [configmaps]}]
  namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: %[1]s}}
  sideEffects: None
  admissionReviewVersions: [v1]
`, ns, server.URL+"/validate", ca), "apply", "-f", "-")
	t.Cleanup(func() { d.mustKubectl(t, "", "delete", "validatingwebhookconfiguration", ns) })
	eventually(t, func() error {
		out, err := d.kubectl("", "create", "configmap", "c", "-n", ns, "--dry-run=server")
		if err == nil || !strings.Contains(out, "refused by the test") {
			return fmt.Errorf("the webhook is not asked: %s", out)
		}
		return nil
	})
}

func TestAuditLogHasOneObjectALine(t *testing.T) {
	d := sharedCluster(t)
	ns := d.namespace(t)
	d.mustKubectl(t, "", "create", "secret", "generic", "audited", "-n", ns, "--from-literal=k=CANARY-8f1c")
	file, err := os.Open(filepath.Join(d.dir, "audit.log"))
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	found := 0
	lines := bufio.NewScanner(file)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		var event struct {
			Kind, Level, Stage, Verb string
			ObjectRef                struct{ Name, Namespace, Resource string }
			User                     struct{ Username string }
		}
		if err := json.Unmarshal(lines.Bytes(), &event); err != nil {
			t.Fatalf("%v in line %s", err, lines.Text())
		}
		if event.Kind != "Event" || event.Level != "Metadata" {
			t.Fatalf("unexpected line %s", lines.Text())
		}
		if strings.Contains(lines.Text(), "CANARY-8f1c") {
			t.Error("the audit log holds a secret value")
		}
		if event.ObjectRef.Namespace == ns && event.ObjectRef.Resource == "secrets" && event.Verb == "create" {
			found++
			if event.User.Username != "admin" || event.Stage != "ResponseComplete" {
				t.Errorf("unexpected line %s", lines.Text())
			}
		}
	}
	if err := lines.Err(); err != nil {
		t.Fatal(err)
	}
	if found != 1 {
		t.Errorf("the creation of one secret has %d lines", found)
	}
}
