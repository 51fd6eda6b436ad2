package vault

import (
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"

	"sealock.dev/sealock/fault"
)

func ptr(s string) *string { return &s }

// The forms of reference/external-secrets.md, section 1.7.
func TestKVPath(t *testing.T) {
	for _, c := range []struct {
		v2            bool
		mount         *string
		key           string
		wire, logical string
	}{
		{true, ptr("secret"), "foo", "secret/data/foo", "secret/foo"},
		{true, ptr("secret/"), "foo", "secret/data/foo", "secret/foo"},
		{true, ptr("secret"), "/foo", "secret/data/foo", "secret/foo"},
		{true, ptr("secret"), "secret/foo", "secret/data/foo", "secret/foo"},
		{true, ptr("secret"), "secret/data/foo", "secret/data/foo", "secret/foo"},
		{true, ptr("secret"), "data/foo", "secret/data/data/foo", "secret/data/foo"},
		{true, ptr("a/b"), "x/y", "a/b/data/x/y", "a/b/x/y"},
		{true, nil, "secret/foo", "secret/data/foo", "secret/foo"},
		{true, nil, "x/data/foo", "x/data/foo", "x/foo"},
		{true, nil, "data/foo", "data/data/foo", "data/foo"},
		{false, ptr("kv"), "foo", "kv/foo", "kv/foo"},
		{false, ptr("kv"), "kv/foo", "kv/foo", "kv/foo"},
		{false, nil, "kv/foo", "kv/foo", "kv/foo"},
	} {
		p, err := KVPath(c.mount, c.v2, "", c.key, "")
		if err != nil || p.Wire != c.wire || p.Logical != c.logical {
			t.Errorf("%v %s: got %q %q %v, want %q %q", c.mount, c.key, p.Wire, p.Logical, err, c.wire, c.logical)
		}
	}
	p, err := KVPath(ptr("secret"), true, "team/", "foo", "3")
	if err != nil || p.Logical != "team/secret/foo" || p.Version != "3" {
		t.Errorf("with a Vault namespace: %+v %v", p, err)
	}
}

func TestT18_PathsThatLeaveTheMountAreRefused(t *testing.T) {
	for _, key := range []string{
		"../../other/data/x", "../../../../v1/sys/mounts", "a/../b", "a/./b", "..", ".", "", "/", "a//b", "//a", "a/", "%2e%2e/x", "a%2fb", "a?version=1", "a#b", `a\b`, `..\x`,
		"a\x00b", "a\nb", "a\u202eb", "a\u200bb", "\xff", strings.Repeat("a", 2000), "secret/", "secret/data/", "*", "a/*",
	} {
		if _, err := KVPath(ptr("secret"), true, "", key, ""); fault.KindOf(err) != fault.Invalid {
			t.Errorf("key %q: %v, want Invalid", key, err)
		}
	}
	for _, mount := range []string{"", "/", "..", "secret/..", "secret/../sys", "a//b", "a?b"} {
		if _, err := KVPath(ptr(mount), true, "", "x", ""); fault.KindOf(err) != fault.Invalid {
			t.Errorf("mount %q: %v, want Invalid", mount, err)
		}
	}
	for _, key := range []string{"foo", "foo/", "/foo"} {
		if _, err := KVPath(nil, true, "", key, ""); fault.KindOf(err) != fault.Invalid {
			t.Errorf("key %q without mount: %v, want Invalid", key, err)
		}
	}
	if _, err := KVPath(ptr("secret"), true, "../x", "foo", ""); fault.KindOf(err) != fault.Invalid {
		t.Errorf("namespace: %v, want Invalid", err)
	}
	for _, version := range []string{"-1", "1&x=y", "latest"} {
		if _, err := KVPath(ptr("secret"), true, "", "foo", version); fault.KindOf(err) != fault.Invalid {
			t.Errorf("version %q: %v, want Invalid", version, err)
		}
	}
}

// What a server sees of a path that was let through is below the mount, whatever the key is.
func FuzzT18_KVPath(f *testing.F) {
	for _, seed := range []string{"foo", "../../x", "a//b", "%2e%2e/x", "a?b", "secret/data/x", "data/x", "ü/ß", "a\\..\\b", "a b", "a;b", "a+b"} {
		f.Add(seed, true)
		f.Add(seed, false)
	}
	var seen string
	server := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { seen = r.URL.Path }))
	f.Cleanup(server.Close)
	f.Fuzz(func(t *testing.T, key string, v2 bool) {
		p, err := KVPath(ptr("team/kv"), v2, "", key, "")
		if err != nil {
			return
		}
		below := "/v1/team/kv/"
		if v2 {
			below += "data/"
		}
		u, err := url.Parse(server.URL)
		if err != nil {
			t.Fatal(err)
		}
		u.Path = "/v1/" + p.Wire
		res, err := http.Get(u.String())
		if err != nil {
			t.Fatalf("%q: %v", key, err)
		}
		_ = res.Body.Close()
		if !strings.HasPrefix(seen, below) || strings.Contains(seen, "/../") || strings.Contains(seen, "//") || !strings.HasPrefix(p.Logical, "team/kv/") {
			t.Errorf("key %q reaches %q", key, seen)
		}
	})
}

func TestCheckServer(t *testing.T) {
	for server, ok := range map[string]bool{
		"https://vault:8200": true, "http://127.0.0.1:8200": true, "https://vault/prefix": true, "https://vault:8200/": true,
		"vault:8200": false, "ftp://vault": false, "https://": false, "https://u:p@vault": false, "https://vault?x=y": false, "https://vault/#x": false,
		"https://vault/../x": false, "https://vault/%2e%2e": false, "": false, "unix:///run/vault.sock": false, "https://va ult": false,
	} {
		if err := CheckServer(server); (err == nil) != ok {
			t.Errorf("%q: %v", server, err)
		}
	}
}

func TestCheckHeaders(t *testing.T) {
	for name, ok := range map[string]bool{"X-Trace": true, "Cf-Access-Client-Id": true, "X-Vault-Token": false, "x-vault-namespace": false, "HOST": false, "Authorization": false, "X-Forwarded-For": false} {
		if err := CheckHeaders(map[string]string{name: canary}); (err == nil) != ok || err != nil && strings.Contains(err.Error(), canary) {
			t.Errorf("%s: %v", name, err)
		}
	}
}
