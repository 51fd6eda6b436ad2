package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
)

var configMaps = schema.GroupVersionKind{Version: "v1", Kind: "ConfigMap"} //nolint:gochecknoglobals // a constant

// spread prints the median and the 99th percentile.
func (s *site) latencies(work, what string, list []time.Duration, opts ...option) {
	slices.Sort(list)
	ms := func(share float64) float64 {
		return float64(list[min(len(list)-1, int(share*float64(len(list))))].Microseconds()) / 1000
	}
	s.add(figure{Scenario: s.scenario, Work: work, What: what + ", p50, ms", Seen: ms(0.5)}, opts...)
	s.add(figure{Scenario: s.scenario, Work: work, What: what + ", p99, ms", Seen: ms(0.99), Detail: fmt.Sprintf("of %d; slowest %.0f", len(list), ms(1))})
}

// latency is what a developer waits for after a push: from the reconcile request to the changed object.
func latency(ctx context.Context, s *site) error {
	f, err := newFleet(ctx, s, s.size(100, 20), 10, false)
	if err != nil {
		return err
	}
	if err := s.create(ctx, f.all); err != nil {
		return err
	}
	file, _ := object(f.namespace(0), 0, 0)
	maps, err := s.Resource(configMaps, f.namespace(0))
	if err != nil {
		return err
	}
	var seen []time.Duration
	for i := range s.size(30, 8) {
		_, text := object(f.namespace(0), 0, i+2)
		if _, err := s.Push(ctx, repo, "next", map[string]string{"apps/" + f.name(0) + "/" + file: text}); err != nil {
			return err
		}
		began := time.Now()
		version := strconv.Itoa(i + 2)
		arrived := func(o *unstructured.Unstructured) bool {
			v, _, _ := unstructured.NestedString(o.Object, "data", "version")
			return o.GetName()+".yaml" == file && v == version
		}
		err := s.follow(ctx, maps, func() error { return s.fetch(ctx, platform) }, arrived, func() string { return "commit " + version })
		if err != nil {
			return err
		}
		seen = append(seen, time.Since(began))
		if err := s.quiet(ctx); err != nil {
			return err
		}
	}
	s.latencies(fmt.Sprintf("a commit for one of %d Kustomizations", f.n), "request to changed object", seen)
	return nil
}

// prune is 1,500 objects that leave Git at once.
func prune(ctx context.Context, s *site) error {
	n := s.size(1500, 300)
	const ns = "bench-prune"
	files := map[string]string{}
	fill(files, "prune", ns, 0, n, 1)
	if err := s.namespaces(ctx, ns, 1, func(int) string { return ns }); err != nil {
		return err
	}
	if _, err := s.source(ctx, platform, files); err != nil {
		return err
	}
	all := []kustomization{{namespace: platform, name: "prune", path: "prune"}}
	if err := s.create(ctx, all); err != nil {
		return err
	}
	for name := range files {
		files[name] = ""
	}
	keep, text := object(ns, 0, 1)
	files["prune/"+keep] = text
	commit, err := s.Push(ctx, repo, "remove", files)
	if err != nil {
		return err
	}
	w, err := s.measure(ctx, "prune", func(ctx context.Context) error {
		return s.await(ctx, all, at(commit), func() error { return s.fetch(ctx, platform) })
	})
	if err != nil {
		return err
	}
	s.tell(fmt.Sprintf("prune %d", n-1), w, marks{
		objects: []option{atMost(float64(2 * n)), peer("3,404 in all")}, cpu: []option{peer("1.2")}, wall: []option{peer("5.4")},
	})
	return nil
}

// drift changes and deletes managed objects, one after another, and looks in the audit log when their repair began.
func (f *fleet) drift(ctx context.Context) error {
	samples := f.size(100, 20)
	var seen []time.Duration
	lost := 0
	for i := range samples {
		d, err := f.disturb(ctx, (i*37)%f.n, i%2 == 1)
		switch {
		case errors.Is(err, errNotRepaired):
			lost++
		case err != nil:
			return err
		default:
			seen = append(seen, d)
		}
	}
	name := fmt.Sprintf("drift among %d objects", f.n*f.each)
	second := 0
	for _, d := range seen {
		if d < time.Second {
			second++
		}
	}
	f.add(figure{Scenario: f.scenario, Work: name, What: "repair begun in the same second, %", Seen: 100 * float64(second) / float64(samples), Detail: fmt.Sprintf("%d samples, %d not repaired in %s", samples, lost, driftLimit)},
		atLeast(99), peer("deletion at interval 1 m: 41-57 s"))
	if len(seen) > 0 {
		f.latencies(name, "our write to its repair", seen)
	}
	return nil
}

