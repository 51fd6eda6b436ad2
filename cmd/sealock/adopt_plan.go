package main

import (
	"regexp"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/util/version"

	"sealock.dev/sealock/controllers/gitrepository"
	"sealock.dev/sealock/controllers/kustomization"
	"sealock.dev/sealock/fault"
	"sealock.dev/sealock/manifest"
	"sealock.dev/sealock/tenants"
)

const (
	oldestServer  = "1.30.0"
	fluxFinalizer = "finalizers.fluxcd.io"
	sideBySide    = "share the objects by label instead, see docs/migrate-from-flux.md, Side by side"
)

// plan judges the state. Each check says one thing, whether or not all is well.
func (s *fluxState) plan() adoption {
	a := adoption{PlatformNamespaces: []string{}, Arguments: []string{}, Renamed: []string{}, Controllers: []fluxController{}}
	s.checkServer(&a)
	s.checkCRDs(&a)
	s.checkControllers(&a)
	s.checkObjects(&a)
	s.checkOtherKinds(&a)
	s.checkIdentities(&a)
	s.checkDifferences(&a)
	s.checkFlags(&a)
	s.checkShards(&a)
	s.checkProxy(&a)
	s.arguments(&a)
	return a
}

func (s *fluxState) checkServer(a *adoption) {
	v, err := version.ParseGeneric(s.server)
	if err != nil || v.LessThan(version.MustParseGeneric(oldestServer)) {
		a.found("server", stops, nil, "upgrade the cluster", "the API server is %s, older than %s", s.server, oldestServer)
	} else {
		a.found("server", fine, nil, "", "the API server is %s", s.server)
	}
	if !s.sealock {
		a.found("sealock", note, nil, "when the old controllers are down: sealock install --apply, with the arguments below", "Sealock is not installed yet")
	}
}

// checkCRDs: the CRDs stay, and `sealock install` takes them over. That works only if nothing is stored in a version
// which ours do not have any more.
func (s *fluxState) checkCRDs(a *adoption) {
	for _, name := range []string{"gitrepositories." + sourceGroup, "kustomizations." + kustomizeGroup} {
		i := slices.IndexFunc(s.crds, func(o unstructured.Unstructured) bool { return o.GetName() == name })
		if i < 0 {
			a.found("crds", note, []string{name}, "", "the CRD is not there; there is nothing of this kind to take over")
			continue
		}
		if labels := s.crds[i].GetLabels(); labels[ownerName] != "" {
			a.found("crds", note, []string{name}, "", "it stands in Git (Kustomization %s/%s): Sealock leaves its own in place when it applies that commit", labels[ownerNamespace], labels[ownerName])
		}
		stored, _, _ := unstructured.NestedStringSlice(s.crds[i].Object, "status", "storedVersions")
		old := slices.DeleteFunc(stored, func(v string) bool { return v == "v1" })
		if len(old) > 0 {
			a.found("crds", stops, []string{name}, "run `flux migrate` first", "objects may still be stored as %s", strings.Join(old, ", "))
			continue
		}
		a.found("crds", fine, []string{name}, "", "stored as v1")
	}
}

func (s *fluxState) checkControllers(a *adoption) {
	for _, c := range s.controllers {
		where := []string{c.Component + " in " + c.Namespace}
		if c.Namespace != s.namespace {
			if c.live() {
				a.found("controllers", stops, where, "adopt that one as well, with -n "+c.Namespace, "another Flux is live: %s", c)
			}
			continue
		}
		a.Controllers = append(a.Controllers, c)
		switch {
		case c.Deployment == "":
			a.found("controllers", stops, where, "stop the process", "it is live without a Deployment that could be scaled down: %s", c)
		case c.Remembered != nil && !c.live():
			a.found("controllers", fine, where, "", "adopted: %d replicas are remembered", *c.Remembered)
		case c.AppliedBy != "":
			a.found("controllers", note, where, "", "%s; it stands in Git (Kustomization %s), so that it also gets the annotation %s: disabled, which keeps it down", c, c.AppliedBy, reconcileAnnotation)
		default:
			a.found("controllers", fine, where, "", "%s", c)
		}
	}
	if operated := namesOf(s.objects["FluxInstance"], func(*unstructured.Unstructured) bool { return true }); len(operated) > 0 {
		a.found("operator", stops, operated, "take kustomize-controller and source-controller out of spec.components, or set spec.reconcile to disabled", "the Flux operator starts its controllers again")
	}
}

