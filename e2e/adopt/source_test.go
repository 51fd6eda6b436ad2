//go:build adopt

package adopt

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"maps"
	"net/http"
	"net/http/httptest"
	"slices"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
)

// artifact serves the files as source-controller does, and writes the status that it writes.
func (a *adoption) artifact(namespace, name, commit string, files map[string]string) {
	a.Helper()
	body := archive(a, files)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(body) }))
	a.Cleanup(server.Close)
	path := "gitrepository/" + namespace + "/" + name + "/" + commit + ".tar.gz"
	digest := sha256.Sum256(body)
	now, revision := metav1.Now().UTC().Format(time.RFC3339), "main@sha1:"+commit
	api, err := a.Resource(schema.FromAPIVersionAndKind(srcAPI, "GitRepository"), namespace)
	a.ok(err)
	repo, err := api.Get(a.ctx, name, metav1.GetOptions{})
	a.ok(err)
	condition := func(kind, message string) map[string]any {
		return map[string]any{"type": kind, "status": "True", "reason": "Succeeded", "message": message, "lastTransitionTime": now, "observedGeneration": repo.GetGeneration()}
	}
	status, err := json.Marshal(map[string]any{"status": map[string]any{
		"observedGeneration": repo.GetGeneration(),
		"artifact": map[string]any{
			"path": path, "url": server.URL + "/" + path, "revision": revision, "digest": "sha256:" + hex.EncodeToString(digest[:]), "size": len(body), "lastUpdateTime": now,
		},
		"conditions": []any{condition("Ready", "stored artifact for revision '"+revision+"'"), condition("ArtifactInStorage", "stored artifact for revision '"+revision+"'")},
	}})
	a.ok(err)
	_, err = api.Patch(a.ctx, name, types.MergePatchType, status, metav1.PatchOptions{FieldManager: "source-controller"}, "status")
	a.ok(err)
}

func archive(a *adoption, files map[string]string) []byte {
	a.Helper()
	var out bytes.Buffer
	zipped := gzip.NewWriter(&out)
	w := tar.NewWriter(zipped)
	for _, name := range slices.Sorted(maps.Keys(files)) {
		if files[name] == "" {
			continue
		}
		a.ok(w.WriteHeader(&tar.Header{Name: name, Mode: 0o600, Size: int64(len(files[name]))}))
		_, err := w.Write([]byte(files[name]))
		a.ok(err)
	}
	a.ok(w.Close())
	a.ok(zipped.Close())
	return out.Bytes()
}
