package main

import (
	"regexp"
	"testing"

	"k8s.io/apimachinery/pkg/api/resource"

	"sealock.dev/sealock/config"
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

// TestTheCacheFitsItsVolume: what the Deployment gives is more than what is taken by default.
func TestTheCacheFitsItsVolume(t *testing.T) {
	text, err := config.Build(config.Default)
	if err != nil {
		t.Fatal(err)
	}
	found := regexp.MustCompile(`sizeLimit: (\S+)`).FindSubmatch(text)
	if found == nil {
		t.Fatal("the Deployment bounds no volume")
	}
	volume, err := resource.ParseQuantity(string(found[1]))
	if err != nil {
		t.Fatal(err)
	}
	taken, err := resource.ParseQuantity(newControllerCommand().Flags().Lookup("cache-size").DefValue)
	if err != nil || taken.Value()+taken.Value()/10 > volume.Value() {
		t.Errorf("%s are taken of %s: %v", taken.String(), volume.String(), err)
	}
}
