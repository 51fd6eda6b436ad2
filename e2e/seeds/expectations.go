package main

// expectation is what has to become of one seed.
type expectation struct {
	id, object string
	// refused lists fields that the refusal has to name; nil: it is accepted unchanged.
	refused []string
	// check is for seeds that are no objects of a cluster; nil: the seed is applied.
	check func(*checker) (string, error)
	// then is checked after the seed was accepted.
	then *condition
}

// condition is one that the controller has to report.
type condition struct {
	typ, status string
	words       []string // all in the message
}

var expectations = []expectation{
	{id: "S0-Y01", object: "GitRepository flux-system/my-app"},
	{id: "S0-Y02", object: "Secret flux-system/git-credentials"},
	{id: "S0-Y03", object: "Secret flux-system/git-ssh-key"},
	{id: "S0-Y06", object: "Kustomization flux-system/my-app"},
	{id: "S0-Y07", object: "Kustomization flux-system/infrastructure"},
	{id: "S0-Y22", object: "GitRepository team-a/team-a-apps", refused: []string{"spec.interval"}},
	{id: "S0-Y23", object: "Kustomization team-a/team-a-apps", refused: []string{"spec.interval", "spec.prune", "spec.sourceRef"}},
	{id: "S1-Y07", object: "GitRepository flux-system/platform-repo"},
	{id: "S1-Y08", object: "Kustomization flux-system/api-server"},
	{id: "S1-Y24", object: "base/kustomization.yaml", check: (*checker).base},
	{id: "S1-Y25", object: "overlays/production/kustomization.yaml", check: (*checker).overlay},
	{id: "S1-Y26", object: "patches/replicas.yaml, as a patch", check: (*checker).patch},
	{id: "S1-Y26", object: "patches/replicas.yaml, as an object", refused: []string{"spec.selector", "spec.template"}},
	{
		id: "S1-Y27", object: "SealedSecret production/db-credentials",
		then: &condition{typ: "Synced", status: "False", words: []string{"username", "password"}},
	},
	{id: "S1-Y28", object: "SecretStore production/vault-backend, v1beta1"},
	{id: "S1-Y29", object: "ExternalSecret production/db-credentials"},
	{
		id: "S1-Y30", object: "ClusterSecretStore aws-secrets-manager",
		then: &condition{typ: "Ready", status: "False", words: []string{"aws"}},
	},
	{id: "S1-Y31", object: ".sops.yaml", check: (*checker).sopsRules},
	{id: "S1-Y32", object: "Kustomization flux-system/api-server"},
}
