package main

import (
	"encoding/json"
	"fmt"
	"io"

	"github.com/spf13/cobra"
	"sigs.k8s.io/yaml"

	"sealock.dev/sealock/manifest"
)

func newRenderCommand() *cobra.Command {
	var output string
	cmd := &cobra.Command{
		Use:   "render DIR",
		Short: "Print what would be applied, secrets masked",
		Long: `render builds a folder as the controller would: plain manifests, or a kustomize overlay, whose bases may lie anywhere
in the Git repository around it. It asks no cluster and needs no key: values of Secrets, encrypted or not, are masked.`,
		Example: `  sealock render .
  sealock render overlays/production -o name`,
		Args: oneDir,
		RunE: func(cmd *cobra.Command, args []string) error {
			set, err := renderDir(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			return printSet(cmd.OutOrStdout(), output, args[0], set)
		},
	}
	formatFlag(cmd, &output, "yaml", "Format: yaml, json or name.", "yaml", "json", "name")
	return cmd
}

func printSet(out io.Writer, format, dir string, set []manifest.Object) error {
	switch format {
	case "yaml":
		for _, o := range set {
			text, err := yaml.Marshal(o.Body())
			if err != nil {
				return err
			}
			fmt.Fprintf(out, "---\n# %s:%d\n%s", relative(dir, o.Source.File), o.Source.Line, text)
		}
		return nil
	case "json":
		list := []any{}
		for _, o := range set {
			list = append(list, o.Body())
		}
		enc := json.NewEncoder(out)
		enc.SetIndent("", "  ")
		return enc.Encode(map[string]any{"apiVersion": "v1", "kind": "List", "items": list})
	case "name":
		for _, o := range set {
			ref := o.Ref()
			ref.File = relative(dir, ref.File)
			fmt.Fprintln(out, ref)
		}
		return nil
	}
	return wrongUse("-o %s is not a format of this command", format).Fix("write yaml, json or name")
}
