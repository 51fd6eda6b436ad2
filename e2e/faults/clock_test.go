package faults

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"

	"sealock.dev/sealock/e2e/harness"
)

const day = 24 * time.Hour

// TestClockJumps moves the wall clock of the running process, ahead and back, while it is idle, writes, prunes, waits for
// health or for a deletion, and while nobody runs. The API server, Git and Vault keep the real time. After each jump the
// process converges, its timers go on, it asks nobody more than it must, and no Secret is emptied, deleted or made anew.
func TestClockJumps(t *testing.T) {
	c := newClocked(t, "clocks")
	c.push(set{"ConfigMap/going": "1"}.files("going"))
	for _, jump := range []struct {
		name string
		by   time.Duration
	}{{"an hour ahead", time.Hour}, {"a year ahead", 365 * day}, {"an hour back", -time.Hour}, {"a day back", -day}} {
		c.step(jump.name+", idle", func() { c.set(jump.by); c.idle(jump.by) })
		c.set(0)
		c.step(jump.name+", at a write", func() { c.commit("patch", jump.by) })
		c.step(jump.name+", back at a deletion", func() { c.commit("delete", 0) })
		c.step(jump.name+", waiting for health", func() { c.health(jump.by) })
		c.set(0)
		c.step(jump.name+", waiting for a deletion", func() { c.deletion(jump.by) })
		c.step(jump.name+", over a restart", func() { c.restart(jump.by) })
		if jump.by.Abs() >= day {
			c.step("back from "+jump.name+", over a restart", func() { c.restart(0) })
		}
	}
	c.step("a fight", c.fight)
	if n := c.keys(); n > 2 {
		t.Errorf("%d sealing keys: one jump over the time of renewal makes one", n)
	}
}

// clocked is a team whose controller has a clock that can be moved.
type clocked struct {
	*team
	clock *harness.Clock
	meter *meter
	now   set
	uids  map[string]types.UID

	generation int
	requests   atomic.Int64 // of the controller, without watches
	mine       atomic.Bool  // the test deletes a Secret itself
}

func newClocked(t *testing.T, name string) *clocked {
	tm := newTeam(t, name)
	clock, err := tm.NewClock()
	tm.ok(err)
	c := &clocked{team: tm, clock: clock, meter: newMeter(tm), now: set{}, uids: map[string]types.UID{}}
	c.vault()
	t.Cleanup(proxy.Add(func(w http.ResponseWriter, r *http.Request, next http.Handler) {
		if harness.Ask(r).Verb != "watch" {
			c.requests.Add(1)
		}
		next.ServeHTTP(w, r)
	}))
	tm.ok(tm.Terminate(main))
	t.Cleanup(func() {
		ctx := context.WithoutCancel(tm.ctx)
		if err := errors.Join(world.Terminate(main), startMain(ctx)); err != nil {
			t.Error(err)
		}
	})
	tm.ok(c.start())
	c.watchSecrets()
	c.now = set{
		"ConfigMap/a": "0", "ConfigMap/b": "0", "Secret/p": tm.sops("p", "p"), "SealedSecret/s": tm.sealed("s", "s"),
		"ExternalSecret/v": c.external("v", "1h"),
	}
	commit := tm.push(c.now.files("app"))
	tm.apply(strings.Replace(tm.source(), "interval: 10m", "interval: 2s", 1) + tm.sync("app")) // no commit is fetched on request
	tm.ready("app", commit)
	tm.apply(strings.Replace(c.external("ticking", "2s"), "{name: ticking", "{namespace: "+name+", name: ticking", 1))
	c.eventually("the Secrets", func() (bool, error) {
		return tm.password("s") == "s" && tm.password("v") == "v" && tm.password("ticking") == "0", nil
	})
	c.check()
	return c
}

func (c *clocked) start() error {
	return c.StartReplica(c.ctx, harness.Replica{Name: main, Ports: c.Ports, Via: proxy, Clock: c.clock, Args: []string{"--leader-elect=false"}})
}

func (c *clocked) set(by time.Duration) { c.Helper(); c.ok(c.clock.Set(by)) }

// vault lets the team read its secrets, past the meter.
func (c *clocked) vault() {
	c.apply(fmt.Sprintf(`
apiVersion: sealock.dev/v1alpha1
kind: Tenant
metadata: {name: %[1]s}
spec:
  namespaces: [{name: %[1]s}]
  decryption: {secretRef: {name: %[1]s-age}}
  vault: {servers: ["%[2]s"], paths: ["secret/tenants/%[1]s/*"], roles: [%[1]s]}
---
apiVersion: v1
kind: ServiceAccount
metadata: {name: vault-reader, namespace: %[1]s}
---
apiVersion: external-secrets.io/v1
kind: SecretStore
metadata: {name: vault, namespace: %[1]s}
spec:
  provider:
    vault:
      server: %[2]s
      path: secret
      version: v2
      auth: {kubernetes: {mountPath: kubernetes, role: %[1]s, serviceAccountRef: {name: vault-reader}}}
`, c.name, c.meter.URL))
	c.ok(c.VaultRole(c.ctx, c.name, c.name, "vault-reader", "tenants/"+c.name))
	c.store("v", "v")
	c.store("ticking", "0")
}

