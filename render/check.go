package render

import (
	"errors"
	"io/fs"
	"path"
	"regexp"
	"slices"
	"strings"

	"sigs.k8s.io/kustomize/api/types"
	"sigs.k8s.io/yaml"

	"sealock.dev/sealock/manifest"
	"sealock.dev/sealock/plaintext"
)

// remote is what people mean as a URL. It only chooses the words: whatever does not exist in the repository is refused,
// and what exists is rewritten so that kustomize takes it for a path.
var remote = regexp.MustCompile(`(?i)://|^[a-z]+::|^[\w.-]+@[\w.-]+[:/]|^(github|gitlab|bitbucket)\.\w+[/:]|\?(ref|version)=`)

// prepare checks the kustomization of the built directory with the options merged in, or makes one.
func (f *fileSystem) prepare() error {
	name, err := f.tree.kustomization(f.dir)
	if err != nil {
		return err
	}
	k := types.Kustomization{}
	if name != "" {
		if k, err = f.load(name); err != nil {
			return err
		}
	} else {
		name = path.Join(f.dir, kustomizationNames[0])
		if err := f.generate(&k); err != nil {
			return err
		}
	}
	f.rootFile = name
	f.sorted = k.SortOptions != nil
	f.opts.merge(&k)
	if err := f.addComponents(name, &k); err != nil {
		return err
	}
	f.keepOrigin = slices.Contains(k.BuildMetadata, types.OriginAnnotations)
	for _, p := range f.opts.Patches {
		if p.Target != nil {
			f.noteOrigin([]byte(p.Target.AnnotationSelector))
		}
		f.noteOrigin([]byte(p.Patch))
	}
	if !f.keepOrigin && !f.anonymous {
		k.BuildMetadata = append(k.BuildMetadata, types.OriginAnnotations)
	}
	return f.check(name, &k)
}

// generate lists the manifests of a folder that has no kustomization file.
func (f *fileSystem) generate(k *types.Kustomization) error {
	return f.tree.walk(f.dir, func(name string, _ bool) error {
		rel := strings.TrimPrefix(strings.TrimPrefix(name, f.dir), "/")
		if f.dir == "." {
			rel = name
		}
		k.Resources = append(k.Resources, rel)
		return nil
	})
}

func (f *fileSystem) addComponents(name string, k *types.Kustomization) error {
	for _, c := range f.opts.Components {
		if f.opts.IgnoreMissingComponents && !remote.MatchString(c) {
			if _, err := f.tree.stat(path.Join(f.dir, c)); errors.Is(err, fs.ErrNotExist) {
				continue
			}
		}
		if path.IsAbs(c) {
			return denied(name, "the component %q is not relative", c).At("spec.components").Fix("name it relative to spec.path")
		}
		k.Components = append(k.Components, c)
	}
	return nil
}

// readKustomization returns the checked form of a kustomization file.
func (f *fileSystem) readKustomization(name string) ([]byte, error) {
	if f.refused != nil {
		return nil, f.refused // nothing that follows can be applied
	}
	data, done := f.kustomizations[name] // the one made for a plain folder is nowhere else
	if info, err := f.tree.stat(name); !done && (err != nil || info.IsDir()) {
		return nil, fs.ErrNotExist
	}
	if f.included++; f.included > maxIncluded { // bases that include bases twice grow with every level
		return nil, f.refuse(invalid(name, "the build includes more than %d kustomizations", maxIncluded).Fix("include each base once, or split the Kustomization"))
	}
	if done {
		return data, nil
	}
	if _, err := f.tree.kustomization(path.Dir(name)); err != nil {
		return nil, f.refuse(err)
	}
	k, err := f.load(name)
	if err != nil {
		return nil, f.refuse(err)
	}
	if err := f.check(name, &k); err != nil {
		return nil, f.refuse(err)
	}
	return f.kustomizations[name], nil
}

func (f *fileSystem) load(name string) (types.Kustomization, error) {
	var k types.Kustomization
	data, err := f.tree.read(name)
	if err != nil {
		return k, f.tree.wrap(name, err)
	}
	if _, err := manifest.Decode(name, data, manifest.DefaultLimits); err != nil {
		return k, err
	}
	f.noteOrigin(data)
	if err := k.Unmarshal(data); err != nil {
		return k, invalid(name, "not a kustomization: %s", f.words(err)).Fix("correct the field")
	}
	k.FixKustomization()
	return k, nil
}

// check refuses what reaches out of the repository or starts programs, rewrites every path, and keeps the result for
// kustomize.
func (f *fileSystem) check(name string, k *types.Kustomization) error {
	if err := refuseFields(name, k); err != nil {
		return err
	}
	c := &checker{f: f, name: name, dir: path.Dir(name)}
	c.list("resources", k.Resources, asResource)
	c.list("components", k.Components, asOther)
	c.list("configurations", k.Configurations, asOther)
	c.patches("patches", k.Patches)
	c.strategicMerge(k)
	c.patches("patchesJson6902", k.PatchesJson6902)
	for i := range k.Replacements {
		if k.Replacements[i].Path != "" {
			k.Replacements[i].Path = c.path("replacements", k.Replacements[i].Path, asOther)
		}
	}
	for i := range k.ConfigMapGenerator {
		c.sources("configMapGenerator", &k.ConfigMapGenerator[i].KvPairSources)
	}
	for i := range k.SecretGenerator {
		c.sources("secretGenerator", &k.SecretGenerator[i].KvPairSources)
	}
	k.Generators = c.plugins("generators", k.Generators, builtinGenerators)
	k.Transformers = c.plugins("transformers", k.Transformers, builtinTransformers)
	k.Validators = c.plugins("validators", k.Validators, builtinTransformers)
	if c.err != nil {
		return c.err
	}
	if len(k.CommonLabels) > 0 { // the same in the field that does not make kustomize print a warning
		k.Labels = append(k.Labels, types.Label{Pairs: k.CommonLabels, IncludeSelectors: true})
		k.CommonLabels = nil
	}
	data, err := yaml.Marshal(k)
	if err != nil {
		return invalid(name, "not a kustomization").Fix("correct it")
	}
	f.kustomizations[name] = data
	return nil
}

