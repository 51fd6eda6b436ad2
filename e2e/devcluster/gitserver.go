package main

import (
	"compress/gzip"
	"context"
	"crypto/rand"
	"crypto/subtle"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"time"
)

// The services of the smart protocol; git runs each as a subcommand without the prefix.
const (
	uploadPack  = "git-upload-pack"
	receivePack = "git-receive-pack"
)

// startGit serves the repositories of DIR/git/repos over HTTP and SSH. User, password and keys stay the same for the
// life of DIR.
func (c *cluster) startGit() error {
	if _, err := exec.LookPath("git"); err != nil {
		return fmt.Errorf("%w: install git, or leave the server out with --without git", err)
	}
	repos := c.home.path("git", "repos")
	if err := os.MkdirAll(repos, 0o700); err != nil {
		return err
	}
	log, err := openLog(c.home.log("git"))
	if err != nil {
		return err
	}
	password, err := keptPassword(c.home.path("git", "password"))
	if err != nil {
		return err
	}
	g := &gitRepos{root: repos, log: log}
	httpURL, err := c.startGitHTTP(&gitHTTP{gitRepos: g, username: "devcluster", password: password})
	if err != nil {
		return err
	}
	sshURL, err := c.startGitSSH(g)
	if err != nil {
		return err
	}
	for key, value := range map[string]string{
		"GIT_HTTP_URL": httpURL, "GIT_SSH_URL": sshURL, "GIT_ROOT": repos,
		"GIT_USERNAME": "devcluster", "GIT_PASSWORD": password,
	} {
		c.setEnv(key, value)
	}
	c.say("git serves %s and %s", httpURL, sshURL)
	return nil
}

func (c *cluster) startGitHTTP(handler http.Handler) (string, error) {
	ln, port, err := c.home.listen("git-http")
	if err != nil {
		return "", err
	}
	server := &http.Server{Handler: handler, ReadHeaderTimeout: 10 * time.Second}
	c.parts.run("git over HTTP", c.home.log("git"), func(ctx context.Context) error {
		served := make(chan error, 1)
		go func() { served <- server.Serve(ln) }()
		select {
		case err := <-served:
			return err
		case <-ctx.Done():
			return server.Close()
		}
	})
	return fmt.Sprintf("http://127.0.0.1:%d", port), nil
}

// gitRepos is a folder of bare repositories served by the machine's own git, so that clients meet the real protocol.
type gitRepos struct {
	root string
	log  io.Writer

	creating sync.Mutex
}

