package source

import (
	"context"
	"net"
	"net/url"

	"golang.org/x/net/proxy"

	"sealock.dev/sealock/fault"
)

func badProxy(text string) *fault.Error {
	return fail(fault.Invalid, ReasonAuth, text).At("spec.proxySecretRef: address").Fix("set address to http://, https:// or socks5:// with host and port")
}

// proxyURL returns the proxy, its credentials included, or nil.
func (r Remote) proxyURL() (*url.URL, error) {
	if r.Proxy == nil {
		return nil, nil //nolint:nilnil // no proxy is a valid answer
	}
	secret := Remote{Auth: r.Proxy}
	address, ok := secret.text("address")
	if !ok {
		return nil, badProxy("the address of the proxy is missing")
	}
	u, err := url.Parse(address)
	if err != nil || u.Hostname() == "" {
		return nil, badProxy("the address of the proxy cannot be read")
	}
	if u.Scheme != "http" && u.Scheme != "https" && u.Scheme != "socks5" {
		return nil, badProxy("the proxy is not of a kind that is served")
	}
	u.RawQuery, u.Fragment = "", ""
	if u.Path == "/" {
		u.Path = ""
	}
	if r.Allows != nil && !r.Allows((&url.URL{Scheme: u.Scheme, Host: u.Host, Path: u.Path}).String()) {
		// Who chooses the proxy, and the CA, chooses who answers.
		return nil, fail(fault.Denied, ReasonURL, "a proxy can answer as any server, and the fence of the tenant does not name this one").At("spec.proxySecretRef").
			Fix("ask the platform team to add the address of the proxy to spec.git.urls of the Tenant")
	}
	user, hasUser := secret.text("username")
	password, _ := secret.text("password")
	if hasUser {
		u.User = url.UserPassword(user, password)
	}
	return u, nil
}

// dial connects to addr, through the proxy when there is one.
func (r Remote) dial(ctx context.Context, addr string) (net.Conn, error) {
	direct := &net.Dialer{Timeout: dialTimeout}
	u, err := r.proxyURL()
	if err != nil {
		return nil, err
	}
	if u == nil {
		return direct.DialContext(ctx, "tcp", addr)
	}
	if u.Scheme != "socks5" {
		return nil, badProxy("ssh goes through a proxy of the kind socks5 only").Fix("set address to socks5://host:port, or use https")
	}
	var auth *proxy.Auth
	if u.User != nil {
		password, _ := u.User.Password()
		auth = &proxy.Auth{User: u.User.Username(), Password: password}
	}
	d, err := proxy.SOCKS5("tcp", u.Host, auth, direct)
	if err != nil {
		return nil, badProxy("the proxy cannot be used")
	}
	through, ok := d.(proxy.ContextDialer)
	if !ok {
		return nil, badProxy("the proxy cannot be used")
	}
	return through.DialContext(ctx, "tcp", addr)
}
