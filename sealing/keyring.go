package sealing

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"sort"
	"sync"
	"sync/atomic"
	"time"

	"k8s.io/utils/lru"

	"sealock.dev/sealock/api/sealing/v1alpha1"
	"sealock.dev/sealock/fault"
	"sealock.dev/sealock/plaintext"
)

// KeySecret is what the ring reads of a Secret that holds a key.
type KeySecret struct {
	Namespace   string
	Name        string
	Created     time.Time
	Certificate []byte          // data["tls.crt"]
	PrivateKey  plaintext.Value // data["tls.key"]
}

// IsKeySecret reports whether a Secret of the system namespace is a key: it has the label with the value active, or it
// has no such label and is named exactly as the prefix, as the first versions wrote it.
func IsKeySecret(name string, labels map[string]string, prefix string) bool {
	value, labelled := labels[v1alpha1.KeyLabel]
	if labelled {
		return value == "active"
	}
	return name == prefix
}

// remembered bounds what a memory holds: a few MB of session keys at most.
const remembered = 16384

// KeyRing holds the private keys of the installation. Readers see one immutable snapshot; it is safe for concurrent use.
type KeyRing struct {
	snapshot atomic.Pointer[snapshot]
	loading  sync.Mutex
	// opened serves the commit and the controller. verified serves the HTTP endpoint, so that its callers, who are not
	// authenticated, cannot push out what the others remember.
	opened   memory
	verified memory
}

type snapshot struct {
	generation string
	bySize     map[int][]*PrivateKey // each newest first
	has        map[string]bool       // by fingerprint
	newest     *Certificate
	created    time.Time // when the Secret of newest was
}

// NewKeyRing returns a ring without keys. key makes the digests under which the ring remembers what it opened.
func NewKeyRing(key plaintext.Key) *KeyRing {
	return &KeyRing{
		opened:   memory{key: key, entries: lru.New(remembered)},
		verified: memory{key: key, entries: lru.New(remembered / 8)},
	}
}

// Load replaces the keys. changed is false when the ring opens exactly what it opened before. problems has one fault
// for each Secret that is not a usable key pair; the others are in use all the same.
func (r *KeyRing) Load(secrets []KeySecret) (changed bool, problems error) {
	r.loading.Lock()
	defer r.loading.Unlock()
	var errs []error
	pairs := make([]pair, 0, len(secrets))
	for _, s := range secrets {
		p, err := parsePair(s)
		if err != nil {
			errs = append(errs, err)
		}
		if p.key != nil {
			pairs = append(pairs, p)
		}
	}
	next := newSnapshot(pairs)
	old := r.snapshot.Swap(next)
	return old == nil || old.generation != next.generation, errors.Join(errs...)
}

// pair is one parsed key Secret. cert is nil when it cannot be used for sealing.
type pair struct {
	from KeySecret
	key  *PrivateKey
	cert *Certificate
}

// parsePair returns what is usable: a private key without a fitting certificate still opens.
func parsePair(s KeySecret) (pair, error) {
	p := pair{from: s}
	ref := fault.Ref{APIVersion: "v1", Kind: "Secret", Namespace: s.Namespace, Name: s.Name}
	bad := func(field string, err error, remedy string) error {
		return fault.New(fault.StageOpen, fault.Invalid, ref, "%w", err).At(field).Fix("%s", remedy)
	}
	key, err := ParsePrivateKey(s.PrivateKey)
	if err != nil {
		return p, bad("data.tls.key", err, "store an RSA key as PEM, or remove the label "+v1alpha1.KeyLabel)
	}
	p.key = key
	cert, err := ParseCertificate(s.Certificate)
	if err == nil && cert.fingerprint != key.fingerprint {
		err = errors.New("the certificate is of another key")
	}
	if err != nil {
		return p, bad("data.tls.crt", err, "store the certificate of tls.key; until then the key opens, and nothing new is sealed with it")
	}
	p.cert = cert
	return p, nil
}

// before orders newest first: certificate, then creation, then name.
func (p pair) before(o pair) bool {
	if a, b := p.since(), o.since(); !a.Equal(b) {
		return a.After(b)
	}
	if !p.from.Created.Equal(o.from.Created) {
		return p.from.Created.After(o.from.Created)
	}
	return p.from.Name < o.from.Name
}

func (p pair) since() time.Time {
	if p.cert == nil {
		return time.Time{}
	}
	return p.cert.notBefore
}

