//go:build !linux

package testkit

import "syscall"

// dieWithParent has no equivalent here: a test binary that is killed leaves its devcluster behind.
func dieWithParent() *syscall.SysProcAttr { return nil }
