package harness

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// Replica is one process of the controller. A World may run several beside each other.
type Replica struct {
	Name  string // of the process
	Ports Ports  // the webhook's is the one that the World was installed with, or nobody's
	// Via is the proxy by which it reaches the API server. nil: it does so directly.
	Via      *Proxy
	Cache    string // folder; "" is that of the World
	Log      string // file; "" is that of the World
	Detached bool
	Args     []string
	Clock    *Clock // of the process; nil: the real one
	// Waiting is set for a replica that another one leads: nothing is awaited of it but that it is ready.
	Waiting bool
}

// StartReplica runs `sealock controller` as the service account that it has in a cluster, and returns when it is ready.
func (w *World) StartReplica(ctx context.Context, r Replica) error {
	kubeconfig, err := w.controllerKubeconfig(ctx, r.Via)
	if err != nil {
		return err
	}
	if r.Cache == "" {
		r.Cache = w.CacheDir()
	}
	if r.Log == "" {
		r.Log = w.Log
	}
	all := append([]string{
		"controller", "--kubeconfig", kubeconfig,
		"--cache-dir", r.Cache,
		"--webhook-addr", addr(r.Ports.Webhook), "--webhook-url", "https://" + addr(w.Ports.Webhook),
		"--health-addr", addr(r.Ports.Health), "--metrics-addr", addr(r.Ports.Metrics),
		"--sealing-addr", addr(r.Ports.Sealing), "--artifact-addr", addr(r.Ports.Artifacts),
	}, r.Args...)
	program, env := "sealock", []string(nil)
	if r.Clock != nil {
		program, env = clockProgram, r.Clock.env()
	}
	p, _, err := w.spawn(spawned{name: r.Name, detached: r.Detached, log: r.Log, program: filepath.Join(w.bin, program), args: all, env: env})
	if err != nil {
		return err
	}
	if err := w.ready(ctx, p, r); err != nil || r.Waiting {
		return err
	}
	// Every replica is ready before one of them leads; what the leader publishes follows.
	return w.Wait(ctx, time.Minute, "the sealing certificate to be published", func(ctx context.Context) (bool, error) {
		o, err := w.Get(ctx, "v1", "ConfigMap", SystemNamespace, "sealed-secrets-cert")
		return o != nil, err
	})
}

func (w *World) ready(ctx context.Context, p *process, r Replica) error {
	ready := fmt.Sprintf("http://%s/readyz", addr(r.Ports.Health))
	return w.Wait(ctx, time.Minute, "the controller to be ready (log: "+r.Log+")", func(ctx context.Context) (bool, error) {
		select {
		case <-p.done:
			return false, fmt.Errorf("the controller ended: %v\n%s", p.err, tail(r.Log, 20))
		default:
		}
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, ready, nil)
		if err != nil {
			return false, err
		}
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			return false, nil //nolint:nilerr // not listening yet
		}
		defer resp.Body.Close()
		return resp.StatusCode == http.StatusOK, nil
	})
}

// CacheDir is the folder of Git repositories and artifacts of the controller.
func (w *World) CacheDir() string { return filepath.Join(w.Dir, "cache") }

// NewPorts returns ports for one more replica. Its webhook is one that nobody calls.
func (w *World) NewPorts() (Ports, error) {
	ports, err := freePorts(5)
	if err != nil {
		return Ports{}, err
	}
	return Ports{ports[0], ports[1], ports[2], ports[3], ports[4]}, nil
}

// Kill ends a process without a chance to clean up, and returns when it is gone.
func (w *World) Kill(name string) error { return w.stop(name, syscall.SIGKILL) }

// Terminate asks a process to end, and returns when it has.
func (w *World) Terminate(name string) error { return w.stop(name, syscall.SIGTERM) }

// Ended returns how a process ended by itself, when it has.
func (w *World) Ended(ctx context.Context, name string, limit time.Duration) error {
	w.mu.Lock()
	var p *process
	for i, each := range w.procs {
		if each.name == name {
			p = each
			w.procs = append(w.procs[:i:i], w.procs[i+1:]...)
			break
		}
	}
	w.mu.Unlock()
	if p == nil {
		return fmt.Errorf("%s does not run", name)
	}
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	select {
	case <-p.done:
		return nil
	case <-ctx.Done():
		_ = p.cmd.Process.Kill()
		return fmt.Errorf("%s did not end by itself within %s", name, limit)
	}
}

// RestartDevcluster ends the whole control plane, Git and Vault included, with the signal, and starts it with its data at
// the same addresses. What runs beside it keeps running.
func (w *World) RestartDevcluster(ctx context.Context, sig syscall.Signal) error {
	if err := w.stop(devcluster, sig); err != nil {
		return err
	}
	before := w.Env
	if err := w.startDevcluster(ctx, w.options); err != nil {
		return err
	}
	for _, name := range []string{"KUBECONFIG", "GIT_HTTP_URL"} {
		if before[name] != w.Env[name] {
			return fmt.Errorf("after the restart %s is %s, and was %s", name, w.Env[name], before[name])
		}
	}
	return nil
}

// HighWater returns the most memory that a process has had in use, in bytes.
func (w *World) HighWater(name string) (int64, error) {
	pid := w.Pid(name)
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0, err
	}
	for _, line := range strings.Split(string(data), "\n") {
		if rest, ok := strings.CutPrefix(line, "VmHWM:"); ok {
			var kb int64
			_, err := fmt.Sscanf(strings.TrimSpace(rest), "%d kB", &kb)
			return kb << 10, err
		}
	}
	return 0, fmt.Errorf("no VmHWM of process %d", pid)
}
