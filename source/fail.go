package source

import (
	"context"
	"crypto/x509"
	"errors"
	"net"
	"strings"

	"github.com/go-git/go-git/v5/plumbing/transport"

	"sealock.dev/sealock/fault"
)

// Reason says in one word why a source cannot be had, in the words that Flux users know from conditions.
type Reason string

// The reasons.
const (
	ReasonURL        Reason = "URLInvalid"
	ReasonAuth       Reason = "AuthenticationFailed"
	ReasonEmpty      Reason = "EmptyGitRepository"
	ReasonOperation  Reason = "GitOperationFailed"
	ReasonArchive    Reason = "ArchiveOperationFailed"
	ReasonInvalid    Reason = "InvalidPath"
	ReasonCacheStale Reason = "CacheOperationFailed"
	ReasonCopy       Reason = "CopyFailure"
	ReasonSymlink    Reason = "SymlinkUpdateFailed"

	ReasonCommitSignature Reason = "InvalidCommitSignature"
	ReasonTagSignature    Reason = "InvalidTagSignature"
	ReasonGitObject       Reason = "InvalidGitObject"
	ReasonVerification    Reason = "VerificationError"
	ReasonMode            Reason = "InvalidVerificationMode"
	ReasonProvider        Reason = "InvalidProviderConfiguration"
)

// failure is the cause of a fault of this package: fixed words and the reason.
type failure struct {
	reason Reason
	text   string
	broken bool // what is in the cache is not whole
	// revision is the one that verification refused.
	revision string
}

func (f *failure) Error() string { return f.text }

// ReasonOf returns the reason of a failure of this package; ReasonOperation when there is none.
func ReasonOf(err error) Reason {
	var f *failure
	if errors.As(err, &f) {
		return f.reason
	}
	return ReasonOperation
}

// RefusedRevision returns the revision whose signature is not good, "" when that is not what went wrong.
func RefusedRevision(err error) string {
	var f *failure
	if errors.As(err, &f) {
		return f.revision
	}
	return ""
}

// isBroken reports whether the cache has to be filled anew.
func isBroken(err error) bool {
	var f *failure
	return errors.As(err, &f) && (f.broken || f.reason == ReasonCacheStale)
}

// fail returns a classified error. text must not hold what a server sent.
func fail(kind fault.Kind, reason Reason, text string) *fault.Error {
	return &fault.Error{Stage: fault.StageSource, Kind: kind, Err: &failure{reason: reason, text: text}}
}

// inFile returns a classified error about a path in the repository.
func inFile(kind fault.Kind, path, text string) *fault.Error {
	e := fail(kind, ReasonInvalid, text)
	e.Ref = fault.Ref{File: path}
	return e
}

// cacheFailure reports that a file of the cache could not be read or written. The system's text holds only local paths.
func cacheFailure(what string, err error) *fault.Error {
	return fail(fault.Transient, ReasonCacheStale, what+": "+localCause(err))
}

// localCause returns what the operating system says, without the path, which is ours and tells the reader nothing.
func localCause(err error) string {
	var errno interface{ Temporary() bool }
	if errors.As(err, &errno) {
		if e, ok := errno.(error); ok {
			return e.Error()
		}
	}
	return "the cache folder cannot be used"
}

// classify turns what the transport says into a fault with words of our own. What a server sent is dropped: it may
// repeat credentials, and it is a stranger's text in our status.
func classify(ctx context.Context, err error) error {
	if err == nil {
		return nil
	}
	var own *fault.Error
	if errors.As(err, &own) {
		return own
	}
	switch {
	case errors.Is(ctx.Err(), context.DeadlineExceeded):
		return fail(fault.Transient, ReasonOperation, "the Git server did not answer in time").Fix("raise spec.timeout, or check that the server can be reached")
	case ctx.Err() != nil:
		return fail(fault.Transient, ReasonOperation, "the Git operation was cancelled")
	case errors.Is(err, transport.ErrAuthenticationRequired), errors.Is(err, transport.ErrAuthorizationFailed):
		return fail(fault.Denied, ReasonAuth, "the Git server refused the credentials (some servers say so of a repository that does not exist, too)").
			Fix("check spec.secretRef and its rights on the repository, and spec.url")
	case errors.Is(err, transport.ErrEmptyRemoteRepository):
		return fail(fault.NotFound, ReasonEmpty, "the Git repository is empty").Fix("push a first commit")
	case errors.Is(err, transport.ErrRepositoryNotFound):
		return fail(fault.NotFound, ReasonOperation, "the Git repository was not found").Fix("check spec.url, and the rights of the credentials")
	case errors.Is(err, errTooMuch):
		return fail(fault.Invalid, ReasonOperation, "the Git server sent more than the limit of a transfer").Fix("make the repository smaller, or raise the limit")
	}
	return network(err)
}

// network describes a failure below Git.
func network(err error) error {
	var unknown x509.UnknownAuthorityError
	var host x509.HostnameError
	var cert x509.CertificateInvalidError
	var dns *net.DNSError
	var op *net.OpError
	text, remedy := "the Git server answered in a way that is not understood", "check that spec.url is a Git repository; it is tried again"
	switch {
	case errors.As(err, &unknown):
		text, remedy = "the certificate of the Git server is signed by an unknown authority", "put its CA into ca.crt of the Secret in spec.secretRef"
	case errors.As(err, &host), errors.As(err, &cert):
		text, remedy = "the certificate of the Git server is not valid for it", "check spec.url and the certificate of the server"
	case errors.As(err, &dns):
		text, remedy = "the name of the Git server cannot be resolved", "check spec.url"
	case errors.As(err, &op) && (op.Op == "proxyconnect" || strings.HasPrefix(op.Op, "socks")):
		text, remedy = "the proxy cannot be reached, or refuses", "check the Secret in spec.proxySecretRef"
	case errors.As(err, &op) && op.Op == "dial":
		text, remedy = "the Git server cannot be reached", "check spec.url and that the network lets Sealock reach it"
	case errors.As(err, &op):
		text, remedy = "the connection to the Git server broke", "it is tried again"
	}
	return fail(fault.Transient, ReasonOperation, text).Fix("%s", remedy)
}
