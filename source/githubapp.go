package source

import (
	"bytes"
	"context"
	"crypto"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"io"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"

	"sealock.dev/sealock/fault"
	"sealock.dev/sealock/plaintext"
)

const (
	appTokenUser   = "x-access-token" // what GitHub takes as user name beside an installation token
	appDefaultBase = "https://api.github.com"
	appRefresh     = 5 * time.Minute // before its end a token is not used any more
	appSkew        = time.Minute     // how far clocks may differ
	appClaim       = 9 * time.Minute // GitHub takes no claim that is valid for more than ten
	maxAppAnswer   = 64 << 10
)

// githubApp is the identity of a GitHub App, from the Secret of a source.
type githubApp struct {
	id, installation, owner, base string
	key                           *rsa.PrivateKey
}

func badApp(field, text string) *fault.Error {
	return fail(fault.Invalid, ReasonProvider, text).At("spec.secretRef: " + field).
		Fix("set githubAppID, githubAppPrivateKey, and githubAppInstallationID or githubAppInstallationOwner, and nothing else to log in with")
}

// checkProvider says whether the keys of the Secret are those of the provider.
func (r Remote) checkProvider() error {
	if !r.GitHubApp {
		if _, has := r.text("githubAppID"); has {
			return badApp("githubAppID", "the Secret is that of a GitHub App, and the provider is not github").At("spec.provider").Fix("set spec.provider to github")
		}
		return nil
	}
	_, err := r.app()
	return err
}

func (r Remote) app() (githubApp, error) {
	if !strings.HasPrefix(r.URL, "http://") && !strings.HasPrefix(r.URL, "https://") {
		return githubApp{}, badApp("githubAppID", "a GitHub App logs in over https only").At("spec.url").Fix("use the https URL of the repository")
	}
	for _, other := range []string{"username", "password", "bearerToken", "identity", "known_hosts"} {
		if _, has := r.text(other); has {
			return githubApp{}, badApp(other, "the provider github allows no other credentials")
		}
	}
	var a githubApp
	for _, f := range []struct {
		to       *string
		key      string
		required bool
	}{
		{&a.id, "githubAppID", true},
		{&a.installation, "githubAppInstallationID", false},
		{&a.owner, "githubAppInstallationOwner", false},
		{&a.base, "githubAppBaseURL", false},
	} {
		text, has := r.text(f.key)
		if *f.to = strings.TrimSpace(text); f.required && !has {
			return githubApp{}, badApp(f.key, "the provider github needs it")
		}
	}
	if (a.installation == "") == (a.owner == "") {
		return githubApp{}, badApp("githubAppInstallationID", "one of githubAppInstallationID and githubAppInstallationOwner is needed, not both")
	}
	if a.base == "" {
		a.base = appDefaultBase
	}
	if u, err := url.Parse(a.base); err != nil || u.Scheme != "https" && u.Scheme != "http" || u.Host == "" || u.User != nil || u.RawQuery != "" {
		return githubApp{}, badApp("githubAppBaseURL", "it is no URL of an API").Fix("set it to https://host/api/v3, or leave it out for github.com")
	}
	if a.base = strings.TrimSuffix(a.base, "/"); a.base != appDefaultBase && r.Allows != nil && !r.Allows(a.base) {
		// It gets a claim that the key of the App has signed, and what it answers is sent to the Git server.
		return githubApp{}, fail(fault.Denied, ReasonURL, "the fence of the tenant does not name this API").At("spec.secretRef: githubAppBaseURL").
			Fix("ask the platform team to add it to spec.git.urls of the Tenant")
	}
	private, _ := r.text("githubAppPrivateKey")
	if a.key = parseRSA([]byte(private)); a.key == nil {
		return githubApp{}, badApp("githubAppPrivateKey", "it is missing, or no RSA private key in PEM")
	}
	return a, nil
}

func parseRSA(text []byte) *rsa.PrivateKey {
	block, _ := pem.Decode(text)
	if block == nil {
		return nil
	}
	if key, err := x509.ParsePKCS1PrivateKey(block.Bytes); err == nil {
		return key
	}
	any, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return nil
	}
	key, _ := any.(*rsa.PrivateKey)
	return key
}

// claim returns the JSON Web Token with which the App logs in for itself.
func (a githubApp) claim(now time.Time) (string, error) {
	encode := base64.RawURLEncoding.EncodeToString
	claims, err := json.Marshal(map[string]any{"iat": now.Add(-appSkew).Unix(), "exp": now.Add(appClaim).Unix(), "iss": a.id})
	if err != nil {
		return "", err
	}
	text := encode([]byte(`{"alg":"RS256","typ":"JWT"}`)) + "." + encode(claims)
	sum := sha256.Sum256([]byte(text))
	sig, err := rsa.SignPKCS1v15(nil, a.key, crypto.SHA256, sum[:])
	if err != nil {
		return "", badApp("githubAppPrivateKey", "the key cannot sign")
	}
	return text + "." + encode(sig), nil
}

// appTokens are the installation tokens in use, by the digest of the Secret that they were got with.
type appTokens struct {
	mu   sync.Mutex
	list map[string]appToken
}

type appToken struct {
	value plaintext.Value
	until time.Time
}

func (t *appTokens) get(id string, now time.Time) (plaintext.Value, bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	one, ok := t.list[id]
	return one.value, ok && now.Before(one.until.Add(-appRefresh))
}

