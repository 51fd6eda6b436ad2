package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/discovery"
)

func (w *leakWorld) status(url string) int {
	resp, err := http.Get(url) //nolint:noctx // loopback
	if err != nil {
		return 0
	}
	defer resp.Body.Close()
	return resp.StatusCode
}

func (w *leakWorld) get(url string) string {
	w.Helper()
	resp, err := http.Get(url) //nolint:noctx // loopback
	w.must(err)
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	w.must(err)
	return string(body)
}

// search reports every canary in text. Canaries hold random hex, so a hit is never by chance.
func (w *leakWorld) search(where, text string) {
	w.Helper()
	for name, c := range w.canaries {
		if found := c.FindIn(text); len(found) > 0 {
			at := strings.Index(text, found[0])
			w.Errorf("the canary of %s stands in %s: ...%s", name, where, strings.ReplaceAll(text[max(0, at-200):at], "\n", " "))
		}
	}
}

func (w *leakWorld) searchFiles(dir string) {
	w.Helper()
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		data, err := os.ReadFile(path)
		if err == nil {
			w.search("the file "+path, string(data))
		}
		return err
	})
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		w.Error(err)
	}
}

// searchCluster reads every object of every kind. The Secrets that the canaries are meant for are read without their data.
func (w *leakWorld) searchCluster() {
	w.Helper()
	groups, err := discovery.NewDiscoveryClientForConfig(w.dc.Config)
	w.must(err)
	lists, err := groups.ServerPreferredResources()
	w.must(err)
	delivered := 0
	for _, list := range lists {
		gv, _ := schema.ParseGroupVersion(list.GroupVersion)
		for _, r := range list.APIResources {
			if !strings.Contains(fmt.Sprint(r.Verbs), "list") {
				continue
			}
			objects, err := w.dynamic.Resource(gv.WithResource(r.Name)).List(w.ctx, metav1.ListOptions{})
			w.must(err)
			for i := range objects.Items {
				o := &objects.Items[i]
				if r.Kind == "Secret" {
					if c, meant := w.canaries[o.GetNamespace()+"/"+o.GetName()]; meant {
						text, _ := o.MarshalJSON()
						if o.GetNamespace() == leakNamespace(0) && len(c.FindIn(string(text))) > 0 {
							delivered++
						}
						unstructured.RemoveNestedField(o.Object, "data")
					}
				}
				text, err := o.MarshalJSON()
				w.must(err)
				w.search(fmt.Sprintf("%s %s/%s", r.Kind, o.GetNamespace(), o.GetName()), string(text))
			}
		}
	}
	if delivered != 3 {
		w.Errorf("%d of 3 Secrets were delivered where nothing failed: the search proves nothing", delivered)
	}
}

// capture returns what fn, and everything that it starts, writes to standard output and standard error.
func capture(t *testing.T, fn func()) string {
	t.Helper()
	r, wr, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	oldOut, oldErr := os.Stdout, os.Stderr
	os.Stdout, os.Stderr = wr, wr
	var out bytes.Buffer
	var wg sync.WaitGroup
	wg.Add(1)
	go func() {
		defer wg.Done()
		_, _ = io.Copy(&out, r)
	}()
	defer func() {
		os.Stdout, os.Stderr = oldOut, oldErr
	}()
	func() {
		defer func() {
			_ = wr.Close()
			wg.Wait()
			if t.Failed() {
				lines := strings.Split(out.String(), "\n")
				_, _ = fmt.Fprintln(oldErr, strings.Join(lines[max(0, len(lines)-30):], "\n"))
			}
		}()
		fn()
	}()
	return out.String()
}
