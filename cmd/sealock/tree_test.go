package main

import (
	"encoding/json"
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

// inventory is a status with these objects, "namespace_name_group_kind/version".
func (p *people) inventory(name string, generation int64, ids ...string) {
	p.Helper()
	var entries []any
	for _, id := range ids {
		text, version, _ := strings.Cut(id, "/")
		entries = append(entries, map[string]any{"id": text, "v": version})
	}
	status := readyStatus(kustomizationKind, generation, "True", "ReconciliationSucceeded", "Applied revision: "+revision)
	status["inventory"] = map[string]any{"entries": entries}
	p.status(kustomizationKind, name, status)
}

const sealedAndExternal = `
apiVersion: bitnami.com/v1alpha1
kind: SealedSecret
metadata: {name: sealed}
spec: {encryptedData: {}, template: {metadata: {name: opened}}}
---
apiVersion: external-secrets.io/v1
kind: ExternalSecret
metadata: {name: vault}
spec: {secretStoreRef: {name: s}, target: {name: from-vault}, data: []}
`

func TestTreeFollowsTheInventory(t *testing.T) {
	p := newPeople(t)
	ns := p.session.namespace
	p.kustomization("root")
	p.kustomization("child", "  suspend: true")
	p.apply(sealedAndExternal+`
---
apiVersion: v1
kind: ConfigMap
metadata: {name: settings}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
spec: {selector: {matchLabels: {a: b}}, template: {metadata: {labels: {a: b}}, spec: {containers: [{name: c, image: i}]}}}
`, applyManager, "")
	sealed := p.read(sealedSecretKind, "sealed")
	p.apply(`apiVersion: v1
kind: Secret
metadata: {name: opened, ownerReferences: [{apiVersion: bitnami.com/v1alpha1, kind: SealedSecret, name: sealed, uid: `+string(sealed.GetUID())+`}]}
stringData: {password: hush-hush}
`, "test", "")
	p.inventory("root", 1, ns+"_child_kustomize.toolkit.fluxcd.io_Kustomization/v1", ns+"_settings__ConfigMap/v1", ns+"_web_apps_Deployment/v1",
		ns+"_sealed_bitnami.com_SealedSecret/v1alpha1", ns+"_vault_external-secrets.io_ExternalSecret/v1", ns+"_gone__ConfigMap/v1", ns+"_x_example.com_Unserved/v1")
	// The child brings its parent: a tree that never ends.
	p.inventory("child", 1, ns+"_root_kustomize.toolkit.fluxcd.io_Kustomization/v1")

	p.status(kustomizationKind, "child", readyStatus(kustomizationKind, 1, "Unknown", "Progressing", "Reconciliation in progress"))
	out := p.ok("tree", "ks", "root")
	for _, want := range []string{
		"Kustomization/" + ns + "/root ", shortRevision,
		"├── Kustomization/" + ns + "/child ", "│   └── Kustomization/" + ns + "/root ",
		"├── ConfigMap/" + ns + "/settings ", "├── Deployment/" + ns + "/web ", "InProgress",
		"├── SealedSecret/" + ns + "/sealed ", "│   └── Secret/" + ns + "/opened ",
		"│   └── Secret/" + ns + "/from-vault ", "NotFound", "└── Unserved/" + ns + "/x ", "does not serve this kind", "suspended",
	} {
		if !strings.Contains(out, want) {
			t.Errorf("%q is not in\n%s", want, out)
		}
	}
	if strings.Contains(out, "hush") {
		t.Error("a value of a Secret")
	}
	var root node
	if err := json.Unmarshal([]byte(p.ok("tree", "kustomization", "root", "-o", "json")), &root); err != nil || len(root.Children) != 7 || root.Revision != revision {
		t.Errorf("-o json: %v %+v", err, root)
	}
	if code, _, errs := p.sealock("tree", "ks", "x"); code != 4 || !strings.Contains(errs, "not found") {
		t.Errorf("a name that is not there: %d %s", code, errs)
	}
}

func TestTreeOfWhatMayNotBeReadSaysSo(t *testing.T) {
	p := newPeople(t)
	p.kustomization("root")
	p.inventory("root", 1, p.session.namespace+"_settings__Secret/v1")
	p.apply(`apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata: {name: reader}
rules: [{apiGroups: [kustomize.toolkit.fluxcd.io], resources: [kustomizations], verbs: [get, list, watch]}]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {name: reader}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: Role, name: reader}
subjects: [{apiGroup: rbac.authorization.k8s.io, kind: User, name: jane}]
`, "test", "")
	p.allowed("jane")
	if out := p.ok("tree", "ks", "root", "--as", "jane"); !strings.Contains(out, "you may not read it") {
		t.Errorf("%s", out)
	}
}

func TestSecretOf(t *testing.T) {
	for name, c := range map[string]struct{ kind, path, want string }{
		"sealed, as itself":   {"SealedSecret", "", "own"},
		"sealed, otherwise":   {"SealedSecret", "spec.template.metadata.name", "other"},
		"external, as itself": {"ExternalSecret", "", "own"},
		"external, otherwise": {"ExternalSecret", "spec.target.name", "other"},
	} {
		obj := &unstructured.Unstructured{Object: map[string]any{"kind": c.kind, "metadata": map[string]any{"name": "own"}}}
		if c.path != "" {
			_ = unstructured.SetNestedField(obj.Object, "other", strings.Split(c.path, ".")...)
		}
		if got := secretOf(obj); got != c.want {
			t.Errorf("%s: %s", name, got)
		}
	}
}
