package sealock_test

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"maps"
	"os"
	"path"
	"slices"
	"strings"
	"testing"
	"testing/fstest"

	"sigs.k8s.io/yaml"
)

// contractMark begins a comment line in a test, or in its doc comment, that names what the test proves:
//
//	// contract: Kustomization spec.path, spec.prune
//
// The first word is the subject: a kind, or Object, which is anything that a Kustomization applies. The rest are its
// fields by their path in the CRD, and items of contractItems.
const contractMark = "contract: "

// contractCRDs are the kinds whose every field is part of the contract, and the files that declare them.
var contractCRDs = map[string]string{
	"Kustomization": "config/crd/kustomize.toolkit.fluxcd.io_kustomizations.yaml",
	"GitRepository": "config/crd/source.toolkit.fluxcd.io_gitrepositories.yaml",
}

// contractItems is what Flux promises beyond fields: markers, conditions, reasons, events, and entries of Secrets.
var contractItems = map[string][]string{
	"Kustomization": {
		"finalizer finalizers.fluxcd.io", "crd annotation kustomize.toolkit.fluxcd.io/substitute", "status default", "column Ready", "column Status",
		"annotation reconcile.fluxcd.io/requestedAt", "annotation event.toolkit.fluxcd.io/*", "label sharding.fluxcd.io/key", "label reconcile.fluxcd.io/watch",
		"event annotation kustomize.toolkit.fluxcd.io/revision", "event annotation kustomize.toolkit.fluxcd.io/originRevision", "event annotation kustomize.toolkit.fluxcd.io/commit_status",
		"event posted", "event change log", "event deleted", "event Reconciliation finished", "event Health check passed", "event failure",
		"condition Ready", "condition Reconciling", "condition Stalled", "condition Healthy",
		"reason Progressing", "reason ProgressingWithRetry", "reason ReconciliationSucceeded", "reason Succeeded",
		"reason ArtifactFailed", "reason AccessDenied", "reason DependencyNotReady", "reason InvalidCELExpression", "reason FeatureGateDisabled", "reason BuildFailed",
		"reason ReconciliationFailed", "reason PruneFailed", "reason HealthCheckFailed", "reason HealthCheckCanceled", "reason DirectoryCreationFailed",
		"key *.agekey", "key *.asc", "key sops.vault-token", "key sops.aws-kms", "key sops.azure-kv", "key sops.gcp-kms",
	},
	"GitRepository": {
		"finalizer finalizers.fluxcd.io", "status default", "column Ready", "annotation reconcile.fluxcd.io/requestedAt",
		"event annotation source.toolkit.fluxcd.io/revision", "event annotation source.toolkit.fluxcd.io/digest",
		"condition Ready", "condition Reconciling", "condition Stalled", "condition ArtifactInStorage", "condition ArtifactOutdated", "condition FetchFailed",
		"condition IncludeUnavailable", "condition StorageOperationFailed", "condition SourceVerified",
		"reason Succeeded", "reason Progressing", "reason ProgressingWithRetry", "reason URLInvalid", "reason InvalidProviderConfiguration", "reason InvalidVerificationMode",
		"reason FeatureGateDisabled", "reason NewRevision", "reason IncludeChange", "reason AuthenticationFailed", "reason GitOperationFailed", "reason EmptyGitRepository",
		"reason NotFound", "reason NoArtifact", "reason DirectoryCreationFailed", "reason StatOperationFailed", "reason ReadOperationFailed", "reason AcquireLockFailed",
		"reason InvalidPath", "reason ArchiveOperationFailed", "reason SymlinkUpdateFailed", "reason PatchOperationFailed", "reason CopyFailure",
		"reason InvalidCommitSignature", "reason InvalidTagSignature", "reason InvalidGitObject", "reason VerificationError",
		"event NewArtifact", "event GitOperationSucceeded", "event ArtifactUpToDate", "event GarbageCollectionSucceeded", "event GarbageCollectionFailed",
		"key username", "key password", "key bearerToken", "key ca.crt", "key caFile", "key tls.crt", "key tls.key", "key identity", "key known_hosts",
		"key githubAppID", "key githubAppInstallationID", "key githubAppInstallationOwner", "key githubAppPrivateKey", "key githubAppBaseURL",
		"key address", "key *.asc", "key *.sshpub",
		".sourceignore", "default excludes", "artifact latest.tar.gz", "artifact retention", "artifact archive",
	},
	"Object": {
		"label kustomize.toolkit.fluxcd.io/name", "label kustomize.toolkit.fluxcd.io/namespace", "field manager kustomize-controller", "inventory id",
		"reconcile: disabled", "live reconcile: disabled", "ssa: Ignore", "live ssa: Ignore", "ssa: IfNotPresent", "ssa: Merge", "live ssa: Merge",
		"force: enabled", "live force: enabled", "live prune: disabled", "substitute: disabled", "decrypt: disabled",
	},
}

