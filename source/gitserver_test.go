package source

import (
	"crypto/ed25519"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha1"
	"encoding/base64"
	"encoding/pem"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/http/cgi"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/knownhosts"

	"sealock.dev/sealock/plaintext"
)

// The Git servers of these tests are the real ones: git http-backend and git upload-pack.

const testUser, testPassword = "robot", "correct-horse-battery"

// run starts git in dir, apart from the configuration of whoever runs the tests.
func run(t testing.TB, dir string, args ...string) string {
	t.Helper()
	cmd := exec.Command("git", args...)
	cmd.Dir = dir
	cmd.Env = []string{
		"PATH=" + os.Getenv("PATH"), "HOME=" + dir, "GIT_CONFIG_NOSYSTEM=1",
		"GIT_AUTHOR_NAME=t", "GIT_AUTHOR_EMAIL=t@example.com", "GIT_COMMITTER_NAME=t", "GIT_COMMITTER_EMAIL=t@example.com",
		"GIT_AUTHOR_DATE=2024-01-01T00:00:00Z", "GIT_COMMITTER_DATE=2024-01-01T00:00:00Z",
	}
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("git %v: %v\n%s", args, err, out)
	}
	return strings.TrimSpace(string(out))
}

// gitRepo is a bare repository and a clone to push from.
type gitRepo struct {
	t    testing.TB
	bare string
	work string
}

func newGitRepo(t testing.TB, root, name string) *gitRepo {
	t.Helper()
	g := &gitRepo{t: t, bare: filepath.Join(root, name), work: t.TempDir()}
	run(t, root, "init", "-q", "--bare", "-b", "main", g.bare)
	run(t, g.work, "init", "-q", "-b", "main")
	run(t, g.work, "remote", "add", "origin", g.bare)
	return g
}

func (g *gitRepo) write(name, content string) {
	g.t.Helper()
	full := filepath.Join(g.work, name)
	if err := os.MkdirAll(filepath.Dir(full), 0o755); err != nil {
		g.t.Fatal(err)
	}
	if err := os.WriteFile(full, []byte(content), 0o644); err != nil {
		g.t.Fatal(err)
	}
}

func (g *gitRepo) link(name, target string) {
	g.t.Helper()
	if err := os.MkdirAll(filepath.Dir(filepath.Join(g.work, name)), 0o755); err != nil {
		g.t.Fatal(err)
	}
	if err := os.Symlink(target, filepath.Join(g.work, name)); err != nil {
		g.t.Fatal(err)
	}
}

// push commits all and pushes, and returns the commit.
func (g *gitRepo) push(message string) string {
	g.t.Helper()
	run(g.t, g.work, "add", "-A", "-f")
	run(g.t, g.work, "commit", "-q", "--allow-empty", "-m", message)
	run(g.t, g.work, "push", "-q", "-f", "origin", "HEAD")
	return run(g.t, g.work, "rev-parse", "HEAD")
}

func (g *gitRepo) git(args ...string) string { g.t.Helper(); return run(g.t, g.work, args...) }

// httpServer serves root over smart HTTP with basic auth. requests counts what reached git; slow may hold a request.
type httpServer struct {
	*httptest.Server
	requests atomic.Int64
	before   atomic.Pointer[func(r *http.Request)]
}

func (h *httpServer) onRequest(fn func(*http.Request)) { h.before.Store(&fn) }

func startHTTP(t testing.TB, root string, tls bool) *httpServer {
	t.Helper()
	s := &httpServer{}
	backend := &cgi.Handler{
		Path: filepath.Join(run(t, root, "--exec-path"), "git-http-backend"),
		Env:  []string{"GIT_PROJECT_ROOT=" + root, "GIT_HTTP_EXPORT_ALL=1", "GIT_CONFIG_NOSYSTEM=1", "HOME=" + root, "REMOTE_USER=x"},
	}
	handler := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		user, password, _ := r.BasicAuth()
		if (user != testUser || password != testPassword) && r.Header.Get("Authorization") != "Bearer "+testPassword {
			w.Header().Set("WWW-Authenticate", `Basic realm="git"`)
			http.Error(w, "you said "+r.Header.Get("Authorization"), http.StatusUnauthorized)
			return
		}
		s.requests.Add(1)
		if fn := s.before.Load(); fn != nil {
			(*fn)(r)
		}
		backend.ServeHTTP(w, r)
	})
	if tls {
		s.Server = httptest.NewTLSServer(handler)
	} else {
		s.Server = httptest.NewServer(handler)
	}
	t.Cleanup(s.Close)
	return s
}

