package main

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
)

// idLine begins a seed: a comment with its id.
var idLine = regexp.MustCompile(`^# (S\d-Y\d+)\b`)

// read returns the text of each seed by id, without its comment line.
func read(dir string, files ...string) (map[string]string, error) {
	seeds := map[string]string{}
	for _, name := range files {
		text, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			return nil, err
		}
		for id, seed := range split(string(text)) {
			if _, twice := seeds[id]; twice {
				return nil, fmt.Errorf("%s: %s stands twice", name, id)
			}
			seeds[id] = seed
		}
	}
	return seeds, nil
}

func split(text string) map[string]string {
	seeds := map[string]string{}
	id := ""
	for line := range strings.Lines(text) {
		if m := idLine.FindStringSubmatch(line); m != nil {
			id = m[1]
			continue
		}
		if strings.TrimRight(line, "\r\n") == "---" {
			id = ""
			continue
		}
		if id != "" {
			seeds[id] += line
		}
	}
	return seeds
}
