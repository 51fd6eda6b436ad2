package decrypt

import (
	"bytes"
	"errors"
	"io"
	"path"
	"regexp"
	"strings"

	"go.yaml.in/yaml/v3"
)

// format is how a SOPS file is written, or is to be written when it is opened.
type format int

const (
	plain format = iota // not a SOPS file
	yamlFormat
	jsonFormat
	dotenvFormat
	iniFormat
	binaryFormat // bytes in an envelope of JSON, of which nothing is left when it is opened
)

// optOut is the annotation with which Flux leaves an object encrypted, by the value "disabled".
const optOut = "kustomize.toolkit.fluxcd.io/decrypt"

// Encrypted reports whether the file carries the metadata of SOPS, and so must not be used as it is.
// Documents that opted out by the annotation kustomize.toolkit.fluxcd.io/decrypt: disabled count as not encrypted.
func Encrypted(name string, data []byte) bool { return detect(name, data) != plain }

// detect tells the format of a manifest. The same text means different bytes under the MAC of YAML and of JSON: there the
// name decides.
func detect(name string, data []byte) format {
	f := detectContent(data)
	if f != yamlFormat && f != jsonFormat {
		return f
	}
	switch strings.ToLower(path.Ext(name)) {
	case ".yaml", ".yml":
		return yamlFormat
	case ".json":
		return jsonFormat
	}
	return f
}

// detectContent tells the format of what may have any name: a file that a generator takes, a payload of a Secret. It wants
// the metadata where sops writes it. Text that quotes a SOPS file, or holds one somewhere inside, is none.
func detectContent(data []byte) format {
	switch {
	case !bytes.Contains(data, []byte("sops")):
		return plain
	case bytes.HasPrefix(bytes.TrimSpace(data), []byte("{")) && hasMetadata(data):
		return jsonFormat
	case hasLine(data, "sops_mac="), hasLine(data, "sops_lastmodified="):
		return dotenvFormat
	case iniMetadata.Match(data):
		return iniFormat
	case hasMetadata(data):
		return yamlFormat
	}
	return plain
}

// iniMetadata is the section of the metadata, which somebody may also have for other reasons, with an entry that sops writes.
var iniMetadata = regexp.MustCompile(`(?m)^\[sops\][ \t]*\r?$(?:\n(?:[^\[\n].*)?)*\n(?:mac|lastmodified)[ \t]*=`)

func hasLine(data []byte, prefix string) bool {
	return bytes.HasPrefix(data, []byte(prefix)) || bytes.Contains(data, []byte("\n"+prefix))
}

// hasMetadata reports whether a document has the metadata of SOPS at its top, and not a mapping "sops" of other things.
// Where the file is damaged so that this cannot be told, the text decides.
func hasMetadata(data []byte) bool {
	found := false
	err := eachDocument(data, func(doc *yaml.Node) bool {
		s := child(doc, "sops")
		if (child(s, "mac") != nil || child(s, "lastmodified") != nil) && !optedOut(doc) {
			found = true
		}
		return !found
	})
	return found || err != nil && !errors.Is(err, io.EOF) && damaged.Match(data)
}

// damaged is what a SOPS file has of YAML or JSON that does not parse.
var damaged = regexp.MustCompile(`(?s)(?:^|\n)sops:\s.*ENC\[AES256_GCM,|"sops"\s*:\s*\{.*ENC\[AES256_GCM,|ENC\[AES256_GCM,.*(?:\nsops:\s|"sops"\s*:)`)

// optedOut reports the annotation with which Flux leaves an object encrypted.
func optedOut(doc *yaml.Node) bool {
	a := child(child(child(doc, "metadata"), "annotations"), optOut)
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
