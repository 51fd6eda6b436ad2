// Package webhook answers the API server's admission reviews with the verdict of the policies.
//
// It exists so that what reaches the cluster past Git is judged by the same engine, in the same words. It decides nothing
// itself but who is asked about: it must not write anything, call anything, or log an object. Whatever it cannot
// understand or answer in time it refuses.
package webhook

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"mime"
	"net/http"
	"strings"
	"time"

	admissionv1 "k8s.io/api/admission/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	kjson "sigs.k8s.io/json"

	"sealock.dev/sealock/fault"
	"sealock.dev/sealock/policies"
	"sealock.dev/sealock/tenants"
)

const (
	// Path is where the handler expects reviews, and where config/webhook sends them.
	Path = "/validate"
	// maxBody is above the two largest objects that the API server takes, and their review.
	maxBody = 12 << 20
	// answerWithin is below timeoutSeconds of config/webhook, so that our words arrive instead of a time-out.
	answerWithin = 2500 * time.Millisecond
	// maxAtOnce bounds the memory that reviews hold. More wait, up to their deadline.
	maxAtOnce = 32
)

// Admitter gives the verdict on one request. It is the policies.Engine.
type Admitter interface {
	Admit(ctx context.Context, r policies.Review) []fault.Violation
}

// Options of the handler.
type Options struct {
	Engine Admitter
	// Tenants returns the index in use, nil while it is not loaded; then everything is refused. It has to follow the
	// Tenants on every replica, also on those that do not lead. A request about a namespace that it gives to nobody is
	// refused, since config/webhook sends only those with a tenant's label.
	Tenants func() *tenants.Index
	// Exempt lists the user names whose requests are admitted unseen, because they were judged before: the controller
	// and the platform identity. They are compared whole. One that is a service account also needs the group that only
	// the API server's own authenticator gives, so that a look-alike from another authenticator does not pass.
	Exempt []string
	// Observe, when not nil, is told of every answer, for metrics and logs.
	Observe func(Answer)
}

// Answer is what was decided about one request. It holds nothing of the object but its name.
type Answer struct {
	Ref       fault.Ref
	Operation string
	User      string
	Tenant    string
	Allowed   bool
	Exempt    bool
	DryRun    bool
	Denials   []fault.Violation
	Warnings  []fault.Violation
	Took      time.Duration
	Failure   string // fixed words when there was no verdict
}

// NewHandler returns the handler of Path.
func NewHandler(o Options) http.Handler {
	return &handler{Options: o, slots: make(chan struct{}, maxAtOnce)}
}

type handler struct {
	Options
	slots chan struct{}
}

// failure is an answer that is no verdict. The API server then follows failurePolicy, which is Fail.
type failure struct {
	status int
	words  string
}