func newSnapshot(pairs []pair) *snapshot {
	sort.Slice(pairs, func(i, j int) bool { return pairs[i].before(pairs[j]) })
	s := &snapshot{bySize: map[int][]*PrivateKey{}, has: map[string]bool{}}
	prints := make([]string, 0, len(pairs))
	for _, p := range pairs {
		if s.newest == nil {
			s.newest, s.created = p.cert, p.from.Created
		}
		if s.has[p.key.fingerprint] {
			continue
		}
		s.has[p.key.fingerprint] = true
		s.bySize[p.key.size] = append(s.bySize[p.key.size], p.key)
		prints = append(prints, p.key.fingerprint)
	}
	sort.Strings(prints)
	sum := sha256.Sum256([]byte(fmt.Sprint(prints)))
	s.generation = hex.EncodeToString(sum[:])
	return s
}

// Ready reports whether the keys were loaded once, were it none.
func (r *KeyRing) Ready() bool { return r.snapshot.Load() != nil }

// Generation identifies the set of keys; "" before the first Load. What failed under one may open under another.
func (r *KeyRing) Generation() string {
	if s := r.snapshot.Load(); s != nil {
		return s.generation
	}
	return ""
}

// Newest returns the certificate that new secrets are to be sealed with, nil when there is none.
func (r *KeyRing) Newest() *Certificate {
	if s := r.snapshot.Load(); s != nil {
		return s.newest
	}
	return nil
}

// NewestCreated returns when the key of Newest was stored, by the clock of the API server.
func (r *KeyRing) NewestCreated() time.Time {
	if s := r.snapshot.Load(); s != nil {
		return s.created
	}
	return time.Time{}
}

// errNotLoaded is what the ring answers before the first Load.
var errNotLoaded = errors.New("the sealing keys are not loaded yet")

// Open returns the value that ciphertext holds for the label. Keys of another size cost nothing, the others are tried
// newest first; what was opened once, or is known not to open, costs no private operation again.
func (r *KeyRing) Open(ctx context.Context, ciphertext, label []byte) (plaintext.Value, error) {
	return r.open(ctx, &r.opened, ciphertext, label)
}

func (r *KeyRing) open(ctx context.Context, m *memory, ciphertext, label []byte) (plaintext.Value, error) {
	s := r.snapshot.Load()
	if s == nil {
		return plaintext.Value{}, errNotLoaded
	}
	parts, err := split(ciphertext)
	if err != nil {
		return plaintext.Value{}, err
	}
	if len(s.bySize[len(parts.wrapped)]) == 0 {
		return plaintext.Value{}, errNoKey
	}
	id := m.id(ciphertext, label)
	if e, ok := m.get(id); ok {
		switch {
		case e.opens() && s.has[e.fingerprint]:
			return openBody(e.session, parts.body)
		case !e.opens() && e.generation == s.generation:
			return plaintext.Value{}, errNoKey
		}
	}
	for _, key := range s.bySize[len(parts.wrapped)] {
		if err := ctx.Err(); err != nil {
			return plaintext.Value{}, err
		}
		session, err := key.session(parts, label)
		if err != nil {
			continue
		}
		value, err := openBody(session, parts.body)
		if err != nil {
			continue
		}
		m.put(id, entry{fingerprint: key.fingerprint, session: session})
		return value, nil
	}
	m.put(id, entry{generation: s.generation})
	return plaintext.Value{}, errNoKey
}

// fits reports whether there is a key of the size that the ciphertext needs. Only public facts decide it.
func (r *KeyRing) fits(ciphertext []byte) (bits int, ok bool) {
	s := r.snapshot.Load()
	parts, err := split(ciphertext)
	if s == nil || err != nil {
		return 0, true
	}
	n := len(parts.wrapped)
	return n * 8, len(s.bySize[n]) > 0
}

// memory remembers which key opened a ciphertext, with its unwrapped session key, and what no key opened. A value is
// never in it: without the ciphertext an entry tells nothing. Its ids are keyed digests.
type memory struct {
	key     plaintext.Key
	entries *lru.Cache
}

type entry struct {
	fingerprint string // of the key that opened it, "" when none did
	session     plaintext.Value
	generation  string // of the ring in which no key opened it
}

func (e entry) opens() bool { return e.fingerprint != "" }

func (m *memory) id(ciphertext, label []byte) string { return m.key.Digest(label, ciphertext) }

func (m *memory) get(id string) (entry, bool) {
	v, ok := m.entries.Get(id)
	if !ok {
		return entry{}, false
	}
	e, ok := v.(entry)
	return e, ok
}

func (m *memory) put(id string, e entry) { m.entries.Add(id, e) }

// certificatePEM returns the newest certificate as the endpoint serves it.
func (r *KeyRing) certificatePEM() []byte {
	if c := r.Newest(); c != nil {
		return bytes.Clone(c.pem)
	}
	return nil
}
