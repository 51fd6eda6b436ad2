package manifest

import "strings"

// settled reports whether a place holds only what stands in Git: what identifies an object, and what says how it is
// applied, which is read before anything is revealed. Who may have secrets in other labels and annotations is for the
// pipeline to say, as for all places outside the data of a Secret.
func settled(path []string) bool {
	if path[0] != "metadata" {
		return path[0] == "apiVersion" || path[0] == "kind"
	}
	if len(path) != 3 || path[1] != "labels" && path[1] != "annotations" {
		return true
	}
	domain, _, _ := strings.Cut(path[2], "/")
	for _, ours := range []string{"sealock.dev", "fluxcd.io", "config.kubernetes.io"} {
		if domain == ours || strings.HasSuffix(domain, "."+ours) {
			return true
		}
	}
	return false
}
