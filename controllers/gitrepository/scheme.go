package gitrepository

import (
	sourcev1 "github.com/fluxcd/source-controller/api/v1"
	"k8s.io/apimachinery/pkg/runtime"
)

// AddToScheme registers the kind, so that nobody else needs Flux's types for it.
func AddToScheme(s *runtime.Scheme) error { return sourcev1.AddToScheme(s) }
