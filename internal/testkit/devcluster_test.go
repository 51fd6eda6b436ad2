package testkit

import (
	"net/http"
	"os"
	"testing"

	"k8s.io/client-go/kubernetes"
)

func TestMain(m *testing.M) { os.Exit(Main(m)) }

func TestClusterAnswers(t *testing.T) {
	dc := Cluster(t)
	dc.InstallCRDs(t)
	client, err := kubernetes.NewForConfig(dc.Config)
	if err != nil {
		t.Fatal(err)
	}
	served, err := client.Discovery().ServerResourcesForGroupVersion("sealock.dev/v1alpha1")
	if err != nil {
		t.Fatal(err)
	}
	if len(served.APIResources) == 0 {
		t.Error("sealock.dev/v1alpha1 serves nothing")
	}
	if ns := dc.Namespace(t, map[string]string{"a": "b"}); ns == "" {
		t.Error("the namespace has no name")
	}
	health, err := http.Get(dc.Env["VAULT_ADDR"] + "/v1/sys/health") //nolint:noctx // a test
	if err != nil {
		t.Fatal(err)
	}
	defer health.Body.Close()
	if health.StatusCode != http.StatusOK {
		t.Errorf("Vault answers %d", health.StatusCode)
	}
	if Cluster(t) != dc {
		t.Error("a second call started a second devcluster")
	}
}