// refuseFields refuses what starts programs, and schemas from the repository: those of openapi are shared by all builds of
// the process, and kustomize follows their references, and those of crds, round and round until the process ends.
func refuseFields(name string, k *types.Kustomization) error {
	for _, r := range []struct {
		field  string
		used   bool
		remedy string
	}{
		{"helmCharts", len(k.HelmCharts) > 0 || len(k.HelmChartInflationGenerator) > 0 || k.HelmGlobals != nil, "render the chart and commit the result"},
		{"openapi", len(k.OpenAPI) > 0, "remove it; merge lists of custom resources with JSON 6902 patches"},
		{"crds", len(k.Crds) > 0, "remove it; list the CRDs under resources, and references under configurations"},
	} {
		if r.used {
			return denied(name, "the field is not served: it runs programs, or reads schemas that could end or change other builds").At(r.field).Fix("%s", r.remedy)
		}
	}
	return nil
}

// checker rewrites the paths of one kustomization file and keeps the first error.
type checker struct {
	f    *fileSystem
	name string
	dir  string
	err  error
}

func (c *checker) keep(err error) {
	if c.err == nil {
		c.err = err
	}
}

func (c *checker) list(field string, entries []string, as role) {
	for i := range entries {
		entries[i] = c.path(field, entries[i], as)
	}
}

func (c *checker) patches(field string, patches []types.Patch) {
	for i := range patches {
		c.keep(bounded(c.name, []byte(patches[i].Patch)))
		if patches[i].Path != "" {
			patches[i].Path = c.path(field, patches[i].Path, asOther)
		}
	}
}

// strategicMerge moves patches to the field that does not make kustomize print a warning: before the others, which is
// when kustomize applies them.
func (c *checker) strategicMerge(k *types.Kustomization) {
	var moved []types.Patch
	for _, p := range k.PatchesStrategicMerge {
		if strings.Contains(string(p), "\n") {
			c.keep(bounded(c.name, []byte(p)))
			moved = append(moved, types.Patch{Patch: string(p)})
			continue
		}
		moved = append(moved, types.Patch{Path: c.path("patchesStrategicMerge", string(p), asOther)})
	}
	k.PatchesStrategicMerge = nil
	k.Patches = append(moved, k.Patches...)
}

func (c *checker) sources(field string, s *types.KvPairSources) {
	for i, entry := range s.FileSources {
		key, file, named := strings.Cut(entry, "=")
		if !named {
			key, file = path.Base(entry), entry
		}
		s.FileSources[i] = key + "=" + c.path(field+".files", file, asData)
	}
	if field == "secretGenerator" {
		for _, l := range s.LiteralSources {
			_, v, _ := strings.Cut(l, "=")
			c.f.private = append(c.f.private, plaintext.FromString(l), plaintext.FromString(v))
		}
		for _, entry := range append(append(slices.Clone(s.FileSources), s.EnvSources...), s.EnvSource) {
			_, file, named := strings.Cut(entry, "=")
			if !named {
				file = entry
			}
			c.f.confidential[path.Join(c.dir, file)] = true
		}
	}
	for i := range s.EnvSources {
		s.EnvSources[i] = c.path(field+".envs", s.EnvSources[i], asData)
	}
	if s.EnvSource != "" {
		s.EnvSource = c.path(field+".env", s.EnvSource, asData)
	}
}

// path refuses an entry that is not a file or folder of the repository, and returns it in a form that begins with "./"
// or "../", which kustomize never takes for a URL.
func (c *checker) path(field, entry string, as role) string {
	name := path.Join(c.dir, entry)
	switch {
	case path.IsAbs(entry):
		c.keep(denied(c.name, "%q is an absolute path", entry).At(field).Fix("name it relative to the kustomization file"))
		return ""
	case !fs.ValidPath(name):
		c.keep(denied(c.name, "%q leaves the repository", entry).At(field).Fix("refer to files inside the repository"))
		return ""
	}
	if err := c.f.tree.contained(name); err != nil {
		c.keep(err)
		return ""
	}
	info, err := c.f.tree.stat(name)
	switch {
	case err != nil && remote.MatchString(entry):
		c.keep(denied(c.name, "%q is outside of the repository; remote bases are not fetched", entry).At(field).
			Fix("copy it into the repository, or make it a GitRepository of its own"))
		return ""
	case errors.Is(err, fs.ErrNotExist):
		c.keep(invalid(c.name, "%q does not exist", entry).At(field).Fix("add it, or remove the entry"))
		return ""
	case err != nil:
		c.keep(c.f.tree.wrap(name, err))
		return ""
	case info.IsDir():
		c.directory(field, entry, name)
	default:
		c.f.roles[name] = max(c.f.roles[name], as)
	}
	rel := path.Clean(entry)
	if rel == ".." || strings.HasPrefix(rel, "../") {
		return rel
	}
	return "./" + rel
}

func (c *checker) directory(field, entry, name string) {
	if field != "resources" && field != "components" {
		c.keep(invalid(c.name, "%q is a directory", entry).At(field).Fix("name a file"))
		return
	}
	found, err := c.f.tree.kustomization(name)
	if err == nil && found == "" {
		err = invalid(c.name, "the directory %q has no kustomization file", entry).At(field).Fix("add one, or list its files")
	}
	c.keep(err)
}
