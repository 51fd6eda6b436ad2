package main

import (
	"encoding/json"
	"strings"
	"testing"
)

// TestNothingIsAListForMachines: what reads JSON need not tell an empty namespace from a failure.
func TestNothingIsAListForMachines(t *testing.T) {
	p := newPeople(t)
	var list struct {
		Kind  string
		Items []any
	}
	if err := json.Unmarshal([]byte(p.ok("get", "ks", "-o", "json")), &list); err != nil || list.Kind != "List" || len(list.Items) != 0 {
		t.Errorf("%v %+v", err, list)
	}
	if code, out, _ := p.sealock("get", "ks", "x", "-o", "json"); code != 4 || out != "" {
		t.Errorf("an object that is not there: exit code %d, %s", code, out)
	}
}

func TestNamesAreCompleted(t *testing.T) {
	p := newPeople(t)
	p.kustomization("app")
	p.kustomization("other")
	_, out, _ := sealock(t, "__complete", "reconcile", "ks", "--kubeconfig", p.kubeconfig, "-n", p.session.namespace, "a")
	if !strings.HasPrefix(out, "app\n") || strings.Contains(out, "other") {
		t.Errorf("%s", out)
	}
	p.inventory("app", 1, p.session.namespace+"_web_apps_Deployment/v1", p.session.namespace+"_api_apps_Deployment/v1", "elsewhere_other_apps_Deployment/v1")
	for _, tc := range []struct {
		args []string
		want string
	}{
		{[]string{"why", "--kubeconfig", p.kubeconfig, "-n", p.session.namespace, "dep"}, "deployment/\n"},
		{[]string{"why", "--kubeconfig", p.kubeconfig, "-n", p.session.namespace, "deployment/"}, "deployment/api\ndeployment/web\n:"},
		{[]string{"get", "ks", "-o", ""}, "json\nname\nyaml\n"},
		{[]string{"diff", "ks", "-o", ""}, "json\nyaml\n"},
		{[]string{"adopt", "flux", "--accept", ""}, "controllers\ncrds\n"},
	} {
		if _, out, _ := sealock(t, append([]string{"__complete"}, tc.args...)...); !strings.HasPrefix(out, tc.want) {
			t.Errorf("%v: %s", tc.args, out)
		}
	}
	if _, out, _ = sealock(t, "__complete", "get", "ks", "--server", "https://127.0.0.1:1", ""); !strings.HasPrefix(out, ":") {
		t.Errorf("without a cluster there is something to complete: %s", out)
	}
}
