package render

import (
	"bytes"
	"errors"
	"io"

	"go.yaml.in/yaml/v3"

	"sealock.dev/sealock/manifest"
)

// bounded refuses YAML that grows beyond the limits when its aliases are followed, before a library follows them.
// What it cannot parse is for that library to refuse.
func bounded(file string, data []byte) (err error) {
	limits := manifest.DefaultLimits
	if len(data) > limits.Bytes {
		return invalid(file, "the file has %d bytes, more than the limit of %d", len(data), limits.Bytes).Fix("split it")
	}
	defer func() {
		if recover() != nil {
			err = invalid(file, "invalid YAML: the parser gave up").Fix("correct the syntax")
		}
	}()
	dec := yaml.NewDecoder(bytes.NewReader(data))
	sizes := map[*yaml.Node]int{}
	total := 0
	for {
		var doc yaml.Node
		if err := dec.Decode(&doc); err != nil {
			if errors.Is(err, io.EOF) {
				return nil
			}
			return nil
		}
		total += weigh(&doc, sizes, 0, limits)
		if total > limits.Nodes {
			return invalid(file, "too many values after following aliases, a cycle of aliases, or nested too deep").Fix("remove aliases or split the file")
		}
	}
}

// weigh returns how many values a node has with its aliases followed, more than the limit for a cycle or at great depth.
func weigh(n *yaml.Node, sizes map[*yaml.Node]int, depth int, limits manifest.Limits) int {
	over := limits.Nodes + 1
	if depth > limits.Depth {
		return over
	}
	if size, known := sizes[n]; known {
		return size
	}
	sizes[n] = over // while it is being weighed: who meets it again is in a cycle
	size := 1
	if n.Kind == yaml.AliasNode {
		size += weigh(n.Alias, sizes, depth+1, limits)
	}
	for _, c := range n.Content {
		if size += weigh(c, sizes, depth+1, limits); size > over {
			size = over
			break
		}
	}
	sizes[n] = size
	return size
}
