package sealedsecret

import (
	"context"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/wait"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"sealock.dev/sealock/api/sealing/v1alpha1"
	"sealock.dev/sealock/fault"
	"sealock.dev/sealock/plaintext"
	"sealock.dev/sealock/sealing"
)

// CertificateConfigMap is where the newest certificate is published for clients that cannot reach the Service, under
// CertificateKey.
const (
	CertificateConfigMap = "sealed-secrets-cert"
	CertificateKey       = "cert.pem"
	keyType              = corev1.SecretTypeTLS
)

// KeyStore keeps a KeyRing as the key Secrets of the system namespace say, and of no other namespace: a tenant's Secret
// with the label is never read. Every replica loads; the leader makes the first key, renews and publishes.
type KeyStore struct {
	// Reader reads from the API server, not from a cache: keys are not to be cached.
	Reader client.Reader
	Client client.Client
	// Namespace is the system namespace.
	Namespace string
	// Prefix of key names; "" is the peer's.
	Prefix string
	Ring   *sealing.KeyRing
	// Bits of a key that is made; 0 is the peer's.
	Bits int
	// RenewAfter is the age of the newest certificate at which a new key is made; 0 is never. Old keys stay.
	RenewAfter time.Duration
	// Elected is closed when this replica leads.
	Elected <-chan struct{}
	// Changed is told when the ring opens other ciphertexts than before.
	Changed func(ctx context.Context)
	// Now may be nil.
	Now func() time.Time

	nudges chan struct{}
	made   time.Time // when this process made a key

	mu     sync.Mutex
	loaded map[string]string // versions of the key Secrets that were read last, by name; nil: they are to be read
	shown  map[string]string // those that the watch shows
	synced bool              // the watch shows all of them
}

const defaultPrefix = "sealed-secrets-key"

// SetupWithManager registers the store, and the watch that tells it of changes. Reader, Client and Elected default to
// the manager's.
func (s *KeyStore) SetupWithManager(mgr ctrl.Manager) error {
	if s.Reader == nil {
		s.Reader = mgr.GetAPIReader()
	}
	if s.Client == nil {
		s.Client = mgr.GetClient()
	}
	if s.Elected == nil {
		s.Elected = mgr.Elected()
	}
	s.prepare()
	if err := mgr.Add(s); err != nil {
		return err
	}
	return mgr.Add(&keyWatch{store: s, informers: mgr.GetCache()})
}

func (s *KeyStore) prepare() {
	if s.nudges == nil {
		s.nudges = make(chan struct{}, 1)
		s.shown = map[string]string{}
	}
	if s.Prefix == "" {
		s.Prefix = defaultPrefix
	}
	if s.Now == nil {
		s.Now = time.Now
	}
}

// NeedLeaderElection says that every replica runs it.
func (s *KeyStore) NeedLeaderElection() bool { return false }

// Start loads the keys, keeps them, and returns when ctx is done.
func (s *KeyStore) Start(ctx context.Context) error {
	s.prepare()
	elected := s.Elected
	leads := false
	renew := time.NewTimer(0)
	defer renew.Stop()
	for {
		s.untilDone(ctx, leads)
		renew.Stop()
		if next, ok := s.renewal(); ok && leads {
			renew.Reset(next)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-elected:
			leads, elected = true, nil
		case <-s.nudges:
			s.outdate()
		case <-renew.C:
		}
	}
}

// untilDone syncs, with a growing delay after a failure. The API server may be away, or the namespace not there yet.
func (s *KeyStore) untilDone(ctx context.Context, leads bool) {
	log := ctrl.LoggerFrom(ctx).WithName("keystore")
	backoff := wait.Backoff{Duration: 500 * time.Millisecond, Factor: 2, Jitter: 0.2, Steps: 8, Cap: time.Minute}
	_ = backoff.DelayFunc().Until(ctx, true, false, func(ctx context.Context) (bool, error) {
		err := s.catchUp(ctx, leads)
		if err == nil {
			return true, nil
		}
		log.Error(err, "sealing keys are not in order")
		return false, nil
	})
}

// Sync loads the keys once. A leader also makes what is missing: a key that can seal, and the published certificate.
// Junk among the key Secrets is logged and does not fail it.
func (s *KeyStore) Sync(ctx context.Context, leads bool) error {
	s.prepare()
	if err := s.load(ctx); err != nil {
		return err
	}
	if !leads {
		return nil
	}
	return s.lead(ctx)
}

// catchUp is Sync, but that keys which are as they were read are not read again.
func (s *KeyStore) catchUp(ctx context.Context, leads bool) error {
	switch {
	case !s.known(), leads && s.lacks(): // another leader may have made a key that the watch does not show yet
		return s.Sync(ctx, leads)
	case leads:
		return s.lead(ctx)
	}
	return nil
}

// lead makes what is missing.
func (s *KeyStore) lead(ctx context.Context) error {
	if s.lacks() {
		if err := s.generate(ctx); err != nil {
			return err
		}
		// Listed again instead of added: another replica may have made one at the same moment, and both count.
		if err := s.load(ctx); err != nil {
			return err
		}
	}
	return s.publish(ctx)
}

// lacks reports whether there is no key to seal with, or only one that is too old.
func (s *KeyStore) lacks() bool {
	due, ok := s.renewal()
	return s.Ring.Newest() == nil || ok && due <= 0
}