func (h *handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	begun := time.Now()
	answer := Answer{}
	defer func() {
		if recover() != nil {
			// What panicked may hold anything: it is not shown.
			answer.Failure = "the webhook panicked"
			http.Error(w, "sealock: "+answer.Failure, http.StatusInternalServerError)
		}
		if h.Observe != nil {
			answer.Took = time.Since(begun)
			h.Observe(answer)
		}
	}()
	ctx, cancel := context.WithTimeout(r.Context(), answerWithin)
	defer cancel()
	body, fail := h.serve(ctx, w, r, &answer)
	if fail != nil {
		answer.Failure = fail.words
		http.Error(w, "sealock: "+fail.words, fail.status)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	_, _ = w.Write(body) // the API server has gone: nobody to tell
}

func (h *handler) serve(ctx context.Context, w http.ResponseWriter, r *http.Request, answer *Answer) ([]byte, *failure) {
	if r.Method != http.MethodPost {
		return nil, &failure{http.StatusMethodNotAllowed, "only POST is served"}
	}
	if media, _, err := mime.ParseMediaType(r.Header.Get("Content-Type")); err != nil || media != "application/json" {
		return nil, &failure{http.StatusUnsupportedMediaType, "the body is not application/json"}
	}
	select {
	case h.slots <- struct{}{}:
		defer func() { <-h.slots }()
	case <-ctx.Done():
		return nil, &failure{http.StatusTooManyRequests, "too many reviews at once"}
	}
	raw, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxBody))
	if err != nil {
		var large *http.MaxBytesError
		if errors.As(err, &large) {
			return nil, &failure{http.StatusRequestEntityTooLarge, "the review is too large"}
		}
		return nil, &failure{http.StatusBadRequest, "the review could not be read"}
	}
	review := admissionv1.AdmissionReview{}
	// Unknown fields are let pass: a newer API server may send more. A field that stands twice may mean two things.
	if strict, err := kjson.UnmarshalStrict(raw, &review, kjson.DisallowDuplicateFields); err != nil || len(strict) > 0 {
		return nil, &failure{http.StatusBadRequest, "the review is not valid JSON"}
	}
	if review.APIVersion != "admission.k8s.io/v1" || review.Kind != "AdmissionReview" || review.Request == nil || review.Request.UID == "" {
		return nil, &failure{http.StatusBadRequest, "the body is not an AdmissionReview of admission.k8s.io/v1 with a request"}
	}
	response, fail := h.review(ctx, review.Request, answer)
	if fail != nil {
		return nil, fail
	}
	response.UID = review.Request.UID
	out, err := json.Marshal(admissionv1.AdmissionReview{TypeMeta: review.TypeMeta, Response: response})
	if err != nil {
		return nil, &failure{http.StatusInternalServerError, "the answer is not JSON"}
	}
	return out, nil
}

// review gives the verdict. A dry run gets the same one: there is nothing that it could spare.
func (h *handler) review(ctx context.Context, req *admissionv1.AdmissionRequest, answer *Answer) (*admissionv1.AdmissionResponse, *failure) {
	answer.Operation, answer.User = string(req.Operation), req.UserInfo.Username
	answer.DryRun = req.DryRun != nil && *req.DryRun
	answer.Ref = fault.Ref{APIVersion: metav1.GroupVersion{Group: req.Kind.Group, Version: req.Kind.Version}.String(), Kind: req.Kind.Kind, Namespace: req.Namespace, Name: req.Name}
	if h.exempt(req.UserInfo) {
		answer.Exempt, answer.Allowed = true, true
		return &admissionv1.AdmissionResponse{Allowed: true}, nil
	}
	index := h.Tenants()
	if index == nil {
		return nil, &failure{http.StatusInternalServerError, "the tenants are not loaded yet"}
	}
	r, scrub, err := read(req)
	if err != nil {
		return deny(err.Error()), nil
	}
	r.Grant = grant(index, r)
	if r.Namespace != "" && r.Grant.Tenant == "" && !r.Grant.Platform {
		// We are asked about namespaces with a tenant's label only: this process has not heard of the Tenant yet, and
		// must not let pass what it cannot judge.
		return nil, &failure{http.StatusServiceUnavailable, "the namespace carries the label of a tenant that is not loaded yet"}
	}
	answer.Tenant = r.Grant.Tenant
	found := h.Engine.Admit(ctx, r)
	for i := range found {
		found[i].Message = scrub.Scrub(found[i].Message)
	}
	answer.Denials = fault.Denials(found)
	response := &admissionv1.AdmissionResponse{Allowed: true}
	if len(answer.Denials) > 0 {
		response = deny(lines(answer.Denials)...)
	}
	for _, v := range found {
		if v.Warn {
			answer.Warnings = append(answer.Warnings, v)
		}
	}
	response.Warnings = lines(answer.Warnings)
	answer.Allowed = response.Allowed
	return response, nil
}

func deny(words ...string) *admissionv1.AdmissionResponse {
	return &admissionv1.AdmissionResponse{Result: &metav1.Status{
		Status: metav1.StatusFailure, Code: http.StatusForbidden, Reason: metav1.StatusReasonForbidden, Message: strings.Join(words, "\n"),
	}}
}

func lines(list []fault.Violation) []string {
	var out []string
	for _, v := range list {
		out = append(out, v.String())
	}
	return out
}
