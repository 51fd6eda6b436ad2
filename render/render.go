// Package render makes objects of the files of a repository.
//
// It exists so that a folder of manifests and a kustomize overlay become the same thing: objects that know file and line.
// A folder without a kustomization file never meets kustomize. An overlay is built by kustomize as a library, over a
// read-only file system that has no way out of the repository: before kustomize sees a kustomization file it is checked
// and its paths are rewritten, so that none of them can be taken for a URL. The package must not use the network, start
// a program, read the environment or a disk other than through the fs.FS that it is given, or decide about scope: what
// namespace an object ends in is decided later.
package render

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"io/fs"
	"path"
	"slices"
	"strings"

	"sealock.dev/sealock/fault"
	"sealock.dev/sealock/manifest"
	"sealock.dev/sealock/plaintext"
)

// Options are what a Kustomization says about its build. The zero Options build the root of the repository.
type Options struct {
	// Dir is what is built, relative to the root of the repository; a leading "./" is allowed, "" is the root.
	Dir string
	// TargetNamespace, NamePrefix, NameSuffix, Patches, Images and Components are merged into the kustomization file of Dir.
	TargetNamespace string
	NamePrefix      string
	NameSuffix      string
	Patches         []Patch
	Images          []Image
	Components      []string
	// IgnoreMissingComponents leaves out those of Components that do not exist.
	IgnoreMissingComponents bool
	// BuildMetadata replaces buildMetadata of the kustomization file when it is not nil.
	BuildMetadata []string
	// Labels and Annotations are set on every object after the build and after substitution, over its own.
	Labels      map[string]string
	Annotations map[string]string
	// SubstituteFrom are variables from ConfigMaps and Secrets, later over earlier; Substitute wins over all.
	SubstituteFrom []Variables
	Substitute     map[string]string
	// SubstituteAlways substitutes even where there are no variables.
	SubstituteAlways bool
	// DecryptedTemplates expands decrypted values like every other text, as Flux does: $$ in a password becomes $.
	DecryptedTemplates bool
	// KustomizeSuffix gives what generators made of encrypted files the names that kustomize makes of the plaintext. Whoever
	// reads a name can then test guesses of the content against it.
	KustomizeSuffix bool
	// Partial returns, together with the error, the objects that do not depend on what failed: of a plain folder those of
	// the other files, of an overlay none before it is built.
	Partial bool
}

// Patch is a strategic merge or JSON 6902 patch, and what it applies to.
type Patch struct {
	Patch  string
	Target *Target // nil: what the patch itself names
}

// Target selects objects by regular expressions and selectors, as kustomize does.
type Target struct {
	Group, Version, Kind, Name, Namespace string
	LabelSelector, AnnotationSelector     string
}

// Image replaces the name, tag or digest of an image.
type Image struct{ Name, NewName, NewTag, Digest string }

// Variables are values for substitution, of one ConfigMap or one Secret.
type Variables struct {
	Public map[string]string
	Secret map[string]plaintext.Value // they end up as secret values
}

// The bounds of one build, far above honest ones.
const (
	maxFiles    = 20_000
	maxBytes    = 128 << 20
	maxObjects  = 20_000
	maxIncluded = 1_000 // kustomizations, each time that one is included
)

// Build renders one directory. It implements pipeline.Renderer and holds no state between calls.
type Build struct{ opts Options }

// New returns a Build.
func New(opts Options) *Build { return &Build{opts: opts} }

// item is a rendered document on its way to an Object.
type item struct {
	body map[string]any
	src  manifest.Source
}

func (i item) ref() fault.Ref {
	meta, _ := i.body["metadata"].(map[string]any)
	return fault.Ref{
		APIVersion: text(i.body["apiVersion"]), Kind: text(i.body["kind"]), Namespace: text(meta["namespace"]),
		Name: text(meta["name"]), File: i.src.File, Line: i.src.Line,
	}
}

