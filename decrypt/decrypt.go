// Package decrypt opens SOPS files before the build reads them, and those that stand in the data of a Secret after it.
//
// It exists so that decrypted bytes never reach kustomize, a disk or an error: a file is decrypted in memory, its MAC is
// verified over the whole file, and every decrypted value is replaced by a token before anything else sees the file.
// What only the finished Secret shows to be a SOPS file becomes a value of that Secret and was never text.
// Keys come from the caller only. The package must not read the environment, a home directory or a key agent, start a
// program, use the network, or pass on the words of a library: those may quote a value.
//
// What the format of SOPS does not protect, and what therefore is not detected here: the names of keys that are not
// encrypted, bytes that move between neighbouring plain values, added keys with empty values, a type that changes from
// a number to a string, a narrower encrypted_regex that still covers every encrypted value, and the replay of an older
// or foreign file that was encrypted to the same recipient. The fence of the pipeline (decrypted values stay in Secrets),
// the recipients of a tenant and the policies bound what can be done with them.
package decrypt

import (
	"context"
	"errors"
	"io"
	"io/fs"

	"github.com/getsops/sops/v3/logging"

	"sealock.dev/sealock/fault"
	"sealock.dev/sealock/plaintext"
)

// Options say what is opened, and with what.
type Options struct {
	// Dir is the directory that will be built, relative to the root of the repository; "" is the root.
	Dir string
	// Components are further directories of the build, relative to Dir.
	Components []string
	// Keys open the files. The zero Keys open nothing.
	Keys Keys
	// Recipients, when not empty, are the only ones that a file may be encrypted to. Any other is refused before decryption.
	Recipients []string
	// Tenant refuses files whose MAC covers the encrypted values only, since their kind and name could be changed.
	Tenant bool
}

// Files opens the SOPS files of one build. It implements pipeline.FileOpener.
type Files struct{ opts Options }

// New returns a Files. It also silences the loggers of the sops library, which print to stderr.
func New(opts Options) *Files {
	for _, logger := range logging.Loggers {
		logger.SetOutput(io.Discard)
	}
	return &Files{opts: opts}
}

// OpenFiles returns files with every SOPS file that the build will read decrypted, values replaced by tokens.
// It follows the kustomization files below Dir to learn which files those are and how a generator takes them: whole,
// as lines, or as documents. All that cannot be opened are reported. A file that is read without having been foreseen
// is opened when it is read.
func (f *Files) OpenFiles(ctx context.Context, files fs.FS, tokens *plaintext.Tokens) (fs.FS, error) {
	s := survey(files, f.opts.Dir, f.opts.Components)
	v := &view{under: files, files: f, tokens: tokens, uses: s.uses, keys: s.keys, kept: s.kept, seen: map[string]result{}}
	errs := []error{s.conflict()}
	for _, name := range s.order {
		if err := ctx.Err(); err != nil {
			return nil, fault.New(fault.StageDecrypt, fault.Transient, fault.Ref{}, "stopped before all files were opened")
		}
		_, err := v.content(name)
		if err != nil && errors.As(err, new(*fault.Error)) {
			errs = append(errs, err)
		}
	}
	return v, errors.Join(errs...)
}
