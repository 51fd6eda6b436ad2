package policies

import (
	"maps"
	"reflect"
	"sort"
	"strconv"
	"strings"

	"github.com/open-policy-agent/opa/v1/ast"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"sealock.dev/sealock/fault"
	"sealock.dev/sealock/manifest"
	"sealock.dev/sealock/plaintext"
	"sealock.dev/sealock/tenants"
)

// subject is one object, or one request about an object, on its way to the policies.
type subject struct {
	point     Point
	operation string // "" before apply
	gvk       schema.GroupVersionKind
	resource  schema.GroupVersionResource
	sub       string
	name      string
	namespace string
	object    *manifest.Object
	old       *manifest.Object
	user      *User
	dryRun    bool
	origin    manifest.Origin // "" where it is not known
	revision  string
	tenant    string
	facts     *ast.Term // nil: no tenant
	ref       fault.Ref
}

// document is the input of policies, version 1, in the form in which OPA evaluates it. It is built once for an object
// and shared by all policies; only the operation and the parameters differ between them. Fields:
//
//	review           as an AdmissionRequest: kind, resource, subResource, name, namespace, operation, object, oldObject, userInfo, dryRun.
//	                 Objects lack managedFields and kubectl's last-applied annotation. A payload of a Secret is {"digest", "length"};
//	                 any other decrypted value is "[plaintext]". Before apply userInfo has only the name that the commit acts as.
//	                 A DELETE has the old object as object.
//	parameters       spec.parameters of the policy, {} without.
//	tenant           the tenant's facts; absent when the object belongs to none.
//	point            commit, reconcile or admission.
//	origin           of the secret content: plain, sops, sealed, external; absent at admission, where nobody knows.
//	source           file, line, revision; before apply.
//	pods             path and spec of each pod specification in the object, whatever its kind.
//	serviceAccounts  where (at) the object names which service account for pods; a pod that names none has "default".
//	secretRefs       names of the Secrets that the pods refer to.
type document struct {
	review  map[string]*ast.Term // by operation
	fields  [][2]*ast.Term       // of review, without operation
	shared  [][2]*ast.Term       // of the input, without review and parameters
	subject *subject
}

func newDocument(s *subject, key plaintext.Key) (*document, error) {
	d := &document{subject: s, review: map[string]*ast.Term{}}
	d.addReview("kind", terms(map[string]string{"group": s.gvk.Group, "version": s.gvk.Version, "kind": s.gvk.Kind}))
	if s.resource.Resource != "" {
		d.addReview("resource", terms(map[string]string{"group": s.resource.Group, "version": s.resource.Version, "resource": s.resource.Resource}))
	}
	for field, text := range map[string]string{"name": s.name, "namespace": s.namespace, "subResource": s.sub} {
		if text != "" {
			d.addReview(field, ast.StringTerm(text))
		}
	}
	if s.dryRun {
		d.addReview("dryRun", ast.BooleanTerm(true))
	}
	if s.user != nil {
		user, err := s.user.term()
		if err != nil {
			return nil, err
		}
		d.addReview("userInfo", user)
	}
	if s.old != nil {
		old, err := ast.InterfaceToValue(view(*s.old, key))
		if err != nil {
			return nil, err
		}
		d.addReview("oldObject", ast.NewTerm(old))
	}
	d.addShared("point", ast.StringTerm(string(s.point)))
	if s.facts != nil {
		d.addShared("tenant", s.facts)
	}
	if s.origin != "" {
		d.addShared("origin", ast.StringTerm(string(s.origin)))
	}
	return d, d.addObject(key)
}

func (d *document) addReview(field string, t *ast.Term) {
	d.fields = append(d.fields, [2]*ast.Term{ast.InternedTerm(field), t})
}

func (d *document) addShared(field string, t *ast.Term) {
	d.shared = append(d.shared, [2]*ast.Term{ast.InternedTerm(field), t})
}

