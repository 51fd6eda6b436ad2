package main

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"time"
)

// fleet is many Kustomizations of a few objects each.
type fleet struct {
	*site
	n, each int // Kustomizations, objects of each
	all     []kustomization
}

func (f *fleet) name(i int) string      { return fmt.Sprintf("app-%04d", i) }
func (f *fleet) namespace(i int) string { return fmt.Sprintf("bench-%02d", i%f.spread()) }

// spread is over how many namespaces the objects are.
func (f *fleet) spread() int { return min(f.n, 10) }

// newFleet pushes the repository and makes the namespaces; nothing is applied yet.
func newFleet(ctx context.Context, s *site, n, each int, overlays bool) (*fleet, error) {
	f := &fleet{site: s, n: n, each: each}
	files := map[string]string{}
	for i := range n {
		dir := "apps/" + f.name(i)
		// The objects of a Kustomization share a namespace with those of others, and differ in number.
		first := i / f.spread() * ((each + kinds - 1) / kinds * kinds)
		fill(files, dir, f.namespace(i), first, first+each, 1)
		if overlays {
			overlay(files, dir)
		}
		f.all = append(f.all, kustomization{namespace: platform, name: f.name(i), path: dir})
	}
	fill(files, "rest", "bench-rest", 0, s.size(500, 100), 1)
	if err := s.namespaces(ctx, "", f.spread(), f.namespace); err != nil {
		return nil, err
	}
	_, err := s.source(ctx, platform, files)
	return f, err
}

func hundred(ctx context.Context, s *site) error {
	n := s.size(100, 20)
	f, err := newFleet(ctx, s, n, 10, false)
	if err != nil {
		return err
	}
	if err := f.three(ctx); err != nil {
		return err
	}
	return s.restarted(ctx, fmt.Sprintf("restart, %d Kustomizations", n), n, marks{
		objects: []option{peer("3,918 in all, 101 x 1,500 objects")}, writes: []option{peer("808 writes in all")},
		cpu: []option{peer("13.9")}, memory: []option{peer("150, peak 162")}, wall: []option{peer("20")},
	})
}

func overlays(ctx context.Context, s *site) error {
	f, err := newFleet(ctx, s, s.size(100, 20), 10, true)
	if err != nil {
		return err
	}
	return f.three(ctx)
}

// three are the pieces of work that the peers' table has of many Kustomizations.
func (f *fleet) three(ctx context.Context) error {
	share := float64(f.n) / 100
	what := fmt.Sprintf("%d Kustomizations x %d", f.n, f.each)
	w, err := f.measure(ctx, "first apply", func(ctx context.Context) error { return f.create(ctx, f.all) })
	if err != nil {
		return err
	}
	f.tell(what+", first", w, marks{
		objects: []option{atMost(float64(2 * f.n * f.each)), peer("4,100 in all")},
		cpu:     []option{atMost(4 * share), peer("40")}, memory: []option{peer("123, peak 152")}, wall: []option{peer("29")},
	})
	if err := f.noop(ctx, what+", nothing changed", f.all, marks{
		objects: []option{atMost(0), peer("2,900 in all")},
		cpu:     []option{atMost(round(0.073 * share)), peer("73 (tmpfs 13.8)")}, memory: []option{peer("140, peak 167")}, wall: []option{peer("52 (tmpfs 13)")},
	}); err != nil {
		return err
	}
	if err := f.interval(ctx, what+", by their interval"); err != nil {
		return err
	}
	return f.change(ctx, fmt.Sprintf("a commit for one of %d", f.n), "apps/"+f.name(0), f.namespace(0), 0, f.all, marks{
		objects: []option{atMost(3), peer("3,911 in all")},
		cpu:     []option{peer("88")}, memory: []option{peer("142, peak 166")}, wall: []option{peer("76")},
	})
}

