package main

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sort"
	"strings"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"sealock.dev/sealock/e2e/harness"
)

const (
	tenant   = "team-a"
	patience = time.Minute
)

type story struct {
	*harness.World
	*teller
	samples string

	ageKey, recipient string
	values            map[string]string // what is secret in this story, by name
	commit            string
	verdict           string // the words of the policy
}

func (s *story) sample(path string) (string, error) {
	data, err := os.ReadFile(filepath.Join(s.samples, filepath.FromSlash(path)))
	if err != nil {
		return "", err
	}
	// The samples hold addresses of a made-up company; here they are those of this machine.
	return strings.NewReplacer(
		"https://git.example.com", s.Env["GIT_HTTP_URL"],
		"http://127.0.0.1:8200", s.Env["VAULT_ADDR"],
	).Replace(string(data)), nil
}

// platform is what the platform team does once for a tenant.
func (s *story) platform(ctx context.Context) (err error) {
	s.chapter("The platform team takes in a tenant")
	s.values = map[string]string{"database": random(), "mail": random(), "payment": random()}
	if s.ageKey, s.recipient, err = s.AgeKey(ctx); err != nil {
		return err
	}
	if err := s.Apply(ctx, secret("sealock-system", "team-a-age", map[string]string{"team-a.agekey": s.ageKey})); err != nil {
		return err
	}
	for _, file := range []string{"platform/tenant.yaml", "platform/policy.yaml"} {
		text, err := s.sample(file)
		if err != nil {
			return err
		}
		if err := s.Apply(ctx, text); err != nil {
			return err
		}
	}
	if _, err := s.WaitCondition(ctx, patience, "sealock.dev/v1alpha1", "Tenant", "", tenant, "Ready", "True", ""); err != nil {
		return err
	}
	s.done("Tenant team-a: a namespace, the identity sealock:tenant:team-a, a decryption key, a fence around secret/tenants/team-a in Vault")
	if _, err := s.WaitCondition(ctx, patience, "sealock.dev/v1alpha1", "Policy", "", "images-from-our-registry", "Ready", "True", ""); err != nil {
		return err
	}
	s.done("Policy images-from-our-registry: its own tests passed, it is in force")
	if err := s.VaultRole(ctx, tenant, tenant, "vault-reader", "tenants/team-a"); err != nil {
		return err
	}
	if err := s.VaultPut(ctx, "tenants/team-a/payment", map[string]any{"user": "shop", "token": s.values["payment"]}); err != nil {
		return err
	}
	s.done("Vault: secret/tenants/team-a/payment, readable by the tenant's service account vault-reader only")
	return nil
}

// secrets is what a developer does on a laptop.
func (s *story) secrets(ctx context.Context) error {
	s.chapter("A developer encrypts two secrets and pushes them with the rest")
	plain := func(name string) string {
		return secret(tenant, name, map[string]string{"password": s.values[name]})
	}
	sopsFile, err := s.Sops(ctx, "database.yaml", plain("database"), s.recipient, "--encrypted-regex", "^(data|stringData)$")
	if err != nil {
		return err
	}
	s.say("sops encrypt --age %s... database.yaml", s.recipient[:12])
	sealed, err := s.Seal(ctx, plain("mail"))
	if err != nil {
		return err
	}
	s.say("sealock seal < mail.yaml        (the certificate comes through the API server)")
	files := map[string]string{"secrets/database.yaml": sopsFile, "secrets/mail.yaml": sealed}
	for _, name := range []string{"kustomization.yaml", "app/deployment.yaml", "app/service.yaml", "secrets/payment.yaml"} {
		if files[name], err = s.sample("repository/" + name); err != nil {
			return err
		}
	}
	for _, text := range files {
		if leaked := s.leaks(text); leaked != "" {
			return fmt.Errorf("the value of %s would stand in Git", leaked)
		}
	}
	if s.commit, err = s.Push(ctx, tenant, "shop: first version", files); err != nil {
		return err
	}
	s.done("pushed commit %s: %d files, no secret among them in the clear", s.commit[:8], len(files))
	return nil
}

