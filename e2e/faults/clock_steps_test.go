package faults

import (
	"fmt"
	"net/http"
	"strings"
	"sync/atomic"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"

	"sealock.dev/sealock/e2e/harness"
)

// health moves the clock while a workload is waited for: neither is it given up, nor found healthy before it is.
func (c *clocked) health(by time.Duration) {
	c.Helper()
	c.generation++
	commit := c.push(map[string]string{"rolls/d.yaml": fmt.Sprintf(`apiVersion: apps/v1
kind: Deployment
metadata: {name: d}
spec:
  replicas: 1
  selector: {matchLabels: {app: d}}
  template:
    metadata: {labels: {app: d}, annotations: {devcluster/hold: "true", generation: "%d"}}
    spec: {containers: [{name: main, image: example.com/app:1}]}
`, c.generation)})
	c.eventually("the commit to be fetched", func() (bool, error) {
		o, err := c.Get(c.ctx, srcAPI, "GitRepository", c.name, "app")
		return err == nil && o != nil && strings.HasSuffix(str(o.Object, "status", "artifact", "revision"), commit), err
	})
	c.apply(c.sync("rolls", "  wait: true"))
	held := func() (names []string) {
		list, err := c.Typed.CoreV1().Pods(c.name).List(c.ctx, metav1.ListOptions{LabelSelector: "app=d"})
		c.ok(err)
		for i := range list.Items {
			if a := list.Items[i].Annotations; a["devcluster/hold"] == "true" && a["generation"] == fmt.Sprint(c.generation) {
				names = append(names, list.Items[i].Name)
			}
		}
		return names
	}
	waiting := func() bool {
		o, err := c.Get(c.ctx, ksAPI, "Kustomization", c.name, "rolls")
		c.ok(err)
		status, _, message := condition(o)
		if status == "False" {
			c.Fatalf("given up: %s", message)
		}
		return status == "Unknown" && strings.HasSuffix(str(o.Object, "status", "lastAttemptedRevision"), commit)
	}
	c.eventually("the workload to be waited for", func() (bool, error) { return waiting() && len(held()) > 0, nil })
	c.set(by)
	c.handled("rolls")
	if !waiting() {
		c.Error("a workload that is not healthy is not waited for any more")
	}
	for _, name := range held() {
		_, err := c.Typed.CoreV1().Pods(c.name).Patch(c.ctx, name, types.MergePatchType, []byte(`{"metadata":{"annotations":{"devcluster/hold":null}}}`), metav1.PatchOptions{})
		c.ok(err)
	}
	c.ready("rolls", commit)
}

// handled asks for a reconcile and returns when it was done.
func (c *clocked) handled(name string) {
	c.Helper()
	token, err := c.Reconcile(c.ctx, ksAPI, "Kustomization", c.name, name)
	c.ok(err)
	c.eventually("the request to be handled", func() (bool, error) {
		o, err := c.Get(c.ctx, ksAPI, "Kustomization", c.name, name)
		return err == nil && o != nil && str(o.Object, "status", "lastHandledReconcileAt") == token, err
	})
}

// deletion moves the clock while a Kustomization waits for its object to be gone. Once it does so in vain, which must end
// after half a minute, the least that Flux gives, of the time that really passes.
func (c *clocked) deletion(by time.Duration) {
	c.Helper()
	maps := c.Typed.CoreV1().ConfigMaps(c.name)
	kustomizations, err := c.Resource(schema.FromAPIVersionAndKind(ksAPI, "Kustomization"), c.name)
	c.ok(err)
	hold := func(finalizers string) {
		_, err := maps.Patch(c.ctx, "going", types.MergePatchType, []byte(`{"metadata":{"finalizers":`+finalizers+`}}`), metav1.PatchOptions{})
		c.ok(err)
	}
	gone := func() bool {
		o, err := c.Get(c.ctx, ksAPI, "Kustomization", c.name, "going")
		c.ok(err)
		return o == nil
	}
	inVain := by == -day
	text := c.sync("going", "  deletionPolicy: WaitForTermination")
	if inVain {
		text = strings.Replace(text, "timeout: 1m", "timeout: 30s", 1)
	}
	c.apply(text)
	c.ready("going", "")
	hold(`["example.com/hold"]`)
	c.ok(kustomizations.Delete(c.ctx, "going", metav1.DeleteOptions{}))
	c.eventually("its object to be deleted", func() (bool, error) {
		cm, err := maps.Get(c.ctx, "going", metav1.GetOptions{})
		return err == nil && cm.DeletionTimestamp != nil, err
	})
	c.set(by)
	c.looks("going", 1) // since the jump
	if gone() {
		c.Error("it did not wait for its object to be gone")
	}
	if inVain {
		c.eventually("it to give up", func() (bool, error) { return gone(), nil })
	}
	hold("null")
	c.eventually("both to be gone", func() (bool, error) {
		_, err := maps.Get(c.ctx, "going", metav1.GetOptions{})
		return apierrors.IsNotFound(err) && gone(), nil
	})
}

