package main

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// line is a request of the controller as the audit log has it.
func line(verb, uri, ref, more string) string {
	stage := "ResponseComplete"
	if verb == "watch" {
		stage = "ResponseStarted"
	}
	return `{"stage":"` + stage + `","verb":"` + verb + `","requestURI":"` + uri + `","user":{"username":"` + controllerUser + `"},"responseStatus":{"code":200}` + ref + more + "}\n"
}

func TestRequestsAreTold(t *testing.T) {
	const tenant = `,"impersonatedUser":{"username":"sealock:tenant:a"}`
	for _, tc := range []struct {
		name, text string
		class      class
		verb       string
	}{
		{"a dry run of a commit", line("patch", "/x?dryRun=All", `,"objectRef":{"resource":"configmaps","namespace":"a"}`, tenant), objects, "dry-run"},
		{"a write of a commit", line("patch", "/x", `,"objectRef":{"resource":"sealedsecrets","apiGroup":"bitnami.com"}`, tenant), objects, "patch"},
		{"a Secret that we produce", line("create", "/x", `,"objectRef":{"resource":"secrets","namespace":"a"}`, ""), objects, "create"},
		{"the status", line("patch", "/x", `,"objectRef":{"resource":"kustomizations","subresource":"status","apiGroup":"kustomize.toolkit.fluxcd.io"}`, ""), status, "status"},
		{"a record", line("patch", "/x", `,"objectRef":{"resource":"configmaps","namespace":"sealock-system","name":"sealock-record-1"}`, ""), status, "patch"},
		{"a key", line("get", "/x", `,"objectRef":{"resource":"secrets","namespace":"sealock-system","name":"team-age"}`, ""), inputs, "get"},
		{"a token", line("create", "/x", `,"objectRef":{"resource":"serviceaccounts","subresource":"token"}`, ""), inputs, "create"},
		{"leader election", line("update", "/x", `,"objectRef":{"resource":"leases","namespace":"sealock-system"}`, ""), leases, "update"},
		{"discovery", line("get", "/apis", "", ""), discovery, "get"},
		{"a list", line("list", "/x", `,"objectRef":{"resource":"tenants","apiGroup":"sealock.dev"}`, ""), lists, "list"},
		{"a watch", line("watch", "/x", `,"objectRef":{"resource":"roles"}`, ""), watches, "watch"},
		{"an event", line("create", "/x", `,"objectRef":{"resource":"events"}`, ""), events, "create"},
		{"a review", line("create", "/x", `,"objectRef":{"resource":"tokenreviews"}`, ""), reviews, "create"},
	} {
		log := auditLog{filepath.Join(t.TempDir(), "audit.log")}
		others := strings.ReplaceAll(tc.text, controllerUser, "admin")
		if err := os.WriteFile(log.path, []byte(others+tc.text+others+`{"stage":`), 0o600); err != nil {
			t.Fatal(err)
		}
		end, err := log.end()
		if err != nil {
			t.Fatal(err)
		}
		got, err := log.count(0, end)
		if err != nil || got.of(tc.class) != 1 || got.verbs[tc.class][tc.verb] != 1 {
			t.Errorf("%s: %v, %v", tc.name, got.verbs, err)
		}
	}
}

func TestAMissedGoalIsTold(t *testing.T) {
	r := newReport(false)
	r.add(figure{Work: "w", What: "within", Seen: 3}, atMost(3))
	r.add(figure{Work: "w", What: "over", Seen: 4}, atMost(3))
	r.add(figure{Work: "w", What: "under", Seen: 98.9}, atLeast(99))
	r.add(figure{Work: "w", What: "no goal", Seen: 4}, peer("5"))
	var table, text bytes.Buffer
	if err := r.table(&table); err != nil {
		t.Fatal(err)
	}
	if n := strings.Count(table.String(), "MISSED"); n != 2 || !strings.Contains(table.String(), "1 of 3 goals reached") {
		t.Errorf("%s", table.String())
	}
	if err := r.json(&text); err != nil {
		t.Fatal(err)
	}
	var back report
	if err := json.Unmarshal(text.Bytes(), &back); err != nil || len(back.Figures) != 4 || !back.Figures[1].Missed || back.Figures[0].Missed {
		t.Errorf("%v %+v", err, back)
	}
}

func TestUsageOfThisProcess(t *testing.T) {
	u, err := usageOf(os.Getpid())
	if err != nil || u.now <= 0 || u.peak < u.now {
		t.Errorf("%+v, %v", u, err)
	}
}
