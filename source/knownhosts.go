package source

import (
	"bytes"
	"crypto/hmac"
	"crypto/sha1" //nolint:gosec // the format of hashed host names, not a choice of ours
	"encoding/base64"
	"errors"
	"io"
	"net"
	"path"
	"strings"

	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/knownhosts"

	"sealock.dev/sealock/fault"
)

// knownHosts are the lines of a known_hosts file. The library reads them from files only, and no stage writes files.
type knownHosts []knownHost

type knownHost struct {
	marker   string
	patterns []string
	key      ssh.PublicKey
}

// parseKnownHosts reads the text of a known_hosts file. One line that cannot be read fails the whole: a host key
// that its owner believes to be pinned must not be dropped silently.
func parseKnownHosts(text []byte) (knownHosts, error) {
	var out knownHosts
	for rest := text; len(bytes.TrimSpace(rest)) > 0; {
		marker, hosts, key, _, next, err := ssh.ParseKnownHosts(rest)
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return nil, badAuth("known_hosts", "a line of known_hosts cannot be read").Fix("set known_hosts to the output of ssh-keyscan")
		}
		out = append(out, knownHost{marker: marker, patterns: hosts, key: key})
		rest = next
	}
	if len(out) == 0 {
		return nil, badAuth("known_hosts", "known_hosts names no host").Fix("set known_hosts to the output of ssh-keyscan")
	}
	return out, nil
}

// hostCheck is what known_hosts says of one address.
type hostCheck struct {
	allowed []ssh.PublicKey
	revoked []ssh.PublicKey
}

// forAddress returns the keys of addr, host:port. Certificate authorities are not served: a server that has nothing
// but a host certificate is refused.
func (k knownHosts) forAddress(addr string) *hostCheck {
	name := knownhosts.Normalize(addr)
	c := &hostCheck{}
	for _, line := range k {
		switch {
		case line.marker == "revoked":
			// A revoked key is refused wherever it shows up.
			c.revoked = append(c.revoked, line.key)
		case line.marker == "" && matchHost(line.patterns, name):
			c.allowed = append(c.allowed, line.key)
		}
	}
	return c
}

// matchHost reports whether name is meant by the patterns of a line: names, wildcards, negations, or a hashed name.
func matchHost(patterns []string, name string) bool {
	matched := false
	for _, p := range patterns {
		negated := strings.HasPrefix(p, "!")
		if !matchOne(strings.TrimPrefix(p, "!"), name) {
			continue
		}
		if negated {
			return false
		}
		matched = true
	}
	return matched
}

func matchOne(pattern, name string) bool {
	if hashed, ok := strings.CutPrefix(pattern, "|1|"); ok {
		salt, sum, ok := strings.Cut(hashed, "|")
		if !ok {
			return false
		}
		rawSalt, err1 := base64.StdEncoding.DecodeString(salt)
		rawSum, err2 := base64.StdEncoding.DecodeString(sum)
		if err1 != nil || err2 != nil {
			return false
		}
		mac := hmac.New(sha1.New, rawSalt)
		mac.Write([]byte(name))
		return hmac.Equal(mac.Sum(nil), rawSum)
	}
	if strings.EqualFold(pattern, name) {
		return true
	}
	if !strings.ContainsAny(pattern, "*?") {
		return false
	}
	// [ and ] are literal in known_hosts and special in path.Match.
	escaped := strings.NewReplacer("[", `\[`, "]", `\]`, `\`, `\\`).Replace(strings.ToLower(pattern))
	ok, err := path.Match(escaped, strings.ToLower(name))
	return err == nil && ok
}

// verify is the ssh.HostKeyCallback.
func (c *hostCheck) verify(_ string, _ net.Addr, key ssh.PublicKey) error {
	wire := key.Marshal()
	for _, k := range c.revoked {
		if bytes.Equal(k.Marshal(), wire) {
			return hostRefused("the host key of the Git server is marked as revoked in known_hosts")
		}
	}
	for _, k := range c.allowed {
		if bytes.Equal(k.Marshal(), wire) {
			return nil
		}
	}
	if len(c.allowed) == 0 {
		return hostRefused("the Git server is not in known_hosts")
	}
	return hostRefused("the host key of the Git server is not the one in known_hosts")
}

// algorithms asks the server for a key of a kind that is known, so that it does not offer another one.
func (c *hostCheck) algorithms() []string {
	var out []string
	for _, k := range c.allowed {
		if k.Type() == ssh.KeyAlgoRSA {
			out = append(out, ssh.KeyAlgoRSASHA512, ssh.KeyAlgoRSASHA256)
			continue
		}
		out = append(out, k.Type())
	}
	return out
}

func hostRefused(text string) *fault.Error {
	return fail(fault.Denied, ReasonAuth, text).At("spec.secretRef: known_hosts").
		Fix("compare the key with what the server's owner publishes, then correct known_hosts")
}
