package webhook

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	admissionv1 "k8s.io/api/admission/v1"
	authenticationv1 "k8s.io/api/authentication/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	kjson "sigs.k8s.io/json"

	"sealock.dev/sealock/api/sealock/v1alpha1"
	"sealock.dev/sealock/manifest"
	"sealock.dev/sealock/plaintext"
	"sealock.dev/sealock/policies"
	"sealock.dev/sealock/tenants"
)

// exempt reports whether the requests of the user are admitted unseen.
func (h *handler) exempt(user authenticationv1.UserInfo) bool {
	if user.Username == "" || !slices.Contains(h.Exempt, user.Username) {
		return false
	}
	account, isAccount := strings.CutPrefix(user.Username, "system:serviceaccount:")
	if !isAccount {
		return true
	}
	namespace, _, _ := strings.Cut(account, ":")
	return slices.Contains(user.Groups, "system:serviceaccounts:"+namespace)
}

// read makes a Review of a request, and a Scrubber that knows the values of its Secrets. Errors are safe to show.
func read(req *admissionv1.AdmissionRequest) (policies.Review, *plaintext.Scrubber, error) {
	r := policies.Review{
		Kind:        schema.GroupVersionKind(req.Kind),
		Resource:    schema.GroupVersionResource(req.Resource),
		SubResource: req.SubResource,
		Name:        req.Name,
		Namespace:   req.Namespace,
		Operation:   string(req.Operation),
		DryRun:      req.DryRun != nil && *req.DryRun,
		User:        policies.User{Username: req.UserInfo.Username, UID: req.UserInfo.UID, Groups: req.UserInfo.Groups, Extra: extra(req.UserInfo)},
	}
	if isNamespace(r.Kind) {
		r.Namespace = "" // a namespace is in none, whatever the request says
	}
	scrub := plaintext.NewScrubber()
	var err error
	if r.Object, err = object(req, "object", req.Object.Raw); err != nil {
		return r, nil, err
	}
	if r.OldObject, err = object(req, "oldObject", req.OldObject.Raw); err != nil {
		return r, nil, err
	}
	for _, o := range []*manifest.Object{r.Object, r.OldObject} {
		if o != nil {
			scrub.Add(o.Values()...)
		}
	}
	switch r.Operation {
	case string(admissionv1.Delete):
		if r.OldObject == nil {
			return r, nil, errors.New("the request to delete does not say what")
		}
	case string(admissionv1.Create), string(admissionv1.Update):
		if r.Object == nil {
			return r, nil, errors.New("the request brings no object")
		}
	}
	return r, scrub, nil
}

func extra(user authenticationv1.UserInfo) map[string][]string {
	if len(user.Extra) == 0 {
		return nil
	}
	out := make(map[string][]string, len(user.Extra))
	for k, v := range user.Extra {
		out[k] = v
	}
	return out
}

func isNamespace(gvk schema.GroupVersionKind) bool { return gvk.Group == "" && gvk.Kind == "Namespace" }

// object lifts the payloads of Secrets as everywhere. What CONNECT sends (PodExecOptions) and what the API server will
// name itself has no name: it gets one for the time of reading.
func object(req *admissionv1.AdmissionRequest, field string, raw []byte) (*manifest.Object, error) {
	if len(raw) == 0 || string(raw) == "null" {
		return nil, nil
	}
	var body map[string]any
	if strict, err := kjson.UnmarshalStrict(raw, &body, kjson.DisallowDuplicateFields); err != nil || len(strict) > 0 || body == nil {
		return nil, fmt.Errorf("%s: not a JSON object", field) // the parser's words may quote it
	}
	// Only by the kind of the request is it known what a Secret is.
	body["apiVersion"], body["kind"] = schema.GroupVersion{Group: req.Kind.Group, Version: req.Kind.Version}.String(), req.Kind.Kind
	bare, nameless := false, false
	meta, isMap := body["metadata"].(map[string]any)
	if !isMap {
		bare, meta = true, map[string]any{}
		body["metadata"] = meta
	}
	if name, _ := meta["name"].(string); name == "" {
		nameless = true
		meta["name"] = "unnamed"
	}
	o, err := manifest.New(body, manifest.Source{}, nil)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", field, err)
	}
	if bare || nameless {
		o = o.Edit(func(body map[string]any) {
			if bare {
				delete(body, "metadata")
				return
			}
			if meta, ok := body["metadata"].(map[string]any); ok {
				delete(meta, "name")
			}
		})
	}
	return &o, nil
}

// grant returns the tenant that the request is about: the owner of its namespace. A Namespace belongs to the tenant that
// lists it, or that its label names, now or before; any other cluster-scoped object to the tenant whose commit writes it.
func grant(index *tenants.Index, r policies.Review) tenants.Grant {
	if r.Namespace != "" {
		return index.GrantFor(r.Namespace)
	}
	if isNamespace(r.Kind) {
		if g := index.GrantFor(r.Name); g.Tenant != "" {
			return g
		}
		for _, o := range []*manifest.Object{r.OldObject, r.Object} {
			if o == nil {
				continue
			}
			if label, present := o.Labels()[v1alpha1.TenantLabel]; present {
				return byName(index, label)
			}
		}
	}
	if name, ok := strings.CutPrefix(r.User.Username, tenants.User("")); ok {
		return byName(index, name)
	}
	return tenants.Grant{}
}

// byName returns the fences of a tenant. One that does not exist has a name and nothing else, so that what claims it is
// not left alone as if it belonged to nobody.
func byName(index *tenants.Index, tenant string) tenants.Grant {
	if list := index.NamespacesOf(tenant); len(list) > 0 {
		return index.GrantFor(list[0])
	}
	if tenant == "" {
		tenant = "(none)"
	}
	return tenants.Grant{Tenant: tenant}
}
