// Package sealock_test checks the shape of the house: who may import whom, who may see a secret, and what may never be
// in a stage; and that each part of the contract with Flux has a test (contract_test.go). It exists because such rules
// decay when nobody runs them; it must hold no other test.
// The rules and their reasons are in this file, the mechanism is in arch_check_test.go.
package sealock_test

// rule says which packages of ours the package at path, and those below it, may import. A trailing /... is everything below.
type rule struct {
	path string
	may  []string
	why  string
}

// The groups that several rules share.
var (
	leaves = []string{"plaintext", "fault", "manifest"}
	pure   = []string{"plaintext", "fault", "manifest", "api/...", "tenants", "template", "vault", "expressions"}
)

func with(base []string, more ...string) []string {
	return append(base[:len(base):len(base)], more...)
}

var importRules = []rule{
	{"plaintext", nil, "a secret must not be able to reach anything"},
	{"fault", nil, "an error that knew the rest of the house would carry it around"},
	{"api", nil, "types are a contract; behaviour stays outside"},
	{"manifest", []string{"plaintext", "fault"}, "objects must stay usable without a cluster, a tenant or a policy"},
	{"tenants", with(leaves, "api/..."), "who owns what is decided from objects alone"},
	{"vault", with(leaves, "api/..."), "a client knows what it reads, not what for"},
	{"expressions", []string{"fault"}, "an expression is tenants' input: it sees the data that it is given and nothing else"},
	{"template", with(leaves, "api/..."), "templates are tenants' input: nothing that acts may be in reach"},

	{"source", pure, "a stage never imports a sibling stage: the pipeline puts them in line"},
	{"render", pure, "as source"},
	{"decrypt", pure, "as source"},
	{"sealing", pure, "as source"},
	{"externalsecrets", pure, "as source"},
	{"policies", pure, "as source; and the engine must judge the same on a laptop as in a cluster"},
	{"policies/builtin", with(pure, "policies"), "shipped policies are ordinary ones"},
	{"cluster", pure, "as source"},

	{"pipeline", with(leaves, "tenants"), "it declares the stages as interfaces, so that a front end can be deleted or added without it"},

	{"controllers/kustomization", with(leaves, "api/...", "tenants", "pipeline", "cluster", "render", "expressions", "notify"), "a front end translates one kind, here into build options; stages reach it through the pipeline"},
	{"controllers/gitrepository", with(leaves, "api/...", "tenants", "pipeline", "cluster", "source"), "as above, and its stage is source"},
	{"controllers/tenant", with(leaves, "api/...", "tenants", "pipeline", "cluster"), "as above"},
	{"controllers/policy", with(leaves, "api/...", "tenants", "pipeline", "cluster", "policies/..."), "as above, and its stage is policies"},
	{"controllers/sealedsecret", with(leaves, "api/...", "tenants", "pipeline", "cluster", "sealing"), "as above, and its stage is sealing"},
	{"controllers/externalsecret", with(leaves, "api/...", "tenants", "pipeline", "cluster", "externalsecrets"), "as above, and its stage is externalsecrets"},
	{"webhook", with(leaves, "api/...", "tenants", "pipeline", "cluster", "policies/..."), "admission asks the same engine as the commit"},

	{"notify", nil, "what happened is told without knowing what it means"},

	{"cmd/sealock", []string{"..."}, "the composition root; nobody imports it"},
	{"config", nil, "YAML and its embedding"},
	{"internal/buildinfo", nil, "a leaf"},
	{"internal/testkit", []string{"plaintext", "config"}, "tests of every package use it, so it may know none of them"},
}

// ban keeps imports (a trailing / is everything below) to some places. An empty in means everywhere; tests are exempt
// unless tests is set.
type ban struct {
	imports []string
	in      []string
	except  []string
	tests   bool
	why     string
}

