package source

import (
	"archive/tar"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"io"
	"io/fs"
	"path"

	"sealock.dev/sealock/fault"
)

// WriteArtifact writes the tree as tar.gz, as Flux's consumers expect it: lexical order, a header for each folder (the
// first is "."), modes 0600, 0700 and 0750, no times, no owners, no symlinks. Equal trees make equal bytes. digest is
// "sha256:" and the hex of the stream, size its length in bytes.
func WriteArtifact(ctx context.Context, w io.Writer, t *Tree) (digest string, size int64, err error) {
	sum := sha256.New()
	count := &counter{to: io.MultiWriter(w, sum)}
	zip := gzip.NewWriter(count)
	out := &archive{ctx: ctx, tree: t, tar: tar.NewWriter(zip), left: t.limits.Artifact}
	if err := fs.WalkDir(t, ".", out.add); err != nil {
		return "", 0, artifactFault(err)
	}
	if err := out.tar.Close(); err != nil {
		return "", 0, artifactFault(err)
	}
	if err := zip.Close(); err != nil {
		return "", 0, artifactFault(err)
	}
	return "sha256:" + hex.EncodeToString(sum.Sum(nil)), count.n, nil
}

func artifactFault(err error) error {
	if len(fault.All(err)) > 0 {
		return fault.All(err)[0]
	}
	return fail(fault.Transient, ReasonArchive, "the artifact cannot be written: "+localCause(err))
}

type archive struct {
	ctx  context.Context //nolint:containedctx // it lives for one call
	tree *Tree
	tar  *tar.Writer
	left int64
}

// add is the fs.WalkDirFunc.
func (a *archive) add(name string, d fs.DirEntry, err error) error {
	if err != nil {
		return err
	}
	if err := a.ctx.Err(); err != nil {
		return fail(fault.Transient, ReasonArchive, "writing the artifact was interrupted").Fix("it is tried again")
	}
	if d.IsDir() {
		return a.tar.WriteHeader(&tar.Header{Typeflag: tar.TypeDir, Name: name, Mode: 0o750})
	}
	if !d.Type().IsRegular() {
		return nil
	}
	info, err := d.Info()
	if err != nil {
		return err
	}
	release, err := a.tree.repo.memory.hold(a.ctx, 2*min(info.Size(), a.tree.limits.Blob))
	if err != nil {
		return err
	}
	defer release()
	body, err := a.tree.ReadFile(name)
	if err != nil {
		return err
	}
	if a.left -= int64(len(body)); a.left < 0 {
		return fail(fault.Invalid, ReasonArchive, "the files of the repository are larger than the limit of an artifact").
			Fix("leave files out with spec.ignore; the limit is %d MiB", a.tree.limits.Artifact>>20)
	}
	if err := a.tar.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: path.Clean(name), Mode: int64(info.Mode().Perm()), Size: int64(len(body))}); err != nil {
		return err
	}
	_, err = a.tar.Write(body)
	return err
}

// counter counts what goes through.
type counter struct {
	to io.Writer
	n  int64
}

func (c *counter) Write(p []byte) (int, error) {
	n, err := c.to.Write(p)
	c.n += int64(n)
	return n, err
}
