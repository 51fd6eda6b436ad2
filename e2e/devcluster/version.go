package main

import (
	"runtime/debug"
	_ "unsafe" // for linkname

	"k8s.io/component-base/version"
)

// gitVersion is what Kubernetes says that it is. Its own builds set it by linker flags; built as a Go module it would
// say v0.0.0-master+$Format:%H$, which clients (kubectl among them) cannot parse.
//
//go:linkname gitVersion k8s.io/component-base/version.gitVersion
var gitVersion string

// nameVersion makes the servers and kubectl report the version of the module that they are built from.
func nameVersion() {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return
	}
	for _, module := range info.Deps {
		if module.Path != "k8s.io/kubernetes" {
			continue
		}
		gitVersion = module.Version
		if err := version.SetDynamicVersion(gitVersion); err != nil {
			panic("k8s.io/component-base/version no longer has the variable gitVersion: " + err.Error())
		}
	}
}
