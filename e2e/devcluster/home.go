package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"syscall"
)

// home is the folder of one devcluster. Whoever holds it may write there; a live devcluster holds it by a lock that the
// kernel releases when the process ends, however it ends.
type home struct {
	dir  string
	lock *os.File

	mu    sync.Mutex
	ports map[string]int // as saved by the last up, then as in use
}

// plainPath is what needs no quoting in the file env.
var plainPath = regexp.MustCompile(`^[A-Za-z0-9_./@%+,:-]+$`)

func openHome(dir string) (*home, error) {
	if dir == "" {
		return nil, errors.New("--dir is missing: name a folder for data and credentials, e.g. --dir /tmp/dc")
	}
	dir, err := filepath.Abs(dir)
	if err != nil {
		return nil, err
	}
	if !plainPath.MatchString(dir) {
		return nil, fmt.Errorf("--dir %q needs quoting in a shell; choose a path of letters, digits and _./@%%+,:-", dir)
	}
	if err := os.MkdirAll(filepath.Join(dir, "logs"), 0o700); err != nil {
		return nil, err
	}
	h := &home{dir: dir, ports: map[string]int{}}
	if err := h.acquire(); err != nil {
		return nil, err
	}
	saved, err := os.ReadFile(h.path("ports.json"))
	if err == nil {
		err = json.Unmarshal(saved, &h.ports)
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		h.close()
		return nil, fmt.Errorf("%s: %w; remove the file", h.path("ports.json"), err)
	}
	return h, nil
}

func (h *home) acquire() error {
	lock, err := os.OpenFile(h.path("lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return err
	}
	if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		owner, _ := os.ReadFile(h.path("lock"))
		lock.Close()
		if errors.Is(err, syscall.EWOULDBLOCK) {
			return fmt.Errorf("%s is in use by a running devcluster (process %s); stop that one or use another --dir", h.dir, strings.TrimSpace(string(owner)))
		}
		return fmt.Errorf("locking %s: %w", h.path("lock"), err)
	}
	h.lock = lock
	err = lock.Truncate(0)
	if err == nil {
		_, err = fmt.Fprintln(lock, os.Getpid())
	}
	if err != nil {
		lock.Close()
	}
	return err
}

func (h *home) close() { h.lock.Close() }

func (h *home) path(elem ...string) string { return filepath.Join(append([]string{h.dir}, elem...)...) }

func (h *home) log(name string) string { return h.path("logs", name+".log") }

// listen opens a loopback listener on the port that name had in the last up, or on any free one.
func (h *home) listen(name string) (net.Listener, int, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	var ln net.Listener
	err := errors.New("no port yet")
	if last := h.ports[name]; last != 0 {
		ln, err = net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", last))
	}
	if err != nil {
		if ln, err = net.Listen("tcp", "127.0.0.1:0"); err != nil {
			return nil, 0, fmt.Errorf("no free loopback port for %s: %w", name, err)
		}
	}
	port := ln.Addr().(*net.TCPAddr).Port
	h.ports[name] = port
	return ln, port, nil
}

func (h *home) savePorts() error {
	out, err := json.Marshal(h.ports)
	if err != nil {
		return err
	}
	return writeFileAtomic(h.path("ports.json"), append(out, '\n'))
}

// envKeys is the file env, in this order. A key without a value is written empty, so that sourcing the file also
// clears what the shell had: a test without Vault must not reach somebody's real one.
var envKeys = []string{
	"KUBECONFIG", "VAULT_ADDR", "VAULT_TOKEN",
	"GIT_HTTP_URL", "GIT_SSH_URL", "GIT_ROOT", "GIT_USERNAME", "GIT_PASSWORD", "GIT_SSH_KEY", "GIT_KNOWN_HOSTS",
}

func (h *home) writeEnv(values map[string]string) error {
	var b strings.Builder
	for _, key := range envKeys {
		fmt.Fprintf(&b, "%s=%s\n", key, values[key])
	}
	return writeFileAtomic(h.path("env"), []byte(b.String()))
}
