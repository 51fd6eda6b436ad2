package source

import (
	"net/url"
	"testing"

	githttp "github.com/go-git/go-git/v5/plumbing/transport/http"
)

// TestLoginsOverHTTP: which keys of the Secret make which login, and which are refused.
// contract: GitRepository key username, key password, key bearerToken
func TestLoginsOverHTTP(t *testing.T) {
	for _, tc := range []struct {
		url   string
		pairs []string
		want  string // "" is refused
	}{
		{"https://h/x.git", []string{"username", "u", "password", "p"}, "basic u p"},
		{"https://h/x.git", []string{"username", "token"}, "basic token "},
		{"https://token@h/x.git", []string{"password", "p"}, "basic token p"},
		{"https://h/x.git", []string{"bearerToken", "b"}, "bearer b"},
		{"https://h/x.git", []string{"username", "u", "password", "p", "bearerToken", "b"}, "bearer b"},
		{"https://h/x.git", []string{"username", "u", "bearerToken", "b"}, "bearer b"},
		{"https://u@h/x.git", []string{"bearerToken", "b"}, "bearer b"},
		{"https://h/x.git", []string{"password", "p", "bearerToken", "b"}, "bearer b"},
		{"https://h/x.git", []string{"password", "p"}, ""},
		{"https://h/x.git", []string{"bearerToken", "b\r\nHost: x"}, ""},
		{"https://h/x.git", []string{"identity", "x", "known_hosts", "y"}, ""},
		{"https://h/x.git", nil, ""},
		{"https://h/x.git", []string{"ca.crt", "x"}, "nobody"},
	} {
		u, err := url.Parse(tc.url)
		if err != nil {
			t.Fatal(err)
		}
		method, err := Remote{URL: tc.url, Auth: auth(tc.pairs...)}.httpAuth(u)
		got := ""
		switch m := method.(type) {
		case *githttp.BasicAuth:
			got = "basic " + m.Username + " " + m.Password
		case *githttp.TokenAuth:
			got = "bearer " + m.Token
		case nil:
			if err == nil {
				got = "nobody"
			}
		}
		if got != tc.want {
			t.Errorf("%s %q: %q %v, want %q", tc.url, tc.pairs, got, err, tc.want)
		}
	}
}
