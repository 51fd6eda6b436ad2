// Package testkit gives tests a real control plane, and secrets that can be recognised wherever they get to.
//
// It exists so that tests prove things against the real API server, Vault and Git instead of against fakes of them, at
// the price of one devcluster for a test binary. It must be imported by tests only, and must not know what they test.
package testkit

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
)

// Devcluster is a running control plane.
type Devcluster struct {
	Config     *rest.Config      // administrator, without a rate limit
	Kubeconfig string            // path of the file with the same rights
	Dir        string            // home of the devcluster: logs, git/repos, audit.log
	Env        map[string]string // what DIR/env holds: VAULT_ADDR, GIT_HTTP_URL and so on

	crds   sync.Once
	crdErr error
}

// startLimit bounds the wait for "ready". An idle machine needs a few seconds.
const startLimit = 4 * time.Minute

// shared is the devcluster of this test binary. It is package state because TestMain and the tests share nothing else.
var shared struct { //nolint:gochecknoglobals // see above
	inMain bool
	args   []string
	once   sync.Once
	dc     *Devcluster
	err    error
	stop   func()
}

// Main runs the tests and afterwards stops what Cluster started. A package that calls Cluster has
//
//	func TestMain(m *testing.M) { os.Exit(testkit.Main(m)) }
//
// args are added to `devcluster up`, such as "--audit-log" or "--without=vault,git".
func Main(m *testing.M, args ...string) int {
	shared.inMain, shared.args = true, args
	defer func() {
		if shared.stop != nil {
			shared.stop()
		}
	}()
	return m.Run()
}

// Cluster returns the devcluster of this test binary and starts it at the first call. The program is bin/devcluster of
// this checkout, or the file that the environment names in DEVCLUSTER_BIN.
func Cluster(t testing.TB) *Devcluster {
	t.Helper()
	if !shared.inMain {
		t.Fatal("this package calls testkit.Cluster without a TestMain that calls testkit.Main: the devcluster would outlive the tests")
	}
	shared.once.Do(func() { shared.dc, shared.stop, shared.err = start(shared.args) })
	if shared.err != nil {
		t.Fatal(shared.err)
	}
	return shared.dc
}

// Root returns the folder of the module that the test belongs to.
func Root() (string, error) {
	dir, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			return dir, nil
		}
		if dir == filepath.Dir(dir) {
			return "", errors.New("no go.mod in this folder or above")
		}
		dir = filepath.Dir(dir)
	}
}

func binary() (string, error) {
	if path := os.Getenv("DEVCLUSTER_BIN"); path != "" {
		return path, nil
	}
	root, err := Root()
	if err != nil {
		return "", err
	}
	path := filepath.Join(root, "bin", "devcluster")
	if _, err := os.Stat(path); err != nil {
		return "", fmt.Errorf("%s does not exist: run `make devcluster` first, or set DEVCLUSTER_BIN", path)
	}
	return path, nil
}

func start(args []string) (*Devcluster, func(), error) {
	path, err := binary()
	if err != nil {
		return nil, nil, err
	}
	dir, err := os.MkdirTemp("", "sealock-devcluster-")
	if err != nil {
		return nil, nil, err
	}
	proc, err := run(path, append([]string{"up", "--dir", dir}, args...), filepath.Join(dir, "devcluster.log"))
	if err != nil {
		_ = os.RemoveAll(dir)
		return nil, nil, err
	}
	stop := func() {
		proc.stop()
		_ = os.RemoveAll(dir)
	}
	if err := proc.ready(); err != nil {
		log, _ := os.ReadFile(filepath.Join(dir, "devcluster.log"))
		stop()
		return nil, nil, fmt.Errorf("starting %s: %w\n%s", path, err, log)
	}
	dc, err := open(dir)
	if err != nil {
		stop()
		return nil, nil, err
	}
	return dc, stop, nil
}

func open(dir string) (*Devcluster, error) {
	dc := &Devcluster{Dir: dir, Kubeconfig: filepath.Join(dir, "kubeconfig"), Env: map[string]string{}}
	text, err := os.ReadFile(filepath.Join(dir, "env"))
	if err != nil {
		return nil, err
	}
	for line := range strings.Lines(string(text)) {
		if key, value, ok := strings.Cut(strings.TrimSpace(line), "="); ok {
			dc.Env[key] = value
		}
	}
	dc.Config, err = clientcmd.BuildConfigFromFlags("", dc.Kubeconfig)
	if err != nil {
		return nil, err
	}
	dc.Config.QPS = -1
	return dc, nil
}

// process is a devcluster that runs beside the tests.
type process struct {
	cmd    *exec.Cmd
	stdout io.Reader
	done   chan struct{}
	err    error // why it ended; to be read after done
}

// run starts the program. It is killed with this process, however this process ends.
func run(path string, args []string, logFile string) (*process, error) {
	log, err := os.Create(logFile)
	if err != nil {
		return nil, err
	}
	p := &process{cmd: exec.CommandContext(context.Background(), path, args...), done: make(chan struct{})}
	p.cmd.Stderr = log
	p.cmd.SysProcAttr = dieWithParent()
	if p.stdout, err = p.cmd.StdoutPipe(); err != nil {
		return nil, err
	}
	started := make(chan error)
	go func() {
		defer log.Close()
		// The kernel ties the child to this thread, not to the process: keep the thread until the child is gone.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := p.cmd.Start()
		started <- err
		if err == nil {
			_, p.err = p.cmd.Process.Wait()
			close(p.done)
		}
	}()
	return p, <-started
}

// ready waits for the line that says so.
func (p *process) ready() error {
	line := make(chan bool, 1)
	go func() {
		scanner := bufio.NewScanner(p.stdout)
		for scanner.Scan() {
			if scanner.Text() == "ready" {
				line <- true
			}
		}
	}()
	select {
	case <-line:
		return nil
	case <-p.done:
		return errors.New("it ended before it was ready")
	case <-time.After(startLimit):
		return fmt.Errorf("it was not ready after %s", startLimit)
	}
}

func (p *process) stop() {
	_ = p.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-p.done:
	case <-time.After(time.Minute):
		_ = p.cmd.Process.Kill()
		<-p.done
	}
}
