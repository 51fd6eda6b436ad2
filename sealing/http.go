package sealing

import (
	"errors"
	"io"
	"net/http"
	"time"

	"sealock.dev/sealock/fault"
	"sealock.dev/sealock/manifest"
)

const (
	maxBody    = 10 << 20
	maxItems   = 256
	maxWaiting = 8 // each holds a body
	readBody   = 30 * time.Second
)

// NewHandler serves what kubeseal asks for (reference/sealing-sops.md, section 1.4), over plain HTTP since kubeseal knows
// nothing else. It authenticates nobody; whoever serves it limits who can reach it.
//
//	GET  /v1/cert.pem  200 and the newest certificate; 500 when there is none
//	POST /v1/verify    200 every item opens, 409 not, 400 cannot be read, 413 too large, 429 busy, 500 no SealedSecret
//	POST /v1/rotate    501
//
// Verify is no oracle of a value: it tells one bit about ciphertexts that the caller has, namely whether they open at the
// place that the object names. It runs no template, reveals nothing of what it opened, gives every failure the same
// answer, and says nothing about which item or key. Its answers are not told apart by what else is in the cluster.
// It spends one core at most.
func NewHandler(ring *KeyRing) http.Handler {
	h := &handler{ring: ring, busy: make(chan struct{}, 1), waiting: make(chan struct{}, maxWaiting)}
	mux := http.NewServeMux()
	mux.HandleFunc("/v1/cert.pem", h.certificate)
	mux.HandleFunc("POST /v1/verify", h.verify)
	mux.HandleFunc("POST /v1/rotate", h.rotate)
	return mux
}

type handler struct {
	ring    *KeyRing
	busy    chan struct{} // holds the one request that may use the private keys
	waiting chan struct{}
}

func (h *handler) certificate(w http.ResponseWriter, _ *http.Request) {
	text := h.ring.certificatePEM()
	if text == nil {
		http.Error(w, "cannot get certificate", http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "application/x-pem-file")
	_, _ = w.Write(text)
}

func (h *handler) rotate(w http.ResponseWriter, _ *http.Request) {
	http.Error(w, "re-encryption is not served here: seal the Secret again with sealock seal or kubeseal and the certificate at /v1/cert.pem", http.StatusNotImplemented)
}

func (h *handler) verify(w http.ResponseWriter, r *http.Request) {
	select {
	case h.waiting <- struct{}{}:
		defer func() { <-h.waiting }()
	default:
		w.Header().Set("Retry-After", "1")
		http.Error(w, "too many requests", http.StatusTooManyRequests)
		return
	}
	// A slow sender keeps its place among the waiting no longer than this.
	_ = http.NewResponseController(w).SetReadDeadline(time.Now().Add(readBody))
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxBody))
	if err != nil {
		var tooLarge *http.MaxBytesError
		if errors.As(err, &tooLarge) {
			http.Error(w, "the body is larger than 10 MiB", http.StatusRequestEntityTooLarge)
			return
		}
		http.Error(w, "cannot read the body", http.StatusBadRequest)
		return
	}
	select {
	case h.busy <- struct{}{}:
		defer func() { <-h.busy }()
	case <-r.Context().Done():
		return
	}
	w.WriteHeader(h.judge(r, body))
}

// judge returns the status code for a body.
func (h *handler) judge(r *http.Request, body []byte) int {
	o, err := sealedSecretOf(body)
	if err != nil {
		return http.StatusInternalServerError
	}
	items, err := itemsOf(o)
	if len(items) > maxItems {
		return http.StatusRequestEntityTooLarge
	}
	if err != nil {
		return http.StatusConflict
	}
	if text, ok := o.Peek("spec", "data").(string); ok && text != "" {
		ciphertext, err := decodeItem(text)
		if err != nil {
			return http.StatusConflict
		}
		items = append(items, item{ciphertext: ciphertext})
	}
	label := ScopeOf(o.Annotations()).Label(o.Namespace(), o.Name())
	for _, each := range items {
		_, err := h.ring.open(r.Context(), &h.ring.verified, each.ciphertext, label)
		switch {
		case errors.Is(err, errNoKey):
			return http.StatusConflict
		case err != nil:
			return http.StatusInternalServerError
		}
	}
	return http.StatusOK
}

// sealedSecretOf reads the one SealedSecret of a text.
func sealedSecretOf(text []byte) (manifest.Object, error) {
	limits := manifest.DefaultLimits
	limits.Bytes = maxBody
	docs, err := manifest.Decode("", text, limits)
	if err != nil {
		return manifest.Object{}, err
	}
	bad := fault.New(fault.StageOpen, fault.Invalid, fault.Ref{}, "not one SealedSecret")
	if len(docs) != 1 {
		return manifest.Object{}, bad
	}
	o, err := manifest.New(docs[0].Body, manifest.Source{}, nil)
	if err != nil {
		return manifest.Object{}, err
	}
	if !isSealedSecret(o) {
		return manifest.Object{}, bad
	}
	return o, nil
}
