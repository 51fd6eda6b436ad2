package harness

import (
	"encoding/binary"
	"os"
	"path/filepath"
	"time"
)

// clockProgram is the controller with a wall clock that can be moved, as `make clock` builds it.
const clockProgram = "sealock-clock"

// Clock is the wall clock of one or several processes. Their monotonic clock is the machine's.
type Clock struct{ path string }

// NewClock returns a clock that shows the real time.
func (w *World) NewClock() (*Clock, error) {
	dir, err := os.MkdirTemp(w.Dir, "clock")
	if err != nil {
		return nil, err
	}
	c := &Clock{path: filepath.Join(dir, "step")}
	return c, os.WriteFile(c.path, make([]byte, 8), 0o600)
}

// Set makes the clock show the real time plus some seconds, from the next look of a process on.
func (c *Clock) Set(by time.Duration) error {
	file, err := os.OpenFile(c.path, os.O_WRONLY, 0) // not truncated: a process has it mapped
	if err != nil {
		return err
	}
	_, err = file.WriteAt(binary.NativeEndian.AppendUint64(nil, uint64(by/time.Second)), 0)
	if closed := file.Close(); err == nil {
		err = closed
	}
	return err
}

func (c *Clock) env() []string { return []string{"SEALOCK_TEST_CLOCK=" + c.path} }
