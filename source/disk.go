package source

import (
	"io"
	"io/fs"
	"sync/atomic"

	"sealock.dev/sealock/fault"
)

// disk counts what is on it beside the cached repositories. All of it together is bounded by Limits.Disk.
type disk struct {
	arriving  atomic.Int64 // what is being written, and is in no repository or artifact yet
	artifacts *Storage     // nil: there are none
}

func (d *disk) beside() int64 {
	sum := d.arriving.Load()
	if d.artifacts != nil {
		sum += d.artifacts.bytes.Load()
	}
	return sum
}

// accountEvery is after how many bytes it is looked whether there is still room.
const accountEvery = 1 << 20

// accounted counts what is written, and makes room for it.
type accounted struct {
	to     io.Writer
	all    *Repositories
	keep   *entryOf // is not evicted for it
	factor int64    // how often it is on disk in the end
	n      int64
	next   int64 // when to look again
}

func (a *accounted) Write(p []byte) (int, error) {
	a.n += int64(len(p))
	a.all.disk.arriving.Add(a.factor * int64(len(p)))
	if a.n >= a.next {
		a.next = a.n + accountEvery
		if !a.all.evict(a.keep) {
			return 0, fail(fault.Transient, ReasonCacheStale, "there is no room on the disk of the cache").
				Fix("raise --cache-size and the size of its volume, or fetch fewer and smaller repositories")
		}
	}
	return a.to.Write(p)
}

// done ends the counting: from now on it counts where it is stored.
func (a *accounted) done() { a.all.disk.arriving.Add(-a.factor * a.n) }

// Share puts the artifacts under the bound of the repositories. It is called before either is used.
func (r *Repositories) Share(s *Storage) { r.disk.artifacts, s.beside = s, r }

// account lets the writer of an artifact be counted.
func (s *Storage) account(to io.Writer) (io.Writer, func()) {
	if s.beside == nil {
		return to, func() {}
	}
	a := &accounted{to: to, all: s.beside, factor: 1}
	return a, a.done
}

// count looks at how many bytes there are.
func (s *Storage) count() {
	var sum int64
	_ = fs.WalkDir(s.root.FS(), ".", func(_ string, d fs.DirEntry, err error) error {
		if err == nil && d.Type().IsRegular() {
			if info, err := d.Info(); err == nil {
				sum += info.Size()
			}
		}
		return nil
	})
	s.bytes.Store(sum)
}
