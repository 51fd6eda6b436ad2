package main

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"regexp"
	"strings"
	"sync"

	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/knownhosts"
)

// startGitSSH serves the repositories to the holder of one key.
func (c *cluster) startGitSSH(repos *gitRepos) (string, error) {
	hostKey, err := keptKey(c.home.path("git", "ssh_host_key"))
	if err != nil {
		return "", err
	}
	userKeyFile := c.home.path("git", "id_ed25519")
	userKey, err := keptKey(userKeyFile)
	if err != nil {
		return "", err
	}
	ln, port, err := c.home.listen("git-ssh")
	if err != nil {
		return "", err
	}
	knownHosts := c.home.path("git", "known_hosts")
	line := knownhosts.Line([]string{fmt.Sprintf("127.0.0.1:%d", port)}, hostKey.PublicKey())
	if err := writeFileAtomic(knownHosts, []byte(line+"\n")); err != nil {
		return "", err
	}
	c.setEnv("GIT_SSH_KEY", userKeyFile)
	c.setEnv("GIT_KNOWN_HOSTS", knownHosts)
	s := &gitSSH{gitRepos: repos, config: sshConfig(hostKey, userKey.PublicKey()), conns: map[net.Conn]bool{}}
	c.parts.run("git over SSH", c.home.log("git"), func(ctx context.Context) error { return s.serve(ctx, ln) })
	return fmt.Sprintf("ssh://git@127.0.0.1:%d", port), nil
}

// sshConfig admits the user git with one key.
func sshConfig(hostKey ssh.Signer, userKey ssh.PublicKey) *ssh.ServerConfig {
	config := &ssh.ServerConfig{
		PublicKeyCallback: func(conn ssh.ConnMetadata, key ssh.PublicKey) (*ssh.Permissions, error) {
			if conn.User() == "git" && string(key.Marshal()) == string(userKey.Marshal()) {
				return nil, nil
			}
			return nil, errors.New("use the user git and the key of GIT_SSH_KEY")
		},
	}
	config.AddHostKey(hostKey)
	return config
}

// gitSSH serves git over SSH: one command a session, no shell, no forwarding.
type gitSSH struct {
	*gitRepos
	config *ssh.ServerConfig

	mu    sync.Mutex
	conns map[net.Conn]bool
}

func (s *gitSSH) serve(ctx context.Context, ln net.Listener) error {
	stop := context.AfterFunc(ctx, func() {
		ln.Close()
		s.mu.Lock()
		defer s.mu.Unlock()
		for conn := range s.conns {
			conn.Close()
		}
	})
	defer stop()
	for {
		conn, err := ln.Accept()
		if err != nil {
			return err
		}
		s.mu.Lock()
		s.conns[conn] = true
		s.mu.Unlock()
		go s.serveConn(ctx, conn)
	}
}

func (s *gitSSH) serveConn(ctx context.Context, conn net.Conn) {
	defer func() {
		conn.Close()
		s.mu.Lock()
		defer s.mu.Unlock()
		delete(s.conns, conn)
	}()
	_, channels, requests, err := ssh.NewServerConn(conn, s.config)
	if err != nil {
		fmt.Fprintf(s.log, "ssh: %v\n", err)
		return
	}
	go ssh.DiscardRequests(requests)
	for offered := range channels {
		if offered.ChannelType() != "session" {
			_ = offered.Reject(ssh.UnknownChannelType, "only git commands are served")
			continue
		}
		channel, requests, err := offered.Accept()
		if err != nil {
			return
		}
		go s.serveSession(ctx, channel, requests)
	}
}

// serveSession waits for the command, past the environment variable that names the protocol's version.
func (s *gitSSH) serveSession(ctx context.Context, channel ssh.Channel, requests <-chan *ssh.Request) {
	defer channel.Close()
	protocol := ""
	for request := range requests {
		switch request.Type {
		case "env":
			var pair struct{ Name, Value string }
			ok := ssh.Unmarshal(request.Payload, &pair) == nil && pair.Name == "GIT_PROTOCOL"
			if ok {
				protocol = pair.Value
			}
			_ = request.Reply(ok, nil)
		case "exec":
			var command struct{ Line string }
			if err := ssh.Unmarshal(request.Payload, &command); err != nil {
				_ = request.Reply(false, nil)
				return
			}
			_ = request.Reply(true, nil)
			go ssh.DiscardRequests(requests)
			code := s.run(ctx, channel, protocol, command.Line)
			_, _ = channel.SendRequest("exit-status", false, ssh.Marshal(struct{ Code uint32 }{code}))
			return
		default:
			_ = request.Reply(false, nil)
		}
	}
}

// gitCommand is what a git client asks for, quoted by it.
var gitCommand = regexp.MustCompile(`^(git-upload-pack|git-receive-pack) '?([^']+)'?$`)

func (s *gitSSH) run(ctx context.Context, channel ssh.Channel, protocol, line string) uint32 {
	match := gitCommand.FindStringSubmatch(line)
	if match == nil {
		fmt.Fprintln(channel.Stderr(), "only git-upload-pack and git-receive-pack are served")
		return 128
	}
	service, name := match[1], match[2]
	dir, err := s.path(name, service == receivePack)
	if err != nil {
		fmt.Fprintln(channel.Stderr(), err)
		return 128
	}
	cmd := s.command(ctx, protocol, strings.TrimPrefix(service, "git-"), dir)
	stdin, err := cmd.StdinPipe()
	if err != nil {
		return 128
	}
	cmd.Stdout, cmd.Stderr = channel, channel.Stderr()
	if err := cmd.Start(); err != nil {
		fmt.Fprintln(channel.Stderr(), err)
		return 128
	}
	// Not cmd.Stdin: Wait would then wait for the client to close, and the client waits for the exit status.
	go func() {
		_, _ = io.Copy(stdin, channel)
		stdin.Close()
	}()
	if err := cmd.Wait(); err != nil {
		fmt.Fprintf(s.log, "%s %s: %v\n", service, dir, err)
		return 1
	}
	return 0
}

// keptKey reads a private key in OpenSSH's format, or makes it.
func keptKey(path string) (ssh.Signer, error) {
	data, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		_, key, err := ed25519.GenerateKey(rand.Reader)
		if err != nil {
			return nil, err
		}
		block, err := ssh.MarshalPrivateKey(key, "devcluster")
		if err != nil {
			return nil, err
		}
		data = pem.EncodeToMemory(block)
		if err := writeFileAtomic(path, data); err != nil {
			return nil, err
		}
	} else if err != nil {
		return nil, err
	}
	signer, err := ssh.ParsePrivateKey(data)
	if err != nil {
		return nil, fmt.Errorf("%s: %w; remove the file", path, err)
	}
	return signer, nil
}
