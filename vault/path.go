package vault

import (
	"net/url"
	"strings"
	"unicode"
	"unicode/utf8"

	"sealock.dev/sealock/fault"
)

// Path is a secret of a KV engine.
type Path struct {
	// Wire is the path of the request, below /v1/.
	Wire string
	// Logical is the path that fences know: the mount first, without the data/ of KV v2, after the Vault namespace.
	Logical string
	// Version asks for an older version of KV v2; "" is the latest.
	Version string
	// V2 says that the payload is one level deeper.
	V2 bool
}

// KVPath returns the path of key in the engine at mount (nil: the key names it). The forms that keys may have, with and
// without the mount, are those of reference/external-secrets.md, section 1.7. What could lead out of the mount, or be
// read differently by a fence and by a server, is refused as Invalid.
func KVPath(mount *string, v2 bool, namespace, key, version string) (Path, error) {
	p := Path{V2: v2, Version: version}
	if version != "" && (!v2 || strings.Trim(version, "0123456789") != "" || len(version) > 18) {
		return Path{}, badPath("remoteRef.version", "the version is not a number of KV v2")
	}
	key = strings.TrimPrefix(key, "/")
	if words := faulty(key); words != "" {
		return Path{}, badPath("remoteRef.key", words)
	}
	var at, rest string
	switch {
	case mount != nil:
		at = strings.Trim(*mount, "/")
		if words := faulty(at); words != "" {
			return Path{}, badPath("provider.vault.path", words)
		}
		rest = key
		if below, ok := strings.CutPrefix(key, at+"/"); ok {
			rest = below
			if v2 {
				rest = strings.TrimPrefix(rest, "data/")
			}
		}
	case v2 && strings.Contains(key, "/data/"):
		at, rest, _ = strings.Cut(key, "/data/")
	default:
		at, rest, _ = strings.Cut(key, "/")
	}
	if rest == "" {
		return Path{}, badPath("remoteRef.key", "the key names an engine and no secret in it")
	}
	p.Wire, p.Logical = at+"/"+rest, at+"/"+rest
	if v2 {
		p.Wire = at + "/data/" + rest
	}
	if ns := strings.Trim(namespace, "/"); ns != "" {
		if words := faulty(ns); words != "" {
			return Path{}, badPath("provider.vault.namespace", words)
		}
		p.Logical = ns + "/" + p.Logical
	}
	return p, nil
}

func badPath(field, words string) error {
	return fault.New("", fault.Invalid, fault.Ref{}, "%s", words).At(field).Fix("write the path of the secret as Vault lists it")
}

// faulty says what is wrong with a path, "" when nothing is.
func faulty(path string) string {
	if !utf8.ValidString(path) {
		return "the path is not UTF-8"
	}
	if len(path) > 1024 {
		return "the path is longer than 1024 bytes"
	}
	for _, segment := range strings.Split(path, "/") {
		switch segment {
		case "":
			return "the path has an empty segment"
		case ".", "..":
			return "the path has a segment . or .."
		}
	}
	for _, r := range path {
		if strings.ContainsRune(`?#%\*`, r) || unicode.IsControl(r) || unicode.Is(unicode.Cf, r) {
			return `the path has a character that is not allowed (?, #, %, \, * or a control character)`
		}
	}
	return ""
}

// CheckServer refuses an address that is no plain http or https address.
func CheckServer(server string) error {
	bad := func(words string) error {
		return fault.New("", fault.Invalid, fault.Ref{}, "%s", words).At("provider.vault.server").Fix("write https://host:port")
	}
	u, err := url.Parse(server)
	if err != nil {
		return bad("the address of Vault is not a URL")
	}
	switch {
	case u.Scheme != "https" && u.Scheme != "http" || u.Host == "":
		return bad("the address of Vault is not an http or https URL")
	case u.User != nil:
		return bad("the address of Vault holds a user name or password")
	case u.RawQuery != "" || u.Fragment != "" || u.ForceQuery:
		return bad("the address of Vault holds a query or a fragment")
	}
	if p := strings.Trim(u.Path, "/"); p != "" && (faulty(p) != "" || strings.Contains(server, "%")) {
		return bad("the path in the address of Vault is not plain")
	}
	return nil
}

// CheckHeaders refuses headers that would change who asks or where the request goes.
func CheckHeaders(headers map[string]string) error {
	for name := range headers {
		lower := strings.ToLower(name)
		switch {
		case strings.HasPrefix(lower, "x-vault-"), lower == "host", lower == "authorization", lower == "cookie", lower == "connection",
			lower == "content-length", lower == "transfer-encoding", strings.HasPrefix(lower, "proxy-"), strings.HasPrefix(lower, "x-forwarded-"):
			return fault.New("", fault.Invalid, fault.Ref{}, "the header %q may not be set", name).At("provider.vault.headers").Fix("remove it")
		}
	}
	return nil
}
