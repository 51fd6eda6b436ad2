package render

import (
	"path"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"
	"sigs.k8s.io/kustomize/api/krusty"
	"sigs.k8s.io/kustomize/api/resmap"
	"sigs.k8s.io/kustomize/api/types"

	"sealock.dev/sealock/fault"
	"sealock.dev/sealock/manifest"
)

// originAnnotation is where kustomize notes which file an object comes from.
const originAnnotation = "config.kubernetes.io/origin"

// kustomize builds one directory with the options of b merged into its kustomization file, or into one made for it.
func (b *Build) kustomize(t *tree, dir string) ([]item, error) {
	f := newFileSystem(t, b.opts, dir)
	m, err := f.build()
	if f.readOrigin && !f.keepOrigin { // known only now that all files were read
		f = newFileSystem(t, b.opts, dir)
		f.anonymous = true
		m, err = f.build()
	}
	if err != nil {
		return nil, err
	}
	items := make([]item, 0, m.Size())
	for _, r := range m.Resources() {
		// The node itself, since kustomize's own way to JSON prints and parses it twice.
		v, err := manifest.FromNode(f.rootFile, r.YNode(), manifest.DefaultLimits)
		if err != nil {
			return nil, err
		}
		body, ok := v.(map[string]any)
		if !ok {
			return nil, invalid(dir, "an object is not a mapping after the build").Fix("correct the patch that made it so")
		}
		items = append(items, item{body: body, src: f.origin(body)})
	}
	return items, nil
}

func (f *fileSystem) build() (resmap.ResMap, error) {
	if err := f.prepare(); err != nil {
		return nil, err
	}
	return f.run()
}

// run calls kustomize. Plugins, helm and functions are off. What was wrong with a file is reported in our words, if it
// was us who refused it; a panic is reported without its value.
func (f *fileSystem) run() (m resmap.ResMap, err error) {
	defer func() {
		if recover() != nil {
			m, err = nil, invalid(f.rootFile, "kustomize gave up on this input").Fix("simplify the kustomization")
		}
	}()
	o := krusty.MakeDefaultOptions()
	o.LoadRestrictions = types.LoadRestrictionsNone // the file system itself ends at the repository
	o.PluginConfig = types.DisabledPluginConfig()
	if f.sorted { // kustomize prints a warning where both say how to sort, and takes the file's way
		o.Reorder = krusty.ReorderOptionUnspecified
	}
	m, err = krusty.MakeKustomizer(o).Run(f, mount+"/"+f.dir)
	if f.refused != nil {
		return nil, f.refused
	}
	if err != nil {
		return nil, invalid(f.rootFile, "kustomize: %s", f.words(err)).Fix("correct the kustomization")
	}
	return m, nil
}

// origin returns where an object comes from and removes the note of it, unless the user asked for it.
func (f *fileSystem) origin(body map[string]any) manifest.Source {
	meta, _ := body["metadata"].(map[string]any)
	annotations, _ := meta["annotations"].(map[string]any)
	var note struct {
		Path         string `yaml:"path"`
		ConfiguredIn string `yaml:"configuredIn"`
	}
	_ = yaml.Unmarshal([]byte(text(annotations[originAnnotation])), &note)
	if !f.keepOrigin && annotations != nil {
		delete(annotations, originAnnotation)
		if len(annotations) == 0 {
			delete(meta, "annotations")
		}
	}
	if note.Path == "" {
		file := f.rootFile
		if note.ConfiguredIn != "" {
			file = path.Join(f.dir, note.ConfiguredIn)
		}
		return manifest.Source{File: file}
	}
	file := path.Join(f.dir, note.Path)
	return manifest.Source{File: file, Line: f.line(file, text(body["kind"]), text(meta["name"]))}
}

// line finds the document of an object whose name a prefix or suffix may have changed.
func (f *fileSystem) line(file, kind, name string) int {
	docs := f.docs[file]
	if len(docs) == 1 {
		return docs[0].Line
	}
	best, at := -1, 0
	for _, d := range docs {
		meta, _ := d.Body["metadata"].(map[string]any)
		own := text(meta["name"])
		if text(d.Body["kind"]) == kind && own != "" && strings.Contains(name, own) && len(own) > best {
			best, at = len(own), d.Line
		}
	}
	return at
}

// merge puts the options of the build into the kustomization of its directory, as Flux does.
func (b Options) merge(k *types.Kustomization) {
	if b.TargetNamespace != "" {
		k.Namespace = b.TargetNamespace
	}
	if b.NamePrefix != "" {
		k.NamePrefix = b.NamePrefix
	}
	if b.NameSuffix != "" {
		k.NameSuffix = b.NameSuffix
	}
	for _, p := range b.Patches {
		k.Patches = append(k.Patches, p.kustomize())
	}
	for _, img := range b.Images {
		b.mergeImage(k, img)
	}
	if b.BuildMetadata != nil {
		k.BuildMetadata = slices.Clone(b.BuildMetadata)
	}
}

func (b Options) mergeImage(k *types.Kustomization, img Image) {
	at := slices.IndexFunc(k.Images, func(i types.Image) bool { return i.Name == img.Name })
	if at < 0 {
		k.Images = append(k.Images, types.Image{Name: img.Name, NewName: img.NewName, NewTag: img.NewTag, Digest: img.Digest})
		return
	}
	if img.NewName != "" {
		k.Images[at].NewName = img.NewName
	}
	if img.NewTag != "" || img.Digest != "" { // they replace each other
		k.Images[at].NewTag, k.Images[at].Digest = img.NewTag, img.Digest
	}
}

func (p Patch) kustomize() types.Patch {
	out := types.Patch{Patch: p.Patch}
	if p.Target == nil {
		return out
	}
	out.Target = &types.Selector{LabelSelector: p.Target.LabelSelector, AnnotationSelector: p.Target.AnnotationSelector}
	out.Target.Group, out.Target.Version, out.Target.Kind = p.Target.Group, p.Target.Version, p.Target.Kind
	out.Target.Name, out.Target.Namespace = p.Target.Name, p.Target.Namespace
	return out
}

// refuse keeps the first thing that was wrong. kustomize goes on after some errors, and wraps others.
func (f *fileSystem) refuse(err error) error {
	if f.refused == nil {
		f.refused = err
	}
	return err
}

func denied(file, format string, args ...any) *fault.Error {
	return fault.New(fault.StageRender, fault.Denied, fault.Ref{File: file}, format, args...)
}
