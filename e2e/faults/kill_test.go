package faults

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"

	"sealock.dev/sealock/e2e/harness"
)

// kills is how many kills a test run makes. FAULTS=20, while working, makes as many as are asked for.
const kills = 200

// TestKilledAtRandomPoints ends the controller with SIGKILL at a random request of its work on a commit: before the API
// server gets the request, or after it has acted on it and before the controller hears of it. Three Kustomizations are in
// flight, whose commits add, change and remove objects. One kill in three is followed by another one while the next
// process picks up what was left.
func TestKilledAtRandomPoints(t *testing.T) {
	n, seed := kills, uint64(1)
	if v, err := strconv.Atoi(os.Getenv("FAULTS")); err == nil {
		n = v
	}
	if v, err := strconv.ParseUint(os.Getenv("SEED"), 10, 64); err == nil {
		seed = v
	}
	t.Logf("%d kills; SEED=%d repeats their points", n, seed)
	k := newKilling(t, rand.New(rand.NewPCG(seed, 0)))
	k.withoutWebhook()
	quiet := &trap{}
	k.deliver(quiet)
	quiet = &trap{} // the second one changes and removes, too
	k.deliver(quiet)
	span := quiet.total()
	done, twice := 0, 0
	for done < n {
		points := []int{1 + k.random.IntN(span)}
		if done+1 < n && k.random.IntN(3) == 0 {
			points = append(points, 1+k.random.IntN(span))
		}
		trap := &trap{points: points, after: k.random.IntN(2) == 0, supersede: k.random.IntN(2) == 0}
		k.deliver(trap)
		done += trap.sprung
		twice += max(0, trap.sprung-1)
	}
	t.Logf("%d kills in a span of %d requests, %d of them during the recovery from another; what they hit: %v", done, span, twice, k.hit)
}

// killing is what is killed again and again.
type killing struct {
	*team
	random     *rand.Rand
	folders    []string
	now        map[string]set    // by Kustomization
	uids       map[string]string // of what is live
	secrets    map[string][2]string
	seals      map[string][2]string
	generation int
	hit        map[string]int
}

func newKilling(t *testing.T, random *rand.Rand) *killing {
	tm := newTeam(t, "killed")
	k := &killing{
		team: tm, random: random, folders: []string{"one", "two", "three"}, now: map[string]set{}, uids: map[string]string{},
		secrets: map[string][2]string{}, seals: map[string][2]string{}, hit: map[string]int{},
	}
	for _, name := range k.folders {
		k.secrets[name] = [2]string{tm.sops(name+"-sops", "0"), tm.sops(name+"-sops", "1")}
		k.seals[name] = [2]string{tm.sealed(name+"-seal", "0"), tm.sealed(name+"-seal", "1")}
	}
	watched, err := tm.Typed.CoreV1().Secrets(tm.name).Watch(tm.ctx, metav1.ListOptions{})
	tm.ok(err)
	t.Cleanup(watched.Stop)
	go func() {
		for e := range watched.ResultChan() {
			if s, ok := e.Object.(*corev1.Secret); ok && len(s.Data) == 0 {
				t.Errorf("for a moment, the Secret %s was empty", s.Name)
			}
		}
	}()
	return k
}

// next makes the next sets: some objects stay, some change, come or go. A Secret and an object are in each.
func (k *killing) next() map[string]set {
	k.generation++
	out := map[string]set{}
	for _, name := range k.folders {
		s := set{"Secret/" + name + "-sops": k.secrets[name][k.random.IntN(2)], "ConfigMap/" + name + "-keep": "kept"}
		// Where the SealedSecret went, the garbage collector takes its Secret, by and by. Until then no new one may have it.
		_, was := k.now[name]["SealedSecret/"+name+"-seal"]
		if value := k.seals[name][k.random.IntN(2)]; k.random.IntN(4) > 0 && (was || k.password(name+"-seal") == "") {
			s["SealedSecret/"+name+"-seal"] = value
		}
		for i := range 6 {
			id := fmt.Sprintf("%s/%s-%d", []string{"ConfigMap", "ServiceAccount"}[i%2], name, i)
			switch old, was := k.now[name][id]; {
			case k.random.IntN(3) == 0: // it goes, or does not come
			case was && k.random.IntN(2) == 0:
				s[id] = old
			default:
				s[id] = fmt.Sprint(k.generation)
			}
		}
		out[name] = s
	}
	return out
}