func (i item) annotations() map[string]any {
	meta, _ := i.body["metadata"].(map[string]any)
	annotations, _ := meta["annotations"].(map[string]any)
	return annotations
}

func text(v any) string { s, _ := v.(string); return s }

// Render returns the objects of the directory and a digest of the rendered text, tokens in place of secret values.
// tokens may be nil where nothing was decrypted. An empty result is an error: it would prune everything.
func (b *Build) Render(ctx context.Context, files fs.FS, tokens *plaintext.Tokens) ([]manifest.Object, string, error) {
	dir := path.Clean(strings.TrimPrefix(b.opts.Dir, "/"))
	t := newTree(ctx, files)
	if err := t.requireDir(dir); err != nil {
		return nil, "", err
	}
	items, err := b.items(t, dir)
	if err != nil && !b.opts.Partial {
		return nil, "", err
	}
	items, flat := flatten(items)
	if err = errors.Join(err, flat); err != nil && (!b.opts.Partial || len(items) == 0) {
		return nil, "", err
	}
	if len(items) == 0 {
		return nil, "", fault.New(fault.StageRender, fault.Invalid, fault.Ref{File: dir}, "no manifests found under %q", dir).
			Fix("add one, correct spec.path, or delete the Kustomization; an empty set would delete everything that it applied")
	}
	if b.opts.KustomizeSuffix && tokens != nil {
		if suffixed := kustomizeSuffixes(items, tokens); suffixed != nil {
			return nil, "", errors.Join(err, suffixed)
		}
	}
	set, digest, failed := b.objects(items, tokens)
	return set, digest, errors.Join(err, failed)
}

func (b *Build) items(t *tree, dir string) ([]item, error) {
	name, err := t.kustomization(dir)
	if err != nil {
		return nil, err
	}
	if name == "" && b.trivial() {
		return t.plain(dir)
	}
	return b.kustomize(t, dir)
}

// trivial reports whether nothing is asked that kustomize has to do.
func (b *Build) trivial() bool {
	o := b.opts
	return o.TargetNamespace == "" && o.NamePrefix == "" && o.NameSuffix == "" &&
		len(o.Patches) == 0 && len(o.Images) == 0 && len(o.Components) == 0 && len(o.BuildMetadata) == 0
}

// flatten takes lists apart, drops what only kustomize reads, and checks what every object must have.
func flatten(items []item) ([]item, error) {
	var out []item
	var errs []error
	for _, it := range items {
		if strings.HasPrefix(text(it.body["apiVersion"]), "kustomize.config.k8s.io/") {
			continue
		}
		if list, ok := it.body["items"].([]any); ok && strings.HasSuffix(text(it.body["kind"]), "List") {
			for _, each := range list {
				body, ok := each.(map[string]any)
				if !ok {
					errs = append(errs, fault.New(fault.StageRender, fault.Invalid, it.ref(), "an item of the list is not an object").At("items").Fix("remove it"))
					continue
				}
				out = append(out, item{body: body, src: it.src})
			}
			continue
		}
		out = append(out, it)
	}
	out = slices.DeleteFunc(out, local)
	if len(out) > maxObjects {
		errs = append(errs, fault.New(fault.StageRender, fault.Invalid, fault.Ref{}, "%d objects, more than the limit of %d", len(out), maxObjects).
			Fix("split the Kustomization"))
		out = nil
	}
	return out, errors.Join(errs...)
}

// local reports whether an object is marked as input of tools, which kustomize leaves out of what it builds.
func local(it item) bool {
	mark, marked := it.annotations()["config.kubernetes.io/local-config"]
	return marked && mark != "false"
}

