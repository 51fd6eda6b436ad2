package policies

import (
	"strings"

	"github.com/open-policy-agent/opa/v1/ast"
)

// allowedBuiltins is what a policy may call: names, and families that end in a dot. It is a list of what is allowed, so
// that a built-in which a newer OPA brings is refused until somebody has looked at it.
//
// Left out on purpose: what reaches the network (http.send, net.lookup_ip_addr, json schemas with remote references),
// the process (opa.runtime, trace), chance (rand, uuid), the compiler (rego.*), keys and signatures (io.jwt, crypto.x509,
// providers), and what makes much of little and cannot be interrupted (net.cidr_expand, graphql, templates).
// time.now_ns stays: every evaluation of one request sees the same pinned time.
var allowedBuiltins = []string{ //nolint:gochecknoglobals // a constant table
	// operators, comparison, arithmetic, sets
	"assign", "eq", "equal", "neq", "lt", "lte", "gt", "gte", "plus", "minus", "mul", "div", "rem", "abs", "round", "ceil", "floor",
	"and", "or", "intersection", "union", "internal.member_2", "internal.member_3", "internal.template_string", "bits.",
	// aggregates
	"count", "sum", "product", "max", "min", "sort", "numbers.",
	// types
	"is_array", "is_boolean", "is_null", "is_number", "is_object", "is_set", "is_string", "type_name", "to_number", "format_int",
	// text
	"concat", "contains", "endswith", "indexof", "indexof_n", "lower", "replace", "split", "sprintf", "startswith", "substring",
	"trim", "trim_left", "trim_prefix", "trim_right", "trim_space", "trim_suffix", "upper",
	"strings.any_prefix_match", "strings.any_suffix_match", "strings.count", "strings.replace_n", "strings.reverse", "strings.split_n",
	"regex.find_all_string_submatch_n", "regex.find_n", "regex.is_valid", "regex.match", "regex.replace", "regex.split", "regex.template_match",
	"glob.", "semver.", "units.", "uri.", "urlquery.",
	// structures
	"array.", "object.", "walk", "graph.",
	"json.filter", "json.is_valid", "json.marshal", "json.marshal_with_options", "json.patch", "json.remove", "json.unmarshal",
	"yaml.", "base64.", "base64url.", "hex.",
	// pure arithmetic on addresses
	"net.cidr_contains", "net.cidr_contains_matches", "net.cidr_intersects", "net.cidr_is_valid", "net.cidr_merge", "net.cidr_overlap",
	// digests
	"crypto.md5", "crypto.sha1", "crypto.sha256", "crypto.hmac.",
	// time, pinned
	"time.", "uuid.parse",
	// accepted and removed by the compiler: it prints nothing
	"print",
}

func isAllowedBuiltin(name string) bool {
	for _, a := range allowedBuiltins {
		if name == a || strings.HasSuffix(a, ".") && strings.HasPrefix(name, a) {
			return true
		}
	}
	return false
}

// capabilities returns what the compiler offers to a policy. The list is fresh: compilers write to it.
func capabilities() *ast.Capabilities {
	all := ast.CapabilitiesForThisVersion()
	kept := make([]*ast.Builtin, 0, len(all.Builtins))
	for _, b := range all.Builtins {
		if isAllowedBuiltin(b.Name) {
			kept = append(kept, b)
		}
	}
	all.Builtins = kept
	all.AllowNet = []string{} // nil would be any host, for schemas in annotations
	return all
}

// refusedBuiltin returns the built-in that text, a message of the compiler, calls undefined although OPA has it.
func refusedBuiltin(text string) (string, bool) {
	_, name, found := strings.Cut(text, "undefined function ")
	if !found {
		return "", false
	}
	name, _, _ = strings.Cut(name, " ")
	for _, b := range ast.CapabilitiesForThisVersion().Builtins {
		if b.Name == name {
			return name, true
		}
	}
	return "", false
}
