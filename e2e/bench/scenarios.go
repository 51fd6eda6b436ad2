package main

import (
	"context"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"time"
)

// marks are the goals and peers of the rows of one piece of work.
type marks struct{ objects, writes, cpu, memory, wall []option }

// tell adds the rows that every piece of work has.
func (s *site) tell(name string, w work, m marks) {
	row := func(what string, seen float64, unit, text string, opts []option) {
		s.add(figure{Scenario: s.scenario, Work: name, What: what, Seen: seen, Unit: unit, Detail: text}, opts...)
	}
	row("requests for objects", float64(w.of(objects)), "", w.detail(objects), m.objects)
	row("for its own objects, status included", float64(w.of(status)), "", w.detail(status), m.writes)
	n, text := w.others(objects, status)
	row("other requests", float64(n), "", text, nil)
	row("CPU, s", round(w.cpu), "", fmt.Sprintf("API server, etcd, Git %.1f; allocated %.0f MiB; %.0f reconciles", w.apiCPU, w.allocatedMiB, w.reconciles), m.cpu)
	row("memory, MiB", math.Round(w.now), "", fmt.Sprintf("peak %.0f", w.peak), m.memory)
	row("wall, s", w.wall.Seconds(), "", "", m.wall)
}

func round(v float64) float64 { return math.Round(v*1000) / 1000 }

// idle is the price of being there.
func idle(ctx context.Context, s *site) error {
	if err := s.startup(ctx); err != nil {
		return err
	}
	w, err := s.measure(ctx, "idle", func(ctx context.Context) error { return pause(ctx, time.Duration(s.size(20, 5))*time.Second) })
	if err != nil {
		return err
	}
	s.tell("nothing to do", w, marks{
		objects: []option{atMost(0), peer("0")}, writes: []option{atMost(0), peer("0")},
		cpu: []option{peer("0")}, memory: []option{peer("Flux 142, all six 360")},
	})
	return nil
}

// pause lets time pass: that nothing happens in it is what is measured.
func pause(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(d):
		return nil
	}
}

// startup is the time until every probe says ready, with the lists that come with it.
func (s *site) startup(ctx context.Context) error {
	w, err := s.restart(ctx, 0)
	if err != nil {
		return err
	}
	s.tell("start-up until ready and leading", w, marks{writes: []option{}})
	return nil
}

// fiveHundred is the work of the first rows of the peers' table.
func fiveHundred(ctx context.Context, s *site) error {
	n := s.size(500, 100)
	const ns = "bench-five"
	files := map[string]string{}
	fill(files, "five", ns, 0, n, 1)
	fill(files, "rest", "bench-rest", 0, s.size(1000, 200), 1)
	if err := s.namespaces(ctx, ns, 1, func(int) string { return ns }); err != nil {
		return err
	}
	if _, err := s.source(ctx, platform, files); err != nil {
		return err
	}
	all := []kustomization{{namespace: platform, name: "five", path: "five"}}
	w, err := s.measure(ctx, "first apply", func(ctx context.Context) error { return s.create(ctx, all) })
	if err != nil {
		return err
	}
	s.tell(fmt.Sprintf("first apply of %d", n), w, marks{
		objects: []option{atMost(float64(2 * n)), peer("1,500")}, writes: []option{peer("13")},
		cpu: []option{peer("0.91 + 0.49")}, memory: []option{peer("84 + 94, peak 112 + ?")}, wall: []option{peer("3.4")},
	})
	if err := s.noop(ctx, fmt.Sprintf("nothing changed, %d", n), all, marks{
		objects: []option{atMost(0), peer("1,000")}, cpu: []option{peer("0.8")}, memory: []option{peer("87 + 94, peak 125 + ?")}, wall: []option{peer("1.4")},
	}); err != nil {
		return err
	}
	if err := s.change(ctx, fmt.Sprintf("one of %d changed in Git", n), "five", ns, 0, all, marks{
		objects: []option{atMost(3), peer("1,000")}, cpu: []option{peer("0.8 + 0.5")}, memory: []option{peer("88 + 94, peak 125 + ?")}, wall: []option{peer("1.9")},
	}); err != nil {
		return err
	}
	return s.restarted(ctx, fmt.Sprintf("restart, %d objects", n), len(all), marks{})
}

// rounds is how often a no-op is asked for: one is below the resolution of CPU time.
const rounds = 5

// noop measures a reconcile request to each of the Kustomizations while nothing changed; figures are those of one round.
func (s *site) noop(ctx context.Context, name string, all []kustomization, m marks) error {
	w, err := s.measure(ctx, "no-op", func(ctx context.Context) error {
		for range rounds {
			if err := s.request(ctx, all); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	w.cpu, w.apiCPU, w.allocatedMiB, w.reconciles, w.wall = w.cpu/rounds, w.apiCPU/rounds, w.allocatedMiB/rounds, w.reconciles/rounds, w.wall/rounds
	m.writes = append(m.writes, atMost(float64(rounds*len(all))), detail("%s in %d rounds; the echo of each is a write", w.detail(status), rounds))
	m.objects = append(m.objects, detail("in %d rounds", rounds))
	s.tell(name, w, m)
	return nil
}

// change measures a commit that changes one object.
func (s *site) change(ctx context.Context, name, dir, namespace string, i int, all []kustomization, m marks) error {
	file, text := object(namespace, i, 2)
	commit, err := s.Push(ctx, repo, "change one", map[string]string{dir + "/" + file: text})
	if err != nil {
		return err
	}
	w, err := s.measure(ctx, "one changed", func(ctx context.Context) error {
		return s.await(ctx, all, at(commit), func() error { return s.fetch(ctx, platform) })
	})
	if err != nil {
		return err
	}
	s.tell(name, w, m)
	return nil
}

// restarted measures a restart in which nothing changed.
func (s *site) restarted(ctx context.Context, name string, kustomizations int, m marks) error {
	w, err := s.restart(ctx, kustomizations)
	if err != nil {
		return err
	}
	m.objects = append(m.objects, atMost(0))
	s.tell(name, w, m)
	s.add(figure{Scenario: s.scenario, Work: name, What: "writes, but for leases and events", Seen: float64(w.writes(objects, status, inputs))}, atMost(0))
	twice := ""
	for kind, lists := range w.kinds {
		if lists > 1 {
			twice += fmt.Sprintf("%s %d, ", kind, lists)
		}
	}
	s.add(figure{Scenario: s.scenario, Work: name, What: "kinds listed more than once", Seen: float64(count(w.kinds, 2)), Detail: fmt.Sprintf("%sof %d kinds", twice, len(w.kinds))}, atMost(0))
	return nil
}

func count(m map[string]int, least int) int {
	n := 0
	for _, v := range m {
		if v >= least {
			n++
		}
	}
	return n
}

// program is what needs no cluster.
func program(ctx context.Context, s *site) error {
	info, err := os.Stat(filepath.Join(s.root, "bin", "sealock"))
	if err != nil {
		return err
	}
	s.add(figure{Scenario: s.scenario, Work: "bin/sealock", What: "size, MB", Seen: math.Round(float64(info.Size()) / 1e6)}, peer("Flux 187, all six 500"))
	return s.benchmarks(ctx)
}
