package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// The tests drive the built binary from outside, as its users do.

const (
	readyTimeout = 60 * time.Second
	exitTimeout  = 20 * time.Second
	waitTimeout  = 30 * time.Second
)

// shared is the devcluster of the tests that need nothing special; it has the audit log.
var shared struct {
	once sync.Once
	*devcluster
	err error
	dir string
}

func TestMain(m *testing.M) {
	code := m.Run()
	if shared.devcluster != nil {
		if err := shared.terminate(syscall.SIGTERM); err != nil {
			fmt.Fprintln(os.Stderr, "stopping the shared devcluster:", err)
			code = 1
		}
	}
	os.RemoveAll(shared.dir)
	os.Exit(code)
}

// devcluster is one running `devcluster up`.
type devcluster struct {
	dir    string
	env    map[string]string
	cmd    *exec.Cmd
	stderr *lockedBuffer
	exited chan error
}

func sharedCluster(t *testing.T) *devcluster {
	t.Helper()
	shared.once.Do(func() {
		if shared.dir, shared.err = os.MkdirTemp("", "devcluster"); shared.err == nil {
			shared.devcluster, shared.err = start(shared.dir, "--audit-log")
		}
	})
	if shared.err != nil {
		t.Fatal(shared.err)
	}
	return shared.devcluster
}

// up starts a devcluster of the test's own and stops it when the test ends.
func up(t *testing.T, dir string, args ...string) *devcluster {
	t.Helper()
	d, err := start(dir, args...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := d.terminate(syscall.SIGTERM); err != nil {
			t.Error(err)
		}
	})
	return d
}

func binary() (string, error) {
	path := os.Getenv("DEVCLUSTER_BIN")
	if path == "" {
		path = filepath.Join("..", "..", "bin", "devcluster")
	}
	path, err := filepath.Abs(path)
	if err == nil {
		_, err = os.Stat(path)
	}
	if err != nil {
		return "", fmt.Errorf("run make devcluster first, or set DEVCLUSTER_BIN: %w", err)
	}
	return path, nil
}

func start(dir string, args ...string) (*devcluster, error) {
	path, err := binary()
	if err != nil {
		return nil, err
	}
	d := &devcluster{dir: dir, stderr: &lockedBuffer{}, exited: make(chan error, 1)}
	d.cmd = exec.Command(path, append([]string{"up", "--dir", dir}, args...)...)
	d.cmd.Stderr = d.stderr
	d.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGTERM} // a group of its own: what is left in it is a leak
	stdout, err := d.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := d.cmd.Start(); err != nil {
		return nil, err
	}
	ready := make(chan bool, 1)
	go func() {
		lines := bufio.NewScanner(stdout)
		for lines.Scan() {
			if lines.Text() == "ready" {
				ready <- true
			}
		}
		d.exited <- d.cmd.Wait()
		close(ready)
	}()
	select {
	case ok := <-ready:
		if !ok {
			return nil, fmt.Errorf("up ended before it was ready: %v\n%s", <-d.exited, d.stderr)
		}
	case <-time.After(readyTimeout):
		_ = syscall.Kill(-d.cmd.Process.Pid, syscall.SIGKILL)
		return nil, fmt.Errorf("up is not ready after %s\n%s", readyTimeout, d.stderr)
	}
	d.env, err = readEnv(filepath.Join(dir, "env"))
	return d, err
}

func readEnv(path string) (map[string]string, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	env := map[string]string{}
	for line := range strings.Lines(string(data)) {
		key, value, ok := strings.Cut(strings.TrimSpace(line), "=")
		if !ok {
			return nil, fmt.Errorf("%s: %q is not KEY=value", path, line)
		}
		env[key] = value
	}
	return env, nil
}

// terminate signals the devcluster and reports what outlives it.
func (d *devcluster) terminate(signal syscall.Signal) error {
	if d.cmd.ProcessState != nil {
		return nil // stopped earlier
	}
	if err := d.cmd.Process.Signal(signal); err != nil {
		return err
	}
	select {
	case err := <-d.exited:
		if signal == syscall.SIGTERM && err != nil {
			return fmt.Errorf("up ended with %w\n%s", err, d.stderr)
		}
	case <-time.After(exitTimeout):
		_ = syscall.Kill(-d.cmd.Process.Pid, syscall.SIGKILL)
		return fmt.Errorf("up still ran %s after %s\n%s", exitTimeout, signal, d.stderr)
	}
	return poll(exitTimeout, func() error {
		if err := syscall.Kill(-d.cmd.Process.Pid, 0); !errors.Is(err, syscall.ESRCH) {
			return fmt.Errorf("processes of group %d outlive the devcluster", d.cmd.Process.Pid)
		}
		return nil
	})
}

// kubectl runs the embedded kubectl and returns its output, both streams.
func (d *devcluster) kubectl(stdin string, args ...string) (string, error) {
	path, err := binary()
	if err != nil {
		return "", err
	}
	cmd := exec.Command(path, append([]string{"kubectl"}, args...)...)
	cmd.Env = append(os.Environ(), "KUBECONFIG="+d.env["KUBECONFIG"], "HOME="+d.dir)
	cmd.Stdin = strings.NewReader(stdin)
	out, err := cmd.CombinedOutput()
	if err != nil {
		return string(out), fmt.Errorf("kubectl %s: %w: %s", strings.Join(args, " "), err, out)
	}
	return strings.TrimSpace(string(out)), nil
}