// checkObjects: what is Ready under Flux is to be Ready under Sealock. What is not is better mended before.
func (s *fluxState) checkObjects(a *adoption) {
	for _, kind := range []string{"GitRepository", "Kustomization"} {
		list := s.objects[kind]
		suspended := namesOf(list, func(o *unstructured.Unstructured) bool { return has(o, "spec", "suspend") })
		deleting := namesOf(list, func(o *unstructured.Unstructured) bool { return o.GetDeletionTimestamp() != nil })
		unready := namesOf(list, func(o *unstructured.Unstructured) bool {
			return !has(o, "spec", "suspend") && o.GetDeletionTimestamp() == nil && condition(o, "Ready") != "True"
		})
		a.found("objects", fine, nil, "", "%d of kind %s, %d of them suspended", len(list), kind, len(suspended))
		if len(unready) > 0 {
			a.found("objects", warning, unready, "mend them first, or know why they fail", "not Ready")
		}
		if len(deleting) > 0 {
			a.found("objects", warning, deleting, "wait until Flux has let them go", "being deleted")
		}
		unserved := kustomization.Unserved
		if kind == "GitRepository" {
			unserved = gitrepository.Unserved
		}
		for i := range list {
			if err := unserved(list[i].Object); err != nil {
				a.found("fields", stops, []string{nameOf(&list[i])}, "do without it, or leave the object to Flux: "+sideBySide, "%s", fault.All(err)[0].Field+": not served by this version of Sealock")
			}
		}
	}
}

// checkOtherKinds: what stays with the controllers of Flux that are not replaced.
func (s *fluxState) checkOtherKinds(a *adoption) {
	all := func(*unstructured.Unstructured) bool { return true }
	if sources := slices.Concat(namesOf(s.objects["OCIRepository"], all), namesOf(s.objects["Bucket"], all), namesOf(s.objects["ExternalArtifact"], all)); len(sources) > 0 {
		a.found("other-sources", stops, sources, sideBySide, "sources of kinds that Sealock does not serve; they come from source-controller, and would not be fetched any more")
	}
	if charts := slices.Concat(namesOf(s.objects["HelmChart"], all), namesOf(s.objects["HelmRepository"], all)); len(charts) > 0 {
		a.found("helm-charts", stops, charts, sideBySide, "charts come from source-controller: without it HelmReleases keep what they have, and fail at their next reconcile")
	}
	packed := namesOf(s.objects["HelmChart"], func(o *unstructured.Unstructured) bool {
		return text(o, "spec", "sourceRef", "kind") == "GitRepository"
	})
	if len(packed) > 0 {
		a.found("artifacts", warning, packed, "leave their GitRepositories to Flux: "+sideBySide, "charts made from GitRepositories: source-controller makes them of artifacts that it has fetched itself")
	}
	if len(s.consumers) > 0 {
		a.found("artifacts", warning, s.consumers, "name the namespaces of the GitRepositories that they read with --artifact-anonymous-namespaces, see docs/spec/gitrepository.md", "they fetch artifacts without a token, which Sealock asks for")
	}
	if releases := s.objects["HelmRelease"]; len(releases) > 0 {
		a.found("helm", note, nil, "", "%d HelmReleases stay with Flux's helm-controller", len(releases))
	}
	rest := 0
	for _, kind := range []string{"Alert", "Provider", "Receiver", "ImageRepository", "ImagePolicy", "ImageUpdateAutomation"} {
		rest += len(s.objects[kind])
	}
	if rest > 0 {
		a.found("other-kinds", note, nil, "", "%d objects of notification and image automation stay with Flux's controllers, which work with Sealock's objects as before", rest)
	}
}

// checkIdentities finds the namespaces in which Flux's rules have to hold: an object there acts without naming a service
// account, or refers to another namespace.
func (s *fluxState) checkIdentities(a *adoption) {
	platform := tenants.DefaultSettings().PlatformNamespaces
	var acting, crossing, ofTenants []string
	for i := range s.objects["Kustomization"] {
		ks := &s.objects["Kustomization"][i]
		namespace := ks.GetNamespace()
		anonymous := text(ks, "spec", "serviceAccountName") == "" && s.fluxFlag("kustomize-controller", "default-service-account") == ""
		crosses := crossesNamespaces(ks)
		owner := s.tenants[namespace]
		switch {
		case owner != "" && crosses:
			a.found("tenants", warning, []string{nameOf(ks)}, "make what it refers to in its own namespace", "its namespace belongs to the Tenant %s, whose objects may not refer to other namespaces", owner)
		case owner != "":
			ofTenants = append(ofTenants, nameOf(ks))
		}
		if owner != "" || !anonymous && !crosses {
			continue
		}
		if anonymous {
			acting = append(acting, nameOf(ks))
		}
		if crosses {
			crossing = append(crossing, nameOf(ks))
		}
		platform = append(platform, namespace)
	}
	slices.Sort(platform)
	a.PlatformNamespaces = slices.Compact(platform)
	if len(acting) > 0 {
		a.found("identity", note, acting, "name a service account, or make the namespace part of a Tenant, when you come to it", "relaxation: they name no service account, and act as sealock-platform with all rights, as they act as kustomize-controller now")
	}
	if len(crossing) > 0 {
		a.found("references", note, crossing, "", "relaxation: they refer to other namespaces, which only platform namespaces may")
	}
	if len(ofTenants) > 0 {
		a.found("tenants", note, ofTenants, "", "their namespace belongs to a Tenant: without serviceAccountName they act as its own identity")
	}
}