// thousand is the size of a busy cluster: every Kustomization waits for its objects.
func thousand(ctx context.Context, s *site) error {
	f := &fleet{site: s, n: s.size(1000, 100), each: 4}
	files := map[string]string{}
	for i := range f.n {
		files["apps/"+f.name(i)+"/app.yaml"] = workload(f.namespace(i), f.name(i))
		f.all = append(f.all, kustomization{namespace: platform, name: f.name(i), path: "apps/" + f.name(i), spec: "  wait: true"})
	}
	if err := s.namespaces(ctx, "", f.spread(), f.namespace); err != nil {
		return err
	}
	if _, err := s.source(ctx, platform, files); err != nil {
		return err
	}
	w, err := s.measure(ctx, "first apply", func(ctx context.Context) error { return s.create(ctx, f.all) })
	if err != nil {
		return err
	}
	s.tell(fmt.Sprintf("%d Kustomizations x 4, waited for", f.n), w, marks{
		objects: []option{atMost(float64(8 * f.n))}, memory: []option{atMost(300)},
	})
	return s.noop(ctx, fmt.Sprintf("%d Kustomizations x 4, nothing changed", f.n), f.all, marks{objects: []option{atMost(0)}})
}

// tenThousand is the size that one replica must carry.
func tenThousand(ctx context.Context, s *site) error {
	before, err := s.liveHeap(ctx)
	if err != nil {
		return err
	}
	n := s.size(1000, 100)
	f, err := newFleet(ctx, s, n, 10, false)
	if err != nil {
		return err
	}
	w, err := s.measure(ctx, "first apply", func(ctx context.Context) error { return s.create(ctx, f.all) })
	if err != nil {
		return err
	}
	name := fmt.Sprintf("%d objects in %d Kustomizations", n*10, n)
	s.tell(name+", first", w, marks{objects: []option{atMost(float64(20 * n))}, memory: []option{atMost(300)}})
	after, err := s.liveHeap(ctx)
	if err != nil {
		return err
	}
	u, err := usageOf(s.Pid("controller"))
	if err != nil {
		return err
	}
	s.add(figure{Scenario: s.scenario, Work: name, What: "live heap, MiB", Seen: math.Round(after), Detail: fmt.Sprintf("idle %.0f; resident %.0f", before, u.now)})
	s.add(figure{Scenario: s.scenario, Work: name, What: "live heap for each object, bytes", Seen: math.Round((after - before) * (1 << 20) / float64(n*10)), Detail: "its share of the Kustomization included"})
	if err := f.drift(ctx); err != nil {
		return err
	}
	return s.restarted(ctx, fmt.Sprintf("restart, %d objects in %d Kustomizations", n*10, n), n, marks{memory: []option{atMost(300)}})
}

// interval measures what it costs that the interval passes and nothing changed, for one reconcile of each.
func (f *fleet) interval(ctx context.Context, what string) error {
	const every = 5 * time.Second
	short := slices.Clone(f.all)
	for i := range short {
		short[i].interval = "5s"
	}
	if err := f.reapply(ctx, short); err != nil {
		return err
	}
	w, err := f.measure(ctx, "by interval", func(ctx context.Context) error { return pause(ctx, 4*every) })
	if err != nil {
		return err
	}
	rounds := w.reconciles / float64(f.n)
	if rounds == 0 {
		return errors.New("the interval passed and nothing was reconciled")
	}
	m := marks{objects: []option{atMost(0)}, writes: []option{detail("%s; in %.1f rounds", w.detail(status), rounds)}, cpu: []option{atMost(round(0.073 * float64(f.n) / 100))}}
	w.cpu, w.apiCPU, w.allocatedMiB, w.reconciles = w.cpu/rounds, w.apiCPU/rounds, w.allocatedMiB/rounds, w.reconciles/rounds
	f.tell(what, w, m)
	return f.reapply(ctx, f.all)
}

// reapply changes the specs of Kustomizations that are there, and waits until all are ready with them.
func (f *fleet) reapply(ctx context.Context, all []kustomization) error {
	if err := f.site.each(len(all), func(i int) error { return f.Apply(ctx, all[i].yaml()) }); err != nil {
		return err
	}
	return f.create(ctx, all)
}