// renewal returns how long the newest key is still to be used for sealing. Its certificate tells since when that is, but
// where it begins in the future: it was made by a clock that was wrong then, and without the API server's word nothing would
// be renewed until that time has come. No process makes more than one in a period, whatever the two say.
func (s *KeyStore) renewal() (time.Duration, bool) {
	newest := s.Ring.Newest()
	if s.RenewAfter <= 0 || newest == nil {
		return 0, false
	}
	now, since := s.Now(), newest.NotBefore()
	if since.After(now) {
		since = s.Ring.NewestCreated()
	}
	next := since.Add(s.RenewAfter).Sub(now)
	if !s.made.IsZero() {
		next = max(next, s.RenewAfter-now.Sub(s.made))
	}
	return next, true
}

func (s *KeyStore) load(ctx context.Context) error {
	list := &corev1.SecretList{}
	if err := s.Reader.List(ctx, list, client.InNamespace(s.Namespace), client.MatchingLabels{v1alpha1.KeyLabel: "active"}); err != nil {
		return s.fault("listing the key Secrets", err)
	}
	legacy := &corev1.Secret{}
	err := s.Reader.Get(ctx, client.ObjectKey{Namespace: s.Namespace, Name: s.Prefix}, legacy)
	if err != nil && !apierrors.IsNotFound(err) {
		return s.fault("reading the key Secret "+s.Prefix, err)
	}
	loaded := map[string]string{}
	if err == nil {
		loaded[legacy.Name] = legacy.ResourceVersion
	}
	if err == nil && legacy.Labels[v1alpha1.KeyLabel] == "" {
		list.Items = append(list.Items, *legacy)
	}
	secrets := make([]sealing.KeySecret, 0, len(list.Items))
	for i := range list.Items {
		loaded[list.Items[i].Name] = list.Items[i].ResourceVersion
		if k := &list.Items[i]; k.Namespace == s.Namespace && sealing.IsKeySecret(k.Name, k.Labels, s.Prefix) {
			secrets = append(secrets, sealing.KeySecret{
				Namespace: k.Namespace, Name: k.Name, Created: k.CreationTimestamp.Time,
				Certificate: k.Data[corev1.TLSCertKey], PrivateKey: plaintext.New(k.Data[corev1.TLSPrivateKeyKey]),
			})
		}
	}
	changed, problems := s.Ring.Load(secrets)
	s.mu.Lock()
	s.loaded = loaded
	s.mu.Unlock()
	log := ctrl.LoggerFrom(ctx).WithName("keystore")
	for _, p := range fault.All(problems) {
		log.Error(p, "a key Secret is not usable")
	}
	if changed {
		log.Info("sealing keys loaded", "secrets", len(secrets))
		if s.Changed != nil {
			s.Changed(ctx)
		}
	}
	return nil
}

// generate makes a key in the peer's format. It is one of two places where a private key is revealed: the other parses it.
func (s *KeyStore) generate(ctx context.Context) error {
	// It is to be the newest, also where the one before it begins in the future.
	from := s.Now().Truncate(time.Second) // certificates know no fractions
	if before := s.Ring.Newest(); before != nil && !from.After(before.NotBefore()) {
		from = before.NotBefore().Add(time.Second)
	}
	made, err := sealing.Generate(from, s.Bits)
	if err != nil {
		return fault.New(fault.StageOpen, fault.Internal, s.ref(""), "%w", err)
	}
	secret := &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: s.Namespace, GenerateName: s.Prefix,
			Labels: map[string]string{v1alpha1.KeyLabel: "active"},
		},
		Type: keyType,
		Data: map[string][]byte{corev1.TLSCertKey: made.Certificate, corev1.TLSPrivateKeyKey: made.PrivateKey.Reveal()},
	}
	if err := s.Client.Create(ctx, secret, client.FieldOwner("sealock")); err != nil {
		return s.fault("storing a new key", err)
	}
	s.made = s.Now()
	ctrl.LoggerFrom(ctx).WithName("keystore").Info("sealing key made: back it up", "secret", s.Namespace+"/"+secret.Name)
	return nil
}

// publish writes the newest certificate where a client with a kubeconfig finds it.
func (s *KeyStore) publish(ctx context.Context) error {
	want := map[string]string{CertificateKey: string(s.Ring.Newest().PEM())}
	live := &corev1.ConfigMap{}
	key := client.ObjectKey{Namespace: s.Namespace, Name: CertificateConfigMap}
	err := s.Reader.Get(ctx, key, live)
	switch {
	case apierrors.IsNotFound(err):
		err = s.Client.Create(ctx, &corev1.ConfigMap{
			ObjectMeta: metav1.ObjectMeta{Namespace: s.Namespace, Name: CertificateConfigMap, Labels: map[string]string{"app.kubernetes.io/managed-by": "sealock"}},
			Data:       want,
		}, client.FieldOwner("sealock"))
	case err == nil && live.Data[CertificateKey] != want[CertificateKey]:
		patched := live.DeepCopy()
		patched.Data = want
		err = s.Client.Patch(ctx, patched, client.MergeFrom(live), client.FieldOwner("sealock"))
	}
	if err != nil {
		return s.fault("publishing the certificate", err)
	}
	return nil
}

func (s *KeyStore) ref(name string) fault.Ref {
	return fault.Ref{APIVersion: "v1", Kind: "Secret", Namespace: s.Namespace, Name: name}
}

// fault classifies an error of the API server without its body, which may hold the key that was sent.
func (s *KeyStore) fault(doing string, err error) error {
	f := fault.New(fault.StageOpen, fault.Transient, s.ref(""), "%s: the API server answered %q", doing, string(apierrors.ReasonForError(err)))
	if apierrors.IsForbidden(err) {
		f.Kind = fault.Denied
		return f.Fix("give the controller get, list and create on secrets, and get, create and patch on configmaps, in namespace %s", s.Namespace)
	}
	if apierrors.IsNotFound(err) {
		f.Kind = fault.NotFound
		return f.Fix("create namespace %s", s.Namespace)
	}
	return f
}