// objects makes Objects, in the order of the items, and the digest.
func (b *Build) objects(items []item, tokens *plaintext.Tokens) ([]manifest.Object, string, error) {
	sub, err := newSubstitution(b.opts, tokens)
	if err != nil {
		return nil, "", err
	}
	sum := sha256.New()
	out := make([]manifest.Object, 0, len(items))
	var errs []error
	for _, it := range items {
		if err := manifest.RequireIdentity(it.body, it.ref()); err != nil {
			errs = append(errs, err)
			continue
		}
		if err := refuseEncrypted(it); err != nil {
			errs = append(errs, err)
			continue
		}
		if it.body, err = sub.apply(it); err != nil {
			errs = append(errs, err)
			continue
		}
		b.finish(it.body)
		line, err := json.Marshal(digestible(it.body, tokens))
		if err != nil {
			errs = append(errs, fault.New(fault.StageRender, fault.Invalid, it.ref(), "the object is not JSON").Fix("use values that JSON knows"))
			continue
		}
		sum.Write(append(line, '\n'))
		o, err := manifest.New(it.body, it.src, tokens)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		out = append(out, o)
	}
	if len(errs) > 0 && !b.opts.Partial {
		return nil, "", errors.Join(errs...)
	}
	return out, "sha256:" + hex.EncodeToString(sum.Sum(nil)), errors.Join(errs...)
}

// tidy drops what kustomize drops: annotations of its own, and none at all.
func tidy(meta map[string]any) {
	annotations, present := meta["annotations"].(map[string]any)
	for k := range annotations {
		if strings.HasPrefix(k, "internal.config.kubernetes.io/") || k == "config.kubernetes.io/index" {
			delete(annotations, k)
			if len(annotations) == 0 {
				delete(meta, "annotations")
			}
		}
	}
	if !present && meta["annotations"] == nil {
		delete(meta, "annotations")
	}
}

// finish sets the common metadata and drops the null that client-go prints into manifests.
func (b *Build) finish(body map[string]any) {
	meta, _ := body["metadata"].(map[string]any)
	if meta == nil {
		return
	}
	tidy(meta)
	if v, present := meta["creationTimestamp"]; present && v == nil {
		delete(meta, "creationTimestamp")
	}
	for field, add := range map[string]map[string]string{"labels": b.opts.Labels, "annotations": b.opts.Annotations} {
		if len(add) == 0 {
			continue
		}
		m, _ := meta[field].(map[string]any)
		if m == nil {
			m = map[string]any{}
		}
		for k, v := range add {
			m[k] = v
		}
		meta[field] = m
	}
}

// refuseEncrypted keeps ciphertext out of the cluster: nobody was asked to open it, or nobody could.
func refuseEncrypted(it item) error {
	s, ok := it.body["sops"].(map[string]any)
	if !ok || s["mac"] == nil && s["age"] == nil {
		return nil
	}
	if strings.EqualFold(text(it.annotations()["kustomize.toolkit.fluxcd.io/decrypt"]), "disabled") {
		return nil
	}
	return fault.New(fault.StageRender, fault.Invalid, it.ref(), "the object is SOPS encrypted").At("sops").Fix("set spec.decryption of the Kustomization")
}

// digestible returns the body with the values of a Secret that stands in Git in the clear replaced by tokens: the digest
// is published where Git may not be readable, and must not let guesses be tested.
func digestible(body map[string]any, tokens *plaintext.Tokens) map[string]any {
	if body["apiVersion"] != "v1" || body["kind"] != "Secret" {
		return body
	}
	out := make(map[string]any, len(body))
	for k, v := range body {
		out[k] = v
	}
	for _, field := range []string{"data", "stringData"} {
		m, _ := body[field].(map[string]any)
		masked := make(map[string]any, len(m))
		for k, v := range m {
			s, ok := v.(string)
			switch {
			case !ok || plaintext.Contains(s):
				masked[k] = v
			case tokens == nil:
				masked[k] = plaintext.Mask
			default:
				masked[k] = tokens.Issue(plaintext.FromString(s))
			}
		}
		if m != nil {
			out[field] = masked
		}
	}
	return out
}
