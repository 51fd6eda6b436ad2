// Package harness runs Sealock as its users do: the built programs as processes on this machine, a real control plane,
// a real Vault and a real Git server, and the clients that people have. The demo and the stories share it.
//
// It must not import Sealock's own packages: what it sees is what a user sees.
package harness

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/restmapper"
	"k8s.io/client-go/tools/clientcmd"
)

// SystemNamespace is where Sealock lives.
const SystemNamespace = "sealock-system"

// World is one running installation.
type World struct {
	Dir        string            // home of everything that is written
	Env        map[string]string // of the devcluster
	Kubeconfig string            // of the administrator
	Config     *rest.Config
	Dynamic    dynamic.Interface
	Typed      kubernetes.Interface
	Ports      Ports
	Log        string // path of the controller's log, one JSON object a line

	options Options
	bin     string
	say     func(format string, args ...any)
	mapper  *restmapper.DeferredDiscoveryRESTMapper

	mu    sync.Mutex
	procs []*process
}

// Ports are the loopback ports of the controller.
type Ports struct{ Webhook, Health, Metrics, Sealing, Artifacts int }

// Options say how to start a World.
type Options struct {
	Dir string
	// Bin is the folder of the built programs.
	Bin string
	// Say is told what goes on. It may be nil.
	Say func(format string, args ...any)
	// Devcluster are further arguments of `devcluster up`.
	Devcluster []string
	// Controller are further arguments of `sealock controller`.
	Controller []string
	// WithoutController leaves the controller to the caller.
	WithoutController bool
	// Detached lets the processes outlive this one.
	Detached bool
}

// The names of the processes that a World starts by itself.
const (
	devcluster     = "devcluster"
	controllerName = "controller"
)

type process struct {
	name string
	cmd  *exec.Cmd
	done chan struct{} // closed when it has ended
	err  error         // how, once done is closed
}

// Start brings up a control plane, installs Sealock and runs its controller with the rights that `sealock install` gave
// it. On an error everything is stopped again.
func Start(ctx context.Context, o Options) (w *World, err error) {
	w = &World{Dir: o.Dir, bin: o.Bin, say: o.Say, Log: filepath.Join(o.Dir, "controller.log")}
	if w.say == nil {
		w.say = func(string, ...any) {}
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, w.Stop())
		}
	}()
	if err := os.MkdirAll(o.Dir, 0o700); err != nil {
		return w, err
	}
	if err := w.startDevcluster(ctx, o); err != nil {
		return w, err
	}
	ports, err := freePorts(5)
	if err != nil {
		return w, err
	}
	w.Ports = Ports{ports[0], ports[1], ports[2], ports[3], ports[4]}
	if err := w.install(ctx); err != nil {
		return w, err
	}
	if o.WithoutController {
		return w, nil
	}
	return w, w.StartController(ctx, o.Detached, o.Controller...)
}

func (w *World) startDevcluster(ctx context.Context, o Options) error {
	w.options = o
	home := filepath.Join(o.Dir, "devcluster")
	args := append([]string{"up", "--dir", home}, o.Devcluster...)
	p, out, err := w.spawn(spawned{name: devcluster, detached: o.Detached, log: filepath.Join(o.Dir, "devcluster.log"), program: filepath.Join(w.bin, "devcluster"), args: args})
	if err != nil {
		return err
	}
	ready := make(chan error, 1)
	go func() {
		lines := bufio.NewScanner(out)
		for lines.Scan() {
			if lines.Text() == "ready" {
				ready <- nil
				return
			}
		}
		ready <- errors.New("devcluster ended before it was ready")
	}()
	select {
	case err = <-ready:
	case <-p.done:
		err = fmt.Errorf("devcluster ended: %v", p.err)
	case <-ctx.Done():
		err = ctx.Err()
	}
	if err != nil {
		return fmt.Errorf("%w; see %s", err, filepath.Join(o.Dir, "devcluster.log"))
	}
	if w.Env, err = readEnv(filepath.Join(home, "env")); err != nil {
		return err
	}
	w.Kubeconfig = w.Env["KUBECONFIG"]
	return w.connect()
}

func (w *World) connect() (err error) {
	if w.Config, err = clientcmd.BuildConfigFromFlags("", w.Kubeconfig); err != nil {
		return err
	}
	w.Config.QPS = -1
	if w.Dynamic, err = dynamic.NewForConfig(w.Config); err != nil {
		return err
	}
	if w.Typed, err = kubernetes.NewForConfig(w.Config); err != nil {
		return err
	}
	w.mapper = newMapper(w.Typed)
	return nil
}

func (w *World) install(ctx context.Context) error {
	url := fmt.Sprintf("https://127.0.0.1:%d", w.Ports.Webhook)
	out, err := w.Run(ctx, nil, "sealock", "install", "--apply", "--kubeconfig", w.Kubeconfig, "--webhook-url", url)
	if err != nil {
		return fmt.Errorf("sealock install: %w\n%s", err, out)
	}
	w.mapper.Reset()
	return nil
}

// StartController runs `sealock controller` as the service account that it has in a cluster.
func (w *World) StartController(ctx context.Context, detached bool, args ...string) error {
	return w.StartReplica(ctx, Replica{Name: controllerName, Ports: w.Ports, Detached: detached, Args: args})
}

// StopController ends the controller and waits for it.
func (w *World) StopController() error { return w.stop(controllerName, syscall.SIGTERM) }

