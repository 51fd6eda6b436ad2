// Command clock builds the program whose wall clock the tests of faults move, bin/sealock-clock: the controller as it is,
// with one file more in its package main. It is never shipped.
//
// Go's runtime asks the kernel's page (the vDSO) for the time, by an address that it keeps. The additional file puts a
// function of its own there, which adds to the wall clock what whoever moves it has written into a file. So all libraries
// of the process see the jump at the same moment, while the monotonic clock and the timers stay as they are, as with the
// step of a real clock. No package is compiled anew for it, as it would be with another package time.
package main

import (
	"embed"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

//go:embed *.txt
var files embed.FS

func main() {
	if len(os.Args) != 3 {
		fmt.Fprintln(os.Stderr, "usage: clock <folder of the main module> <program to write>")
		os.Exit(2)
	}
	if err := build(os.Args[1], os.Args[2]); err != nil {
		fmt.Fprintln(os.Stderr, "clock:", err)
		os.Exit(1)
	}
}

// build adds the files to cmd/sealock by an overlay: nothing is written into the sources.
func build(module, program string) error {
	module, err := filepath.Abs(module)
	if err != nil {
		return err
	}
	if program, err = filepath.Abs(program); err != nil {
		return err
	}
	dir, err := os.MkdirTemp("", "clock")
	if err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(dir) }()
	list, err := files.ReadDir(".")
	if err != nil {
		return err
	}
	replace := map[string]string{}
	for _, each := range list {
		text, err := files.ReadFile(each.Name())
		if err != nil {
			return err
		}
		name := strings.TrimSuffix(each.Name(), ".txt")
		replace[filepath.Join(module, "cmd", "sealock", name)] = filepath.Join(dir, name)
		if err := os.WriteFile(filepath.Join(dir, name), text, 0o600); err != nil {
			return err
		}
	}
	overlay, err := json.Marshal(map[string]any{"Replace": replace})
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(dir, "overlay.json"), overlay, 0o600); err != nil {
		return err
	}
	cmd := exec.Command("go", "build", "-trimpath", "-ldflags", "-s -w", "-overlay", filepath.Join(dir, "overlay.json"), "-o", program, "./cmd/sealock")
	cmd.Dir = module
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "PWD="+module) // as bin/sealock, whose packages are used again
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	return cmd.Run()
}
