//go:build flux

package fluxcli

import (
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"sealock.dev/sealock/e2e/harness"
)

const vars = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: vars, namespace: flux-system}\ndata: {who: somebody}\n"

const login = "apiVersion: v1\nkind: Secret\nmetadata: {name: login, namespace: default}\nstringData: {password: first}\n"

const web = `apiVersion: apps/v1
kind: Deployment
metadata: {name: web, namespace: default}
spec:
  replicas: 1
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec: {containers: [{name: main, image: example.com/web:1}]}
---
apiVersion: v1
kind: Service
metadata: {name: web, namespace: default}
spec: {selector: {app: web}, ports: [{port: 80}]}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata: {name: web, namespace: default}
rules: [{apiGroups: [""], resources: [configmaps], verbs: [get]}]
`

// controllers: `flux check` and `flux version` look at Deployments. The controller of this world is none, so the one that
// `sealock install` prints runs in a namespace of its own, with pods that do nothing.
func (u user) controllers() {
	u.Helper()
	const at = "fluxcheck"
	out, err := u.Run(u.ctx, nil, "sealock", "install", "-n", at)
	u.ok(err)
	objects, err := harness.Parse(out)
	u.ok(err)
	u.apply("apiVersion: v1\nkind: Namespace\nmetadata: {name: " + at + "}\n")
	for _, o := range objects {
		if k := o.GetKind(); k == "Deployment" || k == "ServiceAccount" {
			text, err := json.Marshal(o)
			u.ok(err)
			u.apply(string(text))
		}
	}
	u.says(line("check -n "+at), "all checks passed", "gitrepositories.source.toolkit.fluxcd.io", "kustomizations.kustomize.toolkit.fluxcd.io")
	u.says(line("version -n "+at), "sealock")
}

// create makes source and Kustomization with flux, which waits until they are ready.
func (u user) create() (commit string) {
	u.Helper()
	commit = u.push(map[string]string{
		"app/settings.yaml": configMap("settings", "1") + "  who: ${who}\n  where: ${where}\n",
		"app/web.yaml":      web, "app/login.yaml": login, "child/leaf.yaml": configMap("leaf", "1"),
	})
	u.apply(vars)
	u.says([]string{"create", "secret", "git", "app-auth", "--url", u.url(), "--username", u.Env["GIT_USERNAME"], "--password", u.Env["GIT_PASSWORD"]}, "app-auth")
	u.says([]string{"create", "source", "git", "app", "--url", u.url(), "--branch", "main", "--interval", "10m", "--secret-ref", "app-auth"}, "fetched revision: main@sha1:"+commit)
	u.says(line("create source git broken --url https://127.0.0.1:1/x.git --branch main --interval 10m --export"), "kind: GitRepository")
	child := u.says(line("create kustomization child --source GitRepository/app --path ./child --prune --interval 10m --export"), "kind: Kustomization")
	commit = u.push(map[string]string{"app/child.yaml": strings.Replace(child, "---\n", "", 1)})
	u.says(line("reconcile source git app"), "fetched revision main@sha1:"+commit)
	text := u.says(line("create kustomization app --source GitRepository/app --path ./app --prune --interval 10m --wait --export"), "kind: Kustomization")
	u.apply(text + "  postBuild: {substitute: {where: here}, substituteFrom: [{kind: ConfigMap, name: vars}]}\n")
	u.says(line("reconcile kustomization app"), "applied revision main@sha1:"+commit)
	return commit
}

func (u user) get(commit string) string {
	revision := "main@sha1:" + commit[:8]
	u.says(line("get sources git"), "app", revision, "True", "stored artifact for revision")
	u.says(line("get kustomizations"), "app", "child", revision, "True", "Applied revision: main@sha1:")
	u.says(line("get all"), "gitrepository/app", "kustomization/app", "kustomization/child")
	u.says(line("get all -A"), namespace, "kustomization/child")
	u.says(line("get sources all"), "gitrepository/app")
	u.says(line("get kustomizations --status-selector ready=true"), "app")
	return commit
}

func (u user) reconcile(string) string {
	commit := u.push(map[string]string{"app/settings.yaml": configMap("settings", "2") + "  who: ${who}\n  where: ${where}\n"})
	u.says(line("reconcile kustomization app --with-source"), "fetched revision main@sha1:"+commit, "applied revision main@sha1:"+commit)
	settings, err := u.Get(u.ctx, "v1", "ConfigMap", "default", "settings")
	u.ok(err)
	data, _, _ := unstructured.NestedStringMap(settings.Object, "data")
	if data["value"] != "2" || data["who"] != "somebody" || data["where"] != "here" {
		u.Errorf("applied %v", data)
	}
	return commit
}

func (u user) suspend(commit string) string {
	u.says(line("suspend kustomization app"), "suspended")
	u.fails(line("reconcile kustomization app"), "suspended")
	u.says(line("get kustomizations app"), "True")
	u.says(line("resume kustomization app"), "applied revision main@sha1:"+commit)
	u.says(line("suspend source git app"), "suspended")
	u.says(line("resume source git app"), "fetched revision main@sha1:"+commit)
	u.says(line("resume kustomization --all"), "applied revision main@sha1:"+commit)
	return commit
}

