package vault

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"net/url"
	"strings"

	"sealock.dev/sealock/fault"
	"sealock.dev/sealock/plaintext"
)

func (c *Client) get(ctx context.Context, t Target, p Path, token plaintext.Value) (reply, error) {
	query := url.Values{}
	if p.Version != "" {
		query.Set("version", p.Version)
	}
	return c.send(ctx, t, t.Namespace, http.MethodGet, p.Wire, query, token, plaintext.Value{})
}

// alive asks whether the server still knows the token.
func (c *Client) alive(ctx context.Context, t Target, token plaintext.Value) (bool, error) {
	r, err := c.send(ctx, t, t.Namespace, http.MethodGet, "auth/token/lookup-self", nil, token, plaintext.Value{})
	if err != nil {
		return false, err
	}
	switch r.status {
	case http.StatusOK:
		return true, nil
	case http.StatusForbidden:
		return false, nil
	}
	return false, failure(t, "the token cannot be looked up", r, fault.Transient)
}

// login returns a new token of the identity.
func (c *Client) login(ctx context.Context, t Target, l Login) (session, error) {
	mount := strings.Trim(l.Mount, "/")
	if words := faulty(mount); words != "" {
		return session{}, fault.New("", fault.Invalid, fault.Ref{}, "the mount of the auth method: %s", words).Fix("write it as Vault lists it, without auth/")
	}
	secret, err := c.credential(ctx, l)
	if err != nil {
		return session{}, err
	}
	body, err := loginBody(l, secret)
	if err != nil {
		return session{}, err
	}
	namespace := t.Namespace
	if l.Namespace != "" {
		namespace = l.Namespace
	}
	r, err := c.send(ctx, t, namespace, http.MethodPut, "auth/"+mount+"/login", nil, plaintext.Value{}, body)
	if err != nil {
		return session{}, err
	}
	if r.status != http.StatusOK || r.token.Len() == 0 {
		kind := fault.Transient
		if r.status == http.StatusBadRequest || r.status == http.StatusForbidden {
			kind = fault.Denied
		}
		err := failure(t, "the login at auth/"+mount+" as "+l.Who()+" was refused", r, kind)
		var f *fault.Error
		if kind == fault.Denied && errors.As(err, &f) {
			return session{}, f.Fix("check that the auth method is mounted there, and that the role exists and is bound to this service account or credential")
		}
		return session{}, err
	}
	age := r.lease * 8 / 10
	if r.lease == 0 || age > maxTokenAge*24 {
		age = maxTokenAge
	}
	return session{token: r.token, renewAt: c.opts.Now().Add(age)}, nil
}

func loginBody(l Login, secret plaintext.Value) (plaintext.Value, error) {
	return plaintext.Derive(func(p ...[]byte) ([]byte, error) {
		var out []byte
		var err error
		switch l.Method {
		case Kubernetes:
			out, err = json.Marshal(map[string]string{"role": l.Role, "jwt": string(p[0])})
		case AppRole:
			out, err = json.Marshal(map[string]string{"role_id": string(p[1]), "secret_id": string(p[0])})
		case Token:
			err = errors.New("no login")
		}
		if err != nil {
			return nil, fault.New("", fault.Internal, fault.Ref{}, "the login cannot be written")
		}
		return out, nil
	}, secret, l.RoleID)
}

// dataOf takes the secret out of an answer.
func dataOf(t Target, l Login, p Path, r reply) (Data, error) {
	missing := fault.New("", fault.NotFound, fault.Ref{}, "there is no secret at %s of Vault at %s", p.Logical, t.Server).
		Fix("write it there, or correct key, path and version of the store")
	switch r.status {
	case http.StatusOK:
	case http.StatusNotFound:
		return Data{}, missing
	case http.StatusForbidden:
		return Data{}, fault.New("", fault.Denied, fault.Ref{}, "%s may not read %s of Vault at %s (HTTP 403)", l.Who(), p.Wire, t.Server).
			Fix("allow read on that path in a policy of Vault")
	default:
		return Data{}, failure(t, "reading "+p.Wire+" failed", r, fault.Transient)
	}
	if r.data.Len() == 0 {
		return Data{}, missing
	}
	if !p.V2 {
		return Data{JSON: r.data}, nil
	}
	version := 0
	inner, err := plaintext.Derive(func(b ...[]byte) ([]byte, error) {
		var kv struct {
			Data     json.RawMessage `json:"data"`
			Metadata struct {
				Version int `json:"version"`
			} `json:"metadata"`
		}
		if json.Unmarshal(b[0], &kv) != nil || kv.Data == nil && kv.Metadata.Version == 0 {
			return nil, fault.New("", fault.Invalid, fault.Ref{}, "the engine at %s is not KV version 2", p.Wire).
				At("provider.vault.version").Fix("set version: v1 in the store, or correct its path")
		}
		if kv.Data == nil || string(kv.Data) == "null" {
			return nil, missing
		}
		version = kv.Metadata.Version
		return kv.Data, nil
	}, r.data)
	if err != nil {
		return Data{}, err
	}
	return Data{JSON: inner, Version: version}, nil
}

// failure classifies a status that is no answer. kind is that of statuses that say nothing by themselves.
func failure(t Target, what string, r reply, kind fault.Kind) error {
	switch {
	case r.sealed:
		return fault.New("", fault.Transient, fault.Ref{}, "%s: Vault at %s is sealed (HTTP %d)", what, t.Server, r.status).Fix("unseal Vault; it is tried again")
	case r.status == http.StatusTooManyRequests:
		return fault.New("", fault.Transient, fault.Ref{}, "%s: Vault at %s limits the rate (HTTP 429)", what, t.Server).Fix("raise the quota, or wait; it is tried again")
	case r.status >= 500:
		return fault.New("", fault.Transient, fault.Ref{}, "%s: Vault at %s is not available (HTTP %d)", what, t.Server, r.status).Fix("see the log of Vault; it is tried again")
	case r.status >= 300 && r.status < 400:
		return fault.New("", fault.Transient, fault.Ref{}, "%s: Vault at %s redirects (HTTP %d), which is not followed", what, t.Server, r.status).
			Fix("name the active node or a load balancer, or switch request forwarding on")
	case r.status == http.StatusNotFound:
		return fault.New("", fault.NotFound, fault.Ref{}, "%s: nothing is mounted there in Vault at %s (HTTP 404)", what, t.Server).Fix("correct the mount in the store")
	}
	return fault.New("", kind, fault.Ref{}, "%s: Vault at %s answered HTTP %d", what, t.Server, r.status).Fix("see the log of Vault")
}