func crossesNamespaces(ks *unstructured.Unstructured) bool {
	if ns := text(ks, "spec", "sourceRef", "namespace"); ns != "" && ns != ks.GetNamespace() {
		return true
	}
	list, _, _ := unstructured.NestedSlice(ks.Object, "spec", "dependsOn")
	return slices.ContainsFunc(list, func(each any) bool {
		d, _ := each.(map[string]any)
		ns, _ := d["namespace"].(string)
		return ns != "" && ns != ks.GetNamespace()
	})
}

// suffixAnnotation on a Kustomization, with the value kustomize, asks for the suffixes that kustomize makes of plaintext.
const suffixAnnotation = "sealock.dev/generator-suffix"

// kustomizeSuffix is what a generator of kustomize puts behind a name.
var kustomizeSuffix = regexp.MustCompile(`-[bcdfghkmt2456789]{10}$`)

// checkDifferences lists what will not be the same.
func (s *fluxState) checkDifferences(a *adoption) {
	list := s.objects["Kustomization"]
	decrypting := namesOf(list, func(o *unstructured.Unstructured) bool { return has(o, "spec", "decryption") })
	if len(decrypting) > 0 {
		a.found("sops", note, decrypting, "run `sealock verify` on the folder to be sure", "the MAC of each SOPS file is verified, which Flux does not do: a file that was edited without sops is refused")
	}
	for i := range list {
		if has(&list[i], "spec", "decryption") && list[i].GetAnnotations()[suffixAnnotation] != "kustomize" {
			a.Renamed = append(a.Renamed, generatedSecrets(&list[i])...)
		}
	}
	if len(a.Renamed) > 0 {
		a.found("generated-names", stops, a.Renamed, "annotate the Kustomizations with "+suffixAnnotation+": kustomize, which keeps the names; or plan the moment: the workloads that refer to them roll out once, when Sealock applies for the first time",
			"generated from decrypted files: the suffix is made of tokens instead of plaintext, so that a new name takes their place")
	}
	finalized := 0
	for _, kind := range []string{"GitRepository", "Kustomization"} {
		for i := range s.objects[kind] {
			if slices.Contains(s.objects[kind][i].GetFinalizers(), fluxFinalizer) {
				finalized++
			}
		}
	}
	a.found("ownership", fine, nil, "", "%d objects hold the finalizer %s, which Sealock keeps and honours; labels, inventories and the field manager kustomize-controller stay as they are", finalized, fluxFinalizer)
	if strings.Contains(s.fluxFlag("kustomize-controller", "feature-gates"), "StrictPostBuildSubstitutions=false") {
		a.found("substitution", warning, namesOf(list, func(o *unstructured.Unstructured) bool { return has(o, "spec", "postBuild") }),
			"give each variable a default: ${name:-}", "Flux runs with StrictPostBuildSubstitutions=false; Sealock refuses a variable that is not set")
	}
}

// checkProxy: a proxy in the environment is ignored here.
func (s *fluxState) checkProxy(a *adoption) {
	objects := namesOf(s.objects["GitRepository"], func(o *unstructured.Unstructured) bool { return !has(o, "spec", "proxySecretRef") })
	for _, c := range s.controllers {
		if c.Component == "source-controller" && c.Namespace == s.namespace && c.proxy != "" && len(objects) > 0 {
			a.found("proxy", warning, objects, "name the proxy in spec.proxySecretRef, if the Git server is behind it", "source-controller has %s in its environment, which Sealock ignores for Git", c.proxy)
		}
	}
}

// generatedSecrets returns the Secrets of the inventory that a generator of kustomize named.
func generatedSecrets(ks *unstructured.Unstructured) []string {
	var out []string
	entries, _, _ := unstructured.NestedSlice(ks.Object, "status", "inventory", "entries")
	for _, each := range entries {
		entry, _ := each.(map[string]any)
		id, _ := entry["id"].(string)
		parsed, err := manifest.ParseID(id, "v1")
		if err == nil && parsed.Group == "" && parsed.Kind == "Secret" && kustomizeSuffix.MatchString(parsed.Name) {
			out = append(out, "Secret/"+parsed.Namespace+"/"+parsed.Name)
		}
	}
	return out
}
