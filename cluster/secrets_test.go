package cluster

import (
	"encoding/json"
	"io"
	"maps"
	"net/http"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/rest"

	"sealock.dev/sealock/fault"
	"sealock.dev/sealock/internal/testkit"
	"sealock.dev/sealock/manifest"
	"sealock.dev/sealock/plaintext"
)

// producer makes what an opener makes, for an owner that exists: a ConfigMap plays the SealedSecret.
func (w *world) producer(name string, data map[string]string) manifest.Produced {
	w.Helper()
	cm, err := w.kube.CoreV1().ConfigMaps(w.ns).Get(w.Context(), "owner", metav1.GetOptions{})
	if err != nil {
		if cm, err = w.kube.CoreV1().ConfigMaps(w.ns).Create(w.Context(), &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "owner"}}, metav1.CreateOptions{}); err != nil {
			w.Fatal(err)
		}
	}
	values := map[string]plaintext.Value{}
	for k, v := range data {
		values[k] = plaintext.FromString(v)
	}
	return manifest.Produced{
		Owner:  fault.Ref{APIVersion: "v1", Kind: "ConfigMap", Namespace: w.ns, Name: cm.Name},
		Secret: manifest.NewSecret(w.ns, name, "", values, manifest.Sealed, manifest.Source{File: "sealed.yaml", Line: 1}),

		FieldManager: "controller", OwnerReference: true, CreateIfAbsent: true,
	}
}

func (w *world) writeSecret(p manifest.Produced) manifest.Action {
	w.Helper()
	c, err := w.client.WriteSecret(w.Context(), p, false)
	if err != nil {
		w.Fatal(err)
	}
	return c.Action
}

func (w *world) secret(name string) *corev1.Secret {
	w.Helper()
	s, err := w.kube.CoreV1().Secrets(w.ns).Get(w.Context(), name, metav1.GetOptions{})
	if err != nil {
		w.Fatal(err)
	}
	return s
}

func (w *world) patchSecret(name, patch string) {
	w.Helper()
	if _, err := w.kube.CoreV1().Secrets(w.ns).Patch(w.Context(), name, types.MergePatchType, []byte(patch), metav1.PatchOptions{FieldManager: "somebody"}); err != nil {
		w.Fatal(err)
	}
}

func data(s *corev1.Secret) map[string]string {
	out := map[string]string{}
	for k, v := range s.Data {
		out[k] = string(v)
	}
	return out
}

func TestSecretIsCreatedChangedAndLeftAlone(t *testing.T) {
	w := newWorld(t)
	p := w.producer("s", map[string]string{"a": "1", "b": "2"})
	if c, err := w.client.WriteSecret(t.Context(), p, true); err != nil || c.Action != manifest.Created {
		t.Fatalf("dry-run: %v %v", c, err)
	}
	if _, err := w.kube.CoreV1().Secrets(w.ns).Get(t.Context(), "s", metav1.GetOptions{}); err == nil {
		t.Fatal("the dry-run wrote")
	}
	if a := w.writeSecret(p); a != manifest.Created {
		t.Errorf("first: %s", a)
	}
	s := w.secret("s")
	if len(s.OwnerReferences) != 1 || s.OwnerReferences[0].Name != "owner" || s.OwnerReferences[0].UID == "" || s.OwnerReferences[0].BlockOwnerDeletion != nil {
		t.Errorf("owner references %v", s.OwnerReferences)
	}
	if a := w.writeSecret(p); a != manifest.Unchanged || w.secret("s").ResourceVersion != s.ResourceVersion {
		t.Errorf("second: %s", a)
	}
	w.patchSecret("s", `{"stringData":{"foreign":"x"},"metadata":{"labels":{"l":"x"},"finalizers":["example.org/keep"]}}`)
	if a := w.writeSecret(w.producer("s", map[string]string{"a": "changed"})); a != manifest.Configured {
		t.Errorf("third: %s", a)
	}
	s = w.secret("s")
	if diff := cmp.Diff(map[string]string{"a": "changed"}, data(s)); diff != "" || len(s.Labels) != 0 || len(s.Finalizers) != 1 {
		t.Errorf("%s labels %v finalizers %v", diff, s.Labels, s.Finalizers)
	}
	w.patchSecret("s", `{"metadata":{"finalizers":null}}`)
}