// firstCommit applies the source and the Kustomization, and follows the stages in the controller's log.
func (s *story) firstCommit(ctx context.Context) error {
	s.chapter("The commit goes through the lock")
	credentials := secret(tenant, "git-credentials", map[string]string{"username": s.Env["GIT_USERNAME"], "password": s.Env["GIT_PASSWORD"]})
	for _, file := range []string{"platform/source.yaml", "platform/sync.yaml"} {
		text, err := s.sample(file)
		if err != nil {
			return err
		}
		credentials += "---\n" + text
	}
	began := time.Now()
	if err := s.Apply(ctx, credentials); err != nil {
		return err
	}
	if err := s.followStages(ctx, s.commit, func(ctx context.Context) (bool, error) { return s.ready(ctx, s.commit) }); err != nil {
		return err
	}
	s.done("ready %s after it was first seen: everything of the commit runs", time.Since(began).Round(100*time.Millisecond))
	return nil
}

// whatRuns shows what the commit has become.
func (s *story) whatRuns(ctx context.Context) error {
	s.chapter("What is in the cluster")
	for name, want := range map[string]string{"database": s.values["database"], "mail": s.values["mail"], "payment": "https://shop:" + s.values["payment"] + "@payment.example.com"} {
		data, err := s.SecretData(ctx, tenant, name)
		if err != nil {
			return err
		}
		found := false
		for _, v := range data {
			found = found || v == want
		}
		if !found {
			return fmt.Errorf("the Secret %s does not hold what was encrypted", name)
		}
	}
	s.done("Secrets database (SOPS), mail (sealed) and payment (Vault, through a template) hold what was encrypted")
	pods, err := s.Typed.CoreV1().Pods(tenant).List(ctx, metav1.ListOptions{LabelSelector: "app=shop"})
	if err != nil {
		return err
	}
	if len(pods.Items) == 0 {
		return errors.New("no pod of the shop runs")
	}
	s.done("%d pods of the Deployment that uses all three are ready", len(pods.Items))
	out, err := s.Kubectl(ctx, "", "-n", tenant, "get", "kustomizations,sealedsecrets,externalsecrets,secrets")
	if err != nil {
		return err
	}
	s.quote(out)
	return s.nothingLeaked(ctx)
}

// nothingLeaked reads what people and tools read, and looks for the values.
func (s *story) nothingLeaked(ctx context.Context) error {
	log, err := os.ReadFile(s.Log)
	if err != nil {
		return err
	}
	events, err := s.Kubectl(ctx, "", "get", "events", "-A", "-o", "yaml")
	if err != nil {
		return err
	}
	status, err := s.Kubectl(ctx, "", "-n", tenant, "get", "kustomizations,gitrepositories,sealedsecrets,externalsecrets,secretstores,deployments", "-o", "yaml")
	if err != nil {
		return err
	}
	for where, text := range map[string]string{"the controller's log": string(log), "events": events, "objects and their conditions": status} {
		if leaked := s.leaks(text); leaked != "" {
			return fmt.Errorf("the value of %s stands in %s", leaked, where)
		}
	}
	s.done("none of the values stands in the log, in events or in any condition")
	return nil
}

// deniedCommit pushes a commit of which one object is denied, and shows that nothing of it was written.
func (s *story) deniedCommit(ctx context.Context) error {
	s.chapter("A commit that a policy denies")
	before, err := s.Get(ctx, "apps/v1", "Deployment", tenant, "shop")
	if err != nil {
		return err
	}
	deployment, err := s.badDeployment()
	if err != nil {
		return err
	}
	kustomization, err := s.sample("repository/kustomization.yaml")
	if err != nil {
		return err
	}
	s.say("It changes the image to one from elsewhere, and adds an innocent ConfigMap.")
	commit, err := s.Push(ctx, tenant, "shop: try an image from elsewhere", map[string]string{
		"app/deployment.yaml": deployment,
		"app/banner.yaml":     "apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: banner\ndata:\n  text: hello\n",
		"kustomization.yaml":  kustomization + "- app/banner.yaml\n",
	})
	if err != nil {
		return err
	}
	if _, err := s.Reconcile(ctx, "source.toolkit.fluxcd.io/v1", "GitRepository", tenant, tenant); err != nil {
		return err
	}
	var message string
	err = s.followStages(ctx, commit, func(ctx context.Context) (bool, error) {
		o, err := s.Get(ctx, "kustomize.toolkit.fluxcd.io/v1", "Kustomization", tenant, tenant)
		if err != nil {
			return false, err
		}
		status, reason, text := harness.Condition(o, "Ready")
		message = text
		return status == "False" && reason == "PolicyDenied", nil
	})
	if err != nil {
		return err
	}
	s.done("refused before the first write; the condition of the Kustomization says:")
	s.quote(message)
	_, s.verdict, _ = strings.Cut(message, "[images-from-our-registry] ")
	if s.verdict, _, _ = strings.Cut(s.verdict, "\n"); s.verdict == "" {
		return errors.New("the condition does not name the policy")
	}
	after, err := s.Get(ctx, "apps/v1", "Deployment", tenant, "shop")
	if err != nil {
		return err
	}
	banner, err := s.Get(ctx, "v1", "ConfigMap", tenant, "banner")
	if err != nil {
		return err
	}
	if banner != nil || before.GetGeneration() != after.GetGeneration() {
		return errors.New("something of the denied commit was written")
	}
	s.done("nothing of it was written: no ConfigMap banner, the Deployment is still generation %d", after.GetGeneration())
	return nil
}

