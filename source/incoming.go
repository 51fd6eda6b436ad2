package source

import (
	"context"
	"encoding/binary"
	"io"
	"os"

	"github.com/go-git/go-git/v5/plumbing"
	"github.com/go-git/go-git/v5/plumbing/format/packfile"
	"github.com/go-git/go-git/v5/storage/filesystem"

	"sealock.dev/sealock/fault"
)

// A pack is written to disk first, looked through, and only then given to the library. So the memory that a transfer takes
// follows the largest object, which is bounded, and not the size of the pack, nor what its headers claim.

// objectsPerFile is how many objects a pack may have for each file that a commit may have: there are folders and history.
const objectsPerFile = 10

// storeIncoming stores what a server sends to the entry.
func (r *repository) storeIncoming(ctx context.Context, store *filesystem.Storage, pack io.Reader, thin bool, e *entryOf) error {
	f, err := os.CreateTemp(r.dir, "incoming-*")
	if err != nil {
		return cacheFailure("the cache folder cannot be written", err)
	}
	defer func() {
		_ = f.Close()
		_ = os.Remove(f.Name())
	}()
	// For a moment it is there twice: as it came, and in the repository.
	counted := &accounted{to: f, all: e.all, keep: e, factor: 2}
	defer counted.done()
	if _, err := io.Copy(counted, pack); err != nil {
		return err
	}
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return cacheFailure("what the Git server sent cannot be read", err)
	}
	held, err := checkPack(ctx, f, e.all.limits)
	if err != nil {
		return err
	}
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return cacheFailure("what the Git server sent cannot be read", err)
	}
	release, err := e.all.memory.hold(ctx, held)
	if err != nil {
		return err
	}
	defer release()
	return storePack(store, &contextReader{ctx: ctx, from: f}, f, thin)
}

// checkPack looks through a pack without holding any object in memory, and says how much will be held to store it.
func checkPack(ctx context.Context, pack io.Reader, limits Limits) (held int64, err error) {
	unreadable := broken("the pack that the Git server sent cannot be read")
	defer func() {
		if recover() != nil { // the scanner is fed by strangers
			err = unreadable
		}
	}()
	s := packfile.NewScanner(pack)
	_, count, err := s.Header()
	if err != nil {
		return 0, unreadable
	}
	if int64(count) > int64(limits.Files)*objectsPerFile {
		return 0, fail(fault.Invalid, ReasonInvalid, "the repository has more objects than the limit").
			Fix("check out a branch or tag, or keep to %d files and folders in a repository", limits.Files)
	}
	var largest int64
	for range count {
		if ctx.Err() != nil {
			return 0, ctx.Err()
		}
		h, err := s.NextObjectHeader()
		if err != nil {
			return 0, unreadable
		}
		size := h.Length
		if h.Type == plumbing.OFSDeltaObject || h.Type == plumbing.REFDeltaObject {
			head := firstBytes{limit: 2 * binary.MaxVarintLen64}
			if size <= limits.Object {
				if _, _, err := s.NextObject(&head); err != nil {
					return 0, unreadable
				}
			}
			size = max(size, deltaTarget(head.kept))
		}
		if size > limits.Object || size < 0 {
			return 0, fail(fault.Invalid, ReasonInvalid, "a file of the repository is larger than can be handled").
				Fix("keep files under %d MiB; spec.ignore does not help, as Git sends all files of a commit", limits.Object>>20)
		}
		largest = max(largest, size)
	}
	if _, err := s.Checksum(); err != nil { // it reads the last object to its end
		return 0, unreadable
	}
	return timesObject*largest + perObject*int64(count), nil
}

// deltaTarget returns the size of what a delta makes: the second number in it.
func deltaTarget(head []byte) int64 {
	_, n := binary.Uvarint(head)
	if n <= 0 {
		return -1
	}
	size, n := binary.Uvarint(head[n:])
	if n <= 0 || size > 1<<62 {
		return 1 << 62
	}
	return int64(size)
}
