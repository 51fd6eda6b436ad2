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
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
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
