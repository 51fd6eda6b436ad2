package source

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"

	"sealock.dev/sealock/fault"
	"sealock.dev/sealock/plaintext"
)

// Request says what to fetch, and what to make of it. Remote and Ref are enough; the zero value of the rest is off.
type Request struct {
	Remote Remote
	Ref    Ref
	// Ignore replaces the default excludes when it is not nil.
	Ignore *string
	// Sparse names the only folders that are of interest, relative to the root of the repository.
	Sparse []string
	// Submodules asks for the repositories that .gitmodules names, and theirs.
	Submodules bool
	// Includes are other trees that become part of this one.
	Includes []Include
	// Verify asks for signatures. A revision that does not pass is not handed out, now or by Open.
	Verify *Verify
	// Began is called once the revision is known and objects have to be asked for. It must not block for long.
	Began func(revision string)
}

// Include is (a part of) the tree of another owner, and where it goes. Who may include whom is the caller's to decide.
type Include struct {
	Tree   *Tree
	Digest string // what tells this content from another one: the digest of the artifact
	From   string // a folder or file of Tree; "" is its root
	To     string // must not exist in the repository
}

// Mode says whose signature counts.
type Mode string

// The modes, as in Flux's API.
const (
	ModeHEAD       Mode = "HEAD"
	ModeTag        Mode = "Tag"
	ModeTagAndHEAD Mode = "TagAndHEAD"
)

// Verify asks for signatures.
type Verify struct {
	Mode Mode
	// Keys returns the Secret with the public keys of those who are trusted: *.sshpub as in authorized_keys, all else is
	// OpenPGP. It is called only when a signature is looked at.
	Keys func(ctx context.Context) (map[string]plaintext.Value, error)
	// Again asks for it although this very commit, and tag, passed in this mode before.
	Again bool
}

// validate says whether the fields can mean anything.
func (q Request) validate() error {
	if _, err := q.Remote.parse(); err != nil {
		return err
	}
	if err := q.Remote.checkProvider(); err != nil {
		return err
	}
	if err := q.Ref.Validate(); err != nil {
		return err
	}
	if v := q.Verify; v != nil {
		if v.Mode != ModeHEAD && v.Mode != ModeTag && v.Mode != ModeTagAndHEAD {
			return fail(fault.Invalid, ReasonMode, "the mode of verification is not known").At("spec.verify.mode").Fix("use HEAD, Tag or TagAndHEAD")
		}
		if v.Mode != ModeHEAD && !q.Ref.byTag() {
			return fail(fault.Invalid, ReasonMode, "the signature of a tag can be verified only where a tag is checked out").At("spec.verify.mode").
				Fix("set spec.ref.tag or spec.ref.semver, and neither name nor commit, or use the mode HEAD")
		}
	}
	if _, err := cleanFolders(q.Sparse); err != nil {
		return err
	}
	for _, i := range q.Includes {
		if _, err := cleanInclude(i); err != nil {
			return err
		}
	}
	return nil
}

// shape tells apart what is made of one commit. "" is the commit as it is.
func (q Request) shape() string {
	if len(q.Sparse) == 0 && !q.Submodules && len(q.Includes) == 0 {
		return ""
	}
	type part struct{ Digest, From, To string }
	all := struct {
		Sparse     []string
		Submodules bool
		Includes   []part
	}{Sparse: q.Sparse, Submodules: q.Submodules}
	for _, i := range q.Includes {
		all.Includes = append(all.Includes, part{i.Digest, i.From, i.To})
	}
	text, _ := json.Marshal(all) // strings and a bool: it does not fail
	sum := sha256.Sum256(text)
	return hex.EncodeToString(sum[:])
}
