package testkit

import "syscall"

// dieWithParent makes the kernel stop the child when the tests end without stopping it, as at a test timeout.
func dieWithParent() *syscall.SysProcAttr { return &syscall.SysProcAttr{Pdeathsig: syscall.SIGTERM} }
