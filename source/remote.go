package source

import (
	"net/url"
	"path"
	"strings"

	"sealock.dev/sealock/fault"
	"sealock.dev/sealock/plaintext"
)

// Remote is a repository on a server, and what may be used to reach it.
type Remote struct {
	// URL is http, https or ssh. It may hold a user name, and no password.
	URL string
	// Auth is the data of the Secret that the source names. The keys are those of Flux: username and password,
	// bearerToken, ca.crt (or caFile), tls.crt and tls.key; for ssh identity, known_hosts and password (the passphrase).
	Auth map[string]plaintext.Value
	// GitHubApp says that Auth is the identity of a GitHub App: githubAppID, githubAppPrivateKey, githubAppInstallationID or
	// githubAppInstallationOwner, githubAppBaseURL.
	GitHubApp bool
	// Proxy is the data of the Secret of a proxy: address, username, password.
	Proxy map[string]plaintext.Value
	// Allows is the fence that a redirect has to stay within, as the URL itself had to. nil allows the same host.
	Allows func(rawURL string) bool
}

// parse returns the URL, or says what is wrong with it without repeating it.
func (r Remote) parse() (*url.URL, error) {
	u, err := url.Parse(r.URL)
	if err != nil {
		return nil, badURL("it cannot be parsed")
	}
	if u.User != nil {
		if _, has := u.User.Password(); has {
			return nil, badURL("it holds a password").Fix("put the password into a Secret and name it in spec.secretRef")
		}
	}
	switch {
	case u.Scheme != "http" && u.Scheme != "https" && u.Scheme != "ssh":
		return nil, badURL("its scheme is not http, https or ssh")
	case u.Hostname() == "":
		return nil, badURL("it names no host")
	case u.RawQuery != "" || u.Fragment != "" || u.ForceQuery || strings.ContainsAny(u.Path, "?#"):
		return nil, badURL("it has a query or a fragment")
	case u.Path == "" || u.Path == "/":
		return nil, badURL("it names no repository")
	case u.Path != path.Clean(u.Path) && u.Path != path.Clean(u.Path)+"/":
		return nil, badURL("its path is not clean")
	case strings.ContainsFunc(u.Path, func(c rune) bool { return c < ' ' || c == 0x7f }):
		return nil, badURL("its path holds control characters")
	}
	return u, nil
}

func badURL(why string) *fault.Error {
	return fail(fault.Invalid, ReasonURL, "the URL cannot be used: "+why).At("spec.url").Fix("use http(s)://host/path or ssh://git@host/path")
}