func (u user) look(commit string) string {
	u.says(line("tree kustomization app"), "ConfigMap/default/settings", "Deployment/default/web", "Kustomization/flux-system/child", "ConfigMap/default/leaf")
	u.says(line("tree kustomization app --compact"), "Kustomization/flux-system/child")
	u.says(line("trace configmap settings -n default"), "app", "main@sha1:"+commit, u.url(), "Managed by Flux")
	u.says(line("trace deployment web -n default"), "Managed by Flux")
	pods, err := u.Typed.CoreV1().Pods("default").List(u.ctx, metav1.ListOptions{LabelSelector: "app=web"})
	u.ok(err)
	if len(pods.Items) == 0 {
		u.Fatal("there is no pod to trace")
	}
	u.says(line("trace pod "+pods.Items[0].Name+" -n default"), "Managed by Flux")
	u.says(line("events --for Kustomization/app"), "ReconciliationSucceeded", "Reconciliation finished in")
	u.says(line("events --for GitRepository/app"), "NewArtifact", "stored artifact for commit")
	return commit
}

func (u user) debug(commit string) string {
	u.says(line("debug kustomization app --show-vars"), "who=somebody", "where=here")
	u.says(line("debug kustomization app --show-status"), "lastAppliedRevision: main@sha1:"+commit)
	u.says(line("debug kustomization app --show-history"), "lastReconciledStatus: ReconciliationSucceeded")
	u.says(line("stats"), "GitRepository", "Kustomization")
	exported := u.says(line("export kustomization --all"), "name: app", "name: child")
	u.says(line("export source git app --with-credentials"), "kind: GitRepository", "kind: Secret")
	u.apply(exported) // what was exported can be applied, and changes nothing
	return commit
}

func (u user) diff(commit string) string {
	args := []string{"kustomization", "app", "--path", u.clone("app")}
	u.says(append(line("build"), args...), "who: somebody", "kustomize.toolkit.fluxcd.io/name: app")
	if out := u.says(append(line("diff --progress-bar=false"), args...)); strings.Contains(out, "►") {
		u.Errorf("diff finds what is not there:\n%s", out)
	}
	at := filepath.Join(u.clone("app"), "settings.yaml")
	was := u.File(at)
	u.ok(os.WriteFile(at, []byte(configMap("settings", "3")+"  who: ${who}\n  where: ${where}\n"), 0o600))
	u.ok(os.Rename(filepath.Join(u.clone("app"), "login.yaml"), filepath.Join(u.Dir, "login.yaml")))
	u.fails(append(line("diff --progress-bar=false"), args...), "ConfigMap/default/settings drifted", "Secret/default/login deleted")
	u.ok(os.Rename(filepath.Join(u.Dir, "login.yaml"), filepath.Join(u.clone("app"), "login.yaml")))
	u.ok(os.WriteFile(at, []byte(was), 0o600))
	return commit
}

// refused: a commit that cannot be applied ends the wait of flux with the reason.
func (u user) refused(string) string {
	u.push(map[string]string{"app/bad.yaml": "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: Not_A_Name, namespace: default}\n"})
	u.says(line("reconcile source git app"))
	u.fails(line("reconcile kustomization app --timeout 15s"), "Not_A_Name")
	u.says(line("get kustomizations app"), "False", "Not_A_Name")
	u.says(line("get kustomizations --status-selector ready=false"), "app")
	u.says(line("events --for Kustomization/app --types Warning"), "Not_A_Name")
	commit := u.push(map[string]string{"app/bad.yaml": ""})
	u.says(line("reconcile kustomization app --with-source"), "applied revision main@sha1:"+commit)
	return commit
}

func (u user) migrate(commit string) string {
	u.says(line("migrate"), "migrated")
	u.says(line("get kustomizations app"), "True", commit[:8])
	return commit
}

func (u user) leave(commit string) string {
	u.says(line("suspend kustomization app")) // it would bring the child back
	u.says(line("delete kustomization child --silent"), "deleted")
	u.ok(u.Wait(u.ctx, patience, "the child's object to be pruned", u.absent("ConfigMap", "leaf")))
	u.says(line("resume kustomization app"))
	u.says(line("uninstall --dry-run --silent --namespace "+namespace), "uninstall finished")
	u.says(line("delete kustomization app --silent"), "deleted")
	u.ok(u.Wait(u.ctx, patience, "the objects to be pruned", u.absent("ConfigMap", "settings")))
	u.says(line("delete source git app --silent"), "deleted")
	return commit
}

func (u user) absent(kind, name string) func(context.Context) (bool, error) {
	return func(ctx context.Context) (bool, error) {
		o, err := u.Get(ctx, "v1", kind, "default", name)
		return o == nil, err
	}
}