// addObject adds the object, and what the visitors find in it.
func (d *document) addObject(key plaintext.Key) error {
	s := d.subject
	var pods []manifest.PodSpec
	var accounts []accountUse
	if s.object == nil {
		d.addShared("pods", ast.ArrayTerm())
	} else {
		body := view(*s.object, key)
		object, err := ast.InterfaceToValue(body)
		if err != nil {
			return err
		}
		d.addReview("object", ast.NewTerm(object))
		pods = manifest.PodSpecs(body)
		accounts = serviceAccounts(body, pods)
		list, err := podTerms(body, object, pods)
		if err != nil {
			return err
		}
		d.addShared("pods", list)
		if src := s.object.Source; src.File != "" || s.revision != "" {
			d.addShared("source", ast.ObjectTerm(
				[2]*ast.Term{ast.InternedTerm("file"), ast.StringTerm(src.File)},
				[2]*ast.Term{ast.InternedTerm("line"), ast.IntNumberTerm(src.Line)},
				[2]*ast.Term{ast.InternedTerm("revision"), ast.StringTerm(s.revision)},
			))
		}
	}
	uses := make([]*ast.Term, len(accounts))
	for i, u := range accounts {
		uses[i] = terms(map[string]string{"at": u.at, "name": u.name})
	}
	d.addShared("serviceAccounts", ast.ArrayTerm(uses...))
	d.addShared("secretRefs", secretRefs(pods))
	return nil
}

// input returns the document for one policy.
func (d *document) input(operation string, parameters *ast.Term) ast.Value {
	review := d.review[operation]
	if review == nil {
		fields := append(d.fields[:len(d.fields):len(d.fields)], [2]*ast.Term{ast.InternedTerm("operation"), ast.StringTerm(operation)})
		review = ast.ObjectTerm(fields...)
		d.review[operation] = review
	}
	all := make([][2]*ast.Term, 0, len(d.shared)+2)
	all = append(all, d.shared...)
	return ast.NewObject(append(all,
		[2]*ast.Term{ast.InternedTerm("review"), review},
		[2]*ast.Term{ast.InternedTerm("parameters"), parameters})...)
}

// view returns the body that policies see. The same object has the same view at every point, whoever wrote it.
func view(o manifest.Object, key plaintext.Key) map[string]any {
	var body map[string]any
	if len(o.Values()) == 0 {
		body, _ = o.Peek().(map[string]any)
	} else {
		secret := o.IsSecret()
		body = o.View(func(path []string, v plaintext.Value) any {
			if secret && len(path) == 2 && path[0] == "data" {
				return map[string]any{"digest": v.Digest(key), "length": int64(v.Len())}
			}
			return plaintext.Mask
		})
	}
	return withoutBookkeeping(body)
}

// lastApplied is where kubectl apply keeps a second copy of the object, of a Secret's payloads too.
const lastApplied = "kubectl.kubernetes.io/last-applied-configuration"

// withoutBookkeeping leaves managedFields and the last-applied annotation out, without touching the original.
func withoutBookkeeping(body map[string]any) map[string]any {
	meta, _ := body["metadata"].(map[string]any)
	annotations, _ := meta["annotations"].(map[string]any)
	_, managed := meta["managedFields"]
	_, applied := annotations[lastApplied]
	if !managed && !applied {
		return body
	}
	body, meta = maps.Clone(body), maps.Clone(meta)
	body["metadata"] = meta
	delete(meta, "managedFields")
	if applied {
		annotations = maps.Clone(annotations)
		delete(annotations, lastApplied)
		meta["annotations"] = annotations
	}
	return body
}

// podTerms finds the specs in the converted object, so that none is converted twice.
func podTerms(body map[string]any, object ast.Value, pods []manifest.PodSpec) (*ast.Term, error) {
	out := make([]*ast.Term, len(pods))
	for i, p := range pods {
		spec := descend(body, object, p)
		if spec == nil {
			v, err := ast.InterfaceToValue(p.Spec)
			if err != nil {
				return nil, err
			}
			spec = ast.NewTerm(v)
		}
		out[i] = ast.ObjectTerm([2]*ast.Term{ast.InternedTerm("path"), ast.StringTerm(p.Path)}, [2]*ast.Term{ast.InternedTerm("spec"), spec})
	}
	return ast.ArrayTerm(out...), nil
}

