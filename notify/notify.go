// Package notify tells what happened to an object: as a Kubernetes event, and by a POST in the format of Flux's
// notification-controller.
//
// It exists so that alerts which people have set up for Flux go on (reference/flux.md, section 1.3), and so that one place
// keeps to its bounds. It must not hold up who tells, follow a redirect, read a Secret, or know what any event means.
package notify

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/go-logr/logr"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/tools/record"
	"k8s.io/client-go/tools/reference"
)

const (
	// Trace is the type of an event that is written to the cluster and posted nowhere.
	Trace = "Trace"
	// Posted is the type of one that is posted and not written to the cluster, where it would be a request that tells nobody
	// anything: that all is as it was, for receivers that need to hear it of each commit.
	Posted = "Posted"

	annotationPrefix = "event.toolkit.fluxcd.io/"

	postBytes = 39_000 // of a message, in a POST
	noteBytes = 1024   // of a message, in the cluster

	// queued is how many events may wait to be posted: one of each object for a commit that all of a large repository is
	// told of, at a few hundred bytes each. What does not fit is dropped, and that is logged.
	queued     = 4096
	tries      = 5
	firstRetry = time.Second
	timeout    = 5 * time.Second
)

// event is the body of a POST: Event of event.toolkit.fluxcd.io/v1beta1.
type event struct {
	InvolvedObject      corev1.ObjectReference `json:"involvedObject"`
	Severity            string                 `json:"severity"`
	Timestamp           metav1.Time            `json:"timestamp"`
	Message             string                 `json:"message"`
	Reason              string                 `json:"reason"`
	Metadata            map[string]string      `json:"metadata,omitempty"`
	ReportingController string                 `json:"reportingController"`
	ReportingInstance   string                 `json:"reportingInstance,omitempty"`
}

// Options are what a Poster works with.
type Options struct {
	// Address to post to, http or https. Empty: nothing is posted.
	Address string
	// Instance names this process in what is posted.
	Instance string
	Scheme   *runtime.Scheme
	Log      logr.Logger
	// Proxy chooses a proxy for the address. nil: none.
	Proxy func(*http.Request) (*url.URL, error)
	// Wait returns after the time, or with an error when ctx is done before. nil: it waits by the clock.
	Wait func(ctx context.Context, d time.Duration) error
}

// Poster posts events, one after the other, in the order in which they were told. It is safe for concurrent use.
type Poster struct {
	Options
	client *http.Client
	queue  chan event
}

// New returns a Poster. It fails when the address is none.
func New(o Options) (*Poster, error) {
	if o.Address != "" {
		u, err := url.Parse(o.Address)
		if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" {
			return nil, errors.New("the address for events is not http://host or https://host") // the address may hold a credential
		}
	}
	if o.Wait == nil {
		o.Wait = wait
	}
	transport := &http.Transport{
		Proxy: o.Proxy, DialContext: (&net.Dialer{Timeout: timeout}).DialContext,
		MaxIdleConnsPerHost: 1, IdleConnTimeout: time.Minute, TLSHandshakeTimeout: timeout,
	}
	return &Poster{
		Options: o,
		queue:   make(chan event, queued),
		client: &http.Client{
			Transport: transport, Timeout: timeout,
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		},
	}, nil
}

// Recorder returns a recorder of the events of a controller. They also go to the cluster, by way of next, whose source
// component should be the same.
func (p *Poster) Recorder(controller string, next record.EventRecorder) record.EventRecorder {
	return recorder{p: p, controller: controller, next: next}
}

type recorder struct {
	p          *Poster
	controller string
	next       record.EventRecorder
}

func (r recorder) Event(object runtime.Object, kind, reason, message string) {
	r.AnnotatedEventf(object, nil, kind, reason, "%s", message)
}

func (r recorder) Eventf(object runtime.Object, kind, reason, format string, args ...any) {
	r.AnnotatedEventf(object, nil, kind, reason, format, args...)
}

