// Package buildinfo says which build this is.
//
// It exists so that the one variable that the linker sets has one place. It must not grow a second purpose.
package buildinfo

import (
	"fmt"
	"runtime"
	"runtime/debug"
)

// version is set by the linker, see Makefile; a plain `go build` leaves it empty.
var version string

// Version returns the version of this build, such as v0.1.0 or v0.1.0-12-gabcdef0; "dev" when nobody set it.
func Version() string {
	if version != "" {
		return version
	}
	return "dev"
}

// Commit returns the revision that Go recorded at build time, "" when there is none.
func Commit() string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return ""
	}
	for _, setting := range info.Settings {
		if setting.Key == "vcs.revision" {
			return setting.Value
		}
	}
	return ""
}

// String returns one line for people.
func String() string {
	line := "sealock " + Version()
	if commit := Commit(); commit != "" {
		line += " (" + commit[:min(len(commit), 12)] + ")"
	}
	return fmt.Sprintf("%s %s %s/%s", line, runtime.Version(), runtime.GOOS, runtime.GOARCH)
}