func TestSecretMerge(t *testing.T) {
	w := newWorld(t)
	_, err := w.kube.CoreV1().Secrets(w.ns).Create(t.Context(), &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Name: "s", Annotations: map[string]string{sealedPatch: "true"}}, StringData: map[string]string{"theirs": "t"},
	}, metav1.CreateOptions{FieldManager: "somebody"})
	if err != nil {
		t.Fatal(err)
	}
	w.writeSecret(w.producer("s", map[string]string{"a": "1", "b": "2"}))
	if diff := cmp.Diff(map[string]string{"theirs": "t", "a": "1", "b": "2"}, data(w.secret("s"))); diff != "" {
		t.Error(diff)
	}
	w.writeSecret(w.producer("s", map[string]string{"a": "1"}))
	s := w.secret("s")
	if diff := cmp.Diff(map[string]string{"theirs": "t", "a": "1"}, data(s)); diff != "" {
		t.Errorf("a key that is no longer produced stays, or a foreign one went: %s", diff)
	}
	if len(s.OwnerReferences) != 0 || s.Annotations[sealedPatch] != "true" {
		t.Errorf("patch takes the Secret over: %v %v", s.OwnerReferences, s.Annotations)
	}
	if a := w.writeSecret(w.producer("s", map[string]string{"a": "1"})); a != manifest.Unchanged {
		t.Errorf("it does not come to rest: %s", a)
	}
}

func TestSecretOfOthersIsRefused(t *testing.T) {
	w := newWorld(t)
	if _, err := w.kube.CoreV1().Secrets(w.ns).Create(t.Context(), &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: "s"}, StringData: map[string]string{"k": "v"}}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	canary := testkit.NewCanary()
	p := w.producer("s", map[string]string{"k": canary.String()})
	_, err := w.client.WriteSecret(t.Context(), p, false)
	kindOf(t, err, fault.Conflict)
	if !strings.Contains(err.Error(), `Resource "s" already exists and is not managed by`) || !strings.Contains(err.Error(), sealedManaged) {
		t.Errorf("%v", err)
	}
	if data(w.secret("s"))["k"] != "v" {
		t.Error("it was written")
	}
	w.patchSecret("s", `{"metadata":{"annotations":{"`+sealedManaged+`":"true"}}}`)
	if a := w.writeSecret(p); a != manifest.Configured || len(w.secret("s").OwnerReferences) != 1 {
		t.Errorf("managed: %s", a)
	}
	typed := p
	typed.Secret = manifest.NewSecret(w.ns, "s", "kubernetes.io/basic-auth", p.Secret.SecretData(), manifest.Sealed, manifest.Source{})
	_, err = w.client.WriteSecret(t.Context(), typed, false)
	kindOf(t, err, fault.Invalid)
	w.patchSecret("s", `{"immutable":true}`)
	_, err = w.client.WriteSecret(t.Context(), w.producer("s", map[string]string{"k": "other"}), false)
	kindOf(t, err, fault.Conflict)
	absent := w.producer("absent", nil)
	absent.CreateIfAbsent = false
	if a := w.writeSecret(absent); a != manifest.Skipped {
		t.Errorf("absent: %s", a)
	}
}

// What an API server says about a bad Secret never shows it, wherever the value stands.
func TestSecretErrorsShowNoValue(t *testing.T) {
	w := newWorld(t)
	canary := testkit.NewCanary()
	p := w.producer("s", map[string]string{canary.String(): canary.String()})
	p.Secret = p.Secret.WithMeta(map[string]string{"l": "x " + canary.String()}, nil)
	_, err := w.client.WriteSecret(t.Context(), p, true)
	kindOf(t, err, fault.Invalid)
	if found := canary.FindIn(err.Error()); len(found) > 0 {
		t.Errorf("shown: %v in %v", found, err)
	}
}