func (r recorder) AnnotatedEventf(object runtime.Object, annotations map[string]string, kind, reason, format string, args ...any) {
	message := format
	if len(args) > 0 {
		message = fmt.Sprintf(format, args...)
	}
	annotations = withOwn(annotations, object)
	severity := severityOf(kind)
	if reason == "" {
		reason = severity
	}
	if kind != Posted {
		inCluster := kind
		if kind == Trace {
			inCluster = corev1.EventTypeNormal
		}
		r.next.AnnotatedEventf(object, annotations, inCluster, reason, "%s", cut(message, noteBytes))
	}
	if kind == Trace || r.p.Address == "" {
		return
	}
	ref, err := reference.GetReference(r.p.Scheme, object)
	if err != nil || ref.Kind == "" || ref.Name == "" || ref.Namespace == "" {
		r.p.Log.Info("event not posted: its object has no name, kind or namespace", "controllerKind", r.controller)
		return
	}
	r.p.enqueue(event{
		InvolvedObject: *ref, Severity: severity, Timestamp: metav1.Now(), Message: cut(message, postBytes), Reason: reason,
		Metadata: annotations, ReportingController: r.controller, ReportingInstance: r.p.Instance,
	})
}

// withOwn adds the annotations of the object that are meant for events.
func withOwn(annotations map[string]string, object runtime.Object) map[string]string {
	annotated, ok := object.(metav1.Object)
	if !ok {
		return annotations
	}
	out := maps.Clone(annotations)
	for k, v := range annotated.GetAnnotations() {
		if strings.HasPrefix(k, annotationPrefix) {
			if out == nil {
				out = map[string]string{}
			}
			out[k] = v
		}
	}
	return out
}

func severityOf(kind string) string {
	switch kind {
	case corev1.EventTypeWarning:
		return "error"
	case Trace:
		return "trace"
	}
	return "info"
}

// cut shortens a text to at most limit bytes, between two characters.
func cut(text string, limit int) string {
	const dots = "..."
	if len(text) <= limit {
		return text
	}
	end := limit - len(dots)
	for end > 0 && !utf8.RuneStart(text[end]) {
		end--
	}
	return text[:end] + dots
}

func (p *Poster) enqueue(e event) {
	select {
	case p.queue <- e:
	default:
		p.Log.Info("event not posted: too many wait already", "controllerKind", e.InvolvedObject.Kind, "name", e.InvolvedObject.Name, "namespace", e.InvolvedObject.Namespace)
	}
}

// Start posts until ctx is done. What waits then is lost: it is in the cluster.
func (p *Poster) Start(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case e := <-p.queue:
			p.post(ctx, e)
		}
	}
}

// post tries a few times, where another try may help.
func (p *Poster) post(ctx context.Context, e event) {
	body, err := json.Marshal(e)
	if err != nil {
		return // strings and times only
	}
	why := ""
	for try := range tries {
		if try > 0 && p.Wait(ctx, firstRetry<<(try-1)) != nil {
			return
		}
		reason, again := p.once(ctx, body)
		if why = reason; !again {
			break
		}
	}
	if why != "" && ctx.Err() == nil {
		p.Log.Info("event not posted", "why", why, "controllerKind", e.InvolvedObject.Kind, "name", e.InvolvedObject.Name, "namespace", e.InvolvedObject.Namespace)
	}
}

// once returns why the event was not taken, in words that hold neither the address nor the answer, and whether to try again.
func (p *Poster) once(ctx context.Context, body []byte) (why string, again bool) {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, p.Address, bytes.NewReader(body))
	if err != nil {
		return "no request can be made of the address", false
	}
	req.Header.Set("Content-Type", "application/json")
	resp, err := p.client.Do(req)
	if err != nil {
		return "no answer", true
	}
	defer resp.Body.Close()
	// Read to the end, within a bound, so that the connection is used again.
	_, _ = io.Copy(io.Discard, io.LimitReader(resp.Body, postBytes))
	switch code := resp.StatusCode; {
	case code < 300, code == http.StatusTooManyRequests: // the same was posted a moment ago
		return "", false
	case code >= 500 && code != http.StatusNotImplemented:
		return fmt.Sprintf("status %d", code), true
	default:
		return fmt.Sprintf("status %d", code), false
	}
}

func wait(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
