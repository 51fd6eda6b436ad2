package stories

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// cli runs the built sealock as somebody in the namespace of the team, and returns its exit code and what it printed.
func (tm *team) cli(args ...string) (int, string) {
	tm.Helper()
	out, err := tm.World.Run(tm.ctx, nil, "sealock", append(args, "-n", tm.name)...)
	if err == nil {
		return 0, out
	}
	var exit *exec.ExitError
	if !errors.As(err, &exit) {
		tm.Fatal(err)
	}
	return exit.ExitCode(), out + err.Error()
}

// says runs the built sealock, which must end with the code, and checks what it printed.
func (tm *team) says(code int, args []string, want ...string) string {
	tm.Helper()
	got, out := tm.cli(args...)
	if got != code {
		tm.Errorf("sealock %s: exit code %d, want %d\n%s", strings.Join(args, " "), got, code, out)
	}
	for _, w := range want {
		if !strings.Contains(out, w) {
			tm.Errorf("sealock %s does not say %q:\n%s", strings.Join(args, " "), w, out)
		}
	}
	return out
}

// TestVerbsOfPeople: somebody delivers, looks, stops, goes on, compares and asks why, with the sealock program alone.
func TestVerbsOfPeople(t *testing.T) {
	t.Parallel()
	tm := newTeam(t, "people")
	pw, next := canary(), canary()
	files := map[string]string{
		"deploy/a.yaml":      configMap("settings", "1"),
		"deploy/web.yaml":    deployment("web", "from-sops"),
		"deploy/sops.yaml":   tm.sops("s.yaml", secretYAML("people", "from-sops", map[string]string{"password": pw})),
		"deploy/sealed.yaml": tm.seal(secretYAML("people", "from-seal", map[string]string{"password": pw})),
	}
	tm.push(files)
	tm.apply(tm.source("  ref: {branch: main}") + tm.sync("  path: ./deploy"))

	// It may not have been looked at yet: reconcile waits for that.
	tm.says(0, []string{"reconcile", "ks", "app", "--with-source"}, "GitRepository/people/app is ready at main@sha1:", "Kustomization/people/app is ready at main@sha1:")
	tm.says(0, []string{"get", "ks"}, "app", "main@sha1:", "True", "Applied revision: main@sha1:")
	tm.says(0, []string{"get", "all"}, "gitrepository/app", "kustomization/app", "sealedsecret/from-seal")
	tm.says(0, []string{"tree", "ks", "app"}, "├── ", "ConfigMap/people/settings", "SealedSecret/people/from-seal", "─ Secret/people/from-seal", "Deployment/people/web")
	tm.says(0, []string{"events", "--for", "Kustomization/app"}, "Kustomization/app", "ConfigMap/people/settings created")

	dir := filepath.Join(tm.Dir, "clones", "people", "deploy")
	out := tm.says(0, []string{"diff", "ks", "app", "--path", dir}, "0 created, 0 changed, 0 pruned, 0 skipped, 4 unchanged")
	// With the tenant's rights, which include neither Tenants nor the key in the system namespace.
	tm.says(0, []string{"diff", "ks", "app", "--path", dir, "--as", "sealock:tenant:people"}, "**SOPS**", "4 unchanged")

	tm.ok(os.WriteFile(filepath.Join(dir, "a.yaml"), []byte(configMap("settings", "two")), 0o600))
	tm.ok(os.WriteFile(filepath.Join(dir, "sops.yaml"), []byte(tm.sops("s.yaml", secretYAML("people", "from-sops", map[string]string{"password": next}))), 0o600))
	tm.ok(os.Remove(filepath.Join(dir, "sealed.yaml")))
	out += tm.says(1, []string{"diff", "ks", "app", "--path", dir}, "changed   ConfigMap/people/settings", `- data.value: "1"`, "+ data.value: two",
		"changed   Secret/people/from-sops", "[secret ", "pruned    SealedSecret/people/from-seal", "0 created, 2 changed, 1 pruned")
	commit, err := tm.CommitAndPush(tm.ctx, "people", "change")
	tm.ok(err)
	tm.says(0, []string{"reconcile", "ks", "app", "--with-source"}, "main@sha1:"+commit[:8])
	tm.says(0, []string{"diff", "ks", "app", "--path", dir}, "0 created, 0 changed, 0 pruned")

	tm.says(0, []string{"suspend", "ks", "app"}, "is suspended")
	tm.says(2, []string{"reconcile", "ks", "app"}, "it is suspended", "sealock resume kustomizations app -n people")
	tm.says(0, []string{"get", "ks"}, "True")
	tm.says(0, []string{"resume", "ks", "app"}, "Kustomization/people/app is ready at main@sha1:"+commit[:8])

	out += tm.says(0, []string{"why", "deployment/web"}, "from      Kustomization/people/app, ready", "commit    main@sha1:", "/people.git (branch main), path ./deploy", "tenant    people", "acts as   sealock:tenant:people", "applied   ")
	// Somebody changes it by hand. It is repaired, and the controller notes by whom; its notes are written a moment later.
	_, err = tm.Kubectl(tm.ctx, "", "-n", "people", "patch", "configmap", "settings", "--type=merge", "-p", `{"data":{"value":"by hand"}}`)
	tm.ok(err)
	tm.ok(tm.eventually("why to tell what the controller noted", func() bool {
		_, told := tm.cli("why", "configmap/settings")
		return strings.Contains(told, "file      deploy/a.yaml:1\n") && strings.Contains(told, "drifted   ") && strings.Contains(told, "by kubectl-patch\n") && strings.Contains(told, "policies  ")
	}))
	out += tm.says(0, []string{"why", "configmap/settings", "--system-namespace", "default", "--path", dir}, "main@sha1:"+commit[:8], "a.yaml:1")
	for _, secret := range []string{pw, next, tm.identity} {
		if strings.Contains(out, secret) {
			t.Error("a value of a secret is printed")
		}
	}

	// A commit that cannot be built: the exit code and the words say so.
	tm.push(map[string]string{"deploy/a.yaml": "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: [}\n"})
	tm.says(2, []string{"reconcile", "ks", "app", "--with-source"}, "BuildFailed", "sealock events --for Kustomization/app")
	tm.says(0, []string{"get", "ks", "--status-selector", "Ready=False"}, "app", "False")
}