var (
	errNoRepo  = errors.New("repository not found; a push creates it")
	errBadName = errors.New("bad repository name; use segments of letters, digits, . _ and -, like team/app.git")

	nameSegment = regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9_.-]*$`)
)

// path returns the folder of a repository, given its name with or without .git. It makes the repository if create is
// set; otherwise a missing one is errNoRepo.
func (g *gitRepos) path(name string, create bool) (string, error) {
	name = strings.TrimSuffix(strings.Trim(name, "/"), ".git")
	for _, segment := range strings.Split(name, "/") {
		// A folder that ends in .git is a repository: nothing is served from within one.
		if !nameSegment.MatchString(segment) || strings.Contains(segment, "..") || strings.HasSuffix(segment, ".git") {
			return "", errBadName
		}
	}
	dir := filepath.Join(g.root, name+".git")
	g.creating.Lock()
	defer g.creating.Unlock()
	if _, err := os.Stat(filepath.Join(dir, "HEAD")); err == nil {
		return dir, nil
	}
	if !create {
		return "", errNoRepo
	}
	out, err := g.command(context.Background(), "", "init", "--bare", "--quiet", "--initial-branch=main", dir).CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("creating %s: %w: %s", dir, err, out)
	}
	return dir, nil
}

// command runs git without the configuration of this machine or user, and with what big hosts allow: any commit can
// be fetched by its id, and partial clones work. Nothing may go on in the background after an answer.
func (g *gitRepos) command(ctx context.Context, protocol string, args ...string) *exec.Cmd {
	settings := []string{
		"-c", "safe.directory=*", "-c", "gc.auto=0", "-c", "receive.autogc=false", "-c", "maintenance.auto=false",
		"-c", "uploadpack.allowFilter=true", "-c", "uploadpack.allowAnySHA1InWant=true",
	}
	cmd := exec.CommandContext(ctx, "git", append(settings, args...)...)
	cmd.Env = []string{
		"PATH=" + os.Getenv("PATH"), "HOME=" + g.root, "LC_ALL=C",
		"GIT_CONFIG_NOSYSTEM=1", "GIT_CONFIG_GLOBAL=/dev/null", "GIT_PROTOCOL=" + protocol,
	}
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGTERM}
	cmd.WaitDelay = time.Second
	return cmd
}

// gitHTTP serves smart HTTP with one user for reads and writes.
type gitHTTP struct {
	*gitRepos
	username, password string
}

func (g *gitHTTP) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if !g.authorized(r) {
		w.Header().Set("WWW-Authenticate", `Basic realm="devcluster"`)
		http.Error(w, "wrong user or password; see GIT_USERNAME and GIT_PASSWORD", http.StatusUnauthorized)
		return
	}
	w.Header().Set("Cache-Control", "no-cache")
	if name, ok := strings.CutSuffix(r.URL.Path, "/info/refs"); ok && r.Method == http.MethodGet {
		g.advertise(w, r, name)
		return
	}
	for _, service := range []string{uploadPack, receivePack} {
		if name, ok := strings.CutSuffix(r.URL.Path, "/"+service); ok && r.Method == http.MethodPost {
			g.exchange(w, r, name, service)
			return
		}
	}
	http.NotFound(w, r)
}

func (g *gitHTTP) authorized(r *http.Request) bool {
	user, password, _ := r.BasicAuth()
	return subtle.ConstantTimeCompare([]byte(user), []byte(g.username))&
		subtle.ConstantTimeCompare([]byte(password), []byte(g.password)) == 1
}

// advertise answers the first request of a fetch or push: what the repository has.
func (g *gitHTTP) advertise(w http.ResponseWriter, r *http.Request, name string) {
	service := r.URL.Query().Get("service")
	if service != uploadPack && service != receivePack {
		http.Error(w, "only the smart protocol is served", http.StatusForbidden)
		return
	}
	dir, err := g.path(name, service == receivePack)
	if err != nil {
		gitError(w, err)
		return
	}
	protocol := r.Header.Get("Git-Protocol")
	cmd := g.command(r.Context(), protocol, strings.TrimPrefix(service, "git-"), "--stateless-rpc", "--advertise-refs", dir)
	cmd.Stderr = g.log
	refs, err := cmd.Output()
	if err != nil {
		gitError(w, err)
		return
	}
	w.Header().Set("Content-Type", "application/x-"+service+"-advertisement")
	if service == receivePack || !strings.Contains(protocol, "version=2") {
		line := "# service=" + service + "\n"
		fmt.Fprintf(w, "%04x%s0000", len(line)+4, line)
	}
	_, _ = w.Write(refs)
}

// exchange answers the second request, in which packs travel.
func (g *gitHTTP) exchange(w http.ResponseWriter, r *http.Request, name, service string) {
	if r.Header.Get("Content-Type") != "application/x-"+service+"-request" {
		http.Error(w, "not a request of the smart protocol", http.StatusUnsupportedMediaType)
		return
	}
	dir, err := g.path(name, false)
	if err != nil {
		gitError(w, err)
		return
	}
	body := io.Reader(r.Body)
	if r.Header.Get("Content-Encoding") == "gzip" {
		if body, err = gzip.NewReader(r.Body); err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
	}
	w.Header().Set("Content-Type", "application/x-"+service+"-result")
	control := http.NewResponseController(w)
	_ = control.EnableFullDuplex() // git may answer before it has read the whole pack
	cmd := g.command(r.Context(), r.Header.Get("Git-Protocol"), strings.TrimPrefix(service, "git-"), "--stateless-rpc", dir)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = body, flushWriter{w, control}, g.log
	if err := cmd.Run(); err != nil {
		fmt.Fprintf(g.log, "%s %s: %v\n", service, dir, err)
	}
}

// flushWriter sends each piece on at once: progress and early answers must not wait in a buffer.
type flushWriter struct {
	io.Writer
	control *http.ResponseController
}

func (f flushWriter) Write(p []byte) (int, error) {
	n, err := f.Writer.Write(p)
	return n, errors.Join(err, f.control.Flush())
}

func gitError(w http.ResponseWriter, err error) {
	code := http.StatusInternalServerError
	if errors.Is(err, errNoRepo) || errors.Is(err, errBadName) {
		code = http.StatusNotFound
	}
	http.Error(w, err.Error(), code)
}

// keptPassword reads a password, or makes one.
func keptPassword(path string) (string, error) {
	data, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		password := rand.Text()
		return password, writeFileAtomic(path, []byte(password))
	}
	return string(data), err
}
