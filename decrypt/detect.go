package decrypt

import (
	"bytes"
	"errors"
	"io"
	"path"
	"strings"

	"go.yaml.in/yaml/v3"
)

// format is how a SOPS file is written.
type format int

const (
	plain format = iota // not a SOPS file
	yamlFormat
	jsonFormat
	dotenvFormat
	iniFormat
	binaryFormat
)

// Encrypted reports whether the file carries the metadata of SOPS, and so must not be used as it is.
// Documents that opted out by the annotation kustomize.toolkit.fluxcd.io/decrypt: disabled count as not encrypted.
func Encrypted(name string, data []byte) bool { return detect(name, data) != plain }

// detect goes by the extension for YAML and JSON, where the same text means different bytes under the MAC, and by
// content for the rest, since a generator may take a file of any name.
func detect(name string, data []byte) format {
	if !bytes.Contains(data, []byte("sops")) {
		return plain
	}
	switch strings.ToLower(path.Ext(name)) {
	case ".yaml", ".yml":
		if hasMetadata(data) {
			return yamlFormat
		}
		return plain
	case ".json":
		if hasMetadata(data) {
			return jsonFormat
		}
		return plain
	}
	switch {
	case bytes.HasPrefix(bytes.TrimSpace(data), []byte("{")) && hasMetadata(data):
		return binaryFormat
	case hasLine(data, "sops_mac="), hasLine(data, "sops_version="):
		return dotenvFormat
	case hasLine(data, "[sops]"):
		return iniFormat
	case hasMetadata(data):
		return yamlFormat
	}
	return plain
}

func hasLine(data []byte, prefix string) bool {
	return bytes.HasPrefix(data, []byte(prefix)) || bytes.Contains(data, []byte("\n"+prefix))
}

// hasMetadata reports whether a document has a mapping "sops" at its top. Where the file is damaged so that this cannot
// be told, encrypted values in it decide.
func hasMetadata(data []byte) bool {
	found := false
	err := eachDocument(data, func(doc *yaml.Node) bool {
		if s := child(doc, "sops"); s != nil && s.Kind == yaml.MappingNode && !optedOut(doc) {
			found = true
		}
		return !found
	})
	return found || err != nil && !errors.Is(err, io.EOF) && bytes.Contains(data, []byte("ENC[AES256_GCM,"))
}

// optedOut reports the annotation with which Flux leaves an object encrypted.
func optedOut(doc *yaml.Node) bool {
	a := child(child(child(doc, "metadata"), "annotations"), "kustomize.toolkit.fluxcd.io/decrypt")
	return a != nil && strings.EqualFold(a.Value, "disabled")
}

// eachDocument calls fn with the top node of every document until fn returns false. It follows no alias.
func eachDocument(data []byte, fn func(*yaml.Node) bool) (err error) {
	defer func() {
		if recover() != nil {
			err = errValue
		}
	}()
	dec := yaml.NewDecoder(bytes.NewReader(data))
	for {
		var doc yaml.Node
		if err := dec.Decode(&doc); err != nil {
			return err
		}
		top := &doc
		if doc.Kind == yaml.DocumentNode && len(doc.Content) > 0 {
			top = doc.Content[0]
		}
		if !fn(top) {
			return nil
		}
	}
}

func child(n *yaml.Node, key string) *yaml.Node {
	if n == nil || n.Kind != yaml.MappingNode {
		return nil
	}
	for i := 0; i+1 < len(n.Content); i += 2 {
		if n.Content[i].Value == key {
			return n.Content[i+1]
		}
	}
	return nil
}