func (c *clocked) store(name, password string) {
	c.Helper()
	c.ok(c.VaultPut(c.ctx, "tenants/"+c.name+"/"+name, map[string]any{"password": password}))
}

func (c *clocked) external(name, interval string) string {
	return fmt.Sprintf(`apiVersion: external-secrets.io/v1
kind: ExternalSecret
metadata: {name: %[2]s}
spec:
  refreshInterval: %[3]s
  secretStoreRef: {name: vault, kind: SecretStore}
  target: {name: %[2]s}
  data: [{secretKey: password, remoteRef: {key: tenants/%[1]s/%[2]s, property: password}}]
`, c.name, name, interval)
}

// watchSecrets fails the test when a Secret of the team is empty for a moment, or goes.
func (c *clocked) watchSecrets() {
	watched, err := c.Typed.CoreV1().Secrets(c.name).Watch(c.ctx, metav1.ListOptions{})
	c.ok(err)
	c.Cleanup(watched.Stop)
	go func() {
		for e := range watched.ResultChan() {
			s, ok := e.Object.(*corev1.Secret)
			if ok && e.Type == watch.Deleted && !c.mine.Load() && c.ctx.Err() == nil {
				c.Errorf("the Secret %s was deleted", s.Name)
			}
			if ok && len(s.Data) == 0 {
				c.Errorf("for a moment, the Secret %s was empty", s.Name)
			}
		}
	}()
}

// step does something, and fails the test unless all is as it should be afterwards and nobody was asked too much.
func (c *clocked) step(what string, do func()) {
	c.Helper()
	began, requests, reads, logins := time.Now(), c.requests.Load(), c.meter.count("v"), c.meter.count("login")
	ticked := c.meter.count("ticking")
	do()
	c.check()
	took := time.Since(began)
	requests, reads, ticked, logins = c.requests.Load()-requests, c.meter.count("v")-reads, c.meter.count("ticking")-ticked, c.meter.count("login")-logins
	c.Logf("%s: %s, %d requests; Vault: %d reads, %d by the ticking one, %d logins", what, took.Round(100*time.Millisecond), requests, reads, ticked, logins)
	// What ticks asks every two seconds. The other one is due again when its last refresh is over an hour away, once.
	if most := int64(took/time.Second) + 4; reads > 2 || logins > 4 || ticked > most {
		c.Errorf("%s: a storm on Vault", what)
	}
	if requests > 200+10*int64(took/time.Second) {
		c.Errorf("%s: a storm on the API server", what)
	}
}

// check is what holds at any time.
func (c *clocked) check() {
	c.Helper()
	c.sound("app", c.now)
	for id, o := range c.live("app") {
		if was := c.uids[id]; was != "" && was != o.GetUID() {
			c.Errorf("%s was pruned although it should live", id)
		}
		c.uids[id] = o.GetUID()
	}
	if c.password("s") != "s" || c.password("v") != "v" {
		c.Error("a Secret has another value")
	}
}

// idle checks that what happens after a jump is noticed: by the watches, and by the timers of sources and refreshes.
func (c *clocked) idle(by time.Duration) {
	c.Helper()
	c.generation++
	delete(c.uids, c.now.id(c.name, "ConfigMap/a"))
	c.ok(c.Typed.CoreV1().ConfigMaps(c.name).Delete(c.ctx, "a", metav1.DeleteOptions{}))
	c.eventually("drift to be repaired", func() (bool, error) { return c.unsound("app", c.now) == "", nil })
	value := fmt.Sprint("tick-", c.generation)
	c.store("ticking", value)
	c.eventually("the next refresh", func() (bool, error) { return c.password("ticking") == value, nil })
	c.eventually("the process to see the jump", func() (bool, error) { // or all of this would show nothing
		o, err := c.Get(c.ctx, "external-secrets.io/v1", "ExternalSecret", c.name, "ticking")
		if err != nil || o == nil {
			return false, err
		}
		at, err := time.Parse(time.RFC3339, str(o.Object, "status", "refreshTime"))
		return err == nil && time.Until(at.Add(-by)).Abs() < 10*time.Minute, err
	})
	c.advance()
}

