package cluster

import (
	"context"
	"errors"
	"net/http"
	"regexp"
	"slices"
	"strconv"
	"strings"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"sealock.dev/sealock/fault"
	"sealock.dev/sealock/manifest"
	"sealock.dev/sealock/plaintext"
)

// clean classifies what the API server answered and makes it safe to show: values that it quotes are left out, and the
// secrets of the object are scrubbed from what remains. It is the only way by which words of an API server enter an error.
func clean(stage fault.Stage, err error, ref fault.Ref, known ...manifest.Object) error {
	if err == nil {
		return nil
	}
	var done *fault.Error
	if errors.As(err, &done) {
		return err
	}
	var values []plaintext.Value
	for _, o := range known {
		values = append(values, o.Values()...)
	}
	scrub := plaintext.NewScrubber(values...)
	out := classify(stage, err, ref, scrub)
	return out
}

func classify(stage fault.Stage, err error, ref fault.Ref, scrub *plaintext.Scrubber) error {
	var status apierrors.APIStatus
	if !errors.As(err, &status) {
		return unanswered(stage, err, ref)
	}
	s := status.Status()
	say := func(kind fault.Kind, text string) *fault.Error { return fault.New(stage, kind, ref, "%s", text) }
	words := scrub.Scrub(unquoteValues(s.Message, ref))
	switch {
	case strings.HasPrefix(s.Message, "admission webhook ") && strings.Contains(s.Message, " denied the request"):
		return say(fault.Denied, scrub.Scrub(s.Message)).Fix("change the object as the webhook asks")
	case strings.Contains(s.Message, "denied request:") && strings.HasPrefix(policyOf(s.Message), "ValidatingAdmissionPolicy "):
		return say(fault.Denied, scrub.Scrub(policyOf(s.Message))).Fix("change the object as the policy asks")
	case apierrors.HasStatusCause(err, "NamespaceTerminating"):
		return say(fault.Transient, "the namespace is being deleted").Fix("it is tried again when the namespace is gone")
	case apierrors.IsForbidden(err):
		return say(fault.Denied, words).Fix("grant the identity the right, or take the object out")
	case apierrors.IsUnauthorized(err):
		return say(fault.Transient, "the API server does not accept the controller's credentials").Fix("check the controller's service account")
	case apierrors.IsInvalid(err):
		return invalid(stage, s, ref, scrub)
	case strings.HasPrefix(s.Message, "failed to create typed patch object"):
		return untyped(stage, s.Message, ref, scrub)
	case apierrors.IsTooManyRequests(err), apierrors.IsTimeout(err), apierrors.IsServerTimeout(err), apierrors.IsServiceUnavailable(err):
		return say(fault.Transient, "the API server is busy").Fix("it is tried again")
	case apierrors.IsNotFound(err):
		return missing(stage, s, ref, scrub)
	case apierrors.IsConflict(err), apierrors.IsAlreadyExists(err), apierrors.IsGone(err):
		return say(fault.Conflict, words).Fix("it is tried again with what is there now")
	case s.Code >= http.StatusInternalServerError:
		return say(fault.Transient, words).Fix("it is tried again; see the API server's log if it stays")
	}
	return say(fault.Invalid, words).Fix("correct the manifest")
}

// unanswered describes an error that is no answer of the API server. Its text may hold anything and is not shown.
func unanswered(stage fault.Stage, err error, ref fault.Ref) error {
	say := "the API server cannot be reached"
	switch {
	case errors.Is(err, context.DeadlineExceeded):
		say = "the API server did not answer in time"
	case errors.Is(err, context.Canceled):
		say = "interrupted"
	}
	return fault.New(stage, fault.Transient, ref, "%s", say).Fix("it is tried again")
}

// missing says what does not exist: the object's namespace, something that it refers to, or its kind.
func missing(stage fault.Stage, s metav1.Status, ref fault.Ref, scrub *plaintext.Scrubber) error {
	if d := s.Details; d != nil && d.Name != "" && d.Kind == "namespaces" {
		return fault.New(stage, fault.NotFound, ref, "the namespace %q does not exist", d.Name).At("metadata.namespace").
			Fix("add the Namespace to the commit, or have it created")
	}
	if d := s.Details; d != nil && d.Name != "" {
		return fault.New(stage, fault.NotFound, ref, "%s", scrub.Scrub(unquoteValues(s.Message, ref))).Fix("add it to the commit, or have it created")
	}
	return fault.New(stage, fault.NotFound, ref, "the API server does not serve the kind (any more)").Fix("install its CustomResourceDefinition, or add it to the commit")
}

// invalid lists the fields that the API server refuses, each with the reason and without the value.
func invalid(stage fault.Stage, s metav1.Status, ref fault.Ref, scrub *plaintext.Scrubber) error {
	if s.Details == nil || len(s.Details.Causes) == 0 {
		return fault.New(stage, fault.Invalid, ref, "%s", scrub.Scrub(unquoteValues(s.Message, ref))).Fix("correct the manifest")
	}
	seen := map[string]bool{}
	var errs []error
	for _, c := range s.Details.Causes {
		text := scrub.Scrub(causeText(c))
		if seen[c.Field+text] {
			continue
		}
		seen[c.Field+text] = true
		f := fault.New(stage, fault.Invalid, ref, "%s", text).At(scrub.Scrub(c.Field)).Fix("correct the field")
		if strings.Contains(text, "immutable") {
			f = f.Fix("restore the old value, or delete the live object so that it is created anew")
		}
		errs = append(errs, f)
	}
	return join(errs)
}