func (s *story) badDeployment() (string, error) {
	text, err := s.sample("repository/app/deployment.yaml")
	return strings.Replace(text, "ghcr.io/example/shop:1.0.0", "docker.io/somebody/shop:2.0.0", 1), err
}

// directAttempt goes around Git, with kubectl and all rights.
func (s *story) directAttempt(ctx context.Context) error {
	s.chapter("The same, around Git")
	text, err := s.badDeployment()
	if err != nil {
		return err
	}
	s.say("kubectl -n team-a apply -f deployment.yaml")
	_, err = s.Kubectl(ctx, text, "-n", tenant, "apply", "--server-side", "--force-conflicts", "-f", "-")
	if err == nil {
		return errors.New("the webhook let it pass")
	}
	s.quote(strings.TrimPrefix(err.Error(), "exit status 1: "))
	if !strings.Contains(err.Error(), s.verdict) {
		return fmt.Errorf("the webhook used other words than %q", s.verdict)
	}
	s.done("denied by the webhook, with the same words")
	return nil
}

func (s *story) ready(ctx context.Context, commit string) (bool, error) {
	o, err := s.Get(ctx, "kustomize.toolkit.fluxcd.io/v1", "Kustomization", tenant, tenant)
	if err != nil || o == nil {
		return false, err
	}
	status, reason, message := harness.Condition(o, "Ready")
	if status == "False" && reason != "ArtifactFailed" {
		return false, fmt.Errorf("%s: %s", reason, message)
	}
	return status == "True" && strings.HasSuffix(message, commit), nil
}

// stageWords says what a stage does, for people.
var stageWords = map[string]string{ //nolint:gochecknoglobals // a constant table
	"source":  "the files of the commit, straight from Git",
	"decrypt": "SOPS files are opened in memory, their MAC verified",
	"render":  "kustomize builds the objects; it sees tokens, not values",
	"open":    "the SealedSecret is unsealed, the ExternalSecret read from Vault",
	"judge":   "policies look at the whole set",
	"plan":    "compared with the cluster, and dry-run by the API server",
	"apply":   "written as sealock:tenant:team-a, secrets first",
	"prune":   "what left Git leaves the cluster",
	"health":  "watched until it is healthy",
}

// followStages prints the stages of a commit as the controller logs them, until done.
func (s *story) followStages(ctx context.Context, commit string, done func(context.Context) (bool, error)) error {
	shown := map[string]bool{}
	return s.Wait(ctx, 2*patience, "commit "+commit[:8], func(ctx context.Context) (bool, error) {
		ok, err := done(ctx)
		lines, logErr := s.LogLines()
		if logErr != nil {
			return false, logErr
		}
		for _, line := range lines {
			stage, _ := line["stage"].(string)
			revision, _ := line["revision"].(string)
			if line["msg"] != "stage" || shown[stage] || stageWords[stage] == "" || stage != "source" && !strings.HasSuffix(revision, commit) {
				continue
			}
			if stage == "source" {
				continue // it is logged before the revision is known
			}
			shown[stage] = true
			s.say("%-8s %s", stage, stageWords[stage])
		}
		return ok, err
	})
}

// leaks returns the name of a value that stands in text.
func (s *story) leaks(text string) string {
	names := make([]string, 0, len(s.values))
	for name := range s.values {
		names = append(names, name)
	}
	sort.Strings(names)
	for _, name := range names {
		if strings.Contains(text, s.values[name]) {
			return name
		}
	}
	return ""
}

func secret(namespace, name string, data map[string]string) string {
	text := fmt.Sprintf("apiVersion: v1\nkind: Secret\nmetadata:\n  name: %s\n  namespace: %s\nstringData:\n", name, namespace)
	for k, v := range data {
		text += fmt.Sprintf("  %s: %q\n", k, v)
	}
	return text
}

func random() string { return rand.Text() }
