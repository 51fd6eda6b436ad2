package externalsecret

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"

	v1 "sealock.dev/sealock/api/externalsecrets/v1"
	"sealock.dev/sealock/externalsecrets"
	"sealock.dev/sealock/manifest"
)

// A login that succeeded is remembered beyond a restart, with what it was made with, so that a new process tries again when
// the old one would have: after a change of the store or of a Secret that it refers to, or when the interval is over.

// loggedIn is what a login with a store was made with, by versions alone, and when.
type loggedIn struct {
	with string
	at   time.Time
}

// String is the line that is remembered.
func (l loggedIn) String() string { return strconv.FormatInt(l.at.Unix(), 10) + " " + l.with }

// parseLogin reads a line; one that cannot be read is as good as none.
func parseLogin(line string) (loggedIn, bool) {
	seconds, with, found := strings.Cut(line, " ")
	at, err := strconv.ParseInt(seconds, 10, 64)
	return loggedIn{with: with, at: time.Unix(at, 0)}, found && err == nil
}

// loginWith names the versions of a store and of the Secrets that it refers to.
func (s *storeReconciler) loginWith(ctx context.Context, live *unstructured.Unstructured, obj manifest.Object) string {
	parts := []string{string(live.GetUID()), strconv.FormatInt(live.GetGeneration(), 10)}
	for _, name := range externalsecrets.Credentials(obj) {
		namespace, name, _ := strings.Cut(name, "/")
		m := watchedSecret()
		if err := s.reader.Get(ctx, types.NamespacedName{Namespace: namespace, Name: name}, m); err == nil {
			name += "@" + m.ResourceVersion
		}
		parts = append(parts, namespace+"/"+name)
	}
	return strings.Join(parts, " ")
}

// sparesLogin returns how long the last login that succeeded is good for, 0 when there is none or anything changed since.
func (s *storeReconciler) sparesLogin(ctx context.Context, live *unstructured.Unstructured, with string) time.Duration {
	if s.memory == nil || !valid(live) {
		return 0
	}
	line, err := s.memory.Recall(ctx, live.GetNamespace(), s.noteName(live.GetName()))
	last, known := parseLogin(line)
	if err != nil || !known || last.with != with || last.at.After(s.now()) {
		return 0
	}
	return last.at.Add(interval(live)).Sub(s.now())
}

// noteLogin remembers a login that succeeded; any other outcome is forgotten.
func (s *storeReconciler) noteLogin(namespace, name, with string, succeeded bool) {
	if s.memory == nil {
		return
	}
	line := ""
	if succeeded {
		line = fmt.Sprint(loggedIn{with: with, at: s.now()})
	}
	s.memory.Note(namespace, s.noteName(name), line)
}

// noteName cannot be the name of an object.
func (s *storeReconciler) noteName(name string) string { return s.kind + "/" + name }

// valid reports whether the status says that a login succeeded.
func valid(live *unstructured.Unstructured) bool {
	var status v1.StoreStatus
	raw, _ := live.Object["status"].(map[string]any)
	if runtime.DefaultUnstructuredConverter.FromUnstructured(raw, &status) != nil {
		return false
	}
	c := ready(status.Conditions)
	return c != nil && c.Status == corev1.ConditionTrue && c.Reason == v1.ReasonStoreValid
}
