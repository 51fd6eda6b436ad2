// Package api groups our own Go types of the APIs that we serve, a folder for each group. They exist so that our
// binary does not carry the products whose kinds we serve; Flux's kinds come from Flux's own small API modules.
// The packages below must hold types, defaults and CRD markers only, and no secret bytes.
package api
