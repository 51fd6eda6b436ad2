package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// ticks is what Linux counts CPU time in, whatever the kernel's own tick.
const ticks = 100

// usage is the kernel's account of a process.
type usage struct {
	cpu       float64 // seconds
	now, peak float64 // resident, MiB
}

func usageOf(pid int) (usage, error) {
	var u usage
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return u, err
	}
	// The name of the program may hold spaces; it ends with the last parenthesis.
	fields := strings.Fields(string(stat[bytes.LastIndexByte(stat, ')')+1:]))
	if len(fields) < 13 {
		return u, errors.New("/proc/PID/stat is too short")
	}
	for _, f := range fields[11:13] {
		n, err := strconv.ParseFloat(f, 64)
		if err != nil {
			return u, err
		}
		u.cpu += n / ticks
	}
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return u, err
	}
	for _, line := range strings.Split(string(text), "\n") {
		f := strings.Fields(line)
		if len(f) < 2 {
			continue
		}
		kib, _ := strconv.ParseFloat(f[1], 64)
		switch f[0] {
		case "VmRSS:":
			u.now = kib / 1024
		case "VmHWM:":
			u.peak = kib / 1024
		}
	}
	return u, nil
}

// resetPeak lets the kernel begin a new peak of resident memory.
func resetPeak(pid int) error {
	return os.WriteFile(fmt.Sprintf("/proc/%d/clear_refs", pid), []byte("5"), 0o200)
}

// work is what one piece of work cost.
type work struct {
	requests
	usage        // cpu is that of the work
	apiCPU       float64
	wall         time.Duration
	allocatedMiB float64
	from, to     int64 // in the audit log
	reconciles   float64
}

// settleTime is how long nothing must be asked before a piece of work counts as done, and settleLimit how long that is
// waited for.
const (
	settleTime  = 700 * time.Millisecond
	settleLimit = 10 * time.Second
)

// measure does fn and says what it cost the controller, trailing requests included. The wall time is that of fn alone.
func (s *site) measure(ctx context.Context, name string, fn func(ctx context.Context) error) (work, error) {
	pid := s.Pid("controller")
	if err := resetPeak(pid); err != nil {
		return work{}, err
	}
	before, err := s.snapshot(ctx)
	if err != nil {
		return work{}, err
	}
	finish := s.startProfile(ctx, name)
	began := time.Now()
	if err := fn(ctx); err != nil {
		return work{}, fmt.Errorf("%s: %w", name, err)
	}
	wall := time.Since(began)
	if err := s.quiet(ctx); err != nil {
		return work{}, err
	}
	after, err := s.snapshot(ctx)
	if err != nil {
		return work{}, err
	}
	finish()
	return s.cost(before, after, wall)
}

// snapshot is the state of all meters.
type snapshot struct {
	controller, api usage
	at              int64
	metrics         map[string]float64
}

func (s *site) snapshot(ctx context.Context) (out snapshot, err error) {
	if out.controller, err = usageOf(s.Pid("controller")); err != nil {
		return out, err
	}
	if out.api, err = usageOf(s.Pid("devcluster")); err != nil {
		return out, err
	}
	if out.at, err = s.auditLog().end(); err != nil {
		return out, err
	}
	out.metrics, err = s.metrics(ctx)
	return out, err
}

func (s *site) cost(before, after snapshot, wall time.Duration) (work, error) {
	w := work{usage: after.controller, wall: wall, from: before.at, to: after.at}
	w.cpu -= before.controller.cpu
	w.apiCPU = after.api.cpu - before.api.cpu
	w.allocatedMiB = (after.metrics["go_memstats_alloc_bytes_total"] - before.metrics["go_memstats_alloc_bytes_total"]) / (1 << 20)
	w.reconciles = after.reconciles() - before.reconciles()
	var err error
	w.requests, err = s.auditLog().count(before.at, after.at)
	return w, err
}

// reconciles of Kustomizations so far.
func (s snapshot) reconciles() float64 {
	n := 0.0
	for name, v := range s.metrics {
		if strings.HasPrefix(name, `controller_runtime_reconcile_total{controller="kustomization"`) {
			n += v
		}
	}
	return n
}

// quiet waits until the controller asks nothing but for its lease, and has nothing left to do.
func (s *site) quiet(ctx context.Context) error {
	log := s.auditLog()
	last, err := log.end()
	if err != nil {
		return err
	}
	since, began := time.Now(), time.Now()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for time.Since(since) < settleTime && time.Since(began) < settleLimit {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
		}
		end, err := log.end()
		if err != nil {
			return err
		}
		err = log.lines(last, end, `"`+controllerUser+`"`, func(line []byte) error {
			if !bytes.Contains(line, []byte(`"leases"`)) {
				since = time.Now()
			}
			return nil
		})
		if err != nil {
			return err
		}
		last = end
	}
	return nil
}

// metrics reads the controller's own metrics: name with labels to value.
func (s *site) metrics(ctx context.Context) (map[string]float64, error) {
	body, err := get(ctx, fmt.Sprintf("http://127.0.0.1:%d/metrics", s.Ports.Metrics))
	if err != nil {
		return nil, err
	}
	out := map[string]float64{}
	for _, line := range strings.Split(string(body), "\n") {
		i := strings.LastIndexByte(line, ' ')
		if i < 0 || line[0] == '#' {
			continue
		}
		if v, err := strconv.ParseFloat(line[i+1:], 64); err == nil {
			out[line[:i]] = v
		}
	}
	return out, nil
}

// liveHeap returns what the controller holds after a garbage collection, in MiB.
func (s *site) liveHeap(ctx context.Context) (float64, error) {
	for range 2 { // what finalizers let go is freed by the second
		if _, err := get(ctx, "http://"+s.pprof+"/debug/pprof/heap?gc=1"); err != nil {
			return 0, err
		}
	}
	m, err := s.metrics(ctx)
	return m["go_memstats_heap_alloc_bytes"] / (1 << 20), err
}

// profileSeconds is how much of a piece of work is profiled.
const profileSeconds = 15

// startProfile begins the profiles of a piece of work; the returned function ends them. Without --profile it does nothing.
func (s *site) startProfile(ctx context.Context, name string) func() {
	if s.profiles == "" {
		return func() {}
	}
	save := func(kind, path string) {
		body, err := get(ctx, "http://"+s.pprof+path)
		if err == nil {
			file := strings.Map(func(r rune) rune {
				if strings.ContainsRune(" ,/", r) {
					return '-'
				}
				return r
			}, s.scenario+"-"+name+"."+kind)
			err = os.WriteFile(filepath.Join(s.profiles, file), body, 0o600)
		}
		if err != nil {
			fmt.Fprintln(os.Stderr, "bench: profile:", err)
		}
	}
	save("allocs-before", "/debug/pprof/allocs")
	done := make(chan struct{})
	go func() {
		defer close(done)
		save("cpu", fmt.Sprintf("/debug/pprof/profile?seconds=%d", profileSeconds))
	}()
	return func() {
		save("allocs-after", "/debug/pprof/allocs")
		<-done
		save("heap", "/debug/pprof/heap?gc=1")
	}
}

func get(ctx context.Context, url string) ([]byte, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return nil, err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s answers %d", url, resp.StatusCode)
	}
	return body, err
}

// freeAddr returns a loopback address that nobody listens on.
func freeAddr() (string, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	return l.Addr().String(), l.Close()
}
