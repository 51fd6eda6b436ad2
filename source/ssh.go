package source

import (
	"context"
	"errors"
	"io"
	"net"
	"net/url"
	"strings"
	"sync"

	"github.com/go-git/go-git/v5/plumbing/format/pktline"
	"github.com/go-git/go-git/v5/plumbing/protocol/packp"
	"github.com/go-git/go-git/v5/plumbing/protocol/packp/capability"
	"github.com/go-git/go-git/v5/plumbing/transport"
	"golang.org/x/crypto/ssh"

	"sealock.dev/sealock/fault"
)

// openSSH connects to an ssh server and starts git-upload-pack there. The context bounds all that follows.
func (r Remote) openSSH(ctx context.Context, u *url.URL, limit int64, list *listing) (transport.UploadPackSession, func(), error) {
	port := u.Port()
	if port == "" {
		port = "22"
	}
	user := u.User.Username()
	if user == "" {
		user = "git"
	}
	addr := net.JoinHostPort(u.Hostname(), port)
	cfg, err := r.sshConfig(user, addr)
	if err != nil {
		return nil, nil, err
	}
	conn, err := r.dial(ctx, addr)
	if err != nil {
		return nil, nil, err
	}
	// The library knows no context: closing the connection is what ends a handshake, a read or a write.
	unwatch := context.AfterFunc(ctx, func() { _ = conn.Close() })
	closeAll := func() { unwatch(); _ = conn.Close() }
	s, err := startUploadPack(conn, addr, cfg, u.Path, limit)
	if err != nil {
		closeAll()
		return nil, nil, sshFailure(err)
	}
	list.from, s.list = s.stdout, list
	return s, closeAll, nil
}

// sshFailure names what went wrong in a handshake.
func sshFailure(err error) error {
	var own *fault.Error
	var none *ssh.AlgorithmNegotiationError
	switch {
	case errors.As(err, &own):
		return own
	case errors.As(err, &none) && strings.Contains(err.Error(), "host key"):
		return hostRefused("the Git server has no host key of the kind that known_hosts names")
	case strings.Contains(err.Error(), "unable to authenticate"):
		return transport.ErrAuthenticationRequired
	}
	return err
}

// sshSession is a git-upload-pack over ssh. It implements transport.UploadPackSession.
type sshSession struct {
	client *ssh.Client
	stdin  io.WriteCloser
	stdout *bounded
	list   *listing // the same, for the listing
	stderr *firstBytes
	limit  int64
	refs   *packp.AdvRefs
	asked  bool // for objects
}

func startUploadPack(conn net.Conn, addr string, cfg *ssh.ClientConfig, path string, limit int64) (*sshSession, error) {
	c, channels, requests, err := ssh.NewClientConn(conn, addr, cfg)
	if err != nil {
		return nil, err
	}
	s := &sshSession{client: ssh.NewClient(c, channels, requests), stderr: &firstBytes{limit: maxErrorBody}, limit: limit}
	session, err := s.client.NewSession()
	if err != nil {
		return nil, err
	}
	session.Stderr = s.stderr
	if s.stdin, err = session.StdinPipe(); err != nil {
		return nil, err
	}
	stdout, err := session.StdoutPipe()
	if err != nil {
		return nil, err
	}
	s.stdout = &bounded{from: stdout, left: maxListing}
	return s, session.Start(transport.UploadPackServiceName + " " + shellQuote(path))
}

// shellQuote makes one word of text for the shell or git-shell on the other side.
func shellQuote(text string) string {
	return "'" + strings.NewReplacer(`'`, `'\''`, `!`, `'\!'`).Replace(text) + "'"
}

// AdvertisedReferences reads the reference listing.
func (s *sshSession) AdvertisedReferences() (*packp.AdvRefs, error) {
	return s.AdvertisedReferencesContext(context.Background())
}

// AdvertisedReferencesContext reads the reference listing. The context of openSSH counts.
func (s *sshSession) AdvertisedReferencesContext(context.Context) (*packp.AdvRefs, error) {
	if s.refs != nil {
		return s.refs, nil
	}
	refs := packp.NewAdvRefs()
	err := refs.Decode(s.list)
	var line *pktline.ErrorLine
	switch {
	case err == nil && refs.IsEmpty(), errors.Is(err, packp.ErrEmptyAdvRefs):
		return nil, transport.ErrEmptyRemoteRepository
	case errors.Is(err, packp.ErrEmptyInput):
		return nil, s.refusal()
	case errors.As(err, &line):
		return nil, refusalText(line.Text)
	case err != nil:
		return nil, err
	}
	refs.Capabilities.Delete(capability.ThinPack) // it is asked for where it is of use
	s.refs = refs
	return refs, nil
}

// refusal waits for the end of the connection, and reads what the server said instead of references.
func (s *sshSession) refusal() error {
	_ = s.stdin.Close()
	_ = s.client.Close()
	_ = s.client.Wait()
	return refusalText(s.stderr.String())
}

// refusalText recognises what servers say when a repository is not there, or not for this key.
func refusalText(said string) error {
	said = strings.ToLower(said)
	for _, known := range []string{"permission denied", "access denied", "not authorized", "unauthorized"} {
		if strings.Contains(said, known) {
			return transport.ErrAuthorizationFailed
		}
	}
	for _, known := range []string{"not found", "does not exist", "does not appear to be a git repository", "no such repository", "could not be found", "not a git repository"} {
		if strings.Contains(said, known) {
			return transport.ErrRepositoryNotFound
		}
	}
	return io.ErrUnexpectedEOF
}

// UploadPack asks for objects.
func (s *sshSession) UploadPack(_ context.Context, req *packp.UploadPackRequest) (*packp.UploadPackResponse, error) {
	if err := req.Validate(); err != nil {
		return nil, err
	}
	s.asked, s.stdout.left = true, s.limit
	if err := req.UploadRequest.Encode(s.stdin); err != nil {
		return nil, err
	}
	if err := req.UploadHaves.Encode(s.stdin, false); err != nil {
		return nil, err
	}
	if err := pktline.NewEncoder(s.stdin).EncodeString("done\n"); err != nil {
		return nil, err
	}
	if err := s.stdin.Close(); err != nil {
		return nil, err
	}
	res := packp.NewUploadPackResponse(req)
	if err := res.Decode(readCloser{s.stdout, s}); err != nil {
		return nil, err
	}
	return res, nil
}

// Close ends the session, politely when nothing but the listing was asked for.
func (s *sshSession) Close() error {
	if !s.asked {
		_ = pktline.NewEncoder(s.stdin).Flush()
	}
	return s.client.Close()
}

// firstBytes keeps the beginning of what is written to it.
type firstBytes struct {
	mu    sync.Mutex
	limit int
	kept  []byte
}

func (f *firstBytes) Write(p []byte) (int, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if room := f.limit - len(f.kept); room > 0 {
		f.kept = append(f.kept, p[:min(room, len(p))]...)
	}
	return len(p), nil
}

func (f *firstBytes) reset() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.kept = nil
}

func (f *firstBytes) String() string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return string(f.kept)
}