func TestT2_SecretsThatBecomeCredentialsAreRefused(t *testing.T) {
	w := newWorld(t)
	for _, typ := range []string{"kubernetes.io/service-account-token", "bootstrap.kubernetes.io/token"} {
		p := w.producer("s", nil)
		p.Secret = manifest.NewSecret(w.ns, "s", typ, nil, manifest.Sealed, manifest.Source{})
		_, err := w.client.WriteSecret(t.Context(), p, true)
		kindOf(t, err, fault.Denied)
	}
	p := w.producer("s", nil)
	p.Secret = p.Secret.WithNamespace("kube-system")
	_, err := w.client.WriteSecret(t.Context(), p, false)
	kindOf(t, err, fault.Denied)
}

func TestSecretNeedsItsOwner(t *testing.T) {
	w := newWorld(t)
	p := w.producer("s", map[string]string{"k": "v"})
	p.Owner.Name = "absent"
	if c, err := w.client.WriteSecret(t.Context(), p, true); err != nil || c.Action != manifest.Created {
		t.Errorf("dry-run: %v %v", c, err)
	}
	_, err := w.client.WriteSecret(t.Context(), p, false)
	kindOf(t, err, fault.NotFound)
	if got, err := w.client.Get(t.Context(), secretKind().gvk, w.ns, "s"); fault.KindOf(err) != fault.NotFound {
		t.Errorf("%v %v", got.Name(), err)
	}
}

func TestSecretKnownByVersionCostsNothing(t *testing.T) {
	w := newWorld(t)
	p := w.producer("s", map[string]string{"k": "v"})
	w.writeSecret(p)
	w.client.opts.SecretVersion = func(string, string) (string, bool) { return w.secret("s").ResourceVersion, true }
	set := w.objects("apiVersion: v1\nkind: ConfigMap\nmetadata: {name: owner}\n")
	w.run(set) // the view knows the owner now
	w.writeSecret(p)
	w.rec.take()
	if a := w.writeSecret(p); a != manifest.Unchanged || len(w.rec.take()) != 0 {
		t.Errorf("%s", a)
	}
	w.patchSecret("s", `{"stringData":{"k":"tampered"}}`)
	if a := w.writeSecret(p); a != manifest.Configured {
		t.Errorf("tampered: %s", a)
	}
}

