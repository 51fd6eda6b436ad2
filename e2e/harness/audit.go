package harness

import (
	"bytes"
	"encoding/json"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// Request is one line of the API server's audit log.
type Request struct {
	Verb, User, Resource, Subresource, Namespace, Name string
	DryRun                                             bool
	Lists                                              bool   // also as a watch that begins with what is there
	Selector                                           string // of labels
	Code                                               int
}

// Audit is what the API server was asked, in order.
type Audit []Request

// Audit reads the audit log. The devcluster must run with --audit-log.
func (w *World) Audit() (Audit, error) {
	data, err := os.ReadFile(filepath.Join(w.Dir, "devcluster", "audit.log"))
	if err != nil {
		return nil, err
	}
	var out Audit
	for _, line := range bytes.Split(data, []byte("\n")) {
		var e struct {
			Stage, Verb, RequestURI string
			User                    struct{ Username string }
			ImpersonatedUser        *struct{ Username string }
			ObjectRef               struct{ Resource, Subresource, Namespace, Name string }
			ResponseStatus          struct{ Code int }
		}
		if json.Unmarshal(line, &e) != nil || e.Stage != stageOf(e.Verb) {
			continue
		}
		uri, err := url.Parse(e.RequestURI)
		if err != nil {
			return nil, err
		}
		r := Request{
			Verb: e.Verb, User: e.User.Username, Resource: e.ObjectRef.Resource, Subresource: e.ObjectRef.Subresource,
			Namespace: e.ObjectRef.Namespace, Name: e.ObjectRef.Name, DryRun: strings.Contains(e.RequestURI, "dryRun="), Code: e.ResponseStatus.Code,
			Lists: e.Verb == "list" || e.Verb == "watch" && uri.Query().Get("sendInitialEvents") == "true", Selector: uri.Query().Get("labelSelector"),
		}
		if e.ImpersonatedUser != nil {
			r.User = e.ImpersonatedUser.Username
		}
		out = append(out, r)
	}
	return out, nil
}

// stageOf is the line that counts: a watch counts when it begins.
func stageOf(verb string) string {
	if verb == "watch" {
		return "ResponseStarted"
	}
	return "ResponseComplete"
}

// Index returns the position of the first successful write with one of the verbs ("create|patch"), -1 when there is none.
func (a Audit) Index(verbs, resource, namespace, name string) int {
	return slices.IndexFunc(a, func(r Request) bool {
		return !r.DryRun && r.Code < 300 && r.Subresource == "" && slices.Contains(strings.Split(verbs, "|"), r.Verb) &&
			r.Resource == resource && r.Namespace == namespace && r.Name == name
	})
}

// Writer returns who first wrote the object.
func (a Audit) Writer(resource, namespace, name string) string {
	if i := a.Index("create|patch|update", resource, namespace, name); i >= 0 {
		return a[i].User
	}
	return ""
}

// Count returns how many requests match.
func (a Audit) Count(match func(Request) bool) int {
	n := 0
	for _, r := range a {
		if match(r) {
			n++
		}
	}
	return n
}

// File returns the content of a file, "" when it cannot be read.
func (w *World) File(path string) string {
	data, err := os.ReadFile(path)
	if err != nil {
		return ""
	}
	return string(data)
}