func (t *appTokens) put(id string, token appToken, now time.Time) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for old, one := range t.list {
		if now.After(one.until) {
			delete(t.list, old)
		}
	}
	if t.list == nil {
		t.list = map[string]appToken{}
	}
	t.list[id] = token
}

func (t *appTokens) drop(id string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.list, id)
}

// appIdentity tells Apps apart in the list of tokens.
func (r Remote) appIdentity(key plaintext.Key) string {
	r.URL = ""
	return r.identity(key)
}

// authorized returns the remote with an installation token instead of the App's own key.
func (r *Repositories) authorized(ctx context.Context, remote Remote) (Remote, error) {
	if !remote.GitHubApp {
		return remote, nil
	}
	a, err := remote.app()
	if err != nil {
		return Remote{}, err
	}
	id, now := remote.appIdentity(r.key), r.now()
	value, ok := r.tokens.get(id, now)
	if !ok {
		token, err := remote.appToken(ctx, a, now)
		if err != nil {
			return Remote{}, err
		}
		r.tokens.put(id, token, now)
		value = token.value
	}
	out := remote
	out.GitHubApp = false
	out.Auth = map[string]plaintext.Value{"username": plaintext.FromString(appTokenUser), "password": value}
	for _, keep := range []string{"ca.crt", "caFile", "tls.crt", "tls.key"} {
		if v, has := remote.Auth[keep]; has {
			out.Auth[keep] = v
		}
	}
	return out, nil
}

// appToken asks GitHub for a token of the installation.
func (r Remote) appToken(ctx context.Context, a githubApp, now time.Time) (appToken, error) {
	pool, err := r.transport()
	if err != nil {
		return appToken{}, err
	}
	defer pool.CloseIdleConnections()
	claim, err := a.claim(now)
	if err != nil {
		return appToken{}, err
	}
	api := appAPI{ctx: ctx, base: a.base, claim: claim, client: &http.Client{
		Transport: pool,
		// A claim goes to the API that the Secret names, and nowhere else.
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}
	if a.installation == "" {
		if a.installation, err = api.installation(a.owner); err != nil {
			return appToken{}, err
		}
	}
	var answer struct {
		Token   string    `json:"token"`
		Expires time.Time `json:"expires_at"`
	}
	if err := api.ask(http.MethodPost, "/app/installations/"+url.PathEscape(a.installation)+"/access_tokens", &answer); err != nil {
		return appToken{}, err
	}
	if answer.Token == "" || strings.ContainsAny(answer.Token, "\r\n") {
		return appToken{}, fail(fault.Transient, ReasonAuth, "the API of GitHub answered without a token").At("spec.secretRef: githubAppBaseURL")
	}
	// By the clock of this process that nobody sets: its wall clock may be moved before the token is over.
	return appToken{value: plaintext.FromString(answer.Token), until: now.Add(answer.Expires.Sub(now))}, nil
}

// appAPI is the API of GitHub, or of a server that speaks it.
type appAPI struct {
	ctx    context.Context //nolint:containedctx // it lives for one call
	base   string
	claim  string
	client *http.Client
}

// installation returns the ID of the App's installation for an organisation or a user.
func (a appAPI) installation(owner string) (string, error) {
	var answer struct {
		ID json.Number `json:"id"`
	}
	err := a.ask(http.MethodGet, "/orgs/"+url.PathEscape(owner)+"/installation", &answer)
	if fault.KindOf(err) == fault.NotFound {
		err = a.ask(http.MethodGet, "/users/"+url.PathEscape(owner)+"/installation", &answer)
	}
	return answer.ID.String(), err
}

func (a appAPI) ask(method, path string, to any) error {
	req, err := http.NewRequestWithContext(a.ctx, method, a.base+path, nil)
	if err != nil {
		return badApp("githubAppBaseURL", "it is no URL of an API")
	}
	req.Header.Set("Authorization", "Bearer "+a.claim)
	req.Header.Set("Accept", "application/vnd.github+json")
	res, err := a.client.Do(req)
	if err != nil {
		return classify(a.ctx, err)
	}
	defer func() { _ = res.Body.Close() }()
	switch {
	case res.StatusCode == http.StatusUnauthorized, res.StatusCode == http.StatusForbidden:
		return fail(fault.Denied, ReasonAuth, "the API of GitHub refused the App").At("spec.secretRef").Fix("check githubAppID and githubAppPrivateKey")
	case res.StatusCode == http.StatusNotFound:
		return fail(fault.NotFound, ReasonAuth, "the App is not installed there").At("spec.secretRef").Fix("install it, and check githubAppInstallationID or githubAppInstallationOwner")
	case res.StatusCode >= http.StatusMultipleChoices:
		return fail(fault.Transient, ReasonAuth, "the API of GitHub does not answer as it should").At("spec.secretRef: githubAppBaseURL").Fix("it is tried again")
	}
	body, err := io.ReadAll(io.LimitReader(res.Body, maxAppAnswer))
	if err == nil {
		d := json.NewDecoder(bytes.NewReader(body))
		err = d.Decode(to)
	}
	if err != nil {
		return fail(fault.Transient, ReasonAuth, "the answer of the API of GitHub cannot be read").At("spec.secretRef: githubAppBaseURL").Fix("it is tried again")
	}
	return nil
}