// descend follows the path in the body and in its conversion alike. It returns nil unless it ends at that very
// specification: a path is dotted, and a key with a dot in it could lead to another one.
func descend(body map[string]any, object ast.Value, pod manifest.PodSpec) *ast.Term {
	var plain any = body
	t := ast.NewTerm(object)
	for _, step := range strings.Split(pod.Path, ".") {
		switch v := t.Value.(type) {
		case ast.Object:
			m, _ := plain.(map[string]any)
			plain, t = m[step], v.Get(ast.StringTerm(step))
		case *ast.Array:
			list, _ := plain.([]any)
			i, err := strconv.Atoi(step)
			if err != nil || i < 0 || i >= len(list) || i >= v.Len() {
				return nil
			}
			plain, t = list[i], v.Elem(i)
		default:
			return nil
		}
		if t == nil {
			return nil
		}
	}
	if m, ok := plain.(map[string]any); !ok || reflect.ValueOf(m).UnsafePointer() != reflect.ValueOf(pod.Spec).UnsafePointer() {
		return nil
	}
	return t
}

// accountUse is one place of an object that names a service account for pods.
type accountUse struct{ at, name string }

// serviceAccounts finds them in any kind of object: every text under serviceAccountName, or its old name serviceAccount.
func serviceAccounts(body map[string]any, pods []manifest.PodSpec) []accountUse {
	found := map[accountUse]struct{}{}
	var visit func(v any, path []string)
	visit = func(v any, path []string) {
		switch node := v.(type) {
		case map[string]any:
			for k, child := range node {
				name, isText := child.(string)
				switch {
				case isText && name != "" && (k == "serviceAccountName" || k == "serviceAccount"):
					found[accountUse{strings.Join(path, "."), name}] = struct{}{}
				case isText, len(path) == 0 && (k == "metadata" || k == "status"):
				default:
					visit(child, append(path[:len(path):len(path)], k))
				}
			}
		case []any:
			for i, child := range node {
				visit(child, append(path[:len(path):len(path)], strconv.Itoa(i)))
			}
		}
	}
	visit(body, nil)
	for _, p := range pods {
		name, _ := p.Spec["serviceAccountName"].(string)
		old, _ := p.Spec["serviceAccount"].(string)
		if name == "" && old == "" {
			found[accountUse{p.Path, "default"}] = struct{}{}
		}
	}
	out := make([]accountUse, 0, len(found))
	for u := range found {
		out = append(out, u)
	}
	sort.Slice(out, func(i, j int) bool {
		if out[i].at != out[j].at {
			return out[i].at < out[j].at
		}
		return out[i].name < out[j].name
	})
	return out
}

func secretRefs(pods []manifest.PodSpec) *ast.Term {
	names := map[string]struct{}{}
	for _, p := range pods {
		for _, n := range manifest.SecretRefs(p.Spec) {
			names[n] = struct{}{}
		}
	}
	sorted := make([]string, 0, len(names))
	for n := range names {
		sorted = append(sorted, n)
	}
	sort.Strings(sorted)
	out := make([]*ast.Term, len(sorted))
	for i, n := range sorted {
		out[i] = ast.StringTerm(n)
	}
	return ast.ArrayTerm(out...)
}

// factsOf returns input.tenant, nil when there is no tenant.
func factsOf(g tenants.Grant) (*ast.Term, error) {
	facts := g.Facts()
	if facts == nil {
		if g.Tenant == "" {
			return nil, nil
		}
		facts = map[string]any{"name": g.Tenant} // a tenant that somebody claims and that does not exist
	}
	v, err := ast.InterfaceToValue(facts)
	if err != nil {
		return nil, err
	}
	return ast.NewTerm(v), nil
}

func terms(m map[string]string) *ast.Term {
	pairs := make([][2]*ast.Term, 0, len(m))
	for k, v := range m {
		pairs = append(pairs, [2]*ast.Term{ast.InternedTerm(k), ast.StringTerm(v)})
	}
	return ast.ObjectTerm(pairs...)
}
