package cluster

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"

	"github.com/go-logr/logr"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/validate/content"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/apimachinery/pkg/types"
	utiljson "k8s.io/apimachinery/pkg/util/json"
	"k8s.io/client-go/rest"
	"k8s.io/klog/v2"
)

// metadataOnly asks for an object without its body.
const metadataOnly = "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1"

// conn sends requests as one identity. Bodies go through as bytes: they are built where they leave, and never decoded
// into a type that could be printed.
type conn struct {
	rest rest.Interface
}

// answer is what came back.
type answer struct {
	code int
	body map[string]any
}

// created reports whether the object was not there before.
func (a answer) created() bool { return a.code == http.StatusCreated }

// statusCodecs decodes what errors carry and nothing else.
func statusCodecs() runtime.NegotiatedSerializer {
	scheme := runtime.NewScheme()
	metav1.AddToGroupVersion(scheme, schema.GroupVersion{Version: "v1"})
	return serializer.NewCodecFactory(scheme).WithoutConversion()
}

// place is one object's address. sub is a subresource or "".
type place struct {
	kind      kindInfo
	namespace string
	name      string
	sub       string
}

func (p place) segments() ([]string, error) {
	var out []string
	if p.kind.gvk.Group == "" {
		out = append(out, "/api", p.kind.gvk.Version)
	} else {
		out = append(out, "/apis", p.kind.gvk.Group, p.kind.gvk.Version)
	}
	if p.kind.namespaced {
		out = append(out, "namespaces", p.namespace)
	}
	out = append(out, p.kind.resource)
	if p.name != "" {
		out = append(out, p.name)
	}
	if p.sub != "" {
		out = append(out, p.sub)
	}
	for _, s := range out[1:] {
		// Names come from repositories and inventories: one with "/" or ".." would address another object.
		if s == "" || len(content.IsPathSegmentName(s)) > 0 {
			return nil, apierrors.NewBadRequest("the name is not usable in a path")
		}
	}
	return out, nil
}

func (c conn) send(ctx context.Context, req *rest.Request, to place) (answer, error) {
	segments, err := to.segments()
	if err != nil {
		return answer{}, err
	}
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	// client-go logs bodies when its verbosity is raised. No body of ours is ever logged.
	ctx = klog.NewContext(ctx, logr.Discard())
	res := req.AbsPath(segments...).MaxRetries(3).Do(ctx)
	if err := res.Error(); err != nil {
		return answer{}, err
	}
	var out answer
	res.StatusCode(&out.code)
	raw, err := res.Raw()
	if err != nil {
		return answer{}, err
	}
	if utiljson.Unmarshal(raw, &out.body) != nil || out.body == nil {
		return answer{}, errors.New("the answer is not a JSON object")
	}
	return out, nil
}

// apply sends a server-side apply that takes contested fields.
func (c conn) apply(ctx context.Context, to place, body []byte, manager string, dryRun bool) (answer, error) {
	req := c.rest.Patch(types.ApplyPatchType).Param("fieldManager", manager).Param("force", "true").Body(body)
	return c.send(ctx, dry(req, dryRun), to)
}

// watch streams the changes of one object, beginning with what is there. The caller closes it.
func (c conn) watch(ctx context.Context, of place) (io.ReadCloser, error) {
	name := of.name
	of.name = ""
	segments, err := of.segments()
	if err != nil {
		return nil, err
	}
	ctx = klog.NewContext(ctx, logr.Discard())
	return c.rest.Get().AbsPath(segments...).SetHeader("Accept", metadataOnly).
		Param("watch", "true").Param("fieldSelector", "metadata.name="+name).Stream(ctx)
}

func (c conn) jsonPatch(ctx context.Context, to place, patch []byte, manager string) (answer, error) {
	return c.send(ctx, c.rest.Patch(types.JSONPatchType).Param("fieldManager", manager).Body(patch), to)
}

func (c conn) get(ctx context.Context, to place) (answer, error) {
	return c.send(ctx, c.rest.Get().SetHeader("Accept", "application/json"), to)
}

func (c conn) getMeta(ctx context.Context, to place) (answer, error) {
	return c.send(ctx, c.rest.Get().SetHeader("Accept", metadataOnly), to)
}

// create posts to the collection; to.name must be empty unless a subresource is meant.
func (c conn) create(ctx context.Context, to place, body []byte, manager string, dryRun bool) (answer, error) {
	req := c.rest.Post().SetHeader("Content-Type", "application/json").Body(body)
	if manager != "" {
		req = req.Param("fieldManager", manager)
	}
	return c.send(ctx, dry(req, dryRun), to)
}

func (c conn) update(ctx context.Context, to place, body []byte, manager string, dryRun bool) (answer, error) {
	req := c.rest.Put().SetHeader("Content-Type", "application/json").Param("fieldManager", manager).Body(body)
	return c.send(ctx, dry(req, dryRun), to)
}

// delete removes exactly the object with the uid; with "" whichever has the name.
func (c conn) delete(ctx context.Context, to place, uid string) error {
	background := metav1.DeletePropagationBackground
	options := metav1.DeleteOptions{TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "DeleteOptions"}, PropagationPolicy: &background}
	if uid != "" {
		options.Preconditions = metav1.NewUIDPreconditions(uid)
	}
	body, err := json.Marshal(options)
	if err != nil {
		return err
	}
	_, err = c.send(ctx, c.rest.Delete().SetHeader("Content-Type", "application/json").Body(body), to)
	return err
}

func dry(req *rest.Request, dryRun bool) *rest.Request {
	if dryRun {
		return req.Param("dryRun", metav1.DryRunAll)
	}
	return req
}