// causeText is the reason of a cause and what its message says behind the value, which is left out.
func causeText(c metav1.StatusCause) string {
	names := map[metav1.CauseType]string{
		metav1.CauseTypeFieldValueRequired: "required value", metav1.CauseTypeFieldValueDuplicate: "duplicate value",
		metav1.CauseTypeFieldValueNotFound: "not found", metav1.CauseTypeFieldValueNotSupported: "unsupported value",
		metav1.CauseTypeFieldValueInvalid: "invalid value", "FieldValueForbidden": "forbidden", "FieldValueTooLong": "too long",
		"FieldValueTooMany": "too many", "InternalError": "internal error", "FieldValueTypeInvalid": "wrong type",
	}
	name, ok := names[c.Type]
	if !ok {
		name = "refused"
	}
	_, rest, found := strings.Cut(c.Message, ": ")
	if !found {
		return name
	}
	switch c.Type { //nolint:exhaustive // the other causes carry a value
	case metav1.CauseTypeFieldValueRequired, "FieldValueForbidden", "FieldValueTooLong", "FieldValueTooMany":
		return name + ": " + maskQuoted(rest, nil)
	}
	if quoted, err := strconv.QuotedPrefix(rest); err == nil {
		rest = rest[len(quoted):]
	} else if i := strings.Index(rest, ": "); i >= 0 && !strings.ContainsAny(rest[:i], "{[\"`'") {
		rest = rest[i:] // a number or a boolean
	} else {
		rest = ""
	}
	rest = strings.TrimPrefix(rest, ": ")
	if rest == "" {
		return name
	}
	if c.Type == metav1.CauseTypeFieldValueNotSupported && strings.HasPrefix(rest, "supported values: ") {
		return name + ": " + rest // these are the schema's words
	}
	return name + ": " + maskQuoted(rest, nil)
}

// untyped reads the errors of typed patches: ".spec.replicas: expected numeric (int or float), got ...".
func untyped(stage fault.Stage, message string, ref fault.Ref, scrub *plaintext.Scrubber) error {
	_, rest, _ := strings.Cut(message, "): ")
	field, why, _ := strings.Cut(rest, ": ")
	switch {
	case strings.HasPrefix(why, "expected "):
		why, _, _ = strings.Cut(why, ", got")
	case strings.HasPrefix(why, "field not declared in schema"):
		why = "the API does not have this field"
	default:
		why = "the value does not fit the schema"
	}
	if len(field) > longestMessage || strings.ContainsAny(field, "\n\"") {
		field = ""
	}
	return fault.New(stage, fault.Invalid, ref, "%s", scrub.Scrub(maskQuoted(why, nil))).At(scrub.Scrub(strings.TrimPrefix(field, "."))).Fix("correct the field")
}

// policyOf returns the words of a ValidatingAdmissionPolicy from "kind "name" is forbidden: words".
func policyOf(message string) string {
	if i := strings.Index(message, "ValidatingAdmissionPolicy "); i >= 0 {
		return message[i:]
	}
	return message
}

var quotedText = regexp.MustCompile("\"(?:[^\"\\\\]|\\\\.)*\"|`[^`]*`")

// unquoteValues leaves out what a message quotes, unless it names the object or is what an authorizer says; and the
// context that a decoder prints.
func unquoteValues(message string, ref fault.Ref) string {
	// The words of RBAC name users, resources and groups, never a field of the object.
	if strings.Contains(message, " is forbidden: User ") && !strings.Contains(message, "Invalid value") {
		return message
	}
	message = maskQuoted(message, []string{ref.Name, ref.Namespace, ref.Kind})
	for _, mark := range []string{"error found in #", "bigger context", "Invalid value: ", "; got ", ", got "} {
		if i := strings.Index(message, mark); i >= 0 {
			message = strings.TrimRight(message[:i], " ,;:[") + " (value left out)"
		}
	}
	return message
}

// maskQuoted leaves out quoted text but what is to be kept, and everything behind a quote that does not end.
func maskQuoted(s string, keep []string) string {
	var out strings.Builder
	for s != "" {
		at := quotedText.FindStringIndex(s)
		open := strings.IndexAny(s, "\"`")
		if open < 0 {
			out.WriteString(s)
			break
		}
		if at == nil || open < at[0] {
			out.WriteString(s[:open] + "(value left out)")
			break
		}
		q := s[at[0]:at[1]]
		out.WriteString(s[:at[0]])
		if inner := q[1 : len(q)-1]; inner != "" && slices.Contains(keep, inner) {
			out.WriteString(q)
		} else {
			out.WriteString("(value left out)")
		}
		s = s[at[1]:]
	}
	return out.String()
}
