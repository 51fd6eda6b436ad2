package sealing

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"sealock.dev/sealock/plaintext"
)

func ask(h http.Handler, method, path string, body io.Reader) *httptest.ResponseRecorder {
	w := httptest.NewRecorder()
	h.ServeHTTP(w, httptest.NewRequestWithContext(context.Background(), method, path, body))
	return w
}

func TestCertificateEndpoint(t *testing.T) {
	w := ask(NewHandler(ring(t, "rsa2048")), http.MethodGet, "/v1/cert.pem", nil)
	if w.Code != 200 || w.Header().Get("Content-Type") != "application/x-pem-file" || !bytes.Equal(w.Body.Bytes(), read(t, "keys", "rsa2048.crt")) {
		t.Errorf("%d %v", w.Code, w.Header())
	}
	if w := ask(NewHandler(NewKeyRing(plaintext.RandomKey())), http.MethodGet, "/v1/cert.pem", nil); w.Code != 500 {
		t.Errorf("without keys: %d", w.Code)
	}
}

type brokenBody struct{}

func (brokenBody) Read([]byte) (int, error) { return 0, errors.New("cut") }

func TestVerifyCodes(t *testing.T) {
	golden := string(read(t, "golden", "opaque-strict.yaml"))
	doc := func(spec string) io.Reader {
		return strings.NewReader(`{"apiVersion":"bitnami.com/v1alpha1","kind":"SealedSecret","metadata":{"name":"db","namespace":"team-a"},"spec":` + spec + `}`)
	}
	many := ""
	for i := range maxItems + 1 {
		many += fmt.Sprintf(`"k%d":"AQB1",`, i)
	}
	for name, c := range map[string]struct {
		body io.Reader
		want int
	}{
		"yaml":             {strings.NewReader(golden), 200},
		"json":             {bytes.NewReader(read(t, "golden", "basic-auth.json")), 200},
		"no items":         {doc(`{"encryptedData":{}}`), 200},
		"legacy":           {doc(`{"data":"` + sealText(t, "not even a Secret", Strict) + `"}`), 200},
		"failing template": {doc(`{"encryptedData":{"a":"` + sealText(t, "x", Strict) + `"},"template":{"data":{"b":"{{ fail .a }}"}}}`), 200},
		"elsewhere":        {strings.NewReader(strings.Replace(golden, "namespace: team-a", "namespace: team-b", 1)), 409},
		"not a string":     {doc(`{"encryptedData":{"a":7}}`), 409},
		"not base64":       {doc(`{"encryptedData":{"a":"..."}}`), 409},
		"two documents":    {bytes.NewReader(read(t, "golden", "two.yaml")), 500},
		"another kind":     {bytes.NewReader(read(t, "input", "basic-auth.yaml")), 500},
		"unparsable":       {strings.NewReader("{"), 500},
		"nothing":          {strings.NewReader(""), 500},
		"cut":              {brokenBody{}, 400},
		"too large":        {bytes.NewReader(make([]byte, maxBody+1)), 413},
		"too many items":   {doc(`{"encryptedData":{` + strings.TrimSuffix(many, ",") + `}}`), 413},
		"alias bomb":       {strings.NewReader(bomb()), 500},
		"unnamed":          {strings.NewReader(`{"apiVersion":"bitnami.com/v1alpha1","kind":"SealedSecret"}`), 500},
	} {
		w := ask(NewHandler(ring(t, "rsa2048")), http.MethodPost, "/v1/verify", c.body)
		if w.Code != c.want {
			t.Errorf("%s: got %d, want %d", name, w.Code, c.want)
		}
		if w.Code == 200 && w.Body.Len() != 0 {
			t.Errorf("%s: a body came back", name)
		}
	}
}

func bomb() string {
	var b strings.Builder
	b.WriteString("a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n")
	for i := 1; i < 10; i++ {
		fmt.Fprintf(&b, "a%d: &a%d [%s]\n", i, i, strings.TrimSuffix(strings.Repeat(fmt.Sprintf("*a%d, ", i-1), 10), ", "))
	}
	return b.String()
}

// TestVerifyForgetsNothingOfTheOthers fills the memory of the endpoint with junk.
func TestVerifyForgetsNothingOfTheOthers(t *testing.T) {
	r := ring(t, "rsa2048")
	o := objects(t, read(t, "golden", "opaque-strict.yaml"))[0]
	if _, err := open(t, r, o); err != nil {
		t.Fatal(err)
	}
	before := r.opened.entries.Len()
	ask(NewHandler(r), http.MethodPost, "/v1/verify", strings.NewReader(strings.Replace(string(read(t, "golden", "opaque-strict.yaml")), "name: db", "name: other", 1)))
	if r.opened.entries.Len() != before || r.verified.entries.Len() == 0 {
		t.Errorf("%d entries before, %d after; %d of its own", before, r.opened.entries.Len(), r.verified.entries.Len())
	}
}

func TestVerifyTurnsAwayWhenBusy(t *testing.T) {
	h := &handler{ring: ring(t, "rsa2048"), busy: make(chan struct{}, 1), waiting: make(chan struct{}, 1)}
	h.waiting <- struct{}{}
	w := httptest.NewRecorder()
	h.verify(w, httptest.NewRequestWithContext(context.Background(), http.MethodPost, "/v1/verify", strings.NewReader("{}")))
	if w.Code != http.StatusTooManyRequests || w.Header().Get("Retry-After") == "" {
		t.Errorf("got %d", w.Code)
	}
}

func TestRotateSaysWhatToDo(t *testing.T) {
	w := ask(NewHandler(ring(t, "rsa2048")), http.MethodPost, "/v1/rotate", bytes.NewReader(read(t, "golden", "opaque-strict.yaml")))
	if w.Code != http.StatusNotImplemented || !strings.Contains(w.Body.String(), "sealock seal") {
		t.Errorf("%d %s", w.Code, w.Body)
	}
}