// commit makes and pushes the next one.
func (k *killing) commit() string {
	k.Helper()
	next := k.next()
	files := map[string]string{}
	for _, name := range k.folders {
		maps.Copy(files, next[name].change(name, k.now[name]))
		for id := range k.now[name] {
			if _, stays := next[name][id]; !stays {
				delete(k.uids, next[name].id(k.name, id))
			}
		}
	}
	k.now = next
	return k.push(files)
}

// deliver brings the next sets into the cluster past the trap, and checks everything. Where the trap says so, another
// commit supersedes the first one while nobody runs: what the first one made and the second one lacks is to be found.
func (k *killing) deliver(trap *trap) {
	k.Helper()
	commit := k.commit()
	trap.killing = k
	trap.killed = make(chan string, 8)
	remove := proxy.Add(trap.rule)
	defer remove()
	if k.generation == 1 {
		objects := k.source()
		for _, name := range k.folders {
			objects += k.sync(name)
		}
		k.apply(objects)
	} else {
		k.fetch()
	}
	k.converge(trap, &commit)
	for trap.disarm(); len(trap.killed) > 0; { // it sprang when all was done
		k.converge(trap, &commit)
	}
	for _, name := range k.folders {
		k.sound(name, k.now[name])
		k.living(name)
		k.unsealed(name, k.now[name])
	}
}

// converge waits until all are ready at the commit, and starts a process for each that is killed.
func (k *killing) converge(trap *trap, commit *string) {
	k.Helper()
	for range 2 { // the second time round tells whether all are ready at one moment
		for _, name := range k.folders {
			k.ok(k.Wait(k.ctx, patience, name+" to be ready", func(ctx context.Context) (bool, error) {
				select {
				case hit := <-trap.killed:
					if !trap.supersede {
						return false, k.restart(ctx, trap, hit)
					}
					trap.supersede = false
					*commit = k.commit()
					return false, k.skip(ctx, trap, hit, *commit)
				default:
				}
				o, err := k.Get(ctx, ksAPI, "Kustomization", k.name, name)
				if err != nil || o == nil {
					return false, err
				}
				status, _, _ := condition(o)
				return status == "True" && strings.HasSuffix(str(o.Object, "status", "lastAppliedRevision"), *commit), nil
			}))
		}
	}
}

// withoutWebhook takes Sealock's own webhook away for the rest of the test: while its process is down, nobody could write
// where a tenant lives, and this test has to.
func (k *killing) withoutWebhook() {
	k.Helper()
	hooks := k.Typed.AdmissionregistrationV1().ValidatingWebhookConfigurations()
	list, err := hooks.List(k.ctx, metav1.ListOptions{})
	k.ok(err)
	for i := range list.Items {
		hook := &list.Items[i]
		k.ok(hooks.Delete(k.ctx, hook.Name, metav1.DeleteOptions{}))
		k.Cleanup(func() {
			hook.ObjectMeta = metav1.ObjectMeta{Name: hook.Name, Labels: hook.Labels, Annotations: hook.Annotations}
			if _, err := hooks.Create(context.WithoutCancel(k.ctx), hook, metav1.CreateOptions{}); err != nil {
				k.Error(err)
			}
		})
	}
}

// suspend keeps the Kustomizations from running, or lets them.
func (k *killing) suspend(yes bool) error {
	resource := k.Dynamic.Resource(schema.GroupVersionResource{Group: "kustomize.toolkit.fluxcd.io", Version: "v1", Resource: "kustomizations"}).Namespace(k.name)
	for _, name := range k.folders {
		body := fmt.Sprintf(`{"spec":{"suspend":%t}}`, yes)
		if _, err := resource.Patch(k.ctx, name, types.MergePatchType, []byte(body), metav1.PatchOptions{FieldManager: "e2e"}); err != nil {
			return err
		}
	}
	return nil
}

