package sealedsecret

import (
	"context"
	"errors"
	"fmt"
	"maps"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	toolscache "k8s.io/client-go/tools/cache"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"sealock.dev/sealock/api/sealing/v1alpha1"
)

// nudge has the store look whether the keys are those that it read.
func (s *KeyStore) nudge() {
	select {
	case s.nudges <- struct{}{}:
	default: // one is waiting already
	}
}

// show notes what the watch shows of a Secret, and has the store look once everything is shown.
func (s *KeyStore) show(o client.Object, gone bool) {
	if o.GetNamespace() != s.Namespace {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	before, known := s.shown[o.GetName()]
	switch {
	case !gone && s.counts(o):
		s.shown[o.GetName()] = o.GetResourceVersion()
	case known:
		delete(s.shown, o.GetName())
	}
	if after, still := s.shown[o.GetName()]; s.synced && (known != still || before != after) {
		s.nudge()
	}
}

// counts reports whether a Secret of the namespace is one that load reads.
func (s *KeyStore) counts(o client.Object) bool {
	return o.GetLabels()[v1alpha1.KeyLabel] == "active" || o.GetName() == s.Prefix
}

// complete says that everything which was there is shown.
func (s *KeyStore) complete() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.synced = true
	s.nudge()
}

// outdate has the keys read again if the watch shows others than those that were read.
func (s *KeyStore) outdate() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.synced && !maps.Equal(s.shown, s.loaded) {
		s.loaded = nil
	}
}

// known reports whether the keys were read, and are not outdated.
func (s *KeyStore) known() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.loaded != nil
}

// keyWatch tells the store of changes, by the metadata watch of Secrets that the controller has anyway.
type keyWatch struct {
	store     *KeyStore
	informers cache.Informers
}

// NeedLeaderElection says that every replica runs it.
func (w *keyWatch) NeedLeaderElection() bool { return false }

// Start adds the handler, and returns when ctx is done.
func (w *keyWatch) Start(ctx context.Context) error {
	m := &metav1.PartialObjectMetadata{}
	m.SetGroupVersionKind(corev1.SchemeGroupVersion.WithKind("Secret"))
	informer, err := w.informers.GetInformer(ctx, m)
	if err != nil {
		return errors.Join(errors.New("watching key Secrets"), err)
	}
	see := func(obj any, gone bool) {
		if last, ok := obj.(toolscache.DeletedFinalStateUnknown); ok {
			obj = last.Obj
		}
		if o, ok := obj.(client.Object); ok {
			w.store.show(o, gone)
		}
	}
	handle, err := informer.AddEventHandler(toolscache.ResourceEventHandlerFuncs{
		AddFunc:    func(obj any) { see(obj, false) },
		DeleteFunc: func(obj any) { see(obj, true) },
		UpdateFunc: func(_, after any) { see(after, false) },
	})
	if err != nil {
		return fmt.Errorf("watching key Secrets: %w", err)
	}
	if toolscache.WaitForCacheSync(ctx.Done(), handle.HasSynced) {
		w.store.complete()
	}
	<-ctx.Done()
	return informer.RemoveEventHandler(handle)
}
