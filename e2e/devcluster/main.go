// Program devcluster is an embedded control plane: the real etcd, kube-apiserver and kube-controller-manager, a real
// Vault and a real Git server on free loopback ports, from one binary and one command.
//
// It exists because Sealock's stories, demo and benchmarks need the real servers and the machines that run them have
// neither a container runtime nor a cluster. It must never be published or deployed (its Vault is for test use only,
// everything listens on loopback with development credentials), must never import Sealock's own module (it builds
// against another Kubernetes minor), and must not know what the tests on top of it are about.
//
// One thing in it is a fake, see kubelet.go: no container runs, so pods are bound and declared Ready.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"

	"github.com/spf13/cobra"
)

func main() {
	nameVersion()
	if filepath.Base(os.Args[0]) == "kubectl" {
		kubectlMain(os.Args[1:])
		return
	}
	if err := newRootCommand().Execute(); err != nil {
		fmt.Fprintln(os.Stderr, "devcluster:", err)
		os.Exit(1)
	}
}

func newRootCommand() *cobra.Command {
	root := &cobra.Command{
		Use:   "devcluster",
		Short: "An embedded Kubernetes control plane with Vault and Git, for tests and demos",
		Long: `devcluster runs the real etcd, kube-apiserver and kube-controller-manager, a real Vault and a real Git server
on free loopback ports. There are no nodes: pods are declared Ready by a stand-in for the kubelet.

Everything is for development: never expose it, never put a real secret in it.`,
		Example: `  devcluster up --dir /tmp/dc &            # prints "ready" when everything answers
  set -a; . /tmp/dc/env; set +a            # KUBECONFIG, VAULT_ADDR, GIT_HTTP_URL, ...
  devcluster kubectl get namespaces
  git push "$GIT_HTTP_URL/team.git" main   # a push creates the repository`,
		SilenceUsage:  true,
		SilenceErrors: true,
	}
	root.AddCommand(newUpCommand(), newKubectlCommand(), newControllerManagerCommand())
	root.CompletionOptions.DisableDefaultCmd = true
	return root
}

func newKubectlCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "kubectl [arguments of kubectl]",
		Short: "Run the embedded kubectl (also when the binary is called by the name kubectl)",
		Example: `  KUBECONFIG=/tmp/dc/kubeconfig devcluster kubectl get pods --all-namespaces
  ln -s devcluster bin/kubectl && bin/kubectl version`,
		DisableFlagParsing: true,
		Run:                func(_ *cobra.Command, args []string) { kubectlMain(args) },
	}
}

func newUpCommand() *cobra.Command {
	var o upOptions
	cmd := &cobra.Command{
		Use:   "up --dir DIR",
		Short: "Run a control plane in the foreground until SIGTERM or SIGINT",
		Long: `up starts the servers, writes DIR/kubeconfig and DIR/env, prints "ready" alone on a line once everything answers,
and runs until SIGTERM or SIGINT. A second up with the same DIR finds the data of the first; ports stay the same where
they are still free. One DIR serves one devcluster at a time; different DIRs run side by side.

Files in DIR:
  env            KEY=value lines: KUBECONFIG, VAULT_ADDR, VAULT_TOKEN, GIT_HTTP_URL, GIT_SSH_URL, GIT_ROOT, GIT_USERNAME,
                 GIT_PASSWORD, GIT_SSH_KEY, GIT_KNOWN_HOSTS (empty where --without left the server out)
  kubeconfig     administrator (system:masters)
  logs/          one log for each server
  audit.log      with --audit-log: every request to the API server at Metadata level, one JSON object a line. Finished
                 requests have stage ResponseComplete; a watch also has a line ResponseStarted when it begins. The
                 kubeconfig's user is admin; devcluster's own parts are devcluster, devcluster:kubelet,
                 system:kube-controller-manager, system:apiserver and system:serviceaccount:kube-system:*
  vault-audit.log  with --audit-log: every request to Vault, values hashed by Vault itself
  vault-keys.json  the unseal key: to see Vault away, seal it by its API (PUT sys/seal), then unseal it
  git/repos      the bare repositories; remove a folder and it is a 404, push and it is created

Pods never run. A stand-in for the kubelet binds them to the Node devnode and declares them Ready (pods of a Job:
Succeeded); one that needs a missing Secret waits with reason CreateContainerConfigError. logs, exec and port-forward
find nobody, and volume claims stay Pending. Annotations on a pod:
  devcluster/hold: "true"   it stays Pending
  devcluster/fail: "true"   it is not ready, waiting in CrashLoopBackOff`,
		Example: `  devcluster up --dir /tmp/dc
  devcluster up --dir /tmp/dc --audit-log --without vault,git`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			ctx, stop := signal.NotifyContext(cmd.Context(), syscall.SIGINT, syscall.SIGTERM)
			context.AfterFunc(ctx, stop) // a second signal ends it at once
			err := runUp(ctx, o)
			if errors.Is(err, context.Canceled) {
				return nil
			}
			return err
		},
	}
	f := cmd.Flags()
	f.StringVar(&o.dir, "dir", "", "Folder that holds all data, logs and credentials (required).")
	f.StringSliceVar(&o.without, "without", nil, "Parts to leave out: vault, git, kubelet.")
	f.BoolVar(&o.auditLog, "audit-log", false, "Write DIR/audit.log (and DIR/vault-audit.log).")
	return cmd
}