// looks returns when the controller has looked so often whether what a Kustomization deleted is gone.
func (c *clocked) looks(name string, n int64) {
	c.Helper()
	var seen atomic.Int64
	defer proxy.Add(func(w http.ResponseWriter, r *http.Request, next http.Handler) {
		if a := harness.Ask(r); a.Verb == "get" && a.Namespace == c.name && a.Name == name && strings.HasPrefix(a.Resource, "kustomizations.") {
			seen.Add(1)
		}
		next.ServeHTTP(w, r)
	})()
	// A request is counted when it begins; the next one tells that what came of it is done. Or there is no next one, as
	// nobody is waited for any more.
	c.eventually("the controller to look", func() (bool, error) {
		o, err := c.Get(c.ctx, ksAPI, "Kustomization", c.name, name)
		return seen.Load() > n || o == nil, err
	})
}

// restart ends the process and starts it where its clock shows another time, so that the status of everything holds times
// of the future, or of long ago. Nothing is written anew, everything is looked after, and what was sealed can be opened.
func (c *clocked) restart(by time.Duration) {
	c.Helper()
	c.ok(c.Terminate(main))
	before := c.versions()
	c.set(by)
	c.ok(c.start())
	c.handled("app")
	for name, version := range c.versions() {
		if version != before[name] {
			c.Errorf("the start wrote the Secret %s", name)
		}
	}
	c.advance() // past the webhook, whose certificate the API server judges by its own clock
	c.mine.Store(true)
	c.ok(c.Typed.CoreV1().Secrets(c.name).Delete(c.ctx, "s", metav1.DeleteOptions{}))
	c.eventually("a Secret to be unsealed again", func() (bool, error) { return c.password("s") == "s", nil })
	c.mine.Store(false)
}

// versions are those of the Secrets that no timer writes.
func (c *clocked) versions() map[string]string {
	c.Helper()
	list, err := c.Typed.CoreV1().Secrets(c.name).List(c.ctx, metav1.ListOptions{})
	c.ok(err)
	out := map[string]string{}
	for i := range list.Items {
		out[list.Items[i].Name] = list.Items[i].ResourceVersion
	}
	return out
}

// fight has somebody take a field back until he is left alone. A jump, ahead or back, begins no new round.
func (c *clocked) fight() {
	c.Helper()
	c.set(0)
	write := func(value string) {
		body := fmt.Sprintf(`{"data":{"value":%q}}`, value)
		_, err := c.Typed.CoreV1().ConfigMaps(c.name).Patch(c.ctx, "a", types.MergePatchType, []byte(body), metav1.PatchOptions{FieldManager: "fighter"})
		c.ok(err)
	}
	for round := 0; c.contested() == ""; round++ {
		if round > 20 {
			c.Fatal("nobody has given in")
		}
		write(fmt.Sprint("theirs-", round))
		c.eventually("a repair, or the end of them", func() (bool, error) {
			cm, err := c.Typed.CoreV1().ConfigMaps(c.name).Get(c.ctx, "a", metav1.GetOptions{})
			return err == nil && (cm.Data["value"] == c.now["ConfigMap/a"] || c.contested() != ""), err
		})
	}
	var repairs atomic.Int64
	defer proxy.Add(func(w http.ResponseWriter, r *http.Request, next http.Handler) {
		if a := harness.Ask(r); a.Namespace == c.name && a.Resource == "configmaps" && a.Name == "a" && a.Writes() {
			repairs.Add(1)
		}
		next.ServeHTTP(w, r)
	})()
	for i, by := range []time.Duration{time.Hour, 365 * day, -day} { // as often as the other object is repaired
		c.set(by)
		write(fmt.Sprint("still-theirs-", i))
		delete(c.uids, c.now.id(c.name, "ConfigMap/b"))
		c.ok(c.Typed.CoreV1().ConfigMaps(c.name).Delete(c.ctx, "b", metav1.DeleteOptions{}))
		c.eventually("another object to be repaired", func() (bool, error) {
			return c.live("app")[c.now.id(c.name, "ConfigMap/b")] != nil, nil
		})
	}
	// The repair of the other object may run all of it, and take the field back as a commit does, as often.
	if n := repairs.Load(); n > 4 {
		c.Errorf("%d repairs of what is fought over", n)
	}
	if c.contested() == "" {
		c.Error("the fight is forgotten")
	}
	c.set(0)
	c.now["ConfigMap/a"] = "a new commit"
	c.advance()
}

// keys is how many sealing keys there are.
func (c *clocked) keys() int {
	c.Helper()
	list, err := c.Typed.CoreV1().Secrets(harness.SystemNamespace).List(c.ctx, metav1.ListOptions{LabelSelector: "sealedsecrets.bitnami.com/sealed-secrets-key=active"})
	c.ok(err)
	return len(list.Items)
}