func (d *devcluster) mustKubectl(t *testing.T, stdin string, args ...string) string {
	t.Helper()
	out, err := d.kubectl(stdin, args...)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// namespace makes a namespace for one test and waits until its default ServiceAccount is there.
func (d *devcluster) namespace(t *testing.T) string {
	t.Helper()
	name := strings.ToLower(strings.NewReplacer("/", "-", "_", "-").Replace(t.Name()))
	d.mustKubectl(t, "", "create", "namespace", name)
	d.eventually(t, "", "get", "serviceaccount", "default", "-n", name)
	return name
}

// eventually repeats a kubectl command until it prints want, or anything if want is empty.
func (d *devcluster) eventually(t *testing.T, want string, args ...string) {
	t.Helper()
	eventually(t, func() error {
		out, err := d.kubectl("", args...)
		if err == nil && want != "" && out != want {
			err = fmt.Errorf("kubectl %s prints %q, not %q", strings.Join(args, " "), out, want)
		}
		return err
	})
}

// vault calls Vault with a token (none if empty) and returns the answer's status and body.
func (d *devcluster) vault(t *testing.T, token, method, path string, body any) (int, map[string]any) {
	t.Helper()
	data, err := json.Marshal(body)
	if err != nil {
		t.Fatal(err)
	}
	request, err := http.NewRequest(method, d.env["VAULT_ADDR"]+"/v1/"+path, bytes.NewReader(data))
	if err != nil {
		t.Fatal(err)
	}
	request.Header.Set("X-Vault-Token", token)
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	answer := map[string]any{}
	if len(text) > 0 {
		if err := json.Unmarshal(text, &answer); err != nil {
			t.Fatalf("%s %s: %v: %s", method, path, err, text)
		}
	}
	return response.StatusCode, answer
}

// mustVault acts with the root token.
func (d *devcluster) mustVault(t *testing.T, method, path string, body any) map[string]any {
	t.Helper()
	code, answer := d.vault(t, d.env["VAULT_TOKEN"], method, path, body)
	if code >= 300 {
		t.Fatalf("%s %s: %d %v", method, path, code, answer)
	}
	return answer
}

// field follows keys into nested objects.
func field(t *testing.T, object map[string]any, keys ...string) string {
	t.Helper()
	var value any = object
	for _, key := range keys {
		inner, ok := value.(map[string]any)
		if !ok {
			t.Fatalf("no field %s in %v", strings.Join(keys, "."), object)
		}
		value = inner[key]
	}
	return fmt.Sprint(value)
}

// git runs the machine's git as a user who has only what env says; extra are more environment variables.
func (d *devcluster) git(dir string, extra []string, args ...string) (string, error) {
	cmd := exec.Command("git", args...)
	cmd.Dir = dir
	cmd.Env = append([]string{
		"PATH=" + os.Getenv("PATH"), "HOME=" + d.dir, "GIT_CONFIG_NOSYSTEM=1", "GIT_CONFIG_GLOBAL=/dev/null", "GIT_TERMINAL_PROMPT=0",
		"GIT_AUTHOR_NAME=t", "GIT_AUTHOR_EMAIL=t@example.com", "GIT_COMMITTER_NAME=t", "GIT_COMMITTER_EMAIL=t@example.com",
		"GIT_SSH_COMMAND=ssh -F /dev/null -i " + d.env["GIT_SSH_KEY"] + " -o IdentitiesOnly=yes -o StrictHostKeyChecking=yes -o UserKnownHostsFile=" + d.env["GIT_KNOWN_HOSTS"],
	}, extra...)
	out, err := cmd.CombinedOutput()
	if err != nil {
		return string(out), fmt.Errorf("git %s: %w: %s", strings.Join(args, " "), err, out)
	}
	return strings.TrimSpace(string(out)), nil
}

// gitURL is the HTTP address of a repository, with credentials.
func (d *devcluster) gitURL(name, password string) string {
	return strings.Replace(d.env["GIT_HTTP_URL"], "http://", "http://"+d.env["GIT_USERNAME"]+":"+password+"@", 1) + "/" + name + ".git"
}

// commit makes a work tree with one commit that holds one file.
func (d *devcluster) commit(t *testing.T, content []byte) string {
	t.Helper()
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "file"), content, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, args := range [][]string{{"init", "-q", "-b", "main"}, {"add", "."}, {"commit", "-q", "-m", "first"}} {
		if _, err := d.git(dir, nil, args...); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// roundTrip pushes a commit to url and clones it back.
func (d *devcluster) roundTrip(t *testing.T, url string, content []byte) {
	t.Helper()
	if _, err := d.git(d.commit(t, content), nil, "push", "-q", url, "main"); err != nil {
		t.Fatal(err)
	}
	d.mustClone(t, url, content)
}

func (d *devcluster) mustClone(t *testing.T, url string, content []byte) {
	t.Helper()
	clone := t.TempDir()
	if _, err := d.git(clone, nil, "clone", "-q", url, "."); err != nil {
		t.Fatal(err)
	}
	got, err := os.ReadFile(filepath.Join(clone, "file"))
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, content) {
		t.Errorf("the clone of %s holds %d bytes that differ from the %d pushed", url, len(got), len(content))
	}
}

func eventually(t *testing.T, check func() error) {
	t.Helper()
	if err := poll(waitTimeout, check); err != nil {
		t.Fatal(err)
	}
}

// poll repeats check until it returns nil or the time is over.
func poll(limit time.Duration, check func() error) error {
	deadline := time.Now().Add(limit)
	for {
		err := check()
		if err == nil {
			return nil
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("still after %s: %w", limit, err)
		}
		time.Sleep(50 * time.Millisecond)
	}
}

// lockedBuffer is a buffer that one goroutine fills while another reads it.
type lockedBuffer struct {
	mu     sync.Mutex
	buffer bytes.Buffer
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buffer.Write(p)
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buffer.String()
}