func TestClaim(t *testing.T) {
	const uid = "u-1"
	ref := func(kind, uid string) []any {
		return []any{map[string]any{"kind": kind, "name": "x", "uid": uid, "controller": true}}
	}
	type meta = map[string]any
	ours := []owner{{Manager: "m", Operation: "Update", FieldsV1: json.RawMessage(`{"f:data":{"f:k":{}}}`)}}
	for name, tc := range map[string]struct {
		p    manifest.Produced
		meta meta
		refs []any
		own  []owner
		want claim
	}{
		"sealed, nobody's":                    {manifest.Produced{OwnerReference: true}, meta{}, nil, nil, claim{reference: true}},
		"sealed, its own":                     {manifest.Produced{OwnerReference: true}, meta{}, ref("SealedSecret", uid), nil, claim{allowed: true, reference: true}},
		"sealed, of an earlier owner":         {manifest.Produced{OwnerReference: true}, meta{}, ref("SealedSecret", "old"), nil, claim{reference: true}},
		"sealed, managed":                     {manifest.Produced{OwnerReference: true}, meta{"annotations": meta{sealedManaged: "true"}}, ref("Other", "2"), nil, claim{allowed: true, reference: true}},
		"sealed, only exactly true counts":    {manifest.Produced{OwnerReference: true}, meta{"annotations": meta{sealedManaged: "True"}}, nil, nil, claim{reference: true}},
		"sealed, patch":                       {manifest.Produced{OwnerReference: true}, meta{"annotations": meta{sealedPatch: "true"}}, nil, nil, claim{allowed: true, merge: true}},
		"sealed, patch and managed":           {manifest.Produced{OwnerReference: true}, meta{"annotations": meta{sealedPatch: "true", sealedManaged: "true"}}, nil, nil, claim{allowed: true, merge: true, reference: true}},
		"sealed without reference, made once": {manifest.Produced{FieldManager: "m"}, meta{}, nil, ours, claim{allowed: true}},
		"sealed without reference, foreign":   {manifest.Produced{FieldManager: "n"}, meta{}, nil, ours, claim{}},
		"external, nobody's":                  {manifest.Produced{Adopt: manifest.AdoptManaged}, meta{}, nil, nil, claim{}},
		"external, labelled":                  {manifest.Produced{Adopt: manifest.AdoptManaged}, meta{"labels": meta{externalManaged: "true"}}, nil, nil, claim{allowed: true}},
		"external, labelled but another's":    {manifest.Produced{Adopt: manifest.AdoptManaged, Owner: fault.Ref{Kind: "ExternalSecret"}}, meta{"labels": meta{externalManaged: "true"}}, ref("ExternalSecret", "2"), nil, claim{}},
		"external merge, nobody's":            {manifest.Produced{Adopt: manifest.AdoptManaged, Merge: true}, meta{}, nil, nil, claim{allowed: true, merge: true}},
		"external merge, of another kind":     {manifest.Produced{Adopt: manifest.AdoptManaged, Merge: true, Owner: fault.Ref{Kind: "ExternalSecret"}}, meta{}, ref("Certificate", "2"), nil, claim{allowed: true, merge: true}},
		"external ignores the sealed mark":    {manifest.Produced{Adopt: manifest.AdoptManaged}, meta{"annotations": meta{sealedManaged: "true"}}, nil, nil, claim{}},
	} {
		t.Run(name, func(t *testing.T) {
			m := meta{"name": "s", "namespace": "n"}
			maps.Copy(m, tc.meta)
			o, err := manifest.New(meta{"apiVersion": "v1", "kind": "Secret", "metadata": m}, manifest.Source{}, nil)
			if err != nil {
				t.Fatal(err)
			}
			got := claimOf(tc.p, uid, liveSecret{object: o, references: tc.refs, owners: tc.own})
			if got != tc.want {
				t.Errorf("got %+v, want %+v", got, tc.want)
			}
		})
	}
}

// A new Secret is dry-run and made: that nobody has it is what the answer says, and its owner was just applied.
func TestNewSecretCostsADryRunAndAWrite(t *testing.T) {
	w := newWorld(t)
	p := w.producer("s", map[string]string{"k": "v"})
	p.Owner.Name = "applied"
	collection := "POST /api/v1/namespaces/" + w.ns + "/secrets "
	w.rec.take()
	if c, err := w.client.WriteSecret(t.Context(), p, true); err != nil || c.Action != manifest.Created {
		t.Fatalf("dry-run: %v %v", c, err)
	}
	if diff := cmp.Diff([]string{collection + "All"}, w.rec.take()); diff != "" {
		t.Errorf("the dry-run: %s", diff)
	}
	w.run(w.objects("apiVersion: v1\nkind: ConfigMap\nmetadata: {name: applied}\n"))
	byOther := w.producer("other", map[string]string{"k": "v"})
	byOther.OwnerUID = "9f1c2d34-0000-4000-8000-000000000001"
	for _, each := range []manifest.Produced{p, byOther} {
		w.rec.take()
		c, err := w.client.WriteSecret(t.Context(), each, false)
		if err != nil || c.Action != manifest.Created {
			t.Errorf("%v %v", c, err)
		}
		if diff := cmp.Diff([]string{collection}, w.rec.take()); diff != "" {
			t.Errorf("the write: %s", diff)
		}
		if s := w.secret(c.ID.Name); len(s.OwnerReferences) != 1 || s.ResourceVersion != c.Version {
			t.Errorf("owners %v, version %s, told as %s", s.OwnerReferences, s.ResourceVersion, c.Version)
		}
	}
}

