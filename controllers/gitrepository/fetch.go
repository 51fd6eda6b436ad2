package gitrepository

import (
	"context"
	"reflect"

	fluxmeta "github.com/fluxcd/pkg/apis/meta"
	sourcev1 "github.com/fluxcd/source-controller/api/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"sealock.dev/sealock/fault"
	"sealock.dev/sealock/plaintext"
	"sealock.dev/sealock/source"
)

// outcome is a commit that is fetched, and its artifact.
type outcome struct {
	tree     *source.Tree
	artifact source.Artifact
	stored   bool // written now; false when the one in storage was good
	included []*fluxmeta.Artifact
	verified *source.Verified // nil when it had been verified before, or is not to be
}

// problem is why there is none.
type problem struct {
	condition string // FetchFailed, SourceVerified, IncludeUnavailable or StorageOperationFailed
	reason    string
	wait      bool // for what comes by itself; what the status says stays true
	stalled   bool // nothing but a change of the object or of its tenant helps
	err       error
}

// The reasons that Flux's API module has no name for, and those that are ours.
const (
	featureGateDisabled = "FeatureGateDisabled"
	includeNotFound     = "NotFound"
	includeNoArtifact   = "NoArtifact"
	includeLoop         = "IncludeLoop"
	accessDenied        = "AccessDenied"
)

// fetchProblem says what a failure of the source stage means to clients of Flux.
func fetchProblem(err error) *problem {
	reason := source.ReasonOf(err)
	p := &problem{condition: sourcev1.FetchFailedCondition, reason: string(reason), err: err}
	if all := fault.All(err); len(all) > 0 {
		f := all[0]
		switch {
		case reason == source.ReasonCopy:
			p.condition = sourcev1.StorageOperationFailedCondition
		case f.Field == "spec.include.fromPath", f.Field == "spec.include.toPath":
			p.condition, p.stalled = sourcev1.StorageOperationFailedCondition, true
		}
	}
	switch reason {
	case source.ReasonCommitSignature, source.ReasonTagSignature, source.ReasonGitObject, source.ReasonVerification, source.ReasonMode:
		p.condition = sourcev1.SourceVerifiedCondition
	default:
	}
	p.stalled = p.stalled || reason == source.ReasonMode || reason == source.ReasonProvider || misconfigured(err)
	return p
}

// misconfigured reports a mistake in the spec itself. What is wrong with the Secret or in the repository is mended
// elsewhere, without the object changing.
func misconfigured(err error) bool {
	for _, f := range fault.All(err) {
		if f.Kind == fault.Invalid {
			switch f.Field {
			case "spec.url", "spec.ignore", "spec.ref.name", "spec.ref.semver", "spec.ref.commit", "spec.sparseCheckout":
				return true
			}
		}
	}
	return false
}

// fetch decides whether the repository may be fetched, fetches it, and stores its artifact where that is not done.
func (r *Reconciler) fetch(ctx context.Context, repo *sourcev1.GitRepository) (outcome, *problem) {
	q, p := r.request(ctx, repo)
	if p != nil {
		return outcome{}, p
	}
	included, p := r.includes(ctx, repo, &q)
	if p != nil {
		return outcome{}, p
	}
	var noKeys error
	q.Verify = r.verification(repo, &noKeys)
	timeout := defaultTimeout
	if t := repo.Spec.Timeout; t != nil && t.Duration > 0 {
		timeout = t.Duration
	}
	limited, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	owner := source.Owner(client.ObjectKeyFromObject(repo))
	got, err := r.Repositories.Fetch(limited, owner, q)
	switch {
	case noKeys != nil:
		return outcome{}, &problem{condition: sourcev1.SourceVerifiedCondition, reason: sourcev1.VerificationError, err: noKeys}
	case err != nil:
		return outcome{}, fetchProblem(err)
	}
	out := outcome{tree: got.Tree, included: included, verified: got.Verified}
	var here bool
	if out.artifact, here = r.inStorage(repo, got.Tree, included); here {
		return out, nil
	}
	if out.artifact, err = r.Storage.Store(ctx, owner, got.Tree); err != nil {
		return outcome{}, &problem{condition: sourcev1.StorageOperationFailedCondition, reason: string(source.ReasonOf(err)), err: err}
	}
	out.stored = true
	return out, nil
}