// advance brings the next commit into the cluster: one object changes, one comes, and the one before it goes.
func (c *clocked) advance() {
	c.Helper()
	c.generation++
	next := set{}
	for id, value := range c.now {
		if strings.HasPrefix(id, "ConfigMap/only-") {
			delete(c.uids, c.now.id(c.name, id))
			continue
		}
		next[id] = value
	}
	next["ConfigMap/b"] = fmt.Sprint(c.generation)
	next[fmt.Sprint("ConfigMap/only-", c.generation)] = "1"
	commit := c.push(next.change("app", c.now))
	c.now = next
	c.ready("app", commit)
	c.check()
	c.whole() // nobody removed the artifact in use
}

// commit moves the clock just before the API server is asked to write an object of the commit. The first answer then is
// that it is busy: what waits before it tries again must not wait for a clock.
func (c *clocked) commit(verb string, by time.Duration) {
	c.Helper()
	var once sync.Once
	defer proxy.Add(func(w http.ResponseWriter, r *http.Request, next http.Handler) {
		refused := false
		if a := harness.Ask(r); a.Namespace == c.name && a.Resource == "configmaps" && a.Verb == verb && a.Writes() {
			once.Do(func() {
				refused = true
				if err := c.clock.Set(by); err != nil {
					c.Error(err)
				}
			})
		}
		if refused {
			harness.Refuse(w, http.StatusServiceUnavailable, "ServiceUnavailable")
			return
		}
		next.ServeHTTP(w, r)
	})()
	c.advance()
	once.Do(func() { c.Errorf("nobody asked to %s", verb) })
}

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

// TestClocksOfTwoReplicas: who leads does not depend on what the clocks of the replicas show, nor on their jumps: a leader
// whose leases are of another year keeps it, and when it ends the other one, a year behind, takes over in time.
func TestClocksOfTwoReplicas(t *testing.T) {
	tm := newTeam(t, "two-clocks")
	tm.ok(tm.Terminate(main))
	one, err := harness.NewProxy(tm.Config)
	tm.ok(err)
	t.Cleanup(one.Close)
	var clocks [2]*harness.Clock
	for i, by := range []time.Duration{365 * day, -day} {
		clocks[i], err = tm.NewClock()
		tm.ok(err)
		tm.ok(clocks[i].Set(by))
	}
	hasty := []string{"--leader-election-lease-duration=8s", "--leader-election-renew-deadline=6s", "--leader-election-retry-period=1s"}
	ports, err := tm.NewPorts()
	tm.ok(err)
	tm.ok(tm.StartReplica(tm.ctx, harness.Replica{Name: "one", Ports: ports, Via: one, Cache: filepath.Join(tm.Dir, "cache-one"), Log: filepath.Join(tm.Dir, "one.log"), Args: hasty, Clock: clocks[0]}))
	leader := tm.leader("")
	tm.ok(tm.StartReplica(tm.ctx, harness.Replica{Name: "two", Ports: tm.Ports, Via: proxy, Waiting: true, Args: hasty, Clock: clocks[1]})) // it has the webhook
	t.Cleanup(func() {
		if err := errors.Join(world.Terminate("one"), world.Terminate("two"), startMain(context.WithoutCancel(tm.ctx))); err != nil {
			t.Error(err)
		}
	})
	first := set{"ConfigMap/a": "1", "ConfigMap/gone": "1"}
	commit := tm.push(first.files("app"))
	tm.apply(tm.source() + tm.sync("app"))
	tm.ready("app", commit)
	tm.sound("app", first)

	// Each sees the other's times leap while the lease is renewed, more often than it lasts.
	var renewed atomic.Int64
	remove := one.Add(func(w http.ResponseWriter, r *http.Request, next http.Handler) {
		if a := harness.Ask(r); a.Resource == "leases.coordination.k8s.io" && a.Writes() {
			renewed.Add(1)
		}
		next.ServeHTTP(w, r)
	})
	for i, pair := range [][2]time.Duration{{-day, 365 * day}, {time.Hour, -time.Hour}, {0, 365 * day}} {
		tm.ok(errors.Join(clocks[0].Set(pair[0]), clocks[1].Set(pair[1])))
		tm.eventually("the lease to be renewed", func() (bool, error) { return renewed.Load() > int64(4*(i+1)), nil })
	}
	remove()
	if now := tm.leader(""); now != leader {
		t.Errorf("%s leads instead of %s", now, leader)
	}
	second := set{"ConfigMap/a": "2", "ConfigMap/b": "2"}
	tm.deliver(first, second)

	tm.ok(tm.Kill("one"))
	tm.leader(leader)
	tm.deliver(second, set{"ConfigMap/a": "3", "ConfigMap/c": "3"})
}
