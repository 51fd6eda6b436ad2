package decrypt

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"slices"
	"strings"

	"sealock.dev/sealock/fault"
	"sealock.dev/sealock/manifest"
	"sealock.dev/sealock/plaintext"
)

// OpenSecrets returns the set with those payloads of Secrets opened that are SOPS files as a whole: somebody wrote them
// by hand, or a build brought them there on a way that nobody foresaw. The name of the payload says in which format it is
// wanted. What only mentions SOPS, or holds a SOPS file somewhere inside, stays as it is, and so does a Secret with the
// annotation kustomize.toolkit.fluxcd.io/decrypt: disabled. All that cannot be opened are reported; the others are open in
// the set that comes with the error.
func (f *Files) OpenSecrets(ctx context.Context, set []manifest.Object) ([]manifest.Object, error) {
	files := map[[sha256.Size]byte]*payloadFile{}
	var errs []error
	out := openPayloads(set, func(o manifest.Object, key string, data []byte, format format) (plaintext.Value, bool) {
		if ctx.Err() != nil {
			return plaintext.Value{}, false
		}
		v, err := f.openPayload(files, key, data, format)
		if err != nil {
			errs = append(errs, inPayload(o, key, err))
		}
		return v, err == nil
	})
	if ctx.Err() != nil {
		return nil, fault.New(fault.StageDecrypt, fault.Transient, fault.Ref{}, "stopped before all Secrets were opened")
	}
	return out, errors.Join(errs...)
}

// MaskSecrets returns the set with stands in place of every payload that OpenSecrets would open, for those who have no key.
func MaskSecrets(set []manifest.Object, stands plaintext.Value) []manifest.Object {
	return openPayloads(set, func(manifest.Object, string, []byte, format) (plaintext.Value, bool) { return stands, true })
}

// openPayloads puts what open returns in place of the payloads that are SOPS files.
func openPayloads(set []manifest.Object, open func(o manifest.Object, key string, data []byte, format format) (plaintext.Value, bool)) []manifest.Object {
	out := slices.Clone(set)
	for i, o := range set {
		if !o.IsSecret() || strings.EqualFold(o.Annotations()[optOut], "disabled") {
			continue
		}
		out[i] = o.OpenData(func(key string, v plaintext.Value) (plaintext.Value, bool) {
			data := v.Reveal()
			format := detectContent(data)
			if format == plain {
				return plaintext.Value{}, false
			}
			return open(o, key, data, format)
		})
	}
	return out
}

// payloadFile is a SOPS file that stands in one or more Secrets.
type payloadFile struct {
	sopsFile
	err error
}

// openPayload opens one payload. The same ciphertext is opened once, however many Secrets have it.
func (f *Files) openPayload(files map[[sha256.Size]byte]*payloadFile, key string, data []byte, format format) (v plaintext.Value, err error) {
	sum := sha256.Sum256(data)
	file := files[sum]
	if file == nil {
		file = &payloadFile{sopsFile: sopsFile{format: format}}
		files[sum] = file
		file.err = file.guarded(func() error {
			if err := f.unlock(&file.sopsFile, data, true); err != nil {
				return err
			}
			file.retype()
			return nil
		})
	}
	if file.err != nil {
		return v, file.err
	}
	err = file.guarded(func() error {
		whole, err := file.whole(formatOfKey(key))
		v = plaintext.New(whole)
		return err
	})
	return v, err
}

// inPayload makes an error about a file into one about the payload of a Secret. Where in the payload it is stays in the
// text.
func inPayload(o manifest.Object, key string, err error) error {
	var out []error
	for _, each := range fault.All(err) {
		c := *each
		if c.Field != "" {
			c.Err = fmt.Errorf("%s: %w", c.Field, c.Err)
		}
		if c.Ref.Line > 0 {
			c.Err = fmt.Errorf("line %d of the value: %w", c.Ref.Line, c.Err)
		}
		c.Ref, c.Field = o.Ref(), "data."+key
		out = append(out, &c)
	}
	return errors.Join(out...)
}