// request translates the object, but for what it includes and how it is verified.
func (r *Reconciler) request(ctx context.Context, repo *sourcev1.GitRepository) (source.Request, *problem) {
	s := repo.Spec
	if err := gated(repo); err != nil {
		return source.Request{}, &problem{condition: sourcev1.FetchFailedCondition, reason: featureGateDisabled, stalled: true, err: err}
	}
	grant := r.Grants(repo.Namespace)
	if !grant.AllowsGit(s.URL) {
		err := fault.New(fault.StageGrant, fault.Denied, fault.Ref{}, "tenant %q may not fetch from this URL", grant.Tenant).
			At("spec.url").Fix("use a repository that spec.git.urls of the Tenant allows, or ask the platform team to allow this one")
		return source.Request{}, &problem{condition: sourcev1.FetchFailedCondition, reason: accessDenied, stalled: true, err: err}
	}
	noSecret := func(err error) (source.Request, *problem) {
		return source.Request{}, &problem{condition: sourcev1.FetchFailedCondition, reason: sourcev1.AuthenticationFailedReason, err: err}
	}
	auth, err := r.secret(ctx, repo, s.SecretRef, "spec.secretRef")
	if err != nil {
		return noSecret(err)
	}
	proxy, err := r.secret(ctx, repo, s.ProxySecretRef, "spec.proxySecretRef")
	if err != nil {
		return noSecret(err)
	}
	return source.Request{
		Remote: source.Remote{URL: s.URL, Auth: auth, GitHubApp: repo.GetProvider() == sourcev1.GitProviderGitHub, Proxy: proxy, Allows: grant.AllowsGit},
		Ref:    refOf(repo), Ignore: s.Ignore, Sparse: s.SparseCheckout, Submodules: s.RecurseSubmodules,
		Began: func(revision string) {
			if a := repo.Status.Artifact; a == nil || a.Revision != revision { // else only the cache was lost
				r.progress(ctx, repo, reasonNewRevision, "new upstream revision '"+revision+"'")
			}
		},
	}, nil
}

// verification translates spec.verify. What has passed is looked at again when the object changed since. noKeys gets the
// failure to read the Secret.
func (r *Reconciler) verification(repo *sourcev1.GitRepository, noKeys *error) *source.Verify {
	v := repo.Spec.Verification
	if v == nil {
		return nil
	}
	c := meta.FindStatusCondition(repo.Status.Conditions, sourcev1.SourceVerifiedCondition)
	mode := repo.Status.SourceVerificationMode
	return &source.Verify{
		Mode:  source.Mode(v.GetMode()),
		Again: c == nil || c.Status != metav1.ConditionTrue || c.ObservedGeneration != repo.Generation || mode == nil || *mode != v.GetMode(),
		Keys: func(ctx context.Context) (map[string]plaintext.Value, error) {
			keys, err := r.secret(ctx, repo, &v.SecretRef, "spec.verify.secretRef")
			*noKeys = err
			return keys, err
		},
	}
}

// gated refuses what needs an identity of a cloud, which Flux has behind a feature gate that is off.
func gated(repo *sourcev1.GitRepository) error {
	refuse := func(field, text string) error {
		return fault.New(fault.StageGrant, fault.Invalid, fault.Ref{}, "%s", text).At(field).
			Fix("use the provider generic with a token or a key in spec.secretRef, or github with a GitHub App")
	}
	if repo.Spec.ServiceAccountName != "" {
		return refuse("spec.serviceAccountName", "workload identity is not served: the controller asks no cloud for credentials")
	}
	if p := repo.GetProvider(); p == sourcev1.GitProviderAWS || p == sourcev1.GitProviderAzure {
		return refuse("spec.provider", "the provider "+p+" is not served: the controller asks no cloud for credentials")
	}
	return nil
}

// includes opens what the object includes, from its own namespace; there is no way to name another one.
func (r *Reconciler) includes(ctx context.Context, repo *sourcev1.GitRepository, q *source.Request) ([]*fluxmeta.Artifact, *problem) {
	var included []*fluxmeta.Artifact
	for _, i := range repo.Spec.Include {
		name := i.GitRepositoryRef.Name
		missing := func(reason string, kind fault.Kind, text, remedy string) ([]*fluxmeta.Artifact, *problem) {
			ref := fault.Ref{Kind: sourcev1.GitRepositoryKind, Namespace: repo.Namespace, Name: name}
			err := fault.New(fault.StageSource, kind, ref, "%s", text).At("spec.include").Fix("%s", remedy)
			return nil, &problem{condition: sourcev1.IncludeUnavailableCondition, reason: reason, stalled: reason == includeLoop, err: err}
		}
		known := map[string]*sourcev1.GitRepository{}
		if loop := r.leadsTo(ctx, repo.Namespace, name, repo.Name, known); loop {
			return missing(includeLoop, fault.Invalid, "it includes this repository again, directly or through others", "break the loop")
		}
		other := known[name]
		if other == nil {
			return missing(includeNotFound, fault.NotFound, "the included repository does not exist in this namespace", "create it, or leave it out")
		}
		a := other.Status.Artifact
		if at := len(included); repo.Spec.Suspend && at < len(repo.Status.IncludedArtifacts) {
			a = repo.Status.IncludedArtifacts[at]
		}
		if a == nil {
			return missing(includeNoArtifact, fault.NotFound, "the included repository has no artifact yet", "see its own conditions")
		}
		tree, err := r.Repositories.Open(ctx, other.Namespace, other.Name, a.Revision)
		if source.ReasonOf(err) == source.ReasonCacheStale && fault.KindOf(err) == fault.Transient {
			return nil, &problem{wait: true, err: err} // its cache is cold, after a failover for instance, and is being filled
		}
		if err != nil {
			return missing(includeNoArtifact, fault.KindOf(err), "the files of the included repository cannot be had now", "see its own conditions; it is tried again")
		}
		q.Includes = append(q.Includes, source.Include{Tree: tree, Digest: a.Digest, From: i.GetFromPath(), To: i.GetToPath()})
		included = append(included, a.DeepCopy())
	}
	if old := repo.Status.Artifact; old != nil && !repo.Spec.Suspend && !sameArtifacts(repo.Status.IncludedArtifacts, included) {
		r.progress(ctx, repo, reasonIncludeChange, "included artifacts differ from last observed includes")
	}
	return included, nil
}