// skip starts the next process so that no Kustomization ever sees the commit that was interrupted again.
func (k *killing) skip(ctx context.Context, trap *trap, hit, commit string) error {
	if err := errors.Join(k.suspend(true), k.restart(ctx, trap, hit)); err != nil {
		return err
	}
	err := k.Wait(ctx, patience, "the next commit to be fetched", func(ctx context.Context) (bool, error) {
		o, err := k.Get(ctx, srcAPI, "GitRepository", k.name, "app")
		if err != nil || o == nil {
			return false, err
		}
		return len(trap.killed) > 0 || strings.HasSuffix(str(o.Object, "status", "artifact", "revision"), commit), nil
	})
	return errors.Join(err, k.suspend(false))
}

// restart starts the next process. It may be killed before it is ready.
func (k *killing) restart(ctx context.Context, trap *trap, hit string) error {
	k.hit[hit]++
	err := startMain(ctx)
	trap.firing.Wait()
	if err != nil && len(trap.killed) == 0 {
		return err
	}
	return nil
}

// living fails when an object that stood in all commits since it was made was made anew: somebody deleted it.
func (k *killing) living(name string) {
	k.Helper()
	for id, o := range k.live(name) {
		if was := k.uids[id]; was != "" && was != string(o.GetUID()) {
			k.Errorf("%s was pruned although it should live", id)
		}
		k.uids[id] = string(o.GetUID())
	}
}

// unsealed checks the Secret that a SealedSecret yields.
func (k *killing) unsealed(name string, s set) {
	k.Helper()
	values := k.seals[name]
	want := slices.Index(values[:], s["SealedSecret/"+name+"-seal"])
	if want >= 0 {
		k.eventually("the Secret of the SealedSecret of "+name, func() (bool, error) { return k.password(name+"-seal") == strconv.Itoa(want), nil })
	}
}

// trap kills at the points: after so many requests since the start, or since the last kill.
type trap struct {
	*killing
	after     bool // when the API server has acted on the request
	supersede bool // the commit, before the next process starts
	killed    chan string

	mu     sync.Mutex
	points []int
	count  int
	victim int // process id of the last one
	sprung int
	firing sync.WaitGroup
}

// disarm returns when the trap kills nobody any more.
func (t *trap) disarm() {
	t.mu.Lock()
	t.points = nil
	t.mu.Unlock()
	t.firing.Wait()
}

func (t *trap) total() int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.count
}

// rule counts what concerns the commit: requests in the team's namespace but for events, and the records.
func (t *trap) rule(w http.ResponseWriter, r *http.Request, next http.Handler) {
	a := harness.Ask(r)
	counts := a.Verb != "watch" && a.Resource != "events" &&
		(a.Namespace == t.name || a.Namespace == harness.SystemNamespace && strings.HasPrefix(a.Name, "sealock-record"))
	if !counts || !t.step() {
		next.ServeHTTP(w, r)
		return
	}
	defer t.firing.Done()
	defer func() { // also when the answer got lost
		if err := world.Kill(main); err != nil {
			t.Error(err)
		}
		dry := ""
		if a.DryRun {
			dry = "dry-run "
		}
		t.killed <- dry + a.Verb + " " + a.Resource + strings.TrimSuffix("/"+a.Sub, "/")
	}()
	if t.after {
		next.ServeHTTP(httptest.NewRecorder(), r.WithContext(context.WithoutCancel(r.Context())))
	}
}

func (t *trap) step() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.count++
	pid := world.Pid(main)
	// What a process still has under way when it is killed does not count against the next one.
	if len(t.points) == 0 || t.count < t.points[0] || pid == 0 || pid == t.victim {
		return false
	}
	t.victim = pid
	t.points, t.count = t.points[1:], 0
	t.sprung++
	t.firing.Add(1)
	return true
}

func str(o map[string]any, path ...string) string {
	var v any = o
	for _, p := range path {
		m, ok := v.(map[string]any)
		if !ok {
			return ""
		}
		v = m[p]
	}
	s, _ := v.(string)
	return s
}
