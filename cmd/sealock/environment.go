package main

import (
	"os"
	"strings"
)

// keptEnvironment are the variables that the controller keeps. Everything else is dropped at start, so that no library
// takes credentials, addresses or key files from it: what a tenant's object does must not depend on the environment.
var keptEnvironment = []string{ //nolint:gochecknoglobals // a constant table
	"PATH", "TZ", "TMPDIR", "LANG",
	"POD_NAMESPACE", "POD_NAME", "POD_IP", "RUNTIME_NAMESPACE", "KUBECONFIG", "KUBERNETES_SERVICE_HOST", "KUBERNETES_SERVICE_PORT",
	"SSL_CERT_FILE", "SSL_CERT_DIR", "HTTPS_PROXY", "HTTP_PROXY", "NO_PROXY",
	"GOMEMLIMIT", "GOMAXPROCS", "GOGC", "GODEBUG", "GOTRACEBACK", "GOCOVERDIR",
}

// cutEnvironment drops every variable that is not kept.
func cutEnvironment() {
	kept := map[string]string{}
	for _, name := range keptEnvironment {
		for _, n := range []string{name, strings.ToLower(name)} {
			if v, ok := os.LookupEnv(n); ok {
				kept[n] = v
			}
		}
	}
	os.Clearenv()
	for k, v := range kept {
		_ = os.Setenv(k, v) // fails for names with "=" or NUL only
	}
}