// The commit and the controller of the kind come to a new Secret at the same moment.
func TestSecretIsMadeByOneOfMany(t *testing.T) {
	w := newWorld(t)
	p := w.producer("s", map[string]string{"k": "v"})
	w.rec.take()
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			if _, err := w.client.WriteSecret(t.Context(), p, false); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	made := 0
	for _, seen := range w.rec.take() {
		if strings.HasPrefix(seen, "POST ") {
			made++
		}
	}
	if made != 1 {
		t.Errorf("made %d times", made)
	}
}

// A Secret that no watch shows may be there all the same: whatever its creation is refused with, it is read, and whoever
// has it keeps it.
func TestSecretThatNobodyShowsIsRead(t *testing.T) {
	w := newWorld(t)
	if _, err := w.kube.CoreV1().Secrets(w.ns).Create(t.Context(), &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: "s"}, StringData: map[string]string{"k": "theirs"}}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	p := w.producer("s", map[string]string{"k": "v"})
	for _, dryRun := range []bool{true, false} {
		_, err := w.client.WriteSecret(t.Context(), p, dryRun)
		kindOf(t, err, fault.Conflict)
	}
	if data(w.secret("s"))["k"] != "theirs" {
		t.Error("it was written")
	}
	ours := w.producer("ours", map[string]string{"k": "v"})
	w.writeSecret(ours)
	config := rest.CopyConfig(testkit.Cluster(t).Config)
	config.Wrap(func(next http.RoundTripper) http.RoundTripper {
		return roundTrip(func(req *http.Request) (*http.Response, error) {
			if req.Method != http.MethodPost {
				return next.RoundTrip(req)
			}
			body := `{"kind":"Status","apiVersion":"v1","status":"Failure","message":"exceeded quota","reason":"Forbidden","code":403}`
			return &http.Response{StatusCode: http.StatusForbidden, Header: http.Header{"Content-Type": {"application/json"}}, Body: io.NopCloser(strings.NewReader(body)), Request: req}, nil
		})
	})
	full := w.open(config, plaintext.NewKey([]byte("key of the test")))
	if c, err := full.WriteSecret(t.Context(), ours, true); err != nil || c.Action != manifest.Unchanged {
		t.Errorf("with a quota that is exhausted: %v %v", c, err)
	}
	_, err := full.WriteSecret(t.Context(), w.producer("new", map[string]string{"k": "v"}), true)
	kindOf(t, err, fault.Denied)
}

// An account that a commit brings is asked for of the view alone; any other one of the API server, unless the view shows it.
func TestUIDOfWhatIsAppliedIsKnown(t *testing.T) {
	w := newWorld(t)
	account := schema.GroupVersionKind{Version: "v1", Kind: "ServiceAccount"}
	w.rec.take()
	_, err := w.client.UID(t.Context(), account, w.ns, "reader", true)
	kindOf(t, err, fault.NotFound)
	if seen := w.rec.take(); len(seen) != 0 {
		t.Errorf("asked %v", seen)
	}
	_, err = w.client.UID(t.Context(), account, w.ns, "reader", false)
	kindOf(t, err, fault.NotFound)
	if seen := w.rec.take(); len(seen) != 1 {
		t.Errorf("asked %v", seen)
	}
	w.run(w.objects("apiVersion: v1\nkind: ServiceAccount\nmetadata: {name: reader}\n"))
	w.rec.take()
	for _, upcoming := range []bool{true, false} {
		if uid, err := w.client.UID(t.Context(), account, w.ns, "reader", upcoming); err != nil || uid == "" {
			t.Errorf("%q %v", uid, err)
		}
	}
	if seen := w.rec.take(); len(seen) != 0 {
		t.Errorf("asked %v", seen)
	}
}