// leadsTo reports whether what from includes, and so on, arrives at goal. known gets what was read on the way.
func (r *Reconciler) leadsTo(ctx context.Context, namespace, from, goal string, known map[string]*sourcev1.GitRepository) bool {
	if from == goal {
		return true
	}
	if _, seen := known[from]; seen {
		return false
	}
	known[from] = nil
	repo := &sourcev1.GitRepository{}
	if r.Client.Get(ctx, client.ObjectKey{Namespace: namespace, Name: from}, repo) != nil {
		return false
	}
	known[from] = repo
	for _, i := range repo.Spec.Include {
		if r.leadsTo(ctx, namespace, i.GitRepositoryRef.Name, goal, known) {
			return true
		}
	}
	return false
}

func sameArtifacts(a, b []*fluxmeta.Artifact) bool {
	if len(a) != len(b) {
		return false
	}
	for i := range a {
		if a[i].Revision != b[i].Revision || a[i].Digest != b[i].Digest {
			return false
		}
	}
	return true
}

// inStorage returns the artifact that the status names, if it is that of the tree and still there.
func (r *Reconciler) inStorage(repo *sourcev1.GitRepository, t *source.Tree, included []*fluxmeta.Artifact) (source.Artifact, bool) {
	owner := source.Owner(client.ObjectKeyFromObject(repo))
	old, s := repo.Status.Artifact, repo.Status
	if old == nil || old.Size == nil || old.Path != source.ArtifactPath(owner, t.Commit()) || !equalText(s.ObservedIgnore, repo.Spec.Ignore) ||
		s.ObservedRecurseSubmodules != repo.Spec.RecurseSubmodules || !equalLists(s.ObservedSparseCheckout, repo.Spec.SparseCheckout) ||
		!equalLists(s.ObservedInclude, repo.Spec.Include) || !sameArtifacts(s.IncludedArtifacts, included) {
		return source.Artifact{}, false
	}
	a := stored(old)
	return a, r.Storage.Has(a)
}

func equalText(a, b *string) bool { return a == b || a != nil && b != nil && *a == *b }

func equalLists[T any](a, b []T) bool { return len(a) == 0 && len(b) == 0 || reflect.DeepEqual(a, b) }

func refOf(repo *sourcev1.GitRepository) source.Ref {
	out := source.Ref{}
	if ref := repo.Spec.Reference; ref != nil {
		out = source.Ref{Branch: ref.Branch, Tag: ref.Tag, SemVer: ref.SemVer, Name: ref.Name, Commit: ref.Commit}
	}
	if a := repo.Status.Artifact; repo.Spec.Suspend && a != nil {
		out.Again = a.Revision
	}
	return out
}

// progress shows that something is being done. It is written only before work that takes long, and not for a retry.
func (r *Reconciler) progress(ctx context.Context, repo *sourcev1.GitRepository, reason, what string) {
	for _, typ := range []string{sourcev1.FetchFailedCondition, sourcev1.StorageOperationFailedCondition, sourcev1.IncludeUnavailableCondition} {
		if meta.IsStatusConditionTrue(repo.Status.Conditions, typ) {
			return
		}
	}
	if meta.IsStatusConditionFalse(repo.Status.Conditions, sourcev1.SourceVerifiedCondition) {
		return
	}
	err := r.writeStatus(ctx, repo, func(s *sourcev1.GitRepositoryStatus) {
		message := "building artifact: " + what
		meta.RemoveStatusCondition(&s.Conditions, fluxmeta.StalledCondition)
		set(s, repo.Generation, fluxmeta.ReconcilingCondition, metav1.ConditionTrue, fluxmeta.ProgressingReason, message)
		set(s, repo.Generation, fluxmeta.ReadyCondition, metav1.ConditionUnknown, fluxmeta.ProgressingReason, message)
		if s.Artifact != nil {
			set(s, repo.Generation, sourcev1.ArtifactOutdatedCondition, metav1.ConditionTrue, reason, what)
		}
	})
	if err != nil { // the end of the work is written, or fails, all the same
		ctrl.LoggerFrom(ctx).V(1).Info("progress was not written", "error", err.Error())
	}
}

const (
	reasonNewRevision   = "NewRevision"
	reasonIncludeChange = "IncludeChange"
)