// KillController ends the controller without a chance to clean up.
func (w *World) KillController() error { return w.stop(controllerName, syscall.SIGKILL) }

// Pid returns the process id of the named process, 0 when it does not run.
func (w *World) Pid(name string) int {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, p := range w.procs {
		if p.name == name {
			return p.cmd.Process.Pid
		}
	}
	return 0
}

// Stop ends everything that was started.
func (w *World) Stop() error {
	w.mu.Lock()
	var names []string
	for _, p := range w.procs {
		if p.name != devcluster {
			names = append(names, p.name)
		}
	}
	w.mu.Unlock()
	var errs []error
	for _, name := range append(names, devcluster) {
		errs = append(errs, w.stop(name, syscall.SIGTERM))
	}
	return errors.Join(errs...)
}

func (w *World) stop(name string, sig syscall.Signal) error {
	w.mu.Lock()
	var p *process
	for i, each := range w.procs {
		if each.name == name {
			p = each
			w.procs = append(w.procs[:i], w.procs[i+1:]...)
			break
		}
	}
	w.mu.Unlock()
	if p == nil {
		return nil
	}
	_ = p.cmd.Process.Signal(sig)
	select {
	case <-p.done:
		if sig != syscall.SIGKILL && p.err != nil {
			return fmt.Errorf("%s ended with: %w", name, p.err)
		}
		return nil
	case <-time.After(40 * time.Second):
		_ = p.cmd.Process.Kill()
		return fmt.Errorf("%s did not stop within 40 seconds", name)
	}
}

// spawned is a program to start.
type spawned struct {
	name     string
	detached bool
	log      string
	program  string
	args     []string
	env      []string // beside that of this process
}

// spawn starts a program whose output goes to a log file. The returned reader follows that output from here on.
func (w *World) spawn(s spawned) (*process, io.Reader, error) {
	if _, err := os.Stat(s.program); err != nil {
		return nil, nil, fmt.Errorf("%s is missing; run `make build devcluster tools clock` first", s.program)
	}
	file, err := os.OpenFile(s.log, os.O_CREATE|os.O_APPEND|os.O_RDWR, 0o600)
	if err != nil {
		return nil, nil, err
	}
	defer file.Close()
	cmd := exec.Command(s.program, s.args...)
	cmd.Env = append(os.Environ(), s.env...)
	cmd.Stderr = file
	var follow io.Reader = strings.NewReader("")
	if s.name == devcluster {
		r, wr, err := os.Pipe()
		if err != nil {
			return nil, nil, err
		}
		defer wr.Close()
		cmd.Stdout, follow = wr, r
	} else {
		cmd.Stdout = file
	}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: s.detached}
	if !s.detached {
		cmd.SysProcAttr.Pdeathsig = syscall.SIGTERM
	}
	if err := cmd.Start(); err != nil {
		return nil, nil, err
	}
	p := &process{name: s.name, cmd: cmd, done: make(chan struct{})}
	go func() {
		p.err = cmd.Wait()
		close(p.done)
	}()
	w.mu.Lock()
	w.procs = append(w.procs, p)
	w.mu.Unlock()
	return p, follow, nil
}

// Run runs one of the built programs and returns what it printed.
func (w *World) Run(ctx context.Context, stdin []byte, program string, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, filepath.Join(w.bin, program), args...)
	cmd.Env = append(os.Environ(), "KUBECONFIG="+w.Kubeconfig)
	cmd.Stdin = bytes.NewReader(stdin)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	err := cmd.Run()
	if err != nil {
		return out.String(), fmt.Errorf("%w: %s", err, strings.TrimSpace(errs.String()))
	}
	return out.String(), nil
}

// Kubectl runs the embedded kubectl as administrator.
func (w *World) Kubectl(ctx context.Context, stdin string, args ...string) (string, error) {
	return w.Run(ctx, []byte(stdin), "devcluster", append([]string{"kubectl"}, args...)...)
}

// Wait asks again and again until ok is true, ok fails, or the time is over.
func (w *World) Wait(ctx context.Context, limit time.Duration, what string, ok func(ctx context.Context) (bool, error)) error {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for {
		done, err := ok(ctx)
		if err != nil {
			return fmt.Errorf("waiting for %s: %w", what, err)
		}
		if done {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("waited %s for %s", limit, what)
		case <-tick.C:
		}
	}
}

func addr(port int) string { return fmt.Sprintf("127.0.0.1:%d", port) }

func freePorts(n int) ([]int, error) {
	var out []int
	for range n {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return nil, err
		}
		defer l.Close() // all are held until the last is found, so that they differ
		tcp, ok := l.Addr().(*net.TCPAddr)
		if !ok {
			return nil, errors.New("no TCP address")
		}
		out = append(out, tcp.Port)
	}
	return out, nil
}

func readEnv(path string) (map[string]string, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	env := map[string]string{}
	for _, line := range strings.Split(string(data), "\n") {
		if k, v, ok := strings.Cut(line, "="); ok {
			env[k] = v
		}
	}
	return env, nil
}

func tail(path string, n int) string {
	data, _ := os.ReadFile(path)
	lines := strings.Split(strings.TrimSpace(string(data)), "\n")
	if len(lines) > n {
		lines = lines[len(lines)-n:]
	}
	return strings.Join(lines, "\n")
}
