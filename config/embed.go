// Package config carries the YAML of this folder into the binary.
//
// It exists so that `sealock install` and a checkout with `kustomize build config/default` say the same, byte for byte.
// It must hold no object of its own and decide nothing: what a cluster needs stands in the YAML beside it.
package config

import (
	"embed"
	"fmt"
	"io/fs"
	"path"

	"sigs.k8s.io/kustomize/api/krusty"
	"sigs.k8s.io/kustomize/kyaml/filesys"
)

//go:embed */*.yaml
var files embed.FS

// Folders of this directory that Build takes.
const (
	CRDs    = "crd"     // the CustomResourceDefinitions alone
	Default = "default" // everything that a cluster needs
)

// Build returns what `kustomize build config/<folder>` prints. It works in memory and touches neither disk nor network.
func Build(folder string) ([]byte, error) {
	disk := filesys.MakeFsInMemory()
	err := fs.WalkDir(files, ".", func(name string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		text, err := files.ReadFile(name)
		if err != nil {
			return err
		}
		return disk.WriteFile(path.Join("/config", name), text)
	})
	if err != nil {
		return nil, err
	}
	built, err := krusty.MakeKustomizer(krusty.MakeDefaultOptions()).Run(disk, path.Join("/config", folder))
	if err != nil {
		return nil, fmt.Errorf("building config/%s: %w", folder, err)
	}
	return built.AsYaml()
}
