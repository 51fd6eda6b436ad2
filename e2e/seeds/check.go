package main

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"

	"sealock.dev/sealock/e2e/harness"
)

// checker holds seeds against a running installation.
type checker struct {
	*harness.World
	seeds map[string]string
	dir   string
}

func (c *checker) namespaces(ctx context.Context, names ...string) error {
	for _, name := range names {
		if err := c.Apply(ctx, "apiVersion: v1\nkind: Namespace\nmetadata: {name: "+name+"}\n"); err != nil {
			return err
		}
	}
	return nil
}

// check returns what became of the seed, or what is wrong with that.
func (c *checker) check(ctx context.Context, e expectation) (string, error) {
	text, ok := c.seeds[e.id]
	if !ok {
		return "", fmt.Errorf("there is no such seed in the folder")
	}
	if e.check != nil {
		return e.check(c)
	}
	objects, err := harness.Parse(text)
	if err != nil || len(objects) != 1 {
		return "", fmt.Errorf("it holds %d objects, want one (%v)", len(objects), err)
	}
	seed := objects[0]
	live, err := c.apply(ctx, seed)
	if e.refused != nil {
		return refusal(err, e.refused)
	}
	if err != nil {
		return "", err
	}
	if changed := differences(asStored(seed), live.Object, ""); len(changed) > 0 {
		return "", fmt.Errorf("accepted, but the API server dropped or changed %s", strings.Join(changed, ", "))
	}
	if e.then == nil {
		return "accepted unchanged", nil
	}
	message, err := c.condition(ctx, seed, *e.then)
	if err != nil {
		return "", err
	}
	return "accepted unchanged; status: " + message, nil
}

// apply writes the seed as `kubectl apply --server-side` does, refusing unknown fields.
func (c *checker) apply(ctx context.Context, seed *unstructured.Unstructured) (*unstructured.Unstructured, error) {
	namespace := seed.GetNamespace()
	if namespace == "" {
		namespace = "default"
	}
	api, err := c.Resource(seed.GroupVersionKind(), namespace)
	if err != nil {
		return nil, err
	}
	body, err := json.Marshal(seed)
	if err != nil {
		return nil, err
	}
	force := true
	return api.Patch(ctx, seed.GetName(), types.ApplyPatchType, body,
		metav1.PatchOptions{FieldManager: "seeds", Force: &force, FieldValidation: metav1.FieldValidationStrict})
}

func refusal(err error, fields []string) (string, error) {
	if err == nil {
		return "", fmt.Errorf("accepted, but it is a fragment")
	}
	for _, field := range fields {
		if !strings.Contains(err.Error(), field) {
			return "", fmt.Errorf("refused without naming %s: %w", field, err)
		}
	}
	return "refused, naming " + strings.Join(fields, ", "), nil
}

func (c *checker) condition(ctx context.Context, seed *unstructured.Unstructured, want condition) (string, error) {
	message := "no condition yet"
	err := c.Wait(ctx, 30*time.Second, "the status", func(ctx context.Context) (bool, error) {
		live, err := c.Get(ctx, seed.GetAPIVersion(), seed.GetKind(), seed.GetNamespace(), seed.GetName())
		if err != nil || live == nil {
			return false, err
		}
		var status string
		status, _, message = harness.Condition(live, want.typ)
		return status == want.status && !slices.ContainsFunc(want.words, func(w string) bool { return !strings.Contains(message, w) }), nil
	})
	if err != nil {
		return "", fmt.Errorf("%w; want %s=%s with %v, last message: %s", err, want.typ, want.status, want.words, message)
	}
	return message, nil
}

// asStored is the seed as the API server shows it: stringData of a Secret is write-only.
func asStored(seed *unstructured.Unstructured) map[string]any {
	o := seed.DeepCopy().Object
	text, ok := o["stringData"].(map[string]any)
	if !ok {
		return o
	}
	data := map[string]any{}
	for k, v := range text {
		data[k] = base64.StdEncoding.EncodeToString(fmt.Append(nil, v))
	}
	o["data"] = data
	delete(o, "stringData")
	return o
}

// differences returns the paths of want that got does not have so; got may hold more, by defaults.
func differences(want, got any, path string) []string {
	switch w := want.(type) {
	case map[string]any:
		g, _ := got.(map[string]any)
		var out []string
		for k, v := range w {
			out = append(out, differences(v, g[k], path+"."+k)...)
		}
		slices.Sort(out)
		return out
	case []any:
		g, _ := got.([]any)
		if len(g) != len(w) {
			return []string{path}
		}
		var out []string
		for i := range w {
			out = append(out, differences(w[i], g[i], fmt.Sprintf("%s[%d]", path, i))...)
		}
		return out
	}
	a, _ := json.Marshal(want)
	b, _ := json.Marshal(got)
	if string(a) != string(b) {
		return []string{path}
	}
	return nil
}