// driftLimit is how long a repair is waited for.
const driftLimit = 5 * time.Second

var errNotRepaired = errors.New("not repaired")

// disturb changes or deletes the first object of a Kustomization, and returns how long it took until its repair began.
func (f *fleet) disturb(ctx context.Context, i int, remove bool) (time.Duration, error) {
	first := i / f.spread() * ((f.each + kinds - 1) / kinds * kinds)
	file, _ := object(f.namespace(i), first, 1)
	name := strings.TrimSuffix(file, ".yaml")
	maps, err := f.Resource(configMaps, f.namespace(i))
	if err != nil {
		return 0, err
	}
	from, err := f.auditLog().end()
	if err != nil {
		return 0, err
	}
	if remove {
		err = maps.Delete(ctx, name, metav1.DeleteOptions{})
	} else {
		_, err = maps.Patch(ctx, name, types.MergePatchType, []byte(`{"data":{"version":"by hand"}}`), metav1.PatchOptions{FieldManager: "kubectl-edit"})
	}
	if err != nil {
		return 0, err
	}
	var latency time.Duration
	err = f.Wait(ctx, driftLimit, "the repair", func(context.Context) (bool, error) {
		latency, err = f.repaired(from, f.namespace(i), name)
		return latency != 0, err
	})
	if latency == 0 {
		return 0, errNotRepaired
	}
	return latency, err
}

// repaired returns the time between our write to the object and the first of the controller, 0 when there is none yet.
func (f *fleet) repaired(from int64, namespace, name string) (time.Duration, error) {
	to, err := f.auditLog().end()
	if err != nil {
		return 0, err
	}
	about := func(e event) bool {
		return e.ObjectRef != nil && e.writes() && !e.dryRun() && e.ResponseStatus.Code < 300 && e.ObjectRef.Namespace == namespace && e.ObjectRef.Name == name && e.ObjectRef.Resource == "configmaps"
	}
	var ours, theirs time.Time
	if err := f.auditLog().events(from, to, "admin", func(e event) {
		if about(e) {
			ours = e.RequestReceivedTimestamp
		}
	}); err != nil {
		return 0, err
	}
	err = f.auditLog().events(from, to, controllerUser, func(e event) {
		if about(e) && theirs.IsZero() {
			theirs = e.RequestReceivedTimestamp
		}
	})
	if err != nil || ours.IsZero() || theirs.IsZero() {
		return 0, err
	}
	return theirs.Sub(ours), nil
}

// benchmarks runs those of the packages whose work needs no cluster around it.
func (s *site) benchmarks(ctx context.Context) error {
	for _, each := range []struct{ dir, work string }{{"render", "one render"}, {"sealing", "one value unsealed"}, {"policies", "one verdict of 20 policies"}} {
		cmd := exec.CommandContext(ctx, "go", "test", "-run", "^$", "-bench", ".", "-benchmem", "./"+each.dir)
		cmd.Dir = s.root
		out, err := cmd.CombinedOutput()
		if err != nil {
			return fmt.Errorf("go test -bench ./%s: %w\n%s", each.dir, err, out)
		}
		lines := bufio.NewScanner(bytes.NewReader(out))
		for lines.Scan() {
			s.benchmark(each.work, strings.Fields(lines.Text()))
		}
	}
	return nil
}

// benchmark adds a line of the form BenchmarkName-2 100 123 ns/op ... 45 B/op 6 allocs/op.
func (s *site) benchmark(work string, f []string) {
	if len(f) < 8 || !strings.HasPrefix(f[0], "Benchmark") || f[len(f)-1] != "allocs/op" {
		return
	}
	name, _, _ := strings.Cut(strings.TrimPrefix(f[0], "Benchmark"), "-")
	ns, _ := strconv.ParseFloat(f[2], 64)
	size, _ := strconv.ParseFloat(f[len(f)-4], 64)
	s.add(figure{Scenario: s.scenario, Work: work, What: name + ", ms", Seen: round(ns / 1e6), Detail: fmt.Sprintf("%.1f KiB in %s allocations", size/1024, f[len(f)-2])})
}
