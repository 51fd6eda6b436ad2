package cluster

import (
	"github.com/fluxcd/cli-utils/pkg/kstatus/status"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// health is a status in the words of kstatus, which users of Flux know.
type health uint8

const (
	healthUnknown health = iota
	healthCurrent
	healthInProgress
	healthFailed
	healthTerminating
)

// String returns the word.
func (h health) String() string {
	switch h {
	case healthCurrent:
		return "Current"
	case healthInProgress:
		return "InProgress"
	case healthFailed:
		return "Failed"
	case healthTerminating:
		return "Terminating"
	case healthUnknown:
	}
	return "Unknown"
}

// longestMessage bounds what is kept of a message.
const longestMessage = 160

// healthOf judges a live object by kstatus; a Job is healthy when it is complete, not when it has begun.
func healthOf(body map[string]any) (health, string) {
	u := &unstructured.Unstructured{Object: body}
	gk := u.GroupVersionKind().GroupKind()
	res, err := status.Compute(u)
	if err != nil || res == nil {
		return healthUnknown, "the status cannot be read"
	}
	switch res.Status {
	case status.CurrentStatus:
		if isJob(gk) && !complete(body) {
			return healthInProgress, "the job has not completed"
		}
		return healthCurrent, ""
	case status.InProgressStatus:
		return healthInProgress, messageOf(gk, res)
	case status.FailedStatus:
		return healthFailed, messageOf(gk, res)
	case status.TerminatingStatus:
		return healthTerminating, "deletion has begun"
	case status.NotFoundStatus, status.UnknownStatus:
	}
	return healthUnknown, ""
}

// messageOf returns the words of kstatus for the kinds that Kubernetes itself has. Of other kinds it returns the
// reason only: their messages are text of some controller, and may hold anything.
func messageOf(gk schema.GroupKind, res *status.Result) string {
	msg := ""
	switch gk.Group {
	case "", "apps", "batch", "apiextensions.k8s.io", "policy":
		msg = res.Message
	default:
		for _, c := range res.Conditions {
			msg = c.Reason
		}
	}
	if len(msg) > longestMessage {
		msg = msg[:longestMessage] + "..."
	}
	return msg
}

func complete(body map[string]any) bool {
	conditions, _ := dig(body, "status", "conditions").([]any)
	for _, each := range conditions {
		c, _ := each.(map[string]any)
		if c["type"] == "Complete" && c["status"] == "True" {
			return true
		}
	}
	return false
}
