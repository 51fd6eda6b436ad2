package externalsecret

import (
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	v1 "sealock.dev/sealock/api/externalsecrets/v1"
	"sealock.dev/sealock/externalsecrets"
)

// reason says why a refresh is due.
type reason int

const (
	notDue     reason = iota
	dueFirst          // never read
	dueChanged        // the object, one of its labels or one of its annotations changed since it was read
	dueTime           // the interval is over
	dueAgain          // the last attempt failed, or a store changed
)

// due decides as external-secrets does (reference/external-secrets.md, section 1.2), but that a failure is always tried
// again, and that an interval of 0 does not hide a change of the object.
func due(live *unstructured.Unstructured, spec v1.ExternalSecretSpec, was v1.ExternalSecretStatus, now time.Time) reason {
	if was.SyncedResourceVersion == "" || was.RefreshTime.IsZero() {
		return dueFirst
	}
	changed := was.SyncedResourceVersion != externalsecrets.SyncedResourceVersion(live.GetGeneration(), live.GetAnnotations(), live.GetLabels())
	switch {
	case failed(was):
		if changed {
			return dueChanged
		}
		return dueAgain
	case spec.RefreshPolicy == "CreatedOnce":
		return notDue
	case changed:
		return dueChanged
	case spec.RefreshPolicy == "OnChange" || spec.RefreshInterval.Duration <= 0:
		return notDue
	case was.RefreshTime.After(now) || !was.RefreshTime.Add(spec.RefreshInterval.Duration).After(now):
		return dueTime
	}
	return notDue
}

func failed(was v1.ExternalSecretStatus) bool {
	c := ready(was.Conditions)
	return c != nil && c.Status == corev1.ConditionFalse
}

// untilNext returns how long nothing needs to be done, 0 for ever.
func untilNext(spec v1.ExternalSecretSpec, was v1.ExternalSecretStatus, now time.Time) time.Duration {
	if spec.RefreshPolicy != externalsecrets.RefreshPeriodic || spec.RefreshInterval.Duration <= 0 {
		return 0
	}
	return max(time.Second, was.RefreshTime.Add(spec.RefreshInterval.Duration).Sub(now))
}
