package main

import (
	"context"
	"crypto/rand"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"io/fs"
	"os"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"sealock.dev/sealock/api/sealock/v1alpha1"
	"sealock.dev/sealock/controllers/kustomization"
	"sealock.dev/sealock/fault"
	"sealock.dev/sealock/manifest"
	"sealock.dev/sealock/plaintext"
	"sealock.dev/sealock/tenants"
)

// ownRights reads Secrets and ConfigMaps as the person who typed the command. What Secrets hold is known from then on.
type ownRights struct {
	*session
	want *wanted
}

// Secret returns the payloads of a Secret.
func (o ownRights) Secret(ctx context.Context, namespace, name string) (map[string]plaintext.Value, error) {
	obj, err := o.get(ctx, secretKind, namespace, name)
	if err != nil {
		return nil, err
	}
	data, _, _ := unstructured.NestedMap(obj.Object, "data")
	out := make(map[string]plaintext.Value, len(data))
	for k, v := range data {
		text, _ := v.(string)
		raw, err := base64.StdEncoding.DecodeString(text)
		if err != nil {
			return nil, fault.New("", fault.Invalid, secretKind.ref(namespace, name), "the entry is not base64").At("data." + k)
		}
		out[k] = plaintext.New(raw)
		o.want.learn(out[k])
	}
	return out, nil
}

// ConfigMap returns the data of a ConfigMap.
func (o ownRights) ConfigMap(ctx context.Context, namespace, name string) (map[string]string, error) {
	obj, err := o.get(ctx, configMapKind, namespace, name)
	if err != nil {
		return nil, err
	}
	data, _, err := unstructured.NestedStringMap(obj.Object, "data")
	return data, err
}

// unknown stands for a value that no key at hand opens. It is random hex of a length that is also base64, so that it can
// stand wherever a Secret may have a value, and nothing else is taken for it.
type unknown struct{ plain, decoded plaintext.Value }

func newUnknown() unknown {
	random := make([]byte, 24)
	_, _ = rand.Read(random) // never fails
	text := hex.EncodeToString(random)
	decoded, _ := base64.StdEncoding.DecodeString(text) // 48 characters of its alphabet
	return unknown{plaintext.FromString(text), plaintext.New(decoded)}
}

func (u unknown) is(v plaintext.Value) bool { return v.Equal(u.plain) || v.Equal(u.decoded) }

// wanted is what a folder says should be on the cluster.
type wanted struct {
	set     []manifest.Object
	owner   manifest.Owner // on whose behalf it is applied
	scrub   *plaintext.Scrubber
	known   *plaintext.Scrubber // those values that are long enough to be told from honest text
	unknown unknown
	notes   []string

	grant   tenants.Grant
	tenants bool  // they could be read
}

// longEnough is the shortest value, in bytes, by which an object is taken for one that holds a secret.
const longEnough = 8

// learn makes values known that must not be shown.
func (w *wanted) learn(values ...plaintext.Value) {
	w.scrub.Add(values...)
	for _, v := range values {
		if v.Len() >= longEnough {
			w.known.Add(v)
		}
	}
}

// build makes the objects of a clone as the controller would for the Kustomization.
func (s *session) build(ctx context.Context, ks *unstructured.Unstructured, from clone, keyFile, system string) (wanted, error) {
	w := wanted{scrub: plaintext.NewScrubber(), known: plaintext.NewScrubber(), unknown: newUnknown()}
	disk, closer, err := from.open()
	if err != nil {
		return w, err
	}
	defer closer()
	s.grant(ctx, ks, system, &w)
	offline := kustomization.Offline{Grant: w.grant, Data: ownRights{s, &w}, Decrypter: newDecrypter}
	if keyFile != "" {
		text, err := os.ReadFile(keyFile)
		if err != nil {
			return w, fault.New("", fault.NotFound, fault.Ref{File: keyFile}, "the file cannot be read").At("--decryption-keys")
		}
		offline.Keys = map[string]plaintext.Value{"file.agekey": plaintext.New(text)}
	}
	built, err := offline.Build(ctx, ks.Object, from.below)
	if err != nil {
		return w, err
	}
	w.owner = built.Owner
	tokens := plaintext.NewTokens(plaintext.RandomKey())
	files, err := w.open(ctx, built, disk, tokens)
	if err == nil {
		w.set, _, err = built.Renderer.Render(ctx, files, tokens)
	}
	w.learn(tokens.Values()...)
	for i, o := range w.set {
		w.learn(o.Values()...)
		w.set[i].Source.File = from.name(o.Source.File)
	}
	return w, w.safe(err)
}

// open opens encrypted files, or masks them where there is no key. What a missing key hides is no reason to hide the rest.
func (w *wanted) open(ctx context.Context, built kustomization.Build, files fs.FS, tokens *plaintext.Tokens) (fs.FS, error) {
	if built.Opener == nil && built.NoKeys == nil {
		return files, nil // an encrypted file is then an error, as in the controller
	}
	missing := built.NoKeys
	if missing == nil {
		opened, err := built.Opener.OpenFiles(ctx, files, tokens)
		if err == nil || fault.KindOf(err) != fault.NoKey {
			return opened, err
		}
		missing = err
	}
	if kind := fault.KindOf(missing); kind != fault.NoKey && kind != fault.Denied && kind != fault.NotFound {
		return nil, missing
	}
	w.notes = append(w.notes, "encrypted values are shown as **SOPS** and not compared: "+missing.Error())
	return &maskedFS{FS: files, tokens: tokens, stands: w.unknown.plain}, nil
}

// grant finds that of the Kustomization, as far as the person may read Tenants and the arguments of the controller.
func (s *session) grant(ctx context.Context, ks *unstructured.Unstructured, system string, w *wanted) {
	var found []v1alpha1.Tenant
	if err := list(ctx, s.objects, "tenants", &found); err == nil {
		w.tenants = true
	} else if _, decrypts, _ := unstructured.NestedMap(ks.Object, "spec", "decryption"); decrypts {
		w.notes = append(w.notes, "the Tenants cannot be read, and so the keys of a tenant are not used")
	}
	settings, _ := s.settings(ctx, system) // else those of the shipped manifests
	index := tenants.NewIndex(found, settings)
	w.grant = index.GrantFor(ks.GetNamespace()) // whether it may act as it says is told by its status
}

// safe returns err without the values that are known.
func (w *wanted) safe(err error) error {
	if err == nil {
		return nil
	}
	var out []error
	for _, f := range fault.All(err) {
		c := *f
		c.Err, c.Field, c.Remedy = errors.New(w.scrub.Scrub(f.Err.Error())), w.scrub.Scrub(c.Field), w.scrub.Scrub(c.Remedy)
		out = append(out, &c)
	}
	if len(out) == 0 {
		return errors.New(w.scrub.Scrub(err.Error()))
	}
	return errors.Join(out...)
}

// spared says why a prune would leave an object, "" when it would not: another owner has it, or a marker says so.
func spared(live *metav1.PartialObjectMetadata, ks *unstructured.Unstructured) string {
	labels := live.Labels
	if labels[labelOwner] != ks.GetName() || labels[labelOwnerSpace] != ks.GetNamespace() {
		return "it is left: it belongs to another owner"
	}
	for _, marker := range []struct{ key, value string }{{"prune", "disabled"}, {"reconcile", "disabled"}, {"ssa", "Ignore"}} {
		if marked(live, marker.key, marker.value) {
			return "it is left: " + kustomizeGroup + "/" + marker.key + " is " + marker.value
		}
	}
	return ""
}