// contractUnproven has what no test can show, with the reason.
var contractUnproven = map[string]string{
	"Kustomization reason HealthCheckCanceled":          "Flux cancels a wait that holds a worker; here no worker waits, so there is nothing to cancel",
	"Kustomization reason DirectoryCreationFailed":      "no folder is made: what is built stays in memory",
	"GitRepository reason DirectoryCreationFailed":      "no folder is made for a fetch",
	"GitRepository reason StatOperationFailed":          "files are not unpacked into a folder that could be looked at",
	"GitRepository reason ReadOperationFailed":          "as above",
	"GitRepository reason AcquireLockFailed":            "an artifact is renamed into its place: there is no lock file",
	"GitRepository reason PatchOperationFailed":         "a status that cannot be written cannot say so in the status",
	"GitRepository status.artifact.metadata":            "a commit has no such metadata: it is for sources of OCI registries",
	"GitRepository status.includedArtifacts[].metadata": "as above",
	"GitRepository event GarbageCollectionFailed":       "a folder of its own that the controller cannot change: tests run as root, whom no mode stops",
}

// TestContract: whatever Flux's users can write or read is named by a test that proves it, and nothing is named that
// does not exist. That the test proves it is for its reader to see; that it is there, for this one.
func TestContract(t *testing.T) {
	root := os.DirFS(".")
	promised, err := contractOf(root)
	if err != nil {
		t.Fatal(err)
	}
	proven, wrong, err := provenIn(root)
	if err != nil {
		t.Fatal(err)
	}
	for _, line := range append(wrong, compare(promised, proven, contractUnproven)...) {
		t.Error(line)
	}
}

// TestContractNotices proves that the comparison bites.
func TestContractNotices(t *testing.T) {
	test := "package x\n\nimport \"testing\"\n\n// TestA is one.\n// contract: Kustomization spec.a, spec.b\nfunc TestA(t *testing.T) {\n\t// contract: Object ssa: Merge\n}\n"
	for _, tc := range []struct {
		name, text string
		unproven   map[string]string
		want       []string
	}{
		{"all is proven", test, nil, nil},
		{"a field is missing", strings.Replace(test, ", spec.b", "", 1), nil, []string{"no test names Kustomization spec.b"}},
		{"a field is excused", strings.Replace(test, ", spec.b", "", 1), map[string]string{"Kustomization spec.b": "reason"}, nil},
		{"an excuse that is not needed", test, map[string]string{"Kustomization spec.b": "reason"}, []string{"spec.b is proven and excused"}},
		{"an unknown field", strings.Replace(test, "spec.b", "spec.b, spec.c", 1), nil, []string{"Kustomization spec.c, which is not part of the contract"}},
		{"outside of a test", strings.Replace(test, "func TestA", "func helper", 1), nil, []string{"outside of a test"}},
	} {
		proven, wrong, err := provenIn(fstest.MapFS{"p/x_test.go": {Data: []byte(tc.text)}})
		if err != nil {
			t.Fatal(err)
		}
		promised := []string{"Kustomization spec.a", "Kustomization spec.b", "Object ssa: Merge"}
		got := strings.Join(append(wrong, compare(promised, proven, tc.unproven)...), "\n")
		for _, want := range tc.want {
			if !strings.Contains(got, want) {
				t.Errorf("%s: %q is not in %q", tc.name, want, got)
			}
		}
		if tc.want == nil && got != "" {
			t.Errorf("%s: %s", tc.name, got)
		}
	}
}

