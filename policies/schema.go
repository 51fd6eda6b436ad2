package policies

import "github.com/open-policy-agent/opa/v1/ast"

// inputSchema is the input document, version 1, as the compiler checks policies against it: a path that does not exist,
// such as input.reveiw, does not compile instead of being silently undefined. docs of each field: see document.
func inputSchema() *ast.SchemaSet {
	anything := map[string]any{}
	text := map[string]any{"type": "string"}
	texts := map[string]any{"type": "array", "items": text}
	object := func(fields map[string]any) map[string]any {
		return map[string]any{"type": "object", "additionalProperties": false, "properties": fields}
	}
	list := func(item map[string]any) map[string]any { return map[string]any{"type": "array", "items": item} }
	set := ast.NewSchemaSet()
	set.Put(ast.SchemaRootRef, object(map[string]any{
		"review": object(map[string]any{
			"kind":        object(map[string]any{"group": text, "version": text, "kind": text}),
			"resource":    object(map[string]any{"group": text, "version": text, "resource": text}),
			"subResource": text, "name": text, "namespace": text, "operation": text,
			"object": anything, "oldObject": anything, "dryRun": map[string]any{"type": "boolean"},
			"userInfo": object(map[string]any{"username": text, "uid": text, "groups": texts, "extra": anything}),
		}),
		"parameters": anything,
		"tenant": object(map[string]any{
			"name": text, "namespaces": texts, "identity": text, "role": text, "reservedServiceAccounts": texts, "roleCeiling": texts, "namespaceLabels": anything,
		}),
		"point":           text,
		"origin":          text,
		"source":          object(map[string]any{"file": text, "line": map[string]any{"type": "integer"}, "revision": text}),
		"pods":            list(object(map[string]any{"path": text, "spec": anything})),
		"serviceAccounts": list(object(map[string]any{"at": text, "name": text})),
		"secretRefs":      texts,
	}))
	return set
}
