package main

import (
	"errors"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"k8s.io/apimachinery/pkg/types"
)

// durations is the metric by which dashboards of Flux show how long objects take: a histogram with a series for each object.
type durations struct{ *prometheus.HistogramVec }

// newDurations registers the metric, or returns the one that is registered already.
func newDurations(with prometheus.Registerer) (durations, error) {
	d := durations{prometheus.NewHistogramVec(prometheus.HistogramOpts{
		Name:    "gotk_reconcile_duration_seconds",
		Help:    "How long the reconciliation of an object took, in seconds.",
		Buckets: prometheus.ExponentialBuckets(10e-9, 10, 10), // those of Flux
	}, []string{"kind", "name", "namespace"})}
	err := with.Register(d.HistogramVec)
	if already := new(prometheus.AlreadyRegisteredError); errors.As(err, already) {
		if known, ok := already.ExistingCollector.(*prometheus.HistogramVec); ok {
			return durations{known}, nil
		}
	}
	return d, err
}

// of returns what the reconciler of a kind reports to: how long one took, or that the object is gone.
func (d durations) of(kind string) func(key types.NamespacedName, took time.Duration, gone bool) {
	return func(key types.NamespacedName, took time.Duration, gone bool) {
		if gone {
			d.DeleteLabelValues(kind, key.Name, key.Namespace)
			return
		}
		d.WithLabelValues(kind, key.Name, key.Namespace).Observe(took.Seconds())
	}
}
