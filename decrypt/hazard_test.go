package decrypt

import (
	"bytes"
	"context"
	"encoding/json"
	"io/fs"
	"testing"
	"testing/fstest"

	"sealock.dev/sealock/plaintext"
)

// TestHazard_CompactMACMarker: Flux knows an encrypted JSON file by its MAC with a blank before it, and applies the
// ciphertext of one that some tool has written without (flux.md 1.5).
func TestHazard_CompactMACMarker(t *testing.T) {
	keys, recipient := identity(t)
	compact := func(data []byte) []byte {
		var out bytes.Buffer
		if err := json.Compact(&out, data); err != nil || bytes.Contains(out.Bytes(), []byte(`"mac": `)) {
			t.Fatal(err, "not compact")
		}
		return out.Bytes()
	}
	object := `{"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "s"}, "stringData": {"k": "canary"}}`
	files := fstest.MapFS{
		"kustomization.yaml": {Data: []byte("resources: [s.json]\nsecretGenerator: [{name: g, files: [tls.crt]}]\n")},
		"s.json":             {Data: compact(encrypt(t, jsonFormat, object, nil, recipient))},
		"tls.crt":            {Data: compact(encrypt(t, binaryFormat, "canary", nil, recipient))},
	}
	tokens := newTokens()
	opened, err := New(Options{Keys: keys}).OpenFiles(context.Background(), files, tokens)
	if err != nil {
		t.Fatal(err)
	}
	read := func(name string) []byte {
		data, err := fs.ReadFile(opened, name)
		if err != nil {
			t.Fatal(err)
		}
		return data
	}
	if got := payloads(t, "s.json", read("s.json"), tokens); got["s/k"] != "canary" {
		t.Error("the object is not opened")
	}
	if v, _, ok := tokens.Resolve(string(read("tls.crt"))); !ok || !v.Equal(plaintext.FromString("canary")) {
		t.Error("the file of a generator is not opened")
	}
}
