package cluster

import (
	"context"
	"errors"
	"net/http"
	"strconv"
	"strings"
	"testing"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"sealock.dev/sealock/fault"
	"sealock.dev/sealock/manifest"
	"sealock.dev/sealock/plaintext"
)

func refusal(code int32, reason metav1.StatusReason, message string, causes ...metav1.StatusCause) error {
	return &apierrors.StatusError{ErrStatus: metav1.Status{Status: metav1.StatusFailure, Code: code, Reason: reason, Message: message, Details: &metav1.StatusDetails{Causes: causes}}}
}

func TestClean(t *testing.T) {
	const secret = "hunter2hunter2"
	ref := fault.Ref{Kind: "Secret", Namespace: "ns", Name: "s"}
	object := manifest.NewSecret("ns", "s", "", map[string]plaintext.Value{"k": plaintext.FromString(secret)}, manifest.SOPS, manifest.Source{})
	for name, tc := range map[string]struct {
		err   error
		kind  fault.Kind
		parts []string
	}{
		"RBAC":         {refusal(403, metav1.StatusReasonForbidden, `secrets "s" is forbidden: User "sealock:tenant:a" cannot patch resource "secrets" in API group "" in the namespace "ns"`), fault.Denied, []string{`User "sealock:tenant:a" cannot patch`}},
		"webhook":      {refusal(400, "", `admission webhook "p.example.org" denied the request: image `+secret+` is bad`), fault.Denied, []string{`admission webhook "p.example.org" denied`, "[plaintext] is bad"}},
		"webhook down": {refusal(500, metav1.StatusReasonInternalError, `Internal error occurred: failed calling webhook "p.example.org": Post "https://x?q=`+secret+`"`), fault.Transient, []string{"failed calling webhook"}},
		"policy":       {refusal(422, metav1.StatusReasonInvalid, `secrets "s" is forbidden: ValidatingAdmissionPolicy 'p' with binding 'b' denied request: no way`), fault.Denied, []string{"ValidatingAdmissionPolicy 'p'", "no way"}},
		"label":        {refusal(422, metav1.StatusReasonInvalid, "", metav1.StatusCause{Type: metav1.CauseTypeFieldValueInvalid, Field: "metadata.labels", Message: `Invalid value: "a \"b\": x ` + secret + `": a valid label must be short`}), fault.Invalid, []string{"metadata.labels: invalid value: a valid label must be short"}},
		"object value": {refusal(422, metav1.StatusReasonInvalid, "", metav1.StatusCause{Type: metav1.CauseTypeFieldValueInvalid, Field: "spec", Message: `Invalid value: {"p":"short1: x"}: bad`}), fault.Invalid, []string{"spec: invalid value; "}},
		"immutable":    {refusal(422, metav1.StatusReasonInvalid, "", metav1.StatusCause{Type: metav1.CauseTypeFieldValueInvalid, Field: "spec.selector", Message: `Invalid value: {"a":"b"}: field is immutable`}), fault.Invalid, []string{"spec.selector"}},
		"supported":    {refusal(422, metav1.StatusReasonInvalid, "", metav1.StatusCause{Type: metav1.CauseTypeFieldValueNotSupported, Field: "spec.type", Message: `Unsupported value: "short1": supported values: "ClusterIP"`}), fault.Invalid, []string{`supported values: "ClusterIP"`}},
		"typed":        {refusal(500, "", `failed to create typed patch object (ns/s; /v1, Kind=Secret): .data.k: expected string, got &value.valueUnstructured{Value:`+secret+`}`), fault.Invalid, []string{"data.k: expected string; "}},
		"undeclared":   {refusal(500, "", `failed to create typed patch object (ns/s; apps/v1, Kind=Deployment): .spec.foo: field not declared in schema`), fault.Invalid, []string{"spec.foo: the API does not have this field"}},
		"decoder":      {refusal(400, metav1.StatusReasonBadRequest, `Secret in version "v1" cannot be handled as a Secret: illegal base64 data, error found in #10 byte of ...|"k":"short1"|..., bigger context ...|{"data":{"k":"short1"}}|...`), fault.Invalid, []string{"cannot be handled"}},
		"terminating":  {refusal(403, metav1.StatusReasonForbidden, "x", metav1.StatusCause{Type: "NamespaceTerminating"}), fault.Transient, []string{"being deleted"}},
		"busy":         {refusal(429, metav1.StatusReasonTooManyRequests, "x"), fault.Transient, []string{"busy"}},
		"conflict":     {refusal(409, metav1.StatusReasonConflict, `Operation cannot be fulfilled on secrets "s": the object has been modified`), fault.Conflict, []string{"has been modified"}},
		"network":      {errors.New("dial tcp: " + secret), fault.Transient, []string{"cannot be reached"}},
		"time":         {context.DeadlineExceeded, fault.Transient, []string{"in time"}},
	} {
		t.Run(name, func(t *testing.T) {
			err := clean(fault.StageApply, tc.err, ref, object)
			kindOf(t, err, tc.kind)
			for _, p := range append(tc.parts, "Secret/ns/s") {
				if !strings.Contains(err.Error(), p) {
					t.Errorf("no %q in %q", p, err)
				}
			}
			for _, value := range []string{secret, "short1"} {
				if strings.Contains(err.Error(), value) {
					t.Errorf("%q shows a value", err)
				}
			}
			if fault.StageOf(err) != fault.StageApply {
				t.Errorf("stage %s", fault.StageOf(err))
			}
		})
	}
}

// Whatever stands as a value in a field error is left out, also when it imitates the message around it.
func FuzzCleanLeavesValuesOut(f *testing.F) {
	for _, s := range []string{"plain", `a": b`, `\`, "`x`", "x: y: z", "{\"a\":1}", "Invalid value: ", "\n"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		value := "cAnArY" + s + "cAnArY"
		quoted := "Invalid value: " + strconv.Quote(value) + ": must be good"
		for _, err := range []error{
			refusal(http.StatusUnprocessableEntity, metav1.StatusReasonInvalid, "x is invalid: f: "+quoted, metav1.StatusCause{Type: metav1.CauseTypeFieldValueInvalid, Field: "f", Message: quoted}),
			refusal(http.StatusUnprocessableEntity, metav1.StatusReasonInvalid, "x is invalid: f: "+quoted),
			refusal(http.StatusBadRequest, metav1.StatusReasonBadRequest, "cannot read "+strconv.Quote(value)),
			refusal(http.StatusInternalServerError, "", "failed to create typed patch object (a; b): .f: expected string, got "+value),
		} {
			if out := clean(fault.StagePlan, err, fault.Ref{Name: "x"}).Error(); strings.Contains(out, "cAnArY") {
				t.Errorf("shown: %q", out)
			}
		}
	})
}