// startStrict serves root as Azure DevOps does: it names no agent, and refuses who does not speak of multi_ack, or who says
// what it has. asked gets the bodies of requests for objects.
func startStrict(t testing.TB, root string, asked func(body string)) *httpServer {
	t.Helper()
	const offer = "multi_ack thin-pack side-band side-band-64k no-progress shallow allow-tip-sha1-in-want filter"
	backend := startHTTP(t, root, false).Config.Handler
	return &httpServer{Server: newServer(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodGet {
			listing := httptest.NewRecorder()
			backend.ServeHTTP(listing, r)
			w.WriteHeader(listing.Code)
			_, _ = w.Write(offering(listing.Body.String(), offer))
			return
		}
		body, _ := io.ReadAll(r.Body)
		asked(string(body))
		first, _, _ := strings.Cut(string(body), "\n")
		if !strings.Contains(first, " multi_ack") || strings.Contains(string(body), "have ") {
			http.Error(w, "TF401041: The Git protocol sent is not as expected (Clients must support multi-ack.).", http.StatusBadRequest)
			return
		}
		r.Body = io.NopCloser(strings.NewReader(string(body)))
		backend.ServeHTTP(w, r)
	}))}
}

// offering returns a reference listing with other capabilities.
func offering(listing, capabilities string) []byte {
	before, rest, ok := strings.Cut(listing, "\x00")
	if !ok {
		return []byte(listing)
	}
	_, after, _ := strings.Cut(rest, "\n")
	at := strings.Index(before, "\n0000") + 5 // the line begins after the flush, with its length
	line := before[at+4:] + "\x00" + capabilities + "\n"
	return []byte(before[:at] + fmt.Sprintf("%04x", len(line)+4) + line + after)
}

func newServer(t testing.TB, h http.Handler) *httptest.Server {
	t.Helper()
	s := httptest.NewServer(h)
	t.Cleanup(s.Close)
	return s
}

func auth(pairs ...string) map[string]plaintext.Value {
	out := map[string]plaintext.Value{}
	for i := 0; i < len(pairs); i += 2 {
		out[pairs[i]] = plaintext.FromString(pairs[i+1])
	}
	return out
}

func (h *httpServer) remote(name string) Remote {
	return Remote{URL: h.URL + "/" + name, Auth: auth("username", testUser, "password", testPassword)}
}

// sshServer serves root over ssh to one key.
type sshServer struct {
	addr       string
	knownHosts string
	identity   string // PEM
	encrypted  string // PEM, with testPassword
	strange    string // PEM of a key that the server does not know
	said       atomic.Pointer[string]
	heard      firstBytes // what clients asked for
}

func keyPair(t testing.TB) (ssh.Signer, ed25519.PrivateKey) {
	t.Helper()
	_, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	signer, err := ssh.NewSignerFromKey(private)
	if err != nil {
		t.Fatal(err)
	}
	return signer, private
}

func pemOf(t testing.TB, key ed25519.PrivateKey, passphrase string) string {
	t.Helper()
	var block *pem.Block
	var err error
	if passphrase == "" {
		block, err = ssh.MarshalPrivateKey(key, "")
	} else {
		block, err = ssh.MarshalPrivateKeyWithPassphrase(key, "", []byte(passphrase))
	}
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(block))
}

func startSSH(t testing.TB, root string) *sshServer {
	t.Helper()
	client, private := keyPair(t)
	_, stranger := keyPair(t)
	s := startSSHFor(t, root, client.PublicKey())
	s.identity, s.encrypted, s.strange = pemOf(t, private, ""), pemOf(t, private, testPassword), pemOf(t, stranger, "")
	return s
}

