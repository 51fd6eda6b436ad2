package source

import (
	"bytes"
	"context"
	"errors"
	"io"
	"slices"
	"strings"

	"github.com/go-git/go-git/v5/plumbing"
	"github.com/go-git/go-git/v5/plumbing/object"

	"sealock.dev/sealock/fault"
)

// maxSigned bounds a commit or tag object that is verified: it is held in memory.
const maxSigned = 1 << 20

// signed is a Git object taken apart: what was signed, and the signature over it.
type signed struct {
	payload   []byte
	signature string // armored; "" when it is not signed
}

// commitSignature takes a commit object apart as Git does: the signature is a header, the payload everything else, byte
// for byte. It fails when a header that matters is there twice: then readers could differ in what was signed.
func commitSignature(raw []byte, tree plumbing.Hash) (signed, error) {
	var out signed
	var sig strings.Builder
	in, count := "", 0
	rest := raw
	for len(rest) > 0 && rest[0] != '\n' {
		line, after, _ := bytes.Cut(rest, []byte("\n"))
		rest = after
		text, more := bytes.CutPrefix(line, []byte(" "))
		if !more {
			name, value, _ := bytes.Cut(line, []byte(" "))
			in, text = string(name), value
			switch {
			case in == "gpgsig" && sig.Len() > 0:
				return signed{}, verdict("it has two signatures")
			case in == "tree":
				if count++; count > 1 || string(value) != tree.String() {
					return signed{}, verdict("it does not name its files once")
				}
			}
		}
		switch in {
		case "gpgsig":
			sig.Write(text)
			sig.WriteByte('\n')
		case "gpgsig-sha256": // of the same commit in the other format; not part of what is signed
		default:
			out.payload = append(append(out.payload, line...), '\n')
		}
	}
	if count != 1 || !bytes.HasPrefix(raw, []byte("tree ")) {
		return signed{}, verdict("it does not begin with its files")
	}
	out.payload = append(out.payload, rest...)
	out.signature = sig.String()
	return out, nil
}

// The first lines of signatures that Git knows.
var signatureStarts = []string{"-----BEGIN PGP SIGNATURE-----", "-----BEGIN PGP MESSAGE-----", "-----BEGIN SSH SIGNATURE-----"} //nolint:gochecknoglobals // a constant

// tagSignature takes a tag object apart: the signature is the end of the message. The tag must say that it is name and
// points to target: an old tag under a new name is not what was signed.
func tagSignature(raw []byte, name string, target plumbing.Hash) (signed, error) {
	headers, _, _ := bytes.Cut(raw, []byte("\n\n"))
	want := map[string]string{"object": target.String(), "tag": name}
	for line := range bytes.Lines(headers) {
		key, value, _ := strings.Cut(strings.TrimSuffix(string(line), "\n"), " ")
		expected, ok := want[key]
		if !ok {
			continue
		}
		if value != expected {
			return signed{}, verdict("the tag object was made for another name or commit")
		}
		want[key] = value
	}
	if bytes.Count(headers, []byte("\ntag ")) != 1 || !bytes.HasPrefix(headers, []byte("object ")) || bytes.Contains(headers, []byte("\nobject ")) {
		return signed{}, verdict("the tag object does not say once what it is and what it points to")
	}
	at := -1
	for _, start := range signatureStarts {
		if i := bytes.LastIndex(raw, []byte("\n"+start)); i >= 0 {
			at = max(at, i+1)
		}
	}
	if at < 0 {
		return signed{payload: raw}, nil
	}
	return signed{payload: raw[:at], signature: string(raw[at:])}, nil
}

// raw returns an object as it is stored.
func (r *repository) raw(t plumbing.ObjectType, h plumbing.Hash) ([]byte, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	size, err := r.sizeOf(h)
	if err == nil && size > maxSigned {
		err = errTooLarge
	}
	if err != nil {
		return nil, err
	}
	o, err := r.store.EncodedObject(t, h)
	if err != nil {
		return nil, err
	}
	body, err := o.Reader()
	if err != nil {
		return nil, err
	}
	defer func() { _ = body.Close() }()
	return io.ReadAll(io.LimitReader(body, maxSigned))
}