// compare returns what is promised and not proven, and the other way round.
func compare(promised []string, proven, unproven map[string]string) []string {
	var out []string
	known := map[string]bool{}
	for _, item := range promised {
		known[item] = true
		_, excused := unproven[item]
		_, shown := proven[item]
		switch {
		case !shown && !excused:
			out = append(out, fmt.Sprintf("no test names %s: write one, and the line %q beside it", item, "// "+contractMark+item))
		case shown && excused:
			out = append(out, fmt.Sprintf("%s is proven and excused: take it out of contractUnproven", item))
		}
	}
	for _, item := range slices.Sorted(maps.Keys(proven)) {
		if !known[item] {
			out = append(out, fmt.Sprintf("%s names %s, which is not part of the contract", proven[item], item))
		}
	}
	for _, item := range slices.Sorted(maps.Keys(unproven)) {
		if !known[item] {
			out = append(out, fmt.Sprintf("contractUnproven names %s, which is not part of the contract", item))
		}
	}
	return out
}

// contractOf lists the contract: every field of the CRDs, and the items.
func contractOf(root fs.FS) ([]string, error) {
	var out []string
	for kind, file := range contractCRDs {
		text, err := fs.ReadFile(root, file)
		if err != nil {
			return nil, err
		}
		var crd struct {
			Spec struct {
				Versions []struct {
					Schema struct{ OpenAPIV3Schema schemaNode }
				}
			}
		}
		if err := yaml.Unmarshal(text, &crd); err != nil {
			return nil, fmt.Errorf("%s: %w", file, err)
		}
		for _, version := range crd.Spec.Versions {
			for _, top := range []string{"spec", "status"} {
				for _, field := range version.Schema.OpenAPIV3Schema.Properties[top].fields(top) {
					out = append(out, kind+" "+field)
				}
			}
		}
		if len(out) == 0 {
			return nil, fmt.Errorf("%s has no fields", file)
		}
	}
	for subject, items := range contractItems {
		for _, item := range items {
			out = append(out, subject+" "+item)
		}
	}
	slices.Sort(out)
	return out, nil
}

// schemaNode is what matters here of a schema in a CRD.
type schemaNode struct {
	Properties map[string]schemaNode
	Items      *schemaNode
}

// fields returns the paths of all that has no named fields of its own.
func (n schemaNode) fields(at string) []string {
	if n.Items != nil {
		return n.Items.fields(at + "[]")
	}
	if len(n.Properties) == 0 {
		return []string{at}
	}
	var out []string
	for name, below := range n.Properties {
		out = append(out, below.fields(at+"."+name)...)
	}
	return out
}

// provenIn collects the contract lines of all tests, with the place of one of each, and what is wrong with the lines.
func provenIn(root fs.FS) (proven map[string]string, wrong []string, err error) {
	proven = map[string]string{}
	err = fs.WalkDir(root, ".", func(name string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if base := path.Base(name); entry.IsDir() {
			if name != "." && (strings.HasPrefix(base, ".") || base == "testdata" || base == "bin") {
				return fs.SkipDir
			}
			return nil
		}
		if !strings.HasSuffix(name, "_test.go") || path.Dir(name) == "." {
			return nil
		}
		text, err := fs.ReadFile(root, name)
		if err != nil {
			return err
		}
		set := token.NewFileSet()
		file, err := parser.ParseFile(set, name, text, parser.ParseComments)
		if err != nil {
			return err
		}
		for _, group := range file.Comments {
			for _, line := range group.List {
				named, ok := strings.CutPrefix(line.Text, "// "+contractMark)
				if !ok {
					continue
				}
				place := set.Position(line.Pos()).String()
				if !inTest(file, line.Pos()) {
					wrong = append(wrong, place+": a contract line outside of a test proves nothing")
				}
				subject, items, _ := strings.Cut(named, " ")
				for item := range strings.SplitSeq(items, ", ") {
					proven[subject+" "+item] = place
				}
			}
		}
		return nil
	})
	return proven, wrong, err
}

// inTest reports whether a place is in a test function or its doc comment.
func inTest(file *ast.File, at token.Pos) bool {
	return slices.ContainsFunc(file.Decls, func(d ast.Decl) bool {
		f, ok := d.(*ast.FuncDecl)
		if !ok || f.Recv != nil || !strings.HasPrefix(f.Name.Name, "Test") {
			return false
		}
		from := f.Pos()
		if f.Doc != nil {
			from = f.Doc.Pos()
		}
		return from <= at && at <= f.End()
	})
}