var importBans = []ban{
	{
		imports: []string{"github.com/fluxcd/kustomize-controller/", "github.com/fluxcd/source-controller/", "github.com/fluxcd/pkg/"},
		except:  []string{"controllers/kustomization", "controllers/gitrepository"},
		why:     "the engine must not know which front end called it",
	},
	{
		imports: []string{"sealock.dev/sealock/internal/testkit"},
		why:     "it starts programs; only tests may",
	},
	{
		imports: []string{"os/exec", "plugin"},
		except:  []string{"internal/testkit", "e2e"},
		why:     "no shell or other program is ever started",
	},
	{
		imports: []string{"os"},
		in:      []string{"plaintext", "fault", "api", "manifest", "tenants", "vault", "template", "expressions", "render", "decrypt", "sealing", "externalsecrets", "policies", "cluster", "pipeline", "controllers", "webhook"},
		why:     "no environment and no disk where plaintext may pass",
	},
	{
		imports: []string{"net/http", "net", "net/rpc", "k8s.io/client-go/", "sigs.k8s.io/controller-runtime/"},
		in:      []string{"plaintext", "fault", "api", "manifest", "tenants", "template", "expressions", "render", "policies"},
		why:     "what renders, templates or judges makes no network call",
	},
	{
		imports: []string{"github.com/stretchr/testify/", "github.com/onsi/", "github.com/pkg/errors"},
		tests:   true,
		why:     "the standard library and go-cmp are enough, and fewer dependencies reach users",
	},
	{
		imports: []string{"sealock.dev/sealock/"},
		in:      []string{"e2e"},
		tests:   true,
		why:     "e2e builds against another Kubernetes; it uses the binaries. Its own packages are sealock.dev/sealock/e2e/...",
	},
}

// allowance permits one file to do something, with the reason.
type allowance struct {
	file string
	why  string
}

// revealers call plaintext.Value.Reveal. The list is the whole answer to "who sees a secret"; adding to it needs a reason
// that fits into a line. Inside package plaintext the method may be used freely.
var revealers = []allowance{
	{"manifest/object.go", "Wire puts values back into the body that the API server gets"},
	{"controllers/kustomization/remote.go", "the kubeconfig of a remote cluster is parsed"},
	{"controllers/kustomization/workload.go", "a login to a remote cluster, with a token of a service account"},
	{"controllers/sealedsecret/keystore.go", "a new sealing key is written to its Secret"},
	{"decrypt/keys.go", "age identities are parsed, line by line"},
	{"decrypt/secrets.go", "a payload is looked at as it stands in Git, to see whether it is an encrypted file"},
	{"externalsecrets/shape.go", "keys and metadata of a Secret that a template alone, without a value, has made"},
	{"externalsecrets/vault.go", "the CA bundle that a store names, which is public"},
	{"render/suffix.go", "ten characters of a digest, in a name, where a user asks for kustomize's own suffix; one of the two exceptions of promise 1"},
	{"sealing/format.go", "the value that is encrypted"},
	{"sealing/privatekey.go", "a sealing key is parsed"},
	{"sealing/secrettemplate.go", "a template that came sealed is parsed; only structure leaves"},
	{"source/credentials.go", "the credential of a Git login"},
	{"source/trusted.go", "the keys of those whose signatures count, which are public"},
	{"vault/http.go", "the body and the token of a request to Vault"},
}

// wirers call manifest.Object.Wire, which returns an object with its secrets in the clear.
var wirers = []allowance{
	{"cluster/payload.go", "the write of a commit's object, and its dry run"},
	{"cluster/secrets.go", "the write of a Secret that an opener made"},
	{"cmd/sealock/diff_live.go", "the dry run of what a person compares, to where it would be applied, with their own rights"},
}

// longFiles may have more than maxLines lines. At most five, each with the reason why it is one thing.
var longFiles = []allowance{}

const maxLines = 500

// vagueNames are names that say nothing about why a package exists, and so collect everything.
var vagueNames = []string{"util", "utils", "common", "helper", "helpers", "misc", "shared", "base", "types"}

// environment is what reads or changes the process environment; both would silently change what a tenant's object does.
// Only the composition root and the testkit may.
var (
	environment      = []string{"Getenv", "LookupEnv", "Environ", "Setenv", "Unsetenv", "ExpandEnv"}
	environmentUsers = []string{"cmd/sealock", "internal/testkit", "e2e"}
)
