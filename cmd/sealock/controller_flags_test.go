package main

import (
	"testing"

	"sealock.dev/sealock/fault"
)

// Profiles are served to the machine itself, or not at all.
func TestProfilesStayOnLoopback(t *testing.T) {
	for addr, allowed := range map[string]bool{
		"": true, "127.0.0.1:6060": true, "[::1]:6060": true,
		":6060": false, "0.0.0.0:6060": false, "10.0.0.1:6060": false, "localhost:6060": false, "127.0.0.1": false,
	} {
		err := loopback("--pprof-addr", addr)
		if (err == nil) != allowed || err != nil && fault.KindOf(err) != fault.Invalid {
			t.Errorf("%q: %v", addr, err)
		}
	}
}
