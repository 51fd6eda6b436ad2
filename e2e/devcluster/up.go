package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
)

type upOptions struct {
	dir      string
	without  []string
	auditLog bool
}

func (o upOptions) with(name string) bool { return !slices.Contains(o.without, name) }

func (o upOptions) validate() error {
	for _, name := range o.without {
		if !slices.Contains([]string{"vault", "git", "kubelet"}, name) {
			return fmt.Errorf("--without %s: there is no such part; choose among vault, git, kubelet", name)
		}
	}
	return nil
}

// cluster is one up: what was asked, where it lives and what runs so far.
type cluster struct {
	upOptions
	home     *home
	pki      *pki
	parts    *stack
	progress io.Writer
	began    time.Time

	server string       // URL of the API server
	admin  *rest.Config // acts as the user devcluster, so that an audit log tells its requests from a test's

	mu  sync.Mutex
	env map[string]string
}

// runUp starts everything, says ready, and stops everything when ctx ends or a part fails.
func runUp(ctx context.Context, o upOptions) (err error) {
	if err := o.validate(); err != nil {
		return err
	}
	home, err := openHome(o.dir)
	if err != nil {
		return err
	}
	defer home.close()
	ignoreVaultEnvironment()
	c := &cluster{upOptions: o, home: home, parts: newStack(), progress: os.Stderr, began: time.Now(), env: map[string]string{}}
	defer func() { err = errors.Join(err, c.parts.stop()) }()

	if err := c.start(ctx); err != nil {
		return err
	}
	fmt.Println("ready")
	select {
	case <-ctx.Done():
		c.say("stopping")
		return nil
	case err := <-c.parts.failed:
		if ctx.Err() != nil {
			return nil // Ctrl-C in a terminal also reaches the child
		}
		return err
	}
}

// ignoreVaultEnvironment keeps the Vault client here from following the caller's shell to somebody's real Vault.
func ignoreVaultEnvironment() {
	for _, pair := range os.Environ() {
		if key, _, _ := strings.Cut(pair, "="); strings.HasPrefix(key, "VAULT_") {
			os.Unsetenv(key)
		}
	}
}

// say reports progress to the person who waits.
func (c *cluster) say(format string, args ...any) {
	fmt.Fprintf(c.progress, "devcluster: %5.1fs %s\n", time.Since(c.began).Seconds(), fmt.Sprintf(format, args...))
}

func (c *cluster) setEnv(key, value string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.env[key] = value
}

// start brings up Kubernetes, Vault and Git side by side, then joins Vault to Kubernetes.
func (c *cluster) start(ctx context.Context) error {
	group, groupCtx := errgroup.WithContext(ctx)
	var vault *vaultServer
	group.Go(func() error { return c.startKubernetes(groupCtx) })
	if c.with("vault") {
		group.Go(func() (err error) {
			vault, err = c.startVault(groupCtx)
			return err
		})
	}
	if c.with("git") {
		group.Go(c.startGit)
	}
	if err := group.Wait(); err != nil {
		return err
	}
	if vault != nil {
		if err := c.joinVault(ctx, vault); err != nil {
			return err
		}
	}
	if err := c.waitDefaultServiceAccount(ctx); err != nil {
		return err
	}
	if err := c.home.savePorts(); err != nil {
		return err
	}
	return c.home.writeEnv(c.env)
}

func (c *cluster) startKubernetes(ctx context.Context) error {
	if err := c.preparePKI(); err != nil {
		return err
	}
	etcdURL, err := startEtcd(ctx, c.parts, c.home.path("etcd"), c.home.log("etcd"))
	if err != nil {
		return err
	}
	c.say("etcd serves %s", etcdURL)
	ln, port, err := c.home.listen("kube-apiserver")
	if err != nil {
		return err
	}
	c.server = fmt.Sprintf("https://127.0.0.1:%d", port)
	c.admin = c.pki.restConfig(c.server, "devcluster")
	args := apiserverArgs(c.pki, etcdURL, port)
	if c.auditLog {
		audit, err := auditArgs(c.home.dir)
		if err != nil {
			return err
		}
		args = append(args, audit...)
	}
	if err := startAPIServer(ctx, c.parts, ln, args, c.admin, c.home.log("kube-apiserver")); err != nil {
		return err
	}
	c.say("kube-apiserver serves %s", c.server)
	return c.startControllers(ctx)
}

// startControllers starts what acts through the API server, and writes the administrator's kubeconfig.
func (c *cluster) startControllers(ctx context.Context) error {
	kubeconfig := c.home.path("kubeconfig")
	if err := c.pki.writeKubeconfig(kubeconfig, c.server, "admin"); err != nil {
		return err
	}
	c.setEnv("KUBECONFIG", kubeconfig)
	managerConfig := c.home.path("pki", "controller-manager.kubeconfig")
	if err := c.pki.writeKubeconfig(managerConfig, c.server, "controller-manager"); err != nil {
		return err
	}
	if err := startControllerManager(c.parts, controllerManagerArgs(managerConfig, c.pki), c.home.log("kube-controller-manager")); err != nil {
		return err
	}
	c.say("kube-controller-manager started")
	if !c.with("kubelet") {
		return nil
	}
	if err := startKubelet(ctx, c.parts, c.pki.restConfig(c.server, "kubelet"), c.home.log("kubelet")); err != nil {
		return err
	}
	c.say("kubelet stand-in serves node %s", nodeName)
	return nil
}

// preparePKI gives each part a name of its own, so that an audit log tells them apart.
func (c *cluster) preparePKI() (err error) {
	if c.pki, err = loadPKI(c.home.path("pki")); err != nil {
		return err
	}
	return errors.Join(
		c.pki.ensureServer("apiserver"),
		c.pki.ensureClient("admin", "admin", "system:masters"),
		c.pki.ensureClient("devcluster", "devcluster", "system:masters"),
		c.pki.ensureClient("kubelet", "devcluster:kubelet", "system:masters"),
		c.pki.ensureClient("controller-manager", "system:kube-controller-manager"),
	)
}

// waitDefaultServiceAccount waits for the controller-manager's first visible work, without which pods are refused.
func (c *cluster) waitDefaultServiceAccount(ctx context.Context) error {
	client, err := kubernetes.NewForConfig(c.admin)
	if err != nil {
		return err
	}
	err = c.parts.poll(ctx, func(ctx context.Context) error {
		_, err := client.CoreV1().ServiceAccounts("default").Get(ctx, "default", metav1.GetOptions{})
		return err
	})
	if err != nil {
		return fmt.Errorf("kube-controller-manager made no default ServiceAccount: %w (see %s)", err, c.home.log("kube-controller-manager"))
	}
	c.say("kube-controller-manager made the default ServiceAccount")
	return nil
}