// Verified is what was found out about signatures.
type Verified struct {
	Mode Mode
	// What names what was verified, and with which keys.
	What string
}

// verify checks the signatures that are asked for.
func (v *Verify) verify(ctx context.Context, repo *repository, sel selection, c *object.Commit) (*Verified, error) {
	secret, err := v.Keys(ctx)
	if err != nil {
		return nil, err
	}
	keys, err := parseTrusted(secret)
	if err != nil {
		return nil, err
	}
	out := &Verified{Mode: v.Mode}
	var what []string
	if v.Mode != ModeHEAD {
		by, err := keys.tag(repo, sel)
		if err != nil {
			return nil, err
		}
		what = append(what, "tag '"+sel.label+"@"+sel.want.String()+"' with key '"+by+"'")
	}
	if v.Mode != ModeTag {
		by, err := keys.commit(repo, c)
		if err != nil {
			return nil, err
		}
		what = append(what, "commit '"+c.Hash.String()+"' with key '"+by+"'")
	}
	out.What = strings.Join(what, " and of ")
	return out, nil
}

func (t trusted) commit(repo *repository, c *object.Commit) (string, error) {
	raw, err := repo.raw(plumbing.CommitObject, c.Hash)
	var s signed
	if err == nil {
		s, err = commitSignature(raw, c.TreeHash)
	}
	if err == nil && s.signature == "" {
		err = verdict("it is not signed")
	}
	by := ""
	if err == nil {
		by, err = t.check(s)
	}
	if err != nil {
		return "", refused(ReasonCommitSignature, "signature verification of commit '"+c.Hash.String()+"' failed: ", err)
	}
	return by, nil
}

func (t trusted) tag(repo *repository, sel selection) (string, error) {
	if sel.want == sel.commit {
		return "", fail(fault.Denied, ReasonGitObject, "the tag '"+sel.label+"' is not annotated, so there is nothing that could be signed").At("spec.verify").
			Fix("make it with git tag --sign, or verify the commit with the mode HEAD")
	}
	o, err := repo.tagObject(sel.want)
	var s signed
	if err == nil {
		var raw []byte
		if raw, err = repo.raw(plumbing.TagObject, sel.want); err == nil {
			s, err = tagSignature(raw, sel.label, o.Target)
		}
	}
	if err == nil && s.signature == "" {
		err = verdict("it is not signed")
	}
	by := ""
	if err == nil {
		by, err = t.check(s)
	}
	if err != nil {
		return "", refused(ReasonTagSignature, "signature verification of tag '"+sel.label+"' failed: ", err)
	}
	return by, nil
}

func (r *repository) tagObject(h plumbing.Hash) (*object.Tag, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	t, err := object.GetTag(r.store, h)
	if err != nil {
		return nil, verdict("it cannot be read")
	}
	return t, nil
}

// verdict is an error whose text is ours and may be shown.
type verdict string

func (v verdict) Error() string { return string(v) }

func refused(reason Reason, what string, err error) error {
	why := "it cannot be read"
	var ours verdict
	switch {
	case errors.As(err, &ours):
		why = string(ours)
	case errors.Is(err, errTooLarge):
		why = "it is too large"
	}
	return fail(fault.Denied, reason, what+why).At("spec.verify").Fix("sign it with a key of the Secret in spec.verify.secretRef")
}

// rejects reports whether err says that the signature of the revision is not good, which is more than that it could not be
// looked at, and notes the revision in it.
func rejects(err error, revision string) bool {
	var f *failure
	if !errors.As(err, &f) || !slices.Contains([]Reason{ReasonCommitSignature, ReasonTagSignature, ReasonGitObject}, f.reason) {
		return false
	}
	f.revision = revision
	return true
}