// startSSHFor lets the owner of the key in.
func startSSHFor(t testing.TB, root string, client ssh.PublicKey) *sshServer {
	t.Helper()
	host, _ := keyPair(t)
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = listener.Close() })
	s := &sshServer{addr: listener.Addr().String(), heard: firstBytes{limit: 1 << 20}}
	s.knownHosts = knownhosts.Line([]string{s.addr}, host.PublicKey())
	cfg := &ssh.ServerConfig{PublicKeyCallback: func(_ ssh.ConnMetadata, key ssh.PublicKey) (*ssh.Permissions, error) {
		if string(key.Marshal()) != string(client.Marshal()) {
			return nil, io.ErrUnexpectedEOF
		}
		return &ssh.Permissions{}, nil
	}}
	cfg.AddHostKey(host)
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			go s.serve(conn, cfg, root)
		}
	}()
	return s
}

func (s *sshServer) serve(conn net.Conn, cfg *ssh.ServerConfig, root string) {
	defer conn.Close()
	_, channels, requests, err := ssh.NewServerConn(conn, cfg)
	if err != nil {
		return
	}
	go ssh.DiscardRequests(requests)
	for each := range channels {
		channel, asked, err := each.Accept()
		if err != nil {
			return
		}
		go s.session(channel, asked, root)
	}
}

func (s *sshServer) session(channel ssh.Channel, asked <-chan *ssh.Request, root string) {
	defer channel.Close()
	for req := range asked {
		if req.Type != "exec" {
			_ = req.Reply(false, nil)
			continue
		}
		_ = req.Reply(true, nil)
		line := string(req.Payload[4:])
		s.said.Store(&line)
		path, ok := strings.CutPrefix(line, "git-upload-pack '")
		if !ok {
			return
		}
		cmd := exec.Command("git", "upload-pack", filepath.Join(root, strings.TrimSuffix(path, "'")))
		cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + root, "GIT_CONFIG_NOSYSTEM=1"}
		cmd.Stdout, cmd.Stderr = channel, channel.Stderr()
		// Not cmd.Stdin: Run would wait for the client to close its side, which waits for an answer.
		stdin, err := cmd.StdinPipe()
		if err != nil {
			return
		}
		go func() {
			_, _ = io.Copy(stdin, io.TeeReader(channel, &s.heard))
			_ = stdin.Close()
		}()
		status := []byte{0, 0, 0, 0}
		if cmd.Run() != nil {
			status[3] = 128
		}
		_, _ = channel.SendRequest("exit-status", false, status)
		return
	}
}

func (s *sshServer) remote(name string) Remote {
	return Remote{URL: "ssh://git@" + s.addr + "/" + name, Auth: auth("identity", s.identity, "known_hosts", s.knownHosts)}
}

// mktree makes a tree object of the lines that git ls-tree prints.
func mktree(g *gitRepo, lines string) string {
	g.t.Helper()
	cmd := exec.Command("git", "mktree")
	cmd.Dir, cmd.Stdin = g.work, strings.NewReader(lines)
	out, err := cmd.Output()
	if err != nil {
		g.t.Fatal(err)
	}
	return strings.TrimSpace(string(out))
}

func marshalKey(s ssh.Signer) []byte { return ssh.MarshalAuthorizedKey(s.PublicKey()) }

// hashHost makes the hashed form of a name, as ssh-keygen -H does.
func hashHost(salt, name string) string {
	mac := hmac.New(sha1.New, []byte(salt))
	mac.Write([]byte(name))
	return base64.StdEncoding.EncodeToString(mac.Sum(nil))
}

// diskText returns the content of all files under dir.
func diskText(t testing.TB, dir string) string {
	t.Helper()
	var all strings.Builder
	err := filepath.WalkDir(dir, func(name string, d fs.DirEntry, err error) error {
		if err == nil && d.Type().IsRegular() {
			body, err := os.ReadFile(name)
			all.Write(body)
			return err
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return all.String()
}
