package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"sealock.dev/sealock/e2e/harness"
)

// controllerUser is whom the controller's requests are made by. Those for a commit also name whom it acts as.
const controllerUser = "system:serviceaccount:" + harness.SystemNamespace + ":sealock-controller"

// event is what we read of a line of the audit log.
type event struct {
	Stage, Verb, RequestURI  string
	User                     struct{ Username string }
	ImpersonatedUser         *struct{ Username string }
	ObjectRef                *objectRef
	ResponseStatus           struct{ Code int }
	RequestReceivedTimestamp time.Time
}

type objectRef struct{ Resource, Subresource, Namespace, Name, APIGroup string }

func (e event) dryRun() bool { return strings.Contains(e.RequestURI, "dryRun=") }
func (e event) writes() bool {
	return slices.Contains([]string{"create", "update", "patch", "delete", "deletecollection"}, e.Verb)
}

// class says what a request of the controller is for.
type class string

// The classes of requests.
const (
	objects   class = "objects"   // of commits, and the Secrets that we produce: reads, dry runs, writes
	status    class = "own"       // the objects that the controller serves, their status, what it keeps in its own namespace
	inputs    class = "inputs"    // Secrets, ConfigMaps and tokens that a build refers to
	leases    class = "leases"    // leader election
	discovery class = "discovery" // which kinds there are
	lists     class = "lists"     // of a kind, before it is watched
	watches   class = "watches"
	events    class = "events"
	reviews   class = "reviews" // who may do what
)

func classOf(e event) class {
	ref := e.ObjectRef
	switch {
	case e.Verb == "watch":
		return watches
	case ref == nil:
		return discovery
	case ref.Resource == "leases":
		return leases
	case ref.Resource == "events":
		return events
	case strings.HasSuffix(ref.Resource, "reviews"):
		return reviews
	case e.ImpersonatedUser != nil:
		return objects
	case e.Verb == "list":
		return lists
	case !e.writes() && (ref.Resource == "secrets" || ref.Resource == "configmaps") && !strings.HasPrefix(ref.Name, "sealock-"), ref.Subresource == "token":
		return inputs
	case ref.Namespace == harness.SystemNamespace, strings.HasSuffix(ref.APIGroup, "toolkit.fluxcd.io"), ref.APIGroup == "sealock.dev", ref.Subresource == "status", ref.APIGroup == "admissionregistration.k8s.io":
		return status
	}
	return objects
}

// verbOf is how the verb is shown.
func verbOf(e event) string {
	switch {
	case e.dryRun():
		return "dry-run"
	case e.Verb == "patch" && e.ObjectRef != nil && e.ObjectRef.Subresource == "status":
		return "status"
	}
	return e.Verb
}

// requests are those of the controller in a span of the audit log.
type requests struct {
	verbs map[class]map[string]int
	kinds map[string]int // LISTs by resource
	bad   int            // answered with an error
}

func (r requests) of(c class) int {
	n := 0
	for _, each := range r.verbs[c] {
		n += each
	}
	return n
}

// writes counts those that change something; dry runs do not.
func (r requests) writes(classes ...class) int {
	n := 0
	for _, c := range classes {
		for verb, each := range r.verbs[c] {
			if slices.Contains([]string{"create", "update", "patch", "delete", "status"}, verb) {
				n += each
			}
		}
	}
	return n
}

// detail prints the verbs of a class.
func (r requests) detail(c class) string {
	var out []string
	for _, verb := range slices.Sorted(maps.Keys(r.verbs[c])) {
		out = append(out, fmt.Sprintf("%s %d", verb, r.verbs[c][verb]))
	}
	return strings.Join(out, ", ")
}

// others prints the classes that are not shown one by one.
func (r requests) others(shown ...class) (int, string) {
	var out []string
	n := 0
	for _, c := range slices.Sorted(maps.Keys(r.verbs)) {
		if !slices.Contains(shown, c) {
			n += r.of(c)
			out = append(out, fmt.Sprintf("%s %d", c, r.of(c)))
		}
	}
	if r.bad > 0 {
		out = append(out, fmt.Sprintf("of all %d failed", r.bad))
	}
	return n, strings.Join(out, ", ")
}

// auditLog reads the growing log.
type auditLog struct{ path string }

func (w *site) auditLog() auditLog {
	return auditLog{filepath.Join(w.Dir, "devcluster", "audit.log")}
}

// end is where the log ends now.
func (a auditLog) end() (int64, error) {
	info, err := os.Stat(a.path)
	if err != nil {
		return 0, err
	}
	return info.Size(), nil
}

// lines calls fn for each line between two offsets that contains the text. A line that is not complete is left out.
func (a auditLog) lines(from, to int64, containing string, fn func(line []byte) error) error {
	f, err := os.Open(a.path)
	if err != nil {
		return err
	}
	defer f.Close()
	data, err := io.ReadAll(io.NewSectionReader(f, from, to-from))
	if err != nil {
		return err
	}
	want := []byte(containing)
	for {
		i := bytes.IndexByte(data, '\n')
		if i < 0 {
			return nil
		}
		if bytes.Contains(data[:i], want) {
			if err := fn(data[:i]); err != nil {
				return err
			}
		}
		data = data[i+1:]
	}
}

// events calls fn for each request of the user between two offsets: when it ended, a watch when it began.
func (a auditLog) events(from, to int64, user string, fn func(event)) error {
	return a.lines(from, to, `"`+user+`"`, func(line []byte) error {
		var e event
		if err := json.Unmarshal(line, &e); err != nil {
			return fmt.Errorf("audit log: %w", err)
		}
		wanted := "ResponseComplete"
		if e.Verb == "watch" {
			wanted = "ResponseStarted"
		}
		if e.User.Username == user && e.Stage == wanted {
			fn(e)
		}
		return nil
	})
}

// count counts the controller's requests.
func (a auditLog) count(from, to int64) (requests, error) {
	r := requests{verbs: map[class]map[string]int{}, kinds: map[string]int{}}
	err := a.events(from, to, controllerUser, func(e event) {
		c := classOf(e)
		if r.verbs[c] == nil {
			r.verbs[c] = map[string]int{}
		}
		r.verbs[c][verbOf(e)]++
		if c == lists || c == watches && strings.Contains(e.RequestURI, "sendInitialEvents=true") {
			r.kinds[kindOf(e)]++
		}
		if e.ResponseStatus.Code >= 400 && e.ResponseStatus.Code != 404 {
			r.bad++
		}
	})
	return r, err
}

// kindOf names what a list is of: the same kind in another namespace, or of other labels, is something else.
func kindOf(e event) string {
	name := strings.TrimSuffix(e.ObjectRef.Resource+"."+e.ObjectRef.APIGroup, ".")
	if e.ObjectRef.Namespace != "" {
		name += " in " + e.ObjectRef.Namespace
	}
	if u, err := url.Parse(e.RequestURI); err == nil {
		for _, each := range []string{"labelSelector", "fieldSelector"} {
			if v := u.Query().Get(each); v != "" {
				name += " with " + v
			}
		}
	}
	return name
}
