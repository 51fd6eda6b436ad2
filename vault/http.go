package vault

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"

	"sealock.dev/sealock/fault"
	"sealock.dev/sealock/plaintext"
)

// maxBody bounds an answer. Vault's own limit for a secret is 1 MiB.
const maxBody = 4 << 20

// pool is the connections under one CA.
type pool struct{ client *http.Client }

// reply is an answer: the parts of it that are known, as values where they are secret.
type reply struct {
	status int
	data   plaintext.Value // "data", as JSON; empty when absent or null
	token  plaintext.Value // auth.client_token
	lease  time.Duration   // auth.lease_duration
	sealed bool
}

// envelope is what Vault's answers have in common.
type envelope struct {
	Data json.RawMessage `json:"data"`
	Auth *struct {
		ClientToken   string `json:"client_token"`
		LeaseDuration int64  `json:"lease_duration"`
	} `json:"auth"`
	Errors []string `json:"errors"`
}

func (c *Client) pool(ca []byte) (*http.Client, error) {
	key := digest(string(ca))
	c.mu.Lock()
	defer c.mu.Unlock()
	if p, ok := c.pools[key]; ok {
		return p.client, nil
	}
	conf := &tls.Config{MinVersion: tls.VersionTLS12}
	if len(ca) > 0 {
		conf.RootCAs = x509.NewCertPool()
		if !conf.RootCAs.AppendCertsFromPEM(ca) {
			return nil, fault.New("", fault.Invalid, fault.Ref{}, "the CA bundle holds no PEM certificate").At("provider.vault.caBundle").Fix("put the PEM of Vault's CA there")
		}
	}
	if len(c.pools) >= 64 {
		for _, p := range c.pools {
			p.client.CloseIdleConnections()
		}
		clear(c.pools)
	}
	client := &http.Client{
		Timeout: c.opts.Timeout,
		// No Proxy: a proxy of the environment would see the tokens.
		Transport: &http.Transport{
			TLSClientConfig: conf, ForceAttemptHTTP2: true, MaxIdleConnsPerHost: 16, MaxConnsPerHost: 64, IdleConnTimeout: 90 * time.Second,
			TLSHandshakeTimeout: 10 * time.Second, DialContext: (&net.Dialer{Timeout: 5 * time.Second}).DialContext,
		},
		// A redirect would carry the token to an address that nobody allowed.
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	c.pools[key] = pool{client: client}
	return client, nil
}

// send makes one request. path is below /v1/; body may be empty. The error says only that there was no answer.
func (c *Client) send(ctx context.Context, t Target, namespace, method, path string, query url.Values, token, body plaintext.Value) (reply, error) {
	client, err := c.pool(t.CABundle)
	if err != nil {
		return reply{}, err
	}
	u, err := url.Parse(t.Server)
	if err != nil {
		return reply{}, CheckServer(t.Server)
	}
	u.Path = strings.TrimRight(u.Path, "/") + "/v1/" + path
	u.RawQuery = query.Encode()
	// The bytes leave here: the login and its token, to the server that the store names.
	req, err := http.NewRequestWithContext(ctx, method, u.String(), bytes.NewReader(body.Reveal()))
	if err != nil {
		return reply{}, CheckServer(t.Server)
	}
	for k, v := range t.Headers {
		req.Header.Set(k, v)
	}
	req.Header.Set("X-Vault-Request", "true")
	if namespace != "" {
		req.Header.Set("X-Vault-Namespace", namespace)
	}
	if raw := token.Reveal(); len(raw) > 0 {
		if !printable(raw) {
			return reply{}, fault.New("", fault.Invalid, fault.Ref{}, "the token holds characters that no token has").Fix("put the bare token into the Secret that the store names")
		}
		req.Header.Set("X-Vault-Token", string(raw))
	}
	res, err := client.Do(req)
	if err != nil {
		return reply{}, unreachable(t, err)
	}
	defer func() { _ = res.Body.Close() }()
	return decode(t, res)
}

func printable(raw []byte) bool {
	for _, b := range raw {
		if b <= ' ' || b > '~' {
			return false
		}
	}
	return true
}

func decode(t Target, res *http.Response) (reply, error) {
	raw, err := io.ReadAll(io.LimitReader(res.Body, maxBody+1))
	if err != nil {
		return reply{}, unreachable(t, err)
	}
	if len(raw) > maxBody {
		return reply{}, fault.New("", fault.Invalid, fault.Ref{}, "the answer of Vault at %s is larger than 4 MiB", t.Server).Fix("split the secret")
	}
	out := reply{status: res.StatusCode}
	var e envelope
	if len(bytes.TrimSpace(raw)) > 0 && json.Unmarshal(raw, &e) != nil {
		if res.StatusCode == http.StatusOK {
			return reply{}, fault.New("", fault.Transient, fault.Ref{}, "the answer of %s is not that of a Vault", t.Server).Fix("check the address of the store")
		}
		return out, nil // an error page of something in between: the status says enough
	}
	if !bytes.Equal(e.Data, []byte("null")) {
		out.data = plaintext.New(e.Data)
	}
	if e.Auth != nil {
		out.token, out.lease = plaintext.FromString(e.Auth.ClientToken), time.Duration(e.Auth.LeaseDuration)*time.Second
	}
	for _, words := range e.Errors {
		out.sealed = out.sealed || words == "Vault is sealed"
	}
	return out, nil
}

// unreachable names the class of a transport error, not its text.
func unreachable(t Target, err error) error {
	words := "cannot be reached"
	var unknown x509.UnknownAuthorityError
	var host x509.HostnameError
	var cert *tls.CertificateVerificationError
	var dns *net.DNSError
	var timeout net.Error
	switch {
	case errors.As(err, &unknown):
		words = "shows a certificate of an unknown authority"
	case errors.As(err, &host):
		words = "shows a certificate of another host"
	case errors.As(err, &cert):
		words = "shows a certificate that is not valid"
	case errors.As(err, &dns):
		words = "has a host name that cannot be resolved"
	case errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded), errors.As(err, &timeout) && timeout.Timeout():
		words = "does not answer in time"
	}
	return fault.New("", fault.Transient, fault.Ref{}, "Vault at %s %s", t.Server, words).
		Fix("check the address, the CA and the network policy; it is tried again")
}
